"""Densities of a metric over combinations, with intervals for quantiles and the whole distribution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.signal
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from fastcomb.statistics.moments import BLOCK, Moments, blocks
from fastcomb.statistics.proportion import Interval, check_confidence

Array = NDArray[np.float64]

#: Kernel evaluations up to which a kernel density is summed value by value.
_DIRECT = 1 << 22

#: Grid points per bandwidth of the binned kernel density.
_FINENESS = 64

#: Bandwidths on one grid of the binned kernel density, which bounds its memory.
_SPAN = 4096

#: Bandwidths after which a kernel is below 2⁻⁵³ of its height.
_REACH = 9


@dataclass(frozen=True)
class Density:
    """The distribution of one metric over a sweep's combinations.

    Values that are not finite belong to the distribution: they count in every fraction, rank above all
    finite ones in quantiles and in the distribution function (NaN as the largest, like inf; −inf below
    all), and carry into the mean. Histogram and kernel density show the finite ones and integrate to their
    share. The values are sorted once, at the first question that needs it.

    Attributes:
        metric: its name.
        values: floating [n], as evaluated.

    Example:
        >>> density = fc.Density("loss", np.array([3.0, 1.0, 2.0, np.inf]))
        >>> density.quantile(0.5)
        2.5
        >>> density.nonfinite
        1
    """

    metric: str
    values: NDArray[np.floating[Any]]

    @cached_property
    def ranked(self) -> NDArray[np.floating[Any]]:
        """All values ascending, NaN last, in their own precision."""
        return np.sort(self.values)

    @cached_property
    def finite(self) -> NDArray[np.floating[Any]]:
        """The finite values, ascending: a view of :attr:`ranked`."""
        kind = self.ranked.dtype.type
        first = np.searchsorted(self.ranked, kind(-np.inf), "right")
        return self.ranked[first : np.searchsorted(self.ranked, kind(np.inf), "left")]

    @property
    def nonfinite(self) -> int:
        """How many values are NaN or infinite."""
        return len(self.values) - len(self.finite)

    @property
    def mean(self) -> float:
        """Mean of all values, in float64: infinite or NaN where some are not finite, NaN for no values."""
        if not len(self.values):
            return float("nan")
        with np.errstate(invalid="ignore"):  # inf − inf is NaN, as it should be
            return float(np.mean(self.values, dtype=np.float64))

    @cached_property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN for fewer than two values."""
        return Moments().add(self.values).standard_error

    def quantile(self, q: Any) -> Any:
        """Quantiles, with linear interpolation between order statistics (as numpy's default).

        Args:
            q: levels in [0, 1], a number or an array.

        Raises:
            ValueError: a level outside [0, 1], or no values.

        Example:
            >>> fc.Density("loss", np.arange(101.0)).quantile([0.05, 0.5, 0.95]).round(6).tolist()
            [5.0, 50.0, 95.0]
        """
        place = self._levels(q) * (len(self.values) - 1)
        lower, upper = self._rank(np.floor(place)), self._rank(np.ceil(place))
        with np.errstate(invalid="ignore"):
            result = lower + (upper - lower) * (place - np.floor(place))
        # interpolating from an infinity gives NaN where the quantile is infinite
        result = np.where(np.isnan(result), upper, result)
        return float(result) if np.ndim(q) == 0 else result

    def quantile_interval(self, q: float, confidence: float = 0.95) -> Interval:
        """A quantile with an interval that holds for every law of the values, continuous or not.

        Its ends are order statistics whose ranks come from the binomial law of the number of values below
        the quantile (Thompson, "On confidence ranges for the median and other expectation distributions for
        populations of unknown distribution form", Annals of Mathematical Statistics, 1936; ties: Scheffé and
        Tukey, "Non-parametric estimation. I. Validation of order statistics", 1945). Each end misses with a
        probability of at most (1 − confidence) / 2, ties only make that smaller. Where the values are too
        few for a side, its end is −inf or inf.

        Args:
            q: level in [0, 1].
            confidence: level of the interval.

        Raises:
            ValueError: q outside [0, 1], confidence outside (0, 1), or no values.
        """
        check_confidence(confidence)
        count, tail = len(self.values), (1 - confidence) / 2
        place = float(self._levels(q)) * (count - 1)
        ends = scipy.stats.binom.ppf([tail, 1 - tail], count, q)
        # ranks counted from 1; the estimate lies between the two around its place
        low = min(int(ends[0]), int(np.floor(place)) + 1)
        high = max(int(ends[1]) + 1, int(np.ceil(place)) + 1)
        return Interval(
            self.quantile(q),
            float(self._rank(low - 1)) if low >= 1 else -np.inf,
            float(self._rank(high - 1)) if high <= count else np.inf,
            confidence,
        )

    def distribution(self, at: ArrayLike) -> Array:
        """Empirical distribution function: the fraction of values ≤ each of ``at``, of its shape.

        The comparison is made in the values' own precision, as in a sweep's fractions.
        """
        at = np.asarray(at, dtype=np.float64)
        with np.errstate(over="ignore"):  # levels beyond float32 are above all its finite values
            ranks = np.searchsorted(self.ranked, at.astype(self.ranked.dtype), "right")
        # NaN ranks as inf: the function is 1 there
        return np.where(at == np.inf, 1.0, np.where(np.isnan(at), np.nan, ranks / len(self.values)))

    def band(self, at: ArrayLike, confidence: float = 0.95) -> tuple[Array, Array]:
        """Band around the distribution function that holds at all points at once.

        The inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's constant ("The tight constant in the
        Dvoretzky–Kiefer–Wolfowitz inequality", Annals of Probability, 1990): for every law of the values and
        every n, the true function is inside everywhere with at least the given probability.

        Returns:
            low and high ends, each of the shape of ``at``, within [0, 1].

        Raises:
            ValueError: confidence outside (0, 1), or no values.

        Example:
            >>> low, high = fc.Density("loss", np.arange(1000.0)).band([249, 499])
            >>> low.round(2).tolist(), high.round(2).tolist()
            ([0.21, 0.46], [0.29, 0.54])
        """
        margin = dkw(len(self.values), confidence)
        middle = self.distribution(at)
        return np.maximum(middle - margin, 0.0), np.minimum(middle + margin, 1.0)

    def histogram(self, bins: int | str | ArrayLike = "auto") -> tuple[Array, Array]:
        """Density per unit of the metric [B] and bin edges [B + 1], as :func:`numpy.histogram`."""
        counts, edges = np.histogram(self.finite, bins=bins)
        return counts / (np.diff(edges) * len(self.values)), edges

    def kde(self, at: ArrayLike, bandwidth: str | float = "scott") -> Array:
        """Gaussian kernel density at the points ``at``, of their shape; integrates to the finite share.

        With n finite values of sample standard deviation s the kernel's standard deviation h is s n^(−1/5)
        for "scott" (Scott, "Multivariate Density Estimation", 1992) and s (3n/4)^(−1/5) for "silverman"
        (Silverman, "Density Estimation for Statistics and Data Analysis", 1986).

        Where values times points exceed 2**22, values are binned linearly on a grid of spacing h/64, which is
        convolved with the kernel by FFT and interpolated linearly (Wand, "Fast computation of multivariate
        kernel estimators", 1994). Binning and interpolation each change a kernel by at most (1/64)²/8 of its
        height, so the error is below 6.2e-5 / (h √(2π)) times the finite share.

        Args:
            at: where.
            bandwidth: "scott", "silverman", or h itself in units of the metric.

        Raises:
            ValueError: fewer than two different finite values, or a bandwidth that is none.

        Example:
            >>> density = fc.Density("loss", np.linspace(-1, 1, 1001))  # evenly spread: 1/2 per unit
            >>> density.kde([-3.0, 0.0, 3.0]).round(2).tolist()
            [0.0, 0.5, 0.0]
        """
        values = self.finite
        if len(values) < 2 or values[0] == values[-1]:
            raise ValueError(
                f"a kernel density of {self.metric} needs two different finite values; "
                f"there are {len(np.unique(values))}"
            )
        width = _bandwidth(values, bandwidth)
        at = np.asarray(at, dtype=np.float64)
        points, back = np.unique(at, return_inverse=True)
        kernels = _direct if len(values) * len(points) <= _DIRECT else _binned
        with np.errstate(under="ignore", over="ignore"):
            densities = kernels(values, points, width) / (width * np.sqrt(2 * np.pi) * len(self.values))
        return np.asarray(densities[back].reshape(at.shape))

    def _levels(self, q: Any) -> Array:
        levels = np.asarray(q, dtype=np.float64)
        if not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"a quantile's level is in [0, 1], not {q}")
        if not len(self.values):
            raise ValueError(f"no values of {self.metric}: their quantiles are undefined")
        return levels

    def _rank(self, place: ArrayLike) -> Array:
        """Order statistics, counted from 0, with inf for NaN."""
        values = self.ranked[np.asarray(place).astype(np.int64)].astype(np.float64)
        return np.where(np.isnan(values), np.inf, values)


