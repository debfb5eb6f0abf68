"""Portraits of modules and data, to see whether a call changed anything about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def portrait(value: Any) -> Any:
    """Everything about a module, tensor or array: values bit by bit, identity, modes, hooks, attributes."""
    if isinstance(value, nn.Module):
        return {
            name or "itself": {key: _described(item) for key, item in vars(module).items()}
            for name, module in value.named_modules(remove_duplicate=False)
        }
    return _described(value)


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """What differs between two portraits."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            there = f"{place}.{key}" if place else str(key)
            if key not in before or key not in after:
                yield f"{there} {'appeared' if key in after else 'vanished'}"
            else:
                yield from differences(before[key], after[key], there)
    elif before != after:
        yield f"{place} changed"


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, np.ndarray):
        return {"bytes": hashlib.sha1(value.tobytes()).hexdigest(), "strides": value.strides}
    if isinstance(value, dict):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return {str(i): _described(item) for i, item in enumerate(value)}
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    return id(value)


def _tensor(value: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {"identity": id(value), "type": type(value).__name__}
    if type(value) not in (Tensor, nn.Parameter, nn.Buffer) or torch._C._functorch.is_batchedtensor(value):
        return found | {"type": "left behind"}
    plain = value.detach()
    flat = torch.empty(plain.numel(), dtype=plain.dtype)
    flat.view(plain.shape).copy_(plain)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return found | {
        "requires_grad": value.requires_grad,
        "grad": value.is_leaf and value.grad is not None,
        "layout": (plain.shape, plain.stride(), plain.dtype, plain.data_ptr()),
        "bytes": hashlib.sha1(data).hexdigest(),
    }
