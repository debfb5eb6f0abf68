"""A sweep that answered one question about every combination instead of measuring it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcomb.statistics.proportion import Proportion
from fastcomb.statistics.sequential_decision import Above, Below, Decide
from fastcomb.sweep.result import Sweep
from fastcomb.utils.plotting import new_figure, save


@dataclass(frozen=True, eq=False, kw_only=True)
class Decided(Sweep):
    """Answers to a question about combinations, each from as few samples as it took.

    ``sweep.fraction_below(metric, level)`` (or ``fraction_above``) with the decided metric and level is the
    fraction of combinations for which it holds; its interval accounts for wrong answers. What else a
    :class:`Sweep` says about a metric is an error. Column "loss_estimate" (or "accuracy_estimate") of
    ``sweep.rows`` has what the samples taken say of the metric; it is exact where all were.

    Attributes:
        decide: the question.
    """

    decide: Decide

    @property
    def metrics(self) -> tuple[str, ...]:
        """None: nothing was measured."""
        return ()

    @property
    def loss(self) -> NDArray[np.float32]:
        """Not there.

        Raises:
            ValueError: always.
        """
        raise self._unmeasured("loss")

    @property
    def accuracy(self) -> NDArray[np.float32]:
        """Not there.

        Raises:
            ValueError: always.
        """
        raise self._unmeasured("accuracy")

    @property
    def holds(self) -> NDArray[np.bool_]:
        """bool [n], the answers."""
        return self.rows.column("holds")

    @property
    def samples_taken(self) -> NDArray[np.int32]:
        """int32 [n], samples evaluated for each combination, of ``samples``."""
        return self.rows.column("samples")

    @property
    def saving(self) -> float:
        """How many times fewer samples were evaluated than there are, the pilot included."""
        taken = self.samples_taken.sum(dtype=np.int64) + self.decide.pilot * self.samples
        return float(len(self) * self.samples / taken)

    @property
    def fraction(self) -> Proportion:
        """Fraction of combinations for which the question is answered with yes, at confidence 0.95."""
        return self._fraction(0.95)

    def fraction_below(self, metric: str, level: float, confidence: float = 0.95) -> Proportion:
        """Fraction of combinations answered to be below the level; its interval allows for wrong answers.

        Raises:
            ValueError: another question than the one that was answered.
        """
        self._check_asked(Below, metric, level)
        return self._fraction(confidence)

    def fraction_above(self, metric: str, level: float, confidence: float = 0.95) -> Proportion:
        """Fraction of combinations answered to be above the level; its interval allows for wrong answers.

        Raises:
            ValueError: another question than the one that was answered.
        """
        self._check_asked(Above, metric, level)
        return self._fraction(confidence)

    def summary(self) -> dict[str, Any]:
        """Counts and the question; with answers the fraction, its interval, and samples taken."""
        report: dict[str, Any] = {
            "combinations": len(self),
            "requested": self.requested,
            "samples": self.samples,
            "backend": self.backend,
            "combinations_per_second": self.rate,
            "question": str(self.decide),
        }
        if not len(self):
            return report
        fraction = self.fraction
        return report | {
            "fraction": fraction.value,
            "fraction_low": fraction.low,
            "fraction_high": fraction.high,
            "samples_taken_mean": float(self.samples_taken.mean()),
            "times_fewer_samples": self.saving,
        }

    def plot(self, path: str | Path) -> Path:
        """Write a picture of how many samples it took, by answer; returns its path.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: there are no combinations.
        """
        if not len(self):
            raise ValueError("there are no combinations to draw")
        figure, axes = new_figure(1)
        bins = np.linspace(0, self.samples, 41)
        for answer, label in ((True, "holds"), (False, "does not hold")):
            taken = self.samples_taken[self.holds == answer]
            axes[0, 0].hist(taken, bins, label=f"{label} ({len(taken) / len(self):.1%})", alpha=0.6)
        axes[0, 0].set_xlabel(f"samples evaluated, of {self.samples:,}")
        axes[0, 0].set_ylabel("combinations")
        axes[0, 0].legend(frameon=False)
        figure.suptitle(f"{self.decide}: {self.saving:.1f} times fewer samples")
        return save(figure, path)

    def _fraction(self, confidence: float) -> Proportion:
        return self.decide.fraction(int(self.holds.sum()), len(self), confidence)

    def _check(self, metric: str) -> None:
        raise self._unmeasured(metric)

    def _unmeasured(self, metric: str) -> ValueError:
        return ValueError(
            f"this sweep answered {self.decide} and measured nothing; evaluate without decide= for {metric}"
        )

    def _check_asked(self, kind: type[Decide], metric: str, level: float) -> None:
        asked = self.decide
        same = type(asked) is kind and asked.metric == metric and np.float32(level) == np.float32(asked.level)
        if not same:
            raise ValueError(f"this sweep answered {asked} and can answer nothing else")
