"""The sections of the page below the overview."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastcomb.analysis.comparison import Comparison
from fastcomb.report.entry import Entry
from fastcomb.report.facts import differences, facts, told_apart
from fastcomb.report.markup import Markup, code, data, join, table, tag
from fastcomb.report.numbers import Digits, plain, probability, rate
from fastcomb.report.shown import bounded, digits_of, key, mean, metric_digits, share_digits
from fastcomb.report.svg import Legend
from fastcomb.sweep import Decided

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

#: Combinations in the table of the best.
_BEST = 5


def under(entry: Entry) -> Markup:
    """What one run is of, in a line."""
    experiment = entry.experiment
    said = [f"seed {experiment['seed']}", f"{experiment['data']['samples']:,} samples"]
    said += [str(experiment[name]) for name in ("loss", "dtype") if isinstance(experiment.get(name), str)]
    return tag("p", code(experiment["sampler"]["law"]), " · ", " · ".join(said), class_="under")


def legend(series: Legend) -> Markup:
    """What the lines of the pictures below are."""
    if not series:
        return Markup()
    return tag("ul", *(tag("li", key(label, number)) for label, number in series), class_="legend")


def quantiles(metric: str, entries: Sequence[Entry], confidence: float) -> Markup:
    """Mean and quantiles of a metric, a column for each run."""
    columns = []
    for entry in entries:
        density = entry.densities[metric]
        intervals = [density.quantile_interval(q, confidence) for q in QUANTILES]
        ends = [density.quantile(0.0), density.quantile(1.0)]
        digits = metric_digits(entry, metric, *intervals)
        columns.append(
            [
                data(ends[0], digits(ends[0])),
                *(bounded(each, digits) for each in intervals),
                data(ends[1], digits(ends[1])),
                mean(density),
            ]
        )
    names = ["least", *(f"{plain(100 * q)} %" for q in QUANTILES), "greatest", "mean ± standard error"]
    rows = [[name, *(column[i] for column in columns)] for i, name in enumerate(names)]
    percent = plain(100 * confidence)
    header = ["quantile", *(key(entry.label, entry.number) for entry in entries)]
    if len(entries) == 1:
        header = ["quantile", f"{metric}, {percent}\u00a0% interval"]
    return table(
        f"Quantiles of the {metric} over the combinations, with {percent}\u00a0% intervals", header, rows
    )


def answers(entries: Sequence[Entry], confidence: float) -> Markup:
    """What decided runs found, and at what price."""
    rows = []
    for entry in entries:
        sweep = entry.sweep
        assert isinstance(sweep, Decided)
        fraction = sweep.decide.fraction(int(sweep.holds.sum()), len(sweep), confidence)
        taken = float(sweep.samples_taken.mean())
        rows.append(
            [
                key(entry.label, entry.number),
                code(str(sweep.decide)),
                bounded(fraction, share_digits(fraction), 100),
                data(taken, f"{taken:,.1f}"),
                data(sweep.samples, f"{sweep.samples:,}"),
                data(sweep.saving, f"{sweep.saving:.3g}"),
                data(sweep.rate, rate(sweep.rate)),
            ]
        )
    percent = plain(100 * confidence)
    header = [
        "run",
        "question",
        f"holds, %, and {percent}\u00a0% interval",
        "samples taken, mean",
        "of",
        "times fewer",
    ]
    return table("Answers, and what they took", [*header, "combinations per second"], rows, texts=1)


def best(entry: Entry) -> Markup:
    """The combinations with the lowest loss, and how to have them."""
    sweep = entry.sweep
    chosen = sweep.best(_BEST)
    places = np.searchsorted(sweep.index, chosen)
    columns = []
    for metric, density in entry.densities.items():
        values = [float(value) for value in density.values[places]]
        digits = metric_digits(entry, metric) if metric == "accuracy" else Digits.of(values)
        columns.append([data(value, digits(value)) for value in values])
    rows = [
        [str(i + 1), data(int(index), str(index)), *(column[i] for column in columns)]
        for i, index in enumerate(chosen)
    ]
    # repr of the path, since it goes into a program
    opened = (
        f"fc.open_sweep({str(sweep.path)!r}, model=model{_calibration(entry)})" if sweep.path else "sweep"
    )
    return tag(
        "div",
        table(f"Lowest losses of {entry.label}", ["rank", "combination", *entry.densities], rows),
        tag("pre", tag("code", f"{opened}.rebuild({chosen[0]})")),
    )


def compared(comparisons: Sequence[Comparison], entries: Sequence[Entry]) -> Markup:
    """Pairs of runs in one metric."""
    first = comparisons[0]
    numbers = {entry.label: entry.number for entry in entries}
    metric, percent = first.metric, plain(100 * first.confidence)
    units = digits_of(*(each for one in comparisons for each in (one.mean_difference, one.median_difference)))
    rows = [
        [
            Markup(tag("br").join(key(label, numbers[label]) for label in one.labels)),
            one.dominance,
            data(one.statistic, f"{one.statistic:.3f}"),
            data(one.p_value, probability(one.p_value)),
            bounded(one.wasserstein, units),
            bounded(one.mean_difference, units),
            bounded(one.median_difference, units),
            bounded(one.probability_below, Digits(4)),
        ]
        for one in comparisons
    ]
    header = [
        f"{metric} of",
        "stochastic order",
        "Kolmogorov–Smirnov distance",
        "its p\u2011value",
        "Wasserstein\u20111 distance",
        "mean, second − first",
        "median, second − first",
        "P(first < second)",
    ]
    caption = f"Pairs of runs: {metric}, with {percent}\u00a0% intervals"
    return table(caption, header, rows, "numbers stacked", texts=1)


def unlike(entries: Sequence[Entry]) -> Markup:
    """What of the runs differs."""
    rows = differences(entries)
    warnings = [
        tag("p", f"The runs {what}: {why}.", class_="warn")
        for what, why, path in (
            (
                "were evaluated on different data",
                "their losses are not of the same samples",
                ("data", "sha256"),
            ),
            ("have different losses", "their values are not in the same units", ("loss",)),
        )
        if told_apart(entries, *path)
    ]
    if not rows:
        return tag("p", "All that decides the results is the same in all runs.")
    header = ["", *(key(entry.label, entry.number) for entry in entries)]
    return join(*warnings, table("What differs between the runs", header, rows, "words"))


def ran(entries: Sequence[Entry]) -> Markup:
    """What was run, and on what."""
    header = ["", *(key(entry.label, entry.number) for entry in entries)]
    if len(entries) == 1:
        header = ["", entries[0].label]
    return table("What was run, and on what; hashes are SHA-256, shortened", header, facts(entries), "words")


def notes(confidence: float, *, several: bool, decided: bool) -> Markup:
    """How the numbers are to be read."""
    percent = f"{plain(100 * confidence)} %"
    said = [
        f"Every interval holds with {percent} by itself. It is about the law of the combinations on these "
        "samples, not about samples that were not evaluated.",
        "Medians and other quantiles: order statistics with binomial ranks (Thompson 1936), for every law, "
        "continuous or not. Means: ± one standard error.",
        "Shares of the combinations: the exact interval of Clopper and Pearson (1934).",
        "Bands of distribution functions: Dvoretzky, Kiefer and Wolfowitz with Massart’s constant (1990).",
    ]
    if several:
        said.append(
            "Stochastic order: one run “is below” another if its distribution function is above the other’s "
            "somewhere, and below it nowhere by more than the intervals leave open. Runs that share a seed "
            "and combinations are treated as dependent. Wasserstein distances: bootstrap. "
            "P(first < second): ties count half."
        )
    if decided:
        said.append(
            "Decided runs take samples of a combination only until its answer is clear; their intervals "
            "allow for the stated probability of a wrong answer."
        )
    return tag("ul", *(tag("li", text) for text in said), class_="note")


def _calibration(entry: Entry) -> str:
    normalisation = entry.experiment.get("batch_norm") or {}
    return ", calibration=calibration" if normalisation.get("choice") == "recompute" else ""
