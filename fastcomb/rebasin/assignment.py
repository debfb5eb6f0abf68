"""The step that all assignment methods share: the best permutation of one group, inner groups included."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fastcomb.kernels import native
from fastcomb.rebasin.symmetries import Symmetries

#: Similarities [ones, others, units, units] of groups in network A with groups of the same kind in B.
Similarity = Callable[[Sequence[int], Sequence[int]], Tensor]


def assign(similarity: Tensor) -> Tensor:
    """The permutation p that maximises Σ_j similarity[j, p_j], for each matrix: [..., n, n] → int64 [..., n].

    By the compiled kernel, or scipy's where that is missing; of equally good ones they may find others.

    Raises:
        ValueError: a similarity is NaN or infinite.
    """
    similarity = similarity.detach()
    if not bool(similarity.sum().isfinite()) and not bool(similarity.isfinite().all()):
        raise ValueError(
            "similarities of units are not finite, so the weights or activations they come from are not; "
            "units of such networks cannot be compared"
        )
    flat = similarity.reshape(similarity.shape[:-2].numel(), *similarity.shape[-2:])
    if native.serves(flat.device):
        found = native.match(flat)
    else:
        columns = [linear_sum_assignment(matrix, maximize=True)[1] for matrix in flat.numpy()]
        found = torch.from_numpy(np.array(columns, np.int64).reshape(flat.shape[:2]))
    return found.reshape(similarity.shape[:-1])


def outer_groups(symmetries: Symmetries) -> list[int]:
    """Groups that lie in no other's units."""
    inner = {n for group in symmetries.groups for family in group.families for n in family}
    return [number for number in range(len(symmetries.groups)) if number not in inner]


def best_step(symmetries: Symmetries, number: int, similarity: Similarity) -> dict[int, Tensor]:
    """The best permutation of a group, and of the groups inside its units: group number → permutation.

    For a group with families (attention heads), units are compared at their best: the similarity of two
    heads is the value of the best assignment of their features.
    """
    group = symmetries.groups[number]
    total = similarity((number,), (number,))[0, 0]
    if not group.families:
        return {number: assign(total)}
    inside = [similarity(family, family).double() for family in group.families]
    units, chosen = _best_units(total.double(), inside)
    step = {number: units}
    for family, found in zip(group.families, chosen, strict=True):
        step |= dict(zip(family, found, strict=True))
    return step


def _best_units(total: Tensor, inside: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The best permutation of units, compared at their best, and of what is inside each: [units, parts].

    The value of a pair of units is at most what the best partner of every part would give. The best
    permutation by these bounds is the best one as soon as the values of all its pairs are known, so few of
    the pairs need an assignment of their parts.

    Args:
        total: similarities of the units without their parts [units, units].
        inside: per family, similarities of the parts of every pair [units, units, parts, parts].
    """
    bounds = total + sum(torch.minimum(s.amax(3).sum(2), s.amax(2).sum(2)) for s in inside)
    known = torch.zeros(total.shape, dtype=torch.bool)
    found = [torch.empty(s.shape[:3], dtype=torch.int64) for s in inside]
    rows = torch.arange(len(total))
    while True:
        units = assign(bounds)
        new = rows[~known[rows, units]]
        if not len(new):
            return units, [one[rows, units] for one in found]
        pairs = new, units[new]
        known[pairs] = True
        bounds[pairs] = total[pairs]
        for one, s in zip(found, inside, strict=True):
            one[pairs] = chosen = assign(s[pairs])
            bounds[pairs] += s[pairs].gather(2, chosen[..., None]).sum((1, 2))
