"""Losses and accuracy of K combinations on a batch of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcomb.backends.base import Score
from fastcomb.utils.outputs import mapped, tensors

#: A loss as users write one: (output [S, ...], y [S, ...]) -> per-sample loss [S].
UserLoss = Callable[[Any, Tensor], Tensor]

#: The accuracy of class numbers against logits.
ARGMAX = "argmax"

#: How far the sum of probabilities may be from 1: half precision rounds.
_TOTAL = 0.05

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


def resolve_accuracy(accuracy: str | UserLoss | None, classes: bool) -> Score:
    """The score behind ``accuracy=``, where ``classes`` says whether argmax has a meaning.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a callable.
    """
    if isinstance(accuracy, str) and accuracy != ARGMAX:
        raise ValueError(f"accuracy={accuracy!r} is neither {ARGMAX!r} nor a callable")
    if accuracy is not None and not isinstance(accuracy, str):
        if not callable(accuracy):
            raise TypeError(
                f"accuracy is a {type(accuracy).__name__}; pass {ARGMAX!r} or a callable (output, y) -> [S]"
            )
        return resolve(accuracy)
    return top_class if classes else no_accuracy


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


def top_class(logits: Any, y: Tensor) -> Tensor:
    """Fraction of class numbers y [S, ...] found by argmax over logits [K, S, C, ...]: [K, S]."""
    correct: Tensor = logits.argmax(2) == y
    return correct.float().flatten(2).mean(2) if y.ndim > 1 else correct


def no_accuracy(outputs: Any, y: Tensor) -> Tensor:
    """NaN [K, S]: the task has no classes."""
    return torch.full((_count(outputs), len(y)), torch.nan, device=y.device)


def check(
    loss: str | UserLoss,
    output: Any,
    y: Tensor,
    highest: int | None,
    lowest: int | None,
    accuracy: str | UserLoss | None = None,
) -> bool:
    """Check a model's output on its first samples against the targets.

    Args:
        loss: as given by the user.
        output: the model's output on some samples [S, ...].
        y: their targets [S, ...].
        highest, lowest: extremes of y over the whole data set, where y holds integers.
        accuracy: as given by the user.

    Returns:
        whether accuracy is the share of samples whose class is found by argmax: with cross-entropy and nll
        of class numbers, or where the user says so.

    Raises:
        TypeError, ValueError: the loss, or accuracy, cannot be computed from these.
    """
    classes = (
        isinstance(output, Tensor)
        and not y.is_floating_point()
        and output.ndim >= 2
        and y.shape == output.shape[:1] + output.shape[2:]
    )
    counted = accuracy == ARGMAX or (loss in ("cross_entropy", "nll") and not y.is_floating_point())
    if counted and classes and output.ndim > 2 and y.shape == output.shape[:-1]:
        raise ValueError(
            f"outputs {tuple(output.shape)} with targets {tuple(y.shape)} can be read in two ways: the "
            "classes "
            "may be dimension 1, as torch has it, or the last one, as token models have it; pass a callable "
            "loss(output, y) -> [S] that says which"
        )
    if accuracy == ARGMAX and not classes:
        raise ValueError(
            'accuracy="argmax" needs class numbers (integers) of shape [S, ...] for outputs [S, C, '
            "...]; got "
            f"{y.dtype} {tuple(y.shape)}; pass a callable accuracy(output, y) -> [S]"
        )
    if callable(accuracy):
        check_measure("accuracy", accuracy, output, y)
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
    if counted and classes and (min(lowest or 0, 0) < 0 or (highest or 0) >= output.shape[1]):
        raise ValueError(
            f"labels run from {lowest} to {highest}, but the model has {output.shape[1]} logits "
            f"(classes 0 to {output.shape[1] - 1})"
        )
    if loss == "nll" and classes:
        total = float(output.double().exp().sum(1).mean())
        if not abs(total - 1) <= _TOTAL:
            raise ValueError(
                "loss='nll' needs log-probabilities, whose exponentials sum to 1 over the classes; "
                "these sum "
                f"to {total:.3g}. For logits, loss='cross_entropy' is meant"
            )
    return counted and classes


def together(function: UserLoss, output: Any, y: Tensor) -> bool:
    """Whether a callable's value for a sample depends on the others that it is called with.

    Args:
        function: a user's loss or metric.
        output, y: a model's output on some samples [S, ...] and their targets.
    """
    if len(y) < 2:
        return False
    half = len(y) // 2
    try:
        whole = function(output, y)
        parts = [
            function(_samples(output, part, len(y)), y[part]) for part in (slice(half), slice(half, None))
        ]
        return not torch.allclose(torch.cat(parts), whole, rtol=1e-4, atol=1e-6, equal_nan=True)
    except Exception:  # it cannot do with fewer samples
        return True


def _samples(output: Any, part: slice, count: int) -> Any:
    return mapped(lambda t: t[part] if t.ndim and len(t) == count else t, output)


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
    return len(tensors(outputs)[0])


def _combination(outputs: Any, k: int) -> Any:
    return mapped(lambda t: t[k], outputs)
