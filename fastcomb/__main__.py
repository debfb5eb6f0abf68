"""``python -m fastcomb`` is the command line."""

from fastcomb.cli import main

main()
