"""Results of combinations as columns: held in memory, or in the files of a run."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A range of combinations [start, stop).
Span = tuple[int, int]

#: Results of successive combinations: name → one number each.
Columns = dict[str, NDArray[Any]]


class Rows(abc.ABC):
    """Columns over spans of combinations.

    Attributes:
        spans: ascending, apart from each other.
        names: of the columns.
    """

    spans: list[Span]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.spans)

    @property
    def index(self) -> NDArray[Any]:
        """int64 [n]: the combinations' indices (uint64 where one is 2**63 or more)."""
        return indices(self.spans)

    @abc.abstractmethod
    def pieces(self, *names: str) -> Iterator[tuple[int, Columns]]:
        """First index and columns of successive pieces, ascending; no more than one is in memory."""

    @abc.abstractmethod
    def column(self, name: str) -> NDArray[Any]:
        """A whole column [n]."""


class Held(Rows):
    """Columns in memory.

    Args:
        spans: the combinations.
        columns: each [n].
    """

    def __init__(self, spans: Sequence[Span], columns: Columns) -> None:
        self.spans, self.names = list(spans), tuple(columns)
        self._columns = columns

    def pieces(self, *names: str) -> Iterator[tuple[int, Columns]]:
        """First index and columns of each span, as views."""
        at = 0
        for start, stop in self.spans:
            piece = slice(at, at + stop - start)
            yield start, {name: self._columns[name][piece] for name in names}
            at = piece.stop

    def column(self, name: str) -> NDArray[Any]:
        """A whole column [n], not copied."""
        return self._columns[name]


class Collected:
    """Columns that fill in any order.

    Args:
        spans: all combinations that are wanted.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self._wanted, self._done = list(spans), list[Span]()
        self._columns: Columns = {}

    def add(self, first: int, columns: Columns) -> None:
        """Take results of successive combinations from number ``first`` on, all in one wanted span."""
        count = len(next(iter(columns.values())))
        at = 0
        for start, stop in self._wanted:
            if start <= first < stop:
                break
            at += stop - start
        at += first - start
        total = sum(stop - start for start, stop in self._wanted)
        for name, values in columns.items():
            if name not in self._columns:
                self._columns[name] = np.empty(total, dtype=values.dtype)
            self._columns[name][at : at + count] = values
        self._done = joined([*self._done, (first, first + count)])

    def rows(self, within: Span) -> Held:
        """What is there by now of some combinations."""
        spans = overlap(self._done, [within])
        if spans == joined(self._wanted):
            return Held(spans, self._columns)
        there = np.concatenate([np.zeros(0, dtype=bool), *(_inside(one, spans) for one in self._wanted)])
        return Held(spans, {name: values[there] for name, values in self._columns.items()})


def _inside(span: Span, spans: Sequence[Span]) -> NDArray[np.bool_]:
    """Which combinations of a span are in some spans: bool [stop - start]."""
    there = np.zeros(span[1] - span[0], dtype=bool)
    for start, stop in overlap(spans, [span]):
        there[start - span[0] : stop - span[0]] = True
    return there


def joined(spans: Sequence[Span]) -> list[Span]:
    """The same combinations in the fewest spans, ascending."""
    result: list[Span] = []
    for start, stop in sorted(span for span in spans if span[0] < span[1]):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return result


def missing(wanted: Span, done: Sequence[Span]) -> list[Span]:
    """What of ``wanted`` is not in ``done``."""
    start, stop = wanted
    result = []
    for low, high in joined(done):
        if start < min(low, stop):
            result.append((start, min(low, stop)))
        start = max(start, high)
    return [*result, (start, stop)] if start < stop else result


def overlap(a: Sequence[Span], b: Sequence[Span]) -> list[Span]:
    """The combinations in both."""
    both = [(max(p[0], q[0]), min(p[1], q[1])) for p in joined(a) for q in joined(b)]
    return joined(both)


def indices(spans: Sequence[Span], like: Sequence[Span] | None = None) -> NDArray[Any]:
    """The indices in these spans: int64, or uint64 where one (of those in ``like``) is 2**63 or more."""
    dtype = np.uint64 if any(stop > 1 << 63 for _, stop in like or spans) else np.int64
    parts = [np.arange(stop - start, dtype=dtype) + dtype(start) for start, stop in spans]
    return np.concatenate([np.zeros(0, dtype=dtype), *parts])
