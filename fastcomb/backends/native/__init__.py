"""The compiled CPU engine: a Program lowered to instructions that csrc/ executes."""

from fastcomb.backends.native import contract, normalise, pointwise, reduce  # register what they lower
from fastcomb.backends.native.engine import Native
from fastcomb.backends.native.instructions import Unsupported

__all__ = ["Native", "Unsupported", "contract", "normalise", "pointwise", "reduce"]
