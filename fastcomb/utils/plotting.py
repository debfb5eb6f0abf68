"""Pictures of sweeps. Needs matplotlib (``pip install fastcomb[plots]``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastcomb.statistics.density import Array, Density

if TYPE_CHECKING:
    from fastcomb.sweep.result import Sweep


def new_figure(columns: int, rows: int = 1) -> tuple[Any, Any]:
    """A figure that is drawn without a display, and its axes [rows, columns].

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install fastcomb[plots]") from error
    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Any, path: str | Path) -> Path:
    """Write the figure, creating its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


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


def draw_density(axis: Any, density: Density, label: str, *, log: bool = False) -> None:
    """Histogram of one density; values that are not finite are counted in the label."""
    if density.nonfinite:
        label += f" ({density.nonfinite / len(density.values):.1%} not finite)"
    values = density.finite
    if log:
        values = np.log10(values[values > 0])
    if not len(values):
        axis.plot([], [], label=label)
        return
    low, high = np.quantile(values, [0.001, 0.999])
    if low == high:
        axis.axvline(10**low if log else low, label=label)
        return
    counts, edges = np.histogram(values, bins=min(80, max(10, int(len(values) ** 0.5))), range=(low, high))
    heights = counts / (np.diff(edges) * len(density.values))
    (line,) = axis.plot([], [], label=label)
    axis.stairs(heights, 10**edges if log else edges, fill=True, alpha=0.35, color=line.get_color())
    axis.stairs(heights, 10**edges if log else edges, color=line.get_color())
    if log:
        log_axis(axis)


def draw_fraction(axis: Any, density: Density, label: str, *, above: bool = False) -> None:
    """Fraction of combinations below (or above) each value of the metric: the distribution function."""
    fraction = np.arange(1, len(density.finite) + 1) / len(density.values)
    if above:
        fraction = 1 - fraction
    axis.plot(density.finite, fraction, label=label, drawstyle="steps-post")
    axis.set_ylim(0, 1.02)


def draw_distribution(
    axis: Any,
    density: Density,
    at: Array,
    label: str,
    *,
    confidence: float = 0.95,
    steps: bool = True,
    **style: Any,
) -> None:
    """Distribution function of one metric, with the band that holds at all values at once.

    Args:
        axis: to draw on.
        density: the distribution; not empty.
        at: float64 [P], ascending values of the metric at which the function is drawn.
        label: for a legend.
        confidence: level of the band (:meth:`fastcomb.Density.band`).
        steps: whether it is constant between the points; False draws straight lines between some of many.
        style: of the line, as matplotlib takes it.
    """
    drawn = "steps-post" if steps else "default"
    (line,) = axis.plot(at, density.distribution(at), drawstyle=drawn, label=label, **style)
    low, high = density.band(at, confidence)
    step = "post" if steps else None
    axis.fill_between(at, low, high, step=step, alpha=0.22, color=line.get_color(), linewidth=0)


def log_axis(axis: Any) -> None:
    """A logarithmic x axis with few, plain tick labels."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())


def _caption(sweeps: Mapping[str, Sweep]) -> str:
    first = next(iter(sweeps.values()))
    return f"{len(first):,} combinations, {first.mixture.sampler}, {first.samples:,} samples each"
