"""Estimates and intervals for two samples, from their sorted values.

Samples are floating arrays [n] and [m] of one dtype, ascending, at least two values each, without NaN. Where
``independent`` is false they may depend on each other in any way: standard errors then add, instead of their
squares, and bounds for the two are combined by Bonferroni's inequality.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from fastcomb.statistics.density import Density, dkw
from fastcomb.statistics.moments import BLOCK, Moments, blocks
from fastcomb.statistics.proportion import Interval, student

Sample = NDArray[np.floating[Any]]

#: Sample sizes up to which the Kolmogorov–Smirnov p-value is exact, as scipy's own choice is.
_EXACT = 10_000

#: Order statistics of each sample on which its distribution function is resampled.
_POINTS = 512


def gaps(a: Sample, b: Sample, block: int = BLOCK) -> tuple[float, float, float]:
    """sup(F_a − F_b), sup(F_b − F_a) and ∫|F_a − F_b| of the empirical distribution functions.

    The larger of the first two is the Kolmogorov–Smirnov statistic, the third the Wasserstein-1 distance (NaN
    with infinite values). Both samples are merged piece by piece.
    """
    cuts = np.unique(np.concatenate([a[block::block], b[block::block], a[-1:], b[-1:]]))
    ends = zip(np.searchsorted(a, cuts, "right"), np.searchsorted(b, cuts, "right"), strict=True)
    above = below = area = gap = 0.0
    i, j, last = 0, 0, float(min(a[0], b[0]))
    for i_end, j_end in ends:
        x, y = a[i:i_end], b[j:j_end]
        at = np.sort(np.concatenate([x, y]))
        apart = (i + np.searchsorted(x, at, "right")) / len(a) - (j + np.searchsorted(y, at, "right")) / len(
            b
        )
        above, below = max(above, float(apart.max())), max(below, float(-apart.min()))
        with np.errstate(invalid="ignore"):  # between infinite values
            steps = np.diff(at.astype(np.float64), prepend=last)
            area += float(np.abs(np.concatenate([[gap], apart[:-1]])) @ steps)
        i, j, last, gap = int(i_end), int(j_end), float(at[-1]), float(apart[-1])
    return above, below, area if np.isfinite([a[0], a[-1], b[0], b[-1]]).all() else float("nan")


def smirnov(a: Sample, b: Sample, statistic: float, *, independent: bool = True) -> float:
    """P-value of the two-sided Kolmogorov–Smirnov test that both laws are the same.

    As :func:`scipy.stats.ks_2samp`: exact for up to 10,000 values each where that can be computed, else
    asymptotic; ties make it conservative. Dependent samples get the bound 4 exp(−2 D² nm / (√n + √m)²) from
    two inequalities of Dvoretzky, Kiefer, Wolfowitz and Massart.
    """
    n, m = len(a), len(b)
    if not independent:
        return min(1.0, float(4 * np.exp(-2 * statistic**2 * n * m / (n**0.5 + m**0.5) ** 2)))
    if max(n, m) > _EXACT:
        return float(scipy.stats.kstwo.sf(statistic, np.round(n * m / (n + m))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that it falls back to the asymptotic law
        return float(scipy.stats.ks_2samp(a, b).pvalue)


def mean_difference(a: Moments, b: Moments, confidence: float, *, independent: bool = True) -> Interval:
    """mean(b) − mean(a) with the interval of Welch ("The generalization of 'Student's' problem when several
    different population variances are involved", Biometrika, 1947).

    Exact in the limit of large samples, and close for laws without long tails. Values that are not finite
    carry into it.
    """
    value = b.mean - a.mean
    error, degrees = _combined(a, b, independent)
    margin = error * student(confidence, degrees)
    return Interval(value, value - margin, value + margin, confidence)


def median_difference(a: Density, b: Density, confidence: float) -> Interval:
    """median(b) − median(a) with an interval that holds for all laws and any dependence between the samples.

    It joins the two medians' own intervals from order statistics, each at (1 + confidence) / 2, and is
    therefore wider than it need be: for two samples alike by a factor of about 1.6.
    """
    one, other = (density.quantile_interval(0.5, (1 + confidence) / 2) for density in (a, b))
    # an infinity less an infinity may be anything
    low, high = other.low - one.high, other.high - one.low
    return Interval(
        other.value - one.value,
        -math.inf if math.isnan(low) else low,
        math.inf if math.isnan(high) else high,
        confidence,
    )


def probability_below(a: Sample, b: Sample, confidence: float, *, independent: bool = True) -> Interval:
    """P(A < B) + ½ P(A = B) for one draw of each: Mann and Whitney's U over nm, with its interval.

    The variance is that of the placements, with Satterthwaite's degrees of freedom (Brunner and Munzel, "The
    nonparametric Behrens–Fisher problem", Biometrical Journal, 2000), which needs no equal variances and
    allows ties. The interval is made on the logit scale, so that it stays in [0, 1]. Where all pairs compare
    alike there is no variance to go by: then k pairs without a common member say that the outcome's
    probability is at least ((1 − confidence) / 2)^(1/k).
    """
    above = Moments()  # for each b, the share of a below it
    below = Moments()  # for each a, the share of b below it
    for sample, others, moments in ((b, a, above), (a, b, below)):
        for block in blocks(sample):
            ranks = np.searchsorted(others, block, "left") + np.searchsorted(others, block, "right")
            moments.add(ranks / (2 * len(others)))
    value = above.mean
    error, degrees = _combined(below, above, independent)
    if error == 0 or not 0 < value < 1:  # the latter from rounding
        pairs = max(1, min(len(a), len(b)) // (1 if independent else 2))
        least = ((1 - confidence) / 2) ** (1 / pairs)
        return Interval(value, value * least, 1 - (1 - value) * least, confidence)
    middle = scipy.special.logit(value)
    margin = error / (value * (1 - value)) * student(confidence, degrees)
    ends = scipy.special.expit([middle - margin, middle + margin])
    return Interval(value, float(ends[0]), float(ends[1]), confidence)


def wasserstein_interval(
    a: Sample,
    b: Sample,
    distance: float,
    confidence: float,
    *,
    independent: bool = True,
    resamples: int = 999,
    seed: int = 0,
) -> Interval:
    """Interval for the Wasserstein-1 distance ∫|F − G|, given that of the samples.

    The distance found is off by at most ∫|(F̂ − F) − (Ĝ − G)|. The bootstrap (resampling each sample by
    itself) estimates the law of that integral, whose quantile at ``confidence`` is the margin on both sides.
    Unlike an interval of resampled distances, which never contains 0, this one holds where both laws are the
    same; elsewhere it is wider than it need be. It needs ∫√(F (1 − F)) to be finite (del Barrio, Giné and
    Matrán, "Central limit theorems for the Wasserstein distance between the empirical and the true
    distributions", Annals of Probability, 1999): P(|X| > x) that falls faster than x^(−2).

    A sample of more than 512 values is resampled on 512 of its order statistics, whose ranks are evenly
    spaced in arcsin √(rank / n), where F̂ − F has the same spread everywhere. The distance itself uses all
    values.
    """
    if np.isnan(distance):
        return Interval(distance, 0.0, float("inf"), confidence)
    generator = np.random.default_rng(seed)
    at = np.unique(np.concatenate([_spaced(a), _spaced(b)]))
    steps = np.diff(at.astype(np.float64))
    moved = []
    for sample in (a, b):
        shares = np.diff(np.searchsorted(sample, at, "right") / len(sample), prepend=0.0)
        counts = generator.multinomial(len(sample), shares, size=resamples)
        # a resample varies by a factor (n − 1) / n less than the sample does
        scale = np.sqrt(len(sample) / (len(sample) - 1))
        moved.append(scale * (np.cumsum(counts / len(sample) - shares, axis=1)[:, :-1]))
    if independent:
        margin = _upper(np.abs(moved[0] - moved[1]) @ steps, confidence)
    else:
        margin = sum(_upper(np.abs(each) @ steps, (1 + confidence) / 2) for each in moved)
    return Interval(distance, max(distance - margin, 0.0), distance + margin, confidence)


def band_margin(n: int, m: int, confidence: float) -> float:
    """What F̂_a − F̂_b is off by at most, everywhere at once, for any laws and any dependence.

    The sum of two bands of Dvoretzky, Kiefer, Wolfowitz and Massart, each at (1 + confidence) / 2.
    """
    return one_band_margin(n, confidence) + one_band_margin(m, confidence)


def one_band_margin(count: int, confidence: float) -> float:
    """Half-width of the band around one of two distribution functions, where both bands hold together."""
    return dkw(count, (1 + confidence) / 2)


def _combined(a: Moments, b: Moments, independent: bool) -> tuple[float, float]:
    """Standard error of a difference of means, and its degrees of freedom."""
    first, second = a.standard_error, b.standard_error
    if not independent:
        return first + second, min(a.count, b.count) - 1.0
    squares = first**2 + second**2
    if not squares > 0:
        return squares, 1.0
    # in shares, which do not underflow
    one, other = first**2 / squares, second**2 / squares
    return squares**0.5, 1 / (one**2 / (a.count - 1) + other**2 / (b.count - 1))


def _spaced(values: Sample) -> Sample:
    """Some of the values: all, or as many order statistics as are resampled."""
    if len(values) <= _POINTS:
        return values
    turn = np.linspace(0, np.pi / 2, _POINTS)
    chosen: Sample = values[np.rint(np.sin(turn) ** 2 * (len(values) - 1)).astype(np.int64)]
    return chosen


def _upper(values: NDArray[np.float64], confidence: float) -> float:
    """The order statistic of resampled values that a further one exceeds with probability 1 − confidence."""
    rank = int(np.ceil((len(values) + 1) * confidence))
    return float(np.sort(values)[min(rank, len(values)) - 1])
