"""The page that mode_combinability.py writes: tables with intervals, pictures, and what follows."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

import fastcomb as fc
from fastcomb.plots import new_figure, save

Results = Mapping[str, Mapping[str, Any]]
MATCHINGS = ("aligned", "aligned by activations", "unaligned")
UNIFORM = "element-wise uniform"
COLOURS = dict(zip(MATCHINGS, ("tab:blue", "tab:green", "tab:red"), strict=True))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % t-interval (NaN for one value)."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return float(x.mean()), float("nan")
    return float(x.mean()), float(scipy.stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)


def shown(values: Sequence[float], percent: bool = False) -> str:
    """Mean ± half the interval's width."""
    mean, half = (100 * v for v in interval(values)) if percent else interval(values)
    digits = 1 if percent else 2 if mean < 10 else 1
    return f"{mean:.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class Found:
    """Numbers of one family, by pair."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self.pairs = len(record["combinations"][MATCHINGS[0]])

    @property
    def worse(self) -> list[float]:
        """Loss of the worse network of each pair."""
        ends = [loss for loss, _ in self.record["ends"]]
        return [max(two) for two in zip(ends[::2], ends[1::2], strict=False)]

    def combinations(self, matching: str, law: str, what: str) -> list[Any]:
        return [pair[law][what] for pair in self.record["combinations"][matching]]

    def near(self, matching: str, law: str, level: int = 0) -> list[float]:
        """Fraction of combinations with a low loss, per pair."""
        return [near[level] for near in self.combinations(matching, law, "near")]

    def barrier(self, matching: str, metric: int) -> list[float]:
        return [line["barrier"][metric] for line in self.record["line"][matching]]

    def calibrated(self, matching: str, which: str, what: int) -> list[float]:
        return [pair[which][what] for pair in self.record["calibrated"][matching]]

    def curve(self, kind: str, metric: str) -> NDArray[np.float64]:
        """[pairs, fractions] of combinations under perturbed matchings."""
        return np.array([pair["curves"][kind][metric] for pair in self.record["robustness"]])


def verdict(fractions: Sequence[float]) -> str:
    """Of the fractions of low-loss combinations of all pairs."""
    if min(fractions) >= 0.95:
        return "holds"
    return "fails" if max(fractions) <= 0.05 else "in part"


def write(results: Results, near: Sequence[float], folder: Path) -> Path:
    """Write report.md and its pictures; returns the page's path."""
    found = {name: Found(record) for name, record in results.items()}
    settings = next(iter(results.values()))["settings"]
    made = f"{datetime.date.today()}, fastcomb {fc.__version__}, torch {torch.__version__}"
    parts = [
        HEAD.format(made=made, **settings),
        "## What holds, and where it fails\n",
        summary(found, near),
        READING.format(near=100 * near[0]),
        "## 1. Combinations have a low loss\n",
        claim_1(found, near),
        picture(widths, found, folder, "laws.png"),
        picture(lines, found, folder, "lines.png"),
        "## Control: softmax temperature\n",
        control(found),
        "## 2. Transitivity\n",
        claim_2(found),
        "## 3. Robustness\n",
        claim_3(found),
        picture(perturbations, found, folder, "robustness.png"),
        "## 4. Functional diversity\n",
        claim_4(found),
        picture(differences, found, folder, "diversity.png"),
        LIMITS,
    ]
    page = folder / "report.md"
    page.write_text("\n".join(parts), "utf-8")
    return page


def summary(found: Mapping[str, Found], near: Sequence[float]) -> str:
    rows = []
    for name, one in found.items():
        alone = verdict(one.near("unaligned", UNIFORM))
        lines = [t["barrier"]["a′–b′"][0] for t in one.record["transitivity"]]
        worst = max(loss for loss, _ in one.record["ends"])
        rows.append(
            [
                name,
                verdict(one.near("aligned", UNIFORM)),
                verdict(one.near("aligned", "vicinity (−¼, 1¼)")),
                {"holds": "no", "in part": "in part", "fails": "yes"}[alone],
                enough(one, near[0]),
                tolerated(lines, near[0] * worst),
                bearable(one, near[0]),
                ratio(one),
            ]
        )
    header = [
        "networks",
        "1 cube",
        "1 vicinity",
        "takes alignment?",
        "temperature enough?",
        "2 transitivity",
        "3 units perturbed at most",
        "4 disagreement (%): combinations / networks",
    ]
    return table(header, rows) + "\n"


