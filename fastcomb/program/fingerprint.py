"""What decides a module's function besides the values of its parameters and buffers, as one hash.

Types and their code, plain attributes, tensors that are no buffers, hooks, and the global names that its
code mentions. Two modules with one fingerprint, and any values of the same shapes, compute the same.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import logging
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastcomb.program.choose import Choose, Tensors

_DEEPEST = 16
_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.layout,
    range,
    slice,
)
_APART = {"training", "_parameters", "_buffers", "_modules"}
#: What Python itself keeps in classes.
_OF_CLASSES = {"_abc_impl", "_is_protocol"}
_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)
#: Packages whose functions and classes stay as they are.
_LIBRARIES = {
    "torch",
    "builtins",
    "numpy",
    "math",
    "typing",
    "collections",
    "functools",
    "itertools",
    "warnings",
}
#: A package that reaches files, locks and what is installed: of its classes and functions the code counts,
#: not what that code names elsewhere. Which of its functions run, its modules' configurations say.
_REACHING = "transformers"


class Opaque(Exception):
    """Something of which one cannot say whether it is the same another time."""


def fingerprint(model: nn.Module, *, values: bool = False) -> str | None:
    """A hash of what a module computes; None where that cannot be told.

    Args:
        model: the module.
        values: take in the values of its buffers.
    """
    named = (*model.named_parameters(), *model.named_buffers())
    writer = _Writer({id(tensor): name for name, tensor in named})
    try:
        for name, module in model.named_modules(remove_duplicate=False):
            writer.put(name)
            writer.module(module)
        first: dict[int, str] = {}
        for name, tensor in (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ):
            writer.put((name, first.setdefault(id(tensor), name), tuple(tensor.shape), str(tensor.dtype)))
        for _, buffer in model.named_buffers() if values else ():
            writer.tensor(buffer)
    except Opaque:
        return None
    return writer.hash.hexdigest()


class _Writer:
    """Feeds what decides a function into a hash; what was met before is put down by its number.

    ``own`` are names of parameters and buffers by id, which count by name wherever they are met.
    """

    def __init__(self, own: Mapping[int, str]) -> None:
        self.hash = hashlib.sha256()
        self._own = own
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # alive while their numbers are in use

    def put(self, value: object) -> None:
        self.hash.update(repr(value).encode())
        self.hash.update(b"\0")

    def tensor(self, value: Tensor) -> None:
        self.put((tuple(value.shape), str(value.dtype), str(value.device)))
        if value.device.type == "meta":
            return
        try:
            plain = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        except RuntimeError as error:  # sparse, quantised, …
            raise Opaque from error
        self.hash.update(plain.numpy().tobytes())

    def module(self, module: nn.Module) -> None:
        self.type(type(module))
        self.put(module.training)
        attributes = {name: value for name, value in vars(module).items() if name not in _APART}
        hooks = {name for name, value in attributes.items() if "_hooks" in name and isinstance(value, dict)}
        ranks = sorted({number for name in hooks for number in attributes[name]}, key=str)
        for name in hooks:  # torch counts hooks over all modules that ever were
            attributes[name] = {ranks.index(number): hook for number, hook in attributes[name].items()}
        self.value(attributes, 0)

    def type(self, kind: type) -> None:
        """A class and the code of its methods, with what that names; of torch's classes their forward."""
        self.put((kind.__module__, kind.__qualname__))
        if self._again(kind):
            return
        for base in kind.__mro__:
            if base.__module__.partition(".")[0] in _LIBRARIES:
                forward = vars(base).get("forward")
                if isinstance(forward, types.FunctionType):
                    self.code(forward.__code__)
                continue
            if _of(base, _REACHING):
                for name, value in vars(base).items():
                    if isinstance(value, types.FunctionType):
                        self.put(name)
                        self.code(inspect.unwrap(value).__code__)
                continue
            for name, value in vars(base).items():
                if isinstance(value, (staticmethod, classmethod)):
                    value = value.__func__
                if isinstance(value, property):
                    value = value.fget
                if isinstance(value, functools.cached_property):
                    value = value.func
                if isinstance(value, types.FunctionType):
                    self.put(name)
                    self.function(value, 0)
                elif not (name.startswith("__") or name in _OF_CLASSES or isinstance(value, _DESCRIPTORS)):
                    self.put(name)
                    self.value(value, 1)

    def code(self, code: types.CodeType) -> None:
        self.hash.update(code.co_code)
        self.put((code.co_names, [c for c in code.co_consts if not inspect.iscode(c)]))
        for inner in filter(inspect.iscode, code.co_consts):
            self.code(inner)

    def function(self, function: types.FunctionType, depth: int) -> None:
        """Its code, defaults and closure and, unless it is torch's, the globals that it names."""
        if self._again(function):
            return
        self.code(function.__code__)
        self.value((function.__defaults__, function.__kwdefaults__), depth + 1)
        for cell in function.__closure__ or ():
            try:
                self.value(cell.cell_contents, depth + 1)
            except ValueError:  # not filled yet
                self.put("empty")
        if _of(function, "torch", _REACHING):
            return
        names = list(_names(function.__code__))
        for name in names:
            if name in function.__globals__:
                self.put(name)
                self._global(function.__globals__[name], names, depth)

    def _global(self, value: Any, names: list[str], depth: int) -> None:
        """What a global name stands for; of a module, what the names in the code stand for in it."""
        if isinstance(value, types.ModuleType):
            self.put(value.__name__)
            if value.__name__.partition(".")[0] in _LIBRARIES or self._again(value):
                return
            for name in names:
                if name in vars(value) and not isinstance(vars(value)[name], types.ModuleType):
                    self.put(name)
                    self._global(vars(value)[name], names, depth + 1)
        elif isinstance(value, (types.FunctionType, type)):
            self.put((value.__module__, value.__qualname__))
            if value.__module__.partition(".")[0] in _LIBRARIES or depth >= _DEEPEST:
                return
            self.function(value, depth + 1) if isinstance(value, types.FunctionType) else self.type(value)
        else:
            self.value(value, depth + 1)

    def value(self, value: Any, depth: int) -> None:
        """Anything that an attribute may hold, with what it holds itself.

        Raises:
            Opaque: it cannot be told from others, or nests too deep.
        """
        if isinstance(value, _PLAIN):
            self.put((type(value).__name__, value))
            return
        if depth > _DEEPEST:
            raise Opaque
        if self._again(value):
            return
        deeper = functools.partial(self.value, depth=depth + 1)
        if id(value) in self._own:  # the lists of weights that recurrent layers keep
            self.put(self._own[id(value)])
        elif isinstance(value, weakref.ref):
            deeper(value())
        elif isinstance(value, Tensor):
            self.tensor(value)
        elif isinstance(value, (np.ndarray, np.generic)):
            self.put((value.shape, str(value.dtype), value.tobytes()))
        elif isinstance(value, enum.Enum):
            self.put(str(value))
        elif isinstance(value, Mapping):
            self.put((type(value).__qualname__, len(value)))
            for key, item in list(value.items()):
                deeper(key)
                deeper(item)
        elif isinstance(value, (list, tuple)):
            self.put((type(value).__qualname__, len(value)))
            for item in value:
                deeper(item)
        elif isinstance(value, (set, frozenset)):
            parts = []
            for item in value:
                if not isinstance(item, _PLAIN):
                    raise Opaque
                parts.append(repr(item))
            self.put(sorted(parts))
        elif isinstance(value, types.FunctionType):
            self.function(value, depth)
        elif isinstance(value, types.MethodType):
            self.function(value.__func__, depth) if isinstance(value.__func__, types.FunctionType) else None
            deeper(value.__self__)
        elif isinstance(value, functools.partial):
            deeper((value.func, value.args, value.keywords))
        elif isinstance(value, type):
            self.type(value)
        elif isinstance(value, (Choose, Tensors)):  # our own, whose code stays as it is
            self.put(type(value).__qualname__)
            deeper(vars(value))
        elif isinstance(value, types.ModuleType | types.BuiltinFunctionType | logging.Logger):
            self.put(getattr(value, "__name__", ""))
        elif isinstance(value, nn.Module):
            self.module(value)
            for tensor in (*value.parameters(), *value.buffers()):
                self.tensor(tensor)
            for child in value.children():
                deeper(child)
        elif hasattr(value, "__dict__"):
            self.type(type(value))
            deeper(vars(value))
        else:
            raise Opaque

    def _again(self, value: object) -> bool:
        """Whether a value was met before, in which case its number is put down."""
        number = self._seen.setdefault(id(value), len(self._seen))
        self._kept.append(value)
        self.put(number)
        return number < len(self._seen) - 1


def _of(value: type | types.FunctionType, *packages: str) -> bool:
    """Whether a class or function was defined in one of these packages."""
    return value.__module__.partition(".")[0] in packages


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in filter(inspect.iscode, code.co_consts):
        yield from _names(inner)
