"""``fastcomb sweep``."""

from __future__ import annotations

import json
import math
from typing import Any

import click

import fastcomb as fc
from fastcomb.cli.arguments import CountType, RealType, SamplerType, check_level, networks
from fastcomb.cli.errors import about

#: What belongs to Ray alone.
_OF_RAY = ("address", "cpus", "gpus")


@click.command()
@networks
@click.option(
    "--sampler", type=SamplerType(), default="Uniform()", show_default=True, help="Law of the coefficients."
)
@click.option(
    "--data",
    required=True,
    help=".npz, .pt or .safetensors with x and y, or inputs by name and labels; package.module:name; or "
    "torchvision:NAME:FOLDER.",
)
@click.option("-n", default=1_000_000, show_default=True, type=CountType(), help="Combinations.")
@click.option("--start", default=0, show_default=True, type=click.IntRange(0), help="Index of the first.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1))
@click.option(
    "--loss",
    default="cross_entropy",
    show_default=True,
    help="cross_entropy, token_cross_entropy, nll, mse, l1, huber, smooth_l1 or bce_with_logits, with "
    "settings as in huber(delta=0.5); or package.module:name.",
)
@click.option(
    "--accuracy",
    help="What accuracy is: argmax or package.module:name; by default the loss says so.",
)
@click.option(
    "--output", help="Which output of the network is meant: a name, an index or package.module:name."
)
@click.option(
    "--batch-norm", type=click.Choice(["recompute", "lerp", "a"]), help="Running statistics of combinations."
)
@click.option("--calibration", help="Inputs for --batch-norm recompute; as --data.")
@click.option(
    "--buffers", type=click.Choice(["a", "lerp"]), help="Other buffers, where the networks' differ."
)
@click.option("--device", help="Where to compute, such as cuda.")
@click.option(
    "--dtype",
    type=click.Choice("float32 bfloat16 float16 float64".split()),
    help="Compute dtype; the networks' own by default.",
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
    "--level", type=RealType(), help="Level of interest: the fraction below it (accuracy: above) is reported."
)
@click.option("--metric", type=click.Choice(["loss", "accuracy"]), help="Of --level.  [default: loss]")
@click.option(
    "--decide", is_flag=True, help="Only decide on which side of --level each combination is: fewer samples."
)
@click.option(
    "--error",
    type=RealType(1e-5, 0.5),
    help="Highest rate of wrong answers with --decide.  [default: 0.001]",
)
@click.option(
    "--half-width",
    type=RealType(0, 0.5, open=True),
    help="Stop before n once the fraction's interval is this narrow.",
)
@click.option("--ray", is_flag=True, help="Run on a Ray cluster: RAY_ADDRESS, or this machine.")
@click.option("--address", help="Of the Ray cluster.")
@click.option("--cpus", type=click.IntRange(1), help="Cores of a Ray task.  [default: 1]")
@click.option("--gpus", type=RealType(0), help="GPUs of a Ray task.  [default: 0]")
@click.option("--dry-run", is_flag=True, help="Say what would run and how long it would take.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def sweep(a: str, b: str, as_json: bool, dry_run: bool, quiet: bool, **arguments: Any) -> int:
    """Evaluate combinations of checkpoints A and B on data."""
    _check(arguments)
    from fastcomb.cli import reading

    model = reading.read_model(arguments["model"])
    reading.check_normalisation(model, arguments["model"], arguments["batch_norm"])
    one, other = reading.read_networks(a, b, model, arguments["model"])
    options: dict[str, Any] = {
        "model": model,
        "data": reading.read_data(arguments["data"]),
        "seed": arguments["seed"],
        "loss": reading.read_measure(arguments["loss"], "loss"),
        "output": reading.read_output(arguments["output"]),
        "batch_norm": arguments["batch_norm"],
        "calibration": reading.read_inputs(arguments["calibration"]) if arguments["calibration"] else None,
        "device": arguments["device"],
        "dtype": reading.dtype(arguments["dtype"]),
        "backend": arguments["backend"],
    }
    if arguments["accuracy"]:
        options["accuracy"] = reading.read_measure(arguments["accuracy"], "accuracy")
    if arguments["buffers"]:
        options["buffers"] = arguments["buffers"]
    metric, level, decide = arguments["metric"] or "loss", arguments["level"], None
    if arguments["decide"]:
        decide = (fc.Below if metric == "loss" else fc.Above)(metric, level, arguments["error"] or 1e-3)
    what = f"running {arguments['model']} on {arguments['data']}"
    span = arguments["start"], arguments["start"] + arguments["n"]
    if dry_run:
        from fastcomb.cli.dry import would

        with about(what):
            planned = would((one, other, arguments["sampler"]), options, span, decide, arguments["out"])
        _show(planned, as_json)
        return 0
    if arguments["half_width"]:
        options["until"] = fc.Precision(
            "fraction_below" if metric == "loss" else "fraction_above",
            level,
            half_width=arguments["half_width"],
            metric=metric,
        )
    if arguments["ray"]:
        options["engine"] = fc.Ray(
            **{name: arguments[name] for name in _OF_RAY if arguments[name] is not None}
        )
    with about(what):
        result = fc.evaluate(
            one,
            other,
            arguments["sampler"],
            n=arguments["n"],
            start=arguments["start"],
            out=arguments["out"],
            decide=decide,
            progress=False if quiet else None,
            **options,
        )
    report = result.summary() | ({"out": arguments["out"]} if arguments["out"] else {})
    if level is not None and not arguments["half_width"]:  # then the estimate's interval is the valid one
        report |= fraction(result, metric, level)
    _show(report, as_json)
    return 0 if result.complete else 130


def _check(arguments: dict[str, Any]) -> None:
    """Raise click.UsageError for options that go without each other, or that would be ignored."""
    level = arguments["level"]
    if (arguments["decide"] or arguments["half_width"]) and level is None:
        raise click.UsageError("--decide and --half-width are about a fraction: give --level")
    if arguments["decide"] and arguments["half_width"]:
        raise click.UsageError("--decide measures nothing that --half-width could look at: give one of them")
    if arguments["metric"] and level is None:
        raise click.UsageError("--metric is that of --level: give --level too")
    check_level(arguments["metric"] or "loss", level)
    if arguments["error"] is not None and not arguments["decide"]:
        raise click.UsageError("--error is of the answers of --decide: give --decide too")
    alone = [f"--{name}" for name in _OF_RAY if arguments[name] is not None]
    if alone and not arguments["ray"]:
        raise click.UsageError(f"{alone[0]} is about Ray: give --ray too")
    if arguments["ray"] and arguments["device"]:
        raise click.UsageError("--device is this process's; for GPUs of a cluster give --ray --gpus 1")
    if arguments["calibration"] and arguments["batch_norm"] != "recompute":
        raise click.UsageError("--calibration is for --batch-norm recompute: give that too")
    if arguments["batch_norm"] == "recompute" and not arguments["calibration"]:
        raise click.UsageError("--batch-norm recompute collects statistics on inputs: give --calibration")


def fraction(result: fc.Sweep, metric: str, level: float) -> dict[str, Any]:
    """The fraction on the good side of a level, for a table or JSON."""
    side = "below" if metric == "loss" else "above"
    share = getattr(result, f"fraction_{side}")(metric, level)
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
