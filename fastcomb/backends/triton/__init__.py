"""The GPU backend: a Program over batches of combinations, its layers in Triton kernels."""

from fastcomb.backends.triton.engine import Triton

__all__ = ["Triton"]
