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

from fastcomb.utils.notice import notify

#: Forces an instruction level: "portable", "avx2", "avx512" or "avx512_bf16".
LEVEL_VARIABLE = "FASTCOMB_LEVEL"
#: Compute dtypes, by the numbers the extension has for their storage.
STORAGE = {torch.float32: 0, torch.bfloat16: 1}
#: How a unit's draws are shared, likewise.
ELEMENT, ROW, ALL = range(3)

CPU = torch.device("cpu")


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


def level() -> str:
    """Instruction level in use: the best this processor has, or what FASTCOMB_LEVEL asks for.

    "none" without the extension.

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


def laws(tables: Tensor, rules: list[float], draw: list[int]) -> list[Any]:
    """Laws as the extension takes them, from arguments of ``fastcomb::mix``; the tables must outlive them."""
    made = []
    for step, table in enumerate(tables):
        kind, low, span, threshold = rules[4 * step : 4 * step + 4]
        made.append(
            _module().Law(
                int(kind), draw[2], bool(draw[3]), low, span, int(threshold), address(table, torch.float32)
            )
        )
    return made


def address(
    tensor: Tensor | None,
    dtype: torch.dtype,
    shape: tuple[int, ...] | None = None,
    device: torch.device = CPU,
) -> int:
    """Where a tensor's values start, for the extension; 0 for None.

    Every tensor that crosses into compiled code passes here.

    Raises:
        ValueError: it is not what the extension is about to read or write: another dtype or shape, not in
            row-major order, or on another device.
    """
    if tensor is None:
        return 0
    if tensor.device != device or tensor.dtype != dtype or not tensor.is_contiguous():
        raise ValueError(
            f"a {'contiguous' if tensor.is_contiguous() else 'strided'} tensor of {tensor.dtype} on "
            f"{tensor.device} where a contiguous one of {dtype} on {device} is needed"
        )
    if shape is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} where {shape} is needed")
    return tensor.data_ptr()


def seed(draw: list[int]) -> int:
    """The stream's seed in the argument ``draw`` of the operator ``mix``."""
    return draw[0] | draw[1] << 32


def sharing(unit: list[int], elements: int) -> int:
    """How a unit's draws serve a parameter of so many elements."""
    _, count, per_row = unit
    return ROW if per_row else ELEMENT if count == elements else ALL


def coefficients(index: int, law: Any, seed: int, unit: int, count: int) -> Tensor:
    """Coefficients of one unit of one combination: float32 [count]."""
    out = torch.empty(count)
    _module().coefficients(level(), law, seed, unit, index, count, out.data_ptr())
    return out


def mix(
    indices: list[int],
    a: Tensor,
    others: Tensor,
    laws: list[Any],
    *,
    seed: int,
    unit: list[int],
    dtype: torch.dtype,
) -> Tensor:
    """One parameter of each of K combinations: [K, *a.shape]; a and others are contiguous float32."""
    out = torch.empty((len(indices), *a.shape), dtype=dtype if dtype in STORAGE else torch.float32)
    rows = a.shape[0] if a.ndim else 1
    if out.numel():
        _module().mix(
            level(),
            laws,
            seed,
            unit[0],
            indices,
            sharing(unit, a.numel()),
            unit[1],
            address(a, torch.float32),
            address(others, torch.float32, (len(laws), *a.shape)),
            rows,
            a.numel() // rows,
            STORAGE[out.dtype],
            out.data_ptr(),
            torch.get_num_threads(),
        )
    return out.to(dtype)


def _module() -> ModuleType:
    module = extension()
    assert module is not None
    return module
