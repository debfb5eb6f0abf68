"""Writing the report of one run or several: a page, and its pictures as files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from fastcomb.analysis.comparison import Comparison, compare
from fastcomb.report import pictures, sections, svg
from fastcomb.report.entry import Entry
from fastcomb.report.levels import Level, levels
from fastcomb.report.markup import Markup, join, page, tag
from fastcomb.report.overview import overview
from fastcomb.report.pictures import Picture
from fastcomb.report.shown import heading
from fastcomb.report.style import sheet
from fastcomb.statistics.proportion import check_confidence
from fastcomb.sweep import Sweep
from fastcomb.sweep.rows import overlap
from fastcomb.utils.files import write_atomically

#: Pairs of runs whose comparison is shown without a click.
_PAIRS = 15


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: the HTML file.
        pictures: PNG and SVG files.
    """

    page: Path
    pictures: tuple[Path, ...]


def write(
    runs: Mapping[str, str | Path | Sweep],
    out: str | Path,
    *,
    level: float | None = None,
    metric_levels: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    title: str = "",
    files: bool = True,
) -> Report:
    """Write a page about one run, or several side by side.

    The page is one file that needs nothing else: what was run, what was found with intervals, densities and
    distribution functions, the best combinations, and how the runs compare. Runs may be incomplete, empty or
    decided (:class:`fastcomb.Decided`); the page says so. A run's columns are read once.

    Args:
        runs: label → folder of a run, or a sweep.
        out: the HTML file. Pictures are written beside it, in a folder of its name with ``_files`` for the
            suffix.
        level: loss whose fraction of combinations below is reported. If None, ln 2 for cross-entropy and
            negative log-likelihood, else twice the lowest 1 % quantile.
        metric_levels: metric → level for other metrics; of accuracy the fraction above is reported, of others
            the fraction below.
        confidence: level of each interval by itself.
        title: of the page; the labels if empty.
        files: whether pictures are also written as PNG and SVG files.

    Raises:
        ImportError: matplotlib or pyarrow is missing.
        FileNotFoundError: there is no run in a folder.
        ValueError: no runs, a damaged run, confidence outside (0, 1), or a level of an unknown metric.
        OSError: the page or a picture cannot be written.
    """
    for package in ("matplotlib", "pyarrow"):
        try:
            import_module(package)
        except ImportError as error:
            needed = "a report needs matplotlib and pyarrow: pip install 'fastcomb[cli]'"
            raise ImportError(needed) from error
    if not runs:
        raise ValueError("runs is empty; name at least one run")
    check_confidence(confidence)
    entries = [Entry.of(label, number, run) for number, (label, run) in enumerate(runs.items())]
    asked = levels(entries, level, metric_levels or {})
    sheets = _Sheets()
    body = _body(entries, asked, confidence, title, sheets)
    out = Path(out)
    text = page(title or _title(entries), sheet(), body)
    write_atomically(out, lambda beside: beside.write_text(text, "utf-8"))
    return Report(out, sheets.files(out.with_name(f"{out.stem}_files")) if files else ())


class _Sheets:
    """The pictures of a page, with names of their own."""

    def __init__(self) -> None:
        self._drawn: dict[str, Picture] = {}

    def inline(self, picture: Picture) -> Markup:
        """A picture as an element of the page."""
        names = itertools.chain([picture.name], (f"{picture.name}-{i}" for i in itertools.count(2)))
        name = next(name for name in names if name not in self._drawn)
        self._drawn[name] = picture
        drawn = svg.inline(picture.figure, f"p{len(self._drawn)}", picture.title, picture.description)
        return tag("figure", drawn, tag("figcaption", picture.caption))

    def files(self, folder: Path) -> tuple[Path, ...]:
        """Write them all."""
        written = []
        for name, picture in self._drawn.items():
            written += svg.files(picture.figure, folder, name, picture.title, picture.legend)
        return tuple(written)


