"""Pooling, reductions, softmax and attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.instructions import Op
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Value, loops
from fastcomb.program import Node


@rule("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
def _pooled(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    maximum, adaptive = node.op == "max_pool2d", node.op == "adaptive_avg_pool2d"
    x = low.as_images(low.value(next(iter(arguments.values()))), node.name)
    out = low.make(low.shapes[node.name].shape, node.name, image=True)
    kernel = _pair(arguments.get("kernel_size", [1, 1]))
    stride = _pair(arguments.get("stride") or kernel)
    padding, dilation = _pair(arguments.get("padding", [0])), _pair(arguments.get("dilation", [1]))
    inside = bool(arguments.get("count_include_pad", False))
    divisor = arguments.get("divisor_override") or 0
    n, c, h, w = x.shape
    steps = [v.strides[d] for v in (x, out) for d in (0, 2, 3)]
    low.emit(
        Op.POOL, low.dtype, [x, out],
        [maximum, inside, adaptive, n, c, h, w, *out.shape[2:], *steps, *kernel, *stride, *padding, *dilation,
         divisor],
    )  # fmt: skip
    return out


@rule("mean", "sum", "amax")
def _reduced(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    if arguments.get("dtype") is not None:
        raise Unsupported("a reduction with a dtype")
    x = low.value(arguments["self"])
    dims = arguments.get("dim")
    dims = range(x.meta.ndim) if dims in (None, []) else dims
    over = {d % x.meta.ndim for d in ([dims] if isinstance(dims, int) else dims)}
    kept = [d for d in range(x.meta.ndim) if d not in over]
    out = low.make(low.shapes[node.name].shape, node.name)
    inner = loops([x.shape[d] for d in sorted(over)], [x.strides[d] for d in sorted(over)])
    shape = [x.shape[d] for d in kept]
    dense = torch.empty(shape, device="meta").stride()
    outer = loops(shape, [x.strides[d] for d in kept], dense)
    count = 1
    for d in over:
        count *= x.shape[d]
    low.emit(
        Op.REDUCE, low.dtype, [x, out],
        [node.op == "amax", *outer.size, *outer.strides[0], *outer.strides[1], *inner.size,
         *inner.strides[0]],
        [1 / count if node.op == "mean" else 1],
    )  # fmt: skip
    return out


@rule("softmax", "log_softmax")
def _softmax(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    x = low.value(arguments["self"])
    dim = arguments["dim"] % x.meta.ndim
    last = low.dense(x.view(x.meta.movedim(dim, -1)), node.name)
    out = low.make(last.shape, node.name)
    width = last.shape[-1]
    low.emit(
        Op.SOFTMAX, low.dtype, [last, out], [last.meta.numel() // width, width, node.op == "log_softmax"], [0]
    )
    return out.view(out.meta.movedim(-1, dim))


@rule("scaled_dot_product_attention")
def _scaled_dot_product_attention(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    if arguments.get("attn_mask") is not None or arguments.get("dropout_p") or arguments.get("enable_gqa"):
        raise Unsupported("attention with a mask, dropout or grouped heads")
    parts = [low.value(arguments[k]) for k in ("query", "key", "value")]
    if any(p.meta.ndim not in (3, 4) or p.strides[-1] != 1 for p in parts):
        parts = [low.dense(p, f"{node.name}/{i}") for i, p in enumerate(parts)]
    if any(p.meta.ndim not in (3, 4) for p in parts) or len({p.shape[:-2] for p in parts}) != 1:
        raise Unsupported("attention over other than [batch, heads, tokens, width]")
    four = [p.meta if p.meta.ndim == 4 else p.meta.unsqueeze(1) for p in parts]
    out = low.make(low.shapes[node.name].shape, node.name)
    to = out.meta if out.meta.ndim == 4 else out.meta.unsqueeze(1)
    q, k, v = four
    steps = [s for m in (q, k, v, to) for s in m.stride()[:3]]
    scale = arguments.get("scale")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    low.emit(
        Op.ATTENTION, low.dtype, [*parts, out],
        [q.shape[0], q.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3], *steps,
         bool(arguments.get("is_causal"))],
        [scale],
    )  # fmt: skip
    return out


def _pair(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values
