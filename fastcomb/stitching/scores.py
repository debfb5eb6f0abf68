"""How well stitched networks do, beside the two networks that they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcomb.similarity.functional import pairs
from fastcomb.statistics.density import Array
from fastcomb.stitching.cut import Cut, Network
from fastcomb.stitching.gather import as_data, batch_size, check_labels
from fastcomb.stitching.stitched import Stitched
from fastcomb.utils.plotting import new_figure, save
from fastcomb.utils.progress import bar
from fastcomb.utils.result import Result, markdown

#: Bins of confidence for calibration errors.
_BINS = 15


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Result):
    """Measures of S stitched networks on labelled samples; float64 [S] each, in the order of ``names``.

    Attributes:
        names: of the stitched networks.
        samples: how many.
        accuracy: fraction of samples classified rightly.
        accuracy_a, accuracy_b: of the networks that gave the bottom and the top.
        relative_a, relative_b: accuracy divided by A's and by B's; the paper's measure is the latter.
        relative_error: standard error of ``relative_b`` over the choice of samples, both networks judged
            on the same ones (delta method).
        loss: cross-entropy to the labels, in nats.
        cross_entropy: to B's class probabilities, in nats: what training with soft targets minimises. At
            least B's entropy.
        disagreement_a, disagreement_b: fraction of samples put into another class than A, than B puts them.
        jensen_shannon: Jensen–Shannon divergence from B's class probabilities, in nats (at most log 2).
        calibration_error: expected calibration error: |accuracy − confidence| averaged over 15 bins of
            confidence of equal width (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
        calibration_error_a, calibration_error_b: of A and of B.
    """

    names: tuple[str, ...]
    samples: int
    accuracy: Array
    accuracy_a: Array
    accuracy_b: Array
    relative_a: Array
    relative_b: Array
    relative_error: Array
    loss: Array
    cross_entropy: Array
    disagreement_a: Array
    disagreement_b: Array
    jensen_shannon: Array
    calibration_error: Array
    calibration_error_a: Array
    calibration_error_b: Array

    @property
    def headline(self) -> str:
        """How many stitches there are, and which comes closest to B's accuracy."""
        best = int(np.argmax(self.relative_b))
        return (
            f"{len(self.names)} stitches on {self.samples} samples, the best is {self.names[best]!r} with "
            f"{self.relative_b[best]:.1%} of B's accuracy"
        )

    def table(self) -> str:
        """A row for each stitch: accuracies, divergences from B, disagreement and calibration error."""
        header = ["stitch", "accuracy", "relative to B", "± s.e.", "relative to A", "cross-entropy to B"]
        header += ["disagreement with B", "with A", "JSD to B (nats)", "calibration error"]
        columns = (
            self.accuracy,
            self.relative_b,
            self.relative_error,
            self.relative_a,
            self.cross_entropy,
            self.disagreement_b,
            self.disagreement_a,
            self.jensen_shannon,
            self.calibration_error,
        )
        return markdown(header, [(name, *row) for name, *row in zip(self.names, *columns, strict=True)])

    def plot(self, path: str | Path) -> Path:
        """Write a picture of relative accuracies and divergences; returns its path."""
        figure, axes = new_figure(2, max(1, round(len(self.names) / 12)))
        for axis in axes.flat[2:]:
            axis.remove()
        at = np.arange(len(self.names))[::-1]
        axes[0, 0].errorbar(self.relative_b, at, xerr=1.96 * self.relative_error, fmt="o", capsize=3)
        axes[0, 0].axvline(1, color="black", linestyle=":", linewidth=1)
        axes[0, 0].set_yticks(at, self.names)
        axes[0, 0].set_xlabel("accuracy relative to B, 95 % interval")
        axes[0, 1].plot(self.cross_entropy, at, "o")
        axes[0, 1].set_yticks(at, [""] * len(at))
        axes[0, 1].set_xlabel("cross-entropy to B (nats)")
        figure.suptitle(f"Stitched networks on {self.samples:,} samples")
        return save(figure, path)


def score(
    stitches: Stitched | Sequence[Stitched] | Mapping[str, Stitched],
    data: Any,
    *,
    progress: bool | None = None,
) -> Scores:
    """Evaluate stitched networks; every network and every bottom runs once, whatever the number of stitches.

    Args:
        stitches: one, several, or several by name; of any networks with the same classes.
        data: ``(x, y)`` with class numbers y [N], a Dataset of such pairs or a DataLoader.
        progress: show a progress bar; if None, when standard error is a terminal.

    Raises:
        TypeError: something else than a stitched network.
        ValueError: there are none, the data have no labels or others than the networks' classes, or a
            network returns no logits [N, classes].

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> stitches = {
        ...     "identity": fc.stitching.match(one, one, x, "identity", progress=False),
        ...     "random": fc.stitching.match(one, other, x, "random", progress=False),
        ... }
        >>> scores = fc.stitching.score(stitches, (x, y), progress=False)
        >>> scores.names
        ('identity', 'random')
        >>> float(scores.relative_b[0])  # a stitched to itself
        1.0
    """
    named = _named(stitches)
    samples = as_data(data)
    ends: dict[Network, list[Cut]] = {}
    for stitch in named.values():
        a, b = stitch.ends
        check_labels(data, samples, b.network.classes)
        if a.network.classes != b.network.classes:
            raise ValueError(f"{a.network.name} and {b.network.name} have different numbers of classes")
        ends.setdefault(a.network, []).append(a)
        ends.setdefault(b.network, [])
    taps = {
        network: ([cut.layer.value for cut in cuts], network.taps([cut.layer for cut in cuts]))
        for network, cuts in ends.items()
    }
    totals: dict[str, Any] = dict.fromkeys(named, 0)
    with bar(samples.samples, "sample", progress) as shown, torch.no_grad():
        for x, y in samples.batches(batch_size([cut for cuts in ends.values() for cut in cuts])):
            values, logits = {}, {}
            for network, (names, part) in taps.items():
                activations, output = network.run(part, x)
                values[network] = dict(zip(names, activations, strict=True))
                logits[network] = _logits(output)
            for name, stitch in named.items():
                a, b = stitch.ends
                stitched = _logits(stitch.top(stitch.layer(values[a.network][a.layer.value])))
                triple = torch.stack([stitched, logits[a.network], logits[b.network]])
                totals[name] = totals[name] + _sums(triple.double(), y.to(stitched.device)).cpu()
            shown.update(len(x))
    return _scores(named, samples.samples, torch.stack([totals[name] for name in named]).numpy())


def _named(stitches: Stitched | Sequence[Stitched] | Mapping[str, Stitched]) -> dict[str, Stitched]:
    if isinstance(stitches, Stitched):
        stitches = [stitches]
    if not isinstance(stitches, Mapping):
        stitches = {str(number): stitch for number, stitch in enumerate(stitches)}
    if not stitches:
        raise ValueError("there are no stitches to evaluate")
    for name, stitch in stitches.items():
        if not isinstance(stitch, Stitched):
            raise TypeError(f"stitch {name!r} is a {type(stitch).__name__}; pass stitched networks")
    return dict(stitches)


def _logits(output: Any) -> Tensor:
    (logits,) = tree_leaves(output)
    tensor: Tensor = logits
    return tensor


#: What :func:`_sums` adds up before the bins: right (own, A, B), own and B right, loss, cross-entropy,
#: differing from A and B, divergence.
_SUMS = 9


def _sums(logits: Tensor, y: Tensor) -> Tensor:
    """Sums over samples for a stitch, A and B: logits [3, N, C], y [N] -> [9 + 3 · bins]."""
    compared = pairs(logits, y)
    right = (logits.argmax(2) == y).double()
    own, _, b = logits.log_softmax(2)
    cross_entropy = -(b.exp() * own).sum()
    confidence = logits.softmax(2).amax(2)
    bins = (confidence * _BINS).ceil().long().clamp(1, _BINS) - 1
    excess = logits.new_zeros(3, _BINS)
    for each, which, value in zip(excess, bins, right - confidence, strict=True):
        each.index_add_(0, which, value)
    first = torch.stack(
        [
            *right.sum(1),
            (right[0] * right[2]).sum(),
            -own.gather(1, y[:, None]).sum(),
            cross_entropy,
            compared.differ[0, 1],
            compared.differ[0, 2],
            compared.divergence[0, 2],
        ]
    )
    return torch.cat([first, excess.flatten()])


def _scores(named: Mapping[str, Stitched], samples: int, sums: Array) -> Scores:
    """Measures from sums [stitches, 9 + 3 · bins] over samples, as :func:`_sums` lays them out."""
    own, a, b, both, loss, cross_entropy, differ_a, differ_b, divergence = sums[:, :_SUMS].T / samples
    with np.errstate(divide="ignore", invalid="ignore"):
        relative_a, relative_b = own / a, own / b
        # Var(own − r b) / (n b²) for indicators own, b and their ratio r
        spread = own - 2 * relative_b * both + relative_b**2 * b
        relative_error = np.sqrt(np.maximum(spread, 0) / samples) / b
    # in a bin, |accuracy − confidence| times its share of the samples is |Σ (right − confidence)| / n
    errors = np.abs(sums[:, _SUMS:].reshape(-1, 3, _BINS)).sum(2).T / samples
    return Scores(
        names=tuple(named),
        samples=samples,
        accuracy=own,
        accuracy_a=a,
        accuracy_b=b,
        relative_a=relative_a,
        relative_b=relative_b,
        relative_error=relative_error,
        loss=loss,
        cross_entropy=cross_entropy,
        disagreement_a=differ_a,
        disagreement_b=differ_b,
        jensen_shannon=divergence,
        calibration_error=errors[0],
        calibration_error_a=errors[1],
        calibration_error_b=errors[2],
    )
