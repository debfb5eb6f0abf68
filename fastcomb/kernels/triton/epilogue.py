"""What a layer's kernel does to its sums before they are written."""

# mypy: ignore-errors
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Activations that kernels apply, by the names that programs have for them ("gelu tanh": approximated).
ACTIVATIONS = ("", "relu", "gelu", "gelu tanh", "silu")


class Epilogue(NamedTuple):
    """activation(sums · scale + shift + residual).

    Attributes:
        scale, shift: float32 [K, O], or None.
        residual: of the result's shape and the inputs' dtype, or None.
        activation: one of :data:`ACTIVATIONS`.
        dtype: of the result; the inputs' if None.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    residual: Tensor | None = None
    activation: str = ""
    dtype: torch.dtype | None = None

    def pointers(self, nothing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, shift and residual, with something in the place of what is missing."""
        parts = (self.scale, self.shift, self.residual)
        scale, shift, residual = (nothing if part is None else part.contiguous() for part in parts)
        return scale, shift, residual

    def flags(self) -> dict[str, bool | str]:
        """The kernels' constants."""
        return {
            "SCALE": self.scale is not None,
            "SHIFT": self.shift is not None,
            "RESIDUAL": self.residual is not None,
            "ACTIVATION": self.activation,
        }


@triton.jit
def finish(
    total, scale, shift, residual, at, inside, o, outputs,
    SCALE: tl.constexpr, SHIFT: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Sums [BM, BN] with the epilogue applied; scale and shift are one combination's."""
    if SCALE:
        total *= tl.load(scale + o, mask=o < outputs, other=0.0)[None, :]
    if SHIFT:
        total += tl.load(shift + o, mask=o < outputs, other=0.0)[None, :]
    if RESIDUAL:
        total += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION == "relu":
        # as torch.relu, which keeps NaN
        total = tl.where(total < 0.0, 0.0, total)
    elif ACTIVATION == "gelu":
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    elif ACTIVATION == "gelu tanh":
        inner = 0.7978845608028654 * (total + 0.044715 * total * total * total)
        total = total * tl.sigmoid(tl.maximum(2.0 * inner, -87.0))  # where exp does not overflow
    elif ACTIVATION == "silu":
        total = total * tl.sigmoid(tl.maximum(total, -87.0))
    return total
