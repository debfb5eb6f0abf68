"""What a network is called with: a tensor, or several in tuples and dicts, each with samples first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import (
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
    tree_unflatten,
)

from fastcomb.utils.dtypes import dtype_name

#: What arguments may hold besides tensors: the same for all samples.
CONSTANTS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)

#: Parts of a tuple, list or mapping that errors show.
_SHOWN = 12


@dataclass(frozen=True, eq=False)
class Inputs:
    """Arguments of a call with other than one tensor; divided into samples as a tensor [S, ...] is.

    Attributes:
        args, kwargs: as the network takes them, nested as it likes. Every tensor is [S, ...]; what is no
            tensor (None, flags) is the same for all samples.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(leaves(self)[0])

    def __getitem__(self, samples: Any) -> Inputs:
        return self.map(lambda t: t[samples])

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """The same structure with ``function`` of every tensor."""
        args, kwargs = tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, self.tree)
        return Inputs(args, kwargs)

    def split(self, size: int) -> Iterator[Inputs]:
        """Successive samples, ``size`` at a time."""
        for start in range(0, max(1, len(self)), size):
            yield self[start : start + size]

    @property
    def tree(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments as :mod:`torch.utils._pytree` reads them."""
        return self.args, self.kwargs

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in leaves(self))


#: What data hold for a network: a tensor [S, ...], or several.
Samples = Tensor | Inputs


def arguments(x: Samples) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of a call."""
    return x.tree if isinstance(x, Inputs) else ((x,), {})


def call(module: nn.Module, x: Samples) -> Any:
    """What a module returns for these."""
    args, kwargs = arguments(x)
    return module(*args, **kwargs)


def leaves(x: Any) -> list[Tensor]:
    """All tensors, in the order of :mod:`torch.utils._pytree`."""
    tree = x.tree if isinstance(x, Inputs) else x
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def refilled(x: Samples, tensors: Iterable[Tensor]) -> Samples:
    """The same structure with other tensors, in the order of :func:`leaves`."""
    if isinstance(x, Tensor):
        return next(iter(tensors))
    found, spec = tree_flatten(x.tree)
    others = iter(tensors)
    return Inputs(*tree_unflatten([next(others) if isinstance(one, Tensor) else one for one in found], spec))


def mapped(function: Callable[[Tensor], Tensor], x: Samples) -> Samples:
    """``function`` of every tensor."""
    return function(x) if isinstance(x, Tensor) else x.map(function)


def ready(x: Samples, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Samples:
    """On a device, and floating-point tensors in a dtype; None leaves them where, or as, they are."""
    return mapped(lambda t: t.to(device or t.device, dtype if t.is_floating_point() else None), x)


def pieces(x: Samples, size: int) -> Sequence[Samples]:
    """Successive samples, ``size`` at a time."""
    return x.split(size) if isinstance(x, Tensor) else list(x.split(size))


def joined(parts: Sequence[Samples]) -> Samples:
    """Successive samples as one.

    Raises:
        ValueError: they are not built alike.
    """
    for part in parts[1:]:
        if not alike(parts[0], part):
            raise ValueError(f"{structure(parts[0])} and {structure(part)} are not built alike")
    if len(parts) == 1:
        return parts[0]
    return refilled(parts[0], map(torch.cat, zip(*map(leaves, parts), strict=True)))


def alike(one: Samples, other: Samples) -> bool:
    """Whether both have the same structure, constants, dtypes, and shapes beyond the first dimension."""
    (first, spec), (second, others) = (tree_flatten(arguments(x)) for x in (one, other))
    return spec == others and all(map(_same, first, second))


def fitted(x: Samples, like: Samples) -> list[Tensor]:
    """The tensors of a call in the order of another: named arguments may come in any order.

    Raises:
        ValueError: it has other arguments or constants.
    """
    args, kwargs = arguments(x)
    names = arguments(like)[1]
    if kwargs.keys() == names.keys():
        kwargs = {name: kwargs[name] for name in names}
    (found, spec), (wanted, others) = tree_flatten((args, kwargs)), tree_flatten(arguments(like))
    pairs = zip(found, wanted, strict=False)
    fit = (isinstance(a, Tensor) if isinstance(b, Tensor) else _same(a, b) for a, b in pairs)
    if spec != others or not all(fit):
        raise ValueError(f"called with {structure(x)}, but made for {structure(like)}")
    return [leaf for leaf in found if isinstance(leaf, Tensor)]


def named(x: Samples, name: str = "x") -> list[tuple[str, Tensor]]:
    """All tensors, in the order of :func:`leaves`, with what errors call them."""
    if isinstance(x, Tensor):
        return [(name, x)]
    found = tree_flatten_with_path(x.tree)[0]
    return [(name + keystr(path[1:]), leaf) for path, leaf in found if isinstance(leaf, Tensor)]


def structure(x: Any) -> str:
    """What something consists of, for errors: "{input_ids: int64 [8, 16], attention_mask: int64 [8, 16]}"."""
    if isinstance(x, Tensor):
        return f"{dtype_name(x.dtype)} {list(x.shape)}"
    if isinstance(x, np.ndarray):
        return f"array {x.dtype} {list(x.shape)}"
    if isinstance(x, Inputs):
        if not x.args:
            return structure(x.kwargs)
        return _enclosed(
            "()", [*map(structure, x.args), *(f"{k}={structure(v)}" for k, v in x.kwargs.items())]
        )
    label = type(x).__name__
    if isinstance(x, Mapping):
        return ("" if label == "dict" else label) + _enclosed(
            "{}", [f"{k}: {structure(v)}" for k, v in x.items()]
        )
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        held = [(field.name, getattr(x, field.name)) for field in dataclasses.fields(x)]
        return label + _enclosed("()", [f"{name}: {structure(value)}" for name, value in held])
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return label + _enclosed("()", [f"{n}: {structure(v)}" for n, v in zip(x._fields, x, strict=True)])
    if isinstance(x, (tuple, list)):
        parts = [structure(part) for part in x[: _SHOWN + 1]] + [""] * (len(x) - _SHOWN - 1)
        return _enclosed("()" if isinstance(x, tuple) else "[]", parts)
    return repr(x) if isinstance(x, CONSTANTS) else label


def _enclosed(marks: str, parts: list[str]) -> str:
    more = [f"… {len(parts) - _SHOWN} more"] if len(parts) > _SHOWN else []
    return marks[0] + ", ".join(parts[:_SHOWN] + more) + marks[1]


def _same(one: Any, other: Any) -> bool:
    """Whether two leaves are constants that are equal, or tensors that may follow one another."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape[1:] == other.shape[1:]
    return type(one) is type(other) and not isinstance(one, Tensor) and bool(one == other)
