"""All commands in one group, and what happens when one fails."""

from __future__ import annotations

import json
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import click

from fastcomb.cli.align import align
from fastcomb.cli.bench import bench
from fastcomb.cli.errors import told
from fastcomb.cli.runs import density, merge, report
from fastcomb.cli.sweep import sweep


class Commands(click.Group):
    """A group whose commands may meet files that end too early, which click takes for an interruption.

    An interruption itself is left to :func:`run`: click adds an empty line.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named.

        Raises:
            ValueError: a file ends too early.
            click.Abort: it was interrupted.
        """
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise ValueError(f"a file ends too early: {error}") from error
        except KeyboardInterrupt as error:
            raise click.Abort from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="fastcomb")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
def group(debug: bool) -> None:
    """Evaluate millions of combinations of two neural networks.

    Networks are a MODEL, the code ("package.module:factory", with literal arguments if it takes some, as in
    "fastcomb.models:MLP((784, 64, 10))", or a torch.export archive .pt2), and checkpoints, the weights
    (.safetensors, or .pt that holds a state dict).
    """


@group.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """What this installation runs on: versions, instructions, threads, GPU."""
    from fastcomb.kernels.config import configuration

    settings = configuration()
    if as_json:
        click.echo(json.dumps(settings, indent=1))
        return
    for name, value in settings.items():
        click.echo(f"{name:16} {value}")


@group.command()
@click.option(
    "--combinations",
    type=click.IntRange(1),
    help="Per pair and law.  [default: as many as fit 90 seconds in all, at most 125,000]",
)
@click.option("--out", default="out/demo", help="Folder for pictures and runs.", show_default=True)
def demo(combinations: int | None, out: str) -> None:
    """Train two networks on real digits and look at up to a million combinations of them."""
    from pathlib import Path

    from fastcomb.demo import run as run_demo

    run_demo(combinations, Path(out))


for command in (align, sweep, merge, density, report, bench):
    group.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run a command; its exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = _noted
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    """Run a command and print its error, if any, in one line; its exit code."""
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        code = group.main(rest, prog_name="fastcomb", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        message = " ".join(error.format_message().split())
        context = getattr(error, "ctx", None)
        help = f" ({context.command_path} --help)" if context else ""
        click.echo(f"error: {message}{help}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            click.echo(f"error: {told(error)}", err=True)
        return 1


def _noted(message: Any, *_: Any, **__: Any) -> None:
    click.echo(f"note: {' '.join(str(message).split())}", err=True)
