"""Entries in another order, picked by number, repeated, or with more around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Space, Value, loops
from fastcomb.program import Node, Weight


@rule("index_select", "index")
def _picked(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """By constant numbers along one dimension, or along several that follow one another."""
    (x,) = low.numbers(node, "self")
    if node.op == "index_select":
        first, numbers = arguments["dim"] % x.meta.ndim, [arguments["index"]]
    else:
        numbers = [index for index in arguments["indices"] if index is not None]
        first = next(d for d, index in enumerate(arguments["indices"]) if index is not None)
    known = [_constant(low, number) for number in numbers]
    sizes = x.shape[first : first + len(known)]
    for number, size in zip(known, sizes, strict=True):
        if number.numel() and not -size <= int(number.min()) <= int(number.max()) < size:
            raise Unsupported("numbers beyond what they pick from")
    known = [number % size for number, size in zip(known, sizes, strict=True)]
    flat = torch.zeros((), dtype=torch.int64)
    for number, size in zip(known, sizes, strict=True):
        flat = flat * size + number
    if len(known) > 1:
        x = low.reshaped(x, (*x.shape[:first], -1, *x.shape[first + len(known) :]))
    out = low.make((*x.shape[:first], flat.numel(), *x.shape[first + 1 :]), node.name)
    taken(low, x, out, first, flat.reshape(-1))
    return out.view(out.meta.reshape(low.shapes[node.name].shape))


def _constant(low: Lowering, index: Any) -> Tensor:
    """The values of a constant index."""
    if isinstance(index, Weight) and index.kind != "parameter":
        index = low.value(index)
    if not isinstance(index, Value) or index.meta.dtype != torch.int64:
        raise Unsupported("entries picked by other than whole numbers")
    if index.buffer not in low.shared.constants:
        raise Unsupported("entries picked by computed numbers")
    return (
        low.shared.constants.of(index.buffer).reshape(-1).as_strided(index.shape, index.strides, index.offset)
    )


def taken(low: Lowering, x: Value, out: Value, dim: int, numbers: Tensor) -> None:
    """Emit into ``out`` the entries of x along a dimension by these numbers."""
    indices = low.shared.constants.add(("numbers", tuple(numbers.tolist())), numbers)
    others = [d for d in range(x.meta.ndim) if d != dim]
    steps = [[m.stride(d) for d in others] for m in (x.meta, out.meta)]
    try:
        nest = loops([x.shape[d] for d in others], *steps)
    except ValueError:
        raise Unsupported("entries picked in more than 6 dimensions") from None
    low.emit(
        "take", low.dtype, indices=indices, x=x, out=out, count=len(numbers), entries=x.shape[dim],
        x_entry=x.strides[dim], out_entry=out.strides[dim], batch=1, index_batch=0, x_batch=0, out_batch=0,
        size=nest.size, x_stride=nest.strides[0], out_stride=nest.strides[1],
    )  # fmt: skip


@rule("index_samples")
def _picked_by_samples(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """One entry of every sample along the second dimension, by numbers that are inputs or constants."""
    (x,) = low.numbers(node, "0")
    numbers = arguments["1"]
    if len(arguments) != 2 or not isinstance(numbers, Value) or numbers.meta.dtype != torch.int64:
        raise Unsupported("entries of samples picked in several dimensions")
    if numbers.buffer.space not in (Space.INPUT, Space.CONSTANTS):
        raise Unsupported("entries of samples picked by computed numbers")
    out = low.make(low.shapes[node.name].shape, node.name)
    nest = loops(x.shape[2:], x.strides[2:], out.strides[1:])
    low.emit(
        "take", low.dtype, indices=numbers, x=x, out=out, count=1, entries=x.shape[1], x_entry=x.strides[1],
        out_entry=0, batch=x.shape[0], index_batch=numbers.strides[0], x_batch=x.strides[0],
        out_batch=out.strides[0], size=nest.size, x_stride=nest.strides[0], out_stride=nest.strides[1],
    )  # fmt: skip
    return out


@rule("roll", "flip")
def _turned(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """One dimension after the other."""
    (x,) = low.numbers(node, "self")
    dims = arguments["dims"]
    shifts = arguments.get("shifts", dims)
    if not dims:
        raise Unsupported(f"a {node.op} of everything")
    for i, (dim, shift) in enumerate(zip(dims, shifts, strict=True)):
        size = x.shape[dim]
        order = torch.arange(size)
        order = order.flip(0) if node.op == "flip" else order.roll(shift)
        last = i == len(dims) - 1
        out = low.like(x, node.name if last else f"{node.name}/{i}")
        taken(low, x, out, dim % x.meta.ndim, order)
        x = out
    return x


@rule("repeat", "tile")
def _repeated(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    (x,) = low.numbers(node, "self")
    times = list(arguments["repeats" if node.op == "repeat" else "dims"])
    times = [1] * (x.meta.ndim - len(times)) + times
    sizes = [1] * (len(times) - x.meta.ndim) + list(x.shape)
    wide = [part for pair in zip(times, sizes, strict=True) for part in pair]
    out = low.make(low.shapes[node.name].shape, node.name)
    low.unary("identity", out.view(out.meta.reshape(wide)), x.view(_split(x, sizes)))
    return out


@rule("repeat_interleave")
def _interleaved(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    times, dim = arguments["repeats"], arguments.get("dim")
    if not isinstance(times, int) or dim is None:
        raise Unsupported("entries that are repeated some times each")
    (x,) = low.numbers(node, "self")
    dim %= x.meta.ndim
    out = low.make(low.shapes[node.name].shape, node.name)
    to = out.view(out.meta.unflatten(dim, (x.shape[dim], times)))
    low.unary("identity", to, x.view(x.meta.unsqueeze(dim + 1)))
    return out


@rule("pad", "constant_pad_nd")
def _padded(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """The middle first; then what is around it, one dimension after the other, from what is there by then."""
    (x,) = low.numbers(node, "self")
    mode, value = arguments.get("mode", "constant"), arguments.get("value") or 0
    sides = arguments["pad"]
    around = {x.meta.ndim - 1 - i: (sides[2 * i], sides[2 * i + 1]) for i in range(len(sides) // 2)}
    if mode != "constant" and any(side < 0 for two in around.values() for side in two):
        raise Unsupported(f"padding by {mode} with negative sizes")
    out = low.make(low.shapes[node.name].shape, node.name)
    if mode == "constant":
        low.unary("identity", out, low.value(value))
    inside, source = out.meta, x.meta
    for dim, (before, after) in around.items():
        source = source.narrow(dim, max(-before, 0), source.shape[dim] + min(before, 0) + min(after, 0))
        inside = inside.narrow(dim, max(before, 0), source.shape[dim])
    if source.numel():
        low.unary("identity", out.view(inside), x.view(source))
    if mode == "constant":
        return out
    todo = dict(around)
    for dim, (before, after) in around.items():
        del todo[dim]
        frame = out.meta
        for other, (ahead, _) in todo.items():
            frame = frame.narrow(other, ahead, x.shape[other])
        numbers = _mirrored(mode, before, x.shape[dim], after) + before
        for start, count in ((0, before), (before + x.shape[dim], after)):
            if count:
                part = out.view(frame.narrow(dim, start, count))
                taken(low, out.view(frame), part, dim, numbers[start : start + count])
    return out


def _mirrored(mode: str, before: int, size: int, after: int) -> Tensor:
    """Numbers of the entries that stand at each place along a padded dimension."""
    places = torch.arange(-before, size + after)
    if mode == "circular":
        return places % size
    if mode == "replicate":
        return places.clamp(0, size - 1)
    if mode == "reflect":
        return (size - 1) - ((size - 1) - places.abs()).abs()
    raise Unsupported(f"padding by {mode}")


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
def _shuffled(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Channels that become places of a finer image, the other way round, or that change theirs."""
    (x,) = low.numbers(node, "self")
    if x.meta.ndim != 4:
        raise Unsupported(f"{node.op} of {x.meta.ndim} dimensions")
    out = low.make(low.shapes[node.name].shape, node.name, image=x.images)
    if node.op == "channel_shuffle":
        groups = arguments["groups"]
        source = x.meta.unflatten(1, (groups, -1)).transpose(1, 2)
        to = out.meta.unflatten(1, (-1, groups))
    elif node.op == "pixel_shuffle":
        r = arguments["upscale_factor"]
        source = x.meta.unflatten(1, (-1, r, r)).permute(0, 1, 4, 2, 5, 3)
        to = _fine(out.meta, r)
    else:
        r = arguments["downscale_factor"]
        source = _fine(x.meta, r)
        to = out.meta.unflatten(1, (-1, r, r)).permute(0, 1, 4, 2, 5, 3)
    low.unary("identity", out.view(to), x.view(source))
    return out


def _fine(meta: Tensor, r: int) -> Tensor:
    """Images [N, C, H · r, W · r] as [N, C, H, r, W, r]."""
    fine: Tensor = meta.unflatten(3, (-1, r)).unflatten(2, (-1, r))
    return fine


def _split(x: Value, sizes: Sequence[int]) -> Tensor:
    """A view with a dimension of 1 before each of ``sizes``."""
    meta = x.meta
    for _ in range(len(sizes) - meta.ndim):
        meta = meta.unsqueeze(0)
    for d in reversed(range(len(sizes))):
        meta = meta.unsqueeze(d)
    return meta
