"""Distributions of a metric, drawn on matplotlib's axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastcomb.statistics.density import Array, Density
from fastcomb.utils.plotting import log_axis


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
