"""Pooling, reductions, softmax and sums along a dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Value, image_strides, loops
from fastcomb.program import Node

_SPATIAL = {
    f"{kind}_pool{spatial}d": spatial
    for kind in ("max", "avg", "adaptive_avg", "adaptive_max")
    for spatial in (1, 2, 3)
}


@rule(*_SPATIAL)
def _pooled(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Any:
    """Pooling of images [N, C, ...] by maximum or mean: height and width together, depth before them."""
    spatial, shape = _SPATIAL[node.op], low.shapes[node.name]
    several = not isinstance(shape, Tensor)
    shape = tuple((shape[0] if several else shape).shape)
    (x,) = low.numbers(node, next(iter(arguments)))
    if x.meta.ndim != spatial + 2:
        raise Unsupported(f"{node.op} of {x.meta.ndim} dimensions")
    windows = _windows(arguments, spatial, list(x.shape[2:]))
    if spatial == 3:
        out = _pooled_volumes(low, node, arguments, x, shape, windows)
    else:
        x = low.as_images(x, node.name)
        out = low.make(shape, node.name, image=True)
        _emit_pool(low, node, arguments, x, out.tall() if spatial == 1 else out, windows)
    return (out, None) if several else out


def _windows(arguments: Mapping[str, Any], spatial: int, size: list[int]) -> dict[str, list[int]]:
    """Sizes of windows and steps for each spatial dimension, with a height of 1 where there is one."""

    def each(value: Any) -> list[int]:
        values = [value] if isinstance(value, int) else list(value)
        return values * spatial if len(values) == 1 else values

    kernel = each(arguments.get("kernel_size", 1))
    stride = each(arguments.get("stride") or kernel)
    windows = {
        "kernel": kernel, "stride": stride, "pad": each(arguments.get("padding", 0)),
        "dilation": each(arguments.get("dilation", 1)),
    }  # fmt: skip
    if spatial == 1:
        return {name: [int(name != "pad"), *values] for name, values in windows.items()}
    return windows


def _emit_pool(
    low: Lowering,
    node: Node,
    arguments: Mapping[str, Any],
    x: Value,
    out: Value,
    windows: dict[str, list[int]],
) -> None:
    n, c, h, w = x.shape
    fields = {
        f"{name}_{side}": size for name, two in windows.items() for side, size in zip("hw", two, strict=True)
    }
    low.emit(
        "pool", low.dtype, x=x, out=out, maximum="max_pool" in node.op,
        count_padding=bool(arguments.get("count_include_pad", False)),
        adaptive=node.op.startswith("adaptive"), batch=n, channels=c, in_h=h, in_w=w, out_h=out.shape[2],
        out_w=out.shape[3], **image_strides(x, out), **fields, divisor=arguments.get("divisor_override") or 0,
    )  # fmt: skip


def _pooled_volumes(
    low: Lowering, node: Node, arguments: Mapping[str, Any], x: Value, shape: tuple[int, ...],
    windows: dict[str, list[int]],
) -> Value:  # fmt: skip
    """Windows over depth, all pixels of a plane as channels, then over the rows and columns of planes."""
    if arguments.get("divisor_override"):
        raise Unsupported("pooling of volumes with a divisor")
    (n, c, d, h, w), (_, _, od, oh, ow) = x.shape, shape
    last = low.copied(x.view(x.meta.permute(0, 2, 3, 4, 1)), f"{node.name}/last")  # [N, D, H, W, C]
    columns = last.view(last.meta.reshape(n, d, 1, h * w * c).permute(0, 3, 1, 2))
    planes = low.make((n, od, h, w, c), f"{node.name}/planes")
    deep = planes.view(planes.meta.view(n, od, 1, h * w * c).permute(0, 3, 1, 2))
    one = {name: [sizes[0], int(name != "pad")] for name, sizes in windows.items()}
    _emit_pool(low, node, arguments, columns, deep, one)
    out = low.make((n, od, oh, ow, c), node.name)
    flat = planes.view(planes.meta.view(n * od, h, w, c).permute(0, 3, 1, 2))
    to = out.view(out.meta.view(n * od, oh, ow, c).permute(0, 3, 1, 2))
    _emit_pool(low, node, arguments, flat, to, {name: sizes[1:] for name, sizes in windows.items()})
    return out.view(out.meta.permute(0, 4, 1, 2, 3))


#: Canonical name → the engine's reduction (csrc/ops.def).
_REDUCTIONS = {
    "mean": "sum", "sum": "sum", "amax": "maximum", "amin": "minimum", "prod": "product", "any": "maximum",
    "all": "minimum", "logsumexp": "logsumexp", "var": "variance", "std": "deviation",
}  # fmt: skip
_ORDERS = {1: "absolute", 2: "norm"}


@rule(*_REDUCTIONS)
def _reduced(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    if arguments.get("dtype") not in (None, low.dtype):
        raise Unsupported("a reduction with a dtype")
    if node.op in ("any", "all") and low.kind(node.arguments["self"]) != torch.bool:
        raise Unsupported(f"{node.op} of what is no mask")
    return reduced(low, node, low.shapes[node.name].shape, _REDUCTIONS[node.op])


@rule("linalg_vector_norm", "norm")
def _norm(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Sums of absolute values, roots of sums of squares."""
    order = arguments.get("ord", arguments.get("p", 2))
    order = 2 if order is None else order
    if order not in _ORDERS or arguments.get("dtype") not in (None, low.dtype):
        raise Unsupported(f"the norm of order {order}")
    return reduced(low, node, low.shapes[node.name].shape, _ORDERS[order])


