"""What was found, in words and a few numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastcomb.report.entry import Entry
from fastcomb.report.facts import own, state
from fastcomb.report.levels import Level
from fastcomb.report.markup import Markup, data, join, table, tag
from fastcomb.report.numbers import Digits, duration, plain, rate
from fastcomb.report.shown import bounded, ends, heading, key, mean, metric_digits, share, share_digits
from fastcomb.statistics.proportion import Interval
from fastcomb.sweep import Decided

#: Metrics that have a sentence and a tile; the others are in the tables of quantiles.
_TOLD = ("loss", "accuracy")

_NOTHING = "–"


def overview(entries: Sequence[Entry], levels: Sequence[Level], confidence: float) -> Markup:
    """The section at the top: words and tiles for one run; for several words each, and a table."""
    words = [_words(entry, levels, confidence) for entry in entries]
    if len(entries) == 1:
        tiles = _tiles(entries[0], levels, confidence)
        return join(tag("p", words[0], class_="lede"), *_asides(entries, levels, confidence), tiles)
    items = [
        tag("li", tag("p", key(entry.label, entry.number), " ", state(entry)), tag("p", text))
        for entry, text in zip(entries, words, strict=True)
    ]
    return join(
        tag("ul", *items, class_="runs"),
        *_asides(entries, levels, confidence),
        _side_by_side(entries, levels, confidence),
    )


def _words(entry: Entry, levels: Sequence[Level], confidence: float) -> Markup:
    """The sentences about one run: how many combinations, medians and means, and shares beyond the levels."""
    sweep = entry.sweep
    if not len(sweep):
        return join(f"No results yet: none of the {sweep.requested:,} combinations is done.")
    percent = f" ({plain(100 * confidence)}\u00a0% interval "
    several = len(sweep) != 1
    said = [data(len(sweep), f"{len(sweep):,}"), " combinations" if several else " combination"]
    if isinstance(sweep, Decided):
        holding, asked = _answered(sweep, confidence), sweep.decide
        digits = share_digits(holding)
        side = f" have {_article(asked.metric)} {_side(asked.sign < 0)} {asked.level:.6g}"
        saving = data(sweep.saving, f"{sweep.saving:.3g}")
        said = ["Of ", *said, ", ", share(holding.value, digits), side, percent, *ends(holding, digits, 100)]
        said += ["\u00a0%, which allows for wrong answers). That took ", saving, " times fewer samples than "]
        return join(*said, "measuring them all.")
    for metric in (name for name in _TOLD if name in entry.densities):
        density = entry.densities[metric]
        median = density.quantile_interval(0.5, confidence)
        digits = metric_digits(entry, metric, median)
        verb = "have" if several else "has"
        opening = f" {verb} a median {metric} of " if metric == "loss" else f" The median {metric} is "
        average = " and a mean of " if np.isfinite(density.mean) else " and a mean that is "
        closing = [average, mean(density), "."] if metric == "loss" else ["."]
        interval = percent if metric == "loss" else " ("
        said += [opening, data(median.value, digits(median.value)), interval, *ends(median, digits), ")"]
        said += closing
        for level in (one for one in levels if one.metric == metric):
            said += _share_words(entry, level, confidence)
    for level in (one for one in levels if one.metric not in _TOLD and one.metric in entry.densities):
        said += _share_words(entry, level, confidence)
    return join(*said)


def _share_words(entry: Entry, level: Level, confidence: float) -> list[str]:
    interval = level.fraction(entry, confidence)
    digits = share_digits(interval)
    where = f" {heading(level.metric)} is {_side(level.above)} {level.text} for "
    if interval.value == 0:
        return [where, "none of them (at most ", share(interval.high, digits), ")."]
    if interval.value == 1:
        return [where, "all of them (at least ", share(interval.low, digits), ")."]
    return [where, share(interval.value, digits), " of them (", *ends(interval, digits, 100), "\u00a0%)."]


def _asides(entries: Sequence[Entry], levels: Sequence[Level], confidence: float) -> list[Markup]:
    """What to know before believing the numbers."""
    said = []
    for entry in entries:
        sweep, name = entry.sweep, f"{entry.label}: " if len(entries) > 1 else ""
        if len(sweep) and not sweep.complete:
            said.append(
                f"{name}{len(sweep):,} of {sweep.requested:,} combinations are done. The "
                "intervals are right for what is done as long as the results did not decide when to stop."
            )
        for metric, density in entry.densities.items():
            if density.nonfinite:
                nan, infinite = int(np.isnan(density.values).sum()), int(np.isinf(density.values).sum())
                said.append(
                    f"{name}{density.nonfinite:,} values of {metric} are not finite ({nan:,} NaN, "
                    f"{infinite:,} infinite). NaN counts as larger than any number."
                )
    warnings = [tag("p", text, class_="warn") for text in said]
    networks = [
        tag("p", f"{entry.label}: " if len(entries) > 1 else "", "the networks themselves have ", *told, ".")
        for entry in entries
        if (told := own(entry))
    ]
    notes = [
        tag("p", f"The level {level.text} of {level.metric} is {level.why}.", class_="note")
        for level in levels
        if level.why
    ]
    estimates = [
        tag(
            "p",
            *(f"{entry.label}: " if len(entries) > 1 else "", "the estimate that was waited for is "),
            *(bounded(entry.sweep.estimate), ". Its interval holds although the sweep looked; the others "),
            "here are for numbers of combinations that were fixed beforehand.",
            class_="note",
        )
        for entry in entries
        if entry.sweep.estimate is not None
    ]
    return [*warnings, *networks, *notes, *estimates]


def _tiles(entry: Entry, levels: Sequence[Level], confidence: float) -> Markup:
    """The numbers of one run at a glance."""
    sweep = entry.sweep
    if not len(sweep):
        return Markup()
    numbers: list[tuple[str, Markup, Markup]] = []
    if isinstance(sweep, Decided):
        answered = _answered(sweep, confidence)
        digits = share_digits(answered)
        taken = float(sweep.samples_taken.mean())
        numbers = [
            (_asked(sweep), share(answered.value, digits), join(*ends(answered, digits, 100), "\u00a0%")),
            ("samples per combination", data(taken, f"{taken:,.1f}"), join(f"of {sweep.samples:,}")),
            (
                "times fewer samples",
                data(sweep.saving, f"{sweep.saving:.3g}"),
                join(f"with a pilot of {sweep.decide.pilot:,} combinations"),
            ),
        ]
    for metric in (name for name in _TOLD if name in entry.densities):
        density = entry.densities[metric]
        median = density.quantile_interval(0.5, confidence)
        digits = metric_digits(entry, metric, median)
        numbers.append(
            (f"median {metric}", data(median.value, digits(median.value)), join(*ends(median, digits)))
        )
        if metric == "loss" and np.isfinite(density.mean):
            size = Digits.of([density.mean], [density.standard_error])
            error = join("± ", data(density.standard_error, size(density.standard_error)), " standard error")
            numbers.append(("mean loss", data(density.mean, size(density.mean)), error))
    for level in (one for one in levels if one.metric in entry.densities):
        below = level.fraction(entry, confidence)
        digits = share_digits(below)
        numbers.append((str(level), share(below.value, digits), join(*ends(below, digits, 100), "\u00a0%")))
    took = f"{len(sweep):,} in {duration(sweep.seconds)}"
    numbers.append(("combinations per second", data(sweep.rate, rate(sweep.rate)), join(took)))
    tiles = [
        tag("div", tag("dt", name), tag("dd", value, class_="value"), tag("dd", about, class_="range"))
        for name, value, about in numbers
    ]
    return tag("dl", *tiles, class_="tiles")


def _side_by_side(entries: Sequence[Entry], levels: Sequence[Level], confidence: float) -> Markup:
    """The same numbers of several runs."""
    columns: list[tuple[str, list[str]]] = [
        ("combinations", [data(len(entry.sweep), f"{len(entry.sweep):,}") for entry in entries])
    ]
    for metric in _TOLD:
        having = [entry for entry in entries if metric in entry.densities]
        medians = {e.number: e.densities[metric].quantile_interval(0.5, confidence) for e in having}
        if medians:
            digits = metric_digits(having[0], metric, *medians.values())
            cells = _cells(entries, {i: bounded(one, digits) for i, one in medians.items()})
            columns.append((f"median {metric}", cells))
        if metric == "loss" and medians:
            means = {entry.number: mean(entry.densities["loss"]) for entry in having}
            columns.append(("mean loss ± standard error", _cells(entries, means)))
    for level in levels:
        shares = {e.number: level.fraction(e, confidence) for e in entries if level.metric in e.densities}
        digits = share_digits(*shares.values())
        cells = _cells(entries, {i: bounded(one, digits, 100) for i, one in shares.items()})
        columns.append((f"{level}, %", cells))
    decided = {e.number: e.sweep for e in entries if isinstance(e.sweep, Decided) and len(e.sweep)}
    for asked in dict.fromkeys(map(_asked, decided.values())):
        answers = {i: _answered(sweep, confidence) for i, sweep in decided.items() if _asked(sweep) == asked}
        digits = share_digits(*answers.values())
        cells = _cells(entries, {i: bounded(one, digits, 100) for i, one in answers.items()})
        columns.append((f"{asked}, decided, %", cells))
    columns.append(
        ("combinations per second", [data(entry.sweep.rate, rate(entry.sweep.rate)) for entry in entries])
    )
    rows = [
        [key(entry.label, entry.number), *(column[i] for _, column in columns)]
        for i, entry in enumerate(entries)
    ]
    caption = f"Side by side, with {plain(100 * confidence)}\u00a0% intervals"
    return table(caption, ["run", *(name for name, _ in columns)], rows, "numbers stacked")


def _cells(entries: Sequence[Entry], cells: dict[int, Markup]) -> list[str]:
    return [cells.get(entry.number, Markup(_NOTHING)) for entry in entries]


def _answered(sweep: Decided, confidence: float) -> Interval:
    return sweep.decide.fraction(int(sweep.holds.sum()), len(sweep), confidence)


def _asked(sweep: Decided) -> str:
    return f"{sweep.decide.metric} {'<' if sweep.decide.sign > 0 else '>'} {sweep.decide.level:.6g}"


def _article(metric: str) -> str:
    return f"an {metric}" if metric == "accuracy" else f"a {metric}"


def _side(above: bool) -> str:
    return "above" if above else "below"
