"""Densities of a metric over combinations, and proportions with exact intervals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Proportion:
    """A fraction of combinations with its confidence interval.

    Attributes:
        value: count / total.
        low, high: ends of the interval.
        confidence: its level.
        count, total: combinations that satisfy the condition, and all.
    """

    value: float
    low: float
    high: float
    confidence: float
    count: int
    total: int

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def proportion(count: int, total: int, confidence: float = 0.95) -> Proportion:
    """Fraction with the exact interval of Clopper and Pearson ("The use of confidence or fiducial
    limits illustrated in the case of the binomial", Biometrika, 1934).

    Equivalent to ``scipy.stats.binomtest(count, total).proportion_ci(confidence, "exact")``.

    Raises:
        ValueError: total < 1, or confidence outside (0, 1).
    """
    if total < 1:
        raise ValueError("a proportion of no combinations is undefined")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is outside (0, 1)")
    interval = scipy.stats.binomtest(count, total).proportion_ci(confidence, "exact")
    return Proportion(count / total, float(interval.low), float(interval.high), confidence, count, total)


@dataclass(frozen=True)
class Density:
    """The distribution of one metric over a sweep's combinations.

    Values that are not finite belong to the distribution: they count in every fraction, rank above all
    finite ones in quantiles (NaN as the largest), and carry into the mean. Histogram and kernel density
    show the finite ones and integrate to their share.

    Attributes:
        metric: its name.
        values: float64 [n], as evaluated.
    """

    metric: str
    values: Array

    @cached_property
    def finite(self) -> Array:
        """The finite values, ascending."""
        return np.sort(self.values[np.isfinite(self.values)])

    @property
    def nonfinite(self) -> int:
        """How many values are NaN or infinite."""
        return len(self.values) - len(self.finite)

    @property
    def mean(self) -> float:
        with np.errstate(invalid="ignore"):  # inf − inf is NaN, as it should be
            return float(np.mean(self.values))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN for fewer than two values."""
        if len(self.values) < 2:
            return float("nan")
        with np.errstate(invalid="ignore"):
            return float(np.std(self.values, ddof=1) / np.sqrt(len(self.values)))

    def quantile(self, q: Any) -> Any:
        """Quantiles, with numpy's linear interpolation between order statistics.

        Args:
            q: levels in [0, 1], a number or an array.
        """
        ranked = np.where(np.isnan(self.values), np.inf, self.values)
        with np.errstate(invalid="ignore"):
            result = np.quantile(ranked, q)
        # interpolating between two infinities gives NaN where the quantile is infinite
        result = np.where(np.isnan(result), np.quantile(ranked, q, method="higher"), result)
        return float(result) if np.ndim(q) == 0 else result

    def histogram(self, bins: int | str | ArrayLike = "auto") -> tuple[Array, Array]:
        """Density per unit of the metric [B] and bin edges [B + 1], as :func:`numpy.histogram`."""
        counts, edges = np.histogram(self.finite, bins=bins)
        return counts / (np.diff(edges) * len(self.values)), edges

    def kde(self, at: ArrayLike) -> Array:
        """Gaussian kernel density (:class:`scipy.stats.gaussian_kde`, Scott's rule) at the points ``at``.

        Raises:
            ValueError: fewer than two different finite values.
        """
        if len(self.finite) < 2 or self.finite[0] == self.finite[-1]:
            raise ValueError(
                f"a kernel density of {self.metric} needs two different finite values; "
                f"there are {len(np.unique(self.finite))}"
            )
        share = len(self.finite) / len(self.values)
        return np.asarray(scipy.stats.gaussian_kde(self.finite)(np.asarray(at)) * share)
