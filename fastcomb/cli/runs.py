"""Commands about runs on disk: ``density``, ``report``, ``merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import fastcomb as fc
from fastcomb.cli.arguments import RealType, check_level
from fastcomb.cli.sweep import as_text, fraction, shown

_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)

runs_argument = click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))


@click.command()
@runs_argument
@click.option("--metric", default="loss", show_default=True)
@click.option("--level", type=RealType(), help="Also the fraction below it (accuracy: above).")
@click.option("--confidence", default=0.95, show_default=True, type=RealType(0, 1, open=True))
@click.option("--plot", type=click.Path(dir_okay=False), help="Picture to write; format by suffix.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def density(
    runs: tuple[str, ...],
    metric: str,
    level: float | None,
    confidence: float,
    plot: str | None,
    as_json: bool,
) -> None:
    """Distribution of a metric in RUNS: mean, quantiles with intervals, fractions; several are compared."""
    check_level(metric, level)
    sweeps = dict(zip(labels(runs), map(fc.open_sweep, runs), strict=True))
    reports = {label: _described(sweep, metric, level, confidence) for label, sweep in sweeps.items()}
    measured = {
        label: sweep for label, sweep in sweeps.items() if len(sweep) and not isinstance(sweep, fc.Decided)
    }
    if plot:
        if not measured:
            raise ValueError(f"{plot}: there are no measured combinations to draw")
        from fastcomb.sweep.result import plot_sweeps

        plot_sweeps(measured, plot)
    comparisons = {}
    names = list(measured)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            comparisons[f"{one} and {other}"] = fc.compare(measured[one], measured[other], metric, confidence)
    if as_json:
        compared = {pair: comparison.headline for pair, comparison in comparisons.items()}
        click.echo(as_text({"runs": reports, "comparisons": compared}))
        return
    for label, report in reports.items():
        click.echo(label)
        for name, value in report.items():
            click.echo(f"  {name.replace('_', ' '):32}{_shown(value)}")
    for pair, comparison in comparisons.items():
        click.echo(f"{pair}: {comparison.headline}")
        click.echo(comparison.table())


@click.command()
@runs_argument
@click.option("-o", "--out", default="report.html", show_default=True, type=click.Path(dir_okay=False))
@click.option("--level", type=RealType(), help="Level of the loss whose fraction is reported.")
@click.option("--title", default="", help="Of the page.")
def report(runs: tuple[str, ...], out: str, level: float | None, title: str) -> None:
    """One page about RUNS, side by side if there are several: what was run, densities, tables."""
    from fastcomb.report import write

    write(dict(zip(labels(runs), runs, strict=True)), out, level=level, title=title)
    click.echo(out)


@click.command()
@runs_argument
@click.option(
    "-o", "--out", required=True, type=click.Path(file_okay=False), help="Folder of the run to write."
)
def merge(runs: tuple[str, ...], out: str) -> None:
    """Put RUNS of one experiment together, for example those of an array of jobs."""
    merged = fc.merge(runs, out)
    click.echo(f"{out}: {len(merged):,} of {merged.requested:,} combinations")


def labels(runs: tuple[str, ...]) -> list[str]:
    """Names of runs: their folders', or whole paths where those are alike."""
    paths = [Path(run).resolve() for run in runs]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise click.UsageError(f"{runs[i]} is there twice: name every run once")
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else list(map(str, runs))


def _described(sweep: fc.Sweep, metric: str, level: float | None, confidence: float) -> dict[str, Any]:
    """Numbers about one run by name, ready for JSON; an interval is [value, low, high]."""
    if not len(sweep):
        return {"combinations": 0, "requested": sweep.requested, "complete": False}
    if isinstance(sweep, fc.Decided):
        return sweep.summary() | (fraction(sweep, metric, level) if level is not None else {})
    values = sweep.density(metric)
    report: dict[str, Any] = {
        "combinations": len(sweep),
        "complete": sweep.complete,
        f"{metric}_mean": values.mean,
        f"{metric}_standard_error": values.standard_error,
    }
    if metric in ("loss", "accuracy"):
        report |= {f"{metric}_of_{one.label}": getattr(one, metric) for one in sweep.endpoints}
    for q in _LEVELS:
        interval = values.quantile_interval(q, confidence)
        report[f"{metric}_q{round(100 * q):02d}"] = [interval.value, interval.low, interval.high]
    if sweep.estimate is not None:  # the sweep stopped when this was precise enough
        estimate = sweep.estimate
        report["estimate_until"] = [estimate.value, estimate.low, estimate.high]
    return report | (fraction(sweep, metric, level) if level is not None else {})


def _shown(value: Any) -> str:
    return "{:.5g} [{:.5g}, {:.5g}]".format(*value) if isinstance(value, list) else shown(value)
