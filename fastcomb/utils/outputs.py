"""What modules return: tensors in dicts, tuples, dataclasses, with None and numbers among them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

#: How deep an object is searched for tensors.
_DEEPEST = 4


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    return [tensor for _, part in parts(output) for tensor in tensors(part)]


def rebuilt(output: Any, others: Iterable[Tensor]) -> Any:
    """An output like this one with other tensors in the places of its own, in order.

    Objects that hold tensors in ways of their own, such as caches of keys and values, become None.
    """
    return _rebuilt(output, iter(others))


def _holds(value: Any, depth: int) -> bool:
    """Whether an object, or what it consists of, has a tensor."""
    if isinstance(value, Tensor):
        return True
    inside = [part for _, part in parts(value)] or list(getattr(value, "__dict__", {}).values())
    return depth < _DEEPEST and any(_holds(part, depth + 1) for part in inside)


def mapped(function: Callable[..., Tensor], output: Any, *others: Any) -> Any:
    """An output whose tensors are ``function`` of those of one or several outputs built alike.

    Raises:
        TypeError: combinations return different things.
    """
    rows = [tensors(one) for one in (output, *others)]
    if len({len(row) for row in rows}) > 1:
        raise TypeError("the module returns other tensors for some combinations than for others")
    return rebuilt(output, map(function, *rows))


def joined(parts: list[Any]) -> Any:
    """Outputs of successive combinations [k, ...] as one [K, ...].

    Raises:
        TypeError: they have different shapes.
    """
    if len(parts) == 1:
        return parts[0]
    try:
        return mapped(lambda *some: torch.cat(some), *parts)
    except RuntimeError as error:
        raise TypeError(f"combinations return tensors of different shapes: {error}") from error


def parts(output: Any) -> list[tuple[Any, Any]]:
    """(place, part) of everything that an output consists of; none of what is no container."""
    if isinstance(output, Mapping):
        return list(output.items())
    if isinstance(output, (list, tuple)):
        return list(enumerate(output))
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    return []


def _rebuilt(output: Any, others: Iterator[Tensor]) -> Any:
    """An output of the same structure, with other tensors in the order in which its own are met."""
    if isinstance(output, Tensor):
        return next(others)
    made = [(place, _rebuilt(part, others)) for place, part in parts(output)]
    if not made:
        return None if _holds(output, 0) else output
    if isinstance(output, tuple):
        values = [part for _, part in made]
        return type(output)(*values) if hasattr(output, "_fields") else tuple(values)
    result = copy.copy(output)
    for place, part in made:
        if isinstance(output, (Mapping, list)):
            result[place] = part
        else:
            object.__setattr__(result, place, part)
    return result


def close(actual: Tensor, expected: Tensor, limit: float) -> bool:
    """Whether two tensors differ by at most ``limit`` times the largest expected value; NaN equals NaN."""
    if actual.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(actual, expected)
    finite = torch.isfinite(expected)
    if not torch.equal(finite, torch.isfinite(actual)) or not finite.any():
        return torch.equal(finite, torch.isfinite(actual))
    difference = (actual - expected)[finite].abs().max()
    return bool(difference <= limit * expected[finite].abs().max())
