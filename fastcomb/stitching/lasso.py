"""Sparse direct matching: the lasso, by coordinate descent on the moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastcomb.similarity.moments import Moments
from fastcomb.stitching.affine import Sparse
from fastcomb.stitching.direct import Direct, with_bias
from fastcomb.stitching.gather import Gathered

_SWEEPS = 10_000
#: Steps of the path from the smallest penalty at which all is 0 down to the one asked for.
_PATH = 8


@dataclass(frozen=True)
class Lasso(Direct):
    """M, b that minimise Σ ‖M x + b − y‖² / 2n + alpha Σ |M|: sparse where alpha is large.

    (Tibshirani, Journal of the Royal Statistical Society B, 1996; coordinate descent after Friedman, Hastie
    and Tibshirani, Journal of Statistical Software, 2010.) Equivalent to
    ``sklearn.linear_model.Lasso(alpha)`` for every output.

    Args:
        alpha: weight of the penalty, in units of y per unit of x.
        tolerance: stops where the duality gap of every output is below this fraction of its Σ (y − ȳ)².

    Raises:
        ValueError: a negative penalty, or a tolerance outside (0, 1).

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> stitch = fc.stitching.match(one, other, x, fc.stitching.Lasso(alpha=0.1), progress=False)
        >>> 0 < stitch.layer.sparsity < 1
        True
    """

    name: ClassVar[str] = "lasso"
    alpha: float = 0.01
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not self.alpha >= 0 or not 0 < self.tolerance < 1:
            raise ValueError(
                f"alpha={self.alpha} must not be negative, tolerance={self.tolerance} lie in (0, 1)"
            )

    def solve(self, gathered: Gathered, **places: Any) -> Sparse:
        """The end of a path of eight penalties, down from where all of M is 0, if ``alpha`` is below that."""
        top = largest_alpha(gathered.moments)
        start = max(self.alpha, 1e-6 * top)
        path = [top * (start / top) ** (i / _PATH) for i in range(1, _PATH)] if start < top else []
        return lasso_path(gathered.moments, [*path, self.alpha], self.tolerance, **places)[-1]


def largest_alpha(moments: Moments) -> float:
    """The smallest penalty at which every entry of M is 0.

    Example:
        >>> h = torch.randn(100, 3)
        >>> moments = fc.similarity.Moments.of(h, 2 * h)
        >>> alpha = 1.01 * fc.stitching.largest_alpha(moments)
        >>> fc.stitching.lasso_path(moments, [alpha])[0].sparsity
        1.0
    """
    return float(moments.xy.abs().max()) / moments.count


def lasso_path(
    moments: Moments, alphas: Sequence[float], tolerance: float = 1e-6, **places: Any
) -> list[Sparse]:
    """Stitching layers for several penalties, each solved from the one before: give them in descending order.

    Args:
        moments: of the activations: what :func:`~fastcomb.stitching.gather` finds has them as ``.moments``.
        alphas: penalties, as :class:`Lasso` has them.
        tolerance: as there.

    Returns:
        one layer per penalty.

    Raises:
        ValueError: a penalty is negative or NaN.

    Example:
        >>> h = torch.randn(100, 3)
        >>> moments = fc.similarity.Moments.of(h, 2 * h)
        >>> held, free = fc.stitching.lasso_path(moments, [10.0, 0.0])
        >>> held.sparsity
        1.0
        >>> torch.allclose(free.matrix(), 2 * torch.eye(3), atol=1e-2)
        True
    """
    if not all(alpha >= 0 for alpha in alphas):
        raise ValueError(f"alphas={list(alphas)}: penalties must not be negative")
    n = moments.count
    gram, target, square = moments.xx / n, moments.xy.T / n, moments.yy.diagonal() / n
    weight = torch.zeros_like(target)
    layers = []
    for alpha in alphas:
        weight = _descend(gram, target, square, weight, alpha, tolerance)
        layers.append(Sparse(*with_bias(weight, moments, True), **places))
    return layers


def _descend(
    gram: Tensor, target: Tensor, square: Tensor, weight: Tensor, alpha: float, tolerance: float
) -> Tensor:
    """Coordinate descent on ½ tr M G Mᵀ − tr M Cᵀ + alpha |M|, all outputs side by side.

    Args:
        gram: G = Σ x xᵀ / n, [inputs, inputs].
        target: C = Σ y xᵀ / n, [outputs, inputs].
        square: Σ y² / n, [outputs].
        weight: M to start from, [outputs, inputs].
    """
    weight = weight.clone()
    rest = target - weight @ gram  # the negative gradient of the smooth part
    diagonal = gram.diagonal().tolist()
    for _ in range(_SWEEPS):
        moved = torch.zeros_like(square)  # Σ (change of the predictions)² / n, over the steps of a sweep
        for j, curvature in enumerate(diagonal):
            if curvature <= 0:
                continue
            before = weight[:, j].clone()
            free = rest[:, j] + curvature * before
            after = free.sign() * (free.abs() - alpha).clamp_min(0) / curvature
            weight[:, j] = after
            rest -= torch.outer(after - before, gram[j])
            moved += curvature * (after - before).square()
        # without a penalty the gap says nothing; a step that moves this little gains less than the tolerance
        if alpha == 0:
            done = moved <= tolerance**2 * square
        else:
            done = (moved == 0) | (_gap(weight, rest, target, square, alpha) <= tolerance * square)
        if done.all():
            break
    return weight


def _gap(weight: Tensor, rest: Tensor, target: Tensor, square: Tensor, alpha: float) -> Tensor:
    """Duality gap of each output: how far its objective may be above the least one.

    With the residual r, the point r · min(1, alpha / max |xᵀ r| / n) is dual feasible.
    """
    residual = (square - (weight * (target + rest)).sum(1)).clamp_min(0)  # Σ r² / n
    steepest = rest.abs().amax(1)
    scale = torch.where(steepest > alpha, alpha / steepest.clamp_min(1e-300), 1.0)
    with_target = square - (weight * target).sum(1)  # Σ r y / n
    primal = residual / 2 + alpha * weight.abs().sum(1)
    dual = scale * with_target - scale.square() * residual / 2
    return primal - dual
