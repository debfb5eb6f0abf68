"""Names of dtypes, as records, Programs and compiled code write them."""

from __future__ import annotations

import torch


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype's name without torch's: "float32"."""
    return str(dtype).removeprefix("torch.")
