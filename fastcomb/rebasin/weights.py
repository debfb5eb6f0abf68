"""Weight matching: permutations that bring the weights of one network closest to another's.

Coordinate descent of Ainsworth, Hayase and Srinivasa, "Git Re-Basin: merging models modulo permutation
symmetries" (ICLR 2023): with all other permutations held, the best one for a group is a linear
assignment problem, solved exactly. Similarities are kept between visits: a group's own step reorders
them, and a neighbour's step makes only those anew that it touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fastcomb.rebasin.assignment import best_step, outer_groups
from fastcomb.rebasin.method import Match, Method, Problem, check_count, inner_product
from fastcomb.rebasin.symmetries import Matching


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
        self.a = {name: problem.a[name].detach().float() for name in names}
        b = {name: problem.b[name].detach().float() for name in names}
        self.b = problem.symmetries.permute(b, start)
        self._versions = dict.fromkeys(names, 0)
        self._kept: dict[int, list[tuple[int, Tensor]]] = {}
        self._seen: dict[int, list[int]] = {}

    def run(self, sweeps: int, generator: np.random.Generator) -> Match:
        """Visit all groups until none improves."""
        outer = outer_groups(self.problem.symmetries)
        history = [inner_product(self.problem, self.matching)]
        for sweep in range(sweeps):
            # the first sweep goes with the data: a group's inputs are matched when its turn comes
            visits = [outer[i] for i in generator.permutation(len(outer))] if sweep else outer
            improved = False
            for number in visits:
                improved |= self.visit(number)
            if not improved:
                break
            history.append(inner_product(self.problem, self.matching))
        return Match(self.matching, history)

    def visit(self, number: int) -> bool:
        """Take the best step in one group; whether it improved the objective."""
        symmetries = self.problem.symmetries
        versions = [self._versions[name] for name in self._touched(number)]
        if self._seen.get(number) == versions:
            return False  # nothing it depends on has changed since it was last found optimal
        step = best_step(symmetries, number, self._similarity)
        changed = any(not torch.equal(p, torch.arange(len(p))) for p in step.values())
        if changed:
            whole = [step.get(n, identity) for n, identity in enumerate(symmetries.identity())]
            names = self._touched(number)
            before = {name: self.b[name] for name in names}
            after = symmetries.permute(before, whole)
            gain = sum(
                float((self.a[name].double() * (after[name].double() - before[name].double())).sum())
                for name in names
            )
            scale = sum(float(self.a[name].norm() * before[name].norm()) for name in names)
            changed = gain > 1e-9 * scale  # below lie roundings, among which a descent could go in circles
        if changed:
            self.b |= after
            self.matching = symmetries.compose(self.matching, whole)
            for name in names:
                self._versions[name] += 1
            if not symmetries.groups[number].families:
                self._reorder(number, step[number])
        if not changed or self._once(number):
            self._seen[number] = [self._versions[name] for name in self._touched(number)]
        return changed

    def _once(self, number: int) -> bool:
        """Whether a group acts on one dimension of each tensor, so that its best step is exact."""
        names = [m.name for m in self.problem.symmetries.groups[number].members]
        return len(set(names)) == len(names)

    def _touched(self, number: int) -> list[str]:
        members = self.problem.symmetries.groups[number].members
        return list(dict.fromkeys(m.name for m in members if m.name in self.problem.counted))

    def _similarity(self, one: int, other: int) -> Tensor:
        """Σ over members of ⟨unit of A, unit of B⟩; inner parts of units count in their own groups."""
        groups = self.problem.symmetries.groups
        group = groups[one]
        inside = {(m.name, m.dim) for f in group.families for n in f for m in groups[n].members}
        total = torch.zeros(group.size, groups[other].size)
        kept = self._kept.setdefault(one, []) if one == other else []
        pairs = [
            (m, n)
            for m, n in zip(group.members, groups[other].members, strict=True)
            if m.name in self.problem.counted and (m.name, m.dim) not in inside
        ]
        for i, (mine, theirs) in enumerate(pairs):
            version = self._versions[mine.name]
            if i < len(kept) and kept[i][0] == version:
                total += kept[i][1]
                continue
            part = mine.units(self.a[mine.name]) @ theirs.units(self.b[theirs.name]).T
            total += part
            if one == other:
                kept[i : i + 1] = [(version, part)]
        return total

    def _reorder(self, number: int, step: Tensor) -> None:
        """A group's own step permutes its similarities, unless it acts twice on a tensor."""
        names = [m.name for m in self.problem.symmetries.groups[number].members]
        names = [name for name in names if name in self.problem.counted]
        self._kept[number] = [
            (self._versions[name], part[:, step]) if names.count(name) == 1 else (-1, part)
            for name, (_, part) in zip(names, self._kept.get(number, []), strict=True)
        ]
