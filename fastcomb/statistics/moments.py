"""Mean and variance of values that come in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Values converted to float64 at a time; all of them may be several times the memory.
BLOCK = 1 << 20


def blocks(values: NDArray[Any], size: int = BLOCK) -> Iterator[NDArray[Any]]:
    """Successive pieces of an array, as views."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


class Moments:
    """Count, mean and variance of values that come in pieces, in float64.

    Pieces are merged by the formula of Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm
    for computing sample variances", 1979), which does not lose the variance of values far from 0. NaN and
    infinite values carry into the mean; the variance is NaN then.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, values: NDArray[Any]) -> Moments:
        """Take in more values [n] of any floating dtype; returns itself."""
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told apart below
            for block in blocks(values):
                self._merge(block.astype(np.float64))
        return self

    def _merge(self, block: NDArray[np.float64]) -> None:
        mean = float(block.mean())
        total = self.count + len(block)
        if np.isfinite(mean) and np.isfinite(self.mean):
            apart, share = mean - self.mean, len(block) / total
            self._squares += float(np.sum((block - mean) ** 2)) + apart**2 * self.count * share
            self.mean += apart * share
        else:
            self.mean += mean
            self._squares = float("nan")
        self.count = total

    @property
    def variance(self) -> float:
        """The unbiased sample variance; NaN for fewer than two values."""
        return self._squares / (self.count - 1) if self.count > 1 else float("nan")

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN for fewer than two values."""
        return float((self.variance / self.count) ** 0.5) if self.count > 1 else float("nan")
