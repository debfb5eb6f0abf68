"""The pictures of a report: each a figure with the words that go with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastcomb.report.entry import Entry
from fastcomb.report.levels import Level
from fastcomb.report.markup import clean
from fastcomb.report.numbers import percent, plain, tick
from fastcomb.report.scale import Scale
from fastcomb.report.style import COLOURS, colour, dashes
from fastcomb.report.svg import Legend, blank, drawing
from fastcomb.statistics.drawing import draw_distribution
from fastcomb.sweep import Decided
from fastcomb.utils.plotting import log_axis

#: Runs up to which histograms are drawn behind the kernel densities.
_FILLED = 3

#: Parts of a run, beyond which successive ones are drawn together.
_STEPS = 200

#: Bins of samples taken, about.
_BINS = 40


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture.

    Attributes:
        name: of its files.
        title: in a few words.
        description: what it shows, for readers who do not see it.
        caption: what to know when looking at it.
        legend: its series.
        figure: of matplotlib.
    """

    name: str
    title: str
    description: str
    caption: str
    legend: Legend
    figure: Any


def density(metric: str, entries: Sequence[Entry], levels: Sequence[Level]) -> Picture:
    """Histograms and kernel densities of a metric."""
    from matplotlib.ticker import FuncFormatter

    scale = Scale.of(metric, entries)
    filled = len(entries) <= _FILLED
    with drawing():
        figure, axis = blank()
        for entry in entries:
            measured = entry.densities[metric]
            ink = colour(entry.number)
            heights, edges = scale.histogram(measured)
            curve = scale.curve(measured)
            if filled or curve is None:
                axis.stairs(heights, edges, fill=True, alpha=0.25, color=ink, linewidth=0)
            if curve is not None:
                axis.plot(*curve, color=ink, linestyle=dashes(entry.number))
            elif len(measured.finite):
                axis.axvline(float(measured.finite[0]), color=ink, linestyle=dashes(entry.number))
            for value in entry.own(metric).values():
                axis.axvline(value, color=ink, linestyle=":", linewidth=1.1)
        _finish(axis, metric, scale, levels)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axis.set_ylim(bottom=0)
        axis.set_ylabel("density per decade" if scale.log else f"density per unit of {clean(metric)}")
    bars = "Histogram and kernel density" if filled else "Kernel densities"
    return Picture(
        f"density-{_file_name(metric)}",
        f"Density of the {metric}",
        f"{bars} of the {metric} over the combinations of {_named(entries)}. {_medians(metric, entries)}",
        f"{bars} over the combinations.{_where(scale)}{_dotted(metric, scale, levels)}"
        f"{_own(metric, entries)}{_lost(metric, entries)}",
        _legend(entries),
        figure,
    )


def distribution(
    metric: str, entries: Sequence[Entry], levels: Sequence[Level], confidence: float
) -> Picture:
    """Distribution functions of a metric with their simultaneous bands."""
    from matplotlib.ticker import PercentFormatter

    scale = Scale.of(metric, entries)
    with drawing():
        figure, axis = blank()
        for entry in entries:
            measured = entry.densities[metric]
            style = {"color": colour(entry.number), "linestyle": dashes(entry.number)}
            at, every = scale.steps(measured)
            name = f"run {entry.number}"
            draw_distribution(axis, measured, at, name, confidence=confidence, steps=every, **style)
        _finish(axis, metric, scale, levels)
        axis.set_ylim(0, 1)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol="\u00a0%"))
        axis.set_ylabel("combinations at or below")
    band = f"{plain(100 * confidence)}\u00a0% band"
    return Picture(
        f"distribution-{_file_name(metric)}",
        f"Distribution function of the {metric}",
        f"Share of the combinations of {_named(entries)} whose {metric} is at most the value on the axis.",
        f"Shaded: the {band} of Dvoretzky, Kiefer, Wolfowitz and Massart. With that probability the "
        "distribution over all combinations runs inside it everywhere.",
        _legend(entries),
        figure,
    )


def speed(entries: Sequence[Entry]) -> Picture:
    """Combinations per second of each part of runs, over the time that they took."""
    from matplotlib.ticker import StrMethodFormatter

    total = max(float(sum(part.about["seconds"] for part in entry.parts)) for entry in entries)
    unit, length = next(
        (name, size) for name, size in (("h", 3600), ("min", 60), ("s", 1)) if total >= 3 * size or size == 1
    )
    with drawing():
        figure, axis = blank()
        for entry in entries:
            groups = np.array_split(np.arange(len(entry.parts)), min(len(entry.parts), _STEPS))
            counts = [sum(entry.parts[i].stop - entry.parts[i].start for i in group) for group in groups]
            times = np.array([sum(entry.parts[i].about["seconds"] for i in group) for group in groups])
            ends = np.concatenate([[0.0], np.cumsum(times)]) / length
            style = {"color": colour(entry.number), "linestyle": dashes(entry.number)}
            rates = np.divide(counts, times, out=np.zeros(len(times)), where=times > 0)
            axis.stairs(rates, ends, baseline=None, linewidth=1.5, **style)
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.set_xlabel(f"evaluation time, {unit}")
        axis.set_ylabel("combinations per second")
    return Picture(
        "speed",
        "Combinations per second",
        f"Combinations per second of the successive parts of {_named(entries)}.",
        "One step for each file of results, in the order of the combinations’ numbers.",
        _legend(entries),
        figure,
    )


