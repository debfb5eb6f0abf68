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
        self._held = held
        for carrier, row in carried:
            self.rows.setdefault(carrier, []).append(np.array(row, dtype=np.int64))
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

    def exchangeable(self, one: int, other: int, alike: Callable[[int, int], bool]) -> bool:
        """Whether two units may change places with all that they carry, part by part.

        Every row must become a row of what its carrier becomes.

        Args:
            one, other: the units.
            alike: whether two atoms may take each other's place as far as they alone are concerned.
        """
        parts = self.parts(one), self.parts(other)
        if len(parts[0]) != len(parts[1]):
            return False
        pairs = list(zip(*parts, strict=True))
        image: dict[int, int] = {}
        for a, b in (*pairs, *((b, a) for a, b in pairs)):
            if image.setdefault(a, b) != b:
                return False
        if not all(a == b or alike(a, b) for a, b in pairs):
            return False
        touched = {owner for atom in image for owner in self._owners.get(atom, ())}
        touched |= {(atom, tuple(row.tolist())) for atom in image for row in self.rows.get(atom, ())}
        return all(self._has(image.get(c, c), [image.get(a, a) for a in row], row) for c, row in touched)

    def _has(self, carrier: int, moved: list[int], row: Row) -> bool:
        """Whether a carrier has a row of these atoms, in this order if ``row`` is held."""
        rows = [other.tolist() for other in self.rows.get(carrier, ()) if len(other) == len(moved)]
        return moved in rows if row in self._held else any(set(moved) == set(other) for other in rows)
