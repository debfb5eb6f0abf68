"""Copies of modules, so that no call changes what it was given."""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fastcomb.utils.state_dicts import unwrapped

_DEEPEST = 8


def private_copy(model: nn.Module, *, share: bool = False) -> nn.Module:
    """A copy of a module that can be run and changed without a trace in the original; without wrappers.

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
    model = unwrapped(model)
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
    _rebind(copied, {id(module): memo[id(module)] for module in model.modules() if id(module) in memo})
    if not share:
        _forget(copied)
    return copied


def cold_copy(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """A private copy without what the module worked out from its weights in earlier calls.

    A tensor among its attributes, or in a dict of them, is such a thing if the module runs without it and
    puts it there again.

    Args:
        model: the module.
        *args, **kwargs: what it is called with.

    Raises:
        TypeError: as :func:`private_copy`.
    """
    copied = private_copy(model)
    for place in _kept(copied):
        trial = private_copy(copied)
        _remove(trial, *place)
        with contextlib.suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
            # it does not run without it, or not on such inputs at all: that is for the caller to meet
            trial(*tree_map(_cloned, args), **tree_map(_cloned, kwargs))
            if place in _kept(trial):
                _remove(copied, *place)
    return copied


def _kept(model: nn.Module) -> list[tuple[str, str, Any]]:
    """Places of plain tensors: name of the module, of the attribute, and the key where that is a dict."""
    places: list[tuple[str, str, Any]] = []
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor):
                places.append((name, attribute, None))
            elif isinstance(value, dict) and not attribute.startswith("_"):
                places += [(name, attribute, key) for key, item in value.items() if isinstance(item, Tensor)]
    return places


def _remove(model: nn.Module, name: str, attribute: str, key: Any) -> None:
    variables = vars(model.get_submodule(name))
    if key is None:
        variables[attribute] = None
    else:
        del variables[attribute][key]


def _cloned(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _rebind(copied: nn.Module, copies: Mapping[int, nn.Module]) -> None:
    """Let functions that a module holds, such as a ``forward`` of its own or hooks, speak of the copy.

    A function is copied as it is, and one that was defined beside the module may name it: it would go on
    to compute with the original's weights.
    """
    for module in copied.modules():
        for scope in (vars(module), *(value for value in vars(module).values() if isinstance(value, dict))):
            for name, value in scope.items():
                if isinstance(value, types.FunctionType):
                    scope[name] = _speaking_of(value, copies)


def _speaking_of(function: types.FunctionType, copies: Mapping[int, nn.Module]) -> types.FunctionType:
    """A function with copies in the place of the modules that it names."""
    cells = function.__closure__ or ()
    inside = [_content(cell) for cell in cells]
    named = {
        name: copies[id(function.__globals__[name])]
        for name in function.__code__.co_names
        if id(function.__globals__.get(name)) in copies
    }
    if not named and not any(id(content) in copies for content in inside):
        return function
    closure = tuple(
        types.CellType(copies[id(content)]) if id(content) in copies else cell
        for cell, content in zip(cells, inside, strict=True)
    )
    scope = {**function.__globals__, **named} if named else function.__globals__
    rebound = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, closure)
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


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
