"""``fastcomb bench``."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import click
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from tqdm import tqdm

from fastcomb.config import configuration
from fastcomb.models import MLP
from fastcomb.samplers import Uniform
from fastcomb.sweep import evaluate

_ROUND_SECONDS = 0.5


@click.command()
@click.option("--width", default=64, show_default=True, type=click.IntRange(1), help="Of the hidden layers.")
@click.option("--layers", default=2, show_default=True, type=click.IntRange(0), help="Hidden layers.")
@click.option("--samples", default=500, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(width: int, layers: int, samples: int, rounds: int, as_json: bool) -> None:
    """Measure how fast this machine evaluates combinations, beside a loop in torch.

    Two random MLPs 784-WIDTH-…-10 on random samples, float32; both ways in turn, medians over rounds.
    """
    torch.manual_seed(0)
    widths = (784, *[width] * layers, 10)
    a, b = MLP(widths).eval(), MLP(widths).eval()
    data = torch.randn(samples, 784), torch.randint(0, 10, (samples,))
    ways: dict[str, Callable[[int], object]] = {
        "fastcomb": lambda n: evaluate(a, b, Uniform(), data=data, n=n, progress=False),
        "torch loop": lambda n: _loop(a, b, data, n),
    }
    counts = {name: _calibrated(way) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(rounds), unit="round", disable=None):
        for name, way in ways.items():
            times[name].append(_seconds(way, counts[name]) / counts[name])
    milliseconds = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    ratio = milliseconds["torch loop"] / milliseconds["fastcomb"]
    if as_json:
        found = {
            "widths": widths,
            "samples": samples,
            "milliseconds": milliseconds,
            "machine": configuration(),
        }
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(
        f"MLP {'-'.join(map(str, widths))}, {samples} samples, float32, {torch.get_num_threads()} threads"
    )
    for name, value in milliseconds.items():
        click.echo(f"{name:12}{value:10.4f} ms per combination {1e3 / value:12,.0f} per second")
    click.echo(f"ratio       {ratio:10.1f}")


def _loop(a: nn.Module, b: nn.Module, data: tuple[torch.Tensor, torch.Tensor], n: int) -> None:
    ends = [{name: p.detach() for name, p in model.named_parameters()} for model in (a, b)]
    with torch.no_grad():
        for _ in range(n):
            mixed = {name: p + torch.rand_like(p) * (ends[1][name] - p) for name, p in ends[0].items()}
            logits = functional_call(a, mixed, (data[0],))
            F.cross_entropy(logits, data[1]).item(), (logits.argmax(1) == data[1]).float().mean().item()


def _seconds(way: Callable[[int], object], n: int) -> float:
    began = time.perf_counter()
    way(n)
    return time.perf_counter() - began


def _calibrated(way: Callable[[int], object]) -> int:
    """How many combinations take about a round's time."""
    n = 4
    while (took := _seconds(way, n)) < _ROUND_SECONDS / 4:
        n *= 2
    return max(1, int(n * _ROUND_SECONDS / took))
