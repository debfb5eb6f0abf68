"""The command line, ``fastcomb``: align, sweep, merge, density, report, bench, demo, info.

Errors are one line; ``--debug`` shows where they come from. Exit codes: 0 done, 1 an error, 2 the command was
not understood, 130 interrupted (what was computed is kept).

What declares commands imports no torch, so that ``-h`` answers at once; :mod:`fastcomb.cli.reading` does, and
a command imports it once it is called.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the console script."""
    try:
        try:
            import click  # noqa: F401
        except ImportError:
            sys.exit("error: the command line needs click: pip install fastcomb[cli]")
        from fastcomb.cli.commands import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before there was anything to interrupt
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
