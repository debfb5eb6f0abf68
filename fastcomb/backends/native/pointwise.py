"""Element-wise operations, views, and values put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.gather import ordered
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Space, Value, loops
from fastcomb.backends.native.reduce import reduced
from fastcomb.program import Node, Weight

#: Canonical name → the engine's function (csrc/ops.def), and its two parameters from the node's arguments.
UNARY_OPS: dict[str, tuple[str, Callable[[Mapping[str, Any]], tuple[float, float]]]] = {
    **{
        name: (name, lambda a: (0, 0))
        for name in (
            "relu", "gelu", "silu", "tanh", "sigmoid", "hardswish", "hardsigmoid", "exp", "neg", "abs",
            "sqrt", "rsqrt", "mish", "selu", "reciprocal", "square", "log", "log1p", "expm1", "sin", "cos",
            "erf", "sign", "floor", "ceil", "log_sigmoid", "tan", "asin", "acos", "atan", "sinh", "cosh",
            "exp2", "log2", "log10", "erfc", "trunc",
        )
    },
    "leaky_relu": ("leaky_relu", lambda a: (a["negative_slope"], 0)),
    "elu": ("elu", lambda a: (a["alpha"], a["input_scale"])),
    "celu": ("elu", lambda a: (a["alpha"], 1 / a["alpha"])),
    "round": ("round", lambda a: (0, 0)),
    "threshold": ("threshold", lambda a: (a["threshold"], a["value"])),
    "hardshrink": ("hardshrink", lambda a: (a["lambd"], 0)),
    "softshrink": ("softshrink", lambda a: (a["lambd"], 0)),
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
    "split_with_sizes",
    "tensor_split",
    "movedim",
    "numpy_T",
    "mT",
    "narrow",
    "diagonal",
}
_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge"}
#: Powers that have functions of their own.
_POWERS = {1: "identity", 2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}


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
    if node.op == "elu" and arguments["scale"] != 1:
        raise Unsupported("a scaled elu")
    if arguments.get("decimals"):
        raise Unsupported("rounding to decimals")
    (value,) = low.numbers(node, next(iter(arguments)))
    alpha, beta = parameters(arguments)
    return low.unary(function, low.like(value, node.name), value, alpha, beta)


@rule("add", "sub", "rsub", "mul", "div", "maximum", "minimum")
def _binary(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    if arguments.get("rounding_mode") is not None:
        raise Unsupported("rounded division")
    if low.shapes[node.name].dtype != low.dtype:
        raise Unsupported(f"the operation {node.op} with a result of {low.shapes[node.name].dtype}")
    x, y = low.numbers(node, "self", "other", masks=True, integers=True)
    if node.op == "rsub":
        return low.binary("sub", result_of(low, node, y, x), y, x, arguments["alpha"])
    return low.binary(node.op, result_of(low, node, x, y), x, y, arguments.get("alpha", 1))


def result_of(low: Lowering, node: Node, *operands: Value) -> Value:
    """A new value for a node's result: as images where an operand of its shape lies so."""
    shape = tuple(low.shapes[node.name].shape)
    image = any(v.images and v.shape == shape and shape[1] > 1 for v in operands)
    return low.rows(shape, node.name, image=image)


