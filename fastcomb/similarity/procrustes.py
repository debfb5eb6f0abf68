"""Distances that are left after the best rotation: shape metrics.

Williams, Kunz, Kornblith and Linderman, "Generalized Shape Metrics on Neural Representations" (NeurIPS 2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastcomb.similarity.centring import alone, centred
from fastcomb.similarity.features import Features
from fastcomb.similarity.moments import Moments


def angular_procrustes(x: Features | Moments, y: Features | None = None) -> float:
    """Angle that the best rotation leaves, arccos(‖Xᵀ Y‖_* / (‖X‖ ‖Y‖)): a distance in [0, π/2], in radians.

    X and Y are centred, ‖·‖_* is the nuclear norm (the sum of the singular values) and ‖·‖ the Frobenius
    norm. Rotations are all orthogonal maps, reflections too. Where the widths differ, the narrower is padded
    with zeros, which leaves the formula as it is. A metric: symmetric, with the triangle inequality.

    Unchanged by orthogonal maps, isotropic scaling and shifts of either. Takes O(n d² + d³) with the larger
    d, or the smaller of n and d in its place. From moments, angles below 10⁻⁷ are lost to rounding.

    Source: Williams et al. (NeurIPS 2021); their regularisation is α = 1 here.

    Args:
        x, y: features [n, d1] and [n, d2] of the same samples; or :class:`Moments` alone.

    Raises:
        TypeError: other inputs than features or moments of real numbers.
        ValueError: features that are not [n, d] of the same samples, not finite, or do not vary.

    Example:
        >>> x = torch.randn(100, 5)
        >>> rotation = torch.linalg.qr(torch.randn(5, 5)).Q
        >>> fc.similarity.angular_procrustes(x, 3 * x @ rotation) < 1e-4
        True
        >>> fc.similarity.angular_procrustes(x, torch.randn(100, 5)) > 0.5
        True
    """
    if isinstance(x, Moments):
        moments = alone(x, y)
        norms = (moments.xx.trace() * moments.yy.trace()).sqrt()
        return float((torch.linalg.svdvals(moments.xy).sum() / norms).clamp(0, 1).arccos())
    one, other = (side / side.norm() for side in _padded(x, y))
    chord = float(_residual(one, other))  # precise for small angles, unlike their cosine
    return min(2 * math.asin(min(chord / 2, 1.0)), math.pi / 2)


def size_and_shape_procrustes(x: Features | Moments, y: Features | None = None) -> float:
    """Distance that the best rotation leaves, min_Q ‖X − Y Q‖ over orthogonal Q: a distance in [0, ∞).

    That is √(‖X‖² + ‖Y‖² − 2 ‖Xᵀ Y‖_*), with X and Y centred but not scaled, so in the units of the features;
    sums over samples are not divided by n, so it grows with √n. Where the widths differ, the narrower is
    padded with zeros. A metric: symmetric, with the triangle inequality.

    Unchanged by orthogonal maps and shifts of either, and proportional to a common scale. Takes as much as
    :func:`angular_procrustes`. From moments, distances below 10⁻⁷ (‖X‖ + ‖Y‖) are lost to rounding.

    Source: Williams et al. (NeurIPS 2021), who call it Procrustes size-and-shape distance.

    Args:
        x, y: as in :func:`angular_procrustes`.

    Raises:
        TypeError, ValueError: as :func:`angular_procrustes`.

    Example:
        >>> x = torch.tensor([[3.0, 4], [-3, -4]])
        >>> round(fc.similarity.size_and_shape_procrustes(x, 2 * x), 4)  # ‖X‖
        7.0711
    """
    if isinstance(x, Moments):
        moments = alone(x, y)
        nuclear = torch.linalg.svdvals(moments.xy).sum()
        return float((moments.xx.trace() + moments.yy.trace() - 2 * nuclear).clamp_min(0).sqrt())
    return float(_residual(*_padded(x, y)))


def _padded(x: Features, y: Features | None) -> tuple[Tensor, Tensor]:
    """Both centred, in no more dimensions than samples, the narrower padded to the wider."""
    one, other = (_narrowed(side.values) for side in centred(x, y))
    more = one.shape[1] - other.shape[1]
    return pad(one, (0, max(-more, 0))), pad(other, (0, max(more, 0)))


def _narrowed(values: Tensor) -> Tensor:
    """[n, d] rotated into its first n dimensions where there are more."""
    n, d = values.shape
    lower: Tensor = torch.linalg.qr(values.T, mode="r").R.T if d > n else values
    return lower


def _residual(one: Tensor, other: Tensor) -> Tensor:
    """‖X − Y Q‖ for the best orthogonal Q (Schönemann, Psychometrika, 1966)."""
    left, _, right = torch.linalg.svd(other.T @ one)
    rotation: Tensor = left @ right
    return (one - other @ rotation).square().sum().sqrt()
