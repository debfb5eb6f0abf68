"""Stitching beside the way public code does it: both whole networks run in every step, with hooks.

    python -m benchmarks.stitching [--images 10000] [--steps 4]

Two randomly initialised Tiny10 networks on random images (times do not depend on what they hold). The peers
follow the published code of Csiszárik et al. (NeurIPS 2021): for direct matching every layer takes a pass of
both networks and a least-squares problem on all activations; in training every step runs both networks and
the second once more for its soft targets, one stitch at a time. Contenders take turns, and their stitching
layers must agree.
"""

from __future__ import annotations

import argparse
import datetime
import math
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.table import cpu
from fastcomb import stitching
from fastcomb.models import Tiny10
from fastcomb.stitching.gather import positions
from fastcomb.utils.result import markdown

T = TypeVar("T")

LAYERS = [f"bn{number}" for number in range(1, 9)]
STITCHES = 32
BATCH = 128


class Hooked:
    """Two whole networks; the second goes on from what the first computes at a layer."""

    def __init__(self, a: nn.Module, b: nn.Module, layer: str) -> None:
        self.a, self.b = a, b
        self.transform: nn.Conv2d | None = None
        self._seen: dict[str, Tensor] = {}
        self._handles = [
            a.get_submodule(layer).register_forward_hook(self._save("a")),
            b.get_submodule(layer).register_forward_hook(self._replace),
        ]

    def _save(self, which: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self._seen[which] = output

        return hook

    def _replace(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        self._seen["b"] = output
        return output if self.transform is None else self.transform(self._seen["a"])

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.a(x), self.b(x)
        return self._seen["a"], self._seen["b"]

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.a(x)
        output: Tensor = self.b(x)
        return output

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def hooked_least_squares(a: nn.Module, b: nn.Module, layer: str, x: Tensor, batch: int = 500) -> Tensor:
    """Least squares with a bias on all activations, [channels + 1, channels]."""
    both = Hooked(a, b, layer)
    with torch.no_grad():
        parts = [both.activations(part) for part in x.split(batch)]
    both.close()
    first, second = (
        torch.cat(side).movedim(1, -1).flatten(0, -2).double() for side in zip(*parts, strict=True)
    )
    ones = torch.cat([first, first.new_ones(len(first), 1)], 1)
    solution: Tensor = torch.linalg.lstsq(ones, second, driver="gelsd").solution
    return solution


def hooked_training(
    a: nn.Module, b: nn.Module, layer: str, x: Tensor, start: tuple[Tensor, Tensor], order: list[Tensor]
) -> float:
    """The loss while one stitch is trained by Adam on soft targets of the second network."""
    both = Hooked(a, b, layer)
    weight, bias = start
    transform = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    with torch.no_grad():
        transform.weight.copy_(weight[..., None, None])
        assert transform.bias is not None
        transform.bias.copy_(bias)
    optimiser = torch.optim.Adam(transform.parameters(), lr=1e-3)
    total = 0.0
    for rows in order:
        both.transform = None
        with torch.no_grad():
            soft = b(x[rows]).softmax(1)
        both.transform = transform
        loss = F.cross_entropy(both(x[rows]), soft)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += float(loss.detach())
    both.close()
    return total / len(order)


def measured(call: Callable[[], T]) -> tuple[T, float, int]:
    """What a call returns, its seconds, and by how many bytes the process grew at most meanwhile."""
    done = threading.Event()
    highest = [0]

    def watch() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], resident())

    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    result = call()
    took = time.perf_counter() - began
    done.set()
    watcher.join()
    return result, took, highest[0] - before


