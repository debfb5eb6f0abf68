"""Progress bars."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def bar(total: int, unit: str, progress: bool | None) -> tqdm[Any]:
    """A progress bar; with None it shows when standard error is a terminal."""
    return tqdm(total=total, unit=unit, disable=None if progress is None else not progress)