def tolerated(barriers: Sequence[float], limit: float) -> str:
    if not barriers:
        return "not tested"
    if max(barriers) <= limit:
        return "holds"
    return "fails" if min(barriers) > limit else "in part"


def enough(one: Found, near: float) -> str:
    """Whether calibrated combinations of unaligned pairs come near the calibrated networks."""
    losses = one.calibrated("unaligned", "combinations", 1)
    limits = [(1 + near) * loss for loss in one.calibrated("unaligned", "networks", 1)]
    fitting = [loss <= limit for loss, limit in zip(losses, limits, strict=True)]
    return "yes" if all(fitting) else "in part" if any(fitting) else "no"


def bearable(one: Found, near: float) -> str:
    """The largest tested fraction of shuffled units up to which the mean loss of combinations is low."""
    low = one.curve("shuffle", "loss").mean(0) <= (1 + near) * np.mean(one.worse)
    fractions = one.record["robustness"][0]["fractions"]
    if not low[0]:
        return "– (1 fails)"
    return f"{100 * fractions[low.argmin() - 1 if not low.all() else -1]:.0f} %"


def ratio(one: Found) -> str:
    pairs = [pair["disagreement"] for pair in one.record["diversity"]]
    text = f"{shown([p[0] for p in pairs], percent=True)} / {shown([p[2] for p in pairs], percent=True)}"
    return f"({text})" if verdict(one.near("aligned", UNIFORM)) == "fails" else text


def claim_1(found: Mapping[str, Found], near: Sequence[float]) -> str:
    text = []
    laws = list(next(iter(found.values())).record["combinations"]["aligned"][0])
    for matching in ("aligned", "unaligned"):
        rows = [
            [name, shown(one.worse), *(shown(one.combinations(matching, law, "loss")) for law in laws)]
            for name, one in found.items()
        ]
        text.append(f"Mean loss of combinations, **{matching}** pairs:\n")
        text.append(table(["networks", "worse network", *laws], rows) + "\n")
    for level, more in enumerate(near):
        rows = [
            [
                name,
                *(
                    shown(one.near(matching, law, level), percent=True)
                    for matching, law in (("aligned", UNIFORM), ("aligned", laws[-1]), ("unaligned", UNIFORM))
                ),
            ]
            for name, one in found.items()
        ]
        text.append(f"Combinations (%) whose loss is at most {1 + more:g} × the worse network's:\n")
        header = ["networks", "aligned, cube", "aligned, vicinity", "unaligned, cube"]
        text.append(table(header, rows) + "\n")
    rows = [
        [
            name,
            *(shown(one.barrier(matching, 0)) for matching in MATCHINGS),
            *(shown(one.barrier(matching, 1), percent=True) for matching in MATCHINGS),
            *(shown(one.combinations(matching, UNIFORM, "accuracy"), percent=True) for matching in MATCHINGS),
        ]
        for name, one in found.items()
    ]
    short = ("weights", "activations", "unaligned")
    columns = ("loss barrier", "accuracy barrier (points)", "accuracy in the cube (%)")
    header = ["networks", *(f"{column}: {matching}" for column in columns for matching in short)]
    text.append("The line between the networks, and which matching:\n")
    text.append(table(header, rows) + "\n")
    return "\n".join(text)


