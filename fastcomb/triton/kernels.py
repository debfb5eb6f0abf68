"""The kernels' entry points."""

from fastcomb.triton.contract import Geometry, contract
from fastcomb.triton.epilogue import ACTIVATIONS, Epilogue
from fastcomb.triton.layers import (
    conv2d,
    conv2d_weights,
    generates,
    linear,
    linear_weights,
    ready_linear,
    vectors,
)
from fastcomb.triton.linear import mixed_linear
from fastcomb.triton.mix import mix
from fastcomb.triton.score import score

__all__ = [
    "ACTIVATIONS",
    "Epilogue",
    "Geometry",
    "contract",
    "conv2d",
    "conv2d_weights",
    "generates",
    "linear",
    "linear_weights",
    "mix",
    "mixed_linear",
    "ready_linear",
    "score",
    "vectors",
]
