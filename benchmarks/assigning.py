"""The kernel for linear assignments against scipy's, on one core.

    python -m benchmarks.assigning

Similarities of random numbers, which is the hard case, and with a dominant diagonal, as late in a descent.
Medians of runs that take turns; both must find permutations of the same value.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.engine import medians
from fastcomb.kernels import native

SIZES = (16, 64, 256, 512, 1024, 2048)
ROUNDS = 5


def matrices(size: int) -> dict[str, Tensor]:
    random = torch.randn(size, size, generator=torch.Generator().manual_seed(size))
    return {"random": random, "diagonal": random + 6 * torch.eye(size)}


def seconds(similarity: Tensor) -> dict[str, float]:
    """Of scipy, and of the kernel."""
    numbers = similarity.numpy()
    ways = {
        "scipy": lambda: torch.from_numpy(linear_sum_assignment(numbers, maximize=True)[1]),
        "kernel": lambda: native.match(similarity[None])[0],
    }
    one, other = (float(similarity.double().gather(1, way()[:, None]).sum()) for way in ways.values())
    assert abs(one - other) <= 1e-12 * abs(one), (one, other)
    return medians(ways, ROUNDS)


def main() -> None:
    torch.set_num_threads(1)
    print(f"level {native.cpu_capability()}\n")
    print("| units | scipy ms, random | kernel ms | × | scipy ms, diagonal | kernel ms | × |")
    print("|---|---|---|---|---|---|---|")
    for size in SIZES:
        cells = [str(size)]
        for similarity in matrices(size).values():
            took = seconds(similarity)
            ratio = took["scipy"] / took["kernel"]
            cells += [f"{1e3 * took['scipy']:.3f}", f"{1e3 * took['kernel']:.3f}", f"{ratio:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
