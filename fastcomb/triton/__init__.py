"""Kernels in Triton: weights generated where they are used, on CUDA devices.

``mix`` writes the weights of combinations to memory; ``mixed_linear`` generates weight tiles in registers and
feeds them to the matrix units. Where TRITON_INTERPRET=1 was set before they were first imported they run in
Triton's interpreter, on CPU tensors: so they are tested without a GPU.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType

import torch


@functools.cache
def installed() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def serves(device: torch.device) -> bool:
    """Whether these kernels run on tensors of a device."""
    return device.type == "cuda" and installed()


def kernels() -> ModuleType:
    """The module with the kernels; imports Triton, which takes a second."""
    return importlib.import_module("fastcomb.triton.kernels")
