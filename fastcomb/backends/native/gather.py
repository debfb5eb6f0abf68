"""Entries in another order, picked by number, repeated, or with more around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Space, Value, loops
from fastcomb.program import Node


@rule("index_select", "index")
def _picked(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """By numbers along one dimension, or by constant ones along several that follow one another."""
    (x,) = low.numbers(node, "self")
    if node.op == "index_select":
        first, numbers = arguments["dim"] % x.meta.ndim, [arguments["index"]]
    else:
        numbers = [index for index in arguments["indices"] if index is not None]
        first = next(d for d, index in enumerate(arguments["indices"]) if index is not None)
    shape = low.shapes[node.name].shape
    if len(numbers) == 1:
        given = _numbers(low, numbers[0], x.shape[first])
        places, after = given.meta.ndim, x.meta.ndim - first - 1
        out = low.make(shape, node.name)
        wide = given.view(given.meta.reshape(*given.shape, *[1] * after)) if after else given
        source = x.meta.reshape(*x.shape[:first], *[1] * (places - 1), *x.shape[first:]) if places else None
        if source is None or not x.shares(source):
            raise Unsupported("entries picked one by one")
        _take(low, wide, x.view(source), out, first + places - 1, from_end=True)
        return out
    sizes = x.shape[first : first + len(numbers)]
    known = [_constant(low, number, size) for number, size in zip(numbers, sizes, strict=True)]
    flat = torch.zeros((), dtype=torch.int64)
    for number, size in zip(known, sizes, strict=True):
        flat = flat * size + number
    x = low.reshaped(x, (*x.shape[:first], -1, *x.shape[first + len(known) :]))
    out = low.make((*x.shape[:first], flat.numel(), *x.shape[first + 1 :]), node.name)
    taken(low, x, out, first, flat.reshape(-1))
    return out.view(out.meta.reshape(shape))


@rule("index_samples")
def _picked_by_samples(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """One entry of every sample along the second dimension."""
    (x,) = low.numbers(node, "0")
    if len(arguments) != 2:
        raise Unsupported("entries of samples picked in several dimensions")
    numbers = _numbers(low, arguments["1"], x.shape[1])
    out = low.make(low.shapes[node.name].shape, node.name)
    after = x.meta.ndim - 1
    wide = numbers.view(numbers.meta.view(-1, *[1] * after))
    to = out.view(out.meta.unsqueeze(1))
    _take(low, wide, x, to, 1, from_end=True)
    return out


def _constant(low: Lowering, leaf: Any, entries: int) -> Tensor:
    """Constant numbers of entries, none of them negative."""
    known = _known(low, _numbers(low, leaf, entries))
    if known is None:
        raise Unsupported("entries picked by computed numbers")
    return known % entries


def _known(low: Lowering, numbers: Value) -> Tensor | None:
    """The numbers themselves, where they are constant."""
    if numbers.buffer not in low.shared.constants:
        return None
    flat = low.shared.constants.of(numbers.buffer).reshape(-1)
    return flat.as_strided(numbers.shape, numbers.strides, numbers.offset)


def taken(low: Lowering, x: Value, out: Value, dim: int, numbers: Tensor) -> None:
    """Emit into ``out`` the entries of x along a dimension by these numbers."""
    buffer = low.shared.constants.add(("numbers", tuple(numbers.tolist())), numbers)
    places = torch.empty(numbers.shape, dtype=torch.int64, device="meta")
    shape = [len(numbers) if d == dim else 1 for d in range(x.meta.ndim)]
    _take(low, Value(buffer, places.view(shape)), x, out, dim)


def _take(low: Lowering, numbers: Value, x: Value, out: Value, dim: int, *, from_end: bool = False) -> None:
    """Emit into ``out`` the entries of x along a dimension by numbers that are broadcast to out's shape."""
    size, (indices, source, to) = _nest(numbers.meta.expand(out.shape), _pinned(x, out.shape, dim), out.meta)
    low.emit(
        "take", low.dtype, indices=numbers, x=x, out=out, entries=x.shape[dim], x_entry=x.strides[dim],
        from_end=from_end, size=size, index_stride=indices, x_stride=source, out_stride=to,
    )  # fmt: skip


def _pinned(x: Value, shape: Sequence[int], dim: int) -> Tensor:
    """The first places of x along all dimensions but one, which stands still."""
    meta = x.meta.narrow(dim, 0, 1)
    for d, size in enumerate(shape):
        meta = meta if d == dim or meta.shape[d] == 1 else meta.narrow(d, 0, size)
    return meta.expand(tuple(shape))


def _nest(*metas: Tensor, keep_last: bool = False) -> tuple[list[int], list[list[int]]]:
    """Loops over tensors of one shape: sizes, and strides of each."""
    try:
        nest = loops(metas[0].shape, *(meta.stride() for meta in metas), keep_last=keep_last)
    except ValueError:
        raise Unsupported("entries picked in more than 6 dimensions") from None
    return nest.size, nest.strides


