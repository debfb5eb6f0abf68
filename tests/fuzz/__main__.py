"""``python -m tests.fuzz``: see :mod:`tests.fuzz`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from tests.fuzz.pool import Record, results, work

#: Verdicts that fail the fuzz.
_FAULTS = ("wrong", "raised", "crashed")
_COLUMNS = ("networks", "native", "torch_reference", "refused", "WRONG", "RAISED", "CRASHED")


def main() -> int:
    """Run the fuzz; 1 if anything was wrong, crashed, or raised something else than a clear refusal."""
    arguments = _parsed()
    if arguments.worker:
        work(arguments.seed, sys.stdin, sys.stdout)
        return 0
    from tests.fuzz.networks import make

    numbers = list(range(arguments.first, arguments.first + arguments.networks))
    found: dict[int, list[Record]] = {}
    try:
        for number, records in tqdm(
            results(numbers, arguments.seed, arguments.processes), total=len(numbers), unit="net"
        ):
            found[number] = records
            bad = [record for record in records if record["verdict"] in _FAULTS]
            if bad and not arguments.quiet:
                tqdm.write(str(make(number, arguments.seed)))
                for record in bad:
                    tqdm.write(f"    {_line(record)}")
    except KeyboardInterrupt:
        print(f"interrupted after {len(found)} networks")
    if arguments.json:
        arguments.json.write_text(json.dumps(found))
    kinds = {number: make(number, arguments.seed).kind for number in found}
    print(summary(found, kinds))
    return int(any(record["verdict"] in _FAULTS for records in found.values() for record in records))


def summary(found: dict[int, list[Record]], kinds: dict[int, str]) -> str:
    """A table by kind of input, then refusals, notices and faults by what they say."""
    rows: dict[str, Counter[str]] = {}
    for number, records in found.items():
        for kind in (kinds[number], "all"):
            rows.setdefault(kind, Counter()).update(_columns(records))
    lines = ["| inputs | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for kind in sorted(rows, key=lambda kind: (kind == "all", kind)):
        lines.append(f"| {kind} | " + " | ".join(str(rows[kind][column]) for column in _COLUMNS) + " |")
    right = sum(record["verdict"] == "right" for records in found.values() for record in records)
    lines.append(f"\n{right} comparisons were right.")
    for verdict in ("note", "refused", *_FAULTS):
        lines += _listed(verdict, found)
    return "\n".join(lines)


def _columns(records: list[Record]) -> list[str]:
    """The columns of the table that a network counts in."""
    main = [record for record in records if record["check"] == "evaluate on auto"]
    columns = ["networks"]
    columns += {record["backend"] for record in main if record["backend"]}
    if any(record["verdict"] == "refused" for record in main):
        columns.append("refused")
    verdicts = {record["verdict"] for record in records}
    return columns + [verdict.upper() for verdict in _FAULTS if verdict in verdicts]


def _listed(verdict: str, found: dict[int, list[Record]]) -> list[str]:
    """Messages of one verdict without their numbers and names, the most frequent first, with networks."""
    messages: dict[str, set[int]] = {}
    for number, records in found.items():
        for record in records:
            if record["verdict"] == verdict:
                for message in _kinds(record):
                    messages.setdefault(message, set()).add(number)
    lines = [f"\n{verdict}, networks with each kind:"] if messages else []
    for message, numbers in sorted(messages.items(), key=lambda item: -len(item[1])):
        examples = ", ".join(str(number) for number in sorted(numbers)[:6])
        lines.append(f"  {len(numbers):5} {message} [{examples}{', …' if len(numbers) > 6 else ''}]")
    return lines


def _kinds(record: Record) -> list[str]:
    """What kind of thing a record says; several for a notice of several operations."""
    text = record["text"].splitlines()[0] if record["text"] else ""
    if operations := re.search(r"cannot run the operations? (.*)", text):
        return [
            f"on the reference because of {name}" for name in operations[1].split(", ") if " " not in name
        ]
    check = re.sub(r" ?\(?(on )?\d+ samples\)?", "", record["check"])
    if record["verdict"] == "wrong":
        text = re.sub(r"^combination \d+: ", "", text.partition("; ")[0])
        text = re.sub(r"(model [ab])\.\S+", r"\1.…", text)
        text = "other numbers" if "beyond" in text else text
        ran = f" ({record['backend']})" if record["backend"] else ""
        return [f"{check}{ran}: {text[:100]}"]
    text = re.sub(r"'[^']*'", "'…'", text)
    text = re.sub(r"[-+]?\d[\d.,e+-]*|\bnan\b|-?\binf\b", "#", text)
    public = "align" if check == "align" else "capture" if "apture" in text else ""
    return [f"{public}{': ' if public else ''}{text[:200]}"]


def _line(record: Record) -> str:
    ran = f" ({record['backend']})" if record["backend"] else ""
    return f"{record['verdict'].upper()} {record['check']}{ran}: {record['text']}"


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--networks", type=int, default=2000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0, help="of all choices")
    parser.add_argument("--processes", type=int, default=2, help="workers")
    parser.add_argument("--json", type=Path, help="also write all findings to this file")
    parser.add_argument("--quiet", action="store_true", help="no sources of networks that fail")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
