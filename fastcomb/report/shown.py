"""Estimates as the page shows them: a value, its interval, its series."""

from __future__ import annotations

import math

import numpy as np

from fastcomb.report.entry import Entry
from fastcomb.report.markup import Markup, data, join, tag
from fastcomb.report.numbers import Digits
from fastcomb.report.style import SERIES, dashes
from fastcomb.statistics.density import Density
from fastcomb.statistics.proportion import Interval


def swatch(number: int) -> Markup:
    """A piece of the line of a series."""
    return tag("span", class_=f"swatch s{number % SERIES} {dashes(number)}", aria_hidden="true")


def key(label: str, number: int) -> Markup:
    """The name of a series beside a piece of its line."""
    return tag("span", swatch(number), label, class_="key")


def digits_of(*intervals: Interval, scale: float = 1) -> Digits:
    """For intervals that stand together, multiplied by ``scale``."""
    ends = [scale * end for each in intervals for end in (each.value, each.low, each.high)]
    return Digits.of(ends, [scale * each.half_width for each in intervals])


def metric_digits(entry: Entry, metric: str, *intervals: Interval) -> Digits:
    """For intervals of a metric; accuracies, which come in steps, show these."""
    if metric == "accuracy":
        return Digits(max(2, math.ceil(math.log10(entry.sweep.samples))))
    return digits_of(*intervals)


def heading(metric: str) -> str:
    """A metric at the beginning of a sentence; names that users gave are left as they are."""
    return metric.capitalize() if metric in ("loss", "accuracy") else metric


def share_digits(*intervals: Interval) -> Digits:
    """For shares of the combinations in per cent."""
    return digits_of(*intervals, scale=100)


def share(value: float, digits: Digits) -> Markup:
    """A share of the combinations, in per cent."""
    return data(value, f"{digits(100 * value)}\u00a0%")


def ends(interval: Interval, digits: Digits, scale: float = 1) -> tuple[Markup, str, Markup]:
    """Both ends of an interval, in words."""
    low, high = (data(end, digits(scale * end)) for end in (interval.low, interval.high))
    return low, " to ", high


def bounded(interval: Interval, digits: Digits | None = None, scale: float = 1) -> Markup:
    """A value and its interval, as tables have them."""
    digits = digits or digits_of(interval, scale=scale)
    value, low, high = (
        data(each, digits(scale * each)) for each in (interval.value, interval.low, interval.high)
    )
    return join(value, " ", tag("span", "[", low, ", ", high, "]", class_="range"))


def mean(density: Density) -> Markup:
    """Mean and standard error."""
    value, error = density.mean, density.standard_error
    if not np.isfinite(value):
        return Markup("not finite")
    digits = Digits.of([value], [error])
    after = join(" ± ", data(error, digits(error))) if np.isfinite(error) else Markup()
    return join(data(value, digits(value)), after)
