"""What mode_combinability.py found, as its page and pictures ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

#: Fraction by which a loss may exceed the worse network's and still count as low; a convention.
NEAR = (0.25, 1.0)
Results = Mapping[str, Mapping[str, Any]]
MATCHINGS = ("aligned", "aligned by activations", "unaligned")
UNIFORM = "element-wise uniform"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % t-interval (NaN for one value)."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return float(x.mean()), float("nan")
    return float(x.mean()), float(scipy.stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)


class Found:
    """Numbers of one family, by pair."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self.pairs = len(record["combinations"][MATCHINGS[0]])

    @property
    def worse(self) -> list[float]:
        """Loss of the worse network of each pair."""
        ends = [loss for loss, _ in self.record["ends"]]
        return [max(two) for two in zip(ends[::2], ends[1::2], strict=False)]

    def combinations(self, matching: str, law: str, what: str) -> list[Any]:
        return [pair[law][what] for pair in self.record["combinations"][matching]]

    def near(self, matching: str, law: str, level: int = 0) -> list[float]:
        """Fraction of combinations with a low loss, per pair."""
        return [near[level] for near in self.combinations(matching, law, "near")]

    def lost(self, matching: str) -> list[float]:
        """Mean accuracy of each pair's networks minus that of their element-wise uniform combinations."""
        ends = [accuracy for _, accuracy in self.record["ends"]]
        own = [(one + other) / 2 for one, other in zip(ends[::2], ends[1::2], strict=False)]
        cube = self.combinations(matching, UNIFORM, "accuracy")
        return [one - other for one, other in zip(own, cube, strict=False)]

    def barrier(self, matching: str, metric: int) -> list[float]:
        return [line["barrier"][metric] for line in self.record["line"][matching]]

    def calibrated(self, matching: str, which: str, what: int) -> list[float]:
        return [pair[which][what] for pair in self.record["calibrated"][matching]]

    def curve(self, kind: str, metric: str) -> NDArray[np.float64]:
        """[pairs, fractions] of combinations under perturbed matchings."""
        return np.array([pair["curves"][kind][metric] for pair in self.record["robustness"]])
