"""Canonical correlation analysis, and the measures made of canonical correlations.

Hotelling, "Relations Between Two Sets of Variates" (Biometrika, 1936).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fastcomb.similarity.centring import Centred, centred
from fastcomb.similarity.features import Features
from fastcomb.similarity.moments import Moments


def canonical_correlations(
    x: Features | Moments, y: Features | None = None, *, ridge: float | None = None
) -> Tensor:
    """All canonical correlations, the largest first: float64 [min(r1, r2)] of values in [0, 1].

    ρ_i are the singular values of Q_xᵀ Q_y, where the columns of Q_x [n, r1] and Q_y [n, r2] are orthonormal
    bases of what the centred features of x and y span. r1 and r2 are the ranks: constant and linearly
    dependent features do not count, nor do directions that are as small as the rounding of the input's
    dtype. Takes O(n (d1² + d2²)), or O((d1 + d2)³) from moments.

    Unchanged by invertible linear maps and shifts of either. If x and y are exchanged, the same.

    Args:
        x, y: features [n, d1] and [n, d2] of the same samples; or :class:`Moments` alone.
        ridge: regularise: a singular value s of the centred features makes its direction count s / √(s² + κ)
            instead of 1, with κ = ridge · ‖X‖² / d, so that ``ridge`` is in units of a feature's mean
            variance (Vinod, "Canonical Ridge and Econometrics of Joint Production", Journal of Econometrics,
            1976). Then it is unchanged only by orthogonal maps, isotropic scaling and shifts.

    Raises:
        TypeError: other inputs than features or moments of real numbers.
        ValueError: features that are not [n, d] of the same samples, not finite, or do not vary; as many
            independent features as samples, less one, without ``ridge``: then all correlations are 1; a
            ``ridge`` that is not positive.

    Example:
        >>> x = torch.randn(500, 3)
        >>> y = torch.cat([x[:, :1], x[:, :1] + x[:, 1:2], torch.randn(500, 2)], 1)
        >>> found = fc.similarity.canonical_correlations(x, y)  # two of x's directions are in y
        >>> found[:2].round(decimals=4).tolist()
        [1.0, 1.0]
        >>> bool(found[2] < 0.5)
        True
    """
    one, other = centred(x, y)
    return _correlations(basis(one, ridge), basis(other, ridge))[1]


def mean_cca(x: Features | Moments, y: Features | None = None, *, ridge: float | None = None) -> float:
    """Mean canonical correlation, Σ ρ_i / min(r1, r2): a score in [0, 1].

    Invariances, arguments, cost and errors are those of :func:`canonical_correlations`. The mean is over
    min(r1, r2) directions, the ranks of the centred features (d1 and d2, unless features are dependent).

    Source: Raghu, Gilmer, Yosinski and Sohl-Dickstein, "SVCCA" (NeurIPS 2017); ρ̄_CCA of Kornblith, Norouzi,
    Lee and Hinton, "Similarity of Neural Network Representations Revisited" (ICML 2019).

    Example:
        >>> x = torch.randn(500, 3)
        >>> y = x @ torch.tensor([[2.0, 1, 0], [0, 1, 1], [0, 0, 3]]) + 1  # invertible
        >>> round(fc.similarity.mean_cca(x, y), 4)
        1.0
        >>> fc.similarity.mean_cca(x, torch.randn(500, 3)) < 0.5
        True
    """
    return float(canonical_correlations(x, y, ridge=ridge).mean())


def mean_squared_cca(
    x: Features | Moments, y: Features | None = None, *, ridge: float | None = None
) -> float:
    """Mean squared canonical correlation, Σ ρ_i² / min(r1, r2): a score in [0, 1].

    Invariances, arguments, cost and errors are those of :func:`canonical_correlations`.

    Source: R²_CCA of Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations
    Revisited" (ICML 2019); for equal ranks Yanai's generalised coefficient of determination.

    Example:
        >>> t = torch.linspace(0, 2 * torch.pi, 101)[:-1]
        >>> x = torch.stack([t.cos(), t.sin()], 1)
        >>> y = torch.stack([t.cos(), t.sin() + (2 * t).cos()], 1)  # correlations of 1 and √½
        >>> round(fc.similarity.mean_squared_cca(x, y), 4)
        0.75
    """
    return float(canonical_correlations(x, y, ridge=ridge).square().mean())


def svcca(x: Features | Moments, y: Features | None = None, *, threshold: float = 0.99) -> float:
    """Mean canonical correlation of the leading principal components: a score in [0, 1].

    Each representation is reduced to the fewest principal components that hold at least ``threshold`` of its
    total variance, Σ_{i ≤ k} s_i² ≥ threshold · Σ s_i²; then Σ ρ_i / min(k1, k2) as in :func:`mean_cca`.
    Works with fewer samples than features as long as fewer components than samples are kept.

    Unchanged by orthogonal maps, isotropic scaling and shifts of either; not by other linear maps, which
    change the variances. Symmetric. The result depends on the threshold: state it.

    Source: Raghu, Gilmer, Yosinski and Sohl-Dickstein, "SVCCA: Singular Vector Canonical Correlation Analysis
    for Deep Learning Dynamics and Interpretability" (NeurIPS 2017).

    Args:
        x, y: as in :func:`canonical_correlations`.
        threshold: fraction of the total variance, in (0, 1].

    Raises:
        TypeError, ValueError: as :func:`canonical_correlations`; a threshold outside (0, 1].

    Example:
        >>> x = torch.randn(500, 5) * torch.tensor([5.0, 5, 5, 0.01, 0.01])
        >>> noise = torch.randn(500, 2) * 0.01
        >>> y = torch.cat([x[:, :3], noise], 1)  # alike in all that varies much
        >>> round(fc.similarity.svcca(x, y), 4)
        1.0
        >>> fc.similarity.mean_cca(x, y) < 0.9
        True
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold} is not a fraction of the variance in (0, 1]")
    one, other = (_leading(side, threshold) for side in centred(x, y))
    return float(_correlations(one, other)[1].mean())


