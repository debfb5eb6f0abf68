"""Progress bars."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def hidden(progress: bool | None) -> bool | None:
    """tqdm's ``disable`` for ``progress=``: with None a bar shows when standard error is a terminal."""
    return None if progress is None else not progress


def bar(total: int, unit: str, progress: bool | None) -> tqdm[Any]:
    """A progress bar, shown as :func:`hidden` says."""
    return tqdm(total=total, unit=unit, disable=hidden(progress))
