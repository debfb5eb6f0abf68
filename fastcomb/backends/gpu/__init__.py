"""The GPU backend: a Program over batches of combinations, its layers in Triton kernels."""

from fastcomb.backends.gpu.engine import Triton

__all__ = ["Triton"]
