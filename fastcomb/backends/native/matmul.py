"""Linear layers and convolutions, with the normalisation, addition and ReLU that follow them.

Their weights are parameters, or computed and then laid out as parameters are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Buffer, Space, Value, images, loops, pitch
from fastcomb.backends.native.normalise import folded
from fastcomb.backends.native.weights import conv_layout, linear_layout
from fastcomb.program import Node, Weight

#: Lines that the first-level cache keeps in one place, and vectors of outputs for which copying rows pays.
_WAYS, _PANELS = 8, 8


def emit_layer(
    low: Lowering, node: Node, bias: Any, make: Callable[[str], tuple[Value, Callable[..., None]]]
) -> Value:
    """Emit a matrix product with the nodes that its instruction can take in.

    ``make(key)`` gives the result's value and what emits the instruction, called with
    (residual, scale, shift, relu).
    """
    known = low.goal.kind != "collect" and not isinstance(bias, Value) and _channels_second(node)
    epilogue = low.epilogue(node, norms=("batch_norm",) if known else ())
    norm = epilogue.norm
    scale, shift = folded(low, norm, bias) if norm else (None, low.vector(bias))
    out, emit = make(epilogue.last.name)
    emit(low.residual(epilogue), scale, shift, epilogue.activation == "relu")
    return low.took(epilogue, out)


def _channels_second(node: Node) -> bool:
    """Whether the outputs of a product are what a batch norm takes for channels."""
    return node.op.startswith("conv") or len(node.shape) == 2


@rule("linear")
def _linear(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """A matrix product with a parameter or a computed weight [outputs, inner]."""
    weight = arguments["weight"]
    (x,) = low.numbers(node, "input")
    if (
        isinstance(weight, Weight)
        and weight.kind == "parameter"
        and len(low.weights.shapes[weight.name]) == 2
    ):
        outputs, inner = low.weights.shapes[weight.name]
        layout = linear_layout(outputs, inner, even=low.dtype == torch.bfloat16)
        return dense(low, node, x, low.weights.packed(weight.name, layout), outputs, arguments["bias"])
    (value,) = low.numbers(node, "weight")
    if value.meta.ndim != 2:
        raise Unsupported(f"a linear layer with a weight of {value.meta.ndim} dimensions")
    packed = arranged_matrix(low, value.view(value.meta.t()))
    return dense(low, node, x, packed, value.shape[0], arguments["bias"])


def arranged_matrix(low: Lowering, value: Value) -> Buffer:
    """A matrix [inner, outputs] as products read it, with a row of zeros where pairs want one more."""
    inner, outputs = value.shape
    run = inner + (inner % 2 if low.dtype == torch.bfloat16 else 0)
    return arranged(
        low, value, outputs=outputs, output_stride=value.strides[1], run=run, valid=inner,
        run_stride=value.strides[0], segment=[value.offset],
    )  # fmt: skip


def arranged(low: Lowering, value: Value, *, segment: Sequence[int], **geometry: int) -> Buffer:
    """Values laid out as packed weights, which is done once for each combination where they are parameters.

    Args:
        low: the lowering.
        value: what the buffer to read from belongs to.
        segment: elements from the start of the buffer to each segment.
        **geometry: the other fields of the instruction (csrc/ops.def, arrange).
    """
    lanes = -(-geometry["outputs"] // low.weights.width) * low.weights.width
    count = lanes * len(segment) * geometry["run"]
    fields = {"wide": value.meta.dtype == torch.float32, **geometry, "segment": list(segment)}
    if value.buffer.space == Space.WEIGHTS:
        place = (value.buffer.offset, tuple(segment), tuple(geometry.items()))
        packed, new = low.weights.derived(("arranged", place), count)
        if new:
            instruction = low.instruction("arrange", low.dtype, x=(value.buffer, 0), out=packed, **fields)
            low.shared.setup.append(instruction)
        return packed
    packed = low.new(count, torch.float32)
    low.emit("arrange", low.dtype, x=(value.buffer, 0), out=packed, **fields)
    return packed


def dense(low: Lowering, node: Node, x: Value, packed: Buffer, outputs: int, bias: Any) -> Value:
    """A matrix product over up to three loops of rows; in bfloat16 rows of odd length get a zero.

    Rows that would push one another out of the cache are copied, where several panels of outputs read them.
    """
    inner = x.shape[-1]
    run = inner + (inner % 2 if low.dtype == torch.bfloat16 else 0)
    grid = _rows(x)
    if (
        run != inner
        or grid is None
        or (_crowded(*grid, low.dtype) and outputs >= _PANELS * low.weights.width)
    ):
        rows = torch.empty(*x.shape[:-1], pitch(run, low.dtype), dtype=low.dtype, device="meta")
        wide = low.new(rows.numel())
        if run != inner:
            low.emit("zero", low.dtype, out=wide, count=wide.count)
        x = low.unary("identity", Value(wide, rows[..., :inner]), x)
        grid = _rows(x)
    assert grid is not None

    def make(key: str) -> tuple[Value, Callable[..., None]]:
        out = low.rows((*x.shape[:-1], outputs), key, dtype=low.last_dtype(key))

        def emit(residual: Value | None, scale: Buffer | None, shift: Buffer | None, relu: bool) -> None:
            if residual is not None and not residual.meta.is_contiguous():
                residual = low.dense(residual, key)
            count = out.meta.numel() // outputs
            each = (count // grid[0][0], count // grid[0][0] // grid[0][1], 1)
            apart = out.strides[-2] if out.meta.ndim > 1 else outputs
            to, added = [n * apart for n in each], [n * outputs for n in each]
            low.emit(
                "matmul", low.dtype, x=x, weights=packed, out=out, residual=residual, scale=scale,
                shift=shift, **rows_of(grid[0], grid[1], to, added), outputs=outputs, relu=relu,
                out_float=low.is_float(out), run=run, segment=[0],
            )  # fmt: skip

        return out, emit

    return emit_layer(low, node, bias, make)


def _crowded(sizes: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether rows side by side share their places in the cache, and are more than it keeps there."""
    return sizes[-1] > _WAYS and strides[-1] > 0 and pitch(strides[-1], dtype) != strides[-1]


