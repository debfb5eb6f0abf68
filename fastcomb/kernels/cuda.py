"""The extension with kernels in CUDA C++, if it was built; the same code on the host, for tests."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastcomb.kernels import native
from fastcomb.kernels.operands import Laws, Mixed
from fastcomb.utils.notice import notify

#: Compute dtypes of the kernels.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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


def parameter(module: ModuleType, mixed: Mixed) -> Any:
    """A mixed parameter as the kernels take it."""
    a, others = mixed.a.contiguous(), mixed.others.contiguous()
    return module.Mixed(a=a, others=others, unit=mixed.unit[0], sharing=mixed.sharing)


def mix(module: ModuleType, index: Tensor, mixed: Mixed, laws: Laws, dtype: torch.dtype) -> Tensor:
    """One parameter of each of K combinations: [K, *a.shape]."""
    out = torch.empty((len(index), *mixed.a.shape), dtype=dtype, device=index.device)
    if out.numel():
        with torch.cuda.device_of(index):
            module.mix(
                laws=native.laws(laws, module),
                seed=laws.seed,
                parameter=parameter(module, mixed),
                index=index.contiguous(),
                out=out,
                stream=stream(index.device),
            )
    return out


def stream(device: torch.device) -> int:
    """Address of the stream that torch's operations on a device are queued on."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
