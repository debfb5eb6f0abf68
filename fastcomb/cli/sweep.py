"""``fastcomb sweep``."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import click
import torch

from fastcomb.cli.arguments import (
    CountType,
    SamplerType,
    imported,
    networks,
    read_data,
    read_inputs,
    read_model,
)
from fastcomb.decision import Above, Below
from fastcomb.statistics.confidence_sequence import Precision
from fastcomb.sweep import Ray, Sweep, evaluate, open_sweep
from fastcomb.sweep.rows import missing

#: Seconds that a dry run may measure for.
_TRIAL_SECONDS = 2.0
_BYTES_PER_COMBINATION = 8

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@click.command()
@networks
@click.option(
    "--sampler", type=SamplerType(), default="Uniform()", show_default=True, help="Law of the coefficients."
)
@click.option(
    "--data",
    required=True,
    help=".npz or .safetensors with x and y, package.module:name, or torchvision:NAME:FOLDER.",
)
@click.option("-n", default=1_000_000, show_default=True, type=CountType(), help="Combinations.")
@click.option("--start", default=0, show_default=True, type=click.IntRange(0), help="Index of the first.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--loss",
    default="cross_entropy",
    show_default=True,
    help="cross_entropy, nll, mse or package.module:name.",
)
@click.option(
    "--batch-norm", type=click.Choice(["recompute", "lerp", "a"]), help="Running statistics of combinations."
)
@click.option("--calibration", help="Inputs for --batch-norm recompute; as --data.")
@click.option("--device", help="Where to compute, such as cuda.")
@click.option(
    "--dtype", type=click.Choice(list(_DTYPES)), help="Compute dtype; the networks' own by default."
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "native", "cuda", "triton", "torch_reference"]),
    default="auto",
    show_default=True,
)
@click.option(
    "-o", "--out", type=click.Path(file_okay=False), help="Folder of the run; the same command continues it."
)
@click.option(
    "--level", type=float, help="Level of interest: the fraction below it (accuracy: above) is reported."
)
@click.option(
    "--metric", type=click.Choice(["loss", "accuracy"]), default="loss", show_default=True, help="Of --level."
)
@click.option(
    "--decide", is_flag=True, help="Only decide on which side of --level each combination is: fewer samples."
)
@click.option("--error", default=1e-3, show_default=True, help="Highest rate of wrong answers with --decide.")
@click.option("--half-width", type=float, help="Stop before n once the fraction's interval is this narrow.")
@click.option("--ray", is_flag=True, help="Run on a Ray cluster: RAY_ADDRESS, or this machine.")
@click.option("--address", help="Of the Ray cluster.")
@click.option("--cpus", default=1, show_default=True, help="Cores of a Ray task.")
@click.option("--gpus", default=0.0, show_default=True, help="GPUs of a Ray task.")
@click.option("--dry-run", is_flag=True, help="Say what would run and how long it would take.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def sweep(a: str, b: str, as_json: bool, dry_run: bool, quiet: bool, **given: Any) -> int:
    """Evaluate combinations of checkpoints A and B on data."""
    question = Below if given["metric"] == "loss" else Above
    if (given["decide"] or given["half_width"]) and given["level"] is None:
        raise click.UsageError("--decide and --half-width are about a fraction: give --level")
    if given["decide"] and given["half_width"]:
        raise click.UsageError("--decide measures nothing that --half-width could look at: give one of them")
    options: dict[str, Any] = {
        "model": read_model(given["model"]),
        "data": read_data(given["data"]),
        "seed": given["seed"],
        "loss": _loss(given["loss"]),
        "batch_norm": given["batch_norm"],
        "calibration": read_inputs(given["calibration"]) if given["calibration"] else None,
        "device": given["device"],
        "dtype": _DTYPES[given["dtype"]] if given["dtype"] else None,
        "backend": given["backend"],
    }
    span = given["start"], given["start"] + given["n"]
    if dry_run:
        _show(_dry(a, b, given["sampler"], options, span, given["out"]), as_json)
        return 0
    if given["decide"]:
        options["decide"] = question(given["metric"], given["level"], given["error"])
    if given["half_width"]:
        quantity = "fraction_below" if question is Below else "fraction_above"
        width, metric = given["half_width"], given["metric"]
        options["until"] = Precision(quantity, given["level"], half_width=width, metric=metric)  # type: ignore[arg-type]
    if given["ray"] or given["address"]:
        options["engine"] = Ray(given["address"], given["cpus"], given["gpus"])
    shown = False if quiet else None
    found = evaluate(
        a,
        b,
        given["sampler"],
        n=given["n"],
        start=given["start"],
        out=given["out"],
        progress=shown,
        **options,
    )
    report = found.summary() | ({"out": given["out"]} if given["out"] else {})
    if (
        given["level"] is not None and not given["half_width"]
    ):  # then the estimate's interval is the valid one
        report |= fraction(found, given["metric"], given["level"])
    _show(report, as_json)
    return 0 if found.complete else 130


def fraction(found: Sweep, metric: str, level: float) -> dict[str, Any]:
    """The fraction on the good side of a level, for a table or JSON."""
    side = "below" if metric == "loss" else "above"
    share = getattr(found, f"fraction_{side}")(metric, level)
    return {
        f"fraction_{metric}_{side}_{level:g}": share.value,
        "fraction_low": share.low,
        "fraction_high": share.high,
    }


def shown(value: Any) -> str:
    """A value as a table has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _show(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(as_text(report))
        return
    for name, value in report.items():
        click.echo(f"{name.replace('_', ' '):34}{shown(value)}")


def as_text(report: Any) -> str:
    """JSON; numbers that are not finite become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: finite(item) for name, item in value.items()}
        if isinstance(value, list):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(report), indent=1)


def _dry(
    a: str, b: str, sampler: Any, options: dict[str, Any], span: tuple[int, int], out: str | None
) -> dict[str, Any]:
    """What would run: everything is checked, and the speed is measured on a few combinations."""
    count, trial = 1, evaluate(a, b, sampler, n=1, start=span[0], progress=False, **options)
    while trial.seconds < _TRIAL_SECONDS / 4 and count < span[1] - span[0]:
        count = min(4 * count, span[1] - span[0])
        trial = evaluate(a, b, sampler, n=count, start=span[0], progress=False, **options)
    todo = span[1] - span[0]
    if out and (Path(out) / "manifest.json").exists():
        todo = sum(stop - start for start, stop in missing(span, open_sweep(out).rows.spans))
    report: dict[str, Any] = {
        "would_evaluate": todo,
        "already_there": span[1] - span[0] - todo,
        "mixture": str(trial.mixture),
        "samples": trial.samples,
        "backend": trial.backend,
        "combinations_per_second": trial.rate,
        "seconds": todo / trial.rate,
    }
    if out:
        folder = next(path for path in (Path(out).absolute(), *Path(out).absolute().parents) if path.exists())
        report |= {
            "out": out,
            "bytes": _BYTES_PER_COMBINATION * todo,
            "bytes_free": shutil.disk_usage(folder).free,
        }
    return report


def _loss(text: str) -> Any:
    return imported(text, "loss", call=False) if ":" in text else text
