"""The page that mode_combinability.py writes: tables with intervals, pictures, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claim_pictures import differences, lines, perturbations, widths
from found import MATCHINGS, NEAR, UNIFORM, Found, Results, interval


def shown(values: Sequence[float], percent: bool = False) -> str:
    """Mean ± half the interval's width."""
    mean, half = (100 * v for v in interval(values)) if percent else interval(values)
    digits = 1 if percent else 3 if abs(mean) < 0.1 else 2 if mean < 10 else 1
    mean = round(mean, digits) + 0.0  # no negative zero
    return f"{mean:.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def ranged(values: Sequence[float]) -> str:
    """Mean, lowest and highest in per cent, for fractions that reach 0 or 1."""
    low, high = 100 * min(values), 100 * max(values)
    return f"{100 * np.mean(values):.1f} ({low:.1f}–{high:.1f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(fractions: Sequence[float]) -> str:
    """Of the fractions of low-loss combinations of all pairs."""
    if min(fractions) >= 0.95:
        return "holds"
    return "fails" if max(fractions) <= 0.05 else "in part"


def write(results: Results, folder: Path) -> Path:
    """Write report.md and its pictures; returns the page's path."""
    families = {name: Found(record) for name, record in results.items()}
    settings = next(iter(results.values()))["settings"]
    days = sorted({record["made"] for record in results.values()})
    made = " to ".join(dict.fromkeys([days[0], days[-1]]))
    parts = [
        HEAD.format(made=made, **settings),
        "## What holds, and where it fails\n",
        summary(families),
        READING.format(near=100 * NEAR[0]),
        "## 1. Combinations have a low loss\n",
        CLAIM_1,
        claim_1(families),
        picture(widths, families, folder, "laws.png"),
        picture(lines, families, folder, "lines.png"),
        "## Control: softmax temperature\n",
        control(families),
        "## 2. Transitivity\n",
        claim_2(families),
        "## 3. Robustness\n",
        claim_3(families),
        picture(perturbations, families, folder, "robustness.png"),
        "## 4. Functional diversity\n",
        claim_4(families),
        picture(differences, families, folder, "diversity.png"),
        LIMITS,
    ]
    page = folder / "report.md"
    page.write_text("\n".join(parts), "utf-8")
    return page


def summary(families: Mapping[str, Found]) -> str:
    rows = []
    for name, one in families.items():
        triples = one.record["transitivity"]
        rows.append(
            [
                name,
                f"{one.pairs}, {len(triples)}",
                verdict(one.near("aligned", UNIFORM)),
                verdict(one.near("aligned", "vicinity (−¼, 1¼)")),
                verdict(one.near("unaligned", UNIFORM)),
                *(shown(one.lost(matching), percent=True) for matching in ("aligned", "unaligned")),
                " / ".join(enough(one, which, NEAR[0]) for which in ("combinations", "midpoint")),
                " / ".join(low_line(triples, line, NEAR[0]) for line in ("a′–b′", "a–b unaligned")),
                bearable(one, NEAR[0]),
                ratio(one),
            ]
        )
    header = [
        "networks",
        "pairs, triples",
        "1 cube",
        "1 vicinity",
        "cube, unaligned",
        "accuracy lost in the cube (points): aligned",
        "unaligned",
        "temperature enough: cube / midpoint",
        "2 transitivity / unaligned",
        "3 units perturbed",
        "4 disagreement (%): combinations / networks",
    ]
    return table(header, rows) + "\n"


def low_line(triples: Sequence[Mapping[str, Any]], line: str, near: float) -> str:
    """Whether the loss stays low all along a line of each triple."""
    if not triples:
        return "not tested"
    low = [triple["highest"][line] <= (1 + near) * triple["worse"] for triple in triples]
    return "holds" if all(low) else "in part" if any(low) else "fails"


def enough(one: Found, which: str, near: float) -> str:
    """Whether calibrated combinations or midpoints of unaligned pairs come near the calibrated networks."""
    losses = one.calibrated("unaligned", which, 1)
    limits = [(1 + near) * loss for loss in one.calibrated("unaligned", "networks", 1)]
    fitting = [loss <= limit for loss, limit in zip(losses, limits, strict=True)]
    return "yes" if all(fitting) else "in part" if any(fitting) else "no"


def bearable(one: Found, near: float) -> str:
    """Up to which tested fraction every kind of perturbation leaves the mean loss of every pair low."""
    kinds = one.record["robustness"][0]["curves"]
    limits = (1 + near) * np.array(one.worse)[: one.pairs, None]
    low = np.all([(one.curve(kind, "loss") <= limits).all(0) for kind in kinds], axis=0)
    percent = [f"{100 * fraction:g} %" for fraction in one.record["robustness"][0]["fractions"]]
    if low.all():
        return "all"
    first = int(low.argmin())
    return f"low at {percent[first - 1]}, not at {percent[first]}" if first else "– (not low at 0 %)"