def control(found: Mapping[str, Found]) -> str:
    rows = [
        [
            name,
            shown(one.calibrated("aligned", "networks", 1)),
            *(
                shown(one.calibrated(matching, "combinations", what))
                for matching in ("aligned", "unaligned")
                for what in (0, 1)
            ),
            shown(one.calibrated("unaligned", "combinations", 2)),
        ]
        for name, one in found.items()
    ]
    header = [
        "networks",
        "networks, calibrated",
        "aligned",
        "aligned, calibrated",
        "unaligned",
        "unaligned, calibrated",
        "temperature (unaligned)",
    ]
    return CONTROL + table(header, rows) + "\n"


def claim_2(found: Mapping[str, Found]) -> str:
    rows = []
    for name, one in found.items():
        triples = one.record["transitivity"]
        if triples:
            lines = [shown([t["barrier"][pair][0] for t in triples]) for pair in triples[0]["barrier"]]
            agreement = shown([t["agreement"] for t in triples], percent=True)
            triangle = shown([t["triangle"][0] for t in triples])
            rows.append([name, *lines, agreement, triangle])
    if not rows:
        return "No family has three networks.\n"
    pairs = next(t for one in found.values() for t in one.record["transitivity"])["barrier"]
    header = ["networks", *pairs, "units matched alike (%)", "loss in the triangle"]
    return TRANSITIVITY + table(header, rows) + "\n"


def claim_3(found: Mapping[str, Found]) -> str:
    rows = []
    for name, one in found.items():
        fractions = one.record["robustness"][0]["fractions"]
        for kind in one.record["robustness"][0]["curves"]:
            curve = one.curve(kind, "loss")
            rows.append([name, kind, *(shown(curve[:, i].tolist()) for i in range(len(fractions)))])
    header = ["networks", "perturbation", *(f"{100 * f:g} %" for f in fractions)]
    return ROBUSTNESS + table(header, rows) + "\n"


def claim_4(found: Mapping[str, Found]) -> str:
    measures = {
        "disagreement": True,
        "Jensen–Shannon divergence (nats)": False,
        "error correlation": False,
        "ensemble gain in accuracy": True,
    }
    rows = []
    for name, one in found.items():
        pairs = one.record["diversity"]
        cells = [
            shown([pair[measure][part] for pair in pairs], percent)
            for measure, percent in measures.items()
            for part in (0, 2)
        ]
        rows.append([name, *cells, shown([p["joint gain in accuracy"][0] for p in pairs], percent=True)])
    header = ["networks"]
    for label in ("disagreement (%)", "JSD (nats)", "error correlation", "ensemble gain (points)"):
        header += [f"{label}: combinations", "networks"]
    text = DIVERSITY + table([*header, "gain of all combinations"], rows) + "\n"
    rows = []
    for name, one in found.items():
        pairs = one.record["diversity"]
        layers = [label for label in pairs[0] if label.startswith("CKA")]
        distances = [pair["weight distance (L2)"] for pair in pairs]
        rows.append(
            [
                name,
                *(shown([d[part] / d[2] for d in distances]) for part in (0, 1)),
                *(shown([pair["cosine of weights"][part] for pair in pairs]) for part in (0, 2)),
                ", ".join(label.removeprefix("CKA of ") for label in layers),
                *(
                    ", ".join(f"{np.mean([pair[label][part] for pair in pairs]):.3f}" for label in layers)
                    for part in (0, 2)
                ),
            ]
        )
    header = ["networks", "distance: combinations", "of a network", "cosine: combinations", "networks"]
    header += ["layers", "CKA: combinations", "networks"]
    return text + REPRESENTATIONS + table(header, rows) + "\n"


def picture(
    draw: Callable[[Mapping[str, Found], Path], Path], found: Mapping[str, Found], folder: Path, name: str
) -> str:
    path = draw(found, folder / name)
    return f"![{(draw.__doc__ or '').strip()}]({path.name})\n"


