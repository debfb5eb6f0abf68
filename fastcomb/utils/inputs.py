"""What a network is called with: a tensor, or several in tuples and dicts, each with samples first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten


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


def joined(parts: Sequence[Samples]) -> Samples:
    """Successive samples as one.

    Raises:
        ValueError: they are not built alike.
    """
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, Tensor) for part in parts):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    specs = [tree_flatten(part.tree if isinstance(part, Inputs) else ((part,), {}))[1] for part in parts]
    if any(spec != specs[0] for spec in specs):
        raise ValueError("samples are not built alike")
    rows = zip(*(leaves(part) for part in parts), strict=True)
    return refilled(parts[0], (torch.cat(row) for row in rows))