def ratio(one: Found) -> str:
    pairs = [pair["disagreement"] for pair in one.record["diversity"]]
    text = f"{shown([p[0] for p in pairs], percent=True)} / {shown([p[2] for p in pairs], percent=True)}"
    return f"({text})" if verdict(one.near("aligned", UNIFORM)) == "fails" else text


def claim_1(families: Mapping[str, Found]) -> str:
    text = []
    laws = list(next(iter(families.values())).record["combinations"]["aligned"][0])
    for matching in ("aligned", "unaligned"):
        rows = [
            [name, shown(one.worse), *(shown(one.combinations(matching, law, "loss")) for law in laws)]
            for name, one in families.items()
        ]
        text.append(f"Mean loss of combinations, **{matching}** pairs:\n")
        text.append(table(["networks", "worse network", *laws], rows) + "\n")
    for level, more in enumerate(NEAR):
        rows = [
            [
                name,
                *(
                    ranged(one.near(matching, law, level))
                    for matching, law in (("aligned", UNIFORM), ("aligned", laws[-1]), ("unaligned", UNIFORM))
                ),
            ]
            for name, one in families.items()
        ]
        text.append(
            f"Combinations (%) whose loss is at most {1 + more:g} × the worse network's, mean over pairs "
            "(lowest–highest pair):\n"
        )
        header = ["networks", "aligned, cube", "aligned, vicinity", "unaligned, cube"]
        text.append(table(header, rows) + "\n")
    rows = [
        [
            name,
            *(shown(one.barrier(matching, 0)) for matching in MATCHINGS),
            *(shown(one.barrier(matching, 1), percent=True) for matching in MATCHINGS),
            *(shown(one.combinations(matching, UNIFORM, "accuracy"), percent=True) for matching in MATCHINGS),
            shown([accuracy for _, accuracy in one.record["ends"]], percent=True),
        ]
        for name, one in families.items()
    ]
    short = ("weights", "activations", "unaligned")
    columns = ("loss barrier", "accuracy barrier (points)", "accuracy in the cube (%)")
    header = ["networks", *(f"{column}: {matching}" for column in columns for matching in short)]
    header.append("the networks' accuracy (%)")
    text.append("The line between the networks, and which matching:\n")
    text.append(table(header, rows) + "\n")
    return "\n".join(text)


def control(families: Mapping[str, Found]) -> str:
    rows = [
        [
            name,
            *(shown(one.calibrated("aligned", "networks", what)) for what in (0, 1)),
            *(
                shown(one.calibrated(matching, which, what))
                for which in ("combinations", "midpoint")
                for matching in ("aligned", "unaligned")
                for what in (0, 1)
            ),
        ]
        for name, one in families.items()
    ]
    header = [
        "networks",
        "worse network",
        "calibrated",
        "cube, aligned",
        "calibrated",
        "cube, unaligned",
        "calibrated",
        "midpoint, aligned",
        "calibrated",
        "midpoint, unaligned",
        "calibrated",
    ]
    return CONTROL + table(header, rows) + "\n"


def claim_2(families: Mapping[str, Found]) -> str:
    rows = []
    for name, one in families.items():
        triples = one.record["transitivity"]
        if triples:
            lines = [shown([t["barrier"][pair][0] for t in triples]) for pair in triples[0]["barrier"]]
            agreement = shown([t["agreement"] for t in triples], percent=True)
            triangle = shown([t["triangle"][0] for t in triples])
            rows.append([name, *lines, agreement, triangle])
    if not rows:
        return "No family has three networks.\n"
    pairs = next(t for one in families.values() for t in one.record["transitivity"])["barrier"]
    header = ["networks", *pairs, "units matched alike (%)", "loss in the triangle"]
    return TRANSITIVITY + table(header, rows) + "\n"


def claim_3(families: Mapping[str, Found]) -> str:
    rows = []
    for name, one in families.items():
        fractions = one.record["robustness"][0]["fractions"]
        for kind in one.record["robustness"][0]["curves"]:
            curve = one.curve(kind, "loss")
            rows.append([name, kind, *(shown(curve[:, i].tolist()) for i in range(len(fractions)))])
    header = ["networks", "perturbation", *(f"{100 * f:g} %" for f in fractions)]
    return ROBUSTNESS + table(header, rows) + "\n"


