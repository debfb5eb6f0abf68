"""What each operation does to the axes of its arguments: the table that :class:`Reader` follows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from torch.utils._pytree import tree_leaves

from fastcomb.program import Node, Weight
from fastcomb.program.ir import Dimension
from fastcomb.rebasin import views
from fastcomb.rebasin.axes import Axes, Axis, blocks, is_plain, plain
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
    if len(weight) != 2:
        return None
    last = len(source) - 1
    reader.meet(source, weight, [(last, 1)])
    reader.contract(source, [last])
    _vectors(reader, node, "bias", (weight[0],), [0])
    return (*source[:-1], weight[0])


def _conv(reader: Reader, node: Node) -> Result:
    """Convolutions, transposed ones too: channels are contracted, positions stay where they are."""
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
    elif transposed or not isinstance(leaf, Weight) or leaf.kind == "constant":
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
        reader.pin((source[1], out, *(reader.axes(leaf) or ())[1:2]), "input of the network")
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
    leaves = [leaf for leaf in tree_leaves(node.arguments) if not reader.uniform(leaf)]
    leaves = [leaf for leaf in leaves if reader.axes(leaf) is not None]
    return _broadcast(reader, [(reader.axes(leaf) or (), reader.shape(leaf)) for leaf in leaves], node.shape)


def _broadcast(
    reader: Reader, values: list[tuple[Axes, tuple[Dimension, ...]]], shape: tuple[Dimension, ...]
) -> Axes:
    """Axes of a result of the given shape: those of the values that have its size, after all have met."""
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
    return reader.whole(tuple(out))


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
    """Queries meet keys in features, keys meet values in tokens; features of the result are the values'."""
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
    if node.arguments.get("is_causal"):
        reader.pin((q[token], k[token]), "in causal order")
    reader.contract(q, [last])
    reader.contract(k, [last, token])
    reader.contract(v, [token])
    return (*v[:-2], q[-2], v[-1])  # heads as the values have them, whose features are the result's


def _matmul(reader: Reader, node: Node) -> Result:
    """Products of matrices, or of one and a vector, the first dimensions of both being batches."""
    return _product(reader, node, list(node.arguments.values())[:2])


def _addmm(reader: Reader, node: Node) -> Result:
    """A product of matrices and something added to it."""
    added, *leaves = list(node.arguments.values())[:3]
    product = _product(reader, node, leaves)
    added_axes = reader.axes(added)
    if added_axes is None or not isinstance(product, tuple) or len(product) != len(node.shape):
        return None
    return _broadcast(reader, [(product, node.shape), (added_axes, reader.shape(added))], node.shape)


def _product(reader: Reader, node: Node, leaves: Sequence[object]) -> Result:
    one, other = (len(reader.shape(leaf)) for leaf in leaves)
    batch = "".join(chr(ord("a") + d) for d in range(max(one, other) - 2))
    labels = [
        "Y" if rank == 1 else batch[len(batch) + 2 - rank :] + letters
        for rank, letters in ((one, "XY"), (other, "YZ"))
    ]
    result = batch + "X" * (one > 1) + "Z" * (other > 1)
    return _contraction(reader, node, leaves, labels, result)


def _outer(reader: Reader, node: Node) -> Result:
    return _contraction(reader, node, list(node.arguments.values())[:2], ["X", "Z"], "XZ")


def _weight_norm(reader: Reader, node: Node) -> Result:
    """``v · g / ‖v‖``, norms taken over all dimensions but one."""
    source, scale = reader.of(node, "v"), reader.of(node, "g")
    dim = node.arguments["dim"]
    if len(scale) == len(source) and dim >= 0:
        reader.meet(source, scale, [(dim, dim)])
        reader.contract(source, [d for d in range(len(source)) if d != dim])
        return source
    return None


def _einsum(reader: Reader, node: Node) -> Result:
    terms, _, result = node.arguments["equation"].replace(" ", "").partition("->")
    labels = terms.split(",")
    if not result or any("." in term or len(set(term)) < len(term) for term in labels):
        return None
    return _contraction(reader, node, node.arguments["tensors"], labels, result)


