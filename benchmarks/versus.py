"""Two versions of this tree in turn: seconds of a call of ``fastcomb.evaluate`` by workload, and their ratio.

    python -m benchmarks.versus OTHER [--rounds 9] [--workloads W0 W1 …]

OTHER is a folder with another version, built in place. Each runs in a process of its own, which prepares
a workload and waits; the two take turns, call by call, so that what else the machine does meets both. Medians
are shown. A call has a fixed number of combinations, so what it costs beside its arithmetic is in it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]

_WORKER = """
import sys, time, warnings
warnings.simplefilter("ignore")
import torch, fastcomb as fc
from benchmarks.workloads import DTYPES, WORKLOADS
torch.set_num_threads(int(sys.argv[1]))
for line in sys.stdin:
    name, dtype, n = line.split()
    workload = WORKLOADS[name]
    a, b = workload.pair()
    norms = {"batch_norm": "a"} if any("running" in k for k in a.state_dict()) else {}
    data = workload.data()
    def call():
        began = time.perf_counter()
        fc.evaluate(a, b, fc.Uniform(), data=data, n=int(n), dtype=DTYPES[dtype], progress=False, **norms)
        return time.perf_counter() - began
    call()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "next":
            break
        print(call(), flush=True)
"""


class Version:
    """One version of the tree, in a process of its own."""

    def __init__(self, root: Path, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(threads)],
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Wait for a line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError("a version ended; is it built in place?")
        return line

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Two versions of this tree in turn.")
    parser.add_argument("other", type=Path, help="folder with the other version")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workloads", nargs="+", default=["W0", "W1", "W2-100", "W2-1000", "W3"])
    options = parser.parse_args()
    versions = [Version(options.other.resolve(), options.threads), Version(ROOT, options.threads)]
    print(
        "| workload | dtype | combinations | other (s) | this (s) | this / other |\n|---|---|---|---|---|---|"
    )
    try:
        for name in options.workloads:
            for dtype in ("float32", "bfloat16"):
                n = 16 * WORKLOADS[name].combinations
                for version in versions:
                    version.say(f"{name} {dtype} {n}")
                    version.hear()
                seconds: list[list[float]] = [[], []]
                for number in range(options.rounds):
                    for which in (0, 1) if number % 2 else (1, 0):
                        versions[which].say("once")
                        seconds[which].append(float(versions[which].hear()))
                for version in versions:
                    version.say("next")
                ratios = [new / old for old, new in zip(*seconds, strict=True)]
                old, new = map(statistics.median, seconds)
                print(
                    f"| {name} | {dtype} | {n} | {old:.4f} | {new:.4f} | {statistics.median(ratios):.3f} |",
                    flush=True,
                )
    finally:
        for version in versions:
            version.close()


if __name__ == "__main__":
    main()
