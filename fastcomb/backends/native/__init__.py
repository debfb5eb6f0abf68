"""The compiled CPU engine: a Program lowered to instructions that csrc/ executes."""

from fastcomb.backends.native import (  # register what they lower
    attention,
    gather,
    matmul,
    normalise,
    pointwise,
    products,
    reduce,
    resample,
    volumes,
)
from fastcomb.backends.native.engine import Native

__all__ = [
    "Native",
    "attention",
    "gather",
    "matmul",
    "normalise",
    "pointwise",
    "products",
    "reduce",
    "resample",
    "volumes",
]
