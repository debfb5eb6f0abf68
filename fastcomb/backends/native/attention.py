"""Attention, with masks and with heads that share keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Value
from fastcomb.program import Node


@rule("scaled_dot_product_attention")
def _scaled_dot_product_attention(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Attention over [batch, heads, tokens, width], with any number of dimensions before the tokens.

    Groups of query heads that share a head of keys and values are one instruction each.
    """
    if arguments.get("dropout_p"):
        raise Unsupported("attention with dropout")
    result = tuple(low.shapes[node.name].shape)
    batch = result[:-2]
    q, k, v = (
        _four(low, x, batch, arguments, f"{node.name}/{i}")
        for i, x in enumerate(low.numbers(node, "query", "key", "value"))
    )
    out = low.make(result, node.name)
    to = out.view(out.meta.view(*_two(batch), *result[-2:]))
    groups = 1
    if k.shape[1] != q.shape[1]:
        groups = q.shape[1] // k.shape[1]
        if v.shape[1] != k.shape[1]:
            raise Unsupported("attention with other heads of values than of keys")
    mask, boolean = _mask(low, node, arguments, (*_two(batch), result[-2], k.shape[2]), batch)
    scale = arguments.get("scale")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    for group in range(groups):  # the heads of one group are that many apart
        parts = {"q": _every(q, group, groups), "k": k, "v": v, "out": _every(to, group, groups)}
        if mask is not None:
            mask_part = _every(mask, group, groups)
            parts["mask"] = mask_part
        low.emit(
            "attention", low.dtype, **parts,
            **{f"{name}_stride": part.strides[:3] for name, part in parts.items() if name != "mask"},
            mask_stride=parts["mask"].strides if mask is not None else [0] * 4, batch=q.shape[0],
            heads=k.shape[1], queries=q.shape[2], keys=k.shape[2], width=q.shape[3], value_width=v.shape[3],
            boolean=boolean, causal=bool(arguments.get("is_causal")), scale=scale,
        )  # fmt: skip
    return out


def _two(batch: tuple[int, ...]) -> tuple[int, int]:
    """Dimensions before the tokens as two: batch and heads."""
    if len(batch) < 2:
        return (batch[0] if batch else 1), 1
    return torch.Size(batch[:-1]).numel(), batch[-1]


def _four(low: Lowering, x: Value, batch: tuple[int, ...], arguments: Mapping[str, Any], key: str) -> Value:
    """Queries, keys or values as [batch, heads, tokens, width] with neighbouring entries in a row."""
    if x.meta.ndim != len(batch) + 2:
        raise Unsupported("attention over other than [batch, heads, tokens, width]")
    heads = x.shape[-3] if arguments.get("enable_gqa") and len(batch) > 1 else _two(batch)[1]
    own = (*batch[:-1], heads) if len(batch) > 1 else batch
    x = x.view(x.meta.expand(*own, *x.shape[-2:]))
    if x.strides[-1] != 1 and x.shape[-1] != 1:
        x = low.dense(x, key)
    return low.reshaped(x, (_two(batch)[0], heads, *x.shape[-2:]))


def _every(value: Value, first: int, step: int) -> Value:
    """The heads of one group."""
    return value.view(value.meta[:, first::step])


def _mask(
    low: Lowering, node: Node, arguments: Mapping[str, Any], shape: tuple[int, ...], batch: tuple[int, ...]
) -> tuple[Value | None, bool]:
    """The mask [batch, heads, queries, keys], and whether it says what is seen rather than what is added."""
    if arguments.get("attn_mask") is None:
        return None, False
    (mask,) = low.numbers(node, "attn_mask", masks=True)
    mask = mask.view(mask.meta.expand(*batch, *shape[2:]))
    return low.reshaped(mask, shape), low.kind(node.arguments["attn_mask"]) == torch.bool
