"""The kernels' entry points."""

from fastcomb.kernels.triton.epilogue import ACTIVATIONS, Epilogue
from fastcomb.kernels.triton.generated_linear import mixed_linear
from fastcomb.kernels.triton.implicit_gemm import Geometry, implicit_gemm
from fastcomb.kernels.triton.layers import (
    conv2d,
    conv2d_weights,
    generates,
    linear,
    linear_weights,
    ready_linear,
    vectors,
)
from fastcomb.kernels.triton.loss import score
from fastcomb.kernels.triton.mix import mix

__all__ = [
    "ACTIVATIONS",
    "Epilogue",
    "Geometry",
    "conv2d",
    "conv2d_weights",
    "generates",
    "implicit_gemm",
    "linear",
    "linear_weights",
    "mix",
    "mixed_linear",
    "ready_linear",
    "score",
    "vectors",
]
