"""Every layer of one network beside every layer of another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastcomb.data.reading import in_batches
from fastcomb.program import Layer, Program, check_apart, find, layers, private_copy
from fastcomb.program.cache import captured
from fastcomb.program.choose import Output, choose
from fastcomb.program.layers import VIEWS
from fastcomb.similarity import collect
from fastcomb.similarity import features as feature
from fastcomb.similarity.cca import mean_cca, mean_squared_cca, pwcca, svcca
from fastcomb.similarity.cka import cka, minibatch_cka
from fastcomb.similarity.features import Flattening
from fastcomb.similarity.neighbours import neighbour_jaccard
from fastcomb.similarity.procrustes import angular_procrustes, size_and_shape_procrustes
from fastcomb.similarity.regression import linear_regression_r2
from fastcomb.similarity.rsa import rsa
from fastcomb.similarity.soft_matching import soft_matching_correlation, soft_matching_distance
from fastcomb.statistics.density import Array
from fastcomb.utils.inputs import Samples, joined, leaves, pieces, ready
from fastcomb.utils.plotting import new_figure, save
from fastcomb.utils.progress import bar
from fastcomb.utils.result import Result, markdown

Measure = Callable[..., Any]

#: Measures by name, with the flattening that is usual for them.
MEASURES: dict[str, tuple[Measure, Flattening]] = {
    "cka": (cka, "samples"),
    "minibatch_cka": (minibatch_cka, "samples"),
    "mean_cca": (mean_cca, "positions"),
    "mean_squared_cca": (mean_squared_cca, "positions"),
    "svcca": (svcca, "positions"),
    "pwcca": (pwcca, "positions"),
    "linear_regression_r2": (linear_regression_r2, "positions"),
    "angular_procrustes": (angular_procrustes, "positions"),
    "size_and_shape_procrustes": (size_and_shape_procrustes, "positions"),
    "rsa": (rsa, "samples"),
    "neighbour_jaccard": (neighbour_jaccard, "samples"),
    "soft_matching_distance": (soft_matching_distance, "positions"),
    "soft_matching_correlation": (soft_matching_correlation, "positions"),
}
DISTANCES = {"angular_procrustes", "size_and_shape_procrustes", "soft_matching_distance"}
STREAMED = {cka, mean_cca, mean_squared_cca, svcca, pwcca, linear_regression_r2} | {
    angular_procrustes, size_and_shape_procrustes
}  # fmt: skip

#: Operations that mask.
_MASKING = ("masked_fill", "where", "add", "sub", "unknown")


#: Inches of one layer in the picture, and of all of them at least and at most; of what is beside the map and
#: above it.
_LAYER, _LEAST, _MOST = 0.24, 2.8, 14.0
_BESIDE, _ABOVE = 1.6, 1.0

#: Width of a letter as a fraction of the font's size.
_LETTER = 0.6


@dataclass(frozen=True, eq=False, repr=False)
class Layerwise(Result):
    """A measure between all layers of a network a and all layers of a network b.

    Attributes:
        measure: its name.
        distance: whether small values mean alike.
        flattening: "samples" or "positions", what made feature maps into matrices.
        samples: how many inputs the networks were compared on.
        layers_a, layers_b: names of the layers, L1 and L2.
        values: float64 [L1, L2]; NaN where two layers cannot be compared.
    """

    measure: str
    distance: bool
    flattening: str
    samples: int
    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    values: Array

    @property
    def best(self) -> tuple[int, ...]:
        """For each layer of a the number of the layer of b that is most alike; −1 where none compares."""
        score = np.where(np.isnan(self.values), -np.inf, -self.values if self.distance else self.values)
        return tuple(int(row.argmax()) if np.isfinite(row).any() else -1 for row in score)

    @property
    def headline(self) -> str:
        """The measure's range over the pairs of layers that can be compared, and over what."""
        low, high = np.nanmin(self.values), np.nanmax(self.values)
        size = f"{len(self.layers_a)} × {len(self.layers_b)} layers"
        return f"{self.measure} of {size} over {self.samples} samples, {low:.4g} to {high:.4g}"

    def table(self) -> str:
        """Each layer of a with the layer of b that is most alike, and with that of the same name."""
        rows: list[Sequence[str | float]] = []
        for name, row, best in zip(self.layers_a, self.values, self.best, strict=True):
            same = row[self.layers_b.index(name)] if name in self.layers_b else np.nan
            most = (self.layers_b[best], row[best]) if best >= 0 else ("none", np.nan)
            rows.append((name, *most, same))
        return markdown(["layer of a", "most alike in b", self.measure, "with the same name"], rows)

    def plot(self, path: str | Path) -> Path:
        """Write a heat map (format by the file's suffix), with each row's best layer marked by a dot.

        Layers of a go upwards, layers of b to the right.
        """
        figure, axes = new_figure(1)
        axis = axes[0, 0]
        rows, columns = self.values.shape
        side = min(max(_LAYER, _LEAST / min(rows, columns)), _MOST / max(rows, columns))  # of a square
        font = float(np.clip(72 * side * 0.7, 3, 9))
        label_a, label_b = (
            max(map(len, names)) * font * _LETTER / 72 for names in (self.layers_a, self.layers_b)
        )
        figure.set_size_inches(columns * side + label_a + _BESIDE, rows * side + label_b + _ABOVE)
        from_zero = not self.distance and np.nanmin(self.values) >= 0
        image = axis.imshow(
            self.values,
            origin="lower",
            interpolation="nearest",
            cmap="viridis_r" if self.distance else "viridis",
            vmin=0 if from_zero else None,
        )
        axis.set_facecolor("lightgrey")  # where layers cannot be compared
        upright = label_b > side
        axis.set_xticks(range(columns), self.layers_b, rotation=90 if upright else 0, fontsize=font)
        axis.set_yticks(range(rows), self.layers_a, fontsize=font)
        axis.tick_params(length=0)
        best = np.array([(column, row) for row, column in enumerate(self.best) if column >= 0])
        axis.scatter(*best.T, s=2 * font, color="white", edgecolors="black", linewidths=0.6)
        axis.set_xlabel("layers of b")
        axis.set_ylabel("layers of a")
        axis.set_title(
            f"{self.samples:,} samples, {self.flattening} as rows\ndots: most alike in b", fontsize="medium"
        )
        kind = "distance" if self.distance else "score"
        figure.colorbar(image, ax=axis, label=f"{self.measure} ({kind})", fraction=0.05, pad=0.02)
        return save(figure, path)


