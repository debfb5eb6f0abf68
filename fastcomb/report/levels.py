"""Which fractions are reported: levels that were given, or one of the loss that is worth asking for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastcomb.report.entry import Entry
from fastcomb.report.numbers import plain
from fastcomb.statistics.density import dkw
from fastcomb.statistics.proportion import Interval

#: Losses that are minus the logarithm of the probability of the right class.
_LOGARITHMIC = {"cross_entropy", "token_cross_entropy", "nll"}


@dataclass(frozen=True)
class Level:
    """A level of a metric, and the fraction of combinations on its good side.

    Attributes:
        metric: of what.
        value: the level.
        why: where it is from; empty if it was asked for.
        seen: whether it was chosen by the same values whose fraction is asked for.
    """

    metric: str
    value: float
    why: str = ""
    seen: bool = False

    @property
    def above(self) -> bool:
        """Whether large values are good, as in :meth:`fastcomb.Sweep.best`."""
        return self.metric == "accuracy"

    @property
    def text(self) -> str:
        """The level as the page shows it: one of ours shortened."""
        return plain(self.value) if self.why else f"{self.value:.6g}"

    def __str__(self) -> str:
        return f"{self.metric} {'>' if self.above else '<'} {self.text}"

    def fraction(self, entry: Entry, confidence: float) -> Interval:
        """The fraction of a measured run.

        Its interval is exact; for a level that was chosen by the values, it is that of the band of Dvoretzky,
        Kiefer, Wolfowitz and Massart, which holds at all levels at once.
        """
        ask = entry.sweep.fraction_above if self.above else entry.sweep.fraction_below
        interval = ask(self.metric, self.value, confidence)
        if not self.seen:
            return interval
        margin = dkw(len(entry.sweep), confidence)
        low, high = max(interval.value - margin, 0.0), min(interval.value + margin, 1.0)
        return Interval(interval.value, low, high, confidence)


def levels(entries: Sequence[Entry], level: float | None, metric_levels: Mapping[str, float]) -> list[Level]:
    """What is asked of measured runs.

    Args:
        entries: all runs.
        level: of the loss; None for one of our choice.
        metric_levels: of other metrics.

    Raises:
        ValueError: a level is not finite, or its metric is in no measured run.
    """
    by_metric = ({} if level is None else {"loss": level}) | dict(metric_levels)
    measured = [entry for entry in entries if entry.measured]
    known = {name for entry in measured for name in entry.densities}
    for metric, value in by_metric.items():
        if not math.isfinite(value):
            raise ValueError(f"the level {value} of {metric} is not finite")
        if measured and metric not in known:
            raise ValueError(f"metric_levels: {metric!r} is none of {', '.join(sorted(known))}")
    asked = [Level(metric, value) for metric, value in by_metric.items()] if measured else []
    if measured and "loss" not in by_metric:
        asked = [*_default(measured), *asked]
    return asked


def _default(measured: Sequence[Entry]) -> list[Level]:
    if all(str(entry.experiment.get("loss")) in _LOGARITHMIC for entry in measured):
        why = "ln 2, the loss of a right class that is given a probability of one half"
        return [Level("loss", math.log(2), why)]
    low = min(float(entry.densities["loss"].quantile(0.01)) for entry in measured)
    if not 0 < low < np.inf:
        return []
    which = "the run that is best there" if len(measured) > 1 else "the run"
    return [Level("loss", 2 * low, f"twice the 1 % quantile of {which}", seen=True)]
