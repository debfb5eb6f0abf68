"""The GPU backends: a Program over batches, layer by layer in Triton; narrow networks in one kernel."""

from fastcomb.backends.gpu.engine import Triton
from fastcomb.backends.gpu.fused import Fused

__all__ = ["Fused", "Triton"]
