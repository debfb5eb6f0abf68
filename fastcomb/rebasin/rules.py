"""What each operation does to the axes of its arguments: the table that :class:`Reader` follows."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from torch.utils._pytree import tree_leaves

from fastcomb.program import Node, Weight
from fastcomb.program.ir import Dimension
from fastcomb.rebasin.axes import (
    Axes,
    Axis,
    Block,
    Factor,
    ViewError,
    blocks,
    is_plain,
    plain,
    replace,
    reshape,
    size_of,
)
from fastcomb.rebasin.reader import Reader, Result, Rule

_FIXED = "meets a fixed bias"


def _same(reader: Reader, node: Node) -> Result:
    return reader.first(node)


def _vectors(reader: Reader, node: Node, names: str, source: Axes, dims: list[int]) -> None:
    """Parameters that scale or shift the last or given dimensions of a value."""
    for name in names.split():
        axes = reader.axes(node.arguments.get(name))
        if axes is not None:
            reader.meet(source, axes, [(d, i) for i, d in enumerate(dims)])


def _linear(reader: Reader, node: Node) -> Result:
    source, weight = reader.of(node, "input"), reader.of(node, "weight")
    last = len(source) - 1
    reader.meet(source, weight, [(last, 1)])
    reader.contract(source, [last])
    _vectors(reader, node, "bias", (weight[0],), [0])
    return (*source[:-1], weight[0])


def _conv(reader: Reader, node: Node) -> Result:
    source, weight = reader.of(node, "input"), reader.of(node, "weight")
    leaf, groups = node.arguments["weight"], node.arguments["groups"]
    if len(source) != len(weight):
        return None
    reader.pin((*weight[2:], *source[2:]), "spatial")
    transposed = "transpose" in str(node.target)
    inputs, outputs = (0, 1) if transposed else (1, 0)
    if groups == 1:
        reader.meet(source, weight, [(1, inputs)])
        reader.contract(source, [1])
    elif transposed or not isinstance(leaf, Weight):
        return None
    else:
        _grouped(reader, leaf, source, weight[0], groups)
    out = weight[outputs]
    _vectors(reader, node, "bias", (out,), [0])
    return (source[0], out, *plain(node.shape[2:]))


def _grouped(reader: Reader, leaf: Weight, source: Axes, out: Axis, groups: int) -> None:
    """A grouped convolution: within a group any order, and the groups as wholes."""
    inputs = reader.flat(source, 1)
    outputs = reader.flat((out,), 0)
    if inputs is None or outputs is None:
        reader.pin((source[1], out), "input of the network")
        return
    pieces = np.stack(reader.in_rows(leaf, groups))
    rows = inputs.reshape(groups, -1)
    reader.atoms.union(rows, pieces)
    heads = rows[:, 0] if rows.shape[1] == 1 else reader.atoms.bundle(rows, frozen=False)
    behind = outputs.reshape(groups, -1)
    carriers = behind[:, 0] if behind.shape[1] == 1 else reader.atoms.bundle(behind, frozen=False)
    reader.atoms.union(heads, carriers)


def _batch_norm(reader: Reader, node: Node) -> Result:
    source = reader.of(node, "input")
    _vectors(reader, node, "weight bias running_mean running_var", source, [1])
    return source


def _layer_norm(reader: Reader, node: Node) -> Result:
    source = reader.of(node, "input")
    dims = list(range(len(source) - len(node.arguments["normalized_shape"]), len(source)))
    _vectors(reader, node, "weight bias", source, dims)
    reader.contract(source, dims)
    return source


def _group_norm(reader: Reader, node: Node) -> Result:
    source = reader.of(node, "input")
    _vectors(reader, node, "weight bias", source, [1])
    groups, channels = node.arguments["num_groups"], reader.flat(source, 1)
    if channels is None or groups == len(channels):
        return source
    if groups > 1:
        reader.atoms.bundle(channels.reshape(groups, -1), frozen=False)
    return source


def _pool(reader: Reader, node: Node) -> Result:
    source = reader.first(node)
    spatial = 1 if "1d" in str(node.target) else 3 if "3d" in str(node.target) else 2
    reader.pin(source[-spatial:], "spatial")
    return (*source[:-spatial], *plain(node.shape[-spatial:]))


def _pointwise(reader: Reader, node: Node) -> Result:
    """Operations entry by entry on tensors that broadcast: axes that meet are the same."""
    leaves = [leaf for leaf in tree_leaves(node.arguments) if reader.axes(leaf) is not None]
    return _broadcast(reader, [(reader.axes(leaf) or (), reader.shape(leaf)) for leaf in leaves], node.shape)


def _broadcast(
    reader: Reader, values: list[tuple[Axes, tuple[Dimension, ...]]], shape: tuple[Dimension, ...]
) -> Axes:
    for (one, a), (other, b) in itertools.combinations(values, 2):
        pairs = [
            (len(a) - d, len(b) - d) for d in range(1, min(len(a), len(b)) + 1) if 1 not in (a[-d], b[-d])
        ]
        reader.meet(one, other, pairs)
    # a whole value where one has the result's shape: its blocks lie in it completely
    out: list[Axis] = list(plain(shape))
    for axes, sizes in sorted(values, key=lambda value: -sum(map(len, value[0]))):
        for d in range(1, len(sizes) + 1):
            if sizes[-d] != 1 and is_plain(out[-d]) and not is_plain(axes[-d]):
                out[-d] = axes[-d]
    return _whole(reader, tuple(out))


def _whole(reader: Reader, axes: Axes) -> Axes:
    """Blocks of which some dimensions are not in the value stand for their carriers."""
    for block in blocks(axes):
        dims = sorted({f.dim for axis in axes for f in axis if f.block is block})
        if len(dims) < block.ids.ndim:
            carriers = Block(reader.carriers(block, dims, False))
            axes = replace(axes, block, carriers, {d: i for i, d in enumerate(dims)})
    return axes


def _reduce(reader: Reader, node: Node) -> Result:
    source = reader.first(node)
    dims = node.arguments.get("dim")
    if isinstance(dims, int):
        dims = [dims]
    gone = {d % len(source) for d in dims} if dims else set(range(len(source)))
    left = reader.contract(source, gone)
    if node.arguments.get("keepdim"):
        return left
    return tuple(axis for i, axis in enumerate(left) if i not in gone)


def _normalised(reader: Reader, node: Node) -> Result:
    """Softmax and its kin: coupled along one dimension, but in no order."""
    source = reader.first(node)
    reader.contract(source, [node.arguments["dim"]])
    return source


def _attention(reader: Reader, node: Node) -> Result:
    q, k, v = (reader.of(node, name) for name in ("query", "key", "value"))
    if node.arguments.get("enable_gqa"):
        return None
    batch = [(d, d) for d in range(len(q) - 2)]
    token, last = len(q) - 2, len(q) - 1
    reader.meet(q, k, [*batch, (last, last)])
    reader.meet(k, v, [*batch, (token, token)])
    mask = node.arguments.get("attn_mask")
    axes = reader.axes(mask)
    if axes is not None:
        scores = (*q[:-1], k[-2])
        sizes = reader.shape(mask)
        pairs = [(len(scores) - d, len(axes) - d) for d in range(1, len(axes) + 1) if sizes[-d] != 1]
        reader.meet(scores, axes, pairs)
    reader.contract(q, [last])
    reader.contract(k, [last, token])
    reader.contract(v, [token])
    return (*v[:-2], q[-2], v[-1])  # heads as the values have them, whose features are the result's


def _matmul(reader: Reader, node: Node) -> Result:
    names = list(node.arguments)
    one, other = (reader.of(node, name) for name in names[:2])
    a, b = (reader.shape(node.arguments[name]) for name in names[:2])
    if min(len(a), len(b)) < 2:
        return None
    batch = [(len(a) - d, len(b) - d) for d in range(3, min(len(a), len(b)) + 1) if 1 not in (a[-d], b[-d])]
    reader.meet(one, other, [*batch, (len(a) - 1, len(b) - 2)])
    one, other = reader.contract(one, [-1]), reader.contract(other, [-2])
    lead: list[Axis] = list(plain(node.shape[:-2]))
    operands = [(one, a), (other, b)]
    if not is_plain(other[-1]):
        operands.reverse()  # batch dimensions come from the operand whose entries remain
    for axes, sizes in operands:
        for d in range(3, len(sizes) + 1):
            if sizes[-d] != 1 and is_plain(lead[2 - d]):
                lead[2 - d] = axes[-d]
    return _whole(reader, (*lead, one[-2], other[-1]))


def _permute(reader: Reader, node: Node) -> Result:
    source = reader.first(node)
    return tuple(source[d] for d in node.arguments["dims"])


def _transpose(reader: Reader, node: Node) -> Result:
    out = list(reader.first(node))
    if len(out) > 1:
        one, other = node.arguments.get("dim0", 0), node.arguments.get("dim1", -1)
        out[one], out[other] = out[other], out[one]
    return tuple(out)


def _reshape(reader: Reader, node: Node) -> Result:
    return reshape(reader.first(node), node.shape)


def _unsqueeze(reader: Reader, node: Node) -> Result:
    out = list(reader.first(node))
    out.insert(node.arguments["dim"] % (len(out) + 1), ())
    return tuple(out)


def _expand(reader: Reader, node: Node) -> Result:
    source, shape = reader.first(node), reader.shape(next(iter(node.arguments.values())))
    extra = len(node.shape) - len(source)
    return tuple(
        plain([size])[0] if d < extra or shape[d - extra] == 1 else source[d - extra]
        for d, size in enumerate(node.shape)
    )


def _take(reader: Reader, axes: Axes, dim: int, which: Any, size: Dimension | None, tag: str) -> Axes:
    """Entries of one axis: a slice, or a number, which removes the axis (size None)."""
    if size == 1:
        axes = _take(reader, axes, dim, which.start or 0, None, tag)
        return (*axes[:dim], (), *axes[dim:])
    others = axes[:dim] + axes[dim + 1 :]
    if is_plain(axes[dim]):
        return others if size is None else (*axes[:dim], plain([size])[0], *axes[dim + 1 :])
    if len(axes[dim]) != 1:
        ids = reader.flat(axes, dim)
        if ids is None or {id(b) for b in blocks(axes[dim : dim + 1])} & {id(b) for b in blocks(others)}:
            raise ViewError
        axes = (*axes[:dim], (Factor((len(ids), ()), Block(ids)),), *axes[dim + 1 :])
    ((_, block, k),) = axes[dim]
    assert block is not None
    ids = block.ids[(slice(None),) * k + (which,)]
    if ids.size < block.ids.size:
        reader.atoms.mark(ids, tag)
    if size is not None:
        new = Block(ids)
        taken = replace(axes, block, new, {d: d for d in range(ids.ndim)})
        return (*taken[:dim], (Factor(size_of(size), new, k),), *taken[dim + 1 :])
    if not ids.ndim:
        reader.atoms.pin(ids, "taken out one by one")
    left = {d: d - (d > k) for d in range(block.ids.ndim) if d != k}
    return replace(others, block, Block(ids) if left else None, left)


def _select(reader: Reader, node: Node) -> Result:
    source = reader.first(node)
    dim, index = node.arguments["dim"] % len(source), node.arguments["index"]
    if not isinstance(index, int):
        return None
    return _take(reader, source, dim, index, None, f"{_origin(node)} select {index}")


def _slice(reader: Reader, node: Node) -> Result:
    source = reader.first(node)
    dim = node.arguments["dim"] % len(source)
    low, high, step = (node.arguments[name] for name in ("start", "end", "step"))
    if is_plain(source[dim]):
        return (*source[:dim], plain([node.shape[dim]])[0], *source[dim + 1 :])
    if not all(part is None or isinstance(part, int) for part in (low, high, step)):
        return None
    tag = f"{_origin(node)} slice {low}:{high}:{step}"
    return _take(reader, source, dim, slice(low, high, step), node.shape[dim], tag)


def _origin(node: Node) -> str:
    return ",".join(node.values)


def _pieces(reader: Reader, node: Node) -> Result:
    """split, chunk, unbind."""
    leaf = next(iter(node.arguments.values()))
    source, shape = reader.first(node), reader.shape(leaf)
    dim = node.arguments["dim"] % len(source)
    total = shape[dim]
    if not isinstance(total, int):
        return None
    if node.op == "unbind":
        return [_take(reader, source, dim, i, None, f"{node.name} {i}") for i in range(total)]
    if node.op == "chunk":
        step = -(-total // node.arguments["chunks"])
        sizes = [min(step, total - low) for low in range(0, total, step)]
    else:
        given = node.arguments.get("split_size", node.arguments.get("split_sizes"))
        sizes = (
            list(given)
            if isinstance(given, (list, tuple))
            else [min(given, total - low) for low in range(0, total, given)]
        )
    if not all(isinstance(size, int) for size in sizes):
        return None
    ends = [0, *itertools.accumulate(sizes)]
    return [
        _take(reader, source, dim, slice(low, high), high - low, f"{node.name} {low}:{high}")
        for low, high in itertools.pairwise(ends)
    ]


def _item(reader: Reader, node: Node) -> Result:
    leaf, index = list(node.arguments.values())[:2]
    several = reader.several(leaf)
    return several[index] if several is not None else None


def _cat(reader: Reader, node: Node) -> Result:
    leaves = node.arguments["tensors"]
    values = [reader.axes(leaf) for leaf in leaves]
    if any(axes is None for axes in values):
        return None
    known = [axes for axes in values if axes is not None]
    dim = node.arguments["dim"] % len(node.shape)
    others = [d for d in range(len(node.shape)) if d != dim]
    for axes in known[1:]:
        reader.meet(known[0], axes, [(d, d) for d in others])
    if all(is_plain(axes[dim]) for axes in known):
        out = list(next((axes for axes in known if not all(map(is_plain, axes))), known[0]))
        out[dim] = plain([node.shape[dim]])[0]
        return _whole(reader, tuple(out))
    parts = []
    for leaf, axes in zip(leaves, known, strict=True):
        ids = reader.flat(axes, dim)
        if ids is None:
            size = reader.shape(leaf)[dim]
            if not isinstance(size, int):
                return None
            ids = reader.atoms.new(size)
            reader.atoms.pin(ids, "input of the network")
        parts.append(ids)
    joined = np.concatenate(parts)
    axis = (Factor((len(joined), ()), Block(joined)),)
    return _whole(reader, (*known[0][:dim], axis, *known[0][dim + 1 :]))


def _stack(reader: Reader, node: Node) -> Result:
    known = [reader.axes(leaf) for leaf in node.arguments["tensors"]]
    first = known[0]
    if first is None:
        return None
    for axes in known[1:]:
        if axes is None:
            return None
        reader.meet(first, axes, [(d, d) for d in range(len(first))])
    dim = node.arguments["dim"] % len(node.shape)
    return (*first[:dim], plain([len(known)])[0], *first[dim:])


def _pad(reader: Reader, node: Node) -> Result:
    source, pad = reader.first(node), node.arguments["pad"]
    padded = len(source) - len(pad) // 2
    for d in range(len(source) - 1, padded - 1, -1):
        at = 2 * (len(source) - 1 - d)
        if any(pad[at : at + 2]) and not is_plain(source[d]):
            return None
    return tuple(
        plain([size])[0] if is_plain(axis) else axis for axis, size in zip(source, node.shape, strict=True)
    )


def _turned(reader: Reader, node: Node) -> Result:
    """roll and flip: along plain axes only."""
    source = reader.first(node)
    dims = node.arguments["dims"] or range(len(source))
    return source if all(is_plain(source[d]) for d in dims) else None


def _resized(reader: Reader, node: Node) -> Result:
    source = reader.first(node)
    reader.pin(source[2:], "spatial")
    return (*source[:2], *plain(node.shape[2:]))


def _embedding(reader: Reader, node: Node) -> Result:
    weight, indices = reader.of(node, "weight"), reader.of(node, "indices")
    reader.pin(weight[:1], "indexed by the input")
    return (*indices, weight[1])


def _index(reader: Reader, node: Node) -> Result:
    """A tensor indexed by tensors in its first dimensions."""
    source, indices = reader.first(node), node.arguments["indices"]
    axes = [reader.axes(leaf) for leaf in indices]
    if any(a is None for a in axes) or len(source) < len(axes):
        return None
    reader.pin(source[: len(axes)], "indexed")
    for a in axes:
        reader.pin(a or (), "index")
    kept = source[len(axes) :]
    return (*plain(node.shape[: len(node.shape) - len(kept)]), *kept)


def _prelu(reader: Reader, node: Node) -> Result:
    source, weight = reader.first(node), reader.of(node, "weight")
    if weight[0]:
        reader.meet(source, weight, [(1, 0)])
    return source


def _glu(reader: Reader, node: Node) -> Result:
    source = reader.first(node)
    dim = node.arguments["dim"] % len(source)
    half = node.shape[dim]
    if not isinstance(half, int):
        return None
    values = _take(reader, source, dim, slice(0, half), half, f"{node.name} values")
    gates = _take(reader, source, dim, slice(half, None), half, f"{node.name} gates")
    reader.meet(values, gates, [(d, d) for d in range(len(values))])
    return values


def _fresh(reader: Reader, node: Node) -> Result:
    return plain(node.shape)


RULES: dict[str, Rule] = {
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _batch_norm,
    "scaled_dot_product_attention": _attention,
    "pointwise": _pointwise,
    "permute": _permute,
    "transpose": _transpose,
    "unsqueeze": _unsqueeze,
    "expand": _expand,
    "select": _select,
    "slice": _slice,
    "item": _item,
    "cat": _cat,
    "stack": _stack,
    "embedding": _embedding,
    "index": _index,
    "prelu": _prelu,
    "glu": _glu,
}
for _names, _rule in {
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d": _conv,
    "mean sum amax amin var std logsumexp": _reduce,
    "softmax log_softmax": _normalised,
    "matmul bmm mm": _matmul,
    "flatten unflatten reshape squeeze": _reshape,
    "split chunk unbind split_with_sizes": _pieces,
    "pad constant_pad_nd": _pad,
    "roll flip": _turned,
    "upsample_nearest2d upsample_bilinear2d upsample_nearest1d upsample_linear1d": _resized,
    "dropout identity": _same,
    "size size_arithmetic zeros ones full arange zeros_like ones_like new_zeros new_ones": _fresh,
    "relu leaky_relu gelu silu tanh sigmoid elu softplus hardtanh relu6 hardswish hardsigmoid mish selu "
    "neg exp sqrt rsqrt pow abs add sub mul div": _pointwise,
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d": _pool,
}.items():
    RULES |= dict.fromkeys(_names.split(), _rule)
