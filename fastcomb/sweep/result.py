"""What a sweep yields: numbers per combination, and questions to them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fastcomb.backends import Backend
from fastcomb.density import Density, Proportion, proportion
from fastcomb.mixture import Mixture


@dataclass(frozen=True, eq=False)
class Sweep:
    """Loss and accuracy of combinations ``start``, ``start + 1``, …

    Attributes:
        start: index of the first combination.
        loss: float32 [n], mean loss over the samples; NaN and infinite values are kept.
        accuracy: float32 [n], fraction of samples classified correctly; NaN where the task has no classes.
        requested: combinations asked for; more than n if the run was interrupted.
        samples: evaluation samples per combination.
        seconds: wall time of the evaluation.
    """

    start: int
    loss: NDArray[np.float32]
    accuracy: NDArray[np.float32]
    requested: int
    samples: int
    seconds: float
    runner: Backend = field(repr=False)
    module: nn.Module = field(repr=False)

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def index(self) -> NDArray[Any]:
        """int64 [n]: the combinations' indices (uint64 where one is 2**63 or more)."""
        dtype = np.int64 if self.start + len(self) <= 1 << 63 else np.uint64
        return np.arange(len(self), dtype=dtype) + dtype(self.start)

    @property
    def complete(self) -> bool:
        """Whether all requested combinations are there."""
        return len(self) == self.requested

    @property
    def backend(self) -> str:
        """Name of the backend that ran."""
        return self.runner.name

    @property
    def mixture(self) -> Mixture:
        """The mixture that was swept; ``sweep.mixture[i]`` is combination i's state dict."""
        return self.runner.mixture

    @property
    def rate(self) -> float:
        """Combinations per second."""
        return len(self) / self.seconds

    def values(self, metric: str) -> NDArray[np.float32]:
        """The array called ``metric``.

        Raises:
            ValueError: unknown metric, or accuracy where the task has no classes.
        """
        if metric not in ("loss", "accuracy"):
            raise ValueError(f"metric={metric!r} is neither 'loss' nor 'accuracy'")
        if metric == "accuracy" and np.isnan(self.accuracy).all():
            raise ValueError("this sweep has no accuracy: its targets are not class numbers")
        return self.loss if metric == "loss" else self.accuracy

    def density(self, metric: str) -> Density:
        """Distribution of ``metric`` over the combinations."""
        return Density(metric, self.values(metric).astype(np.float64))

    def fraction_below(self, metric: str, level: float, confidence: float = 0.95) -> Proportion:
        """Fraction of combinations with ``metric`` < level, with its exact (Clopper–Pearson) interval.

        NaN is not below any level. The values are compared in their own precision, float32.
        """
        count = int(np.count_nonzero(self.values(metric) < np.float32(level)))
        return proportion(count, len(self), confidence)

    def fraction_above(self, metric: str, level: float, confidence: float = 0.95) -> Proportion:
        """Fraction of combinations with ``metric`` > level; see :meth:`fraction_below`."""
        count = int(np.count_nonzero(self.values(metric) > np.float32(level)))
        return proportion(count, len(self), confidence)

    def best(self, k: int = 1, metric: str = "loss") -> NDArray[Any]:
        """Indices of the k best combinations, best first (lowest loss, highest accuracy; NaN last).

        Ties go to the lower index.
        """
        values = self.values(metric)
        order = np.argsort(values if metric == "loss" else -values, kind="stable")
        return self.index[order[:k]]

    def rebuild(self, index: int) -> nn.Module:
        """Combination ``index`` as a module in eval mode, with the running statistics it ran with."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(self.mixture[index])
        own = self.runner.statistics(index)
        for name, buffer in module.named_buffers():
            if name in own:
                buffer.copy_(own[name])
        return module

    def summary(self) -> dict[str, Any]:
        """Counts, moments and quantiles by name, ready for a table or JSON."""
        report: dict[str, Any] = {
            "combinations": len(self),
            "requested": self.requested,
            "samples": self.samples,
            "backend": self.backend,
            "combinations_per_second": self.rate,
        }
        metrics: list[str] = ["loss"] if np.isnan(self.accuracy).all() else ["loss", "accuracy"]
        for metric in metrics:
            density = self.density(metric)
            report[f"{metric}_mean"] = density.mean
            report[f"{metric}_standard_error"] = density.standard_error
            for level in (0.05, 0.5, 0.95):
                report[f"{metric}_q{round(100 * level):02d}"] = density.quantile(level)
        report["loss_nan"] = int(np.isnan(self.loss).sum())
        report["loss_infinite"] = int(np.isinf(self.loss).sum())
        return report

    def plot(self, path: str | Path) -> Path:
        """Write a picture of the densities (format by the file's suffix); returns its path.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from fastcomb.plots import plot_sweeps

        return plot_sweeps({"combinations": self}, path)

    def __str__(self) -> str:
        lines = [f"Sweep of {self.mixture}"]
        for name, value in self.summary().items():
            shown = f"{value:.5g}" if isinstance(value, float) else str(value)
            lines.append(f"  {name.replace('_', ' '):28}{shown}")
        return "\n".join(lines)
