"""What a sweep yields: numbers per combination, and questions to them."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fastcomb.backends.criterion import OF_CLASSES
from fastcomb.functional import Mixture
from fastcomb.statistics.density import Density
from fastcomb.statistics.drawing import draw_density
from fastcomb.statistics.proportion import Interval, Proportion, check_level, proportion
from fastcomb.sweep.endpoint_results import EndpointResult
from fastcomb.sweep.origin import Origin
from fastcomb.sweep.rows import Rows, indices
from fastcomb.utils.plotting import new_figure, save


@dataclass(frozen=True, eq=False)
class Sweep:
    """Loss, accuracy and other metrics of combinations.

    Columns of a sweep that is on disk are read when they are asked for, and kept. Fractions and the best
    combinations are found piece by piece without reading all.

    Attributes:
        rows: the columns, and which combinations they are of.
        requested: combinations asked for; more than n if the run was interrupted.
        samples: evaluation samples per combination.
        seconds: time spent evaluating; of a run on disk, of all sessions and machines together.
        backend: name of what ran.
        path: folder of the run, or None.
        estimate: with ``until``, what was waited for, with an interval that holds although one waited; the
            others here are for a number of combinations that was fixed beforehand.
    """

    rows: Rows = field(repr=False)
    requested: int
    samples: int
    seconds: float
    backend: str
    origin: Origin = field(repr=False)
    path: Path | None = None
    estimate: Interval | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def index(self) -> NDArray[Any]:
        """int64 [n]: the combinations' indices, ascending (uint64 where one is 2**63 or more)."""
        return self.rows.index

    @property
    def loss(self) -> NDArray[np.float32]:
        """float32 [n], mean loss over the samples, or over all targets that are not ignored.

        NaN and infinite values are kept.
        """
        return self.rows.column("loss")

    @property
    def accuracy(self) -> NDArray[np.float32]:
        """float32 [n], fraction of targets classified correctly; NaN where the task has no classes."""
        return self.rows.column("accuracy")

    @property
    def perplexity(self) -> NDArray[np.float64]:
        """float64 [n], exp of the loss, where that is the cross-entropy of a language model.

        Raises:
            ValueError: another loss, or one with label smoothing.
        """
        loss = self.origin.loss
        kind, _, settings = loss.removeprefix("token_").partition("(")
        if kind not in OF_CLASSES or "label_smoothing" in settings:
            raise ValueError(
                f"perplexity is exp of a cross-entropy, and the loss here is {loss or 'a callable'}; "
                "evaluate with loss='cross_entropy'"
            )
        with np.errstate(over="ignore"):
            return np.exp(self.loss.astype(np.float64))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what was measured and has a meaning here."""
        names = self.rows.names
        if "accuracy" in names and len(self) and np.isnan(self.accuracy).all():
            return tuple(name for name in names if name != "accuracy")
        return names

    @property
    def complete(self) -> bool:
        """Whether all requested combinations are there."""
        return 0 < self.requested <= len(self)

    @property
    def mixture(self) -> Mixture:
        """The mixture that was swept; ``sweep.mixture[i]`` is combination i's state dict."""
        return self.origin.mixture

    @property
    def endpoints(self) -> tuple[EndpointResult, ...]:
        """Loss and accuracy of the networks themselves, evaluated when first asked for.

        Each with its own buffers and running statistics (recomputed ones with ``batch_norm="recompute"``).
        Empty for runs that were saved without.
        """
        return self.origin.endpoints

    @property
    def rate(self) -> float:
        """Combinations per second of evaluation."""
        return len(self) / self.seconds if self.seconds else float("nan")

    def values(self, metric: str) -> NDArray[np.float32]:
        """The array [n] called ``metric``.

        Raises:
            ValueError: unknown metric, or accuracy where the task has no classes.
        """
        self._check(metric)
        return self.rows.column(metric)

    def density(self, metric: str = "loss") -> Density:
        """Distribution of a metric over the combinations.

        Example:
            >>> sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=200, progress=False)
            >>> low, median, high = sweep.density("loss").quantile([0.05, 0.5, 0.95])
            >>> bool(sweep.loss.min() < low < median < high < sweep.loss.max())
            True
        """
        return Density(metric, self.values(metric))

    def fraction_below(self, metric: str, level: float, confidence: float = 0.95) -> Proportion:
        """Fraction of combinations with ``metric`` < level, with its exact interval.

        The interval is about the law of combinations on these samples, not about unseen samples. NaN is
        not below any level. The values are compared in their own precision, float32.

        Example:
            >>> sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=200, progress=False)
            >>> median = sweep.density("loss").quantile(0.5)
            >>> print(sweep.fraction_below("loss", median))
            0.5 [0.4287, 0.5713]
        """
        self._check(metric)
        check_level(metric, level)
        limit = _level(level)
        count = sum(int((c[metric] < limit).sum()) for _, c in self.rows.pieces(metric))
        return proportion(count, len(self), confidence)

    def fraction_above(self, metric: str, level: float, confidence: float = 0.95) -> Proportion:
        """Fraction of combinations with ``metric`` > level; see :meth:`fraction_below`."""
        self._check(metric)
        check_level(metric, level)
        limit = _level(level)
        count = sum(int((c[metric] > limit).sum()) for _, c in self.rows.pieces(metric))
        return proportion(count, len(self), confidence)

    def best(self, k: int = 1, metric: str = "loss", *, largest: bool | None = None) -> NDArray[Any]:
        """Indices of the k best combinations, best first, NaN last.

        Args:
            k: how many.
            metric: of what.
            largest: whether large values are good; if None, those of accuracy are and others are not.

        Ties go to the lower index.

        Raises:
            TypeError, ValueError: k is no number of combinations, or the metric is unknown.

        Example:
            >>> sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=200, progress=False)
            >>> best = sweep.best(3)
            >>> best.shape
            (3,)
            >>> bool(sweep.loss[best[0]] == sweep.loss.min())
            True
        """
        self._check(metric)
        k = operator.index(k)
        if k < 0:
            raise ValueError(f"k={k} is negative; ask for at least no combinations")
        sign = -1 if (metric == "accuracy" if largest is None else largest) else 1
        index, values = indices([], like=self.rows.spans), np.zeros(0, dtype=np.float32)
        for first, columns in self.rows.pieces(metric):
            piece = indices([(first, first + len(columns[metric]))], like=self.rows.spans)
            index, values = np.concatenate([index, piece]), np.concatenate([values, sign * columns[metric]])
            order = np.argsort(values, kind="stable")[:k]
            index, values = index[order], values[order]
        return index

    def rebuild(self, index: int) -> nn.Module:
        """Combination ``index`` as a module in eval mode, with the running statistics it ran with.

        Raises:
            ValueError: the sweep was opened from disk without ``model=``.

        Example:
            >>> sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=200, progress=False)
            >>> winner = sweep.rebuild(sweep.best(1)[0])
            >>> loss = nn.functional.cross_entropy(winner(x), y)
            >>> abs(loss.item() - sweep.loss.min().item()) < 1e-4
            True
        """
        return self.origin.rebuild(index)

    def summary(self) -> dict[str, Any]:
        """Counts, moments and quantiles by name, ready for a table or JSON.

        Example:
            >>> report = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=200, progress=False).summary()
            >>> report["combinations"], report["samples"]
            (200, 100)
            >>> report["loss_q05"] < report["loss_mean"] < report["loss_q95"]
            True
        """
        report: dict[str, Any] = {
            "combinations": len(self),
            "requested": self.requested,
            "samples": self.samples,
            "backend": self.backend,
            "combinations_per_second": self.rate,
        }
        if self.estimate is not None:
            estimate = self.estimate
            report |= {
                "estimate": estimate.value,
                "estimate_low": estimate.low,
                "estimate_high": estimate.high,
            }
        for endpoint in self.endpoints:
            report[f"{endpoint.label}_loss"] = endpoint.loss
            if not np.isnan(endpoint.accuracy):
                report[f"{endpoint.label}_accuracy"] = endpoint.accuracy
        for metric in self.metrics if len(self) else ():
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
        return plot_sweeps({"combinations": self}, path)

    def _check(self, metric: str) -> None:
        if metric not in self.rows.names:
            names = " nor ".join(map(repr, self.rows.names))
            raise ValueError(f"metric={metric!r} is neither {names}")
        if metric not in self.metrics:
            raise ValueError("this sweep has no accuracy: its targets are not class numbers")

    def __str__(self) -> str:
        lines = [f"Sweep of {self.mixture}"]
        for name, value in self.summary().items():
            text = f"{value:.5g}" if isinstance(value, float) else str(value)
            lines.append(f"  {name.replace('_', ' '):28}{text}")
        return "\n".join(lines)


