"""The warning that says when something runs another way than expected, once per cause."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])
_told: set[str] = set()


class BackendNotice(UserWarning):
    """Something runs another way than asked or expected; says why. Results are not affected."""


def notify(message: str) -> None:
    """Warn of a standing circumstance: once in a process for every message.

    Python's own once-only registry is forgotten whenever anybody enters ``warnings.catch_warnings``, as
    torch does on every export. The warning points at the line outside fastcomb that led here.
    """
    if message in _told:
        return
    _told.add(message)
    warn(message)


def warn(message: str) -> None:
    """Warn of an event, such as an interruption, every time."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, BackendNotice, stacklevel=level)


def forget() -> None:
    """Let every message be told again, as in a new process."""
    _told.clear()
