"""Losses and accuracy of K combinations on a batch of samples, in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcomb.backends.base import Score
from fastcomb.backends.criterion import OF_CLASSES, Criterion
from fastcomb.utils.outputs import mapped, tensors

#: A loss as users write one: (output [S, ...], y [S, ...]) -> per-sample loss [S].
UserLoss = Callable[[Any, Tensor], Tensor]


def loss_of(criterion: Criterion) -> Score:
    """The score of a loss that is settled on outputs and targets (:class:`Criterion`)."""

    def each(output: Tensor, y: Tensor) -> Tensor:
        """Losses of the targets of samples: output [S, C, ...] or entries, y to match."""
        kind, smoothing = criterion.kind, criterion.label_smoothing
        weight = None if criterion.weight is None else output.new_tensor(criterion.weight)
        ignored = -100 if criterion.ignore_index is None else criterion.ignore_index
        if kind == "cross_entropy":
            return F.cross_entropy(
                output, y, weight, reduction="none", label_smoothing=smoothing, ignore_index=ignored
            )
        if kind == "nll":
            return F.nll_loss(output, y, weight, reduction="none", ignore_index=ignored)
        if kind == "huber":
            return F.huber_loss(output, y, reduction="none", delta=criterion.threshold)
        if kind == "smooth_l1":
            return F.smooth_l1_loss(output, y, reduction="none", beta=criterion.threshold)
        if kind == "bce_with_logits":
            return F.binary_cross_entropy_with_logits(output, y, reduction="none")
        return {"mse": F.mse_loss, "l1": F.l1_loss}[kind](output, y, reduction="none")

    def score(outputs: Any, y: Tensor) -> Tensor:
        output: Tensor = outputs
        count, samples = output.shape[:2]
        if criterion.dimension == -1:
            output = output.movedim(-1, 2)
            y = y.movedim(-1, 1) if criterion.probabilities else y
        target = y.expand(count, *y.shape).flatten(0, 1)
        if not criterion.numbers:
            target = target.to(output.dtype)
        found = each(output.flatten(0, 1), target)
        return _per_sample(found.reshape(count, samples, -1), criterion)

    return score


def accuracy_of(criterion: Criterion) -> Score:
    """The score that goes with a loss that is settled on outputs and targets.

    The share of class numbers found by argmax over the classes, or of entries y [S, ...] that are above one
    half where the outputs [K, S, ...] are above zero and nowhere else.
    """

    def score(outputs: Any, y: Tensor) -> Tensor:
        right: Tensor
        count, samples = outputs.shape[:2]
        if criterion.kind not in OF_CLASSES:
            right = (outputs > 0) == (y > 0.5)
        else:
            dimension = -1 if criterion.dimension == -1 else 2
            right = outputs.argmax(dimension) == y
            if y.ndim == 1 and criterion.factor is None:
                return right
            if criterion.ignore_index is not None:
                right &= y != criterion.ignore_index
        return _per_sample(right.reshape(count, samples, -1).float(), criterion)

    return score


def own(function: UserLoss) -> Score:
    """The score of a callable of one combination's output and the targets."""

    def score(outputs: Any, y: Tensor) -> Tensor:
        return torch.stack([function(_combination(outputs, k), y) for k in range(_count(outputs))])

    return score


def no_accuracy(outputs: Any, y: Tensor) -> Tensor:
    """NaN [K, S]: the task has no classes."""
    return torch.full((_count(outputs), len(y)), torch.nan, device=y.device)


def _per_sample(values: Tensor, criterion: Criterion) -> Tensor:
    """Values of targets [K, S, targets], 0 for ignored ones, as those of samples."""
    if criterion.factor is None:
        return values.mean(2)
    return values.double().sum(2) * criterion.factor


def _count(outputs: Any) -> int:
    return len(tensors(outputs)[0])


def _combination(outputs: Any, k: int) -> Any:
    return mapped(lambda t: t[k], outputs)
