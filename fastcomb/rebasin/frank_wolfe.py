"""Frank–Wolfe matching: all groups at once, over doubly stochastic matrices.

Crisostomi et al., "C²M³: cycle-consistent multi-model merging" (NeurIPS 2024). The relaxed objective is a
polynomial in the matrices. A step goes towards the best permutation of every group under the gradient,
by the length that an exact line search finds. The end is rounded to permutations, which coordinate
descent improves where it can. For n networks every one gets a permutation to a common universe, and the
objective sums over all pairs, so the maps between them compose consistently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor
from tqdm import tqdm

from fastcomb.rebasin.assignment import assign
from fastcomb.rebasin.descent import Descent
from fastcomb.rebasin.method import Match, Method, Problem, check_count, inner_product
from fastcomb.rebasin.symmetries import Matching, Symmetries
from fastcomb.utils.progress import hidden

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class FrankWolfe(Method):
    """Maximise the inner product of A's and permuted B's weights, jointly over all groups.

    Args:
        starts: searches, the first from the identity, further ones from random permutations.
        steps: most steps per search.
        tolerance: a search ends when a step gains less than this fraction of the objective.

    Raises:
        ValueError: a count below 1.

    Example:
        >>> b = fc.rebasin.align(a, a, "random", seed=1).model  # a with its units in another order
        >>> found = fc.rebasin.align(a, b, fc.rebasin.FrankWolfe(starts=2), progress=False)
        >>> torch.equal(found.model[0].weight, a[0].weight)
        True
    """

    name: ClassVar[str] = "frank_wolfe"
    starts: int = 1
    steps: int = 100
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        check_count("starts", self.starts)
        check_count("steps", self.steps)

    def match(self, problem: Problem) -> Match:
        """The best of all searches, each of which is rounded and then improved by coordinate descent."""
        a, b = problem.numbers(problem.a), problem.numbers(problem.b)
        matches = []
        for start in range(self.starts):
            first = problem.start(start)
            (rounded,) = self.search(problem.symmetries, a, [b], [first], problem.progress)
            descent = Descent(problem, rounded).run(100, np.random.default_rng([problem.seed, start]))
            matches.append(Match(descent.permutations, [inner_product(problem, first), *descent.objective]))
        return max(matches, key=lambda match: match.objective[-1])

    def search(
        self,
        symmetries: Symmetries,
        fixed: Weights | None,
        others: Sequence[Weights],
        starts: Sequence[Matching],
        progress: bool | None,
    ) -> list[Matching]:
        """Matchings of ``others`` that maximise their inner products with each other and with ``fixed``."""
        points = [[_matrix(p) for p in start] for start in starts]
        value = float(_pairs(symmetries, fixed, others, points))
        bar = tqdm(range(self.steps), unit="step", disable=hidden(progress))
        for _ in bar:
            gradients = _gradients(symmetries, fixed, others, points)
            corners = [[_matrix(assign(g)) for g in one] for one in gradients]
            length, best = self._line(symmetries, fixed, others, points, corners, value)
            if best <= value + self.tolerance * abs(value):
                break
            points = _between(points, corners, length)
            value = best
        bar.close()
        return [[assign(matrix) for matrix in one] for one in points]

    def _line(
        self,
        symmetries: Symmetries,
        fixed: Weights | None,
        others: Sequence[Weights],
        points: list[list[Tensor]],
        corners: list[list[Tensor]],
        value: float,
    ) -> tuple[float, float]:
        """Length in [0, 1] and value of the best point on the way: the maximum of a polynomial."""
        acting: dict[str, int] = {}
        for group in symmetries.groups:
            for member in group.members:
                acting[member.name] = acting.get(member.name, 0) + (member.rows is None)
        degree = max(acting.values()) * (1 if fixed is not None and len(others) == 1 else 2)
        at = (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2  # Chebyshev points of [0, 1]
        values = [value]
        for t in at[1:]:
            values.append(float(_pairs(symmetries, fixed, others, _between(points, corners, float(t)))))
        curve = Polynomial.fit(at, values, degree, domain=[0, 1])
        roots = curve.deriv().roots()
        inside = [r.real for r in map(complex, roots) if abs(r.imag) < 1e-9 and 0 < r.real < 1]
        best = max([0.0, 1.0, *inside], key=lambda t: float(curve(t)))
        return best, float(curve(best))


def universe(problems: Sequence[Problem], method: FrankWolfe) -> list[Match]:
    """Match n networks jointly, on the first: ``problems[i]`` pairs it with network i.

    The maps between any two networks, composed through the first, are consistent around every cycle.
    """
    first = problems[0]
    symmetries, names = first.symmetries, first.members()
    states = [p.numbers(p.b) for p in problems]
    best: tuple[float, list[Matching], list[float]] | None = None
    for start in range(method.starts):
        starts = [dataclasses.replace(p, seed=p.seed + i).start(start) for i, p in enumerate(problems)]
        history = [_total(symmetries, states, starts)]
        matchings = method.search(symmetries, None, states, starts, first.progress)
        history.append(_total(symmetries, states, matchings))
        generator = np.random.default_rng([first.seed, start])
        while True:
            for i, problem in enumerate(problems):
                moved = [symmetries.permute(s, m) for s, m in zip(states, matchings, strict=True)]
                others = [s for j, s in enumerate(moved) if j != i]
                rest = {n: torch.stack([s[n] for s in others]).sum(0) for n in names}
                towards = dataclasses.replace(problem, a=rest)
                matchings[i] = Descent(towards, matchings[i]).run(100, generator).permutations
            history.append(_total(symmetries, states, matchings))
            if history[-1] <= history[-2] + method.tolerance * abs(history[-2]):
                break
        if best is None or history[-1] > best[0]:
            best = history[-1], matchings, history
    assert best is not None
    back = symmetries.inverse(best[1][0])
    return [Match(symmetries.compose(matching, back), best[2]) for matching in best[1]]


def _total(symmetries: Symmetries, states: Sequence[Weights], matchings: Sequence[Matching]) -> float:
    """Σ over pairs of networks of the inner product of their permuted weights."""
    moved = [symmetries.permute(s, m) for s, m in zip(states, matchings, strict=True)]
    return float(_inner(moved))


def _inner(states: Sequence[Weights]) -> Tensor:
    """Σ_{i<j} ⟨θ_i, θ_j⟩ = (‖Σθ_i‖² − Σ‖θ_i‖²) / 2, summed in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for name in states[0]:
        if len(states) == 2:
            total = total + (states[0][name] * states[1][name]).sum(dtype=torch.float64)
            continue
        summed = torch.stack([state[name] for state in states]).sum(0)
        squares = sum((state[name] ** 2).sum(dtype=torch.float64) for state in states)
        total = total + ((summed**2).sum(dtype=torch.float64) - squares) / 2
    return total


def _pairs(
    symmetries: Symmetries, fixed: Weights | None, others: Sequence[Weights], points: list[list[Tensor]]
) -> Tensor:
    mixed = [symmetries.mix(state, matrices) for state, matrices in zip(others, points, strict=True)]
    return _inner(mixed if fixed is None else [fixed, *mixed])


def _gradients(
    symmetries: Symmetries, fixed: Weights | None, others: Sequence[Weights], points: list[list[Tensor]]
) -> list[list[Tensor]]:
    leaves = [[matrix.clone().requires_grad_() for matrix in one] for one in points]
    with torch.enable_grad():
        value = _pairs(symmetries, fixed, others, leaves)
        flat = torch.autograd.grad(value, [matrix for one in leaves for matrix in one])
    count = len(symmetries.groups)
    return [list(flat[i * count : (i + 1) * count]) for i in range(len(leaves))]


def _between(points: list[list[Tensor]], corners: list[list[Tensor]], length: float) -> list[list[Tensor]]:
    return [
        [p + length * (c - p) for p, c in zip(one, two, strict=True)]
        for one, two in zip(points, corners, strict=True)
    ]


def _matrix(permutation: Tensor) -> Tensor:
    return torch.eye(len(permutation))[permutation]
