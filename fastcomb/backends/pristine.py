"""What a forward pass leaves behind in a module, and putting it back."""

from __future__ import annotations

import types
from collections import deque
from typing import Any

import numpy as np
from torch import Tensor, nn

_DEEPEST = 6
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, types.FunctionType)


class Pristine:
    """The state of a module outside its parameters and buffers: attributes, containers and tensors in them.

    A module may keep results for its next call: attention biases by device, the weight that a hook
    computes, a layer made at first use, a count. They belong to one combination, and the next one must not
    find them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._seen: set[int] = set()
        self._objects: list[Any] = []  # kept alive, so that no other gets the number of one that is gone
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._lists: list[tuple[list[Any], list[Any]]] = []
        self._deques: list[tuple[deque[Any], list[Any]]] = []
        self._sets: list[tuple[set[Any], set[Any]]] = []
        self._slots: list[tuple[Any, dict[str, Any]]] = []
        self._tensors: list[tuple[Tensor, int, Tensor]] = []
        self._arrays: list[tuple[Any, Any]] = []
        for module in model.modules():
            self._keep(vars(module), 0)

    def restore(self) -> None:
        """Put everything back as it was."""
        for one, before in self._dicts:
            if len(one) != len(before) or any(
                one.get(key, self) is not value for key, value in before.items()
            ):
                one.clear()
                one.update(before)
        for items, kept in self._lists:
            if len(items) != len(kept) or any(a is not b for a, b in zip(items, kept, strict=True)):
                items[:] = kept
        for queue, held in self._deques:
            if len(queue) != len(held) or any(a is not b for a, b in zip(queue, held, strict=True)):
                queue.clear()
                queue.extend(held)
        for holder, slots in self._slots:
            for name in _slot_names(holder):
                present = getattr(holder, name, self)
                if present is not slots.get(name, self):
                    setattr(holder, name, slots[name]) if name in slots else delattr(holder, name)
        for members, had in self._sets:
            if members != had:
                members.clear()
                members.update(had)
        for i, (tensor, version, content) in enumerate(self._tensors):
            if tensor._version != version:
                tensor.copy_(content)
                self._tensors[i] = (tensor, tensor._version, content)
        for array, content in self._arrays:
            if not np.array_equal(array, content):
                array[...] = content

    def _keep(self, value: Any, depth: int) -> None:
        """Note a value as it is now, and what it holds; parameters and modules are left out."""
        if isinstance(value, _PLAIN) or depth > _DEEPEST or id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._objects.append(value)
        inside: list[Any] = []
        if isinstance(value, (nn.Parameter, nn.Module)):
            return  # parameters are exchanged in every call, and modules are met by themselves
        if isinstance(value, Tensor):
            if value.device.type != "meta":
                self._tensors.append((value, value._version, value.detach().clone()))
        elif isinstance(value, np.ndarray):
            if value.dtype != object:
                self._arrays.append((value, value.copy()))
        elif isinstance(value, dict):
            self._dicts.append((value, dict(value)))
            inside = list(value.values())
        elif isinstance(value, list):
            self._lists.append((value, list(value)))
            inside = value
        elif isinstance(value, deque):
            self._deques.append((value, list(value)))
            inside = list(value)
        elif isinstance(value, set):
            self._sets.append((value, set(value)))
        elif isinstance(value, tuple):
            inside = list(value)
        else:
            slots = {name: getattr(value, name) for name in _slot_names(value) if hasattr(value, name)}
            if slots:
                self._slots.append((value, slots))
            inside = [*slots.values(), *([vars(value)] if hasattr(value, "__dict__") else [])]
        for item in list(inside):
            self._keep(item, depth + 1)


def _slot_names(value: Any) -> list[str]:
    """Attributes that an object of a Python class keeps outside its ``__dict__``."""
    names = []
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if not name.startswith("__")]
