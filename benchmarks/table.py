"""One table: milliseconds per combination of fastcomb and its peers, beside the machine's GEMM rate.

    python -m benchmarks.table [--workloads W0 W1] [--rounds 7] [--json FILE]

Contenders of a workload take turns, so a change of the machine's speed meets all of them; the median over
the rounds is shown. A contender whose losses disagree with the others' is not timed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import fastcomb as fc
from benchmarks.contenders import CONTENDERS, PEERS, available, combinations, mean_loss
from benchmarks.gemm import peak
from benchmarks.workloads import DTYPES, WORKLOADS, installed


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {torch.get_num_threads()} threads"
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def measure(workload_name: str, dtype_name: str, rounds: int, names: list[str]) -> list[dict[str, Any]]:
    """Rows of one workload and dtype."""
    workload, dtype = WORKLOADS[workload_name], DTYPES[dtype_name]
    calls, losses = {}, {}
    for name in names:
        calls[name] = CONTENDERS[name](workload, dtype)
        losses[name] = mean_loss(calls[name]())  # the first call compiles and warms up
    middle = statistics.median(losses.values())
    for name, loss in losses.items():
        if abs(loss - middle) > 0.1 * middle:
            raise SystemExit(f"{name} on {workload_name} has loss {loss}, others {middle}")
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - began) / combinations(name, workload))
    return [
        {
            "workload": workload_name,
            "dtype": dtype_name,
            "contender": name,
            "p20_ms": 1e3 * sorted(seconds)[len(seconds) // 5],
            "p50_ms": 1e3 * statistics.median(seconds),
            "p80_ms": 1e3 * sorted(seconds)[len(seconds) * 4 // 5],
            "flops": workload.flops(),
        }
        for name, seconds in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of fastcomb and its peers.")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    missing = {name for name in options.workloads if not installed(WORKLOADS[name])}
    for name in missing:
        print(f"{name} left out: {WORKLOADS[name].package} is not installed", file=sys.stderr)
    workloads = [name for name in options.workloads if name not in missing]
    ceilings = {dtype: peak(DTYPES[dtype]) for dtype in options.dtypes}
    rows = []
    for dtype in options.dtypes:
        for workload in tqdm(workloads, desc=dtype, disable=None):
            names = [name for name in options.contenders if available(name, WORKLOADS[workload])]
            rows += measure(workload, dtype, options.rounds, names)

    versions = {"torch": torch.__version__, "fastcomb": fc.__version__, "python": platform.python_version()}
    if any(row["contender"].startswith("jax") for row in rows):
        import jax

        versions["jax"] = jax.__version__
    print(f"{datetime.date.today()}, {cpu()}, " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    for dtype, (rate, where) in ceilings.items():
        print(f"GEMM ceiling {dtype}: {rate / 1e9:.0f} GFLOP/s ({where})")
    print("\n| workload | dtype | contender | ms per combination (20–80 %) | × best peer | of GEMM |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        row["of_gemm"] = row["flops"] / row["p50_ms"] * 1e3 / ceilings[row["dtype"]][0]
        same = [r for r in rows if (r["workload"], r["dtype"]) == (row["workload"], row["dtype"])]
        peers = [r["p50_ms"] for r in same if r["contender"] in PEERS]
        row["times_best_peer"] = min(peers) / row["p50_ms"] if peers else float("nan")
        print(
            f"| {row['workload']} | {row['dtype']} | {row['contender']} | {row['p50_ms']:.3f} "
            f"({row['p20_ms']:.3f}–{row['p80_ms']:.3f}) | {row['times_best_peer']:.2f} "
            f"| {row['of_gemm']:.2f} |"
        )
    if options.json:
        ceiling = {dtype: rate for dtype, (rate, _) in ceilings.items()}
        record = {"date": str(datetime.date.today()), "cpu": cpu(), "versions": versions, "gemm": ceiling}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
