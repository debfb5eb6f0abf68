"""What the Triton kernels need per combination, counted from shapes, and the time that this predicts.

    python -m benchmarks.gpu_costs

prints the predictions of docs/gpu.md, for an H100 (SXM5). Nothing here is measured. The device's numbers are
the vendor's: 132 multiprocessors at 1.755 GHz, each with 64 32-bit integer operations per clock and 128 bytes
of its first-level cache and shared memory; 5120 bytes of the second-level cache per clock, which is published
for the A100 only. A large bfloat16 product is taken to run at 750 TFLOP/s. Activations stay in the
second-level cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

import fastcomb as fc
from benchmarks.workloads import GPU_WORKLOADS, Workload
from fastcomb.program import Node

CLOCK, PROCESSORS = 1.755e9, 132
MATRIX, INTEGER, NEAR, CACHE = 750e12, 64 * PROCESSORS * CLOCK, 128 * PROCESSORS * CLOCK, 5120 * CLOCK
#: Integer operations for a 16-bit coefficient: of the SASS of ``mix`` for sm_90, per Philox block of eight,
#: 20 wide products (two slots each), 24 logical operations and 16 others.
PER_WEIGHT = (20 * 2 + 24 + 16) / 8
#: Combinations that ``mix`` and ``mixed_linear`` serve from one reading of both networks.
MIX_TOGETHER, LINEAR_TOGETHER = 8, 2
#: Most samples of a tile whose weights are generated inside the product.
TILE = 256


@dataclass(frozen=True)
class Cost:
    """Of one kernel, for one combination.

    Attributes:
        flop: of the matrix units.
        integer: operations of generation.
        cache: bytes from the second-level cache and to it.
        near: bytes through the first-level cache and shared memory.
    """

    kernel: str
    flop: float
    integer: float
    cache: float
    near: float = 0.0

    @property
    def seconds(self) -> float:
        """If everything overlaps but generation and products, which share the issue slots of a kernel."""
        return max(self.flop / MATRIX + self.integer / INTEGER, self.cache / CACHE, self.near / NEAR)


def costs(workload: Workload) -> list[Cost]:
    """Of all layers of a network."""
    x, _ = workload.data()
    program = fc.capture(workload.make().eval(), x[:2])
    launches: list[Cost] = []
    for node in program:
        if node.op in ("linear", "conv2d"):
            launches += _layer(node, program.shapes[node.arguments["weight"].name], workload.samples)
    return launches


def _layer(node: Node, weight: tuple[int, ...], samples: int) -> list[Cost]:
    """``node`` yields [N, O] or [N, O, H, W]; values are bfloat16."""
    outputs, inner = weight[0], torch.Size(weight[1:]).numel()
    pixels = 1
    for size in node.shape[2:]:
        assert isinstance(size, int)
        pixels *= size
    rows, weights = samples * pixels, outputs * inner
    written = 2 * rows * outputs
    flop = 2.0 * rows * weights
    if node.op == "linear" and rows <= TILE:
        read = 8 * weights / LINEAR_TOGETHER + 2 * rows * inner * -(-outputs // 64)
        return [Cost("mixed_linear", flop, PER_WEIGHT * weights, read + written)]
    read = 2.0 * rows * inner * -(-outputs // 256)
    stored = 2.0 * weights * -(-rows // 128)
    near = 2 * (read + stored)  # written to shared memory, and read from there
    if node.op == "conv2d":  # all taps read the pixels of a tile and the lines around it
        near += read
        taps, wide, stride = torch.Size(weight[2:]).numel(), node.shape[3], node.arguments["stride"]
        assert isinstance(wide, int)
        read *= stride[0] * stride[1] / taps * (1 + (weight[2] - 1) * wide / 128)
    return [
        Cost("mix", 0, PER_WEIGHT * weights, (8 / MIX_TOGETHER + 2) * weights),
        Cost("implicit_gemm", flop, 0, read + stored + written, near),
    ]


def whole(workload: Workload) -> float | None:
    """Predicted seconds per combination where one kernel runs the whole network; None for other networks.

    A multiprocessor holds two blocks, one generates while the other multiplies, so the slowest of these
    counts: generation, products of warps (1,024 multiply-adds per clock, half of what warpgroups do),
    shared memory (every 32 samples read all weights), and the second-level cache (networks and samples).
    """
    x, _ = workload.data()
    program = fc.capture(workload.make().eval(), x[:2])
    shapes = [program.shapes[n.arguments["weight"].name] for n in program if n.op == "linear"]
    if (
        any(node.op not in ("linear", "relu", "flatten") for node in program)
        or max(o for o, _ in shapes) > 128
    ):
        return None
    rows = -(-workload.samples // 32) * 32
    weights = sum(o * i for o, i in shapes)
    padded = sum(-(-o // 8) * 8 * -(-i // 16) * 16 for o, i in shapes)
    clocks = (
        PER_WEIGHT * weights / 64,
        rows * padded / 1024,
        rows / 32 * padded * 2 / 128,
        (8 * weights + 2 * workload.samples * shapes[0][1]) * PROCESSORS / 5120,
    )
    return max(clocks) / (PROCESSORS * CLOCK)


def main() -> None:
    print("| workload | kernel | launches | GFLOP | integer, M | L2, MB | L1 and shared, MB | predicted µs |")
    print("|---|---|---|---|---|---|---|---|")
    for name, workload in GPU_WORKLOADS.items():
        launches = costs(workload)
        for kernel in dict.fromkeys(cost.kernel for cost in launches):
            alike = [cost for cost in launches if cost.kernel == kernel]
            keys = ("flop", "integer", "cache", "near", "seconds")
            flop, integer, cache, near, seconds = (sum(getattr(c, key) for c in alike) for key in keys)
            print(
                f"| {name} | {kernel} | {len(alike)} | {flop / 1e9:.3f} | {integer / 1e6:.2f} "
                f"| {cache / 1e6:.2f} | {near / 1e6:.2f} | {seconds * 1e6:.2f} |"
            )
        total = sum(cost.seconds for cost in launches)
        floor = sum(cost.flop for cost in launches) / MATRIX
        if seconds := whole(workload):
            print(f"| {name} | whole network | 1 | | | | | {seconds * 1e6:.3f} |")
        print(f"| {name} | all | {len(launches)} | | | | | {total * 1e6:.2f}: {floor / total:.2f} of GEMM |")


if __name__ == "__main__":
    main()