def pwcca(
    x: Features | Moments,
    y: Features | None = None,
    *,
    side: Literal["x", "y"] = "x",
    ridge: float | None = None,
) -> float:
    """Projection-weighted mean of canonical correlations, Σ α_i ρ_i / Σ α_i: a score in [0, 1].

    With ``side="x"``, α_i = Σ_j |⟨h_i, x_j⟩| over the centred features x_j [n] of x, where h_i [n] is x's
    side of the i-th canonical pair, with norm 1; i = 1, …, min(r1, r2). So directions count by how much of x
    they make up. With ``side="y"``, the same of y: the two differ in general, and the measure is not
    symmetric; pwcca(x, y, side="y") is pwcca(y, x, side="x").

    Unchanged by invertible linear maps and shifts of the side that does not weight; by permutations,
    isotropic scaling and shifts of the side that does, but not by its rotations.

    Source: Morcos, Raghu and Bengio, "Insights on Representational Similarity in Neural Networks with
    Canonical Correlation" (NeurIPS 2018). Their code weights by the side with fewer features.

    Args:
        x, y, ridge: as in :func:`canonical_correlations`; with ``ridge`` h_i is shrunk as the basis is.
        side: which representation weights.

    Raises:
        TypeError, ValueError: as :func:`canonical_correlations`; another side.

    Example:
        >>> x = torch.randn(500, 3) * torch.tensor([9.0, 9, 0.1])
        >>> y = torch.cat([x[:, :2], torch.randn(500, 1)], 1)  # without what x hardly uses
        >>> fc.similarity.pwcca(x, y) > 0.9 > fc.similarity.mean_cca(x, y)
        True
    """
    if side not in ("x", "y"):
        raise ValueError(f"side={side!r} is neither 'x' nor 'y'")
    sides = centred(x, y)
    own, other = sides if side == "x" else sides[::-1]
    columns = basis(own, ridge)
    directions, correlations = _correlations(columns, basis(other, ridge))
    weights = (directions.T @ (columns.T @ own.values)).abs().sum(1)
    return float((weights @ correlations / weights.sum()).clamp(0, 1))


def basis(side: Centred, ridge: float | None) -> Tensor:
    """Orthonormal columns [m, r] that span the features, or columns shrunk by the ridge.

    Raises:
        ValueError: they span all of the samples and there is no ridge, or the ridge is not positive.
    """
    if ridge is not None:
        if not 0 < ridge < float("inf"):
            raise ValueError(f"ridge={ridge} must be positive and finite")
        left, values = _components(side.values, side.rounding * float(side.scale.max()))
        penalty = ridge * side.values.square().sum() / side.values.shape[1]
        return left * (values.square() / (values.square() + penalty)).sqrt()
    left, _ = _components(side.values / side.scale, side.rounding)
    return _determined(side, left, "regularise with ridge=")


def _leading(side: Centred, threshold: float) -> Tensor:
    """Orthonormal columns [m, k]: the principal components with this fraction of the variance."""
    left, values = _components(side.values, side.rounding * float(side.scale.max()))
    share = values.square().cumsum(0)
    count = int((share < threshold * share[-1]).sum()) + 1
    return _determined(side, left[:, :count], "lower the threshold")


def _components(values: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """Left singular vectors and singular values, of those that rounding does not explain."""
    left, singular_values, _ = torch.linalg.svd(values, full_matrices=False)
    least = max(rounding, torch.finfo(torch.float64).eps * max(values.shape) * float(singular_values[0]))
    kept = singular_values > least
    kept[0] = True  # something varies, as is checked before
    return left[:, kept], singular_values[kept]


def _determined(side: Centred, columns: Tensor, remedy: str) -> Tensor:
    """The columns, unless they span all of the samples."""
    rank = columns.shape[1]
    if rank >= side.samples - 1:
        raise ValueError(
            f"{side.name} has {rank} independent directions over {side.samples} samples, so that everything "
            "correlates perfectly with it; take more samples than features (several times as many, for the "
            f"number to mean something), or {remedy}"
        )
    return columns


def _correlations(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Directions in the first basis [r1, min(r1, r2)], and their canonical correlations."""
    left, values, _ = torch.linalg.svd(one.T @ other, full_matrices=False)
    return left, values.clamp(0, 1)
