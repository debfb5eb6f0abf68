"""The page that frankenstein.py writes: our numbers beside the published ones, pictures, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from report import table
from stitch_pictures import course, inits, layers, lines, ranks, sparsity, widths

Found = Mapping[str, Any]

#: Published relative accuracies (Csiszárik et al., NeurIPS 2021); those with "≈" are read off plots.
TINY10_LEAST_SQUARES = (1.0, 0.86, 0.85, 0.87, 0.87, 0.94, 0.96, 0.985)
TINY10_TASK_LOSS = "≈ .95–1.0"
RANKS: Mapping[str, Mapping[str, Mapping[int | str, float]]] = {
    "bn2": {"task loss": {4: 0.70, 8: 0.88, 16: 0.92}, "reduced rank": {4: 0.36, 8: 0.70, 16: 0.78}},
    "bn6": {
        "task loss": {4: 0.80, 8: 0.90, 16: 0.95, "full": 0.98},
        "reduced rank": {4: 0.30, 8: 0.54, 16: 0.83, "full": 0.93},
    },
}
PROCRUSTES = {"bn2": 0.57, "bn6": 0.93}
SPARSITY = {
    "direct": ((0, 0.946), (0.565, 0.834), (0.798, 0.636), (0.974, 0.116)),
    "task loss": ((0, 0.977), (0.449, 0.961), (0.837, 0.917), (0.968, 0.774)),
}
BASES = {"Tiny10": "86.55", "ResNet20": "91.95"}


def write(results: Found, folder: Path, seconds: float) -> Path:
    """Write report.md and its pictures; returns the page's path."""
    parts = [
        HEAD.format(made=results["made"], seconds=seconds, minutes=seconds / 60, **results["settings"]),
        "## What comes out\n",
        verdicts(results),
        "## The networks\n",
        bases(results),
        "## 1. Which maps work, layer by layer\n",
        by_layer(results),
        picture(layers, results, folder, "layers.png"),
        "## 2. Width\n",
        by_width(results),
        picture(widths, results, folder, "widths.png"),
        "## 3. What similarity indices say while a stitch is trained\n",
        by_epoch(results),
        picture(course, results, folder, "course.png"),
        "## 4. A representation can be driven away\n",
        penalised(results),
        "## Low rank\n",
        by_rank(results),
        picture(ranks, results, folder, "ranks.png"),
        "## 5. Where training starts\n",
        by_init(results),
        picture(inits, results, folder, "inits.png"),
        "## 6. Combinations of stitches\n",
        by_line(results),
        picture(lines, results, folder, "lines.png"),
        "## 7. Sparsity\n",
        by_sparsity(results),
        picture(sparsity, results, folder, "sparsity.png"),
        LIMITS,
    ]
    page = folder / "report.md"
    page.write_text("\n".join(parts), "utf-8")
    return page


def mean(results: Found, layer: str, method: str, column: int = 0, family: str = "tiny10") -> float:
    """Over the pairs, at a layer: relative accuracy, its standard error, or cross-entropy."""
    values = [scores[layer][method][column] for scores in results[family]["scores"]]
    if column == 1:  # of the mean of independent pairs
        return float(np.sqrt(np.square(values).sum()) / len(values))
    return float(np.mean(values))


