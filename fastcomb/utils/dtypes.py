"""Names of dtypes, as records, Programs and compiled code write them."""

from __future__ import annotations

import torch


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype's name without torch's: "float32"."""
    return str(dtype).removeprefix("torch.")


def narrowed(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Floating-point values in a dtype, those beyond its range as its extremes; infinities stay."""
    limits = torch.finfo(dtype)
    within = tensor.clamp(limits.min, limits.max) if limits.max < torch.finfo(tensor.dtype).max else tensor
    return torch.where(torch.isinf(tensor), tensor, within).to(dtype)
