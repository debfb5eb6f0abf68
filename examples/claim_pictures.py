"""The pictures of the page that mode_combinability.py writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from found import MATCHINGS, NEAR, Found, interval
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fastcomb.utils.plotting import new_figure, save

COLOURS = dict(zip(MATCHINGS, ("tab:blue", "tab:green", "tab:red"), strict=True))


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


def widths(families: Mapping[str, Found], path: Path) -> Path:
    """Mean loss of combinations by family and law, aligned and unaligned"""
    figure, axes = new_figure(2)
    laws = list(next(iter(families.values())).record["combinations"]["aligned"][0])
    at = np.arange(len(families))
    for axis, matching in zip(axes[0], ("aligned", "unaligned"), strict=True):
        for number, law in enumerate(laws):
            means, halves = zip(
                *(interval(one.combinations(matching, law, "loss")) for one in families.values()), strict=True
            )
            beside = at + 0.14 * (number - (len(laws) - 1) / 2)
            axis.errorbar(beside, means, np.nan_to_num(halves), fmt=".", capsize=3, label=law)
        worse = [interval(one.worse)[0] for one in families.values()]
        axis.hlines(worse, at - 0.4, at + 0.4, color="black", linewidth=1, label="worse network")
        logarithmic(axis)
        axis.set_xticks(at, list(families), rotation=30, ha="right")
        axis.set_title(f"{matching} pairs")
        axis.set_ylabel("mean loss of combinations (log scale)")
    same_height(axes[0])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    figure.suptitle("Do combinations have a low loss? Mean over pairs, 95 % intervals")
    return save(figure, path)


def lines(families: Mapping[str, Found], path: Path) -> Path:
    """Loss on the line between the networks of each pair"""
    columns = min(3, len(families))
    figure, axes = new_figure(columns, -(-len(families) // columns))
    for axis in axes.flat[len(families) :]:
        axis.set_visible(False)
    for axis, (name, one) in zip(axes.flat, families.items(), strict=False):
        for matching in MATCHINGS:
            for number, line in enumerate(one.record["line"][matching]):
                label = None if number else matching
                style = "--" if matching == "aligned by activations" else "-"
                axis.plot(line["t"], line["loss"], style, color=COLOURS[matching], alpha=0.7, label=label)
        axis.set_title(name)
        axis.set_xlabel("t: from the first network (0) to the second (1)")
        axis.set_ylabel("loss")
        axis.set_ylim(bottom=0)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    figure.suptitle("Is there a barrier on the line? One curve per pair")
    return save(figure, path)


def perturbations(families: Mapping[str, Found], path: Path) -> Path:
    """Loss of combinations against the fraction of perturbed units"""
    kinds = list(next(iter(families.values())).record["robustness"][0]["curves"])
    figure, axes = new_figure(len(kinds))
    for axis, kind in zip(axes[0], kinds, strict=True):
        for name, one in families.items():
            curve = one.curve(kind, "loss") / np.array(one.worse)[: one.pairs, None]
            means, halves = zip(*(interval(column.tolist()) for column in curve.T), strict=True)
            fractions = 100 * np.array(one.record["robustness"][0]["fractions"])
            axis.errorbar(fractions, means, np.nan_to_num(halves), marker=".", capsize=3, label=name)
        axis.axhline(1, color="black", linestyle=":", linewidth=1)
        axis.axhline(1 + NEAR[0], color="black", linestyle="--", linewidth=1)
        logarithmic(axis)
        axis.set_title(kind)
        axis.set_xlabel("units perturbed (%)")
        axis.set_ylabel("mean loss / the worse network's (log scale)")
    same_height(axes[0])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    figure.suptitle("Do combinations survive perturbed matchings? Mean over pairs, 95 % intervals")
    return save(figure, path)


def differences(families: Mapping[str, Found], path: Path) -> Path:
    """How much combinations differ, beside how much the networks differ"""
    figure, axes = new_figure(2)
    at = np.arange(len(families))
    for axis, measure in zip(axes[0], ("disagreement", "Jensen–Shannon divergence (nats)"), strict=True):
        for shift, (part, label) in zip(
            (-0.2, 0, 0.2),
            ((0, "two combinations"), (1, "combination and network"), (2, "the two networks")),
            strict=True,
        ):
            means, halves = zip(
                *(interval([p[measure][part] for p in one.record["diversity"]]) for one in families.values()),
                strict=True,
            )
            axis.bar(at + shift, means, 0.2, yerr=np.nan_to_num(halves), capsize=3, label=label)
        axis.set_xticks(at, list(families), rotation=30, ha="right")
        axis.set_ylabel(measure + (" (fraction of samples)" if measure == "disagreement" else ""))
        axis.set_ylim(bottom=0)
    axes[0, 0].legend(frameon=False)
    figure.suptitle("Are combinations different networks? Aligned pairs, mean over pairs, 95 % intervals")
    return save(figure, path)
