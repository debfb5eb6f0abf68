"""How two distributions of a metric differ, each number with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastcomb.statistics import two_samples
from fastcomb.statistics.density import Array, Density
from fastcomb.statistics.moments import Moments
from fastcomb.statistics.proportion import Interval, check_confidence
from fastcomb.sweep import Sweep
from fastcomb.sweep.rows import overlap
from fastcomb.utils.plotting import new_figure, save
from fastcomb.utils.result import Result, markdown

#: Points of the picture.
_POINTS = 400


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """Two distributions beside each other.

    Differences are those of the second minus the first. The intervals are explained in
    :mod:`fastcomb.statistics.two_samples`.

    Attributes:
        labels: of the two, by default "a" and "b".
        metric: what is compared.
        confidence: level of each interval by itself, and of the statement on dominance.
        counts, nonfinite: number of values of each, and how many of them are NaN or infinite.
        independent: whether the samples were treated as independent of each other.
        p_value: of the Kolmogorov–Smirnov test that the two laws are the same.
        estimates: value, low and high of what the properties below return.
        at: float64 [P], values of the metric.
        distribution: float64 [2, P], the empirical distribution functions there.
        density: float64 [2, P], the kernel densities there; NaN where one has fewer than two values.
    """

    labels: tuple[str, ...]
    metric: str
    confidence: float
    counts: tuple[int, ...]
    nonfinite: tuple[int, ...]
    independent: bool
    p_value: float
    estimates: Mapping[str, Array]
    at: Array
    distribution: Array
    density: Array

    @property
    def mean_difference(self) -> Interval:
        """Difference of the means."""
        return self._interval("mean")

    @property
    def median_difference(self) -> Interval:
        """Difference of the medians."""
        return self._interval("median")

    @property
    def probability_below(self) -> Interval:
        """Probability that a draw of the first is below one of the second, ties counting half."""
        return self._interval("probability")

    @property
    def wasserstein(self) -> Interval:
        """Wasserstein-1 distance, in units of the metric; NaN where a value is not finite."""
        return self._interval("wasserstein")

    @property
    def leads(self) -> tuple[Interval, Interval]:
        """sup(F_a − F_b) and sup(F_b − F_a): how far each is below the other where it is so most.

        Their intervals hold together, at all values of the metric at once.
        """
        return self._interval("lead of the first"), self._interval("lead of the second")

    @property
    def statistic(self) -> float:
        """The Kolmogorov–Smirnov statistic, sup|F_a − F_b| of the samples."""
        return max(lead.value for lead in self.leads)

    @property
    def dominance(self) -> str:
        """First-order stochastic dominance: "a is below b", "b is below a", "neither" or "undecided".

        With the simultaneous intervals of :attr:`leads`:

        - "neither": both leads are above 0. Each is below the other somewhere.
        - "a is below b": a's lead is above the largest that b's may be, and b's may be 0. So F_a > F_b
          somewhere, and F_b > F_a nowhere by more than :attr:`slack`. No sample can show that the slack is 0.
        - "undecided": anything else.

        Whatever the laws are, what is said by these definitions is false with a probability of at most
        1 − confidence. In particular so are "neither" where one dominates and "a is below b" where b
        dominates or both are the same.
        """
        first, second = self.leads
        if first.low > 0 and second.low > 0:
            return "neither"
        a, b = self.labels
        if first.low > second.high:
            return f"{a} is below {b}"
        if second.low > first.high:
            return f"{b} is below {a}"
        return "undecided"

    @property
    def slack(self) -> float:
        """The most by which the dominance seen may be violated: the upper end of the smaller lead."""
        return min(lead.high for lead in self.leads)

    @property
    def headline(self) -> str:
        """What dominates; by how much the means differ and P(first < second), with intervals."""
        return (
            f"{self.metric}: {self.dominance}; means differ by {self.mean_difference}, "
            f"P({self.labels[0]} < {self.labels[1]}) = {self.probability_below}"
        )

    def table(self) -> str:
        """A row for each estimate with the ends of its interval, and one for the p-value."""
        a, b = self.labels
        names = {
            "mean": f"mean of {b} − mean of {a}",
            "median": f"median of {b} − median of {a}",
            "probability": f"P({a} < {b}) + ½ P({a} = {b})",
            "wasserstein": "Wasserstein-1 distance",
            "lead of the first": f"sup(F of {a} − F of {b})",
            "lead of the second": f"sup(F of {b} − F of {a})",
        }
        rows: list[tuple[str | float, ...]] = [
            (name, *map(float, self.estimates[key])) for key, name in names.items()
        ]
        rows.append(("p-value (Kolmogorov–Smirnov)", self.p_value, "", ""))
        return markdown([self.metric, "found", "low", "high"], rows)

    def plot(self, path: str | Path) -> Path:
        """Write a picture of both distribution functions with their bands, and of both densities."""
        figure, axes = new_figure(2)
        for i, label in enumerate(self.labels):
            margin = two_samples.one_band_margin(self.counts[i], self.confidence)
            lost = f" ({self.nonfinite[i] / self.counts[i]:.1%} not finite)" if self.nonfinite[i] else ""
            (line,) = axes[0, 0].step(self.at, self.distribution[i], where="post", label=label + lost)
            low, high = (np.clip(self.distribution[i] + sign * margin, 0, 1) for sign in (-1, 1))
            axes[0, 0].fill_between(
                self.at, low, high, step="post", alpha=0.25, color=line.get_color(), linewidth=0
            )
            axes[0, 1].plot(self.at, self.density[i], label=label, color=line.get_color())
        axes[0, 0].set_ylabel(f"distribution function, {self.confidence:.0%} bands")
        axes[0, 1].set_ylabel("density over combinations")
        axes[0, 1].set_ylim(bottom=0)
        for axis in axes[0]:
            axis.set_xlabel(self.metric)
        axes[0, 0].legend(frameon=False)
        figure.suptitle(f"{self.metric}: {self.dominance}")
        return save(figure, path)

    def _interval(self, key: str) -> Interval:
        value, low, high = map(float, self.estimates[key])
        return Interval(value, low, high, self.confidence)


def compare(
    a: Sweep | Density | ArrayLike,
    b: Sweep | Density | ArrayLike,
    metric: str = "loss",
    confidence: float = 0.95,
    *,
    labels: tuple[str, str] = ("a", "b"),
    independent: bool | None = None,
    resamples: int = 999,
    seed: int = 0,
) -> Comparison:
    """Compare the distributions of a metric over two sets of combinations.

    Two sweeps with the same seed draw their coefficients from the same random numbers, so their values may
    depend on each other even if networks and laws differ. What is reported then holds under any dependence,
    at the price of intervals that are up to √2 wider.

    Args:
        a, b: two sweeps, or their densities, or values [n]. NaN ranks as inf, as in :class:`Density`.
        metric: of the sweeps; of arrays only the name.
        confidence: level of each interval by itself.
        labels: what to call them.
        independent: whether the samples are independent of each other. If None, sweeps are unless they share
            a seed and some indices, and everything else is.
        resamples: of the bootstrap behind the interval of the Wasserstein distance.
        seed: of the bootstrap.

    Raises:
        ValueError: an unknown metric, fewer than two values, equal labels, confidence outside (0, 1), or
            resamples too few for it.

    Example:
        >>> b = fc.rebasin.align(a, a, "random", seed=1).model  # a with its units in another order
        >>> aligned = fc.rebasin.align(a, b).model
        >>> before = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=500, progress=False)
        >>> after = fc.evaluate(a, aligned, fc.Uniform(), data=(x, y), n=500, progress=False)
        >>> found = fc.compare(after, before, labels=("aligned", "unaligned"))
        >>> found.dominance
        'aligned is below unaligned'
        >>> found.mean_difference.low > 0
        True
    """
    check_confidence(confidence)
    if labels[0] == labels[1]:
        raise ValueError(f"labels={labels}: the two need different names")
    if (resamples + 1) * (1 - confidence) < 2:
        raise ValueError(f"resamples={resamples} is too few for confidence={confidence}")
    if independent is None:
        independent = not (isinstance(a, Sweep) and isinstance(b, Sweep) and _shared(a, b))
    densities = (_density(a, metric), _density(b, metric))
    for density, label in zip(densities, labels, strict=True):
        if np.ndim(density.values) != 1:
            raise ValueError(
                f"{label} has values of shape {np.shape(density.values)}; pass them in one row [n]"
            )
        if len(density.values) < 2:
            raise ValueError(f"{label} has {len(density.values)} values; at least two are needed")
    first, second = (_ordered(density) for density in densities)
    lead, behind, distance = two_samples.gaps(first, second)
    margin = two_samples.band_margin(len(first), len(second), confidence)
    moments = (Moments().add(densities[0].values), Moments().add(densities[1].values))
    intervals = {
        "mean": two_samples.mean_difference(*moments, confidence=confidence, independent=independent),
        "median": two_samples.median_difference(*densities, confidence=confidence),
        "probability": two_samples.probability_below(first, second, confidence, independent=independent),
        "wasserstein": two_samples.wasserstein_interval(
            first, second, distance, confidence, independent=independent, resamples=resamples, seed=seed
        ),
        "lead of the first": _lead(lead, margin, confidence),
        "lead of the second": _lead(behind, margin, confidence),
    }
    at = _points(densities)
    return Comparison(
        labels=tuple(labels),
        metric=densities[0].metric,
        confidence=confidence,
        counts=(len(first), len(second)),
        nonfinite=(densities[0].nonfinite, densities[1].nonfinite),
        independent=independent,
        p_value=two_samples.smirnov(first, second, max(lead, behind), independent=independent),
        estimates={name: np.array([each.value, each.low, each.high]) for name, each in intervals.items()},
        at=at,
        distribution=np.array([density.distribution(at) for density in densities]),
        density=np.array([_kernel_density(density, at) for density in densities]),
    )


def _density(values: Any, metric: str) -> Density:
    if isinstance(values, Sweep):
        return values.density(metric)
    if isinstance(values, Density):
        return values
    array = np.asarray(values)
    return Density(metric, array if array.dtype.kind == "f" else array.astype(np.float64))


def _shared(a: Sweep, b: Sweep) -> bool:
    """Whether both sweeps draw from the same random numbers somewhere."""
    return a.mixture.seed == b.mixture.seed and bool(overlap(a.rows.spans, b.rows.spans))


def _ordered(density: Density) -> two_samples.Sample:
    """Values ascending, inf for NaN."""
    ranked = density.ranked
    return np.where(np.isnan(ranked), ranked.dtype.type(np.inf), ranked) if np.isnan(ranked[-1]) else ranked


def _lead(value: float, margin: float, confidence: float) -> Interval:
    return Interval(value, max(value - margin, 0.0), min(value + margin, 1.0), confidence)


def _points(densities: tuple[Density, ...]) -> Array:
    """Evenly spaced values of the metric that show both distributions but for the ends of long tails."""
    finite = [density.finite for density in densities if len(density.finite)]
    ends = [np.quantile(values, [0.005, 0.995]) for values in finite] or [np.zeros(2)]
    low, high = float(min(end[0] for end in ends)), float(max(end[1] for end in ends))
    room = 0.1 * (high - low) or 0.5
    return np.linspace(low - room, high + room, _POINTS)


def _kernel_density(density: Density, at: Array) -> Array:
    if len(density.finite) < 2 or density.finite[0] == density.finite[-1]:
        return np.full(len(at), np.nan)
    return density.kde(at)