def resident() -> int:
    """Bytes of this process in memory, those of mapped files not counted."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) << 10


def direct(a: nn.Module, b: nn.Module, x: Tensor, rounds: int) -> str:
    """Direct matching of all eight layers by least squares."""
    seconds: dict[str, list[float]] = {"fastcomb": [], "hooks": []}
    grew = dict.fromkeys(seconds, 0.0)
    pairs = list(zip(stitching.cuts(a, LAYERS), stitching.cuts(b, LAYERS), strict=True))
    for _ in range(rounds):
        matched, *ours = measured(lambda: stitching.match_all(pairs, x, ["least_squares"], progress=False))
        solutions, *theirs = measured(lambda: [hooked_least_squares(a, b, layer, x) for layer in LAYERS])
        for name, (took, more) in {"fastcomb": ours, "hooks": theirs}.items():
            seconds[name].append(took)
            grew[name] = max(grew[name], more)
        for (cut, _), stitch, solution in zip(pairs, matched, solutions, strict=True):
            weight, bias = stitch["least_squares"].layer.map()
            h = positions(cut.bottom(x[:200]), 1).double()
            expected = h @ solution[:-1] + solution[-1]
            difference = h @ weight.double().T + bias - expected
            assert difference.norm() < 1e-3 * expected.norm()
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [(n, middle[n], f"{grew[n] / 2**20:.0f}", middle["hooks"] / middle[n]) for n in seconds]
    return markdown(["contender", "seconds", "grew by (MiB)", "times faster"], rows)


def training(a: nn.Module, b: nn.Module, x: Tensor, steps: int, rounds: int) -> str:
    """32 stitches of one pair of layers, for every layer."""
    x = x[: steps * BATCH]
    order = list(torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split(BATCH))
    rows = []
    for layer in LAYERS:
        cuts = stitching.cut(a, layer), stitching.cut(b, layer)
        tasks = [stitching.TaskLoss(init="random", seed=seed) for seed in range(STITCHES)]
        fit = partial(stitching.fit, *cuts, x, tasks, progress=False)
        times = []
        for number in range(rounds):
            trained, once, _ = measured(partial(fit, epochs=1))
            _, twice, _ = measured(partial(fit, epochs=2))
            start = tasks[number].start(*cuts, None).map()
            loss, one, _ = measured(partial(hooked_training, a, b, layer, x, start, order))
            times.append((STITCHES * one, once, twice - once))
            # of weights whose gradient is near 0, Adam makes a whole step of the rounding
            assert abs(trained.loss[number, 0] - loss) < 1e-3 * loss
        peer, whole, epoch = (statistics.median(column) for column in zip(*times, strict=True))
        rows.append((layer, 1e3 * peer / steps, 1e3 * epoch / steps, peer / epoch, peer / whole))
        print(*rows[-1], flush=True)
    header = ["layer", "ms per step, one after another", "ms per step, together", "times faster"]
    return markdown([*header, "in the first epoch, with the cache"], rows)


def memory(a: nn.Module, b: nn.Module, x: Tensor) -> str:
    """By how much the process grows while four stitches are trained after bn2, by budget of the cache."""
    cuts = stitching.cut(a, "bn2"), stitching.cut(b, "bn2")
    tasks = [stitching.TaskLoss(init="random", seed=seed) for seed in range(4)]
    stitching.fit(*cuts, x[:BATCH], tasks, epochs=1, progress=False)  # what the libraries take once
    cached = len(x) * cuts[0].width * math.prod(cuts[0].positions) * 4
    rows = []
    for budget in (0, cached // 2, cached):
        call = partial(stitching.fit, *cuts, x, tasks, epochs=1, budget=budget, progress=False)
        rows.append((f"{budget / 2**20:.0f}", f"{cached / 2**20:.0f}", f"{measured(call)[2] / 2**20:.0f}"))
    return markdown(["budget (MiB)", "activations (MiB)", "grew by (MiB)"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Stitching beside hooks in whole networks.")
    parser.add_argument("--images", type=int, default=10_000, help="for direct matching")
    parser.add_argument("--steps", type=int, default=4, help="of training, in an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="measure the memory of training instead")
    options = parser.parse_args()
    torch.manual_seed(0)
    a, b = Tiny10().eval(), Tiny10().eval()
    for parameter in (*a.parameters(), *b.parameters()):
        parameter.requires_grad_(False)
    x = torch.randn(options.images, 3, 32, 32)
    for module in (*a.modules(), *b.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics that fit these images
    a.train()(x[:500]), b.train()(x[:500])
    a.eval(), b.eval()
    print(f"{datetime.date.today()}, {cpu()}, torch {torch.__version__}\n")
    if options.memory:
        print(memory(a, b, x))
        return
    print(f"Least squares for all 8 layers on {options.images:,} images:\n")
    print(direct(a, b, x, options.rounds))
    print(f"\n{STITCHES} stitches of one pair of layers, batches of {BATCH}:\n")
    print(training(a, b, x, options.steps, options.rounds))


if __name__ == "__main__":
    main()