def logarithmic(axis: Any) -> None:
    """A logarithmic loss axis with plain numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def same_height(axes: Sequence[Any]) -> None:
    """Give axes one range."""
    low, high = zip(*(axis.get_ylim() for axis in axes), strict=True)
    for axis in axes:
        axis.set_ylim(min(low), max(high))


def widths(found: Mapping[str, Found], path: Path) -> Path:
    """Mean loss of combinations by family and law, aligned and unaligned"""
    figure, axes = new_figure(2)
    laws = list(next(iter(found.values())).record["combinations"]["aligned"][0])
    at = np.arange(len(found))
    for axis, matching in zip(axes[0], ("aligned", "unaligned"), strict=True):
        for number, law in enumerate(laws):
            means, halves = zip(
                *(interval(one.combinations(matching, law, "loss")) for one in found.values()), strict=True
            )
            beside = at + 0.14 * (number - (len(laws) - 1) / 2)
            axis.errorbar(beside, means, np.nan_to_num(halves), fmt=".", capsize=3, label=law)
        worse = [interval(one.worse)[0] for one in found.values()]
        axis.hlines(worse, at - 0.4, at + 0.4, color="black", linewidth=1, label="worse network")
        logarithmic(axis)
        axis.set_xticks(at, list(found), rotation=30, ha="right")
        axis.set_title(f"{matching} pairs")
        axis.set_ylabel("mean loss of combinations (log scale)")
    same_height(axes[0])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    figure.suptitle("Do combinations have a low loss? Mean over pairs, 95 % intervals")
    return save(figure, path)


def lines(found: Mapping[str, Found], path: Path) -> Path:
    """Loss on the line between the networks of each pair"""
    columns = min(3, len(found))
    figure, axes = new_figure(columns, -(-len(found) // columns))
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for axis, (name, one) in zip(axes.flat, found.items(), strict=False):
        for matching in MATCHINGS:
            for number, line in enumerate(one.record["line"][matching]):
                label = None if number else matching
                axis.plot(line["t"], line["loss"], color=COLOURS[matching], alpha=0.7, label=label)
        axis.set_title(name)
        axis.set_xlabel("t: from the first network (0) to the second (1)")
        axis.set_ylabel("loss")
        axis.set_ylim(bottom=0)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    figure.suptitle("Is there a barrier on the line? One curve per pair")
    return save(figure, path)


def perturbations(found: Mapping[str, Found], path: Path) -> Path:
    """Loss of combinations against the fraction of perturbed units"""
    kinds = list(next(iter(found.values())).record["robustness"][0]["curves"])
    figure, axes = new_figure(len(kinds))
    for axis, kind in zip(axes[0], kinds, strict=True):
        for name, one in found.items():
            curve = one.curve(kind, "loss") / np.array(one.worse)[: one.pairs, None]
            means, halves = zip(*(interval(column.tolist()) for column in curve.T), strict=True)
            fractions = 100 * np.array(one.record["robustness"][0]["fractions"])
            axis.errorbar(fractions, means, np.nan_to_num(halves), marker=".", capsize=3, label=name)
        axis.axhline(1, color="black", linestyle=":", linewidth=1)
        logarithmic(axis)
        axis.set_title(kind)
        axis.set_xlabel("units perturbed (%)")
        axis.set_ylabel("mean loss / the worse network's (log scale)")
    same_height(axes[0])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    figure.suptitle("Do combinations survive perturbed matchings? Mean over pairs, 95 % intervals")
    return save(figure, path)


def differences(found: Mapping[str, Found], path: Path) -> Path:
    """How much combinations differ, beside how much the networks differ"""
    figure, axes = new_figure(2)
    at = np.arange(len(found))
    for axis, measure in zip(axes[0], ("disagreement", "Jensen–Shannon divergence (nats)"), strict=True):
        for shift, (part, label) in zip(
            (-0.2, 0, 0.2),
            ((0, "two combinations"), (1, "combination and network"), (2, "the two networks")),
            strict=True,
        ):
            means, halves = zip(
                *(interval([p[measure][part] for p in one.record["diversity"]]) for one in found.values()),
                strict=True,
            )
            axis.bar(at + shift, means, 0.2, yerr=np.nan_to_num(halves), capsize=3, label=label)
        axis.set_xticks(at, list(found), rotation=30, ha="right")
        axis.set_ylabel(measure + (" (fraction of samples)" if measure == "disagreement" else ""))
        axis.set_ylim(bottom=0)
    axes[0, 0].legend(frameon=False)
    figure.suptitle("Are combinations different networks? Aligned pairs, mean over pairs, 95 % intervals")
    return save(figure, path)


HEAD = """# Mode combinability: which claims hold?

