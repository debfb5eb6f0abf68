"""Losses and accuracy of K combinations on a batch of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcomb.backends.base import Score

#: A loss as users write one: (output [S, ...], y [S, ...]) -> per-sample loss [S].
UserLoss = Callable[[Any, Tensor], Tensor]

#: Columns that a sweep has by itself.
RESERVED = ("index", "loss", "accuracy")


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Softmax cross-entropy: logits [K, S, C, ...], y class numbers [S, ...] or probabilities as logits."""
    return _per_sample(lambda output, target: F.cross_entropy(output, target, reduction="none"), logits, y)


def nll(log_probabilities: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood: log-probabilities [K, S, C, ...], y class numbers [S, ...]."""
    return _per_sample(lambda o, target: F.nll_loss(o, target, reduction="none"), log_probabilities, y)


def mse(output: Tensor, y: Tensor) -> Tensor:
    """Squared error, averaged over the entries of a sample: output [K, S, ...], y [S, ...]."""
    return _per_sample(lambda o, target: F.mse_loss(o, target, reduction="none"), output, y)


LOSSES: dict[str, Score] = {"cross_entropy": cross_entropy, "nll": nll, "mse": mse}


def resolve(loss: str | UserLoss) -> Score:
    """The score behind ``loss=``.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a callable.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r} is none of {', '.join(map(repr, LOSSES))}, nor a callable")
        return LOSSES[loss]
    if not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}; pass a name or a callable (output, y) -> [S]")

    def score(outputs: Any, y: Tensor) -> Tensor:
        return torch.stack([loss(_combination(outputs, k), y) for k in range(_count(outputs))])

    return score


def named(metrics: Mapping[str, UserLoss]) -> dict[str, UserLoss]:
    """Further measures by name, checked.

    Raises:
        TypeError, ValueError: a name that cannot name a column, or a value that is not callable.
    """
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics is a {type(metrics).__name__}; pass a mapping of names to callables")
    for name, metric in metrics.items():
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            raise ValueError(
                f"metrics: {name!r} cannot name a column; take an identifier other than {', '.join(RESERVED)}"
            )
        if not callable(metric):
            raise TypeError(
                f"metrics[{name!r}] is a {type(metric).__name__}; pass a callable (output, y) -> [S]"
            )
    return dict(metrics)


def accuracy(logits: Any, y: Tensor) -> Tensor:
    """Fraction of class numbers y [S, ...] found by argmax over logits [K, S, C, ...]: [K, S]."""
    found: Tensor = logits.argmax(2) == y
    return found.float().flatten(2).mean(2) if y.ndim > 1 else found


def no_accuracy(outputs: Any, y: Tensor) -> Tensor:
    """NaN [K, S]: the task has no classes."""
    return torch.full((_count(outputs), len(y)), torch.nan, device=y.device)


def check(loss: str | UserLoss, output: Any, y: Tensor, highest: int | None, lowest: int | None) -> bool:
    """Check a model's output on its first samples against the targets.

    Args:
        loss: as given by the user.
        output: the model's output on some samples [S, ...].
        y: their targets [S, ...].
        highest, lowest: extremes of y over the whole data set, where y holds integers.

    Returns:
        whether accuracy has a meaning here: class numbers against logits.

    Raises:
        TypeError, ValueError: the loss cannot be computed from these.
    """
    classes = (
        isinstance(output, Tensor)
        and not y.is_floating_point()
        and output.ndim >= 2
        and y.shape == output.shape[:1] + output.shape[2:]
    )
    if callable(loss):
        check_measure("loss", loss, output, y)
    elif not isinstance(output, Tensor):
        raise TypeError(
            f"the model returns a {type(output).__name__}; loss={loss!r} needs one tensor. Pass a callable "
            "loss(output, y) that picks what it needs"
        )
    elif loss == "mse" or (loss == "cross_entropy" and y.is_floating_point()):
        if y.shape != output.shape:
            raise ValueError(
                f"loss={loss!r}: targets {tuple(y.shape)} and outputs {tuple(output.shape)} differ in shape"
                + ("; class numbers must be integers" if loss == "cross_entropy" else "")
            )
    elif not classes:
        raise ValueError(
            f"loss={loss!r} needs class numbers (integers) of shape [S, ...] for outputs [S, C, ...]; got "
            f"{y.dtype} {tuple(y.shape)} for outputs {tuple(output.shape)}"
        )
    if classes and not callable(loss) and (min(lowest or 0, 0) < 0 or (highest or 0) >= output.shape[1]):
        raise ValueError(
            f"labels run from {lowest} to {highest}, but the model has {output.shape[1]} logits "
            f"(classes 0 to {output.shape[1] - 1})"
        )
    return classes


def check_measure(label: str, function: UserLoss, output: Any, y: Tensor) -> None:
    """Raise ValueError unless the function yields one number per sample."""
    value = function(output, y)
    if not isinstance(value, Tensor) or value.shape != y.shape[:1]:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"{label}(output, y) returned {got} for {len(y)} samples; it must return one number per "
            f'sample, shape ({len(y)},) (for example with reduction="none")'
        )


def _per_sample(function: UserLoss, output: Tensor, y: Tensor) -> Tensor:
    count, samples = output.shape[:2]
    target = y.expand(count, *y.shape).flatten(0, 1)
    each = function(output.flatten(0, 1), target.to(output.dtype) if y.is_floating_point() else target)
    return each.view(count, samples, -1).mean(2)


def _count(outputs: Any) -> int:
    return len(torch.utils._pytree.tree_leaves(outputs)[0])


def _combination(outputs: Any, k: int) -> Any:
    return torch.utils._pytree.tree_map(lambda t: t[k], outputs)