def dkw(count: int, confidence: float) -> float:
    """Half-width of the simultaneous band around a distribution function of ``count`` values.

    Raises:
        ValueError: confidence outside (0, 1), or count < 1.
    """
    check_confidence(confidence)
    if count < 1:
        raise ValueError("the distribution of no values is undefined")
    return float(np.sqrt(np.log(2 / (1 - confidence)) / (2 * count)))


def _bandwidth(values: NDArray[Any], rule: str | float) -> float:
    if isinstance(rule, str):
        factors = {"scott": 1.0, "silverman": 0.75}
        if rule not in factors:
            raise ValueError(f"bandwidth={rule!r} is neither 'scott', 'silverman' nor a number")
        return float(Moments().add(values).variance ** 0.5 * (factors[rule] * len(values)) ** -0.2)
    if not 0 < rule < np.inf:
        raise ValueError(f"bandwidth={rule} is not a positive number")
    return float(rule)


def _direct(values: NDArray[Any], points: Array, width: float) -> Array:
    """Sum over the values of exp(−((point − value) / width)² / 2) for each point."""
    values = values.astype(np.float64)
    total = np.zeros(len(points))
    step = max(1, BLOCK // len(values))
    for start in range(0, len(points), step):
        piece = slice(start, start + step)
        total[piece] = np.exp(-0.5 * ((points[piece, None] - values) / width) ** 2).sum(1)
    return total


def _binned(values: NDArray[Any], points: Array, width: float) -> Array:
    """The same for ascending points, each stretch of them on a grid of its own."""
    reach, step = _REACH * width, width / _FINENESS
    kernel = np.exp(-0.5 * (np.arange(-_REACH * _FINENESS, _REACH * _FINENESS + 1) / _FINENESS) ** 2)
    total = np.where(np.isnan(points), np.nan, 0.0)
    kind = values.dtype.type
    at, end = int(np.searchsorted(points, -np.inf, "right")), int(np.searchsorted(points, np.inf))
    while at < end:
        piece = slice(at, int(np.searchsorted(points, points[at] + _SPAN * width, "right")))
        low, high = points[at] - reach, points[piece.stop - 1] + reach
        mass = np.zeros(int((high - low) / step) + 2)
        near = values[np.searchsorted(values, kind(low)) : np.searchsorted(values, kind(high), "right")]
        for block in blocks(near):
            place = np.clip((block.astype(np.float64) - low) / step, 0, len(mass) - 2)
            cell = place.astype(np.int64)
            mass += np.bincount(cell, 1 - (place - cell), len(mass))
            mass += np.bincount(cell + 1, place - cell, len(mass))
        density = np.maximum(scipy.signal.oaconvolve(mass, kernel, "same"), 0)  # rounding of the FFT
        total[piece] = np.interp(points[piece], low + step * np.arange(len(mass)), density)
        at = piece.stop
    return total
