"""What each operation does to the axes of its arguments: the table that :class:`Reader` follows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from torch.utils._pytree import tree_leaves

from fastcomb.program import Node, Weight
from fastcomb.program.ir import Dimension
from fastcomb.rebasin import views
from fastcomb.rebasin.axes import Axes, Axis, is_plain, plain, repeats
from fastcomb.rebasin.contractions import contraction
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
    if not node.shape:  # with the numbers of the largest
        return [(*source[:-spatial], *plain(_shape_of_results(reader, node)[-spatial:]))] * 2
    return (*source[:-spatial], *plain(node.shape[-spatial:]))


def _pointwise(reader: Reader, node: Node) -> Result:
    """Operations entry by entry on tensors that broadcast: axes that meet are the same.

    Fixed tensors only tell entries apart, where there is something else that varies.
    """
    leaves = [leaf for leaf in tree_leaves(node.arguments) if not reader.uniform(leaf)]
    leaves = [leaf for leaf in leaves if reader.axes(leaf) is not None]
    values = [(reader.axes(leaf) or (), reader.shape(leaf)) for leaf in leaves if reader.fixed(leaf) is None]
    out = _broadcast(reader, values, node.shape)
    varied = tuple(
        size if any(len(one) >= d and one[-d] != 1 for _, one in values) else 1
        for d, size in zip(range(len(node.shape), 0, -1), node.shape, strict=True)
    )
    others = [leaf for leaf in leaves if reader.fixed(leaf) is not None]
    others = [leaf for leaf in others if not reader.told_apart(out, varied, leaf)]
    if not others:
        return out
    return _broadcast(
        reader,
        [(out, varied), *((reader.axes(leaf) or (), reader.shape(leaf)) for leaf in others)],
        node.shape,
    )


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


def _picked(reader: Reader, node: Node) -> Result:
    """Entries along a dimension that their values decide, as a maximum or sorted, and their numbers.

    Where the numbers are read it matters in which order the entries lie.
    """
    if "dim" not in node.arguments:  # the largest of all, or of two tensors entry by entry
        return _pointwise(reader, node) if "other" in node.arguments else _reduce(reader, node)
    source, shape = reader.first(node), _shape_of_results(reader, node)
    dim = node.arguments["dim"] % len(source)
    if any(list(one.arguments.values())[1] == 1 for one in reader.program.readers[node.name]):
        reader.pin(source[dim : dim + 1], "entries whose numbers are read")
    left = list(reader.contract(source, [dim]))
    left[dim : dim + 1] = plain(shape[dim : dim + 1]) if len(shape) == len(source) else ()
    return [tuple(left)] * 2


def _numbers(reader: Reader, node: Node) -> Result:
    """The number of the largest or smallest entry along a dimension, or of all."""
    source, dim = reader.first(node), node.arguments["dim"]
    reader.pin(source if dim is None else [source[dim]], "entries whose numbers are read")
    return _reduce(reader, node)


def _shape_of_results(reader: Reader, node: Node) -> tuple[Dimension, ...]:
    """The shape of each result of an operation that has several of one shape."""
    return next(one.shape for one in reader.program.readers[node.name] if one.op == "item")


def _moments(reader: Reader, node: Node) -> Result:
    """Variance or deviation, and mean."""
    result = _reduce(reader, node)
    return [result, result] if isinstance(result, tuple) else None


def _normalised(reader: Reader, node: Node) -> Result:
    """Softmax and its kin: coupled along one dimension, but in no order."""
    source = reader.first(node)
    reader.contract(source, [node.arguments["dim"]])
    return source


def _attention(reader: Reader, node: Node) -> Result:
    """Queries meet keys in features, keys meet values in tokens; query heads may share those of keys."""
    names = ("query", "key", "value")
    axes, sizes = [reader.of(node, name) for name in names], [reader.shape(node.arguments[n]) for n in names]
    if any(len(one) != len(axes[0]) for one in axes):
        return None
    if node.arguments.get("enable_gqa"):
        for i in (1, 2):
            heads, shared = sizes[0][-3], sizes[i][-3]
            if not isinstance(heads, int) or not isinstance(shared, int):
                return None
            axes[i] = (*axes[i][:-3], (*axes[i][-3], *repeats(heads // shared)), *axes[i][-2:])
            sizes[i] = (*sizes[i][:-3], heads, *sizes[i][-2:])
    q, k, v = zip(axes, sizes, strict=True)
    batch = _batch(len(q[0]) - 2)
    rows = (*(a if b == 1 else b for a, b in zip(q[1][:-2], k[1][:-2], strict=True)), q[1][-2], k[1][-2])
    scores = contraction(reader, [q, k], [batch + "TE", batch + "SE"], batch + "TS", rows)
    mask = node.arguments.get("attn_mask")
    if reader.axes(mask) is not None:
        scores = _broadcast(reader, [(scores, rows), (reader.axes(mask) or (), reader.shape(mask))], rows)
    if node.arguments.get("is_causal"):
        reader.pin(scores[-2:], "in causal order")
    reader.contract(scores, [-1])
    return contraction(reader, [(scores, rows), v], [batch + "TS", batch + "SV"], batch + "TV", node.shape)


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
    batch = _batch(max(one, other) - 2)
    labels = [
        "Y" if rank == 1 else batch[len(batch) + 2 - rank :] + letters
        for rank, letters in ((one, "XY"), (other, "YZ"))
    ]
    result = batch + "X" * (one > 1) + "Z" * (other > 1)
    return _contracted(reader, leaves, labels, result, node.shape)


def _batch(count: int) -> str:
    """Labels of the first dimensions of batched matrices."""
    return "".join(chr(ord("a") + d) for d in range(count))


def _outer(reader: Reader, node: Node) -> Result:
    return _contracted(reader, list(node.arguments.values())[:2], ["X", "Z"], "XZ", node.shape)


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
    return _contracted(reader, node.arguments["tensors"], labels, result, node.shape)


def _contracted(
    reader: Reader, leaves: Sequence[object], labels: Sequence[str], result: str, shape: Sequence[Dimension]
) -> Result:
    """As :func:`contraction`, of arguments; None where one is no tensor."""
    known = [reader.axes(leaf) for leaf in leaves]
    operands = [axes for axes in known if axes is not None]
    if len(operands) < len(known):
        return None
    values = [(axes, reader.shape(leaf)) for axes, leaf in zip(operands, leaves, strict=True)]
    return contraction(reader, values, labels, result, shape)


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
    """A tensor indexed by tensors in dimensions that follow one another."""
    source, indices = reader.first(node), node.arguments["indices"]
    places = [d for d, leaf in enumerate(indices) if leaf is not None]
    axes = [reader.axes(indices[d]) for d in places]
    low, high = places[0], places[-1] + 1
    if any(a is None for a in axes) or len(source) < high or places != list(range(low, high)):
        return None
    reader.pin(source[low:high], "indexed")
    for a in axes:
        reader.pin(a or (), "index")
    rest = len(source) - high
    result = (*source[:low], *plain(node.shape[low : len(node.shape) - rest]), *source[high:])
    return reader.whole(result)


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
    "repeat": views.repeat,
    "repeat_interleave": views.repeat_interleave,
    "pixel_shuffle": views.pixel_shuffle,
    "pixel_unshuffle": views.pixel_unshuffle,
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
    "mean sum amax amin var std logsumexp linalg_vector_norm norm prod any all": _reduce,
    "var_mean std_mean": _moments,
    "max min topk sort mode median kthvalue": _picked,
    "argmax argmin": _numbers,
    "softmax log_softmax": _normalised,
    "matmul bmm mm mv dot vdot inner": _matmul,
    "addmm baddbmm addmv": _addmm,
    "outer ger": _outer,
    "_native_batch_norm_legit _native_batch_norm_legit_no_training": _native_batch_norm,
    "_assert_tensor_metadata _assert_async _assert_scalar": _nothing,
    "flatten unflatten reshape squeeze reshape_as view_as": views.reshape,
    "expand expand_as": views.expand,
    "split chunk unbind split_with_sizes": views.pieces,
    "pad constant_pad_nd": views.pad,
    "roll flip cumsum cumprod logcumsumexp": views.in_order,
    "upsample_nearest2d upsample_bilinear2d upsample_nearest1d upsample_linear1d": _resized,
    "dropout identity cast zero fill zeros_like ones_like full_like": _same,
    "size size_arithmetic zeros ones full arange new_zeros new_ones new_full": _fresh,
    "relu leaky_relu gelu silu tanh sigmoid elu softplus hardtanh relu6 hardswish hardsigmoid mish selu "
    "neg exp sqrt rsqrt pow abs add sub mul div where bitwise_and bitwise_or bitwise_xor": _pointwise,
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d": _pool,
}.items():
    RULES |= dict.fromkeys(_names.split(), _rule)
