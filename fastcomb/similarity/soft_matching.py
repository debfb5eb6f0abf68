"""Match units with units, softly where there are more of one than of the other.

Khosla and Williams, "Soft Matching Distance: A Metric on Neural Representations That Captures Single-Neuron
Tuning" (UniReps at NeurIPS 2023; PMLR 243, 2024).
"""

from __future__ import annotations

import math

import numpy as np
import scipy.optimize
import scipy.sparse
import torch
from numpy.typing import NDArray

from fastcomb.similarity.centring import both, centred
from fastcomb.similarity.features import Features


def soft_matching_distance(x: Features, y: Features) -> float:
    """How far units must move to become those of the other network: a distance in [0, ∞).

    √(min_P Σ_ij P_ij ‖x_i − y_j‖²), with x_i and y_j [n] the features (units) as they are, neither centred
    nor scaled, and P ≥ 0 [d1, d2] with rows that sum to 1/d1 and columns that sum to 1/d2. It is the
    Wasserstein-2 distance of the units as points; with as many units on both sides the best P is a
    permutation over d. A metric: symmetric, with the triangle inequality.

    Unchanged by permutations of either side's units, or the same rotation or permutation of the samples;
    not by rotations, scaling or shifts of the features. To ignore their means and scales use
    :func:`soft_matching_correlation`, or standardise them first. Exact: a linear assignment for equal widths
    (O(d³); milliseconds for 500 units), else a linear program with d1 · d2 unknowns (a second for 500 × 300).

    Source: Khosla and Williams (2024).

    Args:
        x, y: features [n, d1] and [n, d2] of the same samples.

    Raises:
        TypeError: not tensors or arrays of real numbers.
        ValueError: features that are not [n, d] of the same samples, or not finite.

    Example:
        >>> x = torch.randn(100, 3)
        >>> fc.similarity.soft_matching_distance(x, x[:, [2, 0, 1]])
        0.0
        >>> round(fc.similarity.soft_matching_distance(x, x + 1), 4)  # √100
        10.0
    """
    one, other = (values.double().T.contiguous() for values in both(x, y, least=1))
    apart = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist").square()
    return math.sqrt(_transported(apart.cpu().numpy()))


def soft_matching_correlation(x: Features, y: Features) -> float:
    """Mean correlation of units with their matches, max_P Σ_ij P_ij corr(x_i, y_j): a score in [−1, 1].

    P is as in :func:`soft_matching_distance`, whose square is 2 − 2 times this score for features that are
    centred and have norm 1. A unit that is constant correlates 0 with all. Symmetric.

    Unchanged by permutations of either side's units, and by scaling (by positive factors) and shifts of each
    of them; not by rotations. Takes as much as :func:`soft_matching_distance`.

    Source: the soft matching correlation score of Khosla and Williams (2024); for equal widths the one-to-one
    matching of Li, Yosinski, Clune, Lipson and Hopcroft, "Convergent Learning" (ICLR 2016).

    Args:
        x, y: features [n, d1] and [n, d2] of the same samples.

    Raises:
        TypeError: not tensors or arrays of real numbers.
        ValueError: features that are not [n, d] of the same samples, not finite, or do not vary.

    Example:
        >>> x = torch.randn(100, 3)
        >>> round(fc.similarity.soft_matching_correlation(x, 3 * x[:, [2, 0, 1]] + 1), 4)
        1.0
    """
    one, other = (torch.nn.functional.normalize(side.values, dim=0) for side in centred(x, y))
    return -_transported(-(one.T @ other).clamp(-1, 1).cpu().numpy())


def _transported(cost: NDArray[np.float64]) -> float:
    """min_P Σ P_ij cost_ij over P ≥ 0 whose rows and columns have equal sums, and all of it sums to 1."""
    rows, columns = cost.shape
    if rows == columns:
        chosen = scipy.optimize.linear_sum_assignment(cost)
        return float(cost[chosen].mean())
    sums = [
        scipy.sparse.kron(scipy.sparse.eye(rows), np.ones((1, columns))),
        scipy.sparse.kron(np.ones((1, rows)), scipy.sparse.eye(columns)),
    ]
    # in units of the largest cost and of 1/rows; the last sum follows from the others
    scale = np.abs(cost).max() or 1.0
    totals = np.concatenate([np.ones(rows), np.full(columns, rows / columns)])
    solution = scipy.optimize.linprog(
        cost.ravel() / scale, A_eq=scipy.sparse.vstack(sums).tocsr()[:-1], b_eq=totals[:-1], method="highs-ds"
    )
    if not solution.success:
        raise RuntimeError(
            f"the linear program of {rows} × {columns} units was not solved: {solution.message}"
        )
    return float(solution.fun * scale / rows)
