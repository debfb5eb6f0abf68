"""One table on a GPU: microseconds per combination beside the peers, of the GEMM rate, and as predicted.

    python -m benchmarks.gpu [--workloads W0 W2-1000] [--dtypes bfloat16] [--json FOLDER]

Microseconds are per combination. Contenders of a workload take turns; the median over the rounds is shown.
Ceilings are measured in the same run: a product of 8192³ and a copy of 1 GiB. fastcomb's numbers are those of
a sweep that is running: planning, once per call of ``evaluate``, is not in them. A contender whose losses
disagree with the others' is not timed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import fastcomb as fc
from benchmarks.contenders import mean_loss, torch_compiled_loop, torch_loop, torch_vmap
from benchmarks.gpu_costs import costs, whole
from benchmarks.workloads import DTYPES, GPU_WORKLOADS, Workload
from fastcomb.kernels import cuda, triton
from fastcomb.kernels.config import configuration
from fastcomb.sweep.experiment import Experiment

#: A function that evaluates so many combinations, or at least as many, and returns how many and their losses.
Run = Callable[[int], tuple[int, Any]]

PEERS = {"torch loop": torch_loop, "torch.compile loop": torch_compiled_loop, "torch vmap": torch_vmap}
_ROUND_SECONDS = 0.2


def fastcomb_run(workload: Workload, dtype: torch.dtype, device: str, backend: str) -> Run:
    a, b = workload.pair()
    job = Experiment.of(
        a,
        b,
        fc.Uniform(),
        data=workload.data(),
        model=None,
        seed=0,
        loss="cross_entropy",
        metrics=None,
        batch_norm="a",
        calibration=None,
        device=torch.device(device),
        dtype=dtype,
        backend=backend,
        data_budget=1 << 34,
    ).start()
    if job.runner.name not in ("cuda", "triton"):
        raise SystemExit(f"{workload.name} runs on {job.runner.name}")

    def run(least: int) -> tuple[int, Any]:
        n = -(-least // job.runner.block) * job.runner.block
        return n, np.concatenate([columns["loss"] for _, columns in job.run(0, n)])

    return run


def peer_run(name: str, workload: Workload, dtype: torch.dtype, device: str) -> Run:
    call = PEERS[name](workload, dtype, device)

    def run(least: int) -> tuple[int, Any]:
        calls = -(-least // workload.combinations)
        results = [call() for _ in range(calls)]
        return calls * workload.combinations, results[-1]

    return run


def seconds(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    _wait(device)
    began = time.perf_counter()
    result = run()
    _wait(device)
    return time.perf_counter() - began, result


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def gemm(dtype: torch.dtype, device: str, size: int) -> float:
    """Rate of a square product in FLOP/s, the best of some."""
    x, w = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = min(seconds(lambda: [x @ w for _ in range(5)], device)[0] for _ in range(6))
    return 5 * 2 * size**3 / best


def copy_rate(device: str, count: int) -> float:
    """Bytes per second read and written by a copy, the best of some."""
    x = torch.empty(count, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    best = min(seconds(lambda: [y.copy_(x) for _ in range(5)], device)[0] for _ in range(6))
    return 5 * 2 * count / best


def mix_rates(device: str, dtype: torch.dtype, count: int) -> dict[str, float]:
    """Coefficients per second of the kernels that mix, for 64 combinations of a matrix of so many entries."""
    a, b = ({"w": torch.randn(count // 512, 512)} for _ in range(2))
    mixture = fc.Mixture(a, b, fc.Uniform()).to(torch.device(device))
    weight, index = mixture.mixed("w"), mixture.index_tensor(range(64))
    kernels, module, laws = triton.load(), cuda.kernels(torch.device(device)), mixture.law_arguments
    ways: dict[str, Callable[[], Any]] = {"Triton": lambda: kernels.mix(index, weight, laws, dtype)}
    if module is not None:
        ways["CUDA C++"] = lambda: cuda.mix(module, index, weight, laws, dtype)
    rates = {}
    for name, once in ways.items():
        once()
        best = min(seconds(lambda once=once: [once() for _ in range(5)], device)[0] for _ in range(6))  # type: ignore[misc]
        rates[name] = 5 * 64 * count / best
    return rates


def measure(workload: Workload, dtype: torch.dtype, device: str, rounds: int) -> list[dict[str, Any]]:
    """Rows of one workload and dtype."""
    runs: dict[str, Run] = {}
    failed: dict[str, str] = {}
    losses: dict[str, float] = {}
    makers: dict[str, Callable[[], Run]] = {
        "fastcomb": lambda: fastcomb_run(workload, dtype, device, "cuda" if device == "cpu" else "auto"),
        "fastcomb by layers": lambda: fastcomb_run(workload, dtype, device, "triton"),
        **{name: (lambda name=name: peer_run(name, workload, dtype, device)) for name in PEERS},  # type: ignore[misc]
    }
    for name, make in makers.items():
        try:
            run = make()
            losses[name] = mean_loss(run(1)[1])  # the first call compiles and warms up
            runs[name] = run
        except (RuntimeError, torch.OutOfMemoryError) as error:  # a peer that cannot run here is named
            if name.startswith("fastcomb"):
                raise
            failed[name] = str(error).splitlines()[0]
    middle = statistics.median(losses.values())
    for name, loss in losses.items():
        if abs(loss - middle) > 0.1 * middle:
            raise SystemExit(f"{name} on {workload.name} has loss {loss}, others {middle}")
    counts = {}
    for name, run in runs.items():
        run(1)  # once more: graphs are recorded the second time
        took, (count, _) = seconds(lambda run=run: run(1), device)  # type: ignore[misc]
        counts[name] = max(count, int(count * _ROUND_SECONDS / took))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            took, (count, _) = seconds(lambda run=run, n=counts[name]: run(n), device)  # type: ignore[misc]
            times[name].append(took / count)
    best = min((statistics.median(times[name]) for name in runs if name in PEERS), default=float("nan"))
    by_layers = sum(cost.seconds for cost in costs(workload))
    predictions = {"fastcomb": whole(workload) or by_layers, "fastcomb by layers": by_layers}
    rows = [
        {
            "workload": workload.name,
            "dtype": str(dtype).removeprefix("torch."),
            "contender": name,
            "us": 1e6 * statistics.median(values),
            "us_min": 1e6 * min(values),
            "us_max": 1e6 * max(values),
            "times_best_peer": best / statistics.median(values),
            "flops": workload.flops(),
            "predicted_us": 1e6 * predictions[name]
            if name in predictions and dtype == torch.bfloat16
            else None,
        }
        for name, values in times.items()
    ]
    return rows + [{"workload": workload.name, "contender": n, "failed": why} for n, why in failed.items()]


def commit() -> str:
    """The commit that is measured, "+" where files differ from it; "" outside a repository."""
    try:
        called = ("git", "describe", "--always", "--dirty=+", "--abbrev=12")
        return subprocess.run(called, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput on a GPU beside the peers.")
    parser.add_argument("--workloads", nargs="+", choices=GPU_WORKLOADS, default=list(GPU_WORKLOADS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="folder to write the rows to")
    parser.add_argument("--rehearse", action="store_true", help="tiny, in Triton's interpreter; no results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.rehearse and not triton.interpreted():
        raise SystemExit("--rehearse needs TRITON_INTERPRET=1 in the environment")
    if not options.rehearse and not torch.cuda.is_available():
        raise SystemExit("no CUDA device; --rehearse runs all of this without one")
    device = "cpu" if options.rehearse else "cuda"
    size = 256 if options.rehearse else 8192

    ceilings = {name: gemm(DTYPES[name], device, size) for name in options.dtypes}
    copied = copy_rate(device, 1 << 12 if options.rehearse else 1 << 30)
    drawn = mix_rates(device, torch.float32 if options.rehearse else torch.bfloat16, 64 * size)
    rows = []
    for dtype in options.dtypes:
        for name in tqdm(options.workloads, desc=dtype, disable=None):
            rows += measure(GPU_WORKLOADS[name], DTYPES[dtype], device, options.rounds)

    what = "interpreter" if options.rehearse else torch.cuda.get_device_name()
    versions = {
        "torch": torch.__version__,
        "triton": configuration()["Triton"],
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }
    print(
        f"{datetime.date.today()}, {what}, commit {commit()}, "
        + ", ".join(f"{k} {v}" for k, v in versions.items())
    )
    rates = ", ".join(f"{name} {rate / 1e12:.1f} TFLOP/s" for name, rate in ceilings.items())
    print(f"GEMM ceiling: {rates}; copy {copied / 1e12:.2f} TB/s")
    for name, rate in drawn.items():
        share = rate * torch.bfloat16.itemsize / copied
        print(f"mix in {name}: {rate / 1e9:.0f} G coefficients/s, written at {share:.2f} of the copy's rate")
    columns = ("workload", "dtype", "contender", "µs (least–most)", "× best peer", "of GEMM", "predicted µs")
    print(f"\n| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        if "failed" in row:
            print(f"| {row['workload']} | | {row['contender']} | failed: {row['failed']} | | | |")
            continue
        row["of_gemm"] = row["flops"] / row["us"] * 1e6 / ceilings[row["dtype"]]
        predicted = "" if row["predicted_us"] is None else f"{row['predicted_us']:.2f}"
        print(
            f"| {row['workload']} | {row['dtype']} | {row['contender']} | {row['us']:.3f} "
            f"({row['us_min']:.3f}–{row['us_max']:.3f}) | {row['times_best_peer']:.2f} "
            f"| {row['of_gemm']:.3f} | {predicted} |"
        )
    if options.json and not options.rehearse:
        record = {
            "date": str(datetime.date.today()),
            "device": what,
            "commit": commit(),
            "versions": versions,
            "gemm": ceilings,
            "copy": copied,
            "mix_coefficients": drawn,
            "rows": rows,
        }
        options.json.mkdir(parents=True, exist_ok=True)
        file = options.json / f"{datetime.date.today()}-{what.lower().replace(' ', '-')}.json"
        file.write_text(json.dumps(record, indent=1) + "\n")
        print(f"\nwritten to {file}")


if __name__ == "__main__":
    main()
