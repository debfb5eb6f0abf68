"""Pictures of the results; needs matplotlib (``pip install fastcomb[plots]``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastcomb.utils.plotting import new_figure, save
from fastcomb.utils.result import METRICS

if TYPE_CHECKING:
    from fastcomb.analysis.barrier import Barrier
    from fastcomb.analysis.diversity import Diversity
    from fastcomb.analysis.robustness import Robustness
    from fastcomb.analysis.transitivity import Transitivity

_LINE = "t: from the first network (0) to the second (1)"


def plot_barrier(found: Barrier, path: str | Path) -> Path:
    """Loss and accuracy on the line, with its chord and the place of the barrier."""
    figure, axes = new_figure(len(found.metrics))
    for axis, metric in zip(axes[0], found.metrics, strict=True):
        height, place = found.worst(metric)
        axis.plot(found.t, getattr(found, metric), marker=".", label="on the line")
        axis.plot(found.t, found.chord(metric), linestyle=":", color="black", label="chord")
        at = found.t == place
        axis.vlines(
            place, found.chord(metric)[at], getattr(found, metric)[at], color="tab:red", label="barrier"
        )
        axis.set_title(f"{metric} barrier {height:.3g} at t = {place:.3g}")
        axis.set_xlabel(_LINE)
        axis.set_ylabel(_labelled(metric))
        axis.legend(frameon=False)
    figure.suptitle("Is there a barrier on the line?")
    return save(figure, path)


def plot_transitivity(found: Transitivity, path: str | Path) -> Path:
    """The five lines, and how far the matchings agree in each group."""
    metrics = next(iter(found.barriers.values())).metrics
    figure, axes = new_figure(len(metrics) + 1)
    for axis, metric in zip(axes[0], metrics, strict=False):
        for pair, barrier in found.barriers.items():
            heights = ", ".join(f"{barrier.worst(name)[0]:.3g}" for name in metrics)
            axis.plot(barrier.t, getattr(barrier, metric), label=f"{pair}: {heights}")
        axis.set_xlabel(_LINE)
        axis.set_ylabel(_labelled(metric))
    lines = axes[0, 0].get_legend_handles_labels()
    title = f"barrier in {' and '.join(metrics)}"
    figure.legend(*lines, frameon=False, title=title, loc="outside right center")
    axis = axes[0, -1]
    axis.bar(np.arange(len(found.units)), found.agreement)
    axis.axhline(found.cycle_consistency, color="black", linestyle=":", label="over all groups")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("permutation group")
    axis.set_ylabel("fraction of units matched alike")
    axis.set_ylim(0, 1.02)
    axis.set_title("b → a, directly and by the reference")
    axis.legend(frameon=False)
    figure.suptitle("Are two networks aligned to a third connected with each other?")
    return save(figure, path)


def plot_robustness(found: Robustness, path: str | Path) -> Path:
    """Loss and accuracy against the strength of each kind of perturbation."""
    figure, axes = new_figure(len(found.metrics))
    for axis, metric in zip(axes[0], found.metrics, strict=True):
        errors = np.nan_to_num(found.standard_error(metric))
        for kind, mean, error in zip(found.kinds, found.mean(metric), errors, strict=True):
            axis.errorbar(found.fractions, mean, error, marker=".", capsize=3, label=kind)
        unaligned = getattr(found, f"unaligned_{metric}").mean()
        axis.axhline(unaligned, color="black", linestyle="--", linewidth=1, label="unaligned")
        for i, end in enumerate(getattr(found, f"ends_{metric}")):
            axis.axhline(
                end, color="black", linestyle=":", linewidth=1, label=None if i else "the two networks"
            )
        axis.set_xlabel("fraction of units perturbed")
        axis.set_ylabel(f"mean {_labelled(metric)}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    figure.suptitle(
        f"Do combinations survive perturbed matchings? {found.n:,} combinations, {found.sampler},\n"
        f"mean and standard error over {found.repeats} repeats",
        fontsize="medium",
    )
    return save(figure, path)


def plot_diversity(found: Diversity, path: str | Path) -> Path:
    """Disagreement as a matrix, difference in function against distance in weights, and CKA."""
    figure, axes = new_figure(2 + bool(found.cka))
    count = len(found.indices)
    axis = axes[0, 0]
    figure.colorbar(axis.imshow(found.disagreement, interpolation="nearest"), ax=axis)
    middles = [(count - 1) / 2, (count + len(found.loss) - 1) / 2]
    axis.set_xticks(middles, ["combinations", "networks"])
    axis.set_yticks(middles, ["combinations", "networks"], rotation=90, va="center")
    axis.tick_params(length=0)
    axis.axhline(count - 0.5, color="white", linewidth=1)
    axis.axvline(count - 0.5, color="white", linewidth=1)
    axis.set_title("disagreement (fraction of samples)")
    axis = axes[0, 1]
    x, y = found.parts(found.distance), found.parts(found.jensen_shannon)
    axis.plot(x[0], y[0], ".", alpha=0.5, label="two combinations")
    axis.plot(x[1], y[1], ".", alpha=0.5, label="combination and network")
    axis.plot(x[2], y[2], "*", color="black", markersize=10, label="two networks")
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("distance of weights (L2)")
    axis.set_ylabel("Jensen–Shannon divergence (nats)")
    axis.set_title("function against weights")
    axis.legend(frameon=False)
    for place, values in enumerate(found.cka.values()):
        axis = axes[0, 2]
        inner, _, outer = found.parts(values)
        axis.plot(np.full(len(inner), place), inner, ".", alpha=0.3, color="tab:blue")
        axis.plot(np.full(len(outer), place), outer, "*", color="black", markersize=10)
    if found.cka:
        axis.set_xticks(range(len(found.cka)), list(found.cka), rotation=30, ha="right")
        axis.set_xlabel("layer")
        axis.set_ylabel("linear CKA")
        axis.set_title("likeness of layers")
    figure.suptitle(f"How different are {count} combinations? (★: the networks behind them)")
    return save(figure, path)


def _labelled(metric: str) -> str:
    return "loss" if metric == METRICS[0] else "accuracy (fraction of samples)"
