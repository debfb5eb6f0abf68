"""Which units carry which others, and whether two units may change places where bundles cross."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
#: The atoms that a carrier carries.
Row = tuple[int, ...]

#: Bundles of bundles deeper than this are pinned.
DEPTH = 6


class Bundles:
    """Carriers and the rows of atoms that they carry.

    Bundles *cross* where an atom lies in several rows, as an entry of a matrix lies in a row and in a column:
    the features of query heads, say, carried by their heads and by the features of the key that they meet.

    Args:
        carried: pairs of a carrier and a row that it carries.
        held: rows that keep their order inside.

    Attributes:
        rows: carrier → the rows that it carries.
        crossed: atoms in several rows, which only move with what carries them.
        frozen: atoms that are no units of their own: crossed ones, and those in held rows.
    """

    def __init__(self, carried: Iterable[tuple[int, Row]], held: set[Row]) -> None:
        self.rows: dict[int, list[Ids]] = {}
        self._owners: dict[int, list[tuple[int, Row]]] = {}
        self._carriers: dict[frozenset[int], set[int]] = {}
        self._held = held
        for carrier, row in carried:
            self.rows.setdefault(carrier, []).append(np.array(row, dtype=np.int64))
            self._carriers.setdefault(frozenset(row), set()).add(carrier)
            for child in row:
                self._owners.setdefault(child, []).append((carrier, row))
        self.crossed = {child for child, owners in self._owners.items() if len(owners) > 1}
        self.frozen = self.crossed | {child for row in held for child in row}

    def holds(self, row: Ids) -> bool:
        """Whether a row keeps its order inside."""
        return tuple(row.tolist()) in self._held

    def carriers(self, child: int) -> list[int]:
        """What carries an atom."""
        return [carrier for carrier, _ in self._owners.get(child, ())]

    def parts(self, root: int, depth: int = 0) -> list[int]:
        """A unit and all that it carries, at every depth and in the order of its rows."""
        found = [root]
        for row in self.rows.get(root, ()) if depth < DEPTH else ():
            for child in row.tolist():
                found += self.parts(child, depth + 1)
        return found

    def exchangeable(
        self, one: int, other: int, alike: Callable[[int, int], bool], bare: Callable[[int], bool]
    ) -> bool:
        """Whether two units may change places with all that they carry, part by part.

        Every row must become a row of what its carrier becomes.

        Args:
            one, other: the units.
            alike: whether two atoms may take each other's place as far as they alone are concerned.
            bare: whether an atom is no entry of a tensor, and moves when what it carries does.
        """
        parts = self.parts(one), self.parts(other)
        if len(parts[0]) != len(parts[1]) or not set(parts[0]).isdisjoint(parts[1]):
            return False
        image: dict[int, int] = {}
        for a, b in (*zip(*parts, strict=True), *zip(*parts[::-1], strict=True)):
            if image.setdefault(a, b) != b:
                return False
        waiting = list(image)
        touched: set[tuple[int, Row]] = set()
        while waiting:
            atom = waiting.pop()
            if image[atom] != atom and not alike(atom, image[atom]):
                return False
            touched.update(self._owners.get(atom, ()))
            touched.update((atom, tuple(row.tolist())) for row in self.rows.get(atom, ()))
            for carrier, row in self._owners.get(atom, ()):
                moved = frozenset(image.get(a, a) for a in row)
                if carrier not in image and bare(carrier) and moved != frozenset(row):
                    found = self._carriers.get(moved, set())
                    if len(found) != 1:
                        return False
                    (image[carrier],) = found
                    waiting.append(carrier)
        return all(self._has(image.get(c, c), [image.get(a, a) for a in row], row) for c, row in touched)

    def _has(self, carrier: int, moved: list[int], row: Row) -> bool:
        """Whether a carrier has a row of these atoms, in this order if ``row`` is held."""
        rows = [other.tolist() for other in self.rows.get(carrier, ()) if len(other) == len(moved)]
        return moved in rows if row in self._held else any(set(moved) == set(other) for other in rows)


def ranks_among(roots: Ids) -> Ids:
    """How many of the same come before each."""
    order = np.argsort(roots, kind="stable")
    ordered = roots[order]
    first = np.searchsorted(ordered, ordered, side="left")
    ranks = np.empty_like(roots)
    ranks[order] = np.arange(len(roots)) - first
    return ranks
