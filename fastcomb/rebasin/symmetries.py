"""Permutation symmetries of a network, read off its Program.

Every entry of every axis starts as something that could be permuted. Operations tie entries together (a
linear layer's inputs to the columns of its weight), bundle them (the features of an attention head) and
pin what they do not commute with. What remains are groups of units that can be permuted without changing
the function. Anything that is not understood pins all it touches, so that groups may be missing but not
wrong; :func:`fastcomb.rebasin.align` checks the function all the same.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fastcomb.program import Program
from fastcomb.rebasin.atoms import Found, Place
from fastcomb.rebasin.reader import Reader
from fastcomb.rebasin.rules import RULES
from fastcomb.utils.state_dicts import with_metadata

#: One permutation per group, int64 [group.size].
Matching = list[Tensor]


@dataclass(frozen=True, eq=False)
class Member:
    """Entries of a tensor that a group permutes.

    Attributes:
        name: of the parameter or buffer.
        dim: the dimension in question.
        index: int64 [units, r], the entries along ``dim`` that move with each unit.
        rows: the slice of dimension 0 in which they move, None for all.
    """

    name: str
    dim: int
    index: Tensor
    rows: tuple[int, int] | None = None

    def view(self, tensor: Tensor) -> Tensor:
        """The part of a tensor in which entries move."""
        return tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]

    def units(self, tensor: Tensor) -> Tensor:
        """The tensor's entries as one row per unit: [units, r * other entries]."""
        picked = self.view(tensor)
        if self._ascending:  # a slice, which copies nothing
            picked = picked.narrow(self.dim, int(self.index[0, 0]), self.index.numel()).movedim(self.dim, 0)
        else:
            picked = picked.movedim(self.dim, 0)[self.index.flatten().to(tensor.device)]
        return picked.reshape(len(self.index), -1)

    def permute(self, tensor: Tensor, permutation: Tensor) -> Tensor:
        """The tensor with unit ``permutation[j]`` in the place of unit j."""
        return _reordered(tensor, [(self, permutation)])

    def mix(self, tensor: Tensor, weights: Tensor) -> Tensor:
        """The tensor with Σ_k weights[j, k] · (unit k) in the place of unit j; differentiable in both."""
        moved = self.view(tensor).movedim(self.dim, 0)
        flat = self.index.flatten()
        units = moved[flat].reshape(len(self.index), -1)
        mixed = (weights @ units).reshape(len(flat), *moved.shape[1:])
        result = moved.index_copy(0, flat, mixed).movedim(0, self.dim)
        if self.rows is None:
            return result
        return torch.cat([tensor[: self.rows[0]], result, tensor[self.rows[1] :]])

    @functools.cached_property
    def _ascending(self) -> bool:
        """Whether the units' entries follow one another without a gap."""
        first = int(self.index[0, 0])
        return torch.equal(self.index.flatten(), torch.arange(first, first + self.index.numel()))

    def __str__(self) -> str:
        units, each = self.index.shape
        low, high = int(self.index.min()), int(self.index.max())
        text = f"{self.name}[{self.dim}]" if self.rows is None else f"{self.name}[{self.dim}] of rows "
        if self.rows is not None:
            text += f"{self.rows[0]}-{self.rows[1] - 1}"
        if low or each * units != high - low + 1:
            text += f" entries {low}-{high}"
        return text + (f" in blocks of {each}" if each > 1 else "")


class Together:
    """The same member of several groups, whose units are taken at once where they lie alike.

    Args:
        members: one of each group; units and entries as many in all.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        first = members[0]
        self._members = members
        self._all: Member | None = None
        self._rows = 0  # of dimension 0 for each group, where every group has its own
        each = first.rows[1] if first.rows else 0
        if len({(m.name, m.dim) for m in members}) > 1:
            return
        if all(m.rows is None for m in members):
            self._all = Member(first.name, first.dim, torch.cat([m.index for m in members]))
        elif all(
            m.rows == (i * each, (i + 1) * each) and torch.equal(m.index, first.index)
            for i, m in enumerate(members)
        ):
            self._all, self._rows = Member(first.name, first.dim + 1, first.index), each

    def units(self, state: Mapping[str, Tensor]) -> Tensor:
        """Entries of the members' tensors: [groups, units, r * other entries]."""
        count, units = len(self._members), len(self._members[0].index)
        if self._all is None:
            return torch.stack([m.units(state[m.name]) for m in self._members])
        tensor = state[self._all.name]
        if not self._rows:
            return self._all.units(tensor).reshape(count, units, -1)
        tensor = tensor[: count * self._rows].unflatten(0, (count, self._rows))
        return self._all.units(tensor).reshape(units, count, -1).transpose(0, 1)


