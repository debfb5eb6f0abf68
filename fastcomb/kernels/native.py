"""The compiled extension, if it was built: which instruction level runs, and generation with it."""

from __future__ import annotations

import functools
import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastcomb.kernels.operands import Laws, Mixed
from fastcomb.utils.notice import notify

#: Forces an instruction level: "portable", "avx2", "avx512" or "avx512_bf16".
LEVEL_VARIABLE = "FASTCOMB_LEVEL"
#: Compute dtypes of the engine.
DTYPES = (torch.float32, torch.bfloat16)


@functools.cache
def extension() -> ModuleType | None:
    """The extension module; None, after one notice, where it was not built."""
    try:
        return importlib.import_module("fastcomb._native")
    except ImportError as error:
        notify(
            f"fastcomb's compiled engine is missing ({why_missing('_native') or error}), so everything "
            "runs on torch alone, several times slower; "
            "reinstall where there is a C++17 compiler (GCC or Clang) to have it"
        )
        return None


def why_missing(name: str) -> str | None:
    """Why an extension was not built, as setup.py left it written; None where it was built or not wanted."""
    note = Path(__file__).parents[1] / f"{name}.missing"
    return note.read_text("utf-8").strip() if note.exists() else None


def serves(device: torch.device) -> bool:
    """Whether the compiled kernels run on tensors of a device."""
    return device.type == "cpu" and extension() is not None


def cpu_capability() -> str:
    """Instruction level in use: the best this processor has, or what FASTCOMB_LEVEL asks for.

    "none" without the extension.

    Raises:
        ValueError: FASTCOMB_LEVEL names a level that this processor does not have.
    """
    module = extension()
    if module is None:
        return "none"
    levels: list[str] = module.levels()
    level = os.environ.get(LEVEL_VARIABLE)
    if not level:
        return levels[0]
    if level not in levels:
        raise ValueError(f"{LEVEL_VARIABLE}={level!r}: this processor has {', '.join(levels)}")
    return level


def laws(arguments: Laws, module: ModuleType | None = None) -> list[Any]:
    """Laws as an extension takes them (this one's, if no other is named)."""
    make = (module or _module()).Law
    return [
        make(
            kind=rule.kind,
            bits=arguments.bits,
            ends=arguments.ends,
            low=rule.low,
            range=rule.span,
            threshold=rule.threshold,
            table=table,
        )
        for rule, table in zip(arguments.steps, arguments.tables, strict=True)
    ]


def coefficients(index: int, law: Any, seed: int, unit: int, count: int) -> Tensor:
    """Coefficients of one unit of one combination: float32 [count]."""
    out = torch.empty(count)
    _module().coefficients(level=cpu_capability(), law=law, seed=seed, unit=unit, index=index, out=out)
    return out


def mix(indices: list[int], mixed: Mixed, arguments: Laws, dtype: torch.dtype) -> Tensor:
    """One parameter of each of K combinations: [K, *a.shape]."""
    a, others, unit = mixed
    out = torch.empty((len(indices), *a.shape), dtype=dtype if dtype in DTYPES else torch.float32)
    _module().mix(
        level=cpu_capability(),
        laws=laws(arguments),
        seed=arguments.seed,
        unit=unit[0],
        index=indices,
        sharing=mixed.sharing,
        draws=unit[1],
        a=a.contiguous(),
        others=others.contiguous(),
        out=out,
        threads=torch.get_num_threads(),
    )
    return out.to(dtype)


def match(similarity: Tensor) -> Tensor:
    """The permutation of largest similarity for each matrix: [count, n, n] → int64 [count, n].

    Args:
        similarity: float32 or float64, finite.
    """
    columns = torch.empty(similarity.shape[:2], dtype=torch.int64)
    _module().match(level=cpu_capability(), similarity=similarity.contiguous(), columns=columns)
    return columns


def _module() -> ModuleType:
    module = extension()
    assert module is not None
    return module
