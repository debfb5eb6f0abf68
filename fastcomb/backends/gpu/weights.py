"""The weights of a group of combinations, generated when they are first needed, in the kernels' forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fastcomb.kernels import triton
from fastcomb.mixing import Mixture
from fastcomb.program import Node, Weight


class Weights:
    """Weights of combinations ``index`` [G].

    Args:
        mixture: the networks.
        dtype: compute dtype.
        index: int64 [G].
        statistics: running means and variances by name, [G, C], or [C] where all share them.
    """

    def __init__(
        self, mixture: Mixture, dtype: torch.dtype, index: Tensor, statistics: Mapping[str, Tensor]
    ) -> None:
        self.mixture, self.dtype, self.index = mixture, dtype, index
        self.statistics = statistics
        self._kernels = triton.load()
        self._known: dict[tuple[str, str], Tensor] = {}
        self._affine: dict[str, tuple[Tensor, Tensor]] = {}

    def values(self, name: str) -> Tensor:
        """A parameter [G, ...] in the compute dtype."""
        mixed, laws = self.mixture.mixed(name), self.mixture.law_arguments
        return self._once("values", name, lambda: self._kernels.mix(self.index, mixed, laws, self.dtype))

    def linear(self, name: str) -> Tensor:
        """The weight of a linear layer as ``implicit_gemm`` reads it."""
        return self._layer("linear", name)

    def conv2d(self, name: str) -> Tensor:
        """The weight of a convolution as ``implicit_gemm`` reads it."""
        return self._layer("conv2d", name)

    def vector(self, weight: Weight) -> Tensor:
        """A bias or a norm's weight [G, C] as float32, rounded to the compute dtype."""
        return self.values(weight.name).float()

    def scale_and_shift(self, norm: Node, bias: Weight | None = None) -> tuple[Tensor, Tensor]:
        """A batch norm with its running statistics, after a bias: float32 [G, C] each."""
        if norm.name not in self._affine:
            mean, variance = (
                self.statistics[norm.arguments[key].name].float() for key in ("running_mean", "running_var")
            )
            self._affine[norm.name] = self.affine(norm, mean, variance, bias, slice(None))
        return self._affine[norm.name]

    def affine(
        self, norm: Node, mean: Tensor, variance: Tensor, bias: Weight | None, part: slice
    ) -> tuple[Tensor, Tensor]:
        """A batch norm of ``part`` with these statistics, after a bias: float32 [k, C] each."""
        gamma, beta, before = (
            None if weight is None else self.vector(weight)[part]
            for weight in (norm.arguments["weight"], norm.arguments["bias"], bias)
        )
        scale = torch.rsqrt(variance + norm.arguments["eps"]).expand(len(self.index[part]), -1)
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale if before is None else (before - mean) * scale
        return scale.contiguous(), shift if beta is None else shift + beta

    def _layer(self, form: str, name: str) -> Tensor:
        generate = {"linear": self._kernels.linear_weights, "conv2d": self._kernels.conv2d_weights}[form]
        mixed, laws = self.mixture.mixed(name), self.mixture.law_arguments
        return self._once(form, name, lambda: generate(self.index, mixed, laws, self.dtype))

    def _once(self, form: str, name: str, make: Callable[[], Tensor]) -> Tensor:
        if (form, name) not in self._known:
            self._known[form, name] = make().contiguous()
        return self._known[form, name]