def verdicts(results: Found) -> str:
    """The paper's findings, each checked on our numbers within two standard errors."""
    names = results["tiny10"]["layers"]
    gains = [
        (
            mean(results, n, "task loss") - mean(results, n, "least_squares"),
            2 * np.hypot(mean(results, n, "task loss", 1), mean(results, n, "least_squares", 1)),
        )
        for n in names
    ]
    below = [n for n, (gain, slack) in zip(names, gains, strict=True) if gain < -slack]
    weighted = [mean(results, n, "weighted") - mean(results, n, "least_squares") for n in names]
    steps = results["course"]
    curves = [np.array(results["sparsity"][kind]).T for kind in SPARSITY]
    sparse = [float(np.interp(0.8, zeros, values)) for zeros, values, _ in curves]
    falling = monotone([[(v, e) for _, v, e in results["sparsity"][kind][::-1]] for kind in SPARSITY])
    rows = [
        (
            "task-loss matching is at least as good as direct matching at every layer",
            "holds" if not below else f"not at {', '.join(below)}",
            f"better by {min(g for g, _ in gains):.3f} to {max(g for g, _ in gains):.3f}",
        ),
        (
            "activation-weighted least squares is better than plain",
            "holds" if min(weighted) > -0.01 and max(weighted) > 0.02 else "in part",
            f"by {min(weighted):+.3f} to {max(weighted):+.3f}",
        ),
        (
            "accuracy rises with the rank",
            monotone([_curve(results, layer, k) for layer in results["ranks"] for k in ("task", "reduced")]),
            "both ways of matching",
        ),
        (
            "accuracy falls the more entries are 0, and less so by task loss",
            "holds" if sparse[1] > sparse[0] and falling == "holds" else f"in part ({falling})",
            f"with 80 % zeros {sparse[0]:.3f} direct, {sparse[1]:.3f} by task loss",
        ),
        (
            "CKA and R² fall while a stitch gets better, CCA does not change",
            "holds"
            if steps[-1]["CKA"] < steps[0]["CKA"]
            and steps[-1]["R²"] < steps[0]["R²"]
            and steps[-1]["cross-entropy"] < steps[0]["cross-entropy"]
            else "in part",
            f"CKA {steps[0]['CKA']:.3f} → {steps[-1]['CKA']:.3f}, cross-entropy "
            f"{steps[0]['cross-entropy']:.3f} → {steps[-1]['cross-entropy']:.3f}",
        ),
        (
            "CKA below 0.7 without loss of accuracy is possible",
            "holds"
            if any(
                r["CKA"] < 0.7 and r["relative accuracy"] > 0.99 - 2 * r["error"] for r in results["apart"]
            )
            else "not reached",
            ", ".join(f"{r['CKA']:.2f}: {r['relative accuracy']:.3f}" for r in results["apart"]),
        ),
    ]
    return table(["finding", "here", "by how much"], rows) + "\n" + READING


def monotone(curves: Sequence[Sequence[tuple[float, float]]]) -> str:
    """Whether curves rise, but for steps down within two standard errors."""
    falls = [
        one[0] - other[0] > 2 * np.hypot(one[1], other[1])
        for curve in curves
        for one, other in pairwise(curve)
    ]
    return "holds" if not any(falls) else f"in part ({sum(falls)} of {len(falls)} steps fall)"


def _curve(results: Found, layer: str, kind: str) -> list[tuple[float, float]]:
    scores = results["ranks"][layer]
    chosen = [r for r in results["settings"]["ranks"] if f"task loss {r}" in scores]
    names = (
        [*(f"task loss {r}" for r in chosen), "task loss full"]
        if kind == "task"
        else [*(f"reduced_rank(rank={r})" if r > 1 else "reduced_rank" for r in chosen), "least_squares"]
    )
    return [(scores[name][0], scores[name][1]) for name in names]


def bases(results: Found) -> str:
    rows = [
        [name, str(len(values)), f"{100 * min(values):.1f}–{100 * max(values):.1f}", BASES[name]]
        for name, values in results["accuracies"].items()
    ]
    return table(["networks", "number", "accuracy here (%)", "published (%)"], rows) + "\n" + JPEG


def by_layer(results: Found) -> str:
    methods = ["least_squares", "weighted", "procrustes", "permutation", "identity", "task loss"]
    rows = []
    for number, name in enumerate(results["tiny10"]["layers"]):
        cells = [
            f"{mean(results, name, method):.3f} ± {2 * mean(results, name, method, 1):.3f}"
            for method in methods
        ]
        rows.append([name, *cells[:1], f"{TINY10_LEAST_SQUARES[number]:g}", *cells[1:], TINY10_TASK_LOSS])
    header = ["Tiny10", "least squares", "published (≈)", "weighted", "Procrustes", "permutation", "identity"]
    text = table([*header, "task loss", "published"], rows) + "\n\n"
    rows = []
    for name in results["resnet20"]["layers"]:
        rows.append([name, *(f"{mean(results, name, m, family='resnet20'):.3f}" for m in methods)])
    header = ["ResNet20", "least squares", "weighted", "Procrustes", "permutation", "identity", "task loss"]
    text += table(header, rows) + "\n" + RESNET20
    rows = []
    for name in results["tiny10"]["layers"]:
        values = [pair[name] for pair in results["tiny10"]["similarity"]]
        cells = [f"{np.mean([v[index] for v in values]):.3f}" for index in values[0]]
        rows.append([name, *cells, f"{mean(results, name, 'task loss'):.3f}"])
    return text + INDICES + table(["Tiny10", "CKA", "R²", "CCA", "task loss"], rows) + "\n"


