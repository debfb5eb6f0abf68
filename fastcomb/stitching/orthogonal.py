"""Stitching layers that keep lengths and angles."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from fastcomb.stitching.layer import StitchingLayer, parameter, sizes


class Orthogonal(StitchingLayer):
    """Q exp(A − Aᵀ): orthogonal whatever A is; rows or columns of one where the widths differ.

    Args:
        base: Q, orthogonal, [n, n] with n the larger number of channels.
        outputs, inputs: numbers of channels; the first rows and columns are used.
        bias: [outputs].

    Example:
        >>> m = fc.stitching.Orthogonal.nearest(torch.randn(3, 3), torch.zeros(3)).matrix()
        >>> torch.allclose(m @ m.T, torch.eye(3), atol=1e-5)
        True
    """

    kind: ClassVar[str] = "orthogonal"

    def __init__(self, base: Tensor, outputs: int, inputs: int, bias: Tensor, **places: Any) -> None:
        super().__init__(**places)
        sizes(base[:outputs, :inputs], bias, self.kind)
        self.base: Tensor
        self.register_buffer("base", base.detach().to(torch.get_default_dtype()))
        self.generator = parameter(torch.zeros_like(base))
        self.bias = parameter(bias)
        self._shape = outputs, inputs

    @classmethod
    def nearest(cls, weight: Tensor, bias: Tensor, **places: Any) -> Self:
        """The orthogonal factor of the polar decomposition (Schönemann, Psychometrika, 1966)."""
        outputs, inputs = weight.shape
        count = max(outputs, inputs)
        square = torch.zeros(count, count, dtype=torch.float64)
        square[:outputs, :inputs] = weight.detach()
        u, _, v = torch.linalg.svd(square)
        return cls(u @ v, outputs, inputs, bias, **places)

    def matrix(self) -> Tensor:
        """The first rows and columns of Q exp(A − Aᵀ), [outputs, inputs]."""
        outputs, inputs = self._shape
        rotation: Tensor = self.base @ torch.linalg.matrix_exp(self.generator - self.generator.mT)
        return rotation[:outputs, :inputs]

    def options(self) -> dict[str, Any]:
        """``outputs`` and ``inputs``, of which Q tells the larger only."""
        return dict(zip(("outputs", "inputs"), self._shape, strict=True))
