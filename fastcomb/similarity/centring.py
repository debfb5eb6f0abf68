"""What the measures that ignore the mean work on: two centred representations, of features or of moments."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastcomb.similarity.features import Features, checked, epsilon
from fastcomb.similarity.moments import Moments

_EPS = torch.finfo(torch.float64).eps

#: A feature is constant if its norm around the mean is below this part of its norm: what is left of a
#: constant when its mean, a sum with roundings, is taken away.
_CONSTANT = 100 * _EPS

#: How many roundings may be in a feature that a network computed: where features depend on each other
#: (outputs of a softmax or LayerNorm), what is left is 1 to 30 of them in float32.
_ROUNDINGS = 64


class Centred(NamedTuple):
    """One of two representations, around its mean.

    Attributes:
        name: "x" or "y", for messages.
        values: float64 [m, d]. Features that are constant but for rounding are exactly 0. Inner products of
            columns are those of the n samples; m = n, or for moments m = d1 + d2.
        samples: n.
        scale: [d], positive; of the features' own size, so that rounding is alike in ``values / scale``.
        rounding: singular values of ``values / scale`` that rounding alone may give.
    """

    name: str
    values: Tensor
    samples: int
    scale: Tensor
    rounding: float


def centred(x: Features | Moments, y: Features | None) -> tuple[Centred, Centred]:
    """Two representations around their means.

    Moments are replaced by a square root A of their products, Aᵀ A = [xx xy; yx yy], which has the same inner
    products as the samples; directions that are 10⁻⁷ of the largest or less are lost in it. That takes
    (d1 + d2)³ operations.

    Args:
        x: features [n, d1], or moments of both.
        y: features [n, d2], or None beside moments.

    Raises:
        TypeError: moments beside features, or one representation alone.
        ValueError: as :func:`checked`, and where nothing varies over the samples.
    """
    if isinstance(x, Moments):
        return _of_moments(alone(x, y))
    one, other = both(x, y)
    return _of_features(one, "x"), _of_features(other, "y")


def both(x: Features, y: Features | None, *, least: int = 2) -> tuple[Tensor, Tensor]:
    """:func:`checked`, of two that must be there."""
    if y is None:
        raise TypeError("y is missing; pass two representations, or the Moments of two")
    return checked(x, y, least=least)


def alone(moments: Moments, y: Features | None) -> Moments:
    """Moments, if they are of two samples or more and finite, and nothing stands beside them."""
    if y is not None:
        raise TypeError("moments are of both representations; pass them alone, without y")
    if moments.count < 2:
        raise ValueError(f"moments of {moments.count} samples; at least 2 are needed")
    for name in ("xx", "xy", "yy"):
        if not torch.isfinite(getattr(moments, name)).all():
            raise ValueError(f"moments.{name} has values that are NaN or infinite; so had a batch")
    for name, products, mean in (("x", moments.xx, moments.mean_x), ("y", moments.yy, moments.mean_y)):
        if not _alive(products.diagonal(), moments.count, mean).any():
            raise ValueError(_constant(name, len(mean), moments.count))
    return moments


def _of_features(features: Tensor, name: str) -> Centred:
    """Features [n, d] around their mean, in float64.

    Raises:
        ValueError: no feature varies.
    """
    n, d = features.shape
    values = features.double()
    mean = values.mean(0)
    values = values - mean
    square = values.square().sum(0)
    alive = _alive(square, n, mean)
    if not alive.any():
        raise ValueError(_constant(name, d, n))
    values = torch.where(alive, values, 0.0)
    scale = torch.where(alive, (square + n * mean.square()).sqrt(), 1.0)
    return Centred(name, values, n, scale, _rounding(epsilon(features), n, d))


def _rounding(eps: float, n: int, d: int) -> float:
    """Singular values that rounding alone gives to n samples of d features of norm 1.

    A value is off by some part of itself, so a feature of norm 1 by as much; such errors, independent of each
    other, have singular values up to about the norm of a column plus that of a row.
    """
    computed = _EPS if eps == _EPS else torch.finfo(torch.float32).eps  # that is how bfloat16 is computed
    return max(eps, _ROUNDINGS * computed) / 2 * (1 + math.sqrt(d / n))


def _of_moments(moments: Moments) -> tuple[Centred, Centred]:
    """Both representations from one square root of their products, [d1 + d2, d1] and [d1 + d2, d2]."""
    n, d = moments.count, len(moments.mean_x)
    mean = torch.cat([moments.mean_x, moments.mean_y])
    products = torch.cat([torch.cat([moments.xx, moments.xy], 1), torch.cat([moments.xy.T, moments.yy], 1)])
    square = products.diagonal()
    alive = _alive(square, n, mean)
    norm = torch.where(alive, square, 1.0).sqrt()
    products = torch.where(alive & alive[:, None], products / norm / norm[:, None], 0.0)
    values, vectors = torch.linalg.eigh(products)
    root = values.clamp_min(0).sqrt()[:, None] * vectors.T * torch.where(alive, norm, 0.0)
    scale = torch.where(alive, (square + n * mean.square()).sqrt(), 1.0)
    resolved = math.sqrt(8 * _EPS * len(mean))  # roots of the eigenvalues' error

    def side(name: str, part: slice) -> Centred:
        lost = resolved * float((norm / scale)[part].max())
        rounding = max(lost, _rounding(moments.eps, n, len(mean[part])))
        return Centred(name, root[:, part], n, scale[part], rounding)

    return side("x", slice(d)), side("y", slice(d, None))


def _alive(square: Tensor, n: int, mean: Tensor) -> Tensor:
    """Which features vary, of their squared norms around the mean."""
    return square > _CONSTANT**2 * n * mean.square()


def _constant(name: str, features: int, samples: int) -> str:
    return (
        f"{name} does not vary: each of its {features} features is constant over the {samples} samples, so "
        "there is nothing to compare"
    )