@rule("pow")
def _pow(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    base, exponent = arguments["self"], arguments["exponent"]
    if low.shapes[node.name].dtype != low.dtype:
        raise Unsupported(f"powers of {low.shapes[node.name].dtype}")
    if not isinstance(exponent, (int, float)):
        x, y = low.numbers(node, "self", "exponent")
        if isinstance(base, (int, float)):
            return low.unary("power_of", low.like(y, node.name), y, base)
        return low.binary("power", result_of(low, node, x, y), x, y)
    (x,) = low.numbers(node, "self")
    return low.unary(_POWERS.get(exponent, "pow"), low.like(x, node.name), x, exponent)


@rule("clamp", "clamp_min", "clamp_max")
def _clamp(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Limits that are numbers; others are a maximum and a minimum."""
    (x,) = low.numbers(node, "self")
    least, most = arguments.get("min"), arguments.get("max")
    if all(limit is None or isinstance(limit, (int, float)) for limit in (least, most)):
        least, most = (-math.inf if least is None else least), (math.inf if most is None else most)
        return low.unary("hardtanh", low.like(x, node.name), x, least, most)
    out = result_of(low, node, x)
    for key, function in (("min", "maximum"), ("max", "minimum")):
        if arguments.get(key) is not None:
            x = low.binary(function, out, x, low.numbers(node, key)[0])
    return x


@rule("prelu")
def _prelu(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """With one slope, or one for each channel."""
    x, slope = low.numbers(node, "self", "weight")
    if slope.shape != (1,):
        slope = slope.view(slope.meta.reshape(-1, *[1] * (x.meta.ndim - 2)))
    return low.binary("prelu", result_of(low, node, x), x, slope)


@rule("view_as", "reshape_as")
def _viewed_as(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    return low.reshaped(low.value(arguments["self"]), low.shapes[node.name].shape)


@rule("expand_as")
def _expanded_as(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    value = low.value(arguments["self"])
    return value.view(value.meta.expand(low.shapes[node.name].shape))


@rule("max", "min")
def _extreme(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Any:
    """Of two values, or of one along a dimension, with the places where they were if those are read."""
    if "other" in arguments:
        x, y = low.numbers(node, "self", "other")
        return low.binary({"max": "maximum", "min": "minimum"}[node.op], result_of(low, node, x, y), x, y)
    if "dim" not in arguments:
        raise Unsupported(f"the {node.op} of everything")
    readers = low.program.readers.get(node.name, [])
    if all(reader.arguments.get("1") == 0 for reader in readers):
        kind = {"max": "maximum", "min": "minimum"}[node.op]
        return reduced(low, node, low.shapes[node.name][0].shape, kind), None
    (x,) = low.numbers(node, "self")
    pair = ordered(low, x, arguments["dim"], node.name, kept=1, descending=node.op == "max", nan_first=True)
    return tuple(low.reshaped(v, low.shapes[node.name][0].shape) for v in pair)


@rule("glu")
def _glu(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    (x,) = low.numbers(node, "self")
    one, gate = (x.view(half) for half in x.meta.chunk(2, arguments["dim"]))
    out = result_of(low, node, one)
    low.unary("sigmoid", out, gate)
    return low.binary("mul", out, out, one)


# --- what is true or false, as 1 or 0 ---


@rule(*_COMPARISONS)
def _compared(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Whole numbers are compared as such."""
    kinds = {low.kind(node.arguments[key]) for key in ("self", "other")}
    if torch.int64 in kinds:
        if kinds - {torch.int64, None} or isinstance(arguments["other"], float):
            raise Unsupported(f"the operation {node.op} on whole and other numbers")
        x, y = (_whole(low, arguments[key]) for key in ("self", "other"))
        return low.integers(node.op, low.make(low.shapes[node.name].shape, node.name), x, y)
    x, y = low.numbers(node, "self", "other", masks=True)
    return low.binary(node.op, result_of(low, node, x, y), x, y)


def _whole(low: Lowering, leaf: Any) -> Value:
    """An operand as whole numbers."""
    if not isinstance(leaf, int):
        return low.value(leaf)
    buffer = low.shared.constants.add(("whole", leaf), torch.tensor([leaf]))
    return Value(buffer, torch.empty((), dtype=torch.int64, device="meta"))


@rule("isnan")
def _isnan(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    (x,) = low.numbers(node, "self")
    return low.binary("ne", low.like(x, node.name), x, x)


@rule("logical_not", "bitwise_not")
def _not(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    if low.shapes[node.name].dtype != torch.bool:
        raise Unsupported(f"the bits of {low.shapes[node.name].dtype}")
    (x,) = low.numbers(node, "self", masks=True)
    return low.unary("logical_not", low.like(x, node.name), x)


@rule(*(f"{kind}_{name}" for kind in ("logical", "bitwise") for name in ("and", "or", "xor")))
def _both(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    if low.shapes[node.name].dtype != torch.bool:
        raise Unsupported(f"the bits of {low.shapes[node.name].dtype}")
    operands = []
    for key in ("self", "other"):
        (x,) = low.numbers(node, key, masks=True)
        if low.kind(node.arguments[key]) != torch.bool:
            x = low.binary("ne", low.like(x, f"{node.name}/{key}"), x, low.value(0))
        operands.append(x)
    function = {"and": "mul", "or": "maximum", "xor": "ne"}[node.op.partition("_")[2]]
    one, other = operands
    return low.binary(function, result_of(low, node, one, other), one, other)


@rule("where", "masked_fill")
def _where(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """One of two values at each place; the other is not looked at."""
    condition, yes, no = ("condition", "self", "other") if node.op == "where" else ("mask", "value", "self")
    if yes not in arguments or low.kind(node.arguments[condition]) != torch.bool:
        raise Unsupported(f"the operation {node.target} on other than a mask")
    if low.shapes[node.name].dtype not in (low.dtype, torch.bool):
        raise Unsupported(f"the operation {node.op} with a result of {low.shapes[node.name].dtype}")
    (mask,) = low.numbers(node, condition, masks=True)
    x, y = low.numbers(node, yes, no, masks=low.shapes[node.name].dtype == torch.bool)
    return low.choose(result_of(low, node, x, y), mask, x, y)


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
    """Rows of a table, by numbers that are inputs or constants.

    Or by computed ones, of which it is known that the table has them; others are refused.
    """
    weight, ids = arguments["weight"], low.value(arguments["indices"])
    mixed = isinstance(weight, Weight) and weight.kind == "parameter"
    if ids.meta.dtype != torch.int64:
        raise Unsupported(f"an embedding of {ids.meta.dtype}")
    if mixed:
        table: Any = low.weights.plain(weight.name, low.dtype)
        entries = low.weights.shapes[weight.name][0]
    else:
        table = low.dense(low.numbers(node, "weight")[0], f"{node.name}/table")
        entries = table.shape[0]
    if ids.buffer.space == Space.INPUT:
        known = low.shared.entries.get(ids.buffer.which, entries)
        low.shared.entries[ids.buffer.which] = min(entries, known)
    elif ids.buffer in low.shared.constants:
        if low.shared.constants.outside(ids.buffer, entries):
            raise Unsupported("an embedding of numbers beyond its table")
    elif low.below.get(ids.buffer, entries + 1) > entries:
        raise Unsupported("an embedding of computed numbers")
    out = low.make(low.shapes[node.name].shape, node.name)
    try:
        nest = loops(ids.shape, ids.strides, torch.empty(ids.shape, device="meta").stride())
    except ValueError:
        raise Unsupported("an embedding over more than 6 dimensions") from None
    low.emit(
        "embedding", low.dtype, indices=ids, table=table, out=out, width=out.shape[-1], entries=entries,
        size=nest.size, index_stride=nest.strides[0],
    )  # fmt: skip
    return out
