"""The pictures of frankenstein.py's page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastcomb.utils.plotting import new_figure, save

Found = Mapping[str, Any]

METHODS = {
    "task loss": "task loss",
    "weighted": "weighted least squares",
    "least_squares": "least squares",
    "procrustes": "Procrustes",
    "permutation": "permutation",
    "identity": "identity",
}


def layers(results: Found, path: Path) -> Path:
    """Relative accuracy by layer and way of matching"""
    figure, axes = new_figure(2)
    for axis, family in zip(axes[0], ("tiny10", "resnet20"), strict=True):
        names = results[family]["layers"]
        for method, label in METHODS.items():
            values = np.array([[s[n][method][0] for n in names] for s in results[family]["scores"]])
            (curve,) = axis.plot(values.mean(0), marker="o", label=label)
            for row in values if len(values) > 1 else []:
                axis.plot(row, ".", color=curve.get_color(), alpha=0.4)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axis.set_ylim(0, 1.05)
        axis.axhline(1, color="black", linestyle=":", linewidth=1)
        axis.set_title({"tiny10": "Tiny10 (dots: pairs)", "resnet20": "ResNet20"}[family])
        axis.set_ylabel("accuracy relative to network 2")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    figure.suptitle("Which maps match two networks?")
    return save(figure, path)


def widths(results: Found, path: Path) -> Path:
    """Relative accuracy by width"""
    figure, axes = new_figure(1)
    axis = axes[0, 0]
    at = [row["width"] for row in results["width"]]
    for kind in [key for key in results["width"][0] if key != "width"]:
        axis.plot(at, [np.mean(row[kind]) for row in results["width"]], marker="o", label=kind)
    axis.set_xscale("log", base=2)
    axis.set_xticks(at, list(map(str, at)))
    axis.axhline(1, color="black", linestyle=":", linewidth=1)
    axis.set_xlabel("width of the MLPs")
    axis.set_ylabel("accuracy relative to network 2")
    axis.legend(frameon=False)
    figure.suptitle("Are wider networks matched better?")
    return save(figure, path)


def course(results: Found, path: Path) -> Path:
    """Similarity and cross-entropy while a stitch is trained"""
    figure, axes = new_figure(2)
    rows = results["course"]
    for index in ("CKA", "R²", "CCA"):
        axes[0, 0].plot([row[index] for row in rows], marker=".", label=index)
    axes[0, 0].set_ylabel("similarity of stitched and own activations")
    axes[0, 0].legend(frameon=False)
    axes[0, 1].plot([row["cross-entropy"] for row in rows], marker=".", color="tab:red")
    axes[0, 1].set_ylabel("cross-entropy to network 2 (nats)")
    for axis in axes[0]:
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle("Does a stitch become more similar while it gets better?")
    return save(figure, path)


def ranks(results: Found, path: Path) -> Path:
    """Relative accuracy by rank"""
    figure, axes = new_figure(len(results["ranks"]))
    chosen = [*map(str, results["settings"]["ranks"]), "full"]
    for axis, (layer, scores) in zip(axes[0], results["ranks"].items(), strict=True):
        for label, names in (
            ("task loss", [f"task loss {r}" for r in chosen]),
            ("reduced rank", [*(f"reduced_rank(rank={r})" for r in chosen[:-1]), "least_squares"]),
        ):
            known = [(i, scores[n]) for i, n in enumerate(names) if n in scores]
            values, errors = ([score[k] for _, score in known] for k in (0, 1))
            axis.errorbar(
                [i for i, _ in known], values, 2 * np.array(errors), marker="o", capsize=3, label=label
            )
        axis.axhline(scores["procrustes"][0], color="tab:green", linestyle="--", label="Procrustes (full)")
        axis.set_xticks(range(len(chosen)), chosen)
        axis.set_ylim(0, 1.05)
        axis.set_xlabel("rank")
        axis.set_ylabel("accuracy relative to network 2")
        axis.set_title(layer)
        axis.legend(frameon=False)
    figure.suptitle("How much rank does a stitch need?")
    return save(figure, path)


def inits(results: Found, path: Path) -> Path:
    """Relative accuracy by initialisation"""
    figure, axes = new_figure(1)
    axis = axes[0, 0]
    generator = np.random.default_rng(0)
    for place, values in enumerate(results["inits"].values()):
        axis.plot(place + generator.uniform(-0.1, 0.1, len(values)), values, "o", alpha=0.6)
    axis.set_xticks(range(len(results["inits"])), [f"from {kind}" for kind in results["inits"]])
    axis.set_xlim(-0.5, len(results["inits"]) - 0.5)
    axis.set_ylabel("accuracy relative to network 2")
    figure.suptitle("Does it matter where training starts? One point per stitch")
    return save(figure, path)


def lines(results: Found, path: Path) -> Path:
    """Accuracy on the line between two stitches"""
    figure, axes = new_figure(1)
    axis = axes[0, 0]
    for name, line in results["tiny10"]["lines"].items():
        axis.plot(line["t"], line["accuracy"], label=name)
    axis.set_xlabel("λ: from one stitch (0) to the other (1)")
    axis.set_ylabel("accuracy relative to network 2")
    axis.set_ylim(0, 1.05)
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, loc="outside right center")
    figure.suptitle("Are stitches linearly connected?")
    return save(figure, path)


def sparsity(results: Found, path: Path) -> Path:
    """Relative accuracy by sparsity"""
    figure, axes = new_figure(1)
    axis = axes[0, 0]
    for kind, rows in results["sparsity"].items():
        zeros, values, errors = np.array(rows).T
        axis.errorbar(zeros, values, 2 * errors, marker="o", capsize=3, label=kind)
    axis.set_xlabel("fraction of entries that are 0")
    axis.set_ylabel("accuracy relative to network 2")
    axis.set_ylim(0, 1.05)
    axis.legend(frameon=False)
    figure.suptitle("How sparse can a stitch be? (bn6)")
    return save(figure, path)
