"""Representational similarity analysis: compare the distances between samples.

Kriegeskorte, Mur and Bandettini, "Representational Similarity Analysis" (Frontiers in Systems Neuroscience,
2008).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastcomb.similarity.centring import both
from fastcomb.similarity.distances import squared_distances, unit_rows
from fastcomb.similarity.features import Features, matrix

Metric = Literal["correlation", "cosine", "euclidean", "squared_euclidean"]
METRICS = ("correlation", "cosine", "euclidean", "squared_euclidean")

#: Distances that differ by less than this part of the largest have the same rank.
_TIE = 1e-11


def rdm(x: Features, *, metric: Metric = "correlation") -> Tensor:
    """Representational dissimilarity matrix: distances between all pairs of samples, float64 [n, n].

    Takes n² · 24 bytes and O(n² d). Equal samples have distance exactly 0; distances of 10⁻⁶ of the samples'
    norms around their mean, or less, count as 0 too.

    Args:
        x: features [n, d].
        metric: "correlation", 1 − r with the Pearson correlation r of two samples over the features;
            "cosine", 1 − cos of the angle between them; "euclidean", ‖a − b‖; "squared_euclidean",
            ‖a − b‖² (rsatoolbox's "euclidean" is this divided by d).

    Raises:
        TypeError: not a tensor or array of real numbers.
        ValueError: not [n, d], fewer than two samples, values that are not finite, another metric; samples
            with the same value in all features for "correlation", or 0 in all for "cosine".

    Example:
        >>> fc.similarity.rdm(torch.tensor([[0.0, 0], [3, 4], [6, 8]]), metric="euclidean").tolist()
        [[0.0, 5.0, 10.0], [5.0, 0.0, 5.0], [10.0, 5.0, 0.0]]
    """
    values = matrix(x, "x")
    if len(values) < 2:
        raise ValueError(f"x has {len(values)} samples; at least 2 are needed")
    upper = _distances(values, metric, "x")
    n = len(values)
    full = torch.zeros(n, n, dtype=torch.float64, device=values.device)
    full[tuple(torch.triu_indices(n, n, 1))] = upper
    return full + full.T


def rsa(
    x: Features,
    y: Features,
    *,
    metric: Metric = "correlation",
    compare: Literal["spearman", "pearson", "kendall", "cosine"] = "spearman",
) -> float:
    """How alike two representations space the samples: a score in [−1, 1], with "cosine" in [0, 1].

    ρ(D_x, D_y) over the n (n − 1) / 2 pairs of different samples, with D the distances of :func:`rdm`.
    Symmetric.

    With "euclidean" and "squared_euclidean" unchanged by orthogonal maps, isotropic scaling and shifts of
    either; with "cosine" by orthogonal maps and isotropic scaling; with "correlation" by permutations of the
    features, isotropic scaling, and adding a number to all features alike, but not by rotations or by
    shifts of single features. Takes n² · 32 bytes and O(n² (d + log n)).

    Source: Kriegeskorte, Mur and Bandettini (2008).

    Args:
        x, y: features [n, d1] and [n, d2] of the same n ≥ 3 samples.
        metric: as in :func:`rdm`.
        compare: "spearman", rank correlation with mean ranks for ties (which rounding does not break);
            "pearson"; "kendall", τ_b; or "cosine", Σ D_x D_y / (‖D_x‖ ‖D_y‖).

    Raises:
        TypeError, ValueError: as :func:`rdm`; different numbers of samples, fewer than 3, another comparison,
            or distances that are all the same.

    Example:
        >>> x = torch.randn(50, 5)
        >>> rotation = torch.linalg.qr(torch.randn(5, 5)).Q
        >>> round(fc.similarity.rsa(x, x @ rotation, metric="euclidean"), 3)
        1.0
        >>> fc.similarity.rsa(x, torch.randn(50, 5), metric="euclidean") < 0.5
        True
    """
    if compare not in ("spearman", "pearson", "kendall", "cosine"):
        raise ValueError(f"compare={compare!r} is none of 'spearman', 'pearson', 'kendall', 'cosine'")
    sides = zip(both(x, y, least=3), ("x", "y"), strict=True)
    one, other = (_distances(values, metric, name).cpu().numpy() for values, name in sides)
    for distances, name in ((one, "x"), (other, "y")):
        spread = distances.max() if compare == "cosine" else np.ptp(distances)
        if spread <= _TIE * distances.max():
            raise ValueError(
                f"all distances between the samples of {name} are {distances[0]:.4g}, so they have no "
                f"{compare} correlation with others"
            )
    if compare == "cosine":
        return _cosine(one, other)
    if compare == "pearson":
        return _cosine(one - one.mean(), other - other.mean())
    one, other = (np.round(distances / (_TIE * distances.max())) for distances in (one, other))
    if compare == "kendall":
        return float(scipy.stats.kendalltau(one, other).statistic)
    one, other = (scipy.stats.rankdata(distances) for distances in (one, other))
    return _cosine(one - one.mean(), other - other.mean())


def _distances(features: Tensor, metric: str, name: str) -> Tensor:
    """Distances of the pairs above the diagonal, row by row: float64 [n (n − 1) / 2]."""
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r} is none of {', '.join(map(repr, METRICS))}")
    values = features.double()
    if metric in ("correlation", "cosine"):
        values = unit_rows(values, name, centre=metric == "correlation")
    else:
        values = values - values.mean(0)
    squared = squared_distances(values, values)[tuple(torch.triu_indices(len(values), len(values), 1))]
    if metric in ("correlation", "cosine"):
        return squared / 2
    return squared if metric == "squared_euclidean" else squared.sqrt()


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.clip(one @ other / np.sqrt((one @ one) * (other @ other)), -1, 1))
