"""The extension with kernels in CUDA C++, if it was built; the same code on the host, for tests."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastcomb.kernels import native
from fastcomb.kernels.native import address
from fastcomb.kernels.operands import Laws, Mixed
from fastcomb.utils.notice import notify

#: Compute dtypes, by the numbers that the kernels have for them.
NUMBERS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@functools.cache
def built() -> ModuleType | None:
    """The extension; None where it was not built."""
    try:
        return importlib.import_module("fastcomb._cuda")
    except ImportError:
        return None


@functools.cache
def extension() -> ModuleType | None:
    """The extension; None, after one notice, where it was not built."""
    if built() is None:
        why = native.why_missing("_cuda")
        notify(
            f"fastcomb's kernels in CUDA C++ were not built{f' ({why})' if why else ''}, so narrow networks "
            "run layer by layer, several times slower; "
            "reinstall where there is an nvcc, with FASTCOMB_CUDA=1, to have them"
        )
    return built()


def able(device: torch.device) -> bool:
    """Whether a device can run what the extension was compiled for."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def kernels(device: torch.device) -> ModuleType | None:
    """What runs the kernels on tensors of a device: the extension, or their code on the host."""
    if device.type == "cuda":
        return extension() if able(device) else None
    compiled = native.extension() if device.type == "cpu" else None
    return compiled.host if compiled else None


def laws(given: Laws) -> list[tuple[Any, ...]]:
    """Laws as the kernels take them; the tables must outlive them."""
    _, _, bits, ends = given.draw
    found = []
    for step, table in enumerate(given.tables):
        kind, low, span, threshold = given.rules[4 * step : 4 * step + 4]
        place = address(table, torch.float32, device=table.device)
        found.append((int(kind), bits, bool(ends), low, span, int(threshold), place))
    return found


def parameter(mixed: Mixed | None) -> tuple[int, ...]:
    """A mixed parameter, contiguous, as the kernels take it; the tensors must outlive it."""
    if mixed is None:
        return (0, 0, 0, 0, 1, 0)
    a, others, unit = mixed
    count = a.numel()
    row = count // (a.shape[0] if a.ndim else 1)
    places = (
        address(a, torch.float32, device=a.device),
        address(others, torch.float32, (len(others), *a.shape), a.device),
    )
    return (*places, unit[0], count, max(row, 1), native.sharing(unit, count))


def mix(module: ModuleType, index: Tensor, mixed: Mixed, given: Laws, dtype: torch.dtype) -> Tensor:
    """One parameter of each of K combinations: [K, *a.shape]."""
    ready = Mixed(mixed.a.contiguous(), mixed.others.contiguous(), mixed.unit)
    out = torch.empty((len(index), *mixed.a.shape), dtype=dtype, device=index.device)
    if out.numel():
        index = index.contiguous()
        numbers = NUMBERS[dtype], native.seed(given.draw), laws(given), parameter(ready)
        with torch.cuda.device_of(index):
            place = address(index, torch.int64, device=index.device)
            module.mix(*numbers, place, len(index), out.data_ptr(), stream(index.device))
    return out


def stream(device: torch.device) -> int:
    """Address of the stream that torch's operations on a device are queued on."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
