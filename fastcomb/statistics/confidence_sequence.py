"""Intervals that stay valid while one looks at them: for stopping a sweep when it is precise enough.

An ordinary interval is right 95 times in 100 for a number of values that was fixed beforehand. Looking at it
again and again, and stopping when it looks good, makes it wrong more often. A *confidence sequence* contains
the truth at all numbers of values at once with the stated probability, hence also at whichever the values
made one stop. It is about half as wide again as an ordinary interval where it is narrowest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import scipy.special
from numpy.typing import NDArray

from fastcomb.statistics.moments import Moments
from fastcomb.statistics.proportion import Interval, Proportion, check_confidence, check_count, check_level

Quantity = Literal["fraction_below", "fraction_above", "mean"]
QUANTITIES: tuple[Quantity, ...] = ("fraction_below", "fraction_above", "mean")


def fraction_sequence(
    count: int, total: int, confidence: float = 0.95, *, narrowest_at: float = 10_000
) -> Proportion:
    """Fraction with an interval that is valid at all totals at once.

    A probability p is outside if the mixture of binomial likelihoods over a Beta(rp, r(1 − p)) law exceeds
    1 / (1 − confidence) times that at p, for s successes and f failures

        B(rp + s, r(1 − p) + f) / (B(rp, r(1 − p)) p^s (1 − p)^f) ≥ 1 / (1 − confidence).

    Under p that ratio is a martingale with mean 1, which ever reaches that level with at most that
    probability (Ville, "Étude critique de la notion de collectif", 1939; Robbins, "Statistical methods
    related to the law of the iterated logarithm", Annals of Mathematical Statistics, 1970). Mixing laws with
    mean p are those of Howard, Ramdas, McAuliffe and Sekhon ("Time-uniform, nonparametric, nonasymptotic
    confidence sequences", Annals of Statistics, 2021): the ratio is convex in p, at most 1 at s / (s + f),
    and r says where the interval is narrowest. No approximation is involved, for any total and any p.

    Args:
        count, total: combinations that satisfy the condition, and all; total may be 0.
        confidence: probability that all intervals, at all totals, contain the fraction.
        narrowest_at: total at which the interval is narrowest beside its ordinary counterpart. Any value
            that does not depend on the results is valid; 100 times as many combinations widen it by about a
            sixth, 100 times fewer to three times.

    Returns:
        the fraction, NaN for a total of 0, with its interval.

    Raises:
        ValueError: count outside [0, total], confidence outside (0, 1), or narrowest_at not positive.
    """
    count, total = int(count), int(total)
    check_count(count, total)
    limit = -math.log1p(-_checked(confidence, narrowest_at))
    weight = _mixing_weight(narrowest_at, confidence)
    if total == 0:
        return Proportion(math.nan, 0.0, 1.0, confidence, 0, 0)
    value, rest = count / total, (total - count) / total

    def rejected(shift: float) -> bool:
        return log_mixture_ratio(shift, count, total, weight) >= limit

    low = value - _outermost(lambda d: rejected(-d), value) if count else 0.0
    high = value + _outermost(rejected, rest) if count < total else 1.0
    return Proportion(value, max(low, 0.0), min(high, 1.0), confidence, count, total)


def log_mixture_ratio(shift: float, count: int, total: int, weight: float) -> float:
    """Logarithm of the ratio in :func:`fraction_sequence` at p = count / total + shift, in (0, 1).

    Args:
        shift: p minus the fraction found. Written in it, nothing cancels even at totals of 10^10.
        count, total: as there; total ≥ 1.
        weight: r there.
    """
    p, q = count / total + shift, (total - count) / total - shift
    x, y = weight * p + count, weight * q + (total - count)
    pull = shift * total / (weight + total)  # from p to the mean x / (x + y) of the updated law
    divergence = x * math.log1p(-pull / p) + y * math.log1p(pull / q)
    return divergence + _log_beta_rest(x, y) - _log_beta_rest(weight * p, weight * q)


def mean_sequence(
    mean: float, variance: float, total: int, confidence: float = 0.95, *, narrowest_at: float = 10_000
) -> Interval:
    """Mean with an interval that is asymptotically valid at all totals at once.

    The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas ("Time-uniform
    central limit theory and asymptotic confidence sequences", Annals of Statistics, 2024, theorem 2.2): with
    t values of sample variance s², mean ± s √(2 (tρ² + 1) / (t²ρ²) · log(√(tρ² + 1) / (1 − confidence))).
    It needs a finite variance and, like the central limit theorem, enough values before the first look: the
    more so, the longer the tails.

    Args:
        mean, variance: of the values so far; the variance unbiased.
        total: how many.
        confidence: as in :func:`fraction_sequence`.
        narrowest_at: as there; gives ρ.

    Returns:
        the mean with its interval, which is the whole line where the variance is 0 or total < 2: then the
        scale of the values is not known yet. NaN ends where the mean or variance is not finite.

    Raises:
        ValueError: total or variance negative, confidence outside (0, 1), or narrowest_at not positive.
    """
    alpha = 1 - _checked(confidence, narrowest_at)
    if total < 0 or variance < 0:
        raise ValueError(f"total={total} and variance={variance} must not be negative")
    if total < 2 or variance == 0:
        return Interval(mean if total else math.nan, -math.inf, math.inf, confidence)
    if not (math.isfinite(mean) and math.isfinite(variance)):
        return Interval(mean, math.nan, math.nan, confidence)
    grown = total / _mixing_weight(narrowest_at, confidence) + 1  # tρ² + 1
    margin = math.sqrt(2 * variance * grown / (total * (grown - 1)) * math.log(math.sqrt(grown) / alpha))
    return Interval(mean, mean - margin, mean + margin, confidence)


@dataclass(frozen=True)
class Precision:
    """When a sweep has enough combinations: once an interval is as narrow as wanted.

    The interval is one of this module, so that it may be looked at after every combination.

    Args:
        quantity: "fraction_below" or "fraction_above" (of combinations whose metric is < or > level, NaN
            being neither), or "mean".
        level: of the metric, for fractions; compared in the values' own precision.
        half_width: half the interval's length that is wanted, as a fraction or in units of the metric.
        metric: its name.
        confidence: level of the interval.
        least: combinations before the first look. Fractions need none; the interval of a mean relies on the
            central limit theorem from then on.

    Raises:
        ValueError: an argument that cannot be.

    Example:
        >>> until = fc.Precision("fraction_below", 1.0, half_width=0.02)
        >>> sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=10**6, until=until, progress=False)
        >>> len(sweep) < 10**6
        True
        >>> sweep.estimate.half_width <= 0.02
        True
    """

    quantity: Quantity
    level: float | None = None
    half_width: float = field(kw_only=True)
    metric: str = field(default="loss", kw_only=True)
    confidence: float = field(default=0.95, kw_only=True)
    least: int = field(default=1000, kw_only=True)

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise ValueError(f"quantity={self.quantity!r} is none of {', '.join(map(repr, QUANTITIES))}")
        if self.quantity == "mean" and self.level is not None:
            raise ValueError(f"level={self.level} has no meaning for a mean")
        if self.quantity != "mean" and (self.level is None or math.isnan(self.level)):
            raise ValueError(f"quantity={self.quantity!r} needs level=, the number to compare with")
        check_level(self.metric, self.level or 0.0)
        most = math.inf if self.quantity == "mean" else 0.5
        if not 0 < self.half_width < most:
            raise ValueError(f"half_width={self.half_width} is outside (0, {most:g})")
        check_confidence(self.confidence)
        if not isinstance(self.least, int) or isinstance(self.least, bool) or self.least < 2:
            raise ValueError(f"least={self.least!r} must be an integer of at least 2")


class Running:
    """The interval of a :class:`Precision` while values come in.

    For a fraction it is narrowest at 1 / (8 half_width²) values, a nineteenth of what a fraction of ½ needs
    for that precision: small fractions need fewer, and too early a choice costs less than too late a one. For
    a mean that number is 8 times ``least``, since how many are needed depends on the unknown variance.

    Args:
        precision: what is wanted.
    """

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self._moments = Moments()
        self._count = self._total = 0

    def update(self, values: NDArray[np.floating[Any]]) -> None:
        """Take in the metric of further combinations [n], in any pieces."""
        self._total += len(values)
        if self.precision.quantity == "mean":
            self._moments.add(values)
            return
        assert self.precision.level is not None
        with np.errstate(over="ignore"):  # a level beyond float32 is above all its finite values
            level = np.asarray(self.precision.level).astype(values.dtype)
        below = self.precision.quantity == "fraction_below"
        self._count += int(np.count_nonzero(values < level if below else values > level))

    @property
    def interval(self) -> Interval:
        """The estimate by now, a :class:`~fastcomb.Proportion` for fractions."""
        precision = self.precision
        if precision.quantity == "mean":
            moments = self._moments
            variance = moments.variance if moments.count > 1 else 0.0
            return mean_sequence(
                moments.mean, variance, moments.count, precision.confidence, narrowest_at=8 * precision.least
            )
        target = max(1.0, 1 / precision.half_width**2 / 8)
        return fraction_sequence(self._count, self._total, precision.confidence, narrowest_at=target)

    @property
    def reached(self) -> bool:
        """Whether the interval is as narrow as wanted."""
        return self._total >= self.precision.least and self.interval.half_width <= self.precision.half_width


def _checked(confidence: float, narrowest_at: float) -> float:
    check_confidence(confidence)
    if not 0 < narrowest_at < math.inf:
        raise ValueError(f"narrowest_at={narrowest_at} is not a positive number")
    return confidence


def _mixing_weight(narrowest_at: float, confidence: float) -> float:
    """The mixing law's weight in values, 1 / ρ², for a boundary that is narrowest at a number of values.

    The minimum over w of (t + w) log((t + w) / (w α²)), on which the width at t depends (Howard et al., 2021,
    section 3.5), solved by the lower branch of Lambert's function.
    """
    alpha = 1 - confidence
    ratio = -float(scipy.special.lambertw(-(alpha**2) / math.e, -1).real) - 1
    return narrowest_at / ratio


def _log_beta_rest(x: float, y: float) -> float:
    """log B(x, y) − x log(x / (x + y)) − y log(y / (x + y)), which stays small for large x and y."""
    both = x + y
    level = 0.5 * (math.log(2 * math.pi) + math.log(both) - math.log(x) - math.log(y))
    return level + _stirling_rest(x) + _stirling_rest(y) - _stirling_rest(both)


def _stirling_rest(x: float) -> float:
    """log Γ(x) − ((x − ½) log x − x + ½ log 2π)."""
    if x > 1000:
        return 1 / (12 * x) - 1 / (360 * x**3)
    return math.lgamma(x) - ((x - 0.5) * math.log(x) - x + 0.5 * math.log(2 * math.pi))


def _outermost(rejected: Callable[[float], bool], limit: float) -> float:
    """The boundary in (0, limit] behind which all is rejected, from outside, by bisection."""
    inside, middle, outside = 0.0, limit / 2, limit
    while inside < middle < outside:
        if rejected(middle):
            outside = middle
        else:
            inside = middle
        middle = (inside + outside) / 2
    return outside
