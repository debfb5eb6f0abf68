"""Operations that torch writes in a way that hides which samples they are about, in other words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastcomb.program.ir import Node, Program, Value, multiple

_aten = torch.ops.aten
_BAGS = (
    _aten.embedding_bag.padding_idx,
    _aten._embedding_bag.default,
    _aten._embedding_bag_forward_only.default,
)
_SUM, _MEAN, _MAX = range(3)


def trilinear(
    one: Tensor, two: Tensor, three: Tensor, expand1: Sequence[int], expand2: Sequence[int],
    expand3: Sequence[int], sumdim: Sequence[int], unroll_dim: int = 1,
) -> Tensor:  # fmt: skip
    """What bilinear layers are made of: the sum over some dimensions of a product of three tensors.

    ``expand1`` and so on: dimensions of the product that an operand does not have.
    """
    rank = one.ndim + len(expand1)
    letters = "abcdefghij"[:rank]
    own = ["".join(c for d, c in enumerate(letters) if d not in gone) for gone in (expand1, expand2, expand3)]
    left = "".join(c for d, c in enumerate(letters) if d not in sumdim)
    return torch.einsum(f"{','.join(own)}->{left}", one, two, three)


#: Operations that torch would leave whole, as others; for ``run_decompositions``.
DECOMPOSED: dict[Any, Callable[..., Any]] = {_aten._trilinear.default: trilinear}


def bags(program: Program, starts: Callable[[str, int], bool]) -> Program:
    """With bags of entries of a table, as many for every sample, as an embedding and a reduction.

    Args:
        program: the network.
        starts: whether the value of this name is 0, n, 2 n, … for the samples.
    """
    items: dict[str, Node] = {}
    shapes = program.value_shapes
    for node in program:
        if node.target in _BAGS and _even(node, shapes, starts):
            items[node.name] = node
    nodes: list[Node] = []
    for node in program:
        source = node.arguments.get("0")
        if node.op == "item" and isinstance(source, Value) and source.name in items:
            nodes += _reduced(items[source.name], node, shapes)
        elif node.name not in items:
            nodes.append(node)
    return dataclasses.replace(program, nodes=tuple(nodes)) if items else program


def _even(node: Node, shapes: Mapping[str, tuple[Any, ...]], starts: Callable[[str, int], bool]) -> bool:
    """Whether all bags have as many entries, of the same sample, and nothing but the bags is read."""
    indices, offsets = node.arguments["indices"], node.arguments["offsets"]
    if not isinstance(indices, Value) or not isinstance(offsets, Value) or len(shapes[indices.name]) != 1:
        return False
    each = multiple(shapes[indices.name][0])
    padded = node.arguments.get("padding_idx")
    plain = padded is None or padded < 0 or node.arguments["mode"] != _MAX
    return bool(plain and each and not node.arguments["include_last_offset"] and starts(offsets.name, each))


def _reduced(bag: Node, item: Node, shapes: Mapping[str, tuple[Any, ...]]) -> list[Node]:
    """The nodes that make a bag's sum, mean or largest entries, under the name of who read them."""
    width, mode = item.shape[-1], bag.arguments["mode"]
    indices = bag.arguments["indices"]
    weights, padding = (bag.arguments.get(k) for k in ("per_sample_weights", "padding_idx"))
    each = multiple(shapes[indices.name][0])
    nodes: list[Node] = []

    def node(op: str, target: Any, shape: tuple[Any, ...], dtype: str, /, **arguments: Any) -> Value:
        name = f"{item.name}_{len(nodes)}"
        nodes.append(Node(name, op, target, arguments, shape, dtype, bag.calls))
        return Value(name)

    def rows(value: Any, dtype: str, *more: int) -> Value:
        shape = ("N", each, *more)
        return node("reshape", _aten.reshape.default, shape, dtype, self=value, shape=[-1, *shape[1:]])

    numbers = rows(indices, "int64")
    entries = node(
        "embedding", _aten.embedding.default, ("N", each, width), item.dtype, weight=bag.arguments["weight"],
        indices=numbers, padding_idx=-1, scale_grad_by_freq=False, sparse=False,
    )  # fmt: skip
    if weights is not None:
        factor = rows(weights, item.dtype, 1)
        entries = node("mul", _aten.mul.Tensor, ("N", each, width), item.dtype, self=entries, other=factor)
    counted = padding is not None and padding >= 0
    if counted:
        flat = rows(indices, "int64", 1)
        seen = node("ne", _aten.ne.Scalar, ("N", each, 1), "bool", self=flat, other=padding)
        kind = getattr(torch, item.dtype)
        seen = node("cast", _aten.to.dtype, ("N", each, 1), item.dtype, self=seen, dtype=kind)
        entries = node("mul", _aten.mul.Tensor, ("N", each, width), item.dtype, self=entries, other=seen)
    shape = ("N", width)
    if mode == _MAX:
        node("amax", _aten.amax.default, shape, item.dtype, self=entries, dim=[1], keepdim=False)
    elif mode == _MEAN and not counted:
        node("mean", _aten.mean.dim, shape, item.dtype, self=entries, dim=[1], keepdim=False, dtype=None)
    else:
        total = {"dim": [1], "keepdim": False, "dtype": None}
        sums = node("sum", _aten.sum.dim_IntList, shape, item.dtype, self=entries, **total)
        if mode == _MEAN:
            count = node("sum", _aten.sum.dim_IntList, ("N", 1), item.dtype, self=seen, **total)
            some = node("clamp_min", _aten.clamp_min.default, ("N", 1), item.dtype, self=count, min=1)
            node("div", _aten.div.Tensor, shape, item.dtype, self=sums, other=some)
    return [*nodes[:-1], dataclasses.replace(nodes[-1], name=item.name)]
