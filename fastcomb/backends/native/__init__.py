"""The compiled CPU engine: a Program lowered to instructions that csrc/ executes."""

from fastcomb.backends.native import matmul, normalise, pointwise, reduce  # register what they lower
from fastcomb.backends.native.engine import Native

__all__ = ["Native", "matmul", "normalise", "pointwise", "reduce"]
