"""The barrier on the line between two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat, Unpack

import numpy as np
from numpy.typing import NDArray

from fastcomb.analysis.evaluation import Evaluation, Options, means
from fastcomb.mixing.endpoints import Theta
from fastcomb.sampling.samplers import Constant
from fastcomb.statistics.density import Array
from fastcomb.utils.plotting import metric_label, new_figure, save
from fastcomb.utils.progress import bar
from fastcomb.utils.result import Result, markdown, measured

#: What the axis of t says.
LINE = "t: from the first network (0) to the second (1)"

Points = int | Sequence[SupportsFloat] | NDArray[np.floating]


@dataclass(frozen=True, eq=False, repr=False)
class Barrier(Result):
    """Loss and accuracy along θ_t = (1 − t) θ_A + t θ_B.

    Attributes:
        t: float64 [P], ascending, with 0 and 1.
        loss: float64 [P], mean loss over the samples at each t.
        accuracy: float64 [P], fraction of samples classified correctly; NaN where the task has no classes.
        ends_loss, ends_accuracy: float64 [2], of the two networks themselves.
    """

    t: Array
    loss: Array
    accuracy: Array
    ends_loss: Array
    ends_accuracy: Array

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the task has."""
        return measured(self.accuracy)

    def chord(self, metric: str) -> Array:
        """What interpolating the two networks' own values of ``metric`` gives at each t."""
        first, last = getattr(self, f"ends_{metric}")
        return np.asarray((1 - self.t) * first + self.t * last)

    def excess(self, metric: str) -> Array:
        """How much worse than the chord each point is: loss above it, accuracy below it."""
        curve, chord = getattr(self, metric), self.chord(metric)
        return np.asarray(curve - chord if metric == "loss" else chord - curve)

    def worst(self, metric: str) -> tuple[float, float]:
        """The barrier of ``metric``, and the t in [0, 1] where it lies; NaN counts as the worst."""
        between = (self.t >= 0) & (self.t <= 1)
        excess = self.excess(metric)[between]
        place = int(np.argmax(excess))
        return float(excess[place]), float(self.t[between][place])

    @property
    def loss_barrier(self) -> float:
        """max over t in [0, 1] of L(θ_t) − ((1 − t) L(θ_A) + t L(θ_B))."""
        return self.worst("loss")[0]

    @property
    def accuracy_barrier(self) -> float:
        """max over t in [0, 1] of ((1 − t) acc_A + t acc_B) − acc_t, as a fraction of the samples."""
        return self.worst("accuracy")[0]

    @property
    def headline(self) -> str:
        """The barrier of each metric that the task has, and over how many points."""
        barriers = [f"{metric} {self.worst(metric)[0]:.4g}" for metric in self.metrics]
        return f"{', '.join(barriers)} over {len(self.t)} points"

    def table(self) -> str:
        """A row for each t: every metric on the line, on the chord, and how much worse it is."""
        columns = [self.t]
        header = ["t"]
        for metric in self.metrics:
            columns += [getattr(self, metric), self.chord(metric), self.excess(metric)]
            header += [metric, f"{metric} on the chord", f"{metric} barrier"]
        return markdown(header, list(zip(*columns, strict=True)))

    def plot(self, path: str | Path) -> Path:
        """Loss and accuracy on the line, with its chord and the place of the barrier."""
        figure, axes = new_figure(len(self.metrics))
        for axis, metric in zip(axes[0], self.metrics, strict=True):
            height, place = self.worst(metric)
            axis.plot(self.t, getattr(self, metric), marker=".", label="on the line")
            axis.plot(self.t, self.chord(metric), linestyle=":", color="black", label="chord")
            at = self.t == place
            axis.vlines(
                place, self.chord(metric)[at], getattr(self, metric)[at], color="tab:red", label="barrier"
            )
            axis.set_title(f"{metric} barrier {height:.3g} at t = {place:.3g}")
            axis.set_xlabel(LINE)
            axis.set_ylabel(metric_label(metric))
            axis.legend(frameon=False)
        figure.suptitle("Is there a barrier on the line?")
        return save(figure, path)


def barrier(
    a: Theta,
    b: Theta,
    *,
    data: object,
    points: Points = 25,
    progress: bool | None = None,
    **options: Unpack[Options],
) -> Barrier:
    """Loss and accuracy on the line between two networks, and how far they rise above its chord.

    The definition of Ainsworth, Hayase and Srinivasa, "Git Re-Basin: merging models modulo permutation
    symmetries" (ICLR 2023), for the loss, and its mirror image for accuracy. With
    ``batch_norm="recompute"`` every point has its own recomputed running statistics, the two ends too, so
    the value at t = 0 is that of θ_A with recomputed statistics. With ``"a"`` θ_A's are kept along the
    whole line, also at t = 1, while the chord joins the networks with their own.

    Args:
        a, b: the networks, as :func:`fastcomb.evaluate` takes them.
        data: evaluation data, as in :func:`fastcomb.evaluate`.
        points: how many, evenly spaced over [0, 1], or the values of t. 0 and 1 are added; values outside
            [0, 1] show in the curve and do not count for the barrier.
        progress: show a progress bar; if None, when standard error is a terminal.
        **options: ``model``, ``loss``, ``accuracy``, ``output``, ``batch_norm``, ``calibration``,
            ``buffers``, ``device``, ``dtype``, ``backend`` and ``data_budget`` of :func:`fastcomb.evaluate`.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
        TypeError, ValueError: as :func:`fastcomb.evaluate`.

    Example:
        >>> b = fc.rebasin.align(a, a, "random", seed=1).model  # a with its units in another order
        >>> line = fc.barrier(a, b, data=(x, y), points=5, progress=False)
        >>> line.t.tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
        >>> line.loss_barrier > 0.01
        True
        >>> aligned = fc.rebasin.align(a, b).model
        >>> fc.barrier(a, aligned, data=(x, y), points=5, progress=False).loss_barrier < 1e-5
        True
    """
    t = line(points)
    evaluation = Evaluation.of(data, options, a, b)
    with bar(len(t), "point", progress) as shown:
        return along(evaluation, a, b, t, shown)


def line(points: Points) -> Array:
    """The values of t behind ``points=``: float64, ascending, with 0 and 1.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    if isinstance(points, (int, np.integer)):
        count = int(points)
        if count < 2:
            raise ValueError(f"points={count}: a line needs at least its two ends")
        return np.linspace(0, 1, count)
    t = np.asarray(points, dtype=np.float64).ravel()
    if not np.isfinite(t).all():
        raise ValueError("points= holds values that are not finite")
    return np.union1d(t, [0.0, 1.0])


def along(evaluation: Evaluation, a: Theta, b: Theta, t: Array, shown: Any) -> Barrier:
    """The barrier at given points, one update of the progress bar for each."""
    ends = evaluation.own(a, b)
    sweeps = []
    for value in t:
        sweeps.append(evaluation.sweep(a, b, Constant(float(value), per="model")))
        shown.update()
    return Barrier(t, *means(sweeps), *ends)
