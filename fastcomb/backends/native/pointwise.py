"""Element-wise operations, views, and values put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.instructions import ADD, DIV, IDENTITY, MUL, RELU, SUB, Op
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Space, Value
from fastcomb.program import Node, Weight

#: Canonical name -> engine's number, and its two parameters from the node's arguments.
UNARY_OPS: dict[str, tuple[int, Callable[[Mapping[str, Any]], tuple[float, float]]]] = {
    "relu": (RELU, lambda a: (0, 0)),
    "leaky_relu": (1, lambda a: (a["negative_slope"], 0)),
    "gelu": (2, lambda a: (0, 0)),
    "silu": (4, lambda a: (0, 0)),
    "tanh": (5, lambda a: (0, 0)),
    "sigmoid": (6, lambda a: (0, 0)),
    "elu": (7, lambda a: (a["alpha"], 0)),
    "hardtanh": (8, lambda a: (a["min_val"], a["max_val"])),
    "relu6": (8, lambda a: (0, 6)),
    "hardswish": (9, lambda a: (0, 0)),
    "hardsigmoid": (10, lambda a: (0, 0)),
    "softplus": (11, lambda a: (a["beta"], a["threshold"])),
    "exp": (12, lambda a: (0, 0)),
    "neg": (13, lambda a: (0, 0)),
    "abs": (14, lambda a: (0, 0)),
    "sqrt": (15, lambda a: (0, 0)),
    "rsqrt": (16, lambda a: (0, 0)),
}
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
    found = node.target(**{**arguments, first: value.meta})
    if isinstance(found, Tensor):
        return value.view(found)
    return tuple(value.view(meta) for meta in found)


@rule(*UNARY_OPS)
def _unary(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    op, parameters = UNARY_OPS[node.op]
    if node.op == "gelu" and arguments.get("approximate") == "tanh":
        op = 3
    if node.op == "elu" and (arguments["scale"] != 1 or arguments["input_scale"] != 1):
        raise Unsupported("a scaled elu")
    value = low.value(next(iter(arguments.values())))
    alpha, beta = parameters(arguments)
    return low.element(op, low.like(value, node.name), value, None, alpha, beta)


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
    op = {"add": ADD, "sub": SUB, "mul": MUL, "div": DIV}[node.op]
    return low.element(op, out, x, y, arguments.get("alpha", 1), 0, Op.BINARY)


@rule("cat")
def _cat(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    parts = [low.value(v) for v in arguments["tensors"]]
    out = low.make(low.shapes[node.name].shape, node.name, image=all(p.images for p in parts))
    dim, at = arguments["dim"], 0
    for part in parts:
        size = part.shape[dim]
        low.element(IDENTITY, out.view(out.meta.narrow(dim, at, size)), part)
        at += size
    return out


@rule("stack")
def _stack(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    out = low.make(low.shapes[node.name].shape, node.name)
    for i, part in enumerate(arguments["tensors"]):
        low.element(IDENTITY, out.view(out.meta.select(arguments["dim"], i)), low.value(part))
    return out


@rule("embedding")
def _embedding(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    weight, ids = arguments["weight"], low.value(arguments["indices"])
    mixed = isinstance(weight, Weight) and weight.kind == "parameter"
    if not mixed or not ids.meta.is_contiguous() or ids.meta.dtype != torch.int64:
        raise Unsupported("this embedding")
    entries = low.weights.shapes[weight.name][0]
    if ids.buffer.space == Space.INPUTS:
        low.shared.entries = min(entries, low.shared.entries or entries)
    elif ids.buffer not in low.shared.constants or low.shared.constants.outside(ids.buffer, entries):
        raise Unsupported("an embedding of computed numbers, or of numbers beyond its table")
    table = low.weights.plain(weight.name, low.dtype)
    out = low.make(low.shapes[node.name].shape, node.name)
    low.emit(Op.EMBEDDING, low.dtype, [ids, (table, 0), out], [ids.meta.numel(), out.shape[-1], entries])
    return out
