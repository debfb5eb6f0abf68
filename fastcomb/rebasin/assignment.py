"""The step that all assignment methods share: the best permutation of one group, inner groups included."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fastcomb.rebasin.symmetries import Symmetries

#: Similarity [units, units] of a group in network A with a group of the same kind in network B.
Similarity = Callable[[int, int], Tensor]


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
    total = similarity(number, number)
    if not group.families:
        return {number: assign(total)}
    total = total.clone()
    inside: dict[tuple[int, int, int], Tensor] = {}
    for family in group.families:
        for i, one in enumerate(family):
            for j, other in enumerate(family):
                values = similarity(one, other)
                chosen = assign(values)
                inside[one, i, j] = chosen
                total[i, j] += values[torch.arange(len(chosen)), chosen].sum()
    units = assign(total)
    step = {number: units}
    for family in group.families:
        for i, one in enumerate(family):
            step[one] = inside[one, i, int(units[i])]
    return step
