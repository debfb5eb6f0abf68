"""``fastcomb align``."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import click

import fastcomb as fc
from fastcomb.cli.arguments import networks
from fastcomb.cli.errors import about

#: Names of fastcomb.rebasin's methods, which this need not import to show its help.
METHODS = "weights activations ste sinkhorn frank_wolfe random identity".split()
_SUFFIXES = (".safetensors", ".pt", ".pth")


def _checkpoint(_: click.Context, __: click.Parameter, out: str) -> str:
    """The path of a checkpoint whose format its name says."""
    if Path(out).suffix.lower() not in _SUFFIXES:
        raise click.BadParameter(f"{out!r} must end in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}")
    return out


def _option(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    """Options of a method by name; what is no literal is text."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        try:
            options[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            options[name] = value
    return options


@click.command()
@networks
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(dir_okay=False),
    callback=_checkpoint,
    help="Checkpoint to write: .safetensors, or .pt or .pth for torch.save.",
)
@click.option("--method", type=click.Choice(METHODS), default="weights", show_default=True)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_option,
    help="Of the method; repeatable.",
)
@click.option(
    "--data", help="For methods that compare on inputs, and a sample input for others; as for sweep."
)
@click.option("--output", help="Which output of the network is meant; as for sweep.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1))
@click.option("--alignment", type=click.Path(dir_okay=False), help="Also keep permutations and history here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def align(
    a: str,
    b: str,
    model: str,
    out: str,
    method: str,
    options: dict[str, Any],
    data: str | None,
    output: str | None,
    seed: int,
    alignment: str | None,
    as_json: bool,
) -> None:
    """Permute the hidden units of checkpoint B so that it matches A; write it as a checkpoint."""
    if Path(out).exists() and any(Path(out).samefile(path) for path in (a, b)):
        raise click.UsageError(f"--out {out} is one of the two networks; take another name")
    if alignment and Path(alignment).absolute() == Path(out).absolute():
        raise click.UsageError("--alignment and --out are the same file; give them different names")
    from fastcomb.cli import checkpoint, reading

    reference = reading.read_model(model)
    first, second = reading.read_networks(a, b, reference, model)
    reference.load_state_dict(reference.state_dict() | first.tensors())
    # a method with labels needs pairs, the others take inputs alone
    read = reading.read_data if method == "ste" else reading.read_inputs
    samples = None if data is None else read(data)
    with about(f"aligning networks of {model}" + (f" on {data}" if data else "")):
        which = reading.read_output(output)
        aligned = fc.rebasin.align(
            reference, second, method, data=samples, output=which, seed=seed, **options
        )
    checkpoint.write(aligned, Path(out), like=Path(b))
    if alignment:
        aligned.save(alignment)
    groups = aligned.symmetries.groups
    report = {
        "out": out,
        "method": aligned.method,
        "objective_before": aligned.objective[0],
        "objective_after": aligned.objective[-1],
        "groups": len(groups),
        "units": sum(group.size for group in groups),
        "pinned": len(aligned.pinned),
    }
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    click.echo(
        f"{out}: {report['units']} units in {len(groups)} groups permuted to match {a} ({method}); objective "
        f"{aligned.objective[0]:.6g} -> {aligned.objective[-1]:.6g}; {len(aligned.pinned)} dimensions pinned"
    )
