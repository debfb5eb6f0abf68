"""Whether samples have the same nearest neighbours in two representations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fastcomb.similarity.centring import both, centred
from fastcomb.similarity.distances import squared_distances, unit_rows
from fastcomb.similarity.features import Features

#: Bytes of the distances of one block of samples.
_BLOCK_BYTES = 64 << 20

#: Squared distances that differ by less than this part of the largest squared norm are the same.
_TIE = 1e-12


def neighbour_jaccard(
    x: Features, y: Features, *, k: int = 10, metric: Literal["cosine", "euclidean"] = "cosine"
) -> float:
    """Mean overlap of the samples' k nearest neighbours, |N_x ∩ N_y| / |N_x ∪ N_y|: a score in [0, 1].

    N_x(i) are the k samples nearest to sample i in x, i itself left out even where others coincide with it.
    Of samples at the same distance, up to rounding, those with lower numbers are nearer. Independent
    representations have about k / (2n). Symmetric.

    With "cosine" unchanged by orthogonal maps and isotropic scaling of either, but not by shifts; with
    "euclidean" by shifts too. Takes O(n² d), in blocks of samples of 64 MiB.

    Source: Schumacher, Wolf, Ritzert, Lemmerich, Grohe and Strohmaier, "The Effects of Randomness on the
    Stability of Node Embeddings" (ECML PKDD workshops, 2021).

    Args:
        x, y: features [n, d1] and [n, d2] of the same samples.
        k: neighbours of each sample, fewer than n.
        metric: "cosine" or "euclidean".

    Raises:
        TypeError: not tensors or arrays of real numbers.
        ValueError: features that are not [n, d] of the same samples, not finite, or do not vary; k outside
            [1, n − 1]; another metric; samples that are 0 in all features, for "cosine".

    Example:
        >>> x = torch.randn(200, 5)
        >>> fc.similarity.neighbour_jaccard(x, 2 * x)
        1.0
        >>> fc.similarity.neighbour_jaccard(x, torch.randn(200, 5)) < 0.2
        True
    """
    sides = both(x, y)
    n = len(sides[0])
    if not 1 <= k < n:
        raise ValueError(f"k={k} neighbours of {n} samples; k must be from 1 to {n - 1}")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric={metric!r} is neither 'cosine' nor 'euclidean'")
    one, other = (side.values for side in centred(x, y))
    if metric == "cosine":
        one, other = (unit_rows(side.double(), name) for side, name in zip(sides, "xy", strict=True))
    total = 0.0
    for rows in torch.arange(n, device=one.device).split(max(1, _BLOCK_BYTES // (8 * n))):
        shared = (_neighbours(one, rows, k) & _neighbours(other, rows, k)).sum(1).double()
        total += float((shared / (2 * k - shared)).sum())
    return total / n


def _neighbours(values: Tensor, rows: Tensor, k: int) -> Tensor:
    """Whether each sample is among the k nearest of those in ``rows``: bool [rows, n]."""
    squared = squared_distances(values[rows], values)
    squared[torch.arange(len(rows), device=rows.device), rows] = torch.inf
    last = squared.kthvalue(k, dim=1, keepdim=True).values
    same = _TIE * values.square().sum(1).max()
    nearer = squared < last - same
    equal = ~nearer & (squared <= last + same)
    left = k - nearer.sum(1, keepdim=True)
    return nearer | (equal & (equal.cumsum(1) <= left))
