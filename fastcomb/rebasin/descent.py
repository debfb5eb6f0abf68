"""Coordinate descent on the distance of weights: one group of units at a time.

Of Ainsworth, Hayase and Srinivasa, "Git Re-Basin: merging models modulo permutation symmetries" (ICLR
2023): with all other permutations held, the best one for a group is a linear assignment problem, solved
exactly. A group is visited again only if one that it shares a weight with has moved since, and then only
the weights that moved are compared anew. Of groups inside units, such as the features of attention heads or
the channels of a grouped convolution's groups, those that stay where they are move more often than the units
that hold them.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import torch
from torch import Tensor

from fastcomb.rebasin.assignment import assign, best_step, outer_groups
from fastcomb.rebasin.method import Match, Problem
from fastcomb.rebasin.symmetries import Matching, Member, Together

#: Work of assigning one similarity, where comparing a weight is 1; and of starting any assignment.
_ASSIGNING = 8
_STARTING = 4000
#: Weights of a unit in a tensor from which on they are multiplied by themselves, not beside others.
_WIDE = 128


class Descent:
    """Coordinate descent from one starting point.

    Args:
        start: the matching to start from.

    Attributes:
        matching: where the descent is.
        value: the inner product of A's and permuted B's weights there.
        work: weights compared and, eight times, similarities assigned so far; a measure of the time spent
            (some nanoseconds each).
    """

    def __init__(self, problem: Problem, start: Matching) -> None:
        self.problem = problem
        self.matching = list(start)
        self.work = 0
        self._a, b = problem.numbers(problem.a), problem.numbers(problem.b)
        self._b = problem.symmetries.permute(b, start)
        self._sizes = {name: float(self._a[name].norm() * b[name].norm()) for name in b}
        self._kept: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}
        self._seen: dict[tuple[int, bool], list[Tensor]] = {}
        self._members: dict[int, list[int]] = {}
        self._together: dict[tuple[int, ...], Together] = {}  # of families, and the number of a member
        self._units_of_a: dict[tuple[int, ...], list[Tensor]] = {}  # of families, with all that is counted
        self.measure()

    def measure(self) -> float:
        """The value from the weights; steps add what they gain, which lets roundings add up."""
        self.value = sum(float((a * self._b[name]).sum(dtype=torch.float64)) for name, a in self._a.items())
        return self.value

    def copy(self) -> Descent:
        """A descent that goes on from here by itself."""
        other = object.__new__(Descent)
        other.__dict__.update(self.__dict__)
        other.matching = list(self.matching)
        other._b, other._kept, other._seen = dict(self._b), dict(self._kept), dict(self._seen)
        return other

    def run(self, sweeps: int, generator: np.random.Generator) -> Match:
        """Visit all groups until none improves: the first time in their order, then in random orders."""
        outer = outer_groups(self.problem.symmetries)
        history = [self.value]
        if self.sweep(outer):
            history += [self.value, *self.settle(sweeps - 1, generator)]
        return Match(self.matching, history)

    def settle(self, sweeps: int, generator: np.random.Generator) -> list[float]:
        """Visit all groups in random orders until none improves; the value after each sweep that gained.

        Units with groups inside are compared with one another, all with all, when nothing else gains.
        """
        outer = outer_groups(self.problem.symmetries)
        history = []
        for _ in range(sweeps):
            order = [outer[i] for i in generator.permutation(len(outer))]
            if not self.sweep(order, inside=True) and not self.sweep(order):
                break
            history.append(self.value)
        return history

    def sweep(self, groups: Iterable[int], *, inside: bool = False) -> bool:
        """Take the best step in each group in turn; whether any gained.

        ``inside``: of units with groups inside, move these alone.
        """
        before = self.value
        for number in groups:
            self.value += self._visit(
                number, inside and bool(self.problem.symmetries.groups[number].families)
            )
        return self.value > before

    def open(self, groups: Iterable[int]) -> None:
        """Match each group by those of its weights whose other side is matched already.

        Weights between it and groups that are yet to come only disturb the choice, for their order will
        change. A group of which only biases and scales are matched yet is matched by all its weights.
        """
        done: set[int] = set()
        self._kept = {}  # of other members perhaps
        symmetries = self.problem.symmetries
        for number in groups:
            nest = [number, *symmetries.inside(number)]
            done |= set(nest)
            counted = {n: self._settled(n, done) for n in nest}
            if not any(self._matrices(n, which) for n, which in counted.items()):
                counted = {n: self._counted(n) for n in nest}
            self._move(self._best(number, counted), self._touched(number))
        self.measure()

    def scramble(self, number: int, generator: np.random.Generator) -> None:
        """Put a group's units into a random order."""
        order = torch.from_numpy(generator.permutation(self.problem.symmetries.groups[number].size))
        names = self._touched(number)
        before = self._b
        self._b = dict(before)
        if self._exact(number):
            self._own(number, self._counted(number))  # what is kept moves along
        self._move({number: order}, names)
        self.value += self._difference(before, names)

    def sweep_work(self) -> int:
        """Work of a sweep in which all weights have moved."""
        groups = self.problem.symmetries.groups
        compared = sum(self._a[m.name].numel() for g in groups for m in g.members if m.name in self._a)
        families = [family for group in groups for family in group.families]
        pairs = sum(
            len(family) ** 2 * (_ASSIGNING * groups[family[0]].size ** 2 + _STARTING) for family in families
        )
        return (
            compared
            + pairs
            + _ASSIGNING * sum(groups[n].size ** 2 for n in outer_groups(self.problem.symmetries))
        )

    def unmatched(self, number: int, done: AbstractSet[int]) -> int:
        """Entries of the weights of a group, and of those inside it, whose other side is not done."""
        groups, total = self.problem.symmetries.groups, 0
        nest = [number, *self.problem.symmetries.inside(number)]
        done = {*nest, *done}
        for n in nest:
            missing = set(self._counted(n)) - set(self._settled(n, done))
            total += sum(self._a[groups[n].members[i].name].numel() for i in missing)
        return total

    def _matrices(self, number: int, which: Sequence[int]) -> bool:
        """Whether weights of several dimensions are among some members; the others tell little."""
        members = self.problem.symmetries.groups[number].members
        return any(self._a[members[i].name].ndim > 1 for i in which)

    def _settled(self, number: int, done: AbstractSet[int]) -> list[int]:
        """The counted members of a group that no group permutes which is not done."""
        members = self.problem.symmetries.groups[number].members
        owners = self.problem.owners
        return [i for i in self._counted(number) if owners[members[i].name] <= done]

    def _visit(self, number: int, inside: bool) -> float:
        """Take the best step in one group, or in those inside its units; what it gained."""
        now = [self._b[name] for name in self._touched(number)]
        if all(map(operator.is_, now, self._seen.get((number, inside), [None] * len(now)))):
            return 0.0  # nothing it depends on has changed since it was last found optimal
        nest = [number, *self.problem.symmetries.inside(number)]
        step = self._inside(number) if inside else self._best(number, {n: self._counted(n) for n in nest})
        gain = 0.0
        if any(not torch.equal(p, torch.arange(len(p))) for p in step.values()):
            gain = self._step(number, step, self._kept[number][0] if self._exact(number) else None)
        if not gain or self._exact(number):
            self._seen[number, inside] = [self._b[name] for name in self._touched(number)]
        return gain

    def _best(self, number: int, counted: Mapping[int, list[int]]) -> dict[int, Tensor]:
        """The best permutations of a group and of those inside it, by these members of each."""

        def similarity(ones: Sequence[int], others: Sequence[int]) -> Tensor:
            if len(ones) > 1:
                return self._products(ones, others, counted[ones[0]])
            return self._own(ones[0], counted[ones[0]])[None, None]

        return best_step(self.problem.symmetries, number, similarity)

    def _inside(self, number: int) -> dict[int, Tensor]:
        """The best permutations of the groups inside a group's units, which stay where they are."""
        step: dict[int, Tensor] = {}
        for family in self.problem.symmetries.groups[number].families:
            a, b = self._sides(family, family, self._counted(family[0]))
            compared = sum(y.numel() for y in b)
            self.work += len(family) * (_ASSIGNING * a[0].shape[1] ** 2 + _STARTING) + compared
            step |= dict(
                zip(family, assign(_summed(x @ y.mT for x, y in zip(a, b, strict=True))), strict=True)
            )
        return step

    def _step(self, number: int, step: dict[int, Tensor], similarity: Tensor | None) -> float:
        """Apply a step if it gains, by its similarities where these tell exactly."""
        names = self._touched(number)
        # below lie roundings, among which a descent could go in circles
        least = 1e-7 * sum(self._sizes[name] for name in names)
        if similarity is not None:
            units = torch.arange(len(similarity))
            chosen = similarity[units, step[number]].double() - similarity.diagonal().double()
            gain = float(chosen.sum())
            if gain <= least:
                return 0.0
            self._move(step, names)
            return gain
        trial = self.copy()
        trial._move(step, names)
        gain = trial._difference(self._b, names)
        if gain <= least:
            return 0.0
        self.matching, self._b = trial.matching, trial._b
        return gain

    def _difference(self, before: Mapping[str, Tensor], names: list[str]) -> float:
        """What the value has gained since ``before`` by weights of these names."""
        return sum(
            float((self._a[name] * (self._b[name] - before[name])).sum(dtype=torch.float64)) for name in names
        )

    def _move(self, step: dict[int, Tensor], names: list[str]) -> None:
        """Apply permutations of some groups, which move the weights of these names."""
        self._b |= self.problem.symmetries.apply({name: self._b[name] for name in names}, step)
        self.matching = self.problem.symmetries.followed(self.matching, step)
        for number, order in step.items():
            if number in self._kept and self._exact(number):  # its own step permutes its similarities
                members = self.problem.symmetries.groups[number].members
                total, used = self._kept[number]
                self._kept[number] = total[:, order], {i: self._b[members[i].name] for i in used}

    def _exact(self, number: int) -> bool:
        """Whether similarities tell a step's gain: no inner groups, one dimension of each tensor."""
        group = self.problem.symmetries.groups[number]
        names = [m.name for m in group.members]
        return not group.families and len(set(names)) == len(names)

    def _touched(self, number: int) -> list[str]:
        members = self.problem.symmetries.groups[number].members
        return list(dict.fromkeys(m.name for m in members if m.name in self.problem.counted))

    def _products(self, ones: Sequence[int], others: Sequence[int], counted: list[int]) -> Tensor:
        """⟨unit of A, unit of B⟩ [ones, others, units, units] for groups of one kind, summed over members."""
        a, b = self._sides(ones, others, counted)
        size = a[0].shape[1]
        self.work += len(ones) * len(others) * (_ASSIGNING * size * size + _STARTING)
        products = _summed(x.flatten(0, 1) @ y.flatten(0, 1).T for x, y in zip(a, b, strict=True))
        return products.reshape(len(ones), size, len(others), size).transpose(1, 2)

    def _sides(
        self, ones: Sequence[int], others: Sequence[int], counted: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Units of A and of B with their weights, as of :meth:`_weights`."""
        if counted != self._counted(ones[0]):  # in an opening, where no two groups have the same
            return self._weights(ones, counted, self._a), self._weights(others, counted, self._b)
        key = tuple(ones)
        if key not in self._units_of_a:
            self._units_of_a[key] = self._weights(ones, counted, self._a)
        return self._units_of_a[key], self._weights(others, counted, self._b)

    def _weights(
        self, numbers: Sequence[int], which: Sequence[int], state: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """Units of several members, for groups of one kind, in some tensors [groups, units, weights]."""
        groups = [self.problem.symmetries.groups[n] for n in numbers]
        parts = [] if which else [torch.zeros(len(numbers), groups[0].size, 0)]
        for i in which:
            key = (*numbers, i)
            if key not in self._together:
                self._together[key] = Together([group.members[i] for group in groups])
            parts.append(self._together[key].units(state))
        return _grouped(parts)

    def _own(self, number: int, counted: Sequence[int]) -> Tensor:
        """Σ over these members of ⟨unit of A, unit of B⟩; inner parts of units count in their own groups.

        What has been compared before is kept, and only what moved since is compared anew.
        """
        members = self.problem.symmetries.groups[number].members
        self.work += _ASSIGNING * len(members[0].index) ** 2
        total, used = self._kept.get(number, (None, {}))
        stale = [i for i in counted if used.get(i) is not self._b[members[i].name]]
        self.work += sum(self._b[members[i].name].numel() for i in stale)
        if total is None:
            total = torch.zeros(2 * [len(members[0].index)])
        if stale:
            weights, changes = zip(*(self._change(members[i], used.get(i)) for i in stale), strict=True)
            for one, change in zip(_grouped(weights), _grouped(changes), strict=True):
                total = total.addmm(one, change.T)
        self._kept[number] = total, used | {i: self._b[members[i].name] for i in stale}
        return total

    def _change(self, member: Member, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Units of A and what was added to those of B since, where anything was: [units, changed entries]."""
        sides = [self._a[member.name], self._b[member.name]]
        if before is None:
            a, now = map(member.units, sides)
            return a, now
        sides.append(before)
        if member.dim < 2 <= before.ndim and member.rows is None:
            # another group permutes the other dimension, and late in a descent few of its units move
            other = 1 - member.dim
            changed = (sides[1] != before).movedim(other, 0).flatten(1).any(1).nonzero()[:, 0]
            if 2 * len(changed) < before.shape[other]:
                sides = [side.index_select(other, changed) for side in sides]
        a, now, before = (member.units(side) for side in sides)
        return a, now - before

    def _counted(self, number: int) -> list[int]:
        """Members of a group that its similarity counts."""
        if number not in self._members:
            groups = self.problem.symmetries.groups
            inside = {(m.name, m.dim) for f in groups[number].families for n in f for m in groups[n].members}
            self._members[number] = [
                i
                for i, member in enumerate(groups[number].members)
                if member.name in self.problem.counted and (member.name, member.dim) not in inside
            ]
        return self._members[number]


def _grouped(parts: Sequence[Tensor]) -> list[Tensor]:
    """The same weights in fewer tensors [..., units, weights]: those with few of them side by side.

    Each costs a pass over all similarities, but to join large ones costs a copy.
    """
    narrow = [part for part in parts if part.shape[-1] < _WIDE]
    return [
        *([torch.cat(narrow, -1)] if narrow else []),
        *(part for part in parts if part.shape[-1] >= _WIDE),
    ]


def _summed(parts: Iterable[Tensor]) -> Tensor:
    return functools.reduce(Tensor.add, parts)
