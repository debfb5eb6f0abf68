"""Errors in one line. Imports nothing that is slow to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])


def told(error: BaseException) -> str:
    """An error in one line, with its kind unless it is one of fastcomb's own, which say enough."""
    message = " ".join(str(error).split())
    return message if message and _ours(error) else f"{type(error).__name__}: {message}".removesuffix(": ")


def _ours(error: BaseException) -> bool:
    """Whether an error was raised by fastcomb and not by what it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE)


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Have errors that are not fastcomb's own say what they are about.

    Raises:
        ValueError: in place of them.
    """
    try:
        yield
    except Exception as error:
        if _ours(error):
            raise
        raise ValueError(f"{what}: {told(error)}") from error
