"""Losses, accuracy and further measures, settled on a network's outputs and the targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastcomb.backends.base import Score, Scores
from fastcomb.backends.criterion import OF_CLASSES, Criterion
from fastcomb.data.samples import Data
from fastcomb.sweep.measures import UserLoss, accuracy_of, loss_of, no_accuracy, own
from fastcomb.utils.outputs import mapped

#: The accuracy of class numbers against logits.
ARGMAX = "argmax"

#: Columns that a sweep has by itself.
RESERVED = ("index", "loss", "accuracy")

#: How far the sum of probabilities may be from 1: half precision rounds.
_TOTAL = 0.05


def check_accuracy(accuracy: str | UserLoss | None) -> None:
    """Raise ValueError or TypeError unless ``accuracy=`` is "argmax", a callable or None."""
    if isinstance(accuracy, str) and accuracy != ARGMAX:
        raise ValueError(f"accuracy={accuracy!r} is neither {ARGMAX!r} nor a callable")
    if accuracy is not None and not isinstance(accuracy, str) and not callable(accuracy):
        raise TypeError(
            f"accuracy is a {type(accuracy).__name__}; pass {ARGMAX!r} or a callable (output, y) -> [S]"
        )


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


def scores(
    loss: Criterion | UserLoss,
    accuracy: str | UserLoss | None,
    metrics: Mapping[str, UserLoss],
    output: Any,
    y: Tensor,
    data: Data,
) -> Scores:
    """What is measured, checked on a model's output on its first samples.

    Accuracy is that of ``accuracy``, or with class numbers the share found by argmax, or with
    bce_with_logits that of signs; else NaN.

    Args:
        loss, accuracy, metrics: what was read.
        output: the model's output on some samples [S, ...].
        y: their targets [S, ...].
        data: all data, read with the loss's ``ignored``.

    Raises:
        TypeError, ValueError: a measure cannot be computed from these.
    """
    for name, metric in metrics.items():
        check_measure(f"metrics[{name!r}]", metric, output, y)
    settled = None
    if isinstance(loss, Criterion):
        settled = settle(loss, output, y, data)
    else:
        check_measure("loss", loss, output, y)
    measured: Criterion | None = None
    if callable(accuracy):
        check_measure("accuracy", accuracy, output, y)
    elif accuracy == ARGMAX and not (settled and settled.numbers):
        measured = _argmax(output, y, data)
    elif settled and (settled.numbers or settled.kind == "bce_with_logits"):
        weighed = settled.weight is not None
        measured = dataclasses.replace(settled, weight=None, factor=_factor(data)) if weighed else settled
    rate = own(accuracy) if callable(accuracy) else accuracy_of(measured) if measured else no_accuracy
    measures: list[Score] = [loss_of(settled) if settled else own(loss), rate]  # type: ignore[arg-type]
    has_accuracy = callable(accuracy) or measured is not None
    known = settled is not None and settled.weight is None
    alone = settled if known and not callable(accuracy) and measured in (None, settled) else None
    return Scores((*measures, *map(own, metrics.values())), alone, has_accuracy)


def settle(loss: Criterion, output: Any, y: Tensor, data: Data) -> Criterion:
    """A loss with what outputs and targets say: where the classes are, and what the targets are.

    Raises:
        TypeError, ValueError: it cannot be computed from these.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the model returns a {type(output).__name__}; loss='{loss}' needs one tensor. Pass a callable "
            "loss(output, y) that picks what it needs"
        )
    of_classes = loss.kind in OF_CLASSES
    if not of_classes or (loss.kind == "cross_entropy" and y.is_floating_point()):
        if y.shape != output.shape:
            raise ValueError(
                f"loss='{loss}': targets {tuple(y.shape)} and outputs {tuple(output.shape)} differ in shape"
                + ("; class numbers must be integers" if of_classes else "")
            )
        if of_classes and output.ndim < 2:
            raise ValueError(f"loss='{loss}' needs outputs [S, C, ...]; got {tuple(output.shape)}")
        if loss.ignore_index is not None and loss.ignore_index >= 0:
            raise ValueError(
                f"loss='{loss}': ignore_index= is of class numbers, and these targets are probabilities"
            )
        if loss.kind == "bce_with_logits" and not 0 <= (data.lowest or 0) <= (data.highest or 0) <= 1:
            raise ValueError(
                f"loss='{loss}': targets run from {data.lowest} to {data.highest}; they must be 0 to 1"
            )
        dimension = -1 if loss.dimension == -1 and output.ndim > 2 else 1
        if loss.weight is not None:
            _check_weights(loss, output.shape[dimension])
        return dataclasses.replace(loss, dimension=dimension, ignore_index=None, probabilities=of_classes)
    found = _dimension(loss.dimension, output, y)
    if found is None:
        shape = "[S, ..., C]" if loss.dimension == -1 else "[S, C, ...] or [S, ..., C]"
        raise ValueError(
            f"loss='{loss}' needs class numbers (integers) of shape [S, ...] for outputs {shape}; got "
            f"{y.dtype} {tuple(y.shape)} for outputs {tuple(output.shape)}"
        )
    dimension = found
    if not data.targets:
        raise ValueError(f"loss='{loss}': all targets are {loss.ignore_index}, which is left out")
    _check_labels(output.shape[dimension], data)
    if loss.kind == "nll":
        total = float(output.double().exp().sum(dimension).mean())
        if not abs(total - 1) <= _TOTAL:
            raise ValueError(
                "loss='nll' needs log-probabilities, whose exponentials sum to 1 over the classes; these "
                f"sum to {total:.3g}. For logits, loss='cross_entropy' is meant"
            )
    factor = _factor(data)
    if loss.weight is not None:
        _check_weights(loss, output.shape[dimension])
        factor = data.samples / _weight_of_targets(loss, data)
    return dataclasses.replace(loss, dimension=dimension, factor=factor)


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


