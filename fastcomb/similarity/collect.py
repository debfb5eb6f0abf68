"""Ways to compare all layers of two networks, batch by batch of inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from fastcomb.similarity.cka import linear_cka_matrix, u_centred
from fastcomb.similarity.moments import Moments

#: Takes the numbers of two layers and the call that compares them, and returns its result.
Pair = Callable[[int, int, Callable[[], Any]], float]

#: Bytes of the float64 features that moments are taken of at a time.
_BLOCK_BYTES = 64 << 20


class Collector(Protocol):
    """Takes batches of the features of all layers, and then compares them."""

    def add(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        """Features [n, d] of one batch, for each layer of the two networks."""
        ...

    def values(self, pair: Pair, shown: tqdm[Any]) -> Tensor:
        """The similarity of every layer with every layer: float64 [L1, L2]."""
        ...


class Held:
    """Keeps the features of all samples, and compares pairs of layers by a function of two matrices.

    Args:
        measure: takes features x [n, d1] and y [n, d2]; None for linear CKA of all layers at once.
        positions: of the layers of a and of b; only layers with the same are compared.
    """

    def __init__(self, measure: Callable[..., Any] | None, positions: tuple[list[Any], list[Any]]) -> None:
        self._measure = measure
        self._positions = positions
        self._parts: tuple[list[list[Tensor]], ...] = tuple([[] for _ in side] for side in positions)

    def add(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        """Keep the features [n, d] of one batch, on the CPU."""
        for parts, batch in zip(self._parts, (a, b), strict=True):
            for kept, features in zip(parts, batch, strict=True):
                kept.append(features.cpu())

    def values(self, pair: Pair, shown: tqdm[Any]) -> Tensor:
        """Compare pairs of layers with the same positions, others being NaN: float64 [L1, L2].

        The features are let go, so this is asked for once.
        """
        a, b = ([_joined(kept) for kept in parts] for parts in self._parts)
        if self._measure is None:
            shown.update(len(a) * len(b))
            return linear_cka_matrix([*a, *b])[: len(a), len(a) :]
        measure = self._measure
        similarities = torch.full((len(a), len(b)), torch.nan, dtype=torch.float64)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                shown.update()
                if self._positions[0][i] == self._positions[1][j]:
                    similarities[i, j] = pair(i, j, partial(measure, x, y))
        return similarities


class Streamed:
    """Keeps moments: those of all layers with the same positions at once.

    Args:
        measure: takes :class:`Moments`.
        positions: of the layers of a and of b; only layers with the same are compared.
        widths: of the layers of a and of b.
    """

    def __init__(
        self,
        measure: Callable[..., Any],
        positions: tuple[list[Any], list[Any]],
        widths: tuple[list[int], list[int]],
    ) -> None:
        self._measure = measure
        self._size = len(widths[0]), len(widths[1])
        self._groups = {
            where: tuple([i for i, at in enumerate(side) if at == where] for side in positions)
            for where in dict.fromkeys(positions[0])
            if where in positions[1]
        }
        self._widths = widths
        self._moments: dict[Any, Moments] = {}

    def add(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        """Take one batch into the moments, in blocks whose float64 features take 64 MiB."""
        for where, (rows, columns) in self._groups.items():
            width = sum(self._widths[0][i] for i in rows) + sum(self._widths[1][j] for j in columns)
            size = max(1, _BLOCK_BYTES // (8 * width))
            for first in range(0, len(a[rows[0]]), size):
                block = slice(first, first + size)
                x = torch.cat([a[i][block] for i in rows], 1)
                y = torch.cat([b[j][block] for j in columns], 1)
                moments = Moments.of(x, y)
                before = self._moments.get(where)
                self._moments[where] = moments if before is None else before + moments

    def values(self, pair: Pair, shown: tqdm[Any]) -> Tensor:
        """Compare pairs of layers with the same positions by their part of the moments: float64 [L1, L2].

        Other pairs are NaN.
        """
        similarities = torch.full(self._size, torch.nan, dtype=torch.float64)
        for where, (rows, columns) in self._groups.items():
            moments = self._moments[where]
            places = [_slices(side, ws) for side, ws in zip((rows, columns), self._widths, strict=True)]
            for i, x in zip(rows, places[0], strict=True):
                for j, y in zip(columns, places[1], strict=True):
                    similarities[i, j] = pair(i, j, partial(self._measure, moments.part(x, y)))
                    shown.update()
        return similarities


class Batchwise:
    """Sums the unbiased HSIC of all layers over batches, for minibatch CKA; keeps nothing else."""

    def __init__(self) -> None:
        self._sums: list[Any] = [0, 0, 0]

    def add(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        """Take in the unbiased HSIC of one batch; one of fewer than 4 samples is left out."""
        n = len(a[0])
        if n < 4:
            return
        k, l = (torch.stack([_linear(features) for features in side]) for side in (a, b))
        parts = k @ l.T, k.square().sum(1), l.square().sum(1)
        self._sums = [total + part / (n * (n - 3)) for total, part in zip(self._sums, parts, strict=True)]

    def values(self, pair: Pair, shown: tqdm[Any]) -> Tensor:
        """CKA of the summed HSIC, float64 [L1, L2]; NaN where a layer does not vary.

        Raises:
            ValueError: no batch had 4 samples.
        """
        between, x, y = self._sums
        if not isinstance(between, Tensor):
            raise ValueError("no batch has 4 samples, which the unbiased HSIC needs; pass more samples")
        shown.update(between.numel())
        similarities: Tensor = between / torch.outer(x, y).sqrt()
        return similarities


def _linear(features: Tensor) -> Tensor:
    """The linear kernel of one layer, centred without its diagonal: float64 [n²]."""
    values = features.double().cpu()
    values = values - values.mean(0)
    return u_centred(values @ values.T).flatten()


def _joined(parts: list[Tensor]) -> Tensor:
    """Batches as one, which then are let go."""
    whole = torch.cat(parts)
    parts.clear()
    return whole


def _slices(layers: list[int], widths: list[int]) -> list[slice]:
    ends = torch.tensor([widths[i] for i in layers]).cumsum(0).tolist()
    return [slice(end - widths[i], end) for i, end in zip(layers, ends, strict=True)]
