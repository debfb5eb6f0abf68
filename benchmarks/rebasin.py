"""Weight matching beside the plain algorithm and, where it is installed, another package.

    python -m benchmarks.rebasin [--models resnet18 resnet50] [--rounds 3]

Two randomly initialised networks of a kind are matched. "Plain" is coordinate descent as published (Git
Re-Basin, algorithm 1): groups in random order, every similarity from scratch, sweeps until none improves;
on the groups that fastcomb found. The package rebasin is measured where it can be imported (``pip install
rebasin``). The objective is Σ⟨θ_A, π(θ_B)⟩ over all parameters, evaluated for all in the same way; shown is
what it gains on the unmatched pair. A seed changes the order of visits. Times do not contain the capture of
the network, except the package's. Needs torchvision.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from tqdm import tqdm

import fastcomb as fc
from benchmarks.networks import declare_operators
from benchmarks.table import cpu
from fastcomb.program.cache import captured
from fastcomb.rebasin import Symmetries, symmetries

#: A matching method: networks A and B, and a seed, to the weights of the matched B.
Matcher = Callable[[nn.Module, nn.Module, int], dict[str, Tensor]]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def objective(a: nn.Module, b: dict[str, Tensor]) -> float:
    return sum(float((t * b[name]).sum(dtype=torch.float64)) for name, t in weights_of(a).items())


def plain(groups: Symmetries, a: dict[str, Tensor], b: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """One descent as published, for networks without groups inside units."""
    generator = np.random.default_rng(seed)
    progress = True
    while progress:
        progress = False
        for number in generator.permutation(len(groups.groups)):
            group = groups.groups[number]
            members = [m for m in group.members if m.name in a]
            total = sum(
                (m.units(a[m.name]) @ m.units(b[m.name]).T for m in members), torch.zeros(group.size, 1)
            )
            order = torch.from_numpy(linear_sum_assignment(total.numpy(), maximize=True)[1])
            units = torch.arange(group.size)
            gain = float((total[units, order] - total.diagonal()).sum())
            if gain > 1e-7 * float(total.diagonal().abs().sum()):
                progress = True
                for member in members:
                    b = b | {member.name: member.permute(b[member.name], order)}
    return b


def ours(a: nn.Module, b: nn.Module, seed: int) -> dict[str, Tensor]:
    return weights_of(fc.rebasin.align(a, b, example=torch.zeros(2, 3, 64, 64), seed=seed).model)


def published(a: nn.Module, b: nn.Module, seed: int) -> dict[str, Tensor]:
    groups = symmetries(captured(a, torch.zeros(2, 3, 64, 64)))
    return plain(groups, weights_of(a), weights_of(b), seed)


def package(a: nn.Module, b: nn.Module, seed: int) -> dict[str, Tensor]:
    from rebasin import PermutationCoordinateDescent

    torch.manual_seed(seed)
    matched = copy.deepcopy(b)
    PermutationCoordinateDescent(a, matched, torch.zeros(2, 3, 64, 64)).rebasin()
    return weights_of(matched)


def measure(name: str, rounds: int, contenders: dict[str, Matcher]) -> None:
    import torchvision.models

    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(getattr(torchvision.models, name)(weights=None).eval())
    a, b = networks
    ours(a, b, 0)  # captures
    seconds: dict[str, list[float]] = {key: [] for key in contenders}
    objectives: dict[str, list[float]] = {key: [] for key in contenders}
    for seed in tqdm(range(rounds), desc=name, disable=None):
        for key, matcher in contenders.items():
            began = time.perf_counter()
            matched = matcher(a, b, seed)
            seconds[key].append(time.perf_counter() - began)
            objectives[key].append(objective(a, matched))
    before = objective(a, weights_of(b))
    for key in contenders:
        print(
            f"| {name} | {key} | {statistics.median(seconds[key]):.2f} "
            f"({min(seconds[key]):.2f}–{max(seconds[key]):.2f}) | {objectives[key][0] - before:.1f} | "
            f"{max(objectives[key]) - before:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Weight matching: time and objective.")
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--rounds", type=int, default=3, help="seeds, of which the best counts")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    declare_operators()
    contenders: dict[str, Matcher] = {"fastcomb": ours, "plain algorithm": published}
    if importlib.util.find_spec("rebasin"):
        contenders["rebasin (package)"] = package
    print(f"{datetime.date.today()}, {cpu()}, torch {torch.__version__}, fastcomb {fc.__version__}\n")
    print("| network | method | seconds: median (min–max) | gain, first seed | gain, best seed |")
    print("|---|---|---|---|---|")
    for name in options.models:
        measure(name, options.rounds, contenders)


if __name__ == "__main__":
    main()
