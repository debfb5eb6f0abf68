"""Linear layers and convolutions, with the normalisation, addition and ReLU that follow them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Buffer, Value, images, loops
from fastcomb.backends.native.normalise import folded
from fastcomb.backends.native.weights import conv_layout, linear_layout
from fastcomb.program import Node, Weight


def _emit_matmul(
    low: Lowering, node: Node, bias: Any, make: Callable[[str], tuple[Value, Callable[..., None]]]
) -> Value:
    """Emit a matrix product with the nodes that its instruction can take in.

    ``make(key)`` gives the result's value and what emits the instruction, called with
    (residual, scale, shift, relu).
    """
    epilogue = low.epilogue(node, norms=() if low.goal.kind == "collect" else ("batch_norm",))
    norm = epilogue.norm
    scale, shift = folded(low, norm, bias) if norm else (None, low.vector(bias))
    out, emit = make(epilogue.last.name)
    emit(low.residual(epilogue), scale, shift, epilogue.activation == "relu")
    return low.took(epilogue, out)


@rule("linear")
def _linear(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """A matrix product over up to three loops of rows; in bfloat16 rows of odd length get a zero."""
    weight = arguments["weight"]
    if not isinstance(weight, Weight) or weight.kind != "parameter":
        raise Unsupported("a linear layer whose weight is computed")
    x = low.value(arguments["input"])
    outputs, inner = low.weights.shapes[weight.name]
    layout = linear_layout(outputs, inner, even=low.dtype == torch.bfloat16)
    run = len(layout.inverse)
    if run != inner:
        wide = low.new(x.meta.numel() // inner * run)
        rows = torch.empty(*x.shape[:-1], run, dtype=low.dtype, device="meta")
        low.emit("zero", low.dtype, out=wide, count=wide.count)
        x = low.unary("identity", Value(wide, rows[..., :inner]), x)
    grid = _rows(low, x)
    if grid is None:
        x = low.dense(x, node.name)
        grid = _rows(low, x)
    assert grid is not None
    packed = low.weights.packed(weight.name, layout)

    def make(key: str) -> tuple[Value, Callable[..., None]]:
        out = low.make((*x.shape[:-1], outputs), key, dtype=low.last_dtype(key))

        def emit(residual: Value | None, scale: Buffer | None, shift: Buffer | None, relu: bool) -> None:
            if residual is not None and not residual.meta.is_contiguous():
                residual = low.dense(residual, key)
            count = out.meta.numel() // outputs
            to = (count // grid[0][0], count // grid[0][0] // grid[0][1])
            steps = [to[0] * outputs, to[1] * outputs, outputs]
            low.emit(
                "matmul", low.dtype, x=x, weights=packed, out=out, residual=residual, scale=scale,
                shift=shift, **_rows_of(grid[0], grid[1], steps, steps), outputs=outputs, relu=relu,
                out_float=low.is_float(out), run=run, segment=[0],
            )  # fmt: skip

        return out, emit

    return _emit_matmul(low, node, arguments["bias"], make)


def _rows(low: Lowering, x: Value) -> tuple[list[int], list[int]] | None:
    """Rows of the last dimension as up to three loops: sizes and strides."""
    if x.strides[-1] != 1 and x.shape[-1] != 1:
        return None
    try:
        dense = torch.empty(x.shape[:-1], device="meta").stride()
        nest = loops(x.shape[:-1], x.strides[:-1], dense, dims=3)
    except ValueError:
        return None
    return nest.size, nest.strides[0]


@rule("conv2d")
def _conv2d(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """An implicit matrix product for each group of channels, or the instruction for depthwise convolutions.

    The images are read where they lie, with room around them for the padding.
    """
    weight, groups = arguments["weight"], arguments["groups"]
    if not isinstance(weight, Weight) or weight.kind != "parameter":
        raise Unsupported("a convolution whose weight is computed")
    shape = low.weights.shapes[weight.name]
    outputs, inputs, kh, kw = shape
    (sh, sw), (dh, dw) = arguments["stride"], arguments["dilation"]
    padding = arguments["padding"]
    if isinstance(padding, str):
        total = [dh * (kh - 1), dw * (kw - 1)] if padding == "same" else [0, 0]
        if any(size % 2 for size in total):
            raise Unsupported("padding that differs between two sides")
        padding = [size // 2 for size in total]
    value = low.value(arguments["input"])
    depthwise = groups == value.shape[1] == outputs and inputs == 1
    even = low.dtype == torch.bfloat16 and not depthwise and inputs % 2 == 1
    x = _padded(low, value, tuple(padding), node.name, even=even and groups == 1)
    if even and groups > 1:
        raise Unsupported("grouped bfloat16 convolutions with an odd number of channels")
    batch, row, pixel = x.strides[0], x.strides[2], x.strides[3]
    origin = x.offset - padding[0] * row - padding[1] * pixel
    out_shape = tuple(low.shapes[node.name].shape)
    n, _, oh, ow = out_shape
    wide = inputs + even
    together = dw == 1 and (pixel == wide or kw == 1)
    segments = [y * dh * row for y in range(kh)] if together else [
        y * dh * row + i * dw * pixel for y in range(kh) for i in range(kw)]  # fmt: skip
    run = kw * wide if together else wide

    def make(key: str) -> tuple[Value, Callable[..., None]]:
        dtype = low.dtype if depthwise else low.last_dtype(key)
        out = low.make(out_shape, key, image=True, dtype=dtype)

        def emit(residual: Value | None, scale: Buffer | None, shift: Buffer | None, relu: bool) -> None:
            if depthwise:
                plain = low.weights.plain(weight.name, torch.float32)
                transposed, new = low.weights.derived(("transposed", weight.name), outputs * kh * kw)
                if new:
                    low.shared.setup.append(
                        low.instruction(
                            "transpose", torch.float32, x=plain, out=transposed, rows=outputs, columns=kh * kw
                        )
                    )
                fused = relu and residual is None
                low.emit(
                    "depthwise", low.dtype, x=x.at(origin), weights=transposed, out=out, scale=scale,
                    shift=shift, relu=fused, batch=n, channels=outputs, out_h=oh, out_w=ow, kernel_h=kh,
                    kernel_w=kw, in_batch=batch, in_row=row, in_pixel=pixel, out_batch=out.strides[0],
                    out_row=out.strides[2], out_pixel=out.strides[3], stride_h=sh, stride_w=sw, dilation_h=dh,
                    dilation_w=dw,
                )  # fmt: skip
                if residual is not None:
                    low.binary("add", out, out, residual)
                    if relu:
                        low.unary("relu", out, out)
                return
            for group in range(groups):
                layout = conv_layout(shape, wide, group, groups)
                packed = low.weights.packed(weight.name, layout)
                start = group * layout.outputs
                res = residual.at(residual.offset + start) if residual is not None else None
                like = residual if residual is not None else out
                nest = _pixels(
                    [n, oh, ow], [batch, sh * row, sw * pixel],
                    [out.strides[0], out.strides[2], out.strides[3]],
                    [like.strides[0], like.strides[2], like.strides[3]],
                )  # fmt: skip
                low.emit(
                    "matmul", low.dtype, x=x.at(origin + group * inputs), weights=packed,
                    out=out.at(out.offset + start), residual=res, scale=scale and (scale, start),
                    shift=shift and (shift, start), **_rows_of(*nest), outputs=layout.outputs, relu=relu,
                    out_float=low.is_float(out), run=run, segment=segments,
                )  # fmt: skip

        return out, emit

    return _emit_matmul(low, node, arguments["bias"], make)


def _padded(low: Lowering, value: Value, pad: tuple[int, int], key: str, *, even: bool) -> Value:
    """The value as images inside at least this much padding, with an even number of channels."""
    enough = value.buffer.pad[0] >= pad[0] and value.buffer.pad[1] >= pad[1]
    full = not even or value.strides[3] > value.shape[1]
    if value.images and full and (pad == (0, 0) or (value.whole and enough)):
        return value
    if value.whole and value.images and full:  # the next lowering makes room
        before = low.shared.pads.get(value.key, (0, 0))
        low.shared.pads[value.key] = (max(before[0], pad[0]), max(before[1], pad[1]))
        return value
    n, c, h, w = value.shape
    meta = images(value.shape, low.dtype, pad, c + even)
    buffer = low.new(n * (c + even) * (h + 2 * pad[0]) * (w + 2 * pad[1]))
    low.emit("zero", low.dtype, out=buffer, count=buffer.count)
    return low.unary("identity", Value(buffer, meta, key + "/padded"), value)


def _pixels(size: list[int], *strides: list[int]) -> tuple[list[int], ...]:
    """[batch, lines, rows] and each operand's strides, lines merged to longer ones where all allow it."""
    (n, h, w), steps = size, [list(s) for s in strides]
    if all(s[1] == w * s[2] for s in steps):
        h, w = 1, h * w
        if all(s[0] == w * s[2] for s in steps):
            n, w = 1, n * w
    return [n, h, w], *steps


def _rows_of(size: list[int], x: list[int], out: list[int], residual: list[int]) -> dict[str, int]:
    """The fields of a matrix product that say which rows: sizes and strides of batch, lines and rows."""
    strides = {"in": x, "out": out, "res": residual}
    fields = dict(zip(("batch", "lines", "rows"), size, strict=True))
    for name, steps in strides.items():
        fields |= dict(zip((f"{name}_batch", f"{name}_line", f"{name}_row"), steps, strict=True))
    return fields
