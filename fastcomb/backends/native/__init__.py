"""The compiled CPU engine: a Program lowered to instructions that csrc/ executes."""

from fastcomb.backends.native.engine import Native
from fastcomb.backends.native.lower import Unsupported

__all__ = ["Native", "Unsupported"]
