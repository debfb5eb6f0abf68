"""Affine stitching layers: of full rank, of low rank, sparse, diagonal, and the identity."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from fastcomb.stitching.layer import StitchingLayer, moved, parameter, sizes


class Affine(StitchingLayer):
    """Any matrix, with a bias or (``bias=None``) without: a linear map.

    Args:
        weight: [outputs, inputs].
        bias: [outputs] or None.

    Example:
        >>> layer = fc.stitching.Affine(torch.tensor([[1.0, 2.0]]), torch.tensor([10.0]))
        >>> layer(torch.tensor([[1.0, 1.0]])).tolist()
        [[13.0]]
    """

    kind: ClassVar[str] = "affine"

    def __init__(self, weight: Tensor, bias: Tensor | None = None, **places: Any) -> None:
        super().__init__(**places)
        sizes(weight, bias, self.kind)
        self.weight = parameter(weight)
        self.bias = None if bias is None else parameter(bias)

    @classmethod
    def nearest(cls, weight: Tensor, bias: Tensor | None, **options: Any) -> Self:
        """The map itself."""
        return cls(weight, bias, **options)

    def matrix(self) -> Tensor:
        """The weight, [outputs, inputs]."""
        return self.weight


class LowRank(StitchingLayer):
    """A product of two factors.

    Args:
        left: [outputs, rank].
        right: [rank, inputs].
        bias: [outputs].

    Example:
        >>> layer = fc.stitching.LowRank.nearest(torch.randn(8, 6), torch.zeros(8), rank=2)
        >>> layer.left.shape, layer.right.shape
        (torch.Size([8, 2]), torch.Size([2, 6]))
    """

    kind: ClassVar[str] = "low_rank"

    def __init__(self, left: Tensor, right: Tensor, bias: Tensor, **places: Any) -> None:
        super().__init__(**places)
        sizes(left @ right, bias, self.kind)
        self.left, self.right = parameter(left), parameter(right)
        self.bias = parameter(bias)

    @classmethod
    def nearest(cls, weight: Tensor, bias: Tensor, *, rank: int, **places: Any) -> Self:  # type: ignore[override]
        """Truncated singular value decomposition (Eckart and Young, Psychometrika, 1936), evenly shared."""
        check_rank(rank, min(weight.shape))
        u, s, v = torch.linalg.svd(weight.detach().double(), full_matrices=False)
        root = s[:rank].sqrt()
        return cls(u[:, :rank] * root, root[:, None] * v[:rank], bias, **places)

    def matrix(self) -> Tensor:
        """The product of the factors, [outputs, inputs]."""
        return self.left @ self.right


class Sparse(StitchingLayer):
    """A matrix of which only given entries are not 0.

    Args:
        weight: [outputs, inputs]; those of its entries that are not 0 stay free.
        bias: [outputs].

    Example:
        >>> layer = fc.stitching.Sparse(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.zeros(2))
        >>> layer.sparsity
        0.75
    """

    kind: ClassVar[str] = "sparse"

    def __init__(self, weight: Tensor, bias: Tensor, **places: Any) -> None:
        super().__init__(**places)
        sizes(weight, bias, self.kind)
        self.weight = parameter(weight)
        self.bias = parameter(bias)
        self.mask: Tensor
        self.register_buffer("mask", weight.detach() != 0)

    @classmethod
    def nearest(cls, weight: Tensor, bias: Tensor, *, threshold: float = 1e-4, **places: Any) -> Self:
        """Without the entries whose size is below ``threshold``."""
        return cls(weight.where(weight.abs() >= threshold, 0.0), bias, **places)

    def matrix(self) -> Tensor:
        """The weight, [outputs, inputs], with exactly 0 where an entry is not free."""
        return self.weight * self.mask

    @property
    def sparsity(self) -> float:
        """Fraction of entries that are 0."""
        return 1.0 - float(self.mask.double().mean())


class Diagonal(StitchingLayer):
    """Every channel scaled by itself.

    Args:
        scale: [channels].
        bias: [channels].

    Example:
        >>> layer = fc.stitching.Diagonal(torch.tensor([1.0, 2.0]), torch.zeros(2))
        >>> layer(torch.tensor([[5.0, 5.0]])).tolist()
        [[5.0, 10.0]]
    """

    kind: ClassVar[str] = "diagonal"

    def __init__(self, scale: Tensor, bias: Tensor, **places: Any) -> None:
        super().__init__(**places)
        sizes(torch.diag(scale), bias, self.kind)
        self.scale = parameter(scale)
        self.bias = parameter(bias)

    @classmethod
    def nearest(cls, weight: Tensor, bias: Tensor, **places: Any) -> Self:
        """The diagonal alone.

        Raises:
            ValueError: a matrix that is not square.
        """
        sizes(weight, bias, cls.kind, square=True)
        return cls(weight.diagonal(), bias, **places)

    def matrix(self) -> Tensor:
        """The scales on the diagonal, [channels, channels]."""
        return torch.diag(self.scale)


class Identity(StitchingLayer):
    """Activations as they are: the network continues where the other stopped.

    Args:
        count: number of channels.

    Example:
        >>> layer = fc.stitching.Identity(3)
        >>> layer(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [[1.0, 2.0, 3.0]]
    """

    kind: ClassVar[str] = "identity"

    def __init__(self, count: int, **places: Any) -> None:
        super().__init__(**places)
        self.count = count
        self.eye: Tensor
        self.register_buffer("eye", torch.eye(count), persistent=False)

    @classmethod
    def nearest(cls, weight: Tensor, bias: Tensor, **places: Any) -> Self:
        """The identity, whatever the entries are.

        Raises:
            ValueError: a matrix that is not square.
        """
        sizes(weight, bias, cls.kind, square=True)
        return cls(len(weight), **places)

    def matrix(self) -> Tensor:
        """The identity matrix, [count, count], which is a constant."""
        return self.eye

    def forward(self, x: Tensor) -> Tensor:
        """Activations in B's layout, resized if need be; nothing is multiplied."""
        before, after = self.channels
        if self.resize is not None:
            x = self.resize(x, before)
        return moved(x, before, after)

    def options(self) -> dict[str, Any]:
        """``count``, which no tensor of it tells."""
        return {"count": self.count}


def check_rank(rank: int, most: int) -> None:
    """Raise ValueError unless a map can have this rank."""
    if not 1 <= rank <= most:
        raise ValueError(f"rank={rank} is outside [1, {most}], the ranks of a map between these channels")
