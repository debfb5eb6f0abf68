"""How different are combinations of networks, beside how different the networks are?"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastcomb.analysis.weight_distance import gram
from fastcomb.data.samples import Data
from fastcomb.functional import Mixture
from fastcomb.mixing.endpoints import Endpoint
from fastcomb.program import private_copy
from fastcomb.program.choose import Output, choose
from fastcomb.sampling.samplers import Constant
from fastcomb.similarity.cka import linear_cka_matrix
from fastcomb.similarity.functional import Pairs, ensemble, error_correlation, pairs
from fastcomb.statistics.density import Array
from fastcomb.sweep.criteria import by_name
from fastcomb.sweep.losses import settle
from fastcomb.utils.inputs import Samples, arguments, ready
from fastcomb.utils.notice import BackendNotice
from fastcomb.utils.outputs import joined
from fastcomb.utils.plotting import new_figure, save
from fastcomb.utils.progress import bar
from fastcomb.utils.result import Result, markdown

#: Pairwise measures by the names of their fields, as tables and pictures call them.
MEASURES = {
    "disagreement": "disagreement",
    "churn": "churn",
    "jensen_shannon": "Jensen–Shannon divergence (nats)",
    "error_correlation": "error correlation",
    "accuracy_gain": "ensemble gain in accuracy",
    "loss_gain": "ensemble gain in loss (nats)",
    "distance": "weight distance (L2)",
    "cosine": "cosine of weights",
    "direction": "cosine of weights from the networks' mean",
}

#: Inputs -> logits [M, S, C] and the outputs [M, S, ...] of layers by name.
Run = Callable[[Samples], tuple[Tensor, dict[str, Tensor]]]

#: Weights closer to the mean than this, relative to their norm, lie in no direction from it.
_NEAR = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class Diversity(Result):
    """Differences between K combinations and the m networks (two, θ_A and θ_B, as a rule) behind them.

    Matrices are float64 [K + m, K + m], symmetric: the combinations in the order of ``indices``, then the
    networks.

    Attributes:
        indices: the combinations' numbers, K.
        samples: how many samples they were compared on.
        accuracy, loss: float64 [K + m], of each; the loss is cross-entropy in nats.
        disagreement: fraction of samples that the two put into different classes (the churn of Milani Fard
            et al., "Launch and Iterate: Reducing Prediction Churn", NeurIPS 2016).
        churn: fraction of samples that exactly one of the two gets right: their wins plus losses. Unlike
            the disagreement it does not count two different wrong answers.
        jensen_shannon: Jensen–Shannon divergence of the class probabilities, in nats (at most log 2),
            averaged over samples.
        error_correlation: Pearson correlation of the indicators "this sample is classified wrongly"; where
            one never or always errs, 1 if both have the same errors, else 0.
        accuracy_gain: accuracy of the two networks' averaged probabilities minus their mean accuracy.
        loss_gain: their mean loss minus the loss of their averaged probabilities, in nats; never negative.
        distance: Euclidean distance of their parameters, ‖θ_i − θ_j‖.
        cosine: of their parameters, ⟨θ_i, θ_j⟩ / (‖θ_i‖ ‖θ_j‖).
        direction: cosine of their displacements from the networks' mean. Seen from there θ_A and θ_B are
            opposite (−1) and independent element-wise combinations nearly orthogonal; NaN at the mean itself.
        joint_accuracy, joint_loss: of the averaged probabilities of all K combinations.
        cka: for each chosen layer the linear CKA of its outputs, flattened to [N, features].
    """

    indices: tuple[int, ...]
    samples: int
    accuracy: Array
    loss: Array
    disagreement: Array
    churn: Array
    jensen_shannon: Array
    error_correlation: Array
    accuracy_gain: Array
    loss_gain: Array
    distance: Array
    cosine: Array
    direction: Array
    joint_accuracy: float
    joint_loss: float
    cka: dict[str, Array]

    @property
    def measures(self) -> dict[str, Array]:
        """All pairwise measures [K + m, K + m] by what tables and pictures call them."""
        named = {label: getattr(self, name) for name, label in MEASURES.items()}
        return named | {f"CKA of {layer}": values for layer, values in self.cka.items()}

    def parts(self, matrix: Array) -> tuple[Array, Array, Array]:
        """A pairwise measure over the pairs of combinations, of a combination with a network, of networks."""
        count = len(self.indices)
        inner, outer = matrix[:count, :count], matrix[count:, count:]
        return _upper(inner), matrix[:count, count:].ravel(), _upper(outer)

    @property
    def joint_gain(self) -> tuple[float, float]:
        """Ensemble gain of all K combinations together, in accuracy and in loss (nats)."""
        count = len(self.indices)
        accuracy = self.joint_accuracy - float(self.accuracy[:count].mean())
        return accuracy, float(self.loss[:count].mean()) - self.joint_loss

    @property
    def headline(self) -> str:
        """Mean disagreement of combinations and of networks, and what averaging all combinations gains."""
        inner, _, outer = self.parts(self.disagreement)
        return (
            f"{len(self.indices)} combinations disagree on {inner.mean():.2%} of {self.samples} samples, the "
            f"networks on {outer.mean():.2%}; all together gain {self.joint_gain[0]:.2%} accuracy"
        )

    def table(self) -> str:
        """Each measure over the pairs of combinations, of a combination with a network, of networks."""
        header = ["measure", "between combinations", "min", "max", "with the networks", "between networks"]
        rows: list[Sequence[str | float]] = []
        for label, matrix in self.measures.items():
            inner, mixed, outer = self.parts(matrix)
            rows.append((label, inner.mean(), inner.min(), inner.max(), mixed.mean(), outer.mean()))
        return markdown(header, rows)

    def plot(self, path: str | Path) -> Path:
        """Disagreement as a matrix, difference in function against distance in weights, and CKA."""
        figure, axes = new_figure(2 + bool(self.cka))
        count = len(self.indices)
        axis = axes[0, 0]
        figure.colorbar(axis.imshow(self.disagreement, interpolation="nearest"), ax=axis)
        middles = [(count - 1) / 2, (count + len(self.loss) - 1) / 2]
        axis.set_xticks(middles, ["combinations", "networks"])
        axis.set_yticks(middles, ["combinations", "networks"], rotation=90, va="center")
        axis.tick_params(length=0)
        axis.axhline(count - 0.5, color="white", linewidth=1)
        axis.axvline(count - 0.5, color="white", linewidth=1)
        axis.set_title("disagreement (fraction of samples)")
        axis = axes[0, 1]
        x, y = self.parts(self.distance), self.parts(self.jensen_shannon)
        axis.plot(x[0], y[0], ".", alpha=0.5, label="two combinations")
        axis.plot(x[1], y[1], ".", alpha=0.5, label="combination and network")
        axis.plot(x[2], y[2], "*", color="black", markersize=10, label="two networks")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("distance of weights (L2)")
        axis.set_ylabel("Jensen–Shannon divergence (nats)")
        axis.set_title("function against weights")
        axis.legend(frameon=False)
        for place, values in enumerate(self.cka.values()):
            axis = axes[0, 2]
            inner, _, outer = self.parts(values)
            axis.plot(np.full(len(inner), place), inner, ".", alpha=0.3, color="tab:blue")
            axis.plot(np.full(len(outer), place), outer, "*", color="black", markersize=10)
        if self.cka:
            axis.set_xticks(range(len(self.cka)), list(self.cka), rotation=30, ha="right")
            axis.set_xlabel("layer")
            axis.set_ylabel("linear CKA")
            axis.set_title("likeness of layers")
        figure.suptitle(f"How different are {count} combinations? (★: the networks behind them)")
        return save(figure, path)


def _upper(matrix: Array) -> Array:
    """The entries above the diagonal."""
    return np.asarray(matrix[np.triu_indices(len(matrix), 1)])


def diversity(
    mix: Mixture,
    indices: Iterable[int],
    data: Any,
    *,
    model: nn.Module,
    layers: Sequence[str] = (),
    batch_norm: str | None = None,
    calibration: Any = None,
    buffers: str | None = None,
    output: Output | None = None,
    batch: int = 1000,
    progress: bool | None = None,
) -> Diversity:
    """Compare combinations with each other, and with the networks behind them, in function and in weights.

    Combinations are generated where they are needed and never stored. Outputs are kept for one batch of
    samples; the outputs of ``layers`` for all, K · N · features float32, so give wide layers fewer samples.
    The networks have their own running statistics, or with ``batch_norm="recompute"`` recomputed ones.

    Args:
        mix: the combinations.
        indices: numbers of two or more of them.
        data: as in :func:`fastcomb.evaluate`, with class numbers y [N].
        model: the module, with outputs [N, classes] (logits or log-probabilities); a copy in eval mode runs.
        layers: names of submodules whose outputs are compared by linear CKA. A module that is called more
            than once counts with its last call. They run on the reference backend.
        batch_norm, calibration, buffers, output: as in :func:`fastcomb.evaluate`.
        batch: samples at a time.
        progress: show a progress bar; if None, when standard error is a terminal.

    Raises:
        ValueError: fewer than two indices, an unknown layer, one whose output does not begin with the
            samples, or labels that do not fit the outputs.
        TypeError: data without labels, or a layer that does not return a tensor.

    Example:
        >>> y = a(x).argmax(1)
        >>> mix = fc.Mixture(a, b, fc.Uniform())
        >>> found = fc.diversity(mix, range(20), (x, y), model=a, progress=False)
        >>> found.disagreement.shape  # of 20 combinations and the two networks
        (22, 22)
        >>> float(found.accuracy[20])  # of a, whose classes y are
        1.0
    """
    numbers = [number % (1 << 64) for number in mix.index_tensor(indices).tolist()]
    if len(numbers) < 2:
        raise ValueError(f"{len(numbers)} indices given; diversity compares two or more combinations")
    if batch < 1:
        raise ValueError(f"batch={batch} must be at least 1")
    module = private_copy(model).to(mix.device).eval()
    ends = list(mix.networks.values())
    chosen: Any = {"batch_norm": batch_norm, "calibration": calibration, "buffers": buffers}
    networks = [(mix, numbers), *((_alone(end, module, mix), [0]) for end in ends)]
    samples = Data(data)
    x, y = samples.first()
    choose(module, ready(x, mix.device, mix.dtype), output)
    _watch(module, layers)

    def run(x: Samples) -> tuple[Tensor, dict[str, Tensor]]:
        args, kwargs = arguments(ready(x, mix.device, mix.dtype))
        with warnings.catch_warnings():
            if layers:  # what makes the module return them keeps it from the compiled engine
                warnings.simplefilter("ignore", BackendNotice)
            outputs = [
                mixture.functional_call(module, which, *args, **chosen, **kwargs)
                for mixture, which in networks
            ]
        logits: Any = joined(outputs)
        return logits if layers else (logits, {})

    _check_labels(run(x)[0][0], y, samples)
    with bar(samples.samples, "sample", progress) as shown:
        means, joint, features = _compared(run, samples, len(numbers), batch, shown)
    accuracy, loss = means.right.diagonal(), means.loss.diagonal()
    wrong = means.both_wrong.diagonal()
    arrays = {
        "accuracy": accuracy,
        "loss": loss,
        "disagreement": means.differ,
        "churn": wrong + wrong[:, None] - 2 * means.both_wrong,
        "jensen_shannon": means.divergence,
        "error_correlation": error_correlation(means.both_wrong),
        "accuracy_gain": means.right - _midway(accuracy),
        "loss_gain": _midway(loss) - means.loss,
        **geometry(gram([(m, m.index_tensor(which)) for m, which in networks]), len(ends)),
    }
    return Diversity(
        indices=tuple(numbers),
        samples=samples.samples,
        joint_accuracy=joint[0],
        joint_loss=joint[1],
        cka={layer: linear_cka_matrix(list(values)).numpy() for layer, values in features.items()},
        **{name: value.numpy() for name, value in arrays.items()},
    )


def _compared(
    run: Run, samples: Data, count: int, batch: int, shown: Any
) -> tuple[Pairs, list[float], dict[str, Tensor]]:
    """Means over the samples, for all pairs and for the first ``count`` together, and layers [M, N, d]."""
    sums: list[Any] = [0] * len(Pairs._fields)
    joint: Any = 0
    features: dict[str, list[Tensor]] = {}
    for x, y in samples.batches(batch):
        logits, layers = run(x)
        y = y.to(logits.device)
        sums = [total + part for total, part in zip(sums, pairs(logits, y), strict=True)]
        joint = joint + ensemble(logits[:count], y)
        for layer, values in layers.items():
            if values.shape[:2] != logits.shape[:2]:
                shape = tuple(values.shape[1:])
                raise ValueError(f"layer {layer!r} returns {shape} for {len(x)} samples, not samples first")
            features.setdefault(layer, []).append(values.reshape(*values.shape[:2], -1).float().cpu())
        shown.update(len(x))
    means = Pairs(*(total.cpu() / samples.samples for total in sums))
    together = {layer: torch.cat(values, 1) for layer, values in features.items()}
    return means, (joint / samples.samples).tolist(), together


def geometry(gram: Tensor, ends: int) -> dict[str, Tensor]:
    """Distance, cosine and direction [M, M] from inner products of weights; the ends come last."""
    square = gram.diagonal()
    distance = (square + square[:, None] - 2 * gram).clamp_min(0).sqrt()
    to_mean = gram[:, -ends:].mean(1)
    centred = gram - to_mean - to_mean[:, None] + gram[-ends:, -ends:].mean()
    reach = centred.diagonal().clamp_min(0).sqrt()
    reach = reach.where(reach > _NEAR * square.sqrt(), torch.nan)
    return {
        "distance": distance,
        "cosine": gram / torch.outer(square.sqrt(), square.sqrt()),
        "direction": centred / torch.outer(reach, reach),
    }


def _midway(values: Tensor) -> Tensor:
    return (values + values[:, None]) / 2


def _alone(end: Endpoint, module: nn.Module, mix: Mixture) -> Mixture:
    """An endpoint as the one combination of a mixture with itself, with its own running statistics."""
    return Mixture(end, end, Constant(0.0, per="model"), model=module).to(mix.device)


def _watch(module: nn.Module, layers: Sequence[str]) -> None:
    """Make a module return ``(output, {layer: its output})``.

    Raises:
        ValueError: a layer is no submodule's name.
    """
    known = [name for name, _ in module.named_modules() if name]
    seen: dict[str, Tensor] = {}

    def watch(layer: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise TypeError(f"layer {layer!r} returns a {type(output).__name__}; choose one inside it")
            seen[layer] = output.clone()  # operations in place may follow

        return hook

    for layer in layers:
        if layer not in known:
            near = difflib.get_close_matches(layer, known, cutoff=0.0)
            names = ", ".join(map(repr, near))
            raise ValueError(f"the model has no layer {layer!r}; the nearest are {names}")
        module.get_submodule(layer).register_forward_hook(watch(layer))
    if layers:
        module.register_forward_hook(lambda _module, _inputs, output: (output, dict(seen)))


def _check_labels(output: Any, y: Tensor, samples: Data) -> None:
    """Raise unless the data are labels [N] of classes that the output [N, C] has."""
    settle(by_name("cross_entropy"), output, y, samples)
    if y.ndim != 1 or y.is_floating_point():
        raise ValueError(f"diversity compares classifiers; y must be class numbers [N], not {tuple(y.shape)}")