def by_width(results: Found) -> str:
    kinds = [key for key in results["width"][0] if key != "width"]
    rows = [
        [str(row["width"]), *(f"{np.mean(row[k]):.3f} ({min(row[k]):.3f}–{max(row[k]):.3f})" for k in kinds)]
        for row in results["width"]
    ]
    return WIDTH + table(["width", *kinds], rows) + "\n"


def by_epoch(results: Found) -> str:
    columns = ["CKA", "R²", "CCA", "cross-entropy", "relative accuracy"]
    rows = [
        [str(epoch), *(f"{row[c]:.3f}" for c in columns)]
        for epoch, row in enumerate(results["course"])
        if epoch in (0, 1, 2, 5) or epoch == len(results["course"]) - 1
    ]
    return COURSE + table(["epoch", *columns], rows) + "\n"


def penalised(results: Found) -> str:
    rows = [
        [f"{r['penalty']:g}", f"{r['CKA']:.3f}", f"{r['relative accuracy']:.3f} ± {2 * r['error']:.3f}"]
        for r in results["apart"]
    ]
    return APART + table(["weight of the penalty", "CKA with itself", "relative accuracy"], rows) + "\n"


def by_rank(results: Found) -> str:
    rows = []
    for layer, scores in results["ranks"].items():
        published = RANKS[layer]
        chosen = [r for r in results["settings"]["ranks"] if f"task loss {r}" in scores]
        ours = {
            "task loss": _curve(results, layer, "task"),
            "reduced rank": _curve(results, layer, "reduced"),
        }
        for kind, curve in ours.items():
            cells = []
            for rank, (value, error) in zip((*chosen, "full"), curve, strict=True):
                theirs = published[kind].get(rank)
                cells.append(f"{value:.3f} ± {2 * error:.3f}" + (f" (≈ {theirs:g})" if theirs else ""))
            rows.append([layer, kind, *cells])
        value, error, _ = scores["procrustes"]
        last = f"{value:.3f} ± {2 * error:.3f} (≈ {PROCRUSTES[layer]:g})"
        rows.append([layer, "Procrustes", *[""] * len(chosen), last])
    header = ["layer", "matching", *(f"rank {r}" for r in chosen), "full"]
    return RANK + table(header, rows) + "\n"


def by_init(results: Found) -> str:
    rows = [
        [kind, str(len(v)), f"{np.mean(v):.3f}", f"{min(v):.3f}", f"{np.median(v):.3f}", f"{max(v):.3f}"]
        for kind, v in results["inits"].items()
    ]
    return INIT + table(["start", "stitches", "mean", "lowest", "median", "highest"], rows) + "\n"


def by_line(results: Found) -> str:
    rows = []
    for name, line in results["tiny10"]["lines"].items():
        ends = [line["accuracy"][0], line["accuracy"][-1]]
        rows.append(
            [
                name,
                f"{ends[0]:.3f}, {ends[1]:.3f}",
                f"{min(line['accuracy']):.3f}",
                f"{min(line['accuracy']) - min(ends):+.3f}",
                f"{np.mean(line['cube']):.3f}",
            ]
        )
    header = ["layer", "the two stitches", "lowest on the line", "below the worse", "element-wise, mean"]
    return LINE + table(header, rows) + "\n"


