"""Losses as users ask for them: names with settings, modules of torch, callables."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fastcomb.backends.criterion import OF_CLASSES, Criterion
from fastcomb.sweep.measures import UserLoss

#: Names of losses, and settings that they take in brackets.
_NAMES = {
    "cross_entropy": ("ignore_index", "label_smoothing", "weight"),
    "token_cross_entropy": ("ignore_index", "label_smoothing", "weight"),
    "nll": ("ignore_index", "weight"),
    "mse": (),
    "bce_with_logits": (),
    "l1": (),
    "huber": ("delta",),
    "smooth_l1": ("beta",),
}

#: Modules of torch that are understood, and what they are called.
_MODULES = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "nll",
    nn.MSELoss: "mse",
    nn.BCEWithLogitsLoss: "bce_with_logits",
    nn.L1Loss: "l1",
    nn.HuberLoss: "huber",
    nn.SmoothL1Loss: "smooth_l1",
}


def read(loss: Any) -> Criterion | UserLoss:
    """What ``loss=`` says.

    A module of torch counts as what it computes, the mean; with ``reduction="none"`` it is a callable.

    Raises:
        ValueError: an unknown name, or settings that cannot be.
        TypeError: neither a name, nor a module or other callable.
    """
    if isinstance(loss, str):
        return by_name(loss)
    name = _MODULES.get(type(loss))
    if name is not None and loss.reduction != "none":
        for setting in {"weight", "pos_weight"} - set(_NAMES[name]):
            if getattr(loss, setting, None) is not None:
                raise ValueError(
                    f"loss={loss}: {setting}= is not supported; leave it out, or pass a callable "
                    "(output, y) -> [S] that weighs"
                )
        if loss.reduction != "mean":
            raise ValueError(f"loss={loss}: results are means over samples; pass reduction='mean'")
        settings = {setting: getattr(loss, setting) for setting in _NAMES[name]}
        if isinstance(settings.get("weight"), Tensor):
            settings["weight"] = settings["weight"].tolist()
        return dataclasses.replace(_criterion(name, settings), dimension=1 if name in OF_CLASSES else None)
    if not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}; pass a name or a callable (output, y) -> [S]")
    function: UserLoss = loss
    return function


def by_name(text: str) -> Criterion:
    """A loss by name, perhaps with settings: "huber(delta=0.5)"."""
    name, bracket, _ = text.partition("(")
    settings: dict[str, Any] = {}
    if name not in _NAMES:
        raise ValueError(
            f"loss={text!r} is none of {', '.join(map(repr, _NAMES))}, nor a module of torch or a callable"
        )
    if bracket:
        try:
            call = ast.parse(text, mode="eval").body
            assert isinstance(call, ast.Call)
            assert not call.args
            settings = {str(given.arg): ast.literal_eval(given.value) for given in call.keywords}
        except (SyntaxError, ValueError, AssertionError):
            raise ValueError(f"loss={text!r}: write settings as in 'huber(delta=0.5)'") from None
    for setting in settings:
        if setting not in _NAMES[name]:
            known = ", ".join(_NAMES[name]) or "no settings"
            raise ValueError(f"loss={text!r}: {name} has no {setting!r}; it has {known}")
    return _criterion(name, settings)


def ignored(loss: Criterion | UserLoss) -> int | None:
    """The class number that a loss leaves out."""
    return loss.ignore_index if isinstance(loss, Criterion) else None


def _criterion(name: str, settings: Mapping[str, Any]) -> Criterion:
    kind = name.removeprefix("token_")
    ignore_index = settings.get("ignore_index", -100) if kind in OF_CLASSES else None
    smoothing = settings.get("label_smoothing", 0.0)
    threshold = settings.get("delta", settings.get("beta", 1.0))
    if ignore_index is not None and (not isinstance(ignore_index, int) or isinstance(ignore_index, bool)):
        raise ValueError(f"loss={name!r}: ignore_index={ignore_index!r} is not an integer")
    if not _number(smoothing) or not 0 <= smoothing <= 1:
        raise ValueError(f"loss={name!r}: label_smoothing={smoothing!r} is outside [0, 1]")
    if not _number(threshold) or not (threshold > 0 or (kind == "smooth_l1" and threshold == 0)):
        raise ValueError(f"loss={name!r}: {_NAMES[name][0]}={threshold!r} is not positive")
    weight = settings.get("weight")
    if weight is not None and (
        not isinstance(weight, (list, tuple)) or not all(_number(one) and one >= 0 for one in weight)
    ):
        raise ValueError(f"loss={name!r}: weight={weight!r} is no list of a number for each class")
    if kind == "smooth_l1" and threshold == 0:  # as torch has it
        return Criterion("l1")
    dimension = -1 if name.startswith("token_") else None
    weights = None if weight is None else tuple(map(float, weight))
    return Criterion(kind, dimension, ignore_index, float(smoothing), float(threshold), weights)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
