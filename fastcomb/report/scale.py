"""Where a metric's distributions are drawn: the range, on which scale, in which bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastcomb.report.entry import Entry
from fastcomb.statistics.density import Array, Density
from fastcomb.statistics.moments import Moments

#: Ratio of the ends of a range from which it is shown on a logarithmic axis.
_WIDE = 6.0

#: Share of the values that may lie beyond each end of the range.
_TAIL = 0.001

#: Bins, and points of curves.
_BINS, _POINTS = 60, 320


@dataclass(frozen=True)
class Scale:
    """The axis of a metric, shared by all runs.

    Attributes:
        low, high: the range shown, on the axis: of log10 of the values if ``log``.
        log: whether the axis is logarithmic.
        step: distance of the values that are possible (accuracy is a number of samples); 0 if any are. Of
            runs that differ in that, the largest.
        even: whether all runs have the same.
        cut: whether values lie outside the range.
    """

    low: float
    high: float
    log: bool
    step: float
    even: bool
    cut: bool

    @staticmethod
    def of(metric: str, entries: Sequence[Entry]) -> Scale:
        """Of a metric in measured runs; the networks themselves are on it too."""
        finite = [entry.densities[metric].finite for entry in entries]
        finite = [values for values in finite if len(values)] or [np.array([0.0, 1.0])]
        first, last = min(float(v[0]) for v in finite), max(float(v[-1]) for v in finite)
        low = min(float(v[int(_TAIL * (len(v) - 1))]) for v in finite)
        high = max(float(v[-1 - int(_TAIL * (len(v) - 1))]) for v in finite)
        cut = first < low or last > high
        endpoints = [value for entry in entries for value in entry.own(metric).values()]
        first, low, high = min([first, *endpoints]), min([low, *endpoints]), max([high, *endpoints])
        samples = {entry.sweep.samples for entry in entries}
        step = 1 / min(samples) if metric == "accuracy" else 0.0
        log = not step and first > 0 and high > _WIDE * low
        room = 0.04 * (np.log10(high / low) if log else high - low) or 0.05 * abs(low) or 0.5
        ends = (np.log10(low), np.log10(high)) if log else (low, high)
        ends = (ends[0] - room, min(ends[1] + room, 1 + step) if step else ends[1] + room)
        return Scale(float(ends[0]), float(ends[1]), log, step, len(samples) == 1, cut)

    def on_axis(self, density: Density) -> Density:
        """The distribution of what the axis is even in."""
        if not self.log:
            return density
        with np.errstate(invalid="ignore"):
            return Density(density.metric, np.log10(density.ranked))

    def values(self, places: Array) -> Array:
        """Values of the metric at places on the axis."""
        return np.power(10.0, places) if self.log else places

    def histogram(self, density: Density) -> tuple[Array, Array]:
        """Density per unit of the axis [B], and edges of bins as values of the metric [B + 1].

        Bins of what comes in steps are whole steps wide and end between two, so that all hold as many.
        """
        if self.step:
            wide = max(1, round((self.high - self.low) / self.step / _BINS))
            first = np.floor(self.low / self.step) - 0.5
            count = int(np.ceil((self.high / self.step - first) / wide))
            edges = (first + wide * np.arange(count + 1)) * self.step
        else:
            bins = min(_BINS, max(8, int(len(density.values) ** 0.5)))
            edges = np.linspace(self.low, self.high, bins + 1)
        values = self.values(edges)
        counts = np.diff(np.searchsorted(density.finite, values.astype(density.finite.dtype)))
        return counts / (np.diff(edges) * len(density.values)), values

    def curve(self, density: Density) -> tuple[Array, Array] | None:
        """Values of the metric [P] and the kernel density per unit of the axis there; None if all are alike.

        The kernel of what comes in steps is at least a step wide, or it would show them.
        """
        on_axis = self.on_axis(density)
        if len(on_axis.finite) < 2 or on_axis.finite[0] == on_axis.finite[-1]:
            return None
        places = np.linspace(self.low, self.high, _POINTS)
        width = Moments().add(on_axis.finite).variance ** 0.5 * len(on_axis.finite) ** -0.2
        return self.values(places), on_axis.kde(places, max(float(width), self.step))

    def steps(self, density: Density) -> tuple[Array, bool]:
        """Values [P] at which the distribution function is drawn, and whether it is constant between them.

        All of a few; else evenly spaced ones.
        """
        ends = self.values(np.array([self.low, self.high]))
        possible = (self.high - self.low) / self.step if self.step and self.even else np.inf
        if possible <= 2 * _POINTS:
            counts = np.arange(np.ceil(self.low / self.step), np.floor(self.high / self.step) + 1)
            inner = counts / round(1 / self.step)
        elif len(density.finite) <= _POINTS:
            inner = np.unique(density.finite).astype(np.float64)
        else:
            inner = self.values(np.linspace(self.low, self.high, _POINTS))
        inside = inner[(inner > ends[0]) & (inner < ends[1])]
        return np.concatenate([ends[:1], inside, ends[1:]]), min(possible / 2, len(density.finite)) <= _POINTS
