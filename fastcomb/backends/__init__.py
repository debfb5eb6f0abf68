"""Ways to run combinations: the torch reference today; compiled engines go beside it."""

from __future__ import annotations

from fastcomb.backends.base import Backend, BackendNotice, Score, Scores, Sums
from fastcomb.backends.torch_reference import TorchReference

__all__ = ["Backend", "BackendNotice", "Score", "Scores", "Sums", "TorchReference", "find"]

_BACKENDS = {TorchReference.name: TorchReference}


def find(name: str) -> type[TorchReference]:
    """The backend called ``name``; "auto" is the fastest that there is.

    Raises:
        ValueError: unknown name.
    """
    if name == "auto":
        return TorchReference
    if name not in _BACKENDS:
        known = ", ".join(repr(known) for known in ("auto", *_BACKENDS))
        raise ValueError(f"backend={name!r} is none of {known}")
    return _BACKENDS[name]
