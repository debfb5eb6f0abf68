"""The step that all assignment methods share: the best permutation of one group, inner groups included."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fastcomb.rebasin.symmetries import Symmetries

#: Similarities [ones, others, units, units] of groups in network A with groups of the same kind in B.
Similarity = Callable[[Sequence[int], Sequence[int]], Tensor]


def assign(similarity: Tensor) -> Tensor:
    """The permutation p that maximises Σ_j similarity[j, p_j], by scipy's linear assignment."""
    return torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])


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
    total = total.clone()
    inside = [_best_pairs(similarity(family, family)) for family in group.families]
    for _, values in inside:
        total += values
    units = assign(total)
    step = {number: units}
    for family, (chosen, _) in zip(group.families, inside, strict=True):
        step |= {one: chosen[i, units[i]] for i, one in enumerate(family)}
    return step


def _best_pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    """The best assignment [ones, others, units] of every pair of groups, and its value [ones, others]."""
    costs = values.flatten(0, 1).double().neg().numpy()  # as scipy would make of each pair by itself
    chosen = np.empty(costs.shape[:2], np.int64)
    for row, cost in zip(chosen, costs, strict=True):
        row[:] = linear_sum_assignment(cost)[1]
    found = torch.from_numpy(chosen).reshape(values.shape[:3])
    return found, values.gather(3, found[..., None]).sum((2, 3))
