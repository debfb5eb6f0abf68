"""Kernels in Triton: weights generated where they are used, on CUDA devices.

``mix`` writes the weights of combinations to memory, ``mixed_linear`` generates weight tiles and feeds them
to the matrix units, ``implicit_gemm`` runs layers whose weights were written before, and ``score`` ends
with the loss. Where TRITON_INTERPRET=1 was set before they were first imported they run in Triton's
interpreter, on CPU tensors: so they are tested without a GPU.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from types import ModuleType

import torch

#: Compute dtypes of the kernels.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def installed() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def serves(device: torch.device, x: torch.Tensor | None = None) -> bool:
    """Whether these kernels run on a device; on a layer's input ``x`` there, if given."""
    if device.type != "cuda" or not installed():
        return False
    return x is None or (x.dtype in DTYPES and 0 < x.numel() < 1 << 31)


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter, on CPU tensors."""
    return installed() and os.environ.get("TRITON_INTERPRET") == "1"


def load() -> ModuleType:
    """The module with the kernels; imports Triton, which takes a second."""
    return importlib.import_module("fastcomb.kernels.triton.kernels")