def samples_taken(entry: Entry) -> Picture:
    """How many samples the answers of a decided run took."""
    from matplotlib.ticker import PercentFormatter

    assert isinstance(entry.sweep, Decided)
    sweep = entry.sweep
    taken = sweep.samples_taken
    # samples are taken some at a time; bins that hold as many of these steps as their neighbours
    some = int(np.gcd.reduce(taken[taken < sweep.samples], initial=0)) or 1
    wide = some * max(1, round(sweep.samples / some / _BINS))
    edges = np.append(np.arange(0, max(sweep.samples - wide // 2, 1), wide), sweep.samples) + 0.5
    with drawing():
        figure, axis = blank()
        below = np.zeros(len(edges) - 1)
        for answer, alpha in ((True, 0.9), (False, 0.4)):
            counts = np.histogram(taken[sweep.holds == answer], edges)[0] / len(sweep)
            style = {"alpha": alpha, "color": colour(entry.number), "linewidth": 0}
            axis.stairs(below + counts, edges, baseline=below, fill=True, **style)
            below = below + counts
        axis.set_xlim(0, sweep.samples)
        axis.set_ylim(bottom=0)
        axis.set_xlabel(f"samples evaluated, of {sweep.samples:,}")
        axis.set_ylabel("combinations (faint: no)")
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol="\u00a0%"))
    return Picture(
        f"samples-{entry.number + 1}",
        f"Samples taken: {clean(entry.label)}",
        f"Histogram of the samples evaluated for each combination of {entry.label}, by the answer; "
        f"the mean is {taken.mean():,.1f} of {sweep.samples:,}.",
        f"{entry.label}: samples that it took to decide each combination. Full colour: {sweep.decide} holds; "
        "faint, stacked on it: it does not.",
        [],
        figure,
    )


def _finish(axis: Any, metric: str, scale: Scale, levels: Sequence[Level]) -> None:
    """Range, ticks, name and levels of the axis of a metric."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    ends = scale.values(np.array([scale.low, scale.high]))
    grey = COLOURS["muted"][0]
    if scale.log:
        log_axis(axis)
        decades = scale.high - scale.low
        if decades > 1.2:
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    for level in levels:
        if _shown(level, metric, scale):
            axis.axvline(level.value, color=grey, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
            axis.annotate(
                level.text,
                (level.value, 1),
                (0, 2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7.5,
                color=grey,
            )
    axis.set_xlim(*ends)
    name = "accuracy (fraction of samples)" if metric == "accuracy" else clean(metric)
    axis.set_xlabel(name + (" (logarithmic axis)" if scale.log else ""))


def _where(scale: Scale) -> str:
    return " At each end at most 0.1\u00a0% of a run lie outside the range shown." if scale.cut else ""


def _shown(level: Level, metric: str, scale: Scale) -> bool:
    low, high = scale.values(np.array([scale.low, scale.high]))
    return level.metric == metric and low < level.value < high


def _dotted(metric: str, scale: Scale, levels: Sequence[Level]) -> str:
    texts = [level.text for level in levels if _shown(level, metric, scale)]
    return f" Dotted: the level {', '.join(texts)}." if texts else ""


def _own(metric: str, entries: Sequence[Entry]) -> str:
    if not any(entry.own(metric) for entry in entries):
        return ""
    colour = "the colour of a run" if len(entries) > 1 else "colour"
    return f" Dotted, in {colour}: the networks themselves."


def _lost(metric: str, entries: Sequence[Entry]) -> str:
    densities = {entry.label: entry.densities[metric] for entry in entries}
    shares = [
        f"{percent(one.nonfinite / len(one.values))} of {label}"
        for label, one in densities.items()
        if one.nonfinite
    ]
    return f" Not finite, and not shown: {', '.join(shares)}." if shares else ""


def _named(entries: Iterable[Entry]) -> str:
    return ", ".join(entry.label for entry in entries)


def _medians(metric: str, entries: Iterable[Entry]) -> str:
    medians = (f"{entry.label} {plain(entry.densities[metric].quantile(0.5))}" for entry in entries)
    return f"Medians: {', '.join(medians)}."


def _legend(entries: Sequence[Entry]) -> Legend:
    return [(entry.label, entry.number) for entry in entries] if len(entries) > 1 else []


def _file_name(metric: str) -> str:
    return re.sub(r"[^\w-]+", "-", metric, flags=re.ASCII).strip("-") or "metric"