def _numbers(low: Lowering, leaf: Any, entries: int) -> Value:
    """Numbers that pick entries: of those that are neither computed nor constant, torch says what is wrong.

    Raises:
        Unsupported: they are no whole numbers, or may lie beyond what they pick from.
    """
    numbers = low.value(leaf)
    if numbers.meta.dtype != torch.int64:
        raise Unsupported("entries picked by other than whole numbers")
    known = _known(low, numbers)
    if known is not None:
        if known.numel() and not -entries <= int(known.min()) <= int(known.max()) < entries:
            raise Unsupported("numbers beyond what they pick from")
    elif numbers.buffer.space != Space.INPUT and low.below.get(numbers.buffer, entries + 1) > entries:
        raise Unsupported("entries picked by computed numbers")
    return numbers


@rule("gather")
def _gathered(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Entries along one dimension, by a number for each of them."""
    (x,) = low.numbers(node, "self")
    dim = arguments["dim"] % max(1, x.meta.ndim)
    numbers = _numbers(low, arguments["index"], x.shape[dim])
    out = low.make(low.shapes[node.name].shape, node.name)
    _take(low, numbers, x, out, dim)
    return out


@rule("scatter", "scatter_add")
def _scattered(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """A copy with some entries along one dimension replaced, or with more added to them."""
    if arguments.get("reduce") is not None:
        raise Unsupported(f"a scatter by {arguments['reduce']}")
    source = "src" if "src" in arguments else "value"
    x, y = low.numbers(node, "self", source)
    dim = arguments["dim"] % max(1, x.meta.ndim)
    numbers = _numbers(low, arguments["index"], x.shape[dim])
    if numbers.buffer.space == Space.INPUT:
        raise Unsupported("entries replaced by numbers that are inputs")
    out = low.copied(x, node.name)
    shape = numbers.shape
    for d, count in enumerate(shape if y.meta.ndim else ()):
        y = y.view(y.meta.narrow(d, 0, count))
    size, (indices, given, to) = _nest(numbers.meta, y.meta.expand(shape), _pinned(out, shape, dim))
    low.emit(
        "scatter", low.dtype, indices=numbers, x=y, out=out, entries=x.shape[dim], out_entry=out.strides[dim],
        add=node.op == "scatter_add", size=size, index_stride=indices, x_stride=given, out_stride=to,
    )  # fmt: skip
    return out


def ordered(
    low: Lowering, x: Value, dim: int, key: str, *, kept: int, descending: bool, nan_first: bool
) -> tuple[Value, Value]:
    """Emit the first entries along a dimension in their order, and their numbers."""
    moved = x.meta.movedim(dim, -1) if x.meta.ndim else x.meta.view(1)
    shape = (*moved.shape[:-1], kept)
    values = low.make(shape, f"{key}/values")
    numbers = low.make(shape, f"{key}/numbers", dtype=torch.int64)
    low.below[numbers.buffer] = moved.shape[-1]
    dense = torch.empty(moved.shape, device="meta")
    size, (steps, _) = _nest(moved, dense, keep_last=True)
    low.emit(
        "order", low.dtype, x=x, values=values, numbers=numbers, kept=kept, descending=descending,
        nan_first=nan_first, size=size, x_stride=steps,
    )  # fmt: skip
    values, numbers = (
        v.view(v.meta.movedim(-1, dim) if x.meta.ndim else v.meta.view(())) for v in (values, numbers)
    )
    return values, numbers


@rule("topk", "sort", "argsort", "argmax", "argmin")
def _ordered(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Any:
    """Entries along a dimension in their order, of equal ones the first first, as torch has it for sort."""
    (x,) = low.numbers(node, "self")
    dim = arguments.get("dim", -1)
    if dim is None:  # of all entries in a row
        x, dim = low.reshaped(x, (x.meta.numel(),)), 0
    extreme = node.op in ("argmax", "argmin")
    descending = node.op == "argmax" or bool(arguments.get("largest", arguments.get("descending", False)))
    kept = 1 if extreme else arguments.get("k", x.shape[dim])
    values, numbers = ordered(
        low, x, dim, node.name, kept=kept, descending=descending, nan_first=descending or extreme
    )
    if extreme:
        return low.reshaped(numbers, low.shapes[node.name].shape)
    return numbers if node.op == "argsort" else (values, numbers)


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


@rule("slice_scatter", "select_scatter")
def _overwritten(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """A copy with a part of it replaced."""
    x, source = low.numbers(node, "self", "src")
    out = low.copied(x, node.name)
    dim = arguments["dim"] % x.meta.ndim
    if node.op == "select_scatter":
        part = out.meta.select(dim, arguments["index"])
    else:
        part = out.meta.movedim(dim, 0)[
            arguments.get("start") : arguments.get("end") : arguments.get("step", 1)
        ]
        part = part.movedim(0, dim)
    low.unary("identity", out.view(part), source)
    return out


@rule("copy")
def _copy(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """The second operand in the shape of the first."""
    (source,) = low.numbers(node, "src")
    return source.view(source.meta.expand(low.shapes[node.name].shape))
