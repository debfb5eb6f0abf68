"""Stopping a sweep once it is precise enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastcomb.statistics.confidence_sequence import Precision, Running
from fastcomb.statistics.proportion import Interval
from fastcomb.sweep.rows import Columns, Span

#: Combinations between two looks, counted from the first: where a sweep stops does not depend on its pieces.
_TOGETHER = 1024


class Watch:
    """Looks at combinations in their order, whatever order their results come in.

    So what it sees does not depend on which results are quick to come by.

    Args:
        precision: what is waited for; None waits for nothing.
        wanted: combinations that may be needed.

    Attributes:
        seen: the combinations looked at.
    """

    def __init__(self, precision: Precision | None, span: Span) -> None:
        self._running = Running(precision) if precision else None
        self.seen = (span[0], span[0])
        self._waiting: dict[int, NDArray[np.float32]] = {}
        self._left = np.zeros(0, dtype=np.float32)

    def see(self, first: int, columns: Columns) -> bool:
        """Take in results; returns whether they are enough."""
        if self._running is None:
            return False
        self._waiting[first] = columns[self._running.precision.metric]
        while (end := self.seen[1] + len(self._left)) in self._waiting:
            self._left = np.concatenate([self._left, self._waiting.pop(end)])
        while len(self._left) >= _TOGETHER:
            self._take(_TOGETHER)
            if self._running.reached:
                return True
        return False

    def interval(self) -> Interval | None:
        """The estimate at the end, with an interval that is valid whenever one stops."""
        if self._running is None:
            return None
        if not self._running.reached:
            self._take(len(self._left))
        return self._running.interval

    def _take(self, count: int) -> None:
        assert self._running is not None
        self._running.update(self._left[:count])
        self._left = self._left[count:]
        self.seen = (self.seen[0], self.seen[1] + count)