def check_measure(label: str, function: Callable[[Any, Tensor], Any], output: Any, y: Tensor) -> None:
    """Raise ValueError unless the function yields one number per sample."""
    value = function(output, y)
    if not isinstance(value, Tensor) or value.shape != y.shape[:1]:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"{label}(output, y) returned {got} for {len(y)} samples; it must return one number per "
            f'sample, shape ({len(y)},) (for example with reduction="none")'
        )


def _samples(output: Any, part: slice, count: int) -> Any:
    return mapped(lambda t: t[part] if t.ndim and len(t) == count else t, output)


def _dimension(asked: int | None, output: Tensor, y: Tensor) -> int | None:
    """The dimension of the classes that outputs have for class numbers y: 1 or -1; None if none fits.

    Args:
        asked: -1: the last one and no other; 1: where both fit, the first.

    Raises:
        ValueError: both fit, and nothing was asked.
    """
    if y.is_floating_point() or output.ndim < 2:
        return None
    first = y.shape == output.shape[:1] + output.shape[2:] and (asked != -1 or output.ndim == 2)
    last = y.shape == output.shape[:-1] and output.ndim > 2
    if first and last and asked is None:
        raise ValueError(
            f"outputs {tuple(output.shape)} with targets {tuple(y.shape)} can be read in two ways: the "
            "classes may be dimension 1, as torch has it (loss=nn.CrossEntropyLoss() says so), or the last "
            'one, as token models have it (loss="token_cross_entropy"); or pass a callable '
            "loss(output, y) -> [S] that says which"
        )
    return 1 if first else -1 if last else None


def _argmax(output: Any, y: Tensor, data: Data) -> Criterion:
    """Class numbers that are compared with argmax, whatever the loss.

    Raises:
        ValueError: there are none, or they may be read in two ways.
    """
    dimension = _dimension(None, output, y) if isinstance(output, Tensor) else None
    if dimension is None:
        raise ValueError(
            'accuracy="argmax" needs class numbers (integers) of shape [S, ...] for outputs [S, C, ...] or '
            f"[S, ..., C]; got {y.dtype} {tuple(y.shape)}; pass a callable accuracy(output, y) -> [S]"
        )
    _check_labels(output.shape[dimension], data)
    return Criterion("cross_entropy", dimension, factor=_factor(data))


def _factor(data: Data) -> float | None:
    """What makes means over samples those over targets (:class:`Criterion`)."""
    return None if data.complete else data.samples / data.targets


def _check_weights(loss: Criterion, classes: int) -> None:
    assert loss.weight is not None
    if len(loss.weight) != classes:
        raise ValueError(f"loss has {len(loss.weight)} weights, but the model has {classes} logits")


def _weight_of_targets(loss: Criterion, data: Data) -> float:
    """The weights of all targets that are counted, added up.

    Raises:
        ValueError: they are 0.
    """
    weight = torch.tensor(loss.weight, dtype=torch.float64)
    total = 0.0
    for _, y in data.batches(data.samples):
        total += float(weight[y[y != loss.ignore_index].cpu()].sum())
    if not total:
        raise ValueError("loss: the weights of all targets are 0")
    return total


def _check_labels(classes: int, data: Data) -> None:
    lowest, highest = data.lowest, data.highest
    if (lowest or 0) < 0 or (highest or 0) >= classes:
        raise ValueError(
            f"labels run from {lowest} to {highest}, but the model has {classes} logits "
            f"(classes 0 to {classes - 1})"
            + ("; say which are left out: nn.CrossEntropyLoss(ignore_index=…)" if (lowest or 0) < 0 else "")
        )