def _rows(x: Value) -> tuple[list[int], list[int]] | None:
    """Rows of the last dimension as up to three loops: sizes and strides."""
    if x.strides[-1] != 1 and x.shape[-1] != 1:
        return None
    try:
        dense = torch.empty(x.shape[:-1], device="meta").stride()
        nest = loops(x.shape[:-1], x.strides[:-1], dense, dims=3)
    except ValueError:
        return None
    return nest.size, nest.strides[0]


@rule("conv1d", "conv2d")
def _convolution(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """An implicit matrix product for each group of channels, or the instruction for depthwise convolutions.

    The images are read where they lie, with room around them for the padding; those of one dimension have a
    height of 1.
    """
    weight, groups = arguments["weight"], arguments["groups"]
    flat = node.op == "conv1d"
    mixed = isinstance(weight, Weight) and weight.kind == "parameter"
    kernel = None if mixed else low.numbers(node, "weight")[0]
    shape = low.weights.shapes[weight.name] if kernel is None else kernel.shape
    outputs, inputs, kh, kw = shape = (*shape[:2], 1, *shape[2:]) if flat else tuple(shape)
    (sh, sw), (dh, dw) = _two(arguments["stride"], 1), _two(arguments["dilation"], 1)
    padding = arguments["padding"]
    if isinstance(padding, str):
        total = (dh * (kh - 1), dw * (kw - 1)) if padding == "same" else (0, 0)
        padding, frame = (total[0] // 2, total[1] // 2), (-(-total[0] // 2), -(-total[1] // 2))
    else:
        padding = frame = _two(padding, 0)
    (value,) = low.numbers(node, "input")
    if value.meta.ndim != (3 if flat else 4):
        raise Unsupported(f"{node.op} of {value.meta.ndim} dimensions")
    value = value.tall() if flat else value
    depthwise = groups == value.shape[1] == outputs and inputs == 1 and mixed
    even = low.dtype == torch.bfloat16 and not depthwise and inputs % 2 == 1
    parts = _groups(low, value, groups, frame, node.name, even=even)
    x = parts[0]
    batch, row, pixel = x.strides[0], x.strides[2], x.strides[3]
    before = padding[0] * row + padding[1] * pixel
    out_shape = tuple(low.shapes[node.name].shape)
    n, oh, ow = out_shape[0], 1 if flat else out_shape[2], out_shape[-1]
    wide = inputs + even
    together = dw == 1 and (pixel == wide or kw == 1)
    segments = [y * dh * row for y in range(kh)] if together else [
        y * dh * row + i * dw * pixel for y in range(kh) for i in range(kw)]  # fmt: skip
    run = kw * wide if together else wide

    def packed_of(group: int) -> Buffer:
        own = outputs // groups
        if kernel is None:
            return low.weights.packed(weight.name, conv_layout(shape, wide, group, groups))
        strides = kernel.strides if not flat else (*kernel.strides[:2], 0, kernel.strides[2])
        start = kernel.offset + group * own * strides[0]
        taps = [start + y * strides[2] + i * strides[3] for y in range(kh) for i in range(kw)]
        return arranged(
            low, kernel, outputs=own, output_stride=strides[0], run=wide, valid=inputs,
            run_stride=strides[1], segment=taps,
        )  # fmt: skip

    def make(key: str) -> tuple[Value, Callable[..., None]]:
        dtype = low.dtype if depthwise else low.last_dtype(key)
        result = low.make(out_shape, key, image=True, dtype=dtype)
        out = result.tall() if flat else result

        def emit(residual: Value | None, scale: Buffer | None, shift: Buffer | None, relu: bool) -> None:
            if residual is not None and flat:
                residual = residual.tall()
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
                    "depthwise", low.dtype, x=x.at(x.offset - before), weights=transposed, out=out,
                    scale=scale, shift=shift, relu=fused, batch=n, channels=outputs, out_h=oh, out_w=ow,
                    kernel_h=kh, kernel_w=kw, in_batch=batch, in_row=row, in_pixel=pixel,
                    out_batch=out.strides[0], out_row=out.strides[2], out_pixel=out.strides[3],
                    stride_h=sh, stride_w=sw, dilation_h=dh, dilation_w=dw,
                )  # fmt: skip
                if residual is not None:
                    low.binary("add", out, out, residual)
                    if relu:
                        low.unary("relu", out, out)
                return
            own = outputs // groups
            for group in range(groups):
                start = group * own
                res = residual.at(residual.offset + start) if residual is not None else None
                like = residual if residual is not None else out
                nest = _pixels(
                    [n, oh, ow], [batch, sh * row, sw * pixel],
                    [out.strides[0], out.strides[2], out.strides[3]],
                    [like.strides[0], like.strides[2], like.strides[3]],
                )  # fmt: skip
                own_x = parts[group]
                low.emit(
                    "matmul", low.dtype, x=own_x.at(own_x.offset - before), weights=packed_of(group),
                    out=out.at(out.offset + start), residual=res, scale=scale and (scale, start),
                    shift=shift and (shift, start), **rows_of(*nest), outputs=own, relu=relu,
                    out_float=low.is_float(out), run=run, segment=segments,
                )  # fmt: skip

        return result, emit

    return emit_layer(low, node, arguments["bias"], make)


@rule("conv_transpose1d", "conv_transpose2d")
def _transposed(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """A convolution for each place of an output pixel between the strides, with the taps that reach it."""
    flat, groups = node.op == "conv_transpose1d", arguments["groups"]
    (kernel,) = low.numbers(node, "weight")
    kernel = kernel.tall() if flat else kernel
    inputs, own, kh, kw = kernel.shape
    inputs //= groups
    (sh, sw), (dh, dw) = _two(arguments["stride"], 1), _two(arguments["dilation"], 1)
    ph, pw = _two(arguments["padding"], 0)
    (value,) = low.numbers(node, "input")
    if value.meta.ndim != (3 if flat else 4):
        raise Unsupported(f"{node.op} of {value.meta.ndim} dimensions")
    value = value.tall() if flat else value
    out_shape = tuple(low.shapes[node.name].shape)
    n, oh, ow = out_shape[0], 1 if flat else out_shape[2], out_shape[-1]
    rows = [_taps(place, sh, dh, kh, ph) for place in range(min(sh, oh))]
    columns = [_taps(place, sw, dw, kw, pw) for place in range(min(sw, ow))]
    pad = (_beyond(rows, sh, oh, value.shape[2]), _beyond(columns, sw, ow, value.shape[3]))
    even = low.dtype == torch.bfloat16 and inputs % 2 == 1
    parts = _groups(low, value, groups, pad, node.name, even=even)
    x = parts[0]
    batch, row, pixel = x.strides[0], x.strides[2], x.strides[3]

    def make(key: str) -> tuple[Value, Callable[..., None]]:
        result = low.make(out_shape, key, image=True, dtype=low.last_dtype(key))
        out = result.tall() if flat else result

        def emit(residual: Value | None, scale: Buffer | None, shift: Buffer | None, relu: bool) -> None:
            if residual is not None and flat:
                residual = residual.tall()
            for group, (y, row_taps), (z, column_taps) in itertools.product(
                range(groups), enumerate(rows), enumerate(columns)
            ):
                taps = list(itertools.product(row_taps, column_taps))
                start = kernel.offset + group * inputs * kernel.strides[0]
                ys, xs = kernel.strides[2:]
                packed = arranged(
                    low, kernel, outputs=own, output_stride=kernel.strides[1], run=inputs + even,
                    valid=inputs, run_stride=kernel.strides[0],
                    segment=[start + i * ys + j * xs for (i, _), (j, _) in taps],
                )  # fmt: skip
                to, like = (p.view(p.meta[:, group * own :, y::sh, z::sw]) for p in (out, residual or out))
                nest = (
                    [n, to.shape[2], to.shape[3]], [batch, row, pixel],
                    *([p.strides[0], p.strides[2], p.strides[3]] for p in (to, like)),
                )  # fmt: skip
                low.emit(
                    "matmul", low.dtype, x=parts[group], weights=packed, out=to,
                    residual=None if residual is None else like, scale=scale and (scale, group * own),
                    shift=shift and (shift, group * own), **rows_of(*nest), outputs=own, relu=relu,
                    out_float=low.is_float(out), run=inputs + even,
                    segment=[i * row + j * pixel for (_, i), (_, j) in taps],
                )  # fmt: skip

        return result, emit

    return emit_layer(low, node, arguments["bias"], make)


def _taps(place: int, stride: int, dilation: int, kernel: int, pad: int) -> list[tuple[int, int]]:
    """Entries of a kernel that reach the outputs ``place``, ``place + stride``, …; from which inputs on."""
    reach = [(k, place + pad - k * dilation) for k in range(kernel)]
    return [(k, at // stride) for k, at in reach if at % stride == 0]


def _beyond(taps: list[list[tuple[int, int]]], stride: int, outputs: int, inputs: int) -> int:
    """How far outside an image the taps of its outputs lie."""
    far = [0]
    for place, own in enumerate(taps):
        last = (outputs - 1 - place) // stride
        far += [side for _, at in own for side in (-at, at + last - inputs + 1)]
    return max(far)


def _two(values: Sequence[int], missing: int) -> tuple[int, int]:
    """Sizes of rows and columns where there may be one for both, or for columns only."""
    one, other = [missing, *values] if len(values) == 1 else values
    return one, other


def _groups(
    low: Lowering, value: Value, groups: int, pad: tuple[int, int], key: str, *, even: bool
) -> list[Value]:
    """Each group's channels as :func:`_padded` images, by itself where it needs an even number of them."""
    own = value.shape[1] // groups
    if even and groups > 1:
        return [
            _padded(low, value.view(value.meta.narrow(1, i * own, own)), pad, f"{key}/{i}", even=True)
            for i in range(groups)
        ]
    x = _padded(low, value, pad, key, even=even)
    return [x.view(x.meta.narrow(1, i * own, own)) for i in range(groups)]


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


def rows_of(size: list[int], x: list[int], out: list[int], residual: list[int]) -> dict[str, int]:
    """The fields of a matrix product that say which rows: sizes and strides of batch, lines and rows."""
    strides = {"in": x, "out": out, "res": residual}
    fields = dict(zip(("batch", "lines", "rows"), size, strict=True))
    for name, steps in strides.items():
        fields |= dict(zip((f"{name}_batch", f"{name}_line", f"{name}_row"), steps, strict=True))
    return fields
