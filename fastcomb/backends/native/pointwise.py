"""Element-wise operations, views, and values put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Space, Value
from fastcomb.program import Node, Weight

#: Canonical name → the engine's function (csrc/ops.def), and its two parameters from the node's arguments.
UNARY_OPS: dict[str, tuple[str, Callable[[Mapping[str, Any]], tuple[float, float]]]] = {
    **{
        name: (name, lambda a: (0, 0))
        for name in (
            "relu", "gelu", "silu", "tanh", "sigmoid", "hardswish", "hardsigmoid", "exp", "neg", "abs",
            "sqrt", "rsqrt", "mish", "selu",
        )
    },
    "leaky_relu": ("leaky_relu", lambda a: (a["negative_slope"], 0)),
    "elu": ("elu", lambda a: (a["alpha"], 0)),
    "hardtanh": ("hardtanh", lambda a: (a["min_val"], a["max_val"])),
    "relu6": ("hardtanh", lambda a: (0, 6)),
    "softplus": ("softplus", lambda a: (a["beta"], a["threshold"])),
}  # fmt: skip
_VIEWS = {
    "transpose",
    "permute",
    "squeeze",
    "unsqueeze",
    "expand",
    "select",
    "slice",
    "split",
    "chunk",
    "unbind",
}


@rule(*_VIEWS)
def _view(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Any:
    first, *_ = arguments
    value = low.value(arguments[first])
    result = node.target(**{**arguments, first: value.meta})
    if isinstance(result, Tensor):
        return value.view(result)
    return tuple(value.view(meta) for meta in result)


@rule(*UNARY_OPS)
def _unary(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    function, parameters = UNARY_OPS[node.op]
    if node.op == "gelu" and arguments.get("approximate") == "tanh":
        function = "gelu_tanh"
    if node.op == "elu" and (arguments["scale"] != 1 or arguments["input_scale"] != 1):
        raise Unsupported("a scaled elu")
    value = low.value(next(iter(arguments.values())))
    alpha, beta = parameters(arguments)
    return low.unary(function, low.like(value, node.name), value, alpha, beta)


@rule("add", "sub", "mul", "div")
def _binary(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    if arguments.get("rounding_mode") is not None:
        raise Unsupported("rounded division")
    x, y = low.value(arguments["self"]), low.value(arguments["other"])
    if {x.meta.dtype, y.meta.dtype} != {low.dtype}:
        raise Unsupported(f"arithmetic on {x.meta.dtype} and {y.meta.dtype}")
    shape = tuple(low.shapes[node.name].shape)
    image = any(v.images and v.shape == shape and shape[1] > 1 for v in (x, y))
    out = low.make(shape, node.name, image=image)
    return low.binary(node.op, out, x, y, arguments.get("alpha", 1))


@rule("cat")
def _cat(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    parts = [low.value(v) for v in arguments["tensors"]]
    out = low.make(low.shapes[node.name].shape, node.name, image=all(p.images for p in parts))
    dim, at = arguments["dim"], 0
    for part in parts:
        size = part.shape[dim]
        low.unary("identity", out.view(out.meta.narrow(dim, at, size)), part)
        at += size
    return out


@rule("stack")
def _stack(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    out = low.make(low.shapes[node.name].shape, node.name)
    for i, part in enumerate(arguments["tensors"]):
        low.unary("identity", out.view(out.meta.select(arguments["dim"], i)), low.value(part))
    return out


@rule("embedding")
def _embedding(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Rows of a mixed table, by numbers that are inputs or constants.

    Numbers that are computed, or that the table does not have, are refused.
    """
    weight, ids = arguments["weight"], low.value(arguments["indices"])
    mixed = isinstance(weight, Weight) and weight.kind == "parameter"
    if not mixed or not ids.meta.is_contiguous() or ids.meta.dtype != torch.int64:
        raise Unsupported("this embedding")
    entries = low.weights.shapes[weight.name][0]
    if ids.buffer.space == Space.INPUT:
        known = low.shared.entries.get(ids.buffer.which, entries)
        low.shared.entries[ids.buffer.which] = min(entries, known)
    elif ids.buffer not in low.shared.constants or low.shared.constants.outside(ids.buffer, entries):
        raise Unsupported("an embedding of computed numbers, or of numbers beyond its table")
    table = low.weights.plain(weight.name, low.dtype)
    out = low.make(low.shapes[node.name].shape, node.name)
    low.emit(
        "embedding", low.dtype, indices=ids, table=table, out=out, count=ids.meta.numel(),
        width=out.shape[-1], entries=entries,
    )  # fmt: skip
    return out
