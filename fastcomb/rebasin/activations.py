"""Activation matching: pair the units that respond alike to the same inputs.

Li et al., "Convergent Learning" (ICLR 2016) for correlation; Ainsworth, Hayase and Srinivasa, "Git
Re-Basin" (ICLR 2023), section 3.1, for the squared distance. Units are compared wherever a layer or an
attention reads or yields them (before and after the nonlinearity, and all along a residual stream), each
pixel or token being one more sample. A permutation of network B permutes its activations and changes
nothing else, so every group is solved once, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastcomb.rebasin.assignment import best_step, outer_groups
from fastcomb.rebasin.method import Match, Method, Problem
from fastcomb.rebasin.symmetries import Matching, Symmetries, View
from fastcomb.utils.inputs import leaves


@dataclass(frozen=True)
class ActivationMatching(Method):
    """Maximise the correlation of paired units' activations, or minimise their squared distance.

    Args:
        criterion: "correlation", or "l2", the squared distance.

    Raises:
        ValueError: another criterion.

    Example:
        >>> b = fc.rebasin.align(a, a, "random", seed=1).model  # a with its units in another order
        >>> found = fc.rebasin.align(a, b, fc.rebasin.ActivationMatching("l2"), data=x)
        >>> torch.equal(found.model[0].weight, a[0].weight)
        True
    """

    name: ClassVar[str] = "activations"
    needs_data: ClassVar[bool] = True
    criterion: Literal["correlation", "l2"] = "correlation"

    def __post_init__(self) -> None:
        if self.criterion not in ("correlation", "l2"):
            raise ValueError(f"criterion={self.criterion!r} is neither 'correlation' nor 'l2'")

    def match(self, problem: Problem) -> Match:
        """Solve every outer group once, with the groups inside its units.

        The objective is the mean similarity of units with their partners, unmatched and matched.
        """
        symmetries = problem.symmetries
        similarities = [(moment, moment.similarity(self.criterion)) for moment in _moments(problem)]
        place = {n: (values, at) for moment, values in similarities for n, at in moment.offsets.items()}

        def similarity(ones: Sequence[int], others: Sequence[int]) -> Tensor:
            return torch.stack([torch.stack([pair(one, other) for other in others]) for one in ones])

        def pair(one: int, other: int) -> Tensor:
            (values, i), (_, j) = place[one], place[other]
            return values[i : i + symmetries.groups[one].size, j : j + symmetries.groups[other].size]

        matching = symmetries.identity()
        for number in outer_groups(symmetries):
            for group, permutation in best_step(symmetries, number, similarity).items():
                matching[group] = permutation
        objective = [_objective(symmetries, pair, m) for m in (symmetries.identity(), matching)]
        return Match(matching, objective)


class _Moment:
    """Moments of the activations of groups side by side: one group, or those inside another's units.

    One entry per view, so that values of different scales count alike.
    """

    def __init__(self, symmetries: Symmetries, numbers: tuple[int, ...]) -> None:
        groups = [symmetries.groups[number] for number in numbers]
        self.offsets: dict[int, int] = {}
        total = 0
        for number, group in zip(numbers, groups, strict=True):
            self.offsets[number], total = total, total + group.size
        self.views = [
            View(views[0].value, views[0].dims, torch.cat([view.index for view in views]))
            for views in zip(*(group.views for group in groups), strict=False)
            if len({(view.value, view.dims) for view in views}) == 1
        ]
        self._counts = [0] * len(self.views)
        self._sums = torch.zeros(len(self.views), 4, total, dtype=torch.float64)  # Σa, Σb, Σa², Σb²
        self._products = torch.zeros(len(self.views), total, total, dtype=torch.float64)

    def add(self, number: int, a: Tensor, b: Tensor) -> None:
        """Count one batch of a view's value in both networks."""
        one, other = (self.views[number].units(value).double() for value in (a, b))
        self._counts[number] += len(one)
        self._sums[number] += torch.stack([one.sum(0), other.sum(0), (one**2).sum(0), (other**2).sum(0)])
        self._products[number] += one.T @ other

    def similarity(self, criterion: str) -> Tensor:
        """Similarity [units, units] of A's units with B's, the mean over views.

        Correlation, or minus half the squared distance in units of the view's mean square.
        """
        total = torch.zeros(self._products.shape[1:], dtype=torch.float64)
        for count, sums, products in zip(self._counts, self._sums, self._products, strict=True):
            mean_a, mean_b, square_a, square_b = sums / max(count, 1)
            products = products / max(count, 1)
            if criterion == "l2":
                scale = float((square_a.mean() + square_b.mean()) / 2) or 1.0
                total += (products - (square_a[:, None] + square_b) / 2) / scale
                continue
            spread = torch.outer((square_a - mean_a**2).clamp_min(0), (square_b - mean_b**2).clamp_min(0))
            covariance = products - torch.outer(mean_a, mean_b)
            # a unit that never changes correlates with nothing
            alive = spread > 1e-20 * spread.max()
            total += torch.where(alive, covariance / spread.sqrt().where(alive, spread.new_ones(())), 0.0)
        return total / max(len(self.views), 1)


def _moments(problem: Problem) -> list[_Moment]:
    """Moments over all data: of each outer group by itself, and of the groups inside its units together."""
    symmetries = problem.symmetries
    families = [family for group in symmetries.groups for family in group.families]
    sets = [*((number,) for number in outer_groups(symmetries)), *families]
    moments = [_Moment(symmetries, numbers) for numbers in sets]
    with torch.no_grad():
        for x, _ in problem.data or ():
            a, b = (problem.program.values(state, *leaves(x)) for state in (problem.a, problem.b))
            for moment in moments:
                for number, view in enumerate(moment.views):
                    moment.add(number, a[view.value], b[view.value])
    return moments


def _objective(symmetries: Symmetries, similarity: Callable[[int, int], Tensor], matching: Matching) -> float:
    """Mean over all units of the similarity with their partner."""
    sources = {number: number for number in range(len(symmetries.groups))}
    for group, units in zip(symmetries.groups, matching, strict=True):
        for family in group.families:
            for slot, number in enumerate(family):
                sources[number] = family[int(units[slot])]
    values = [
        similarity(number, sources[number])[torch.arange(len(p)), p] for number, p in enumerate(matching)
    ]
    return float(torch.cat(values).mean())