def _contraction(
    reader: Reader, node: Node, leaves: Sequence[object], labels: Sequence[str], result: str
) -> Result:
    """A sum of products of tensors whose axes are labelled, over the labels that the result lacks."""
    known = [reader.axes(leaf) for leaf in leaves]
    operands = [axes for axes in known if axes is not None]
    if len(operands) < len(known):
        return None
    sizes = [reader.shape(leaf) for leaf in leaves]
    for (i, one), (j, other) in itertools.combinations(enumerate(labels), 2):
        shared = [(one.index(label), other.index(label)) for label in one if label in other]
        meeting = [(a, b) for a, b in shared if 1 not in (sizes[i][a], sizes[j][b])]
        reader.meet(operands[i], operands[j], meeting)
    out = list(plain(node.shape))
    closest = [-1] * len(result)
    for axes, term in zip(operands, labels, strict=True):
        left = reader.contract(axes, [d for d, label in enumerate(term) if label not in result])
        unshared = [axis for axis, label in zip(left, term, strict=True) if "".join(labels).count(label) == 1]
        for axis, label in zip(left, term, strict=True):
            # a shared axis is the operand's whose own entries lie behind it: its blocks remain whole
            behind = sum(block in blocks(unshared) for block in blocks((axis,)))
            at = result.find(label)
            if at >= 0 and not is_plain(axis) and behind > closest[at]:
                out[at], closest[at] = axis, behind
    return reader.whole(tuple(out))


def _copy(reader: Reader, node: Node) -> Result:
    leaf = node.arguments["src"]
    return _broadcast(reader, [(reader.of(node, "src"), reader.shape(leaf))], node.shape)


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
    rest = source[len(axes) :]
    return (*plain(node.shape[: len(node.shape) - len(rest)]), *rest)


def _index_samples(reader: Reader, node: Node) -> Result:
    """Entries of every sample that it names itself, such as its last token."""
    source, *indices = (reader.axes(leaf) for leaf in node.arguments.values())
    if source is None:
        return None
    reader.pin(source[: len(indices) + 1], "indexed")
    for axes in indices:
        reader.pin(axes or (), "index")
    return (*plain(node.shape[:1]), *reader.whole(source[len(indices) + 1 :]))


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
    values = views.take(reader, source, dim, slice(0, half), half, f"{node.name} values")
    gates = views.take(reader, source, dim, slice(half, None), half, f"{node.name} gates")
    reader.meet(values, gates, [(d, d) for d in range(len(values))])
    return values


def _fresh(reader: Reader, node: Node) -> Result:
    return plain(node.shape)


def _nothing(reader: Reader, node: Node) -> Result:
    """Assertions on kinds and sizes of tensors, which look at no entries."""
    return ()


def _native_batch_norm(reader: Reader, node: Node) -> Result:
    """As :func:`_batch_norm`; beside the result it yields statistics."""
    source = reader.of(node, "input")
    _vectors(reader, node, "weight bias running_mean running_var", source, [1])
    return [source, (source[1],), (source[1],)]


RULES: dict[str, Rule] = {
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _batch_norm,
    "scaled_dot_product_attention": _attention,
    "pointwise": _pointwise,
    "einsum": _einsum,
    "permute": views.permute,
    "transpose": views.transpose,
    "unsqueeze": views.unsqueeze,
    "expand": views.expand,
    "select": views.select,
    "slice": views.slice_,
    "slice_scatter": views.slice_scatter,
    "select_scatter": views.select_scatter,
    "copy": _copy,
    "item": views.item,
    "cat": views.cat,
    "stack": views.stack,
    "embedding": _embedding,
    "index": _index,
    "index_samples": _index_samples,
    "prelu": _prelu,
    "glu": _glu,
    "numpy_T": views.transposed,
    "mT": views.last_two_exchanged,
    "_weight_norm": _weight_norm,
}
for _names, _rule in {
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d": _conv,
    "mean sum amax amin var std logsumexp linalg_vector_norm": _reduce,
    "softmax log_softmax": _normalised,
    "matmul bmm mm mv dot vdot inner": _matmul,
    "addmm baddbmm addmv": _addmm,
    "outer ger": _outer,
    "_native_batch_norm_legit _native_batch_norm_legit_no_training": _native_batch_norm,
    "_assert_tensor_metadata _assert_async _assert_scalar": _nothing,
    "flatten unflatten reshape squeeze": views.reshape,
    "split chunk unbind split_with_sizes": views.pieces,
    "pad constant_pad_nd": views.pad,
    "roll flip": views.turned,
    "upsample_nearest2d upsample_bilinear2d upsample_nearest1d upsample_linear1d": _resized,
    "dropout identity cast zero fill zeros_like ones_like full_like": _same,
    "size size_arithmetic zeros ones full arange new_zeros new_ones new_full": _fresh,
    "relu leaky_relu gelu silu tanh sigmoid elu softplus hardtanh relu6 hardswish hardsigmoid mish selu "
    "neg exp sqrt rsqrt pow abs add sub mul div": _pointwise,
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d": _pool,
}.items():
    RULES |= dict.fromkeys(_names.split(), _rule)
