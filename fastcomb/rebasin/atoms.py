"""Entries of axes, which of them are one and the same unit, and which may change places.

An *atom* is one entry of an axis (a channel, a feature). Operations equate atoms, *bundle* them (the 64
features of an attention head move together, in an order of their own; the 49 places of a channel in a
flattened feature map move together in fixed order) and pin what they do not commute with. At the end,
atoms that play the same part everywhere may be permuted among themselves: those are the groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastcomb.rebasin.bundles import DEPTH, Bundles, Ids, Row, ranks_among

#: Numbers of entries; tuples of numbers, unlike lists, are passed over by the garbage collector.
Entries = tuple[int, ...]
#: A root, and the entries that move with it by the number of their place.
Unit = tuple[int, dict[int, Entries]]

_CONFLICT = "moves with two sets of entries that do not fit each other"


class Place(NamedTuple):
    """Where an axis of atoms lies: a dimension of a tensor, perhaps only for some rows of dimension 0."""

    name: str
    dim: int
    rows: tuple[int, int] | None


class Seen(NamedTuple):
    """Dimensions of a value of the Program whose entries, flattened, are atoms."""

    value: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """Units that may be permuted: entries [units, r] that belong to them, in weights and in values."""

    units: Ids
    places: dict[Place, Ids]
    views: dict[Seen, Ids]
    parent: int
    rank: tuple[int, int, int]


def _tangled(index: Ids) -> bool:
    """Whether the entries [units, r] of units may not correspond in ascending order.

    Equated with several others of its own axis, an entry may follow another path in each unit.
    """
    return index.shape[1] > 1 and bool((np.diff(index - index[:, :1], axis=0) != 0).any())


def _without_repeats(rows: Ids) -> tuple[list[Row], bool]:
    """Rows [A, B] of roots, each root once; whether all repeat theirs at the same positions."""
    found = [tuple(dict.fromkeys(row)) for row in rows.tolist()]
    if all(len(row) == rows.shape[1] for row in found):
        return found, True
    firsts = [[row.index(root) for root in row] for row in rows.tolist()]
    return found, all(one == firsts[0] for one in firsts)


def _parted(
    units: list[Unit], bundles: Bundles, alike: Callable[[int, int], bool], bare: Callable[[int], bool]
) -> list[list[Unit]]:
    """Units of one kind, parted into those that may change places among each other."""
    if bundles.crossed.isdisjoint(part for root, _ in units for part in bundles.parts(root)):
        return [units]
    parted: list[list[Unit]] = []
    for unit in units:
        for others in parted:
            if bundles.exchangeable(others[0][0], unit[0], alike, bare):
                others.append(unit)
                break
        else:
            parted.append([unit])
    return parted


class Atoms:
    """Union-find over atoms, vectorised, with bundles, pins and marks that are resolved at the end."""

    def __init__(self) -> None:
        self._parent: Ids = np.empty(0, dtype=np.int64)
        self._count = 0
        self._bundles: list[tuple[Ids, Ids, bool]] = []
        self._pins: list[tuple[Ids, str]] = []
        self._marks: list[tuple[Ids, str]] = []
        self._told: list[tuple[Ids, str]] = []
        self._places: list[tuple[Place, Ids]] = []
        self._views: list[tuple[Seen, Ids]] = []
        self._reached: list[Ids] = []

    def new(self, count: int) -> Ids:
        """Fresh atoms, each a unit of its own."""
        first, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            more = np.arange(len(self._parent), max(2 * self._count, 4096), dtype=np.int64)
            self._parent = np.concatenate([self._parent, more])
        return np.arange(first, self._count, dtype=np.int64)

    def find(self, ids: Ids) -> Ids:
        """The representative of each atom."""
        roots = self._parent[ids]
        while True:
            further = self._parent[roots]
            if np.array_equal(further, roots):
                break
            roots = further
        self._parent[ids] = roots
        return roots

    def union(self, one: Ids, other: Ids) -> None:
        """Equate atoms, entry by entry."""
        one, other = one.reshape(-1), other.reshape(-1)
        while True:
            a, b = self.find(one), self.find(other)
            differ = a != b
            if not differ.any():
                return
            np.minimum.at(self._parent, np.maximum(a, b)[differ], np.minimum(a, b)[differ])

    def pin(self, ids: Ids, reason: str) -> None:
        """These atoms stay where they are."""
        self._pins.append((ids.reshape(-1), reason))

    def mark(self, ids: Ids, tag: str) -> None:
        """Tell these atoms from others, for example the two halves of a split."""
        self._marks.append((ids.reshape(-1), tag))

    def tell(self, ids: Ids, reason: str) -> None:
        """Why these atoms stay where they are, should nothing be found that they may change places with."""
        self._told.append((ids.reshape(-1), reason))

    def reach(self, ids: Ids) -> None:
        """The network's result may depend on these atoms."""
        self._reached.append(ids.reshape(-1))

    def pin_unreached(self, reason: str) -> None:
        """Pin entries of tensors that no operation reached, neither as such nor in a bundle."""
        reached = np.zeros(self._count, dtype=bool)
        for ids in self._reached:
            reached[self.find(ids)] = True
        for _ in range(DEPTH):
            for carriers, rows, _ in self._bundles:
                reached[self.find(rows[reached[self.find(carriers)]].reshape(-1))] = True
        for _, ids in self._places:
            left = ids[~reached[self.find(ids)]]
            if len(left):
                self.pin(left, reason)

    def place(self, place: Place, ids: Ids) -> None:
        """These atoms are the entries of a dimension, in order."""
        self._places.append((place, ids))

    def see(self, view: Seen, ids: Ids) -> None:
        """These atoms are the columns of a value."""
        self._views.append((view, ids))

    def forget(self, place: Place) -> None:
        """Take back :meth:`place`."""
        self._places = [entry for entry in self._places if entry[0] != place]

    def bundle(self, rows: Ids, *, frozen: bool) -> Ids:
        """Atoms [A] that carry the rows of ``rows`` [A, B] along; frozen ones keep their order inside."""
        carriers = self.new(len(rows))
        self._bundles.append((carriers, rows, frozen))
        return carriers

    def groups(self) -> tuple[list[Found], dict[tuple[str, int], str]]:
        """Resolve everything: units that may be permuted, and per dimension of a tensor why not."""
        bundles = self._resolve_bundles()
        pinned = self._resolve_pins(bundles)
        groups = self._collect(bundles, pinned)
        return groups, self._reasons(pinned | self._left(bundles, groups, pinned))

    def _resolve_bundles(self) -> Bundles:
        """The rows that each carrier carries, after carriers of the same have become the same."""
        while True:
            before = self._parent[: self._count].copy()
            conflicts: list[Ids] = []
            carriers: dict[Row, int] = {}
            held: set[Row] = set()
            for ids, rows, still in self._bundles:
                found, fit = _without_repeats(self.find(rows))
                for carrier, row in zip(ids.tolist(), found, strict=True):
                    if not fit:
                        conflicts.append(np.array([carrier, *row]))
                        continue
                    if row in carriers:  # carriers of the same are the same
                        self.union(np.array([carriers[row]]), np.array([carrier]))
                    else:
                        carriers[row] = carrier
                    if still:
                        held.add(row)
            if np.array_equal(before, self._parent[: self._count]):
                break
        for ids in conflicts:
            self.pin(ids, _CONFLICT)
        roots = self.find(np.array(list(carriers.values()), dtype=np.int64)).tolist()
        return Bundles(zip(roots, carriers, strict=True), held)

    def _resolve_pins(self, bundles: Bundles) -> dict[int, str]:
        """Root → why it stays where it is: pinned itself, or through what it carries or what carries it."""
        pinned: dict[int, str] = {}
        for ids, reason in self._pins:
            for root in self.find(ids).tolist():
                pinned.setdefault(root, reason)
        for depth in range(DEPTH + 1):
            spread = dict(pinned)
            for carrier, rows in bundles.rows.items():
                for row in rows:
                    why = next((pinned[child] for child in row.tolist() if child in pinned), None)
                    if why is not None:
                        spread.setdefault(carrier, why)
                    if carrier in pinned and bundles.holds(row):
                        for child in row.tolist():
                            spread.setdefault(child, pinned[carrier])
            if len(spread) == len(pinned):
                return pinned
            pinned = spread
            if depth == DEPTH:
                for carrier, rows in bundles.rows.items():
                    for root in (carrier, *(child for row in rows for child in row.tolist())):
                        pinned.setdefault(root, _CONFLICT)
        return pinned

    def _parts_played(self) -> NDArray[np.uint64]:
        """A hash per root of the places and marks of its entries, each by its rank among others."""
        base = np.zeros(self._count, dtype=np.uint64)
        words: dict[object, np.uint64] = {}
        random = np.random.default_rng(1)

        def word() -> np.uint64:
            return np.uint64(random.integers(1 << 64, dtype=np.uint64) | 1)

        marked = np.unique(np.concatenate([ids for ids, _ in self._marks] or [self.new(0)]))
        ranks = np.zeros(self._count, dtype=np.int64)
        ranks[marked] = ranks_among(self.find(marked))
        for place, ids in self._places:
            code = words.setdefault((place.name, place.dim), word())
            roots = self.find(ids)
            np.add.at(base, roots, code)
            ranks[ids] = ranks_among(roots)
        most = int(ranks.max(initial=0)) + 1
        factors = random.integers(1 << 64, size=most, dtype=np.uint64) | np.uint64(1)
        for ids, tag in self._marks:
            np.add.at(base, self.find(ids), words.setdefault(tag, word()) * factors[ranks[ids]])
        return base

    def _signatures(self, base: NDArray[np.uint64], bundles: Bundles) -> NDArray[np.uint64]:
        """As :meth:`_parts_played`, with the parts that all play which a root carries."""
        random = np.random.default_rng(0)
        longest = max((len(row) for rows in bundles.rows.values() for row in rows), default=0)
        factors = random.integers(1 << 64, size=longest, dtype=np.uint64) | np.uint64(1)
        free = random.integers(1 << 64, dtype=np.uint64)
        full = base
        for _ in range(DEPTH if bundles.rows else 0):
            deeper = base.copy()
            for carrier, rows in bundles.rows.items():
                for row in rows:
                    still = np.array([int(child) in bundles.frozen for child in row])
                    inside = full[row] ^ np.where(still, np.uint64(0), free)
                    inside ^= inside >> np.uint64(29)  # or sums of sums could agree by accident
                    deeper[carrier : carrier + 1] += (inside * factors[: len(row)]).sum(dtype=np.uint64)
            full = deeper
        return full

    def _collect(self, bundles: Bundles, pinned: dict[int, str]) -> list[Found]:
        """The units that may be permuted: two roots or more of one signature in one parent, not pinned."""
        base = self._parts_played()
        signatures = self._signatures(base, bundles)
        parents: dict[int, int] = {}
        family: dict[int, int] = {}
        for carrier, rows in bundles.rows.items():
            for number, row in enumerate(rows):
                parents |= dict.fromkeys(row.tolist(), carrier)
                family |= dict.fromkeys(row.tolist(), number)
        entries = self._entries()
        everywhere = set(range(len(self._places)))
        whole = {number for number in everywhere if self._places[number][0].rows is None}

        def alike(one: int, other: int) -> bool:
            return one not in pinned and other not in pinned and bool(base[one] == base[other])

        def bare(root: int) -> bool:
            return root not in entries

        def carried(root: int, inside: set[int]) -> dict[int, Entries]:
            """Entries that move with a root: its own, and in places ``inside`` those of what it carries."""
            own = entries.get(root, {})
            parts = bundles.parts(root)[1:]
            if not parts:
                return own
            moving = {number: list(where) for number, where in own.items()}
            for child in parts:
                for number, where in entries.get(child, {}).items():
                    if number in inside:
                        moving.setdefault(number, []).extend(where)
            return {number: tuple(dict.fromkeys(where)) for number, where in moving.items()}

        def together(units: list[Unit]) -> list[Unit]:
            """Units with what they carry in places of some rows, which moves by itself unless the rows do."""
            if whole == everywhere:
                return units
            everything = [(root, carried(root, everywhere)) for root, _ in units]
            shared = Counter(number for _, moved in everything for number in moved)
            alone = {n for n, count in shared.items() if count == 1 and n not in whole}
            return [(root, {n: w for n, w in moved.items() if n not in alone}) for root, moved in everything]

        kinds: dict[tuple[int, int, int, tuple[int, ...]], list[Unit]] = {}
        for root in sorted(entries.keys() | bundles.rows.keys()):
            if root in pinned or root in bundles.frozen:
                continue
            moved = carried(root, whole)
            if moved:
                # grouped rows may lie differently in units that are alike otherwise
                where = tuple(n for number in sorted(moved) for n in (number, len(moved[number])))
                key = (parents.get(root, -1), family.get(root, -1), int(signatures[root]), where)
                kinds.setdefault(key, []).append((root, moved))
        groups = []
        for (parent, *_), several in kinds.items():
            for units in _parted(several, bundles, alike, bare) if len(several) > 1 else ():
                units = together(units)
                sizes = [{n: len(where) for n, where in moved.items()} for _, moved in units]
                if len(units) < 2 or any(one != sizes[0] for one in sizes):
                    pinned |= {root: _CONFLICT for root, _ in units}
                    continue
                first = min(units[0][1])
                units.sort(key=lambda unit: unit[1][first])
                numbers = sorted(units[0][1])
                places = {self._places[n][0]: np.array([moved[n] for _, moved in units]) for n in numbers}
                if any(_tangled(index) for index in places.values()):
                    pinned |= {root: _CONFLICT for root, _ in units}
                    continue
                depth, up = 0, parent
                while up in parents or up >= 0:
                    depth, up = depth + 1, parents.get(up, -1)
                roots = [root for root, _ in units]
                rank = (first, depth, units[0][1][first][0])
                groups.append(Found(np.array(roots, dtype=np.int64), places, {}, parent, rank))
        self._look(groups)
        return sorted(groups, key=lambda group: group.rank)

    def _look(self, groups: list[Found]) -> None:
        """Find the columns of values that belong to the units of groups."""
        group_of = np.full(self._count, -1, dtype=np.int64)
        for number, group in enumerate(groups):
            group_of[group.units] = number
        for view, ids in self._views:
            roots = self.find(ids)
            order = np.argsort(roots, kind="stable")
            roots = roots[order]
            numbers = group_of[roots]
            for number in np.unique(numbers[numbers >= 0]).tolist():
                units = groups[number].units
                low, high = (np.searchsorted(roots, units, side=side) for side in ("left", "right"))
                each = int(high[0] - low[0])
                if each and (high - low == each).all():
                    groups[number].views[view] = order[low[:, None] + np.arange(each)]

    def _entries(self) -> dict[int, dict[int, Entries]]:
        """Root → number of the place → its entries there."""
        entries: dict[int, dict[int, Entries]] = {}
        for number, (_, ids) in enumerate(self._places):
            there: dict[int, list[int]] = {}
            for entry, root in enumerate(self.find(ids).tolist()):
                there.setdefault(root, []).append(entry)
            for root, where in there.items():
                entries.setdefault(root, {})[number] = tuple(where)
        return entries

    def _left(self, bundles: Bundles, groups: list[Found], pinned: dict[int, str]) -> dict[int, str]:
        """Why atoms are in no group that are not pinned, as far as told."""
        moved: set[int] = {part for group in groups for root in group.units for part in bundles.parts(root)}
        left: dict[int, str] = {}
        for ids, reason in self._told:
            for root in self.find(ids).tolist():
                for part in bundles.parts(root):
                    if part not in moved and part not in pinned:
                        left.setdefault(part, reason)
        for atom in bundles.crossed - moved - pinned.keys() - left.keys():
            left[atom] = next((pinned[c] for c in bundles.carriers(atom) if c in pinned), _CONFLICT)
        return left

    def _reasons(self, pinned: dict[int, str]) -> dict[tuple[str, int], str]:
        """For each dimension of a tensor with pinned entries why, and how many of them if not all."""
        reasons: dict[tuple[str, int], str] = {}
        for place, ids in self._places:
            held = Counter(pinned[root] for root in self.find(ids).tolist() if root in pinned)
            if held and (place.name, place.dim) not in reasons:
                some = {
                    why: "" if n == len(ids) else f" ({n} of {len(ids)} entries)" for why, n in held.items()
                }
                reasons[place.name, place.dim] = ", ".join(why + part for why, part in some.items())
        return reasons