def _level(level: float) -> np.float32:
    if np.isnan(level):
        raise ValueError("level is NaN; nothing is below or above it")
    return np.float32(level)


def plot_sweeps(
    sweeps: Mapping[str, Sweep], path: str | Path, *, title: str = "", log_loss: bool = False
) -> Path:
    """Densities of loss and accuracy of one or more sweeps in one picture; dotted lines are the networks'.

    Args:
        sweeps: label → sweep.
        path: file to write; the suffix gives the format.
        title: over the picture.
        log_loss: show the loss on a logarithmic axis (density per unit of log10).

    Returns:
        the path.
    """
    metrics: list[str] = ["loss"]
    if not any(np.isnan(sweep.accuracy).all() for sweep in sweeps.values()):
        metrics.append("accuracy")
    figure, axes = new_figure(len(metrics))
    for axis, metric in zip(axes[0], metrics, strict=True):
        for label, sweep in sweeps.items():
            draw_density(axis, sweep.density(metric), label, log=log_loss and metric == "loss")
            for value in (getattr(one, metric) for one in sweep.endpoints):
                if math.isfinite(value):
                    axis.axvline(value, color=axis.lines[-1].get_color(), linestyle=":", linewidth=1.2)
        told = [" (log scale)"] if log_loss and metric == "loss" else []
        told += [" (dotted: the networks themselves)"] if any(s.endpoints for s in sweeps.values()) else []
        axis.set_xlabel(metric + "".join(told))
        axis.set_ylabel("density over combinations")
        axis.set_ylim(bottom=0)
    if len(sweeps) > 1:
        axes[0, -1].legend(frameon=False)
    figure.suptitle(title or _caption(sweeps))
    return save(figure, path)


def _caption(sweeps: Mapping[str, Sweep]) -> str:
    first = next(iter(sweeps.values()))
    return f"{len(first):,} combinations, {first.mixture.sampler}, {first.samples:,} samples each"
