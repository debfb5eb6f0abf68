"""The kernel for linear assignments against scipy's, on one core.

    python -m benchmarks.assigning

Similarities of random numbers, which is the hard case, and with a dominant diagonal, as late in a descent.
Medians of runs that take turns; both must find permutations of the same value.
"""

from __future__ import annotations

import statistics
import time

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fastcomb.kernels import native

SIZES = (16, 64, 256, 512, 1024, 2048)
ROUNDS = 5


def matrices(size: int) -> dict[str, Tensor]:
    random = torch.randn(size, size, generator=torch.Generator().manual_seed(size))
    return {"random": random, "diagonal": random + 6 * torch.eye(size)}


def seconds(similarity: Tensor) -> tuple[float, float]:
    """Of scipy, and of the kernel."""
    numbers = similarity.numpy()
    ways = (
        lambda: torch.from_numpy(linear_sum_assignment(numbers, maximize=True)[1]),
        lambda: native.match(similarity[None])[0],
    )
    times: list[list[float]] = [[], []]
    values = [0.0, 0.0]
    for _ in range(ROUNDS):
        for i, way in enumerate(ways):
            began = time.perf_counter()
            found = way()
            times[i].append(time.perf_counter() - began)
            values[i] = float(similarity.double().gather(1, found[:, None]).sum())
    assert abs(values[0] - values[1]) <= 1e-12 * abs(values[0]), values
    scipy, kernel = map(statistics.median, times)
    return scipy, kernel


def main() -> None:
    torch.set_num_threads(1)
    print(f"level {native.cpu_capability()}\n")
    print("| units | scipy ms, random | kernel ms | × | scipy ms, diagonal | kernel ms | × |")
    print("|---|---|---|---|---|---|---|")
    for size in SIZES:
        cells = [str(size)]
        for similarity in matrices(size).values():
            scipy, kernel = seconds(similarity)
            cells += [f"{1e3 * scipy:.3f}", f"{1e3 * kernel:.3f}", f"{scipy / kernel:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
