"""How much of one representation a linear regression on the other explains."""

from __future__ import annotations

from typing import Literal

from fastcomb.similarity.cca import basis
from fastcomb.similarity.centring import centred
from fastcomb.similarity.features import Features
from fastcomb.similarity.moments import Moments


def linear_regression_r2(
    x: Features | Moments,
    y: Features | None = None,
    *,
    predict: Literal["x", "y"] = "x",
    ridge: float | None = None,
) -> float:
    """Fraction of the variance of one representation that is linear in the other: a score in [0, 1].

    With ``predict="x"``, x from y: R² = 1 − min_B ‖X − Y B‖² / ‖X‖² = ‖Q_Yᵀ X‖² / ‖X‖², centred, in
    Frobenius norms, with Q_Y an orthonormal basis of what y's features span. It is the R² of all features of
    x together, each weighted by its variance, on the samples that B was fitted to. Not symmetric.

    Unchanged by invertible linear maps and shifts of the predicting side; by orthogonal maps, isotropic
    scaling and shifts of the predicted one. Takes O(n (d1² + d2²)), or O((d1 + d2)³) from moments.

    Source: R²_LR of Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations
    Revisited" (ICML 2019), who predict X from Y.

    Args:
        x, y: features [n, d1] and [n, d2] of the same samples; or :class:`Moments` alone.
        predict: which side is predicted, from the other one.
        ridge: fit B by ridge regression with penalty κ = ridge · ‖Y‖² / d of the predicting side, so that
            ``ridge`` is in units of a feature's mean variance. Then it is unchanged by orthogonal maps,
            isotropic scaling and shifts of either side only.

    Raises:
        TypeError: other inputs than features or moments of real numbers.
        ValueError: features that are not [n, d] of the same samples, not finite, or do not vary; a predicting
            side with as many independent features as samples, less one, without ``ridge``: then R² is 1; a
            ``ridge`` that is not positive; another side.

    Example:
        >>> x = torch.randn(500, 4)
        >>> y = x[:, :3]  # linear in x, but not the other way round
        >>> round(fc.similarity.linear_regression_r2(x, y, predict="y"), 4)
        1.0
        >>> fc.similarity.linear_regression_r2(x, y, predict="x") < 0.9
        True
    """
    if predict not in ("x", "y"):
        raise ValueError(f"predict={predict!r} is neither 'x' nor 'y'")
    sides = centred(x, y)
    target, source = sides if predict == "x" else sides[::-1]
    columns = basis(source, ridge)
    # each direction is predicted by the part f of it; f is 1 without a ridge, and 1 - (1 - f)² explained
    part = columns.square().sum(0)
    explained = (columns.T @ target.values).square().sum(1) * (2 - part)
    return float((explained.sum() / target.values.square().sum()).clamp(0, 1))