def layerwise(
    model_a: nn.Module,
    model_b: nn.Module,
    data: Any,
    *,
    layers_a: Sequence[str] | None = None,
    layers_b: Sequence[str] | None = None,
    measure: str | Measure = "cka",
    flatten: Flattening | None = None,
    batch: int = 256,
    output: Output | None = None,
    progress: bool | None = None,
) -> Layerwise:
    """Compare every layer of one network with every layer of another on the same inputs.

    Each network runs once per batch, in eval mode, as the Program that :func:`fastcomb.capture` makes of it,
    so values before operations in place are intact and residual sums are layers too. What is kept is

    - with "minibatch_cka", sums alone: any number of samples, in batches of ``batch``;
    - with "positions" and linear CKA, CCA, SVCCA, PWCCA, regression or Procrustes, moments: (Σ d)² · 8 bytes
      for the d channels of all layers with the same spatial size;
    - else the features of all samples, N · Σ d numbers of both networks, so give large feature maps fewer
      samples or name fewer layers; and for "cka" 8 N² bytes per layer.

    With "positions" layers can only be compared where their spatial sizes are the same, and have NaN
    elsewhere. CKA has NaN where a layer does not vary over the samples.

    Args:
        model_a, model_b: networks that take the same inputs; of the same architecture or not.
        data: inputs, ``(x, y)``, a dict, a Dataset or a DataLoader of such, as in :func:`fastcomb.evaluate`;
            labels are ignored.
        layers_a, layers_b: names of layers, as ``fastcomb.program.layers`` lists them. By default all that
            compute something: outputs of operations other than reshapes and the like, and of modules
            with parameters. For b, by default those of a, if given.
        measure: a name in ``fastcomb.similarity.layerwise.MEASURES``; or a function of two matrices
            [n, d1] and [n, d2], also ``functools.partial(pwcca, side="y")`` of one of them.
        flatten: "samples" or "positions", as in :func:`fastcomb.similarity.flatten`; by default "positions"
            for the CCA family, regression, Procrustes and soft matching, else "samples".
        batch: samples at a time; the last batch of "minibatch_cka" is left out if it has fewer than 4.
        output: which tensor of what the networks return is meant, as in :func:`fastcomb.evaluate`: layers
            that only others need are left out. All of it if None.
        progress: show progress bars; if None, when standard error is a terminal.

    Raises:
        ValueError: an unknown measure, flattening or layer, no two layers that
            can be compared, activations that are not finite, or what the measure refuses, with the
            layers' names.
        TypeError: other data.
        CaptureError: a network that cannot be captured.

    Example:
        >>> found = fc.similarity.layerwise(a, b, x, progress=False)
        >>> found.layers_a, found.values.shape
        (('0', '1', '2'), (3, 3))
        >>> fc.similarity.layerwise(a, a, x, progress=False).best  # every layer is most like itself
        (0, 1, 2)
    """
    name, function, usual = _resolved(measure)
    to = flatten or usual
    if to not in ("samples", "positions"):
        raise ValueError(f"flatten={to!r} is neither 'samples' nor 'positions'")
    if batch < 1:
        raise ValueError(f"batch={batch} must be at least 1")
    inputs = joined([x for x, _ in in_batches(data)])
    a = _side(model_a, inputs[:2], layers_a, "model_a", output)
    b = _side(model_b, inputs[:2], layers_a if layers_b is None else layers_b, "model_b", output)
    collector = _collector(function, to, a, b)
    with bar(len(inputs), "sample", progress) as shown:
        for x in pieces(inputs, batch):
            collector.add(a.run(x, to), b.run(x, to))
            shown.update(len(x))

    def pair(i: int, j: int, call: Callable[[], Any]) -> float:
        try:
            return float(call())
        except ValueError as error:
            raise ValueError(
                f"layer {a.names[i]!r} of model_a (x) with {b.names[j]!r} of model_b (y): {error}"
            ) from error

    pairs = len(a.names) * len(b.names)
    with bar(pairs, "pair", progress) as shown:
        values = collector.values(pair, shown)
    if values.isnan().all():
        raise ValueError("no two layers can be compared: one of each pair does not vary over the samples")
    return Layerwise(name, name in DISTANCES, to, len(inputs), a.names, b.names, values.numpy())