@dataclass(frozen=True, eq=False)
class View:
    """Entries of a value of the Program that belong to a group's units.

    Attributes:
        value: name of the value.
        dims: its dimensions that are moved last and flattened to columns.
        index: int64 [units, r], columns of each unit.
    """

    value: str
    dims: tuple[int, ...]
    index: Tensor

    def units(self, value: Tensor) -> Tensor:
        """Activations per unit: [places, units], where places are samples, tokens, pixels and r.

        Complex ones are two numbers each.
        """
        if value.is_complex():
            value = torch.view_as_real(value.resolve_conj())
        last = tuple(range(-len(self.dims), 0))
        columns = value.movedim(self.dims, last).flatten(-len(self.dims))
        picked = columns.reshape(-1, columns.shape[-1])[:, self.index.flatten()]
        return picked.reshape(-1, *self.index.shape).movedim(-1, 1).reshape(-1, len(self.index))


@dataclass(frozen=True, eq=False)
class Group:
    """Units that one permutation of ``size`` moves together in all members.

    Attributes:
        size: how many units.
        members: what moves.
        families: groups inside the units (the features of attention heads): ``families[f][j]`` is the
            number of the group inside unit j.
        views: where its units' activations are found, in the values that weights or attention read.
    """

    size: int
    members: tuple[Member, ...]
    families: tuple[tuple[int, ...], ...] = ()
    views: tuple[View, ...] = field(default=(), repr=False)


