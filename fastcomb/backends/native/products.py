"""Products of two matrices, either of which may be computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.matmul import arranged_matrix, dense
from fastcomb.backends.native.memory import Value, loops
from fastcomb.backends.native.pointwise import result_of
from fastcomb.program import Node, Weight

_BATCHES = 4  # loops around a product (csrc/ops.def)


@rule("matmul", "bmm", "mm")
def _matmul(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """As torch: vectors are matrices of one row or column, and dimensions before the last two are a batch."""
    x, y = low.numbers(node, *list(arguments)[:2])
    vector = x.meta.ndim == 1, y.meta.ndim == 1
    if vector[0]:
        x = x.view(x.meta[None])
    if vector[1]:
        y = y.view(y.meta[:, None])
    if y.meta.ndim == 2 and not any(vector):
        return dense(low, node, x, arranged_matrix(low, y), y.shape[1], None)
    out = _product(low, x, y, node.name)
    if any(vector):
        out = out.view(out.meta.reshape(low.shapes[node.name].shape))
    return out


@rule("addmm", "baddbmm")
def _added(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """A product and something more, which is a bias where it has one number for each column."""
    added, first, second = list(arguments)[:3]
    x, y = low.numbers(node, first, second)
    if arguments["beta"] != 1:
        raise Unsupported(f"the operation {node.op} with beta")
    bias = arguments[added]
    mixed = isinstance(bias, Weight) and bias.kind == "parameter"
    own = low.weights.shapes[bias.name] if mixed else ()
    if y.meta.ndim == 2 and arguments["alpha"] == 1 and own == (y.shape[1],):
        return dense(low, node, x, arranged_matrix(low, y), y.shape[1], bias)
    (more,) = low.numbers(node, added)
    product = _product(low, x, y, f"{node.name}/product")
    return low.binary("add", result_of(low, node), more, product, arguments["alpha"])


def _product(low: Lowering, x: Value, y: Value, key: str) -> Value:
    """Emit x [..., rows, inner] × y [..., inner, columns], batches broadcast."""
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    (rows, inner), columns = x.shape[-2:], y.shape[-1]
    out = low.make((*batch, rows, columns), key)
    metas = [m.expand(*batch, *m.shape[-2:]) for m in (x.meta, y.meta)]
    strides = [m.stride()[:-2] for m in (*metas, out.meta)]
    try:
        nest = loops(batch, *strides, dims=_BATCHES)
    except ValueError:
        raise Unsupported(f"a product over more than {_BATCHES} dimensions of batches") from None
    low.emit(
        "product", low.dtype, x=x, y=y, out=out, rows=rows, inner=inner, columns=columns, x_row=x.strides[-2],
        x_inner=x.strides[-1], y_inner=y.strides[-2], y_column=y.strides[-1], out_row=columns,
        batch=nest.size, x_batch=nest.strides[0], y_batch=nest.strides[1], out_batch=nest.strides[2],
    )  # fmt: skip
    return out
