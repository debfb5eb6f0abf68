"""Convolutions of volumes: a matrix product for each plane of the result."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.matmul import arranged, emit_layer, rows_of
from fastcomb.backends.native.memory import Buffer, Value, images
from fastcomb.program import Node


@rule("conv3d")
def _convolution(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """The volumes are copied into zeros that are their padding, channels innermost."""
    x, kernel = low.numbers(node, "input", "weight")
    if x.meta.ndim != 5:
        raise Unsupported(f"conv3d of {x.meta.ndim} dimensions")
    if isinstance(arguments["padding"], str):
        raise Unsupported("conv3d with padding by name")
    outputs, inputs, *sizes = kernel.shape
    groups = arguments["groups"]
    own = outputs // groups
    stride, padding, dilation = (
        list(arguments[name]) * (4 - len(arguments[name]) if len(arguments[name]) == 1 else 1)
        for name in ("stride", "padding", "dilation")
    )
    run = inputs + (inputs % 2 if low.dtype == torch.bfloat16 else 0)  # zeros where pairs want one more
    parts = [
        _padded(low, x.view(x.meta.narrow(1, g * inputs, inputs)), padding, run, f"{node.name}/{g}")
        for g in range(groups)
    ]
    batch, plane, row, pixel = (parts[0].strides[d] for d in (0, 2, 3, 4))
    taps = list(itertools.product(*map(range, sizes)))
    steps = [d * s for d, s in zip(dilation, (plane, row, pixel), strict=True)]
    segment = [_at(tap, steps) for tap in taps]
    shape = tuple(low.shapes[node.name].shape)
    n, _, depth, height, width = shape

    def make(key: str) -> tuple[Value, Callable[..., None]]:
        out = low.make(shape, key, image=True, dtype=low.last_dtype(key))

        def emit(residual: Value | None, scale: Buffer | None, shift: Buffer | None, relu: bool) -> None:
            for g, x in enumerate(parts):
                start = kernel.offset + g * own * kernel.strides[0]
                packed = arranged(
                    low, kernel, outputs=own, output_stride=kernel.strides[0], run=run, valid=inputs,
                    run_stride=kernel.strides[1],
                    segment=[start + _at(tap, kernel.strides[2:]) for tap in taps],
                )  # fmt: skip
                for z in range(depth):
                    to, like = (p.view(p.meta[:, g * own :, z]) for p in (out, residual or out))
                    rows = rows_of(
                        [n, height, width], [batch, stride[1] * row, stride[2] * pixel],
                        *([p.strides[0], p.strides[2], p.strides[3]] for p in (to, like)),
                    )  # fmt: skip
                    low.emit(
                        "matmul", low.dtype, x=x.at(x.offset + z * stride[0] * plane), weights=packed, out=to,
                        residual=None if residual is None else like, scale=scale and (scale, g * own),
                        shift=shift and (shift, g * own), **rows, outputs=own, relu=relu,
                        out_float=low.is_float(out), run=run, segment=segment,
                    )  # fmt: skip

        return out, emit

    return emit_layer(low, node, arguments["bias"], make)


def _at(place: Sequence[int], strides: Sequence[int]) -> int:
    return sum(i * stride for i, stride in zip(place, strides, strict=True))


def _padded(low: Lowering, x: Value, padding: list[int], channels: int, key: str) -> Value:
    """The volume, in its own memory, with zeros on all sides and after its channels."""
    shape = (*x.shape[:2], *(size + 2 * pad for size, pad in zip(x.shape[2:], padding, strict=True)))
    meta = images(shape, low.dtype, channels=channels)
    buffer = low.new(meta.numel() // shape[1] * channels)
    low.emit("zero", low.dtype, out=buffer, count=buffer.count)
    inside = meta
    for d, pad in enumerate(padding):
        inside = inside.narrow(d + 2, pad, x.shape[d + 2])
    low.unary("identity", Value(buffer, inside, key), x)
    return Value(buffer, meta, key)
