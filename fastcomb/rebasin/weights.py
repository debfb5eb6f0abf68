"""Weight matching: permutations that bring the weights of one network closest to another's.

Coordinate descent of Ainsworth, Hayase and Srinivasa, "Git Re-Basin: merging models modulo permutation
symmetries" (ICLR 2023): with all other permutations held, the best one for a group is a linear
assignment problem, solved exactly. A group is visited again only if one that it shares a weight with has
moved since, and then only the weights that moved are compared anew.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fastcomb.rebasin.assignment import best_step, outer_groups
from fastcomb.rebasin.method import Match, Method, Problem, check_count, inner_product
from fastcomb.rebasin.symmetries import Matching, Member


@dataclass(frozen=True)
class WeightMatching(Method):
    """Maximise the inner product of A's and permuted B's weights; no data needed.

    Args:
        starts: descents from different starting points, of which the best counts: the first from the
            given networks, further ones from random permutations.
        sweeps: most visits of all groups per start.

    Raises:
        ValueError: a count below 1.
    """

    name: ClassVar[str] = "weights"
    starts: int = 1
    sweeps: int = 100

    def __post_init__(self) -> None:
        check_count("starts", self.starts)
        check_count("sweeps", self.sweeps)

    def match(self, problem: Problem) -> Match:
        found = []
        for start in range(self.starts):
            first = problem.start(start)
            found.append(
                Descent(problem, first).run(self.sweeps, np.random.default_rng([problem.seed, start]))
            )
        return max(found, key=lambda match: match.objective[-1])  # the first of equals


class Descent:
    """Coordinate descent from one starting point.

    Args:
        start: the matching to start from.
    """

    def __init__(self, problem: Problem, start: Matching) -> None:
        self.problem = problem
        self.matching = list(start)
        names = problem.members()
        self._a = {name: problem.a[name].detach().float() for name in names}
        b = {name: problem.b[name].detach().float() for name in names}
        self._b = problem.symmetries.permute(b, start)
        self._sizes = {n: float(self._a[n].norm() * b[n].norm()) for n in names}
        self._kept: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}
        self._seen: dict[int, list[Tensor]] = {}

    def run(self, sweeps: int, generator: np.random.Generator) -> Match:
        """Visit all groups until none improves."""
        outer = outer_groups(self.problem.symmetries)
        history = [inner_product(self.problem, self.matching)]
        for sweep in range(sweeps):
            # the first sweep goes with the data: a group's inputs are matched when its turn comes
            visits = [outer[i] for i in generator.permutation(len(outer))] if sweep else outer
            gain = sum(self._visit(number) for number in visits)
            if not gain:
                break
            history.append(history[-1] + gain)
        return Match(self.matching, history)

    def _visit(self, number: int) -> float:
        """Take the best step in one group; what it gained."""
        now = [self._b[name] for name in self._touched(number)]
        if all(map(operator.is_, now, self._seen.get(number, [None] * len(now)))):
            return 0.0  # nothing it depends on has changed since it was last found optimal
        symmetries = self.problem.symmetries
        own: list[Tensor] = []

        def similarity(one: int, other: int) -> Tensor:
            found = self._similarity(one, other)
            own.append(found)
            return found

        step = best_step(symmetries, number, similarity)
        gain = 0.0
        if any(not torch.equal(p, torch.arange(len(p))) for p in step.values()):
            gain = self._step(number, step, own[0] if self._exact(number) else None)
        if not gain or self._exact(number):
            self._seen[number] = [self._b[name] for name in self._touched(number)]
        return gain

    def _step(self, number: int, step: dict[int, Tensor], similarity: Tensor | None) -> float:
        """Apply a step if it gains, by its similarities where these tell exactly."""
        symmetries = self.problem.symmetries
        names = self._touched(number)
        before = {name: self._b[name] for name in names}
        # below lie roundings, among which a descent could go in circles
        least = 1e-7 * sum(self._sizes[name] for name in names)
        if similarity is not None:
            units = torch.arange(len(similarity))
            chosen = similarity[units, step[number]].double() - similarity.diagonal().double()
            gain = float(chosen.sum())
            if gain <= least:
                return 0.0
        whole = [step.get(n, identity) for n, identity in enumerate(symmetries.identity())]
        after = symmetries.permute(before, whole)
        if similarity is None:
            gain = sum(
                float((self._a[name] * (after[name] - before[name])).sum(dtype=torch.float64))
                for name in names
            )
            if gain <= least:
                return 0.0
        self._b |= after
        self.matching = symmetries.compose(self.matching, whole)
        if similarity is not None:  # its own step permutes a group's similarities
            members = self.problem.symmetries.groups[number].members
            used = {i: self._b[members[i].name] for i in self._counted(number)}
            self._kept[number] = similarity[:, step[number]], used
        return gain

    def _exact(self, number: int) -> bool:
        """Whether similarities tell a step's gain: no inner groups, one dimension of each tensor."""
        group = self.problem.symmetries.groups[number]
        names = [m.name for m in group.members]
        return not group.families and len(set(names)) == len(names)

    def _touched(self, number: int) -> list[str]:
        members = self.problem.symmetries.groups[number].members
        return list(dict.fromkeys(m.name for m in members if m.name in self.problem.counted))

    def _similarity(self, one: int, other: int) -> Tensor:
        """Σ over members of ⟨unit of A, unit of B⟩; inner parts of units count in their own groups."""
        counted = self._counted(one)
        mine, theirs = (self.problem.symmetries.groups[number].members for number in (one, other))
        if one != other:
            return _joined(mine, counted, self._a) @ _joined(theirs, counted, self._b).T
        total, used = self._kept.get(one, (None, {}))
        stale = [i for i in counted if used.get(i) is not self._b[mine[i].name]]
        if total is None:
            total = _joined(mine, stale, self._a) @ _joined(mine, stale, self._b).T
        elif stale:
            weights, changes = zip(*(self._change(mine[i], used[i]) for i in stale), strict=True)
            total = total.addmm(torch.cat(weights, 1), torch.cat(changes, 1).T)
        self._kept[one] = total, {i: self._b[mine[i].name] for i in counted}
        return total

    def _change(self, member: Member, before: Tensor) -> tuple[Tensor, Tensor]:
        """Units of A and what was added to those of B since, where anything was: [units, changed entries]."""
        sides = [self._a[member.name], self._b[member.name], before]
        if member.dim < 2 <= before.ndim and member.rows is None:
            # another group permutes the other dimension, and late in a descent few of its units move
            other = 1 - member.dim
            changed = (sides[1] != before).movedim(other, 0).flatten(1).any(1).nonzero()[:, 0]
            sides = [side.index_select(other, changed) for side in sides]
        a, now, before = (member.units(side) for side in sides)
        return a, now - before

    def _counted(self, number: int) -> list[int]:
        """Members of a group that its similarity counts."""
        groups = self.problem.symmetries.groups
        inside = {(m.name, m.dim) for f in groups[number].families for n in f for m in groups[n].members}
        return [
            i
            for i, member in enumerate(groups[number].members)
            if member.name in self.problem.counted and (member.name, member.dim) not in inside
        ]


def _joined(members: Sequence[Member], which: list[int], state: Mapping[str, Tensor]) -> Tensor:
    """Units of several members side by side: [units, all their weights]."""
    rows = [members[i].units(state[members[i].name]) for i in which]
    return torch.cat(rows, 1) if rows else torch.zeros(len(members[0].index), 0)
