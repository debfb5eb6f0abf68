"""``fastcomb align``."""

from __future__ import annotations

import ast
import copy
import json
from pathlib import Path
from typing import Any

import click
from safetensors.torch import save

from fastcomb import rebasin
from fastcomb.cli.arguments import networks, read_data, read_inputs, read_model
from fastcomb.endpoints import read
from fastcomb.files import appear

_METHODS = "weights activations ste sinkhorn frank_wolfe random identity".split()


@click.command()
@networks
@click.option(
    "-o", "--out", required=True, type=click.Path(dir_okay=False), help="Checkpoint to write, .safetensors."
)
@click.option("--method", type=click.Choice(_METHODS), default="weights", show_default=True)
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Of the method; repeatable.")
@click.option("--data", help="For methods that compare on inputs; as for sweep.")
@click.option("--seed", default=0, show_default=True)
@click.option("--alignment", type=click.Path(dir_okay=False), help="Also keep permutations and history here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def align(
    a: str,
    b: str,
    model: str,
    out: str,
    method: str,
    options: tuple[str, ...],
    data: str | None,
    seed: int,
    alignment: str | None,
    as_json: bool,
) -> None:
    """Permute the hidden units of checkpoint B so that it matches A; write it as a checkpoint."""
    first = copy.deepcopy(read_model(model))
    first.load_state_dict({**first.state_dict(), **_state(a, first)})
    given = dict(map(_option, options))
    # a method with labels needs pairs, the others take inputs alone
    samples = None if data is None else (read_data if method == "ste" else read_inputs)(data)
    found = rebasin.align(first, b, method, data=samples, seed=seed, **given)
    appear(Path(out), lambda beside: beside.write_bytes(save(_contiguous(found.state_dict))))
    if alignment:
        found.save(alignment)
    groups = found.symmetries.groups
    report = {
        "out": out,
        "method": found.method,
        "objective_before": found.objective[0],
        "objective_after": found.objective[-1],
        "groups": len(groups),
        "units": sum(group.size for group in groups),
        "pinned": len(found.pinned),
    }
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    click.echo(
        f"{out}: {report['units']} units in {len(groups)} groups permuted to match {a} ({method}); objective "
        f"{found.objective[0]:.6g} -> {found.objective[-1]:.6g}; {len(found.pinned)} dimensions pinned"
    )


def _state(path: str, model: Any) -> dict[str, Any]:
    return read(path, model, "A").tensors()


def _contiguous(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