Two networks θ_A and θ_B were trained alike from different seeds; combinations are θ(Λ) = θ_A + Λ ⊙ (θ_B
− θ_A). The four claims are those of Csiszárik et al., arXiv 2308.11511; the paper's own settings are not
reproduced here, only its claims tested. Alignment is weight matching unless said otherwise. MLPs
784-w-w-10 are trained on 4,000 real MNIST digits (Adam, 30 epochs) and evaluated on 700 others; CIFAR-10
networks on {images} test images, with running statistics collected anew for every combination on 500
training images.

The unit of replication is the pair: pairs share no network, and **intervals are 95 % t-intervals over
pairs** (none for a single pair). For each pair there are {combinations} combinations per law and
matching, {points} points on each line, and per kind and strength of perturbation {repeats} × {perturbed}
combinations. Made by examples/mode_combinability.py on {made}.
"""

READING = """
How to read it. A loss is *low* if it is at most {near:.0f} % above the worse of the two networks'; that
limit is a convention, and the tables below have the numbers behind it. Claim 1 *holds* if at least 95 %
of the combinations of every pair are low, *fails* if at most 5 % of every pair's are, in the cube
(element-wise uniform) or its vicinity (uniform on (−¼, 1¼)). It *takes alignment* if claim 1 fails for
the unaligned pairs; *temperature is enough* if combinations of unaligned pairs, each calibrated, have a
low mean loss beside the calibrated networks. Claim 2 holds if on the line between two networks aligned to
a third the barrier stays within the same limit in every triple. Claim 3 is given as the largest tested
fraction of units in each layer that may be shuffled while the mean loss of combinations stays low. Claim
4 sets the disagreement of two combinations beside that of the two networks: in brackets where
combinations do not work, since broken networks disagree too.
"""

CONTROL = """\
Wide networks may be connected without alignment once their softmax temperature is calibrated (arXiv
2510.08023), so that a low loss of combinations need not speak for the matching. The temperature of each
combination (element-wise uniform) and network is fitted on 300 held-out samples; losses are those on the
test samples.

"""

TRANSITIVITY = """\
a′ and b′ are two networks, each aligned to a third, the reference. Loss barriers on five lines; how many
units the direct matching of b to a and the one through the reference pair alike; and the mean loss in
the triangle of a′, b′ and the reference (Dirichlet(1) weights per element).

"""

ROBUSTNESS = """\
Mean loss of combinations (element-wise uniform) after a part of each layer's units was matched
otherwise: *swap* exchanges pairs, *shuffle* permutes at random, *partial* takes units back to where they
were before the alignment.

"""

DIVERSITY = """\
Two combinations (element-wise uniform, aligned pair) beside the two networks. *Ensemble gain* is the
accuracy of the two's averaged probabilities minus their mean accuracy; the last column is that of all
combinations together.

"""

REPRESENTATIONS = """
In weights and representations: the mean distance of two combinations, and of a combination from a
network, in units of the distance between the networks; cosines of weights; and linear CKA of layers.

"""

LIMITS = """## What this cannot say

Pairs are few, and all are evaluated on the same samples, so intervals cover the choice of networks and
not that of the data. t-intervals over two triples or three pairs take normality for granted, and those
over two are wide for that reason alone. The MLPs see few digits
and are evaluated on digits of the same source; the CIFAR-10 images may have passed through JPEG
compression, which lowers all accuracies. Matchings are local optima of their objectives: where a claim
fails, another matching might do better.
"""
