"""Arguments of commands: numbers, samplers and checkpoints as text. Imports nothing that is slow to."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fastcomb.sampling.samplers import Sampler


class SamplerType(click.ParamType["Sampler"]):
    """A sampler as text."""

    name = "law"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sampler:
        """The sampler that a text writes, such as "Beta(2, 5)"; other text is an error of usage."""
        from fastcomb.sampling.parse import parse_sampler

        try:
            return parse_sampler(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class CountType(click.ParamType[int]):
    """A number of things, at least one; 1e6 is one too."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number as an int; anything but a whole number of at least 1 is an error of usage."""
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if number < 1 or not number.is_integer():
            self.fail(f"{value!r} is not a number of at least 1", param, ctx)
        return int(value) if str(value).isdigit() else int(number)


class RealType(click.ParamType[float]):
    """A finite number, optionally between two others.

    Args:
        low, high: ends of the range.
        open: whether the ends are outside.
    """

    name = "number"

    def __init__(self, low: float = -math.inf, high: float = math.inf, *, open: bool = False) -> None:
        self.low, self.high, self.open = low, high, open

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; one that is not finite or not in the range is an error of usage."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not finite", param, ctx)
        inside = self.low < number < self.high if self.open else self.low <= number <= self.high
        if not inside:
            left, right = "()" if self.open else "[]"
            low, high = (f"{end:g}" for end in (self.low, self.high))
            self.fail(f"{value} is outside {left}{low}, {high}{right}", param, ctx)
        return number


def check_level(metric: str, level: float | None) -> None:
    """Raise click.UsageError for a level that nothing can have."""
    if level is not None and metric == "accuracy" and not 0 <= level <= 1:
        raise click.UsageError(f"--level {level:g}: accuracy is a fraction of the samples, from 0 to 1")


def networks(command: Callable[..., Any]) -> Callable[..., Any]:
    """Arguments A and B (checkpoints) and the option --model."""
    command = click.option(
        "--model", required=True, help="Code of the networks: package.module:factory, or an archive .pt2."
    )(command)
    command = click.argument("b", type=click.Path(exists=True), callback=_another)(command)
    return click.argument("a", type=click.Path(exists=True))(command)


def _another(context: click.Context, _: click.Parameter, b: str) -> str:
    a = context.params.get("a")
    if a is not None and Path(a).samefile(b):
        raise click.UsageError(
            f"A and B are the same file, {a}: there is nothing between a network and itself"
        )
    return b
