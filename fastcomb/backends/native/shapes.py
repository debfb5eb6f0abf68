"""Shapes, dtypes and sizes of every value of a Program, from torch's own rules on tensors without entries."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.weights import Weights
from fastcomb.program import Node, Program

#: What operations make of what they were given, by both: networks repeat their layers, and programs are
#: lowered for several numbers of samples.
_known: dict[Hashable, Any] = {}
_KEPT = 1 << 14


def inferred(
    program: Program,
    weights: Weights,
    buffers: Mapping[str, Tensor],
    xs: Sequence[Tensor],
    samples: int,
) -> dict[str, Any]:
    """Every value of a program by name: on the meta device, and sizes as numbers.

    Args:
        program: the network.
        weights: its mixed parameters, and the compute dtype.
        buffers: its other weights.
        xs: some samples of each input, for their dtypes and shapes.
        samples: how many there are.

    Raises:
        Unsupported: torch cannot tell, or there are values without entries.
    """

    def meta(shape: Sequence[int], kind: torch.dtype) -> Tensor:
        kind = weights.dtype if kind.is_floating_point else kind
        return torch.empty(tuple(shape), dtype=kind, device="meta")

    state = {n: meta(s, weights.dtype) for n, s in {**program.shapes, **weights.shapes}.items()}
    for name, value in {**buffers, **program.constants}.items():
        state[name] = meta(value.shape, value.dtype)
    inputs = (meta((samples, *x.shape[1:]), x.dtype) for x in xs)
    values: dict[str, Any] = dict(zip(program.inputs, inputs, strict=True))
    try:
        for node in program:
            values[node.name] = _result(program, node, state, values)
    except RuntimeError as error:
        raise Unsupported(f"a network that torch cannot trace ({str(error).splitlines()[0]})") from error
    if any(isinstance(value, Tensor) and not value.numel() for value in values.values()):
        raise Unsupported("values without entries")
    return values


def _result(program: Program, node: Node, state: Mapping[str, Tensor], values: Mapping[str, Any]) -> Any:
    arguments = program.resolved(node, state, values)
    for name, value in arguments.items():
        if isinstance(value, torch.device):
            arguments[name] = torch.device("meta")
    leaves, structure = tree_flatten(arguments)
    key = (node.target, structure, *map(_form, leaves))
    try:
        known = _known.get(key)
    except TypeError:  # an argument that has no hash
        return node.call(arguments)
    if known is not None:
        return known
    if len(_known) >= _KEPT:
        _known.clear()
    result = _known[key] = node.call(arguments)
    return result


def _form(leaf: Any) -> Hashable:
    """What a result on the meta device depends on of an argument."""
    if isinstance(leaf, Tensor):
        return Tensor, leaf.shape, leaf.stride(), leaf.dtype
    return type(leaf), leaf  # 1, 1.0 and True are equal