def by_sparsity(results: Found) -> str:
    rows = []
    for kind, published in SPARSITY.items():
        ours = [f"{z:.2f} → {value:.3f} ± {2 * error:.3f}" for z, value, error in results["sparsity"][kind]]
        theirs = ", ".join(f"{z:g} → {value:.3f}" for z, value in published)
        rows.append([kind, ", ".join(ours), theirs])
    return SPARSE + table(["matching", "here: zeros → relative accuracy", "published"], rows) + "\n"


def picture(draw: Callable[[Found, Path], Path], results: Found, folder: Path, name: str) -> str:
    path = draw(results, folder / name)
    return f"![{(draw.__doc__ or '').strip()}]({path.name})\n"


HEAD = """# Stitching: which maps match the representations of two networks?

A stitched network is the bottom of network 1 up to a layer, one affine *stitching layer* that acts on every
position alike, and the top of network 2 from that layer on. *Direct* matching computes the layer from both
networks' activations; *task-loss* matching trains it, and nothing else, so that the stitched network predicts
what network 2 does. The experiments are those of Csiszárik et al., "Similarity and Matching of Neural Network
Representations" (NeurIPS 2021), on networks that its authors trained.

Everything is relative: the accuracy of the stitched network divided by that of network 2 on the same
images. **±** is two standard errors over the choice of test images (both networks judged on the same
ones; where several pairs are averaged, pairs as independent). It does not cover the choice of networks.
Made by examples/frankenstein.py, {made}, fastcomb {fastcomb}, torch {torch}, in {minutes:.1f} minutes:
{train} training images for matching and training stitches ({resnet20_train} for ResNet20), {test} test
images, {pairs} pairs of Tiny10 and one of ResNet20; {epochs[0]} epochs of training ({epochs[1]} for
ResNet20, {epochs[2]} with L1 penalties), where the paper has 30 (200) on 50,000 images. Learning rates are
1e-3, and 1e-2 from random maps, which have far to go in so few steps.
"""

READING = """
Each finding is checked on the numbers below, within two standard errors.
"""

JPEG = """
The images here are JPEG files of CIFAR-10. Networks that were trained on the original pixels lose about
six points on them, so absolute accuracies are below the published ones, and differ for that reason alone;
stitches are compared with network 2 on the same images, which loses as much.
"""

RESNET20 = """
Published for ResNet20 (read off a plot): task loss ≈ .98–.99 at every block and ≈ .82 at the first
convolution; least squares ≈ .52 at the first convolution, then between .59 and .97. Stitches of ResNet20
are trained on few images for few epochs here, so its task-loss column is a lower bound.
"""

INDICES = """
What similarity indices say of the same layers. A layer may be matched well where they are low:

"""

WIDTH = """The paper's networks are ResNet20s of width 1 to 4, of which only width 1 is at hand. These are
MLPs 784-w-w-10 on digits; the published finding is that wider networks are matched better at every layer.
Means (lowest–highest pair) of relative accuracy:

"""

COURSE = """A stitch at bn3, trained from least squares. The published finding: similarity falls while the
stitched network gets better. CCA is invariant to the stitching layer as long as that is invertible.

"""

APART = """Network 1 stitched to itself at bn5 from the identity, trained with a penalty on the CKA between
the stitched and the original representation. The published finding: CKA can be driven below 0.7 with
accuracy unchanged.

"""

RANK = """Relative accuracy by rank; in brackets published, read off a plot.

"""

INIT = """Trained at bn5 from random maps, and from least squares on different samples of 200 images. The
published finding: the two end alike, and random starts have low outliers.

"""

LINE = """Accuracy relative to network 2 on the line M_λ = λM₁ + (1 − λ)M₂ between two stitches that were
trained from different random maps (pair 1), and of combinations with one coefficient per entry. The
published finding: connected at most layers, not at the first three.

"""

SPARSE = """At bn6. Direct: the lasso's path. Task loss: L1 penalties of growing weight.

"""

LIMITS = """## Limits

Few pairs of networks, one data set, and intervals that do not cover the choice of networks. Task-loss
matching can flatter: it may reach its accuracy through activations that network 2 never produces (Balogh
and Jelasity, "How not to Stitch Representations to Measure Similarity", AAAI 2025), which is why direct
matching stands beside it everywhere. """
