"""The operations a Program knows by name; everything else stays visible as unknown."""

from __future__ import annotations

import operator
from typing import Any

from fastcomb.program.ir import UNKNOWN

_SAME_NAME = """
    linear conv1d conv2d conv3d batch_norm layer_norm group_norm instance_norm rms_norm
    relu leaky_relu gelu silu tanh sigmoid elu softplus hardtanh relu6 hardswish hardsigmoid mish selu
    max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d
    add sub mul div neg exp sqrt rsqrt pow abs matmul bmm
    cat stack split chunk unbind select slice
    flatten unflatten reshape permute transpose squeeze unsqueeze expand
    mean sum amax softmax log_softmax scaled_dot_product_attention embedding dropout
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
    "feature_dropout": "dropout",
    "sym_size": "size",
    "to": "cast",
    "_to_copy": "cast",
    "type_as": "cast",
}

#: Python functions that torch.export leaves in a graph: tuple access and arithmetic on sizes.
_FUNCTIONS = {
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
