"""The compiled extension, if it was built, and the instruction level that runs."""

from __future__ import annotations

import functools
import os
import warnings
from types import ModuleType

from fastcomb.backends.base import BackendNotice

#: Forces an instruction level: "portable", "avx2", "avx512" or "avx512_bf16".
LEVEL_VARIABLE = "FASTCOMB_LEVEL"


@functools.cache
def extension() -> ModuleType | None:
    """The extension module; None, after one notice, where it was not built."""
    try:
        from fastcomb import _native
    except ImportError as error:
        warnings.warn(
            f"fastcomb's compiled engine is not there ({error}), so everything runs on torch alone, several times "
            "slower; install with a C++17 compiler (GCC or Clang) to have it",
            BackendNotice,
            stacklevel=2,
        )
        return None
    return _native


def level() -> str:
    """Instruction level in use: the best this processor has, or what FASTCOMB_LEVEL asks for.

    Raises:
        ValueError: FASTCOMB_LEVEL names a level that this processor does not have.
    """
    module = extension()
    if module is None:
        return "none"
    levels: list[str] = module.levels()
    wanted = os.environ.get(LEVEL_VARIABLE)
    if not wanted:
        return levels[0]
    if wanted not in levels:
        raise ValueError(f"{LEVEL_VARIABLE}={wanted!r}: this processor has {', '.join(levels)}")
    return wanted
