"""Are two networks that were re-based to a third one linearly connected with each other?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from fastcomb.analysis.barrier import LINE, Barrier, Points, along, line
from fastcomb.analysis.evaluation import Evaluation, Options
from fastcomb.mixing.endpoints import Theta
from fastcomb.rebasin import Method, Symmetries
from fastcomb.rebasin.align import METHODS
from fastcomb.rebasin.symmetries import Matching
from fastcomb.statistics.density import Array
from fastcomb.utils.plotting import metric_label, new_figure, save
from fastcomb.utils.progress import bar
from fastcomb.utils.result import Result, markdown

PAIRS = ("a–b unaligned", "a–b aligned", "a′–reference", "b′–reference", "a′–b′")


@dataclass(frozen=True, eq=False, repr=False)
class Transitivity(Result):
    """Barriers between two networks and a reference, and how far their matchings agree.

    a′ and b′ are the two networks aligned to the reference, each by itself.

    Attributes:
        barriers: "a–b unaligned", "a–b aligned" (b to a, directly), "a′–reference", "b′–reference" and
            "a′–b′", which is what the claim of transitivity is about.
        units: number of units of each permutation group.
        agreement: float64 [groups], fraction of the units that the direct matching of b to a and the one
            through the reference take from the same unit of b. Chance is 1 / units.
    """

    barriers: dict[str, Barrier]
    units: tuple[int, ...]
    agreement: Array

    @property
    def cycle_consistency(self) -> float:
        """Fraction of all units on which the direct matching and the one through the reference agree."""
        return float(np.average(self.agreement, weights=self.units))

    @property
    def headline(self) -> str:
        """Loss barriers through the reference and directly, and how far the two matchings of b to a agree."""
        direct, through = (self.barriers[pair].loss_barrier for pair in ("a–b aligned", "a′–b′"))
        return (
            f"loss barrier {through:.4g} through the reference, {direct:.4g} directly; "
            f"matchings agree on {self.cycle_consistency:.1%} of the units"
        )

    def table(self) -> str:
        """The barriers, a line per pair."""
        metrics = self.barriers[PAIRS[0]].metrics
        header = ["pair"]
        for metric in metrics:
            header += [f"{metric} of the first", "of the second", f"{metric} barrier", "at t"]
        rows = [
            [pair, *(v for m in metrics for v in (*getattr(barrier, f"ends_{m}"), *barrier.worst(m)))]
            for pair, barrier in self.barriers.items()
        ]
        return markdown(header, rows)

    def consistency_table(self) -> str:
        """The agreement of the matchings, a line per permutation group and one for all."""
        rows = [
            (f"group {i}", str(units), agreement)
            for i, (units, agreement) in enumerate(zip(self.units, self.agreement, strict=True))
        ]
        rows.append(("all", str(sum(self.units)), self.cycle_consistency))
        return markdown(["group", "units", "agreement"], rows)

    def plot(self, path: str | Path) -> Path:
        """The five lines, and how far the matchings agree in each group."""
        metrics = next(iter(self.barriers.values())).metrics
        figure, axes = new_figure(len(metrics) + 1)
        for axis, metric in zip(axes[0], metrics, strict=False):
            for pair, barrier in self.barriers.items():
                heights = ", ".join(f"{barrier.worst(name)[0]:.3g}" for name in metrics)
                axis.plot(barrier.t, getattr(barrier, metric), label=f"{pair}: {heights}")
            axis.set_xlabel(LINE)
            axis.set_ylabel(metric_label(metric))
        lines = axes[0, 0].get_legend_handles_labels()
        title = f"barrier in {' and '.join(metrics)}"
        figure.legend(*lines, frameon=False, title=title, loc="outside right center")
        axis = axes[0, -1]
        axis.bar(np.arange(len(self.units)), self.agreement)
        axis.axhline(self.cycle_consistency, color="black", linestyle=":", label="over all groups")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("permutation group")
        axis.set_ylabel("fraction of units matched alike")
        axis.set_ylim(0, 1.02)
        axis.set_title("b → a, directly and by the reference")
        axis.legend(frameon=False)
        figure.suptitle("Are two networks aligned to a third connected with each other?")
        return save(figure, path)


def transitivity(
    a: Theta,
    b: Theta,
    reference: Theta,
    *,
    data: Any,
    method: str | Method = "weights",
    matching_data: Any = None,
    points: Points = 25,
    seed: int = 0,
    progress: bool | None = None,
    **options: Unpack[Options],
) -> Transitivity:
    """Align two networks to a third and measure the barrier between them.

    The claim of Csiszárik et al., "Mode Combinability: Exploring Convex Combinations of Permutation
    Aligned Models" (2023): two models re-based to a common third are linearly connected with each other.
    Beside the barriers stands cycle consistency (Crisostomi et al., "C²M³: Cycle-Consistent Multi-Model
    Merging", 2024): whether matching b to a directly and by way of the reference gives the same map.

    Args:
        a, b, reference: the networks: modules, mappings or paths.
        data: evaluation data, as in :func:`fastcomb.evaluate`.
        method: of :func:`fastcomb.rebasin.align`; with options as an instance, ``WeightMatching(starts=3)``.
        matching_data: what methods that need data match on; best not the evaluation data.
        points: as in :func:`fastcomb.barrier`, for all five pairs.
        seed: of the matching method.
        progress: show a progress bar; if None, when standard error is a terminal.
        **options: as in :func:`fastcomb.barrier`.

    Raises:
        ValueError: the method needs data and there are none.
        TypeError, ValueError: as :func:`fastcomb.barrier` and :func:`fastcomb.rebasin.align`.

    Example:
        >>> b, c = (fc.rebasin.align(a, a, "random", seed=s).model for s in (1, 2))  # a's units shuffled
        >>> found = fc.transitivity(a, b, c, data=(x, y), points=3, progress=False)
        >>> found.cycle_consistency  # directly and through c, b is matched to a in the same way
        1.0
        >>> found.barriers["a′–b′"].loss_barrier < 1e-5 < found.barriers["a–b unaligned"].loss_barrier
        True
    """
    chosen = METHODS.resolve(method, {})
    t = line(points)
    evaluation = Evaluation.of(data, options, a, b, reference)
    first, centre = evaluation.module(a), evaluation.module(reference)
    direct, from_a, from_b = (
        evaluation.align(target, network, chosen, matching_data, seed, progress)
        for target, network in ((first, b), (centre, first), (centre, b))
    )
    networks = (
        (first, b),
        (first, direct.model),
        (from_a.model, centre),
        (from_b.model, centre),
        (from_a.model, from_b.model),
    )
    with bar(len(PAIRS) * len(t), "point", progress) as shown:
        barriers = {
            pair: along(evaluation, *two, t, shown) for pair, two in zip(PAIRS, networks, strict=True)
        }
    groups = direct.symmetries
    through = groups.compose(from_b.permutations, groups.inverse(from_a.permutations))
    return Transitivity(
        barriers,
        tuple(group.size for group in groups.groups),
        agreement(groups, direct.permutations, through),
    )


def agreement(symmetries: Symmetries, one: Matching, other: Matching) -> Array:
    """Fraction of each group's units that two matchings take from the same unit: float64 [groups].

    For groups inside units, such as the features of attention heads, the enclosing unit must be the same.
    """
    same: list[Tensor] = [p == q for p, q in zip(one, other, strict=True)]
    for number, group in enumerate(symmetries.groups):
        for family in group.families:
            for unit, inner in enumerate(family):
                same[inner] = same[inner] & same[number][unit]
    return torch.stack([s.double().mean() for s in same]).numpy()
