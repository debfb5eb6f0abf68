"""What code computes, as far as that can be told: so that a run is not continued with other code.

Modules and functions are described by their source and by whatever they hold: attributes, defaults, arguments
that were bound, variables of enclosing functions, tensors by their hashes. Functions they call elsewhere and
global variables are not followed.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastcomb.utils.digest import Digest

_DEEPEST = 12


def of_module(module: nn.Module) -> str:
    """SHA-256 of a module's structure and code, its weights aside."""
    parts = [[name, _kind(type(part)), _attributes(part, 0)] for name, part in module.named_modules()]
    return _hash(parts)


def of_function(function: Any) -> Any:
    """A loss as JSON: its name, or for a callable where it is from and a hash of what it computes."""
    if isinstance(function, str):
        return function
    kind = function if hasattr(function, "__qualname__") else type(function)
    return {"callable": f"{kind.__module__}.{kind.__qualname__}", "sha256": _hash(_described(function, 0))}


def of_output(output: Any) -> Any:
    """What an output is chosen by, as JSON: names and indices, or as a loss."""
    return of_function(output) if callable(output) else output


def _described(value: Any, depth: int) -> Any:
    """As JSON has it, without addresses or anything else that another process would see differently."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        return repr(value)
    if depth > _DEEPEST:
        return _kind(type(value))
    deeper = functools.partial(_described, depth=depth + 1)
    if isinstance(value, (Tensor, np.ndarray)):
        return Digest().text(str(tuple(value.shape))).add(torch.as_tensor(value)).hex
    if isinstance(value, Mapping):
        return [[deeper(key), deeper(item)] for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [deeper(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(deeper(item)) for item in value)
    if isinstance(value, functools.partial):
        return [deeper(value.func), deeper(value.args), deeper(value.keywords)]
    if inspect.ismethod(value):
        return [deeper(value.__func__), deeper(value.__self__)]
    if inspect.isfunction(value):
        cells = inspect.getclosurevars(value).nonlocals
        return [_kind(value), deeper(value.__defaults__), deeper(value.__kwdefaults__), deeper(cells)]
    if inspect.isclass(value) or not hasattr(value, "__dict__") or inspect.ismodule(value):
        return _kind(value if hasattr(value, "__qualname__") else type(value))
    tensors = list(value.state_dict().values()) if isinstance(value, nn.Module) else []
    return [_kind(type(value)), _attributes(value, depth), deeper(tensors)]


def _attributes(value: Any, depth: int) -> Any:
    attributes = {name: item for name, item in sorted(vars(value).items()) if name != "training"}
    if isinstance(value, nn.Module):  # what torch keeps there are weights, submodules and hooks
        attributes = {name: item for name, item in attributes.items() if not name.startswith("_")}
    return [[name, _described(item, depth + 1)] for name, item in attributes.items()]


def _kind(value: Any) -> list[str]:
    """Name and source of a class or function; of a function without source its instructions."""
    name = f"{value.__module__}.{value.__qualname__}"
    try:
        return [name, textwrap.dedent(inspect.getsource(value))]
    except (OSError, TypeError):
        code = getattr(value, "__code__", None)
        return [name, "" if code is None else f"{code.co_code.hex()} {code.co_names} {_constants(code)}"]


def _constants(code: Any) -> list[str]:
    return [c.co_code.hex() if inspect.iscode(c) else repr(c) for c in code.co_consts]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
