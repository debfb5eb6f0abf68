"""Rules for operations that move, pick or join entries and compute nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fastcomb.program import Node
from fastcomb.program.ir import Dimension
from fastcomb.rebasin.axes import (
    Axes,
    Axis,
    Block,
    Factor,
    ViewError,
    blocks,
    is_plain,
    over,
    plain,
    repeats,
    replace,
    size_of,
)
from fastcomb.rebasin.axes import reshape as reshaped
from fastcomb.rebasin.bundles import Ids
from fastcomb.rebasin.reader import INPUT, Reader, Result

_RESHAPES = ("flatten", "reshape", "reshape_as", "view_as")


def permute(reader: Reader, node: Node) -> Result:
    """Dimensions in another order."""
    source = reader.first(node)
    return tuple(source[d] for d in node.arguments["dims"])


def transposed(reader: Reader, node: Node) -> Result:
    """``.T``: all dimensions in reverse order."""
    return reader.first(node)[::-1]


def last_two_exchanged(reader: Reader, node: Node) -> Result:
    """``.mT``."""
    source = reader.first(node)
    return (*source[:-2], source[-1], source[-2])


def transpose(reader: Reader, node: Node) -> Result:
    """Two dimensions exchanged: those that are named, or of a matrix both."""
    out = list(reader.first(node))
    if len(out) > 1:
        one, other = list(node.arguments.values())[1:] or (0, 1)
        out[one], out[other] = out[other], out[one]
    return tuple(out)


def reshape(reader: Reader, node: Node) -> Result:
    """A row-major view of another shape, as ``flatten``, ``unflatten`` and ``squeeze`` are too."""
    return reshaped(reader.first(node), node.shape)


def unsqueeze(reader: Reader, node: Node) -> Result:
    """A new dimension of size 1."""
    out = list(reader.first(node))
    out.insert(node.arguments["dim"] % (len(out) + 1), ())
    return tuple(out)


def expand(reader: Reader, node: Node) -> Result:
    """Repeated along new dimensions and those of size 1."""
    source, shape = reader.first(node), reader.shape(next(iter(node.arguments.values())))
    extra = len(node.shape) - len(source)
    return tuple(
        repeats(size) if d < extra or shape[d - extra] == 1 else source[d - extra]
        for d, size in enumerate(node.shape)
    )


def repeat_interleave(reader: Reader, node: Node) -> Result:
    """Every entry of a dimension so many times; None where that is a tensor, or all dimensions are meant."""
    dim, count = node.arguments.get("dim"), node.arguments.get("repeats")
    if dim is None or not isinstance(count, int):
        return None
    out = list(reader.first(node))
    out[dim] = (*out[dim], *repeats(count))
    return tuple(out)


def repeat(reader: Reader, node: Node) -> Result:
    """Copies one after the other along dimensions, perhaps new ones in front."""
    leaf = node.arguments["self"]
    new = len(node.shape) - len(reader.shape(leaf))
    shape, source = (1,) * new + reader.shape(leaf), ((),) * new + reader.first(node)
    copies = [over(size_of(whole), size_of(size)) for whole, size in zip(node.shape, shape, strict=True)]
    if None in copies:
        return None
    return tuple(
        axis if count == (1, ()) or count is None else (Factor(count, repeated=True), *axis)
        for axis, count in zip(source, copies, strict=True)
    )


def pixel_shuffle(reader: Reader, node: Node) -> Result:
    """Channels as finer pixels: [.., C·r·r, H, W] becomes [.., C, H·r, W·r]."""
    *first, _, height, width = reader.first(node)
    *_, channels, _, _ = node.shape
    each = node.arguments["upscale_factor"]
    c, down, right = reshaped(reader.first(node)[-3:-2], [channels, each, each])
    return (*first, c, (*height, *down), (*width, *right))


def pixel_unshuffle(reader: Reader, node: Node) -> Result:
    """Finer pixels as channels: [.., C, H·r, W·r] becomes [.., C·r·r, H, W]."""
    *first, channels, height, width = reader.first(node)
    *_, high, wide = node.shape
    each = node.arguments["downscale_factor"]
    height, down = reshaped((height,), [high, each])
    width, right = reshaped((width,), [wide, each])
    return (*first, (*channels, *down, *right), height, width)


def take(reader: Reader, axes: Axes, dim: int, which: Any, size: Dimension | None, tag: str) -> Axes:
    """Entries of one axis: a slice, or a number, which removes the axis (size None)."""
    if size == 1:
        axes = take(reader, axes, dim, which.start or 0, None, tag)
        return (*axes[:dim], (), *axes[dim:])
    others = axes[:dim] + axes[dim + 1 :]
    if is_plain(axes[dim]):
        return others if size is None else (*axes[:dim], plain([size])[0], *axes[dim + 1 :])
    if len(axes[dim]) != 1:
        ids = reader.flat(axes, dim)
        if ids is None or {id(b) for b in blocks(axes[dim : dim + 1])} & {id(b) for b in blocks(others)}:
            raise ViewError
        axes = (*axes[:dim], (Factor((len(ids), ()), Block(ids)),), *axes[dim + 1 :])
    ((_, block, k, _),) = axes[dim]
    assert block is not None
    reader.cut(block, k, which)
    ids = block.ids[(slice(None),) * k + (which,)]
    if ids.size < block.ids.size:
        reader.mark(ids, tag)
    if size is not None:
        new = Block(ids)
        taken = replace(axes, block, new, {d: d for d in range(ids.ndim)})
        return (*taken[:dim], (Factor(size_of(size), new, k),), *taken[dim + 1 :])
    if not ids.ndim:
        reader.atoms.pin(ids, "taken out one by one")
    left = {d: d - (d > k) for d in range(block.ids.ndim) if d != k}
    return replace(others, block, Block(ids) if left else None, left)


def select(reader: Reader, node: Node) -> Result:
    """One entry of a dimension, which goes; None where its number is computed."""
    source = reader.first(node)
    dim, index = node.arguments["dim"] % len(source), node.arguments["index"]
    if not isinstance(index, int):
        return None
    return take(reader, source, dim, index, None, f"{_origin(node)} select {index}")


def slice_(reader: Reader, node: Node) -> Result:
    """A slice of a dimension; None where it is not plain and a bound is computed."""
    source = reader.first(node)
    dim = node.arguments["dim"] % len(source)
    low, high, step = (node.arguments[name] for name in ("start", "end", "step"))
    if is_plain(source[dim]):
        return (*source[:dim], plain([node.shape[dim]])[0], *source[dim + 1 :])
    if not all(part is None or isinstance(part, int) for part in (low, high, step)):
        return None
    tag = f"{_origin(node)} slice {low}:{high}:{step}"
    return take(reader, source, dim, slice(low, high, step), node.shape[dim], tag)


def slice_scatter(reader: Reader, node: Node) -> Result:
    """A copy in which a slice is written over."""
    source, written = reader.first(node), reader.of(node, "src")
    dim = node.arguments["dim"] % len(source)
    part = [node.arguments[name] for name in ("start", "end", "step")]
    reader.meet(source, written, [(d, d) for d in range(len(source)) if d != dim])
    if is_plain(source[dim]) and is_plain(written[dim]):
        return source
    new, size = reader.flat(written, dim), reader.shape(node.arguments["src"])[dim]
    if not isinstance(size, int) or not all(bound is None or isinstance(bound, int) for bound in part):
        return None
    if new is None:
        new = _from_input(reader, size)
    return _overwrite(reader, node, source, dim, slice(*part), new)


def select_scatter(reader: Reader, node: Node) -> Result:
    """A copy in which one entry is written over."""
    source, written = reader.first(node), reader.of(node, "src")
    dim, index = node.arguments["dim"] % len(source), node.arguments["index"]
    others = [d for d in range(len(source)) if d != dim]
    reader.meet(source, written, [(d, i) for i, d in enumerate(others)])
    if is_plain(source[dim]):
        return source
    if not isinstance(index, int):
        return None
    new = reader.atoms.new(1)
    reader.atoms.pin(new, "put in one by one")
    return _overwrite(reader, node, source, dim, index, new)


def _overwrite(reader: Reader, node: Node, source: Axes, dim: int, part: slice | int, new: Ids) -> Result:
    ids, count = reader.flat(source, dim), node.shape[dim]
    if ids is None or not isinstance(count, int):
        return None
    reader.mark(ids[part], f"written over by {node.name}")
    whole = ids.copy()
    whole[part] = new.reshape(whole[part].shape)
    return reader.whole((*source[:dim], (Factor((count, ()), Block(whole)),), *source[dim + 1 :]))


def _from_input(reader: Reader, size: int) -> Ids:
    """Atoms of an axis that cannot be permuted."""
    ids = reader.atoms.new(size)
    reader.atoms.pin(ids, INPUT)
    return ids


def _origin(node: Node) -> str:
    return ",".join(node.values)


def pieces(reader: Reader, node: Node) -> Result:
    """split, chunk, unbind."""
    leaf = next(iter(node.arguments.values()))
    source, shape = reader.first(node), reader.shape(leaf)
    dim = node.arguments["dim"] % len(source)
    total = shape[dim]
    if not isinstance(total, int):
        return None
    if node.op == "unbind":
        return [take(reader, source, dim, i, None, f"{node.name} {i}") for i in range(total)]
    if node.op == "chunk":
        step = -(-total // node.arguments["chunks"])
        sizes = [min(step, total - low) for low in range(0, total, step)]
    else:
        split = node.arguments.get("split_size", node.arguments.get("split_sizes"))
        sizes = (
            list(split)
            if isinstance(split, (list, tuple))
            else [min(split, total - low) for low in range(0, total, split)]
        )
    if not all(isinstance(size, int) for size in sizes):
        return None
    ends = [0, *itertools.accumulate(sizes)]
    return [
        take(reader, source, dim, slice(low, high), high - low, f"{node.name} {low}:{high}")
        for low, high in itertools.pairwise(ends)
    ]


def item(reader: Reader, node: Node) -> Result:
    """One result of an operation with several; None where those are not known."""
    leaf, index = list(node.arguments.values())[:2]
    several = reader.several(leaf)
    return several[index] if several is not None else None


def cat(reader: Reader, node: Node) -> Result:
    """Tensors one after the other along a dimension: their other axes meet.

    None where one is no tensor, or a size that varies lies beside entries that may be permuted.
    """
    leaves = node.arguments["tensors"]
    values = [reader.axes(leaf) for leaf in leaves]
    if any(axes is None for axes in values):
        return None
    known = [axes for axes in values if axes is not None]
    dim = node.arguments["dim"] % len(node.shape)
    others = [d for d in range(len(node.shape)) if d != dim]
    beside = _beside(known, dim) if any(axes[dim] for axes in known) else None
    if beside is not None:
        return beside
    for axes in known[1:]:
        reader.meet(known[0], axes, [(d, d) for d in others])
    varied = [axes for leaf, axes in zip(leaves, known, strict=True) if not reader.uniform(leaf)]
    if all(is_plain(axes[dim]) for axes in varied or known):
        out = list(next((axes for axes in varied if not all(map(is_plain, axes))), (varied or known)[0]))
        out[dim] = plain([node.shape[dim]])[0]
        return reader.whole(tuple(out))
    parts = []
    for leaf, axes in zip(leaves, known, strict=True):
        ids = reader.flat(axes, dim)
        if ids is None:
            size = reader.shape(leaf)[dim]
            if not isinstance(size, int):
                return None
            ids = _from_input(reader, size)
        parts.append(ids)
    joined = np.concatenate(parts)
    axis = (Factor((len(joined), ()), Block(joined)),)
    return reader.whole((*known[0][:dim], axis, *known[0][dim + 1 :]))


def _beside(known: list[Axes], dim: int) -> Axes | None:
    """Axes of a concatenation of blocks of several dimensions, of which one is ``dim``; None of other kinds.

    The blocks lie alike in all axes, with nothing else beside them, so that every entry remains itself.
    """
    first = known[0]
    parts: list[Ids] = []
    for axes in known:
        order = [f.dim for i, axis in enumerate(axes) if i != dim for f in axis if f.block is not None]
        along = [f.dim for f in axes[dim] if f.block is not None]
        owners = blocks(axes)
        if len(owners) != 1 or len(axes[dim]) != len(along):
            return None
        if not order or sorted(order + along) != list(range(owners[0].ids.ndim)):
            return None
        alike = all(
            [(f.size, f.block is None) for f in axis] == [(f.size, f.block is None) for f in other]
            for i, (axis, other) in enumerate(zip(axes, first, strict=True))
            if i != dim
        )
        if not alike:
            return None
        ids = owners[0].ids.transpose(order + along)
        parts.append(ids.reshape(*ids.shape[: len(order)], -1))
    joined = Block(np.concatenate(parts, -1))
    numbers = itertools.count()
    out: list[Axis] = [
        tuple(f if f.block is None else Factor(f.size, joined, next(numbers)) for f in axis)
        for axis in (*first[:dim], (), *first[dim + 1 :])
    ]
    out[dim] = (Factor((joined.ids.shape[-1], ()), joined, joined.ids.ndim - 1),)
    return tuple(out)


def stack(reader: Reader, node: Node) -> Result:
    """Tensors beside each other along a new dimension, which is plain: all their axes meet."""
    known = [reader.axes(leaf) for leaf in node.arguments["tensors"]]
    first = known[0]
    if first is None:
        return None
    if all(later.op in _RESHAPES for later in reader.program.readers[node.name]):
        some = [axes for axes in known if axes is not None]
        at = node.arguments["dim"] % len(node.shape)
        beside = (
            _beside([(*axes[:at], (), *axes[at:]) for axes in some], at) if len(some) == len(known) else None
        )
        if beside is not None:
            return beside
    for axes in known[1:]:
        if axes is None:
            return None
        reader.meet(first, axes, [(d, d) for d in range(len(first))])
    dim = node.arguments["dim"] % len(node.shape)
    return (*first[:dim], plain([len(known)])[0], *first[dim:])


def pad(reader: Reader, node: Node) -> Result:
    """More entries at the ends, which have their places; None where an axis with a block loses some."""
    out, pad = list(reader.first(node)), list(node.arguments["pad"])
    for d, (low, high) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        at = len(out) - 1 - d
        size = node.shape[at]
        if is_plain(out[at]):
            out[at] = plain([size])[0]
        elif low or high:
            ids = reader.flat(tuple(out), at)
            if ids is None or low < 0 or high < 0:
                return None
            joined = np.concatenate([_from_input(reader, low), ids, _from_input(reader, high)])
            out[at] = (Factor((len(joined), ()), Block(joined)),)
    return reader.whole(tuple(out))


def in_order(reader: Reader, node: Node) -> Result:
    """roll, flip, running sums: entries along some dimensions keep their order."""
    out = list(reader.first(node))
    dims = node.arguments["dims"] if "dims" in node.arguments else [node.arguments["dim"]]
    dims = [d % len(out) for d in dims] or list(range(len(out)))
    reader.pin([out[d] for d in dims], f"operation {node.target} of {node.name} goes by their order")
    for d in dims:
        out[d] = plain(node.shape[d : d + 1])[0]
    return reader.whole(tuple(out))