def claim_4(families: Mapping[str, Found]) -> str:
    measures = {
        "disagreement": True,
        "Jensen–Shannon divergence (nats)": False,
        "error correlation": False,
        "ensemble gain in accuracy": True,
    }
    rows = []
    for name, one in families.items():
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
    for name, one in families.items():
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
    draw: Callable[[Mapping[str, Found], Path], Path], families: Mapping[str, Found], folder: Path, name: str
) -> str:
    path = draw(families, folder / name)
    return f"![{(draw.__doc__ or '').strip()}]({path.name})\n"


HEAD = """# Mode combinability: which claims hold?

Two networks θ_A and θ_B were trained alike from different seeds; combinations are θ(Λ) = θ_A + Λ ⊙ (θ_B
− θ_A). The four claims are those of the abstract of Csiszárik et al., arXiv 2308.11511, for networks whose
units are permuted to match:

1. combinations have a low loss in broad regions of the hypercube of all Λ in [0, 1]^d and its vicinity;
2. transitivity: two networks aligned to a third are linearly connected with each other;
3. robustness: combinations still work if the matching is perturbed;
4. the combinations are functionally different networks.

The paper's own settings are not reproduced here, only its claims tested. MLPs 784-w-w-10 are trained
on 4,000 real MNIST digits (Adam, 30 epochs) and evaluated on 700 others. Tiny10 (ten layers, 16 to 64
channels) and ResNet20 are, where they occur, networks that others trained on CIFAR-10, evaluated on {images}
test images, with running statistics collected anew for every network and combination on 500 training
images. Alignment is weight matching unless said otherwise; matching by activations sees 1,000 training
digits or those 500 images.

The unit of replication is the pair: pairs share no network and have coefficients of their own, and
**intervals are 95 % t-intervals over pairs** (over triples for claim 2), none for a single one. For each
pair there are {combinations} combinations per law and matching, {points} points on each line, {compared}
combinations for the temperature control and for claim 4, and per kind and strength of perturbation
{repeats} × {perturbed}; {perturbed} in each triangle. Made by examples/mode_combinability.py, {made},
fastcomb {fastcomb}, torch {torch}.
"""

READING = """
How to read it. A loss is *low* if it is at most {near:.0f} % above the worse of the networks'; that limit
is a convention, and the tables below have the numbers behind it. Claim 1 *holds* if at least 95 % of the
combinations of every pair are low, *fails* if at most 5 % of every pair's are, in the cube (element-wise
uniform) or its vicinity (uniform on (−¼, 1¼)); the same is said of the cube of unaligned pairs. Combinations
are less confident than overconfident networks, which lowers their loss and can hide errors, so the
accuracy that they lose against their networks stands beside it. *Temperature is enough* where combinations
(midpoints) of unaligned pairs, each calibrated, have a low mean loss beside the worse calibrated network.
Claim 2 *holds* if the loss is low all along the line between two networks aligned to a third, in every
triple; beside it the line between the two as they were. Claim 3 says up to which tested fraction of units
in each layer every kind of perturbation leaves the mean loss of every pair low. Claim 4 sets the
disagreement of two combinations beside that of the two networks: in brackets where combinations do not
work, since broken networks disagree too.
"""

CLAIM_1 = """\
Losses also say how well confidence fits: where a line dips below its ends, the mixture may merely be less
overconfident than its networks, so read accuracies beside them.
"""

CONTROL = """\
Wide networks may be linearly connected without alignment once their softmax temperature is calibrated (arXiv
2510.08023), so that a low loss need not speak for the matching. The temperature of each
combination (element-wise uniform), midpoint and network is fitted on 300 held-out samples; losses are
those on the test samples. The widths here are far below those of that paper.

"""

TRANSITIVITY = """\
a′ and b′ are two networks, each aligned to a third, the reference. Loss barriers on five lines; how many
units the direct matching of b to a and the one through the reference pair alike (by chance one unit of
a layer of w does, 100/w %); and the mean loss in the triangle of a′, b′ and the reference (Dirichlet(1)
weights per element).

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
network, in units of the distance between the networks (for independent uniform coefficients √(1/6) = 0.41
and √(1/3) = 0.58, whatever the networks); cosines of weights; and linear CKA of layers, means over pairs.

"""

LIMITS = """## What this cannot say

Pairs are few, and all are evaluated on the same samples, so intervals cover the choice of networks and
not that of the data. t-intervals over so few pairs take normality for granted, and those over two triples
are wide for that reason alone. The MLPs see few digits and are evaluated on digits of the same source;
CIFAR-10 images may have passed through JPEG compression, which lowers all accuracies.
Matchings are local optima of their objectives: where a claim fails, another matching might do better.
"""
