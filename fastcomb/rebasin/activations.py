"""Activation matching: pair the units that respond alike to the same inputs.

Li et al., "Convergent Learning" (ICLR 2016) for correlation; Ainsworth, Hayase and Srinivasa, "Git
Re-Basin" (ICLR 2023), section 3.1, for the squared distance. Units are compared on what the next layer
reads of them, each pixel or token being one more sample. A permutation of network B permutes its
activations and changes nothing else, so every group is solved once, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastcomb.rebasin.assignment import best_step, outer_groups
from fastcomb.rebasin.method import Match, Method, Problem
from fastcomb.rebasin.symmetries import Symmetries, View


@dataclass(frozen=True)
class ActivationMatching(Method):
    """Maximise the correlation of paired units' activations, or minimise their squared distance.

    Args:
        criterion: "correlation", or "l2", the squared distance.

    Raises:
        ValueError: another criterion.
    """

    name: ClassVar[str] = "activations"
    needs_data: ClassVar[bool] = True
    criterion: Literal["correlation", "l2"] = "correlation"

    def __post_init__(self) -> None:
        if self.criterion not in ("correlation", "l2"):
            raise ValueError(f"criterion={self.criterion!r} is neither 'correlation' nor 'l2'")

    def match(self, problem: Problem) -> Match:
        symmetries = problem.symmetries
        moments = _moments(problem)
        place = {number: (moment, at) for moment in moments for number, at in moment.offsets.items()}

        def similarity(one: int, other: int) -> Tensor:
            sizes = symmetries.groups[one].size, symmetries.groups[other].size
            if one not in place:
                return torch.zeros(sizes)
            (moment, i), (_, j) = place[one], place[other]
            return moment.similarity(self.criterion)[i : i + sizes[0], j : j + sizes[1]]

        matching = symmetries.identity()
        for number in outer_groups(symmetries):
            for group, permutation in best_step(symmetries, number, similarity).items():
                matching[group] = permutation
        return Match(
            matching,
            [_objective(symmetries, moments, self.criterion, m) for m in (symmetries.identity(), matching)],
        )


class _Moment:
    """Moments of the activations of groups side by side: one group, or those inside another's units."""

    def __init__(self, symmetries: Symmetries, numbers: tuple[int, ...]) -> None:
        groups = [symmetries.groups[number] for number in numbers]
        self.offsets: dict[int, int] = {}
        total = 0
        for number, group in zip(numbers, groups, strict=True):
            self.offsets[number], total = total, total + group.size
        common = zip(*(group.views for group in groups), strict=True)
        self.views = [
            View(views[0].value, views[0].dims, torch.cat([view.index for view in views]))
            for views in common
            if len({(view.value, view.dims) for view in views}) == 1
        ]
        self.count = 0
        self.sums = torch.zeros(4, total, dtype=torch.float64)  # Σa, Σb, Σa², Σb²
        self.products = torch.zeros(total, total, dtype=torch.float64)

    def add(self, view: View, a: Tensor, b: Tensor) -> None:
        """Count one batch of one value of both networks."""
        one, other = view.units(a).double(), view.units(b).double()
        self.count += len(one)
        self.sums += torch.stack([one.sum(0), other.sum(0), (one**2).sum(0), (other**2).sum(0)])
        self.products += one.T @ other

    def similarity(self, criterion: str) -> Tensor:
        """Correlation of A's units with B's, or their mean product."""
        n = max(self.count, 1)
        mean_a, mean_b, square_a, square_b = self.sums / n
        if criterion == "l2":
            return self.products / n
        spread = torch.outer((square_a - mean_a**2).clamp_min(0), (square_b - mean_b**2).clamp_min(0)).sqrt()
        covariance = self.products / n - torch.outer(mean_a, mean_b)
        # a unit that never changes correlates with nothing
        return torch.where(spread > 1e-12 * spread.max(), covariance / spread, torch.zeros(()).double())


def _moments(problem: Problem) -> list[_Moment]:
    symmetries = problem.symmetries
    families = [family for group in symmetries.groups for family in group.families]
    sets = [*((number,) for number in outer_groups(symmetries)), *families]
    moments = [_Moment(symmetries, numbers) for numbers in sets]
    with torch.no_grad():
        for x, _ in problem.data or ():
            a, b = (problem.program.values(state, x) for state in (problem.a, problem.b))
            for moment in moments:
                for view in moment.views:
                    moment.add(view, a[view.value], b[view.value])
    return moments


def _objective(
    symmetries: Symmetries, moments: list[_Moment], criterion: str, matching: list[Tensor]
) -> float:
    """Mean over all units of the similarity with their partner."""
    whole = [torch.arange(group.size) for group in symmetries.groups]
    for group, units in zip(symmetries.groups, matching, strict=True):
        for family in group.families:
            for unit, number in enumerate(family):
                whole[number] = units[unit].expand(symmetries.groups[number].size)
    total, count = 0.0, 0
    for moment in moments:
        if not moment.views:
            continue
        similarity = moment.similarity(criterion)
        numbers = list(moment.offsets)
        for number, at in moment.offsets.items():
            source = at
            if len(numbers) > 1:
                source = moment.offsets[numbers[int(whole[number][0])]]
            rows = at + torch.arange(len(matching[number]))
            total += float(similarity[rows, source + matching[number]].sum())
            count += len(rows)
    return total / max(count, 1)
