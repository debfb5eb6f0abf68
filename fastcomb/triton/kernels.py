"""The kernels' entry points."""

from fastcomb.triton.linear import mixed_linear
from fastcomb.triton.mix import mix

__all__ = ["mix", "mixed_linear"]
