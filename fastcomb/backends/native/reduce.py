"""Pooling, reductions, softmax and attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Value, image_strides, loops
from fastcomb.program import Node


@rule("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
def _pooled(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Pooling of images [N, C, H, W], by maximum or mean, in one instruction."""
    maximum, adaptive = node.op == "max_pool2d", node.op == "adaptive_avg_pool2d"
    x = low.as_images(low.value(next(iter(arguments.values()))), node.name)
    out = low.make(low.shapes[node.name].shape, node.name, image=True)
    kernel = _pair(arguments.get("kernel_size", [1, 1]))
    stride = _pair(arguments.get("stride") or kernel)
    padding, dilation = _pair(arguments.get("padding", [0])), _pair(arguments.get("dilation", [1]))
    inside = bool(arguments.get("count_include_pad", False))
    divisor = arguments.get("divisor_override") or 0
    n, c, h, w = x.shape
    low.emit(
        "pool", low.dtype, x=x, out=out, maximum=maximum, count_padding=inside, adaptive=adaptive, batch=n,
        channels=c, in_h=h, in_w=w, out_h=out.shape[2], out_w=out.shape[3], **image_strides(x, out),
        kernel_h=kernel[0], kernel_w=kernel[1], stride_h=stride[0], stride_w=stride[1], pad_h=padding[0],
        pad_w=padding[1], dilation_h=dilation[0], dilation_w=dilation[1], divisor=divisor,
    )  # fmt: skip
    return out


@rule("mean", "sum", "amax")
def _reduced(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """A reduction in two nests of loops: over the dimensions that are left, and over those that go."""
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
        "reduce", low.dtype, x=x, out=out, maximum=node.op == "amax", outer=outer.size,
        outer_in=outer.strides[0], outer_out=outer.strides[1], over=inner.size, over_in=inner.strides[0],
        factor=1 / count if node.op == "mean" else 1.0,
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
        "softmax", low.dtype, x=last, out=out, count=last.meta.numel() // width, width=width,
        logarithm=node.op == "log_softmax",
    )  # fmt: skip
    return out.view(out.meta.movedim(-1, dim))


@rule("scaled_dot_product_attention")
def _scaled_dot_product_attention(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Attention over [batch, heads, tokens, width] or without heads; masks but the causal one are refused."""
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
    strides = {
        f"{name}_stride": m.stride()[:3] for name, m in zip(("q", "k", "v", "out"), (*four, to), strict=True)
    }
    scale = arguments.get("scale")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    low.emit(
        "attention", low.dtype, q=parts[0], k=parts[1], v=parts[2], out=out, batch=q.shape[0],
        heads=q.shape[1], queries=q.shape[2], keys=k.shape[2], width=q.shape[3], value_width=v.shape[3],
        **strides, causal=bool(arguments.get("is_causal")), scale=scale,
    )  # fmt: skip
    return out


def _pair(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values
