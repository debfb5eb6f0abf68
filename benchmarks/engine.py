"""The compiled engine by itself: generation by law, threads, recomputed statistics, memory, roofline.

    python -m benchmarks.engine [--rounds 9]

What is compared takes turns within one process; medians are shown.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import torch

import fastcomb as fc
from benchmarks.gemm import peak
from benchmarks.table import cpu
from benchmarks.workloads import DTYPES, WORKLOADS, Workload
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.native import Native

LAWS = {
    "Uniform()": fc.Uniform(),
    "Uniform(-0.25, 1.25)": fc.Uniform(-0.25, 1.25),
    "Bernoulli(0.5)": fc.Bernoulli(0.5),
    "Beta(2, 2) (any table)": fc.Beta(2, 2),
    "Uniform(bits=32)": fc.Uniform(bits=32),
    "Beta(2, 2, bits=32)": fc.Beta(2, 2, bits=32),
    'Uniform(per="neuron")': fc.Uniform(per="neuron"),
    'Uniform(per="model")': fc.Uniform(per="model"),
}
_MEMORY = """
import resource, torch, fastcomb as fc
from benchmarks.workloads import WORKLOADS
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
a, b = WORKLOADS["W0"].pair()
before = peak()
fc.evaluate(a, b, fc.Uniform(), data=WORKLOADS["W0"].data(), n={n}, progress=False)
print(peak() - before)
"""


def medians(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            done = call()
            took = time.perf_counter() - began
            # a sweep's own clock starts after planning, which a long run does not notice
            times[name].append(done.seconds if isinstance(done, fc.Sweep) else took)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def engine(
    workload: Workload, sampler: fc.Sampler, dtype: torch.dtype = torch.float32, networks: int = 2
) -> Native:
    a, b = workload.pair()
    mix = fc.Mixture(a, [b, a][: networks - 1] + [b] * (networks - 3), sampler, model=a)
    normalisation = Normalisation.choose(a, mix, "a", None)
    return Native(mix, a, workload.data()[0][:2], dtype=dtype, normalisation=normalisation)


def generation(rounds: int) -> None:
    """Weights of W2 generated and laid out, nothing else."""
    print("\n| law | coefficients per second, 10⁹: float32 | bfloat16 |\n|---|---|---|")
    count = 100
    coefficients = sum(p.numel() for p in WORKLOADS["W2-100"].pair()[0].parameters())
    calls: dict[str, Callable[[], object]] = {}
    for name, sampler in LAWS.items():
        for kind, dtype in DTYPES.items():
            raw = engine(WORKLOADS["W2-100"], sampler, dtype)
            calls[f"{name}|{kind}"] = _generation(raw, count)
    times = medians(calls, rounds)
    for name in LAWS:
        rates = [coefficients * count / times[f"{name}|{kind}"] / 1e9 for kind in DTYPES]
        print(f"| `{name}` | {rates[0]:.1f} | {rates[1]:.1f} |")


def mixtures(rounds: int) -> None:
    """Weights of W2 as combinations of more networks: each more is a step with a table of its own."""
    print("\n| networks, law | weights per second, 10⁹: float32 | bfloat16 |\n|---|---|---|")
    count, workload = 60, WORKLOADS["W2-100"]
    weights = sum(p.numel() for p in workload.pair()[0].parameters())
    laws: dict[str, tuple[int, fc.Sampler]] = {
        "2, `Uniform()`": (2, fc.Uniform()),
        "2, `Beta(1, 1)`": (2, fc.Beta(1, 1)),
    }
    laws |= {f"{m}, `Dirichlet(1.0)`": (m, fc.Dirichlet(1.0)) for m in (2, 3, 5)}
    calls: dict[str, Callable[[], object]] = {}
    for name, (networks, law) in laws.items():
        for kind, dtype in DTYPES.items():
            calls[f"{name}|{kind}"] = _generation(engine(workload, law, dtype, networks), count)
    times = medians(calls, rounds)
    for name in laws:
        rates = [weights * count / times[f"{name}|{kind}"] / 1e9 for kind in DTYPES]
        print(f"| {name} | {rates[0]:.2f} | {rates[1]:.2f} |")


def _generation(raw: Native, count: int) -> Callable[[], object]:
    return lambda: raw.generate(range(count), torch.get_num_threads())


def sweep(
    name: str, n: int, dtype: torch.dtype, threads: int = 0, **arguments: object
) -> Callable[[], fc.Sweep]:
    a, b = WORKLOADS[name].pair()
    data = WORKLOADS[name].data()
    settings: dict[str, object] = {"batch_norm": "a"} | arguments

    def call() -> fc.Sweep:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            return fc.evaluate(a, b, fc.Uniform(), data=data, n=n, dtype=dtype, progress=False, **settings)  # type: ignore[arg-type]
        finally:
            torch.set_num_threads(before)

    return call


def threads(rounds: int) -> None:
    print("\n| workload | dtype | 2 threads are faster than 1 by |\n|---|---|---|")
    for name, n in (("W0", 40_000), ("W1", 4000), ("W2-100", 1000), ("W2-1000", 200), ("W3", 120)):
        for kind, dtype in DTYPES.items():
            times = medians({str(t): sweep(name, n, dtype, t) for t in (1, 2)}, rounds)
            print(f"| {name} | {kind} | {times['1'] / times['2']:.2f} |")


def recompute(rounds: int) -> None:
    print("\n| workload | dtype | recomputing on 250 samples costs |\n|---|---|---|")
    for name, n in (("W3", 120), ("W4", 24)):
        calibration = WORKLOADS[name].data()[0]
        for kind, dtype in DTYPES.items():
            calls = {
                "without": sweep(name, n, dtype, batch_norm="lerp"),
                "with": sweep(name, n, dtype, batch_norm="recompute", calibration=calibration),
            }
            times = medians(calls, rounds)
            print(f"| {name} | {kind} | × {times['with'] / times['without']:.2f} |")


def roofline(rounds: int) -> None:
    """Time of the arithmetic at the GEMM rate plus that of the coefficients at their rate."""
    print("\n| workload | dtype | arithmetic ms | generation ms | predicted ms | measured ms | fraction |")
    print("|---|---|---|---|---|---|---|")
    for kind, dtype in DTYPES.items():
        rate, _ = peak(dtype)
        for name, n in (
            ("W0", 80_000),
            ("W1", 6000),
            ("W2-100", 1500),
            ("W2-1000", 300),
            ("W3", 150),
            ("W4", 30),
        ):
            workload = WORKLOADS[name]
            raw = engine(workload, fc.Uniform(), dtype)
            count = min(n, 2000)
            calls: dict[str, Callable[[], object]] = {
                "generation": _generation(raw, count),
                "sweep": sweep(name, n, dtype),
            }
            times = medians(calls, rounds)
            arithmetic, generating = workload.flops() / rate, times["generation"] / count
            measured = times["sweep"] / n
            predicted = arithmetic + generating
            row = [f"{1e3 * seconds:.4f}" for seconds in (arithmetic, generating, predicted, measured)]
            print(f"| {name} | {kind} | {' | '.join(row)} | {predicted / measured:.2f} |", flush=True)


def memory() -> None:
    print("\n| combinations of W0 | peak memory above the process after import, MB |\n|---|---|")
    for n in (10_000, 1_000_000):
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY.format(n=n)], capture_output=True, text=True, check=True
        )
        print(f"| {n:,} | {float(done.stdout):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="The compiled engine by itself.")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"{datetime.date.today()}, {cpu()}, torch {torch.__version__}, fastcomb {fc.__version__}")
    memory()
    generation(options.rounds)
    mixtures(options.rounds)
    threads(options.rounds)
    recompute(options.rounds)
    roofline(options.rounds)


if __name__ == "__main__":
    main()
