"""The command line, ``fastcomb``: align, sweep, merge, density, report, bench, demo, info.

Errors are one line; ``--debug`` shows where they come from. Exit codes: 0 done, 1 an error, 2 the command was
not understood, 130 interrupted (what was computed is kept).
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the console script."""
    try:
        import click  # noqa: F401
    except ImportError:
        sys.exit("error: the command line needs click: pip install fastcomb[cli]")
    from fastcomb.cli.commands import run

    sys.exit(run(sys.argv[1:]))