def _body(
    entries: Sequence[Entry], asked: Sequence[Level], confidence: float, title: str, sheets: _Sheets
) -> Markup:
    """All sections in their order, of which those with nothing to say are left out, between head and foot."""
    measured = [entry for entry in entries if entry.measured]
    decided = [entry for entry in entries if entry.decide and len(entry.sweep)]
    parts: list[tuple[str, str, Markup]] = [
        ("found", "In short", overview(entries, asked, confidence)),
    ]
    if measured:
        parts.append(("metrics", "Distributions", _distributions(measured, asked, confidence, sheets)))
    if decided:
        parts.append(("answers", "Answers", _answers(decided, confidence, sheets)))
    if len(entries) > 1:
        parts.append(("runs", "The runs compared", _comparison(entries, confidence)))
    if measured:
        parts.append(("best", "Best combinations", tag("div", *map(sections.best, measured), class_="best")))
    parts.append(("ran", "What was run", _ran(entries, sheets)))
    if measured or decided:
        told = sections.notes(confidence, several=len(measured) > 1, decided=bool(decided))
        parts.append(("notes", "Reading the numbers", told))
    links = [tag("li", tag("a", name, href=f"#{key}")) for key, name, _ in parts]
    of = f"{len(entries)} runs" if len(entries) > 1 else "one run"
    header = tag(
        "header",
        tag("p", f"fastcomb · report of {of}", class_="eyebrow"),
        tag("h1", title or _title(entries)),
        *([sections.under(entries[0])] if len(entries) == 1 else []),
        tag("nav", tag("ul", *links), aria_label="Sections"),
    )
    blocks = [
        tag("section", tag("h2", name, id=key), content, aria_labelledby=key) for key, name, content in parts
    ]
    footer = tag("footer", f"Written by fastcomb {version('fastcomb')}.")
    return join(header, tag("main", *blocks), footer)


def _distributions(
    measured: Sequence[Entry], asked: Sequence[Level], confidence: float, sheets: _Sheets
) -> Markup:
    content = []
    for metric in dict.fromkeys(name for entry in measured for name in entry.densities):
        having = [entry for entry in measured if metric in entry.densities]
        density = pictures.density(metric, having, asked)
        distribution = pictures.distribution(metric, having, asked, confidence)
        content += [
            tag("h3", heading(metric)),
            sections.legend(density.legend),
            tag("div", sheets.inline(density), sheets.inline(distribution), class_="pictures"),
            sections.quantiles(metric, having, confidence),
        ]
    return join(*content)


def _answers(decided: Sequence[Entry], confidence: float, sheets: _Sheets) -> Markup:
    drawn = [pictures.samples_taken(entry) for entry in decided]
    return join(
        tag("div", *map(sheets.inline, drawn), class_="pictures" if len(drawn) > 1 else "pictures one"),
        sections.answers(decided, confidence),
    )


def _comparison(entries: Sequence[Entry], confidence: float) -> Markup:
    content = []
    for metric in dict.fromkeys(name for entry in entries for name in entry.densities):
        having = [entry for entry in entries if metric in entry.densities and len(entry.sweep) > 1]
        comparisons = [_compared(*pair, metric, confidence) for pair in itertools.combinations(having, 2)]
        if comparisons:
            table = sections.compared(comparisons, having)
            many = tag("summary", f"{len(comparisons)} pairs of runs: {metric}")
            content.append(table if len(comparisons) <= _PAIRS else tag("details", many, table))
    return join(sections.unlike(entries), *content)


def _compared(one: Entry, other: Entry, metric: str, confidence: float) -> Comparison:
    seeds = one.experiment["seed"], other.experiment["seed"]
    shared = seeds[0] == seeds[1] and bool(overlap(one.sweep.rows.spans, other.sweep.rows.spans))
    return compare(
        one.densities[metric],
        other.densities[metric],
        confidence=confidence,
        labels=(one.label, other.label),
        independent=not shared,
    )


def _ran(entries: Sequence[Entry], sheets: _Sheets) -> Markup:
    timed = [entry for entry in entries if len(entry.parts) > 1]
    if not timed:
        return sections.ran(entries)
    drawn = pictures.speed(timed)
    picture = tag("div", sheets.inline(drawn), class_="pictures one")
    return join(sections.ran(entries), tag("h3", "Speed"), sections.legend(drawn.legend), picture)


def _title(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.label for entry in entries)
