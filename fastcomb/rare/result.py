"""What a search for rare combinations yields."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.stats

from fastcomb.statistics.density import Array
from fastcomb.statistics.proportion import proportion
from fastcomb.utils.plotting import log_axis, new_figure, save
from fastcomb.utils.result import Result, markdown


@dataclass(frozen=True, eq=False, repr=False)
class RareFraction(Result):
    """The fraction of combinations whose metric is beyond a level, with m thresholds on the way to it.

    Attributes:
        value: the fraction, estimated without bias.
        low, high: ends of its interval.
        confidence: level of the interval.
        metric, level, above: the event, ``metric`` < level or, with ``above``, > level.
        sampler: the law of the coefficients.
        n: points of a level in each run.
        repeats: independent runs R.
        evaluations: networks evaluated, the pilot's too.
        reached: whether the thresholds came down to the level. If not, ``value`` may be 0, and ``high`` is
            what can be said.
        thresholds: float64 [m + 1], of the metric; the last one is ``level``. m = 0 means that no chains were
            needed: the fraction is that of ``n * repeats`` plain draws.
        conditional: float64 [R, m + 1], fraction of a level's points beyond the next threshold, by run.
        acceptance: float64 [m], accepted moves below each threshold, the runs' mean.
        steps: float64 [m], length s of a move, in (0, 1]; 1 is an independent draw.
        curve_at: float64 [G], values of the metric towards the level, which is the last.
        curve: float64 [G, 3], the fraction beyond each (thresholds included), and its interval.
        plain: float64 [G], plain draws beyond each, of the ``n * repeats`` that the runs began with.
    """

    value: float
    low: float
    high: float
    confidence: float
    metric: str
    level: float
    above: bool
    sampler: str
    n: int
    repeats: int
    evaluations: int
    reached: bool
    thresholds: Array
    conditional: Array
    acceptance: Array
    steps: Array
    curve_at: Array
    curve: Array
    plain: Array

    @property
    def event(self) -> str:
        """The event in words."""
        return f"{self.metric} {'>' if self.above else '<'} {self.level:.5g}"

    @property
    def estimates(self) -> Array:
        """Each run's own estimate, float64 [R]; their mean is ``value``."""
        return np.asarray(self.conditional.prod(axis=1))

    @property
    def plain_evaluations(self) -> float:
        """Plain draws that an interval of the same relative width would take.

        A fraction p of N draws has relative standard error √((1 − p) / (p N)), set equal to half the
        interval's logarithm over the normal quantile. With a lower end of 0, the draws that give the same
        upper end if none is beyond the level.
        """
        if self.low == 0:
            return math.log((1 - self.confidence) / 2) / math.log1p(-self.high) if self.high < 1 else 0.0
        normal = scipy.stats.norm.ppf((1 + self.confidence) / 2)
        error = math.log(self.high / self.low) / (2 * normal)
        return (1 - self.value) / (self.value * error**2) if error else math.inf

    @property
    def headline(self) -> str:
        """The fraction with its interval, the evaluations it took, and what plain sampling would take."""
        return (
            f"{self.event} in {self.value:.3g} [{self.low:.3g}, {self.high:.3g}] of combinations, from "
            f"{self.evaluations:,} evaluations; plain sampling: {self.plain_evaluations:.2g}"
        )

    def table(self) -> str:
        """One row for each threshold; the last is the level."""
        sign = ">" if self.above else "<"
        fractions = self.conditional.mean(axis=0)
        at = {float(value): row for value, row in zip(self.curve_at[:-1], self.curve, strict=False)}
        rows: list[list[str | float]] = []
        for place, threshold in enumerate(self.thresholds):
            last = place == len(self.steps)
            estimate = self.curve[-1] if last else at[float(threshold)]
            moves = ["–", "–"] if last else [f"{self.acceptance[place]:.2f}", f"{self.steps[place]:.3f}"]
            equal = "" if last else "="
            rows.append([f"{sign}{equal} {threshold:.5g}", fractions[place], *estimate, *moves])
        header = [self.metric, "of those before", "of all", "low", "high", "acceptance", "step"]
        return markdown(header, rows)

    def plot(self, path: str | Path) -> Path:
        """Draw the fraction beyond each value of the metric down to the level, on a log scale.

        Plain sampling's stands beside it where that has counted anything.
        """
        figure, axes = new_figure(1)
        axis = axes[0, 0]
        fraction, low, high = self.curve.T
        seen = fraction > 0
        axis.plot(self.curve_at[seen], fraction[seen], label="subset simulation")
        bottom = fraction[seen].min(initial=1.0) / 10  # 0 has no place on the axis
        axis.fill_between(self.curve_at, low.clip(bottom), high.clip(bottom), alpha=0.25, linewidth=0)
        draws = self.n * self.repeats
        counted = self.plain > 0
        exact = [proportion(int(count), draws, self.confidence) for count in self.plain[counted]]
        if exact:
            value, ends = self.plain[counted] / draws, np.array([[p.low, p.high] for p in exact]).T
            errors = [value - ends[0], ends[1] - value]
            axis.errorbar(
                self.curve_at[counted],
                value,
                errors,
                fmt=".",
                color="black",
                linewidth=1,
                label=f"{draws:,} plain draws",
            )
        axis.axvline(self.level, color="tab:red", linestyle=":", label=f"level {self.level:.4g}")
        axis.set_yscale("log")
        axis.set_xlabel(self.metric)
        if 0 < 3 * self.curve_at.min() < self.curve_at.max():
            log_axis(axis)
        axis.set_ylabel(f"fraction of combinations {'above' if self.above else 'below'}")
        axis.legend(frameon=False)
        figure.suptitle(
            f"{self.event} in {self.value:.2g} [{self.low:.2g}, {self.high:.2g}]\n{self.sampler}",
            fontsize="medium",
        )
        return save(figure, path)
