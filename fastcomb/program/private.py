"""Copies of modules, so that no call changes what it was given."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

_DEEPEST = 8


def private_copy(model: nn.Module, *, share: bool = False) -> nn.Module:
    """A copy of a module that can be run and changed without a trace in the original.

    As :func:`copy.deepcopy`, which torch refuses for modules that hold results of operations: the weight
    that ``weight_norm`` or ``spectral_norm`` hooks keep, or anything cached in ``forward`` under autograd.
    Such tensors are copied without their history.

    Args:
        model: the module.
        share: keep the original's parameters and buffers instead of copies of them, for a copy of which
            only the structure is used.

    Raises:
        TypeError: the module holds something that cannot be copied, such as a lock or an open file.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in _tensors(
            {k: v for k, v in vars(module).items() if k not in ("_parameters", "_modules")}
        ):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    if share:
        tensors = (*model.parameters(), *model.buffers())
        memo |= {id(tensor): tensor for tensor in tensors}
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise TypeError(
            f"{type(model).__name__} cannot be copied, and fastcomb runs copies only ({error}); leave what "
            "cannot be copied out of the module, or give its class a __deepcopy__"
        ) from error
    if not share:
        _forget(copied)
    return copied


def _forget(model: nn.Module) -> None:
    """Let a copy drop what it keeps in eval mode, such as attention biases worked out from weights.

    Modules that do so drop it when they are put in training mode, since weights change there.
    """
    modes = [(module, module.training) for module in model.modules()]
    with contextlib.suppress(Exception):  # a module that refuses another mode has its reasons
        model.train()
        model.eval()
    for module, mode in modes:
        module.training = mode


def _tensors(value: Any, depth: int = 0) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth < _DEEPEST and isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item, depth + 1)
    elif depth < _DEEPEST and isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _tensors(item, depth + 1)
