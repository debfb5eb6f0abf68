"""What an estimate of a mean says, and how it follows from antithetic pairs or from strata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from fastcomb.statistics.proportion import Interval, check_confidence, student
from fastcomb.utils.plotting import new_figure, save
from fastcomb.utils.result import Result, markdown


@dataclass(frozen=True, eq=False, repr=False)
class MeanEstimate(Result):
    """Mean of a metric over combinations.

    Attributes:
        method: "antithetic" or "stratified".
        metric: whose mean.
        value, standard_error: of the mean.
        low, high, confidence: its interval, by Student's law.
        evaluations: combinations evaluated.
        plain_variance: estimated variance of the mean of as many independent combinations.
        variance_ratio: plain_variance / standard_error²: how many plain evaluations one of these was worth.
        ratio_low, ratio_high: its interval at the same confidence, by the delta method on the log scale; it
            needs many more evaluations than that of the mean to be right (docs/statistics.md).
    """

    method: str
    metric: str
    value: float
    standard_error: float
    low: float
    high: float
    confidence: float
    evaluations: int
    plain_variance: float
    variance_ratio: float
    ratio_low: float
    ratio_high: float

    @property
    def interval(self) -> Interval:
        """The mean with its interval."""
        return Interval(self.value, self.low, self.high, self.confidence)

    @property
    def headline(self) -> str:
        """The mean with its standard error, and how many independent combinations each of these is worth."""
        return (
            f"mean {self.metric} {self.value:.6g}, standard error {self.standard_error:.2g}, from "
            f"{self.evaluations:,} {self.method} combinations, each worth {self.variance_ratio:.3g} "
            "independent ones"
        )

    def table(self) -> str:
        """The mean and the variance ratio, a row each, with the ends of their intervals."""
        lines = {
            f"mean {self.metric}": (self.value, self.low, self.high),
            "variance ratio": (self.variance_ratio, self.ratio_low, self.ratio_high),
        }
        rows = [(name, *(f"{number:.7g}" for number in numbers)) for name, numbers in lines.items()]
        return markdown([f"{self.method}, {self.evaluations:,} evaluations", "found", "low", "high"], rows)

    def plot(self, path: str | Path) -> Path:
        """Write a picture of the interval beside that of as many independent combinations."""
        figure, axes = new_figure(1)
        axis = axes[0, 0]
        plain = student(self.confidence, self.evaluations - 1) * self.plain_variance**0.5
        margins = {self.method: (self.high - self.low) / 2, "independent": plain}
        for place, margin in enumerate(margins.values()):
            axis.errorbar(self.value, place, xerr=np.nan_to_num(margin), marker="o", capsize=4)
        axis.set_yticks(range(2), list(margins))
        axis.set_ylim(1.5, -0.5)
        axis.set_xlabel(f"mean {self.metric}, {self.confidence:.0%} intervals")
        axis.set_title(f"{self.evaluations:,} evaluations")
        return save(figure, path)


def from_pairs(
    first: ArrayLike, second: ArrayLike, *, metric: str = "loss", confidence: float = 0.95
) -> MeanEstimate:
    """The estimate from the values of k antithetic pairs, [k] each."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        half, apart = (x + y) / 2, ((x - y) / 2) ** 2
        # half and difference of a pair are uncorrelated under a symmetric law: Var x = Var half + E apart
        within, between = half.var(ddof=1), apart.mean()
        ratio = 0.5 * (1 + between / within)
        influence = (apart - between - between / within * ((half - half.mean()) ** 2 - within)) / (2 * within)
        spread = float(influence.std(ddof=1)) / len(x) ** 0.5
    return _estimate(
        "antithetic",
        metric,
        confidence,
        mean=float(half.mean()),
        error=float(within / len(x)) ** 0.5,
        degrees=len(x) - 1.0,
        evaluations=2 * len(x),
        plain_variance=float(within + between) / (2 * len(x)),
        ratio=float(ratio),
        spread=spread,
    )


def from_strata(values: ArrayLike, *, metric: str = "loss", confidence: float = 0.95) -> MeanEstimate:
    """The estimate from the values [strata, k] of equally likely strata."""
    values = np.asarray(values, dtype=np.float64)
    strata, each = values.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        means, variances = values.mean(1), values.var(1, ddof=1)
        within, apart = variances.mean(), means - means.mean()
        # without what the means of few values vary by themselves
        between = np.maximum(np.mean(apart**2) - (1 - 1 / strata) * within / each, 0.0)
        ratio = 1 + between / within
        residual = values - means[:, None]
        influence = 2 * apart[:, None] * residual - between / within * (residual**2 - variances[:, None])
        spread = float((influence.var(1, ddof=1).sum() / each) ** 0.5 / (strata * within))
        degrees = float((each - 1) * variances.sum() ** 2 / np.sum(variances**2))
    return _estimate(
        "stratified",
        metric,
        confidence,
        mean=float(means.mean()),
        error=float(within / values.size) ** 0.5,
        degrees=degrees if within else float(values.size - strata),
        evaluations=values.size,
        plain_variance=float(within + between) / values.size,
        ratio=float(ratio),
        spread=spread,
        least=1.0,  # strata are never worse
    )


def _estimate(
    method: str,
    metric: str,
    confidence: float,
    *,
    mean: float,
    error: float,
    degrees: float,
    evaluations: int,
    plain_variance: float,
    ratio: float,
    spread: float,
    least: float = 0.0,
) -> MeanEstimate:
    """The record; ``spread`` is the standard error of ``ratio``, which is known to be at least ``least``."""
    check_confidence(confidence)
    quantile = student(confidence, degrees)
    low, high = least, float("inf")  # where no spread is left to go by
    if np.isfinite(spread) and np.isfinite(ratio):
        with np.errstate(over="ignore"):
            factor = float(np.exp(quantile * np.float64(spread) / ratio))
        low, high = max(least, ratio / factor), ratio * factor
    return MeanEstimate(
        method=method,
        metric=metric,
        value=mean,
        standard_error=error,
        low=mean - quantile * error,
        high=mean + quantile * error,
        confidence=confidence,
        evaluations=evaluations,
        plain_variance=plain_variance,
        variance_ratio=ratio,
        ratio_low=low,
        ratio_high=high,
    )
