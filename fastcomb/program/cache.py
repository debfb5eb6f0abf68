"""Captured programs, kept for modules that are built alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn

from fastcomb.program.capture import capture
from fastcomb.program.ir import Program

_KEPT = 32
_programs: OrderedDict[Hashable, Program] = OrderedDict()


def captured(model: nn.Module, x: Tensor) -> Program:
    """:func:`capture`, done once for modules of the same structure and inputs of the same shape and device.

    Two modules are of the same structure if their submodules have the same types, the same plain
    attributes, and parameters and buffers of the same names, shapes and dtypes; objects of other kinds
    among the attributes must be the same objects.
    """
    key = (tuple(x.shape[1:]), x.dtype, x.device, _structure(model))
    if key not in _programs:
        _programs[key] = capture(model, x)
        if len(_programs) > _KEPT:
            _programs.popitem(last=False)
    _programs.move_to_end(key)
    return _programs[key]


_OWN = {"training", "_parameters", "_buffers", "_modules"}


def _structure(model: nn.Module) -> Hashable:
    modules = tuple(
        (name, type(module), _frozen({k: v for k, v in vars(module).items() if k not in _OWN}))
        for name, module in model.named_modules(remove_duplicate=False)
    )
    first: dict[int, str] = {}
    tensors = tuple(
        (name, first.setdefault(id(tensor), name), tuple(tensor.shape), tensor.dtype)
        for name, tensor in (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        )
    )
    return modules, tensors


def _frozen(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return tuple((_frozen(k), _frozen(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return (type(value), *map(_frozen, value))
    if isinstance(value, (set, frozenset)):
        return frozenset(map(_frozen, value))
    return (type(value), value) if isinstance(value, Hashable) else _Identity(value)


class _Identity:
    """Equal only for the same object, which it keeps alive."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)