class _Side(NamedTuple):
    """One network, and which of its values are looked at."""

    label: str
    program: Program
    state: dict[str, Tensor]
    layers: tuple[Layer, ...]
    names: tuple[str, ...]

    def positions(self, to: Flattening) -> list[Any]:
        """Of each layer the dimensions, besides samples and channels, that become rows."""
        if to == "samples":
            return [()] * len(self.layers)
        ranges = [range(1, len(layer.shape)) for layer in self.layers]
        return [
            tuple(layer.shape[dim] for dim in dims if dim != layer.channels)
            for layer, dims in zip(self.layers, ranges, strict=True)
        ]

    def run(self, x: Samples, to: Flattening) -> list[Tensor]:
        """Features of the layers for one batch of inputs."""
        with torch.no_grad():
            values = self.program.values(self.state, *leaves(ready(x, _device(self.state, x))))
        features = []
        for layer, name in zip(self.layers, self.names, strict=True):
            matrix = feature.flatten(values[layer.value], to, channels=layer.channels)
            features.append(feature.matrix(matrix, f"layer {name!r} of {self.label}"))
        return features


def _side(
    model: nn.Module, example: Samples, names: Sequence[str] | None, label: str, output: Output | None
) -> _Side:
    """A network with the layers of these names, or with all that compute something.

    Raises:
        TypeError: no module.
        ValueError: no layers, or an unknown name.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{label} is a {type(model).__name__}; pass a module")
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    x = ready(example, _device(state, example))
    program = captured(choose(private_copy(model).eval(), x, output, default="tensors"), x)
    check_apart(program, state, x, label)
    if names is None:
        with torch.no_grad():
            values = program.values(state, *leaves(x))
        chosen = tuple(
            layer
            for layer in layers(program)
            if _computes(layer, state) and not _masked(layer, values[layer.value])
        )
        names = [layer.name for layer in chosen]
    else:
        chosen = tuple(find(program, name) for name in names)
    if not chosen:
        raise ValueError(f"no layers of {label} to compare")
    return _Side(label, program, state, chosen, tuple(names))


def _masked(layer: Layer, value: Tensor) -> bool:
    """Whether a layer is scores of which a mask has taken some to −∞."""
    return layer.op in _MASKING and bool((value == -torch.inf).any())


def _computes(layer: Layer, state: dict[str, Tensor]) -> bool:
    """Whether a layer is more than another view of a value before it."""
    return layer.op not in VIEWS or any(weight.startswith(layer.name + ".") for weight in state)


def _device(state: dict[str, Tensor], x: Samples) -> torch.device:
    """Where a network is, or the inputs of one without weights."""
    return next(iter(state.values()), leaves(x)[0]).device


def _resolved(measure: str | Measure) -> tuple[str, Measure, Flattening]:
    """Name, function and usual flattening of a measure."""
    if isinstance(measure, str):
        if measure not in MEASURES:
            known = ", ".join(map(repr, MEASURES))
            raise ValueError(f"measure={measure!r} is none of {known}, nor a function")
        return measure, *MEASURES[measure]
    inner = measure.func if isinstance(measure, functools.partial) else measure
    for name, (function, usual) in MEASURES.items():
        if inner is function:
            return name, measure, usual
    return getattr(inner, "__name__", type(inner).__name__), measure, "samples"


def _collector(function: Measure, to: Flattening, a: _Side, b: _Side) -> collect.Collector:
    """The way to compare layers that keeps least: sums, moments, or features.

    Raises:
        ValueError: no two layers have the same positions, or minibatch CKA is asked for what it is not.
    """
    positions = a.positions(to), b.positions(to)
    if not set(positions[0]) & set(positions[1]):
        raise ValueError("no layer of model_a has the spatial size of one of model_b; use flatten='samples'")
    inner = function.func if isinstance(function, functools.partial) else function
    if inner is minibatch_cka:
        if to == "positions" or inner is not function:
            raise ValueError("minibatch_cka of layers is the linear one with flatten='samples'")
        return collect.Batchwise()
    if to == "positions" and inner in STREAMED and (inner is not cka or function is cka):
        widths = [[int(layer.shape[layer.channels]) for layer in side.layers] for side in (a, b)]
        return collect.Streamed(function, positions, (widths[0], widths[1]))
    return collect.Held(None if function is cka else function, positions)
