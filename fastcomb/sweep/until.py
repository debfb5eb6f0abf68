"""Stopping a sweep once it is precise enough."""

from __future__ import annotations

from fastcomb.statistics.confidence_sequence import Precision, Running
from fastcomb.statistics.proportion import Interval
from fastcomb.sweep.experiment import Columns
from fastcomb.sweep.rows import Span


class Watch:
    """Looks at combinations in their order, whatever order their results come in.

    So what it sees does not depend on which results are quick to come by.

    Args:
        precision: what is waited for; None waits for nothing.
        wanted: combinations that may be needed.

    Attributes:
        seen: the combinations looked at.
    """

    def __init__(self, precision: Precision | None, wanted: Span) -> None:
        self._running = Running(precision) if precision else None
        self.seen = (wanted[0], wanted[0])
        self._waiting: dict[int, Columns] = {}

    def see(self, first: int, columns: Columns) -> bool:
        """Take in results; returns whether they are enough."""
        if self._running is None:
            return False
        self._waiting[first] = columns
        while (start := self.seen[1]) in self._waiting:
            values = self._waiting.pop(start)[self._running.precision.metric]
            self._running.update(values)
            self.seen = (self.seen[0], start + len(values))
        return self._running.reached

    @property
    def interval(self) -> Interval | None:
        """The estimate, with an interval that is valid whenever one stops."""
        return self._running.interval if self._running else None
