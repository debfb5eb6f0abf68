"""Stitching layers that pair channels: permutations, hard, scaled and soft."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from fastcomb.rebasin.assignment import assign
from fastcomb.rebasin.sinkhorn import sinkhorn
from fastcomb.stitching.layer import StitchingLayer, parameter, sizes

#: Logits of a soft permutation next to a map reach from −SHARPNESS to SHARPNESS.
_SHARPNESS = 4.0


class Permutation(StitchingLayer):
    """Channel j of the result is channel ``index[j]`` of what comes in; no channel is used twice.

    Args:
        index: int64 [outputs], different numbers below ``inputs``.
        inputs: number of channels that come in.

    Example:
        >>> layer = fc.stitching.Permutation(torch.tensor([2, 0, 1]), 3)
        >>> layer(torch.tensor([[10.0, 20.0, 30.0]])).tolist()
        [[30.0, 10.0, 20.0]]
    """

    kind: ClassVar[str] = "permutation"

    def __init__(self, index: Tensor, inputs: int, **places: Any) -> None:
        super().__init__(**places)
        check_index(index, inputs)
        self.inputs = inputs
        self.index: Tensor
        self.register_buffer("index", index.detach().long())

    @classmethod
    def nearest(cls, weight: Tensor, bias: Tensor, **places: Any) -> Self:
        """The pairing with the largest sum of the matrix's entries; the bias is dropped.

        Raises:
            ValueError: more outputs than inputs.
        """
        return cls(paired(weight), weight.shape[1], **places)

    def matrix(self) -> Tensor:
        """A 1 in each row, [outputs, inputs]; it has no parameters."""
        return one_hot(self.index, self.inputs)

    def options(self) -> dict[str, Any]:
        """``inputs``, which the index does not tell."""
        return {"inputs": self.inputs}


class ScaledPermutation(StitchingLayer):
    """A permutation whose channels are scaled and shifted one by one.

    Args:
        index: as :class:`Permutation`.
        inputs: number of channels that come in.
        scale, bias: [outputs].

    Example:
        >>> index, scale, bias = torch.tensor([1, 0]), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 5.0])
        >>> layer = fc.stitching.ScaledPermutation(index, 2, scale, bias)
        >>> layer(torch.tensor([[10.0, 20.0]])).tolist()
        [[20.0, 25.0]]
    """

    kind: ClassVar[str] = "scaled_permutation"

    def __init__(self, index: Tensor, inputs: int, scale: Tensor, bias: Tensor, **places: Any) -> None:
        super().__init__(**places)
        check_index(index, inputs)
        sizes(scale[:, None].expand(-1, inputs), bias, self.kind)
        self.inputs = inputs
        self.index: Tensor
        self.register_buffer("index", index.detach().long())
        self.scale = parameter(scale)
        self.bias = parameter(bias)

    @classmethod
    def nearest(cls, weight: Tensor, bias: Tensor, **places: Any) -> Self:
        """The pairing with the largest sum of the entries' sizes, scaled by those entries.

        Raises:
            ValueError: more outputs than inputs.
        """
        index = paired(weight.abs())
        return cls(index, weight.shape[1], weight[torch.arange(len(index)), index], bias, **places)

    def matrix(self) -> Tensor:
        """The scale of each output where its partner is, [outputs, inputs]."""
        return one_hot(self.index, self.inputs).to(self.scale) * self.scale[:, None]

    def options(self) -> dict[str, Any]:
        """``inputs``, which the index does not tell."""
        return {"inputs": self.inputs}


class SoftPermutation(StitchingLayer):
    """A doubly stochastic matrix, by Sinkhorn's algorithm on free logits: a relaxed permutation.

    (Peña et al., "Re-basin via Implicit Sinkhorn Differentiation", CVPR 2023.)

    Args:
        logits: [channels, channels].
        temperature: the lower, the closer to a permutation.
        iterations: of Sinkhorn's algorithm.

    Example:
        >>> layer = fc.stitching.SoftPermutation(torch.tensor([[0.0, 3, 0], [0, 0, 3], [3, 0, 0]]))
        >>> torch.allclose(layer.matrix().sum(1), torch.ones(3), atol=1e-3)
        True
        >>> layer.hardened().index.tolist()
        [1, 2, 0]
    """

    kind: ClassVar[str] = "soft_permutation"

    def __init__(
        self, logits: Tensor, *, temperature: float = 1.0, iterations: int = 20, **places: Any
    ) -> None:
        super().__init__(**places)
        sizes(logits, None, self.kind, square=True)
        if not temperature > 0 or iterations < 1:
            raise ValueError(
                f"temperature={temperature} must be positive, iterations={iterations} at least 1"
            )
        self.logits = parameter(logits)
        self.temperature, self.iterations = temperature, iterations

    @classmethod
    def nearest(cls, weight: Tensor, bias: Tensor, **options: Any) -> Self:
        """Logits in proportion to the matrix."""
        sizes(weight, bias, cls.kind, square=True)
        return cls(weight * (_SHARPNESS / weight.abs().max().clamp_min(1e-30)), **options)

    def matrix(self) -> Tensor:
        """S(logits / temperature), [channels, channels]."""
        return sinkhorn(self.logits / self.temperature, self.iterations)

    def hardened(self) -> Permutation:
        """The nearest permutation."""
        index = paired(self.matrix())
        return Permutation(index, len(index), channels=self.channels, resize=self.resize)

    def options(self) -> dict[str, Any]:
        """``temperature`` and ``iterations``."""
        return {"temperature": self.temperature, "iterations": self.iterations}


def paired(similarity: Tensor) -> Tensor:
    """For each row another column, int64 [outputs], with the largest sum.

    Raises:
        ValueError: there are more rows than columns.
    """
    outputs, inputs = similarity.shape
    if outputs > inputs:
        raise ValueError(f"{inputs} channels cannot be paired with {outputs}: each is used at most once")
    square = nn.functional.pad(similarity.detach().cpu().double(), (0, 0, 0, inputs - outputs))
    return assign(square)[:outputs]


def one_hot(index: Tensor, inputs: int) -> Tensor:
    """The matrix [outputs, inputs] that picks channel ``index[j]`` for channel j."""
    return torch.nn.functional.one_hot(index, inputs).to(torch.get_default_dtype())


def check_index(index: Tensor, inputs: int) -> None:
    """Raise ValueError unless these are different channels."""
    values = index.tolist()
    if index.ndim != 1 or len(set(values)) < len(values) or not all(0 <= v < inputs for v in values):
        raise ValueError(f"index must hold different channels in [0, {inputs})")