def reduced(low: Lowering, node: Node, result: Sequence[int], kind: str) -> Value:
    """A reduction in two nests of loops: over the dimensions that are left, and over those that go."""
    arguments = node.arguments
    (x,) = low.numbers(node, "self", masks=node.op in ("any", "all"))
    dims = arguments.get("dim")
    dims = range(x.meta.ndim) if dims in (None, []) else dims
    over = {d % x.meta.ndim for d in ([dims] if isinstance(dims, int) else dims)}
    kept = [d for d in range(x.meta.ndim) if d not in over]
    out = low.make(result, node.name)
    inner = loops([x.shape[d] for d in sorted(over)], [x.strides[d] for d in sorted(over)])
    shape = [x.shape[d] for d in kept]
    dense = torch.empty(shape, device="meta").stride()
    outer = loops(shape, [x.strides[d] for d in kept], dense)
    count = math.prod(x.shape[d] for d in over)
    factor = 1 / count if node.op == "mean" else 1.0
    if node.op in ("var", "std"):
        free = count - _correction(arguments)
        factor = 1 / free if free > 0 else math.inf
    low.emit(
        "reduce", low.dtype, x=x, out=out, kind=kind, outer=outer.size, outer_in=outer.strides[0],
        outer_out=outer.strides[1], over=inner.size, over_in=inner.strides[0], factor=factor,
    )  # fmt: skip
    return out


def _correction(arguments: Mapping[str, Any]) -> float:
    """What a variance takes off the number of values: by name, or 1 unless it says that it is biased."""
    if "correction" in arguments:
        return 1.0 if arguments["correction"] is None else arguments["correction"]
    return float(arguments.get("unbiased", True))


@rule("cumsum")
def _cumsum(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    if arguments.get("dtype") not in (None, low.dtype):
        raise Unsupported("sums with a dtype")
    (x,) = low.numbers(node, "self")
    out = low.make(x.shape, node.name)
    dim = arguments["dim"]
    views = [x.meta.movedim(dim, -1), out.meta.movedim(dim, -1)]
    nest = loops(views[0].shape, *(view.stride() for view in views), keep_last=True)
    low.emit(
        "cumsum",
        low.dtype,
        x=x,
        out=out,
        size=nest.size,
        x_stride=nest.strides[0],
        out_stride=nest.strides[1],
    )
    return out


@rule("softmax", "log_softmax")
def _softmax(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    if arguments.get("dtype") not in (None, low.dtype):
        raise Unsupported("a softmax with a dtype")
    (x,) = low.numbers(node, "self")
    dim = arguments["dim"] % x.meta.ndim
    last = low.dense(x.view(x.meta.movedim(dim, -1)), node.name)
    out = low.make(last.shape, node.name)
    width = last.shape[-1]
    low.emit(
        "softmax", low.dtype, x=last, out=out, count=last.meta.numel() // width, width=width,
        logarithm=node.op == "log_softmax",
    )  # fmt: skip
    return out.view(out.meta.movedim(-1, dim))
