"""``fastcomb bench``."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable

import click

#: Seconds of a measurement, and of each call in it at least.
_ROUND_SECONDS, _CALL_SECONDS = 1.0, 0.25


@click.command()
@click.option("--width", default=64, show_default=True, type=click.IntRange(1), help="Of the hidden layers.")
@click.option("--layers", default=2, show_default=True, type=click.IntRange(0), help="Hidden layers.")
@click.option("--samples", default=500, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(width: int, layers: int, samples: int, rounds: int, as_json: bool) -> None:
    """Measure how fast this machine evaluates combinations, beside a loop in torch.

    Two random MLPs 784-WIDTH-…-10 on random samples, float32; both ways in turn, medians over rounds, beside
    them the fastest and the slowest. What a call of evaluate does once, however many combinations follow, is
    told apart.
    """
    import torch
    from tqdm import tqdm

    from fastcomb.cli.contest import Contest
    from fastcomb.kernels.config import configuration

    widths = (784, *[width] * layers, 10)
    contest = Contest.of(widths, samples)
    ways: dict[str, Callable[[int], float]] = {"fastcomb": contest.ours, "torch loop": contest.loop}
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores:
        click.echo(f"note: the machine is busy (load {load:.1f} on {cores} cores): times will vary", err=True)
    counts = {name: _calibrated(way) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(rounds), unit="round", disable=None):
        for name, way in ways.items():
            times[name].append(1e3 * _each(way, counts[name]))
    milliseconds = {name: statistics.median(values) for name, values in times.items()}
    ratio = milliseconds["torch loop"] / milliseconds["fastcomb"]
    once = statistics.median(contest.before)
    if as_json:
        report = {
            "widths": widths,
            "samples": samples,
            "milliseconds": milliseconds,
            "rounds": times,
            "seconds_before": once,
            "machine": configuration(),
        }
        click.echo(json.dumps(report, indent=1))
        return
    click.echo(
        f"MLP {'-'.join(map(str, widths))}, {samples} samples, float32, {torch.get_num_threads()} threads"
    )
    for name, value in milliseconds.items():
        ends = f"[{min(times[name]):.4f}, {max(times[name]):.4f}]"
        click.echo(f"{name:12}{value:10.4f} ms per combination {ends:20} {1e3 / value:12,.0f} per second")
    click.echo(f"ratio       {ratio:10.1f}")
    click.echo(f"before      {1e3 * once:10.0f} ms per call of evaluate, not counted above")


def _calibrated(way: Callable[[int], float]) -> int:
    """How many combinations a call should have, once it runs as it will go on running."""
    n = 4
    for _ in range(2):  # the first calls capture, allocate and start threads
        way(n)
    while way(n) < _CALL_SECONDS:
        n *= 2
    return n


def _each(way: Callable[[int], float], n: int) -> float:
    """Seconds per combination, of calls with n each that take a round's time together."""
    count, seconds = 0, 0.0
    while seconds < _ROUND_SECONDS:
        seconds += way(n)
        count += n
    return seconds / count
