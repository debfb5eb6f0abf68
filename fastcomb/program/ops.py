"""The operations a Program knows by name; everything else stays visible as unknown."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from fastcomb.program.ir import UNKNOWN

_SAME_NAME = """
    linear conv1d conv2d conv3d batch_norm layer_norm group_norm instance_norm rms_norm
    relu leaky_relu gelu silu tanh sigmoid elu softplus hardtanh relu6 hardswish hardsigmoid mish selu
    max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d
    add sub mul div neg exp sqrt rsqrt pow abs matmul bmm
    cat stack split chunk unbind select slice
    flatten unflatten reshape permute transpose squeeze unsqueeze expand
    mean sum amax softmax log_softmax scaled_dot_product_attention embedding dropout
    rsub reciprocal square sin cos log log1p expm1 erf sign floor ceil maximum minimum clamp clamp_min
    tan asin acos atan sinh cosh exp2 log2 log10 erfc round trunc
    clamp_max threshold celu hardshrink softshrink log_sigmoid glu prelu isnan
    eq ne lt le gt ge logical_not logical_and logical_or logical_xor bitwise_not where masked_fill
    mm addmm baddbmm conv_transpose1d conv_transpose2d
    amin prod any all max min var std logsumexp linalg_vector_norm norm cumsum
    adaptive_max_pool1d max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d
    upsample_nearest1d upsample_linear1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    index index_select repeat tile repeat_interleave roll flip pad constant_pad_nd
    pixel_shuffle pixel_unshuffle channel_shuffle
    topk sort argsort argmax argmin gather scatter scatter_add slice_scatter select_scatter copy
    split_with_sizes tensor_split movedim numpy_T mT narrow diagonal view_as reshape_as expand_as
""".split()

#: torch operator (without namespace, overload and in-place underscore) → canonical name.
_KNOWN = {name: name for name in _SAME_NAME} | {
    "view": "reshape",
    "_unsafe_view": "reshape",
    "t": "transpose",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "contiguous": "identity",
    "clone": "identity",
    "alias": "identity",
    "detach": "identity",
    "lift_fresh_copy": "identity",
    "feature_dropout": "dropout",
    "clip": "clamp",
    "moveaxis": "movedim",
    "__and_": "bitwise_and",
    "bitwise_and": "bitwise_and",
    "__or_": "bitwise_or",
    "bitwise_or": "bitwise_or",
    "__xor_": "bitwise_xor",
    "bitwise_xor": "bitwise_xor",
    "sym_size": "size",
    "to": "cast",
    "_to_copy": "cast",
    "type_as": "cast",
}


def index_samples(x: Tensor, *indices: Tensor) -> Tensor:
    """Entries x[n, i[n], …] of every sample n: x [N, S, …], indices [N] for dimensions from 1 on."""
    return x[(torch.arange(len(x), device=x.device), *indices)]


#: Python functions that torch.export leaves in a graph: tuple access and arithmetic on sizes.
_FUNCTIONS = {
    index_samples: "index_samples",
    operator.getitem: "item",
    operator.mul: "size_arithmetic",
    operator.add: "size_arithmetic",
    operator.sub: "size_arithmetic",
    operator.floordiv: "size_arithmetic",
}


def canonical(target: Any) -> str:
    """Canonical name of a torch operator or Python function, or "unknown"."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return _FUNCTIONS.get(target, UNKNOWN)
    namespace, _, name = schema.name.partition("::")
    return _KNOWN.get(name.removesuffix("_"), UNKNOWN) if namespace == "aten" else UNKNOWN
