"""Intervals for the mean of few independent estimates of a small probability."""

from __future__ import annotations

import math

import numpy as np

from fastcomb.statistics.density import Array
from fastcomb.statistics.proportion import proportion, student


def lognormal(estimates: Array, confidence: float) -> tuple[float, float]:
    """Interval for the mean of positive estimates that are lognormal about it.

    Estimates by products of many fractions are, as numbers of levels and points grow (Bérard, Del Moral and
    Doucet, "A lognormal central limit theorem for particle approximations of normalizing constants", 2014).
    The interval is Cox's with Student's t (Olsson, "Confidence intervals for the mean of a log-normal
    distribution", 2005), exp(ȳ + s²/2 ± t √(s²/R + s⁴/(2 (R − 1)))) for R logarithms of mean ȳ and variance
    s². It is widened where it would leave out the plain mean, and ends at 1.

    Args:
        estimates: float64 [R], positive, R ≥ 2.
        confidence: in (0, 1).
    """
    count = len(estimates)
    logs = np.log(estimates)
    spread = float(logs.var(ddof=1))
    middle = float(logs.mean()) + spread / 2
    half = student(confidence, count - 1) * math.sqrt(spread / count + spread**2 / (2 * (count - 1)))
    mean = float(estimates.mean())
    low, high = (math.exp(min(end, 0.0)) for end in (middle - half, middle + half))
    return min(low, mean), max(high, mean)


def bounds(
    estimates: Array, plain: Array, chainless: int, draws: int, confidence: float
) -> tuple[Array, Array]:
    """Intervals for the means of successive columns, each the probability of a part of the event before it.

    - Columns that count plain draws have the exact interval of Clopper and Pearson.
    - Others have :func:`lognormal` where every run has an estimate.
    - Where a run has none (no point passed a threshold) nothing is known of how estimates are distributed:
      the lower end is 0, and the upper end the smaller of two, that of the last column where every run has
      one, since the event is part of that one, and that of the plain draws. Each is exceeded with
      probability (1 − confidence) / 2, so both together hold with the confidence asked for. It is raised
      where it would leave out the mean.

    Args:
        estimates: float64 [R, G].
        plain: float64 [G], numbers of plain draws that each column counts.
        chainless: how many columns, the first ones, are estimated by these counts.
        draws: how many plain draws there are.
        confidence: in (0, 1).

    Returns:
        lower and upper ends, float64 [G] each.
    """
    low, high = np.zeros(estimates.shape[1]), np.zeros(estimates.shape[1])
    for column, values in enumerate(estimates.T):
        if column >= chainless and (values > 0).all():
            low[column], high[column] = lognormal(values, confidence)
            continue
        counted = proportion(int(plain[column]), draws, confidence)
        if column < chainless:
            low[column], high[column] = counted.low, counted.high
        else:
            high[column] = max(min(high[column - 1], counted.high), float(values.mean()))
    return low, high
