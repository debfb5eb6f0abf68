"""Estimates with their intervals, and proportions with exact ones."""

from __future__ import annotations

from dataclasses import dataclass

import scipy.special


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        value: the estimate.
        low, high: ends of the interval; −inf or inf where the sample says nothing about a side.
        confidence: its level.
    """

    value: float
    low: float
    high: float
    confidence: float

    @property
    def half_width(self) -> float:
        """Half the interval's length."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Proportion(Interval):
    """A fraction of combinations with its confidence interval.

    Attributes:
        value: count / total.
        count, total: combinations that satisfy the condition, and all.
    """

    count: int
    total: int

    __str__ = Interval.__str__


def proportion(count: int, total: int, confidence: float = 0.95) -> Proportion:
    """Fraction with the exact interval of Clopper and Pearson ("The use of confidence or fiducial
    limits illustrated in the case of the binomial", Biometrika, 1934).

    Equivalent to ``scipy.stats.binomtest(count, total).proportion_ci(confidence, "exact")``. It is valid for
    a total that was fixed beforehand; where the values themselves say when to stop, see
    :func:`fastcomb.statistics.confidence_sequence.fraction_sequence`.

    Raises:
        ValueError: total < 1, count outside [0, total], or confidence outside (0, 1).
    """
    count, total = int(count), int(total)
    if total < 1:
        raise ValueError("a proportion of no combinations is undefined")
    check_count(count, total)
    check_confidence(confidence)
    tail = (1 - confidence) / 2
    low = float(scipy.special.betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = float(scipy.special.betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return Proportion(count / total, low, high, confidence, count, total)


def check_count(count: int, total: int) -> None:
    """Raise ValueError unless ``count`` of ``total`` is possible."""
    if not 0 <= count <= total:
        raise ValueError(f"count={count} is outside [0, {total}]")


def check_confidence(confidence: float) -> None:
    """Raise ValueError unless a level of confidence is in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is outside (0, 1)")


def student(confidence: float, degrees: float) -> float:
    """Two-sided quantile of Student's law: the margin of a mean in units of its standard error."""
    return float(scipy.special.stdtrit(degrees, (1 + confidence) / 2))


def check_level(metric: str, level: float) -> None:
    """Raise ValueError where a level cannot be one of a metric: accuracy is a fraction."""
    if metric == "accuracy" and not 0 <= level <= 1:
        raise ValueError(f"level={level:g} of accuracy, which is a fraction: write 0.9 for 90 %")