@dataclass(frozen=True, eq=False)
class Symmetries:
    """The permutation groups of a network.

    A *matching* is one permutation per group, int64 [group.size]. It acts group after group: unit j of a
    group becomes what was unit ``permutation[j]``; groups inside the units of another come after it.

    Attributes:
        groups: in order of execution.
        pinned: (tensor, dimension) that cannot be permuted → why; inputs and outputs of the network and
            what unsupported operations touch.
        aliases: further names of tied parameters → the name that members have.
    """

    groups: tuple[Group, ...]
    pinned: Mapping[tuple[str, int], str] = field(repr=False)
    aliases: Mapping[str, str] = field(default_factory=dict, repr=False)

    def identity(self) -> Matching:
        """The matching that changes nothing."""
        return [torch.arange(group.size) for group in self.groups]

    def random(self, seed: int) -> Matching:
        """A uniformly random matching."""
        generator = torch.Generator().manual_seed(seed)
        return [torch.randperm(group.size, generator=generator) for group in self.groups]

    def permute(self, state: Mapping[str, Tensor], matching: Sequence[Tensor]) -> dict[str, Tensor]:
        """State dict in which the units are in another order, with what modules note about its entries.

        Args:
            state: parameters and buffers by name; names that no group has are passed through, names that
                it lacks are skipped.
            matching: one permutation per group.
        """
        self.check(matching)
        permuted = self.apply(state, dict(enumerate(matching)))
        return with_metadata(permuted, getattr(state, "_metadata", None))

    def apply(self, state: Mapping[str, Tensor], step: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """As :meth:`permute`, with permutations of some groups only: group number → permutation.

        A tensor is copied once for all groups of the same depth.
        """
        permuted = dict(state)
        levels: dict[int, dict[tuple[str, int], list[tuple[Member, Tensor]]]] = {}
        for number, permutation in step.items():
            group = self.groups[number]
            if not torch.equal(permutation, torch.arange(group.size)):
                level = levels.setdefault(self._depths[number], {})
                for member in group.members:
                    if member.name in permuted:
                        level.setdefault((member.name, member.dim), []).append((member, permutation))
        for _, level in sorted(levels.items()):
            for (name, _), moves in level.items():
                permuted[name] = _reordered(permuted[name], moves)
        return self._tied(permuted)

    def mix(self, state: Mapping[str, Tensor], weights: Sequence[Tensor]) -> dict[str, Tensor]:
        """As :meth:`permute`, with a matrix [units, units] per group: row j says what unit j is made of."""
        mixed = dict(state)
        for group, matrix in zip(self.groups, weights, strict=True):
            for member in group.members:
                if member.name in mixed:
                    mixed[member.name] = member.mix(mixed[member.name], matrix)
        return self._tied(mixed)

    def compose(self, first: Sequence[Tensor], then: Sequence[Tensor]) -> Matching:
        """The matching that acts as ``first`` followed by ``then``."""
        return self.followed(first, dict(enumerate(then)))

    def followed(self, matching: Sequence[Tensor], step: Mapping[int, Tensor]) -> Matching:
        """As :meth:`compose`, with permutations of some groups only: group number → permutation."""
        result = list(matching)
        for number in sorted(step):
            result[number] = result[number][step[number]]
            self._carry(self.groups[number], step[number], result)
        return result

    def inverse(self, matching: Sequence[Tensor]) -> Matching:
        """The matching that undoes another."""
        result = [torch.argsort(p) for p in matching]
        for number in reversed(range(len(self.groups))):  # inner groups first, then their order
            self._carry(self.groups[number], result[number], result)
        return result

    def _tied(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        aliases = [pair for pair in self.aliases.items() if state.keys() >= set(pair)]
        return state | {alias: state[name] for alias, name in aliases}

    def _carry(self, group: Group, step: Tensor, matching: Matching) -> None:
        """What lies inside units moves with them."""
        order = step.tolist()
        for family in group.families:
            trees = [[number, *self.inside(number)] for number in family]
            before = [[matching[n] for n in tree] for tree in trees]
            for tree, source in zip(trees, order, strict=True):
                for n, permutation in zip(tree, before[source], strict=True):
                    matching[n] = permutation

    @functools.cached_property
    def _depths(self) -> list[int]:
        """In how many other groups' units each group lies."""
        depths = [0] * len(self.groups)
        for number in range(len(self.groups)):
            for inner in self.inside(number):
                depths[inner] += 1
        return depths

    def inside(self, number: int) -> list[int]:
        """Numbers of all groups inside the units of a group."""
        inner = [n for family in self.groups[number].families for n in family]
        return [m for n in inner for m in (n, *self.inside(n))]

    def check(self, matching: Sequence[Tensor]) -> None:
        """Raise ValueError unless there is one permutation of the right size per group."""
        if len(matching) != len(self.groups):
            raise ValueError(f"{len(matching)} permutations for {len(self.groups)} groups")
        for number, (group, p) in enumerate(zip(self.groups, matching, strict=True)):
            if p.shape != (group.size,) or not torch.equal(p.cpu().sort().values, torch.arange(group.size)):
                raise ValueError(f"entry {number} is no permutation of {group.size} units")

    def __str__(self) -> str:
        lines = []
        for number, group in enumerate(self.groups):
            lines.append(f"group {number}: {group.size} units: {', '.join(map(str, group.members))}")
            if group.families:
                inner = [n for family in group.families for n in family]
                lines[-1] += f"; inside them groups {min(inner)}-{max(inner)}"
        reasons: dict[str, list[str]] = {}
        for (name, dim), reason in self.pinned.items():
            reasons.setdefault(reason, []).append(f"{name}[{dim}]")
        lines += [f"pinned, {reason}: {', '.join(places)}" for reason, places in reasons.items()]
        return "\n".join(lines)


def _reordered(tensor: Tensor, moves: Sequence[tuple[Member, Tensor]]) -> Tensor:
    """A tensor with members of one dimension permuted, one after the other."""
    parts: dict[tuple[int, int] | None, Tensor] = {}
    dim = moves[0][0].dim
    for member, permutation in moves:
        if member.rows not in parts:
            parts[member.rows] = torch.arange(member.view(tensor).shape[dim])
        order = parts[member.rows]
        order[member.index.flatten()] = order[member.index[permutation.cpu()].flatten()]
    if None in parts:
        tensor = tensor.index_select(dim, parts.pop(None).to(tensor.device))
    if parts:
        tensor = tensor.clone()
    for rows, order in parts.items():
        assert rows is not None
        part = tensor[rows[0] : rows[1]]
        tensor[rows[0] : rows[1]] = part.index_select(dim, order.to(tensor.device))
    return tensor


#: Symmetries of programs that still exist.
_known: WeakKeyDictionary[Program, Symmetries] = WeakKeyDictionary()


def symmetries(program: Program, *others: Program) -> Symmetries:
    """Read the permutation groups off a Program.

    Args:
        program: the captured network.
        *others: further Programs of the same network, captured on inputs of other sizes or in training
            mode. The groups are then those that all of them have.

    Raises:
        TypeError: it is none, but a module perhaps.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> print(fc.rebasin.symmetries(fc.capture(model)))
        group 0: 8 units: 0.weight[0], 0.bias[0], 2.weight[1]
        pinned, input of the network: 0.weight[1]
        pinned, output of the network: 2.weight[0], 2.bias[0]
    """
    for one in (program, *others):
        if not isinstance(one, Program):
            raise TypeError(f"a {type(one).__name__} is no Program; pass fastcomb.capture(model)")
    if others:
        return _read(program, *others)
    if program not in _known:
        _known[program] = _read(program)
    return _known[program]


def _read(*programs: Program) -> Symmetries:
    permutable, pinned = Reader(programs, RULES).read()
    groups = tuple(_group(one, permutable) for one in permutable)
    return Symmetries(groups, pinned, programs[0].aliases)


def _group(group: Found, others: list[Found]) -> Group:
    members = tuple(_member(place, torch.from_numpy(index)) for place, index in group.places.items())
    inside: dict[int, list[int]] = {int(unit): [] for unit in group.units}
    for number, other in enumerate(others):
        if other.parent in inside:
            inside[other.parent].append(number)
    counts = {len(numbers) for numbers in inside.values()}
    families = tuple(zip(*inside.values(), strict=True)) if counts != {0} else ()
    views = tuple(View(view.value, view.dims, torch.from_numpy(i)) for view, i in group.views.items())
    return Group(len(group.units), members, families, views)


def _member(place: Place, index: Tensor) -> Member:
    return Member(place.name, place.dim, index, place.rows)
