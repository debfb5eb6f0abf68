"""Images in another size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Value, image_strides
from fastcomb.program import Node


@rule(
    *(f"upsample_{kind}" for kind in ("nearest1d", "linear1d", "nearest2d", "bilinear2d", "bicubic2d")),
    *(
        f"_upsample_{kind}"
        for kind in ("nearest_exact1d", "nearest_exact2d", "bilinear2d_aa", "bicubic2d_aa")
    ),
)
def _resampled(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Rows and columns by themselves: weighted sums of a few of them, with the weights that torch gives."""
    (x,) = low.numbers(node, next(iter(arguments)))
    flat = node.op.endswith("1d")
    if x.meta.ndim != (3 if flat else 4):
        raise Unsupported(f"{node.op} of {x.meta.ndim} dimensions")
    shape = tuple(low.shapes[node.name].shape)
    x = low.as_images(x, node.name)
    result = low.make(shape, node.name, image=True)
    out = result.tall() if flat else result
    (n, c, h, w), (oh, ow) = x.shape, out.shape[2:]
    rows = torch.eye(1) if flat else _weights(node, 0, h, oh)
    fields: dict[str, Any] = {}
    for side, name, weights in (("h", "row", rows), ("w", "pixel", _weights(node, 1, w, ow))):
        numbers, values = _taps(weights)
        key = (f"{name}s", node.name)
        fields[f"{name}s"] = low.shared.constants.add((key, "numbers"), numbers)
        fields[f"{name}_weights"] = low.shared.constants.add((key, "weights"), values)
        fields[f"taps_{side}"] = numbers.shape[1]
    low.emit(
        "resample", low.dtype, x=x, out=out, batch=n, channels=c, in_h=h, in_w=w, out_h=oh, out_w=ow,
        **fields, **image_strides(x, out),
    )  # fmt: skip
    return result


def _weights(node: Node, axis: int, size: int, to: int) -> Tensor:
    """What each of ``size`` entries along an axis adds to each of ``to``, float32 [to, size]."""
    one = torch.eye(size)[:, None]
    if not node.op.endswith("1d"):  # the other side has entries for one result, all alike
        factors = node.arguments.get("scale_factors")
        beside = math.ceil(max(1.0, 1 / factors[1 - axis])) if factors else 1
        one = one[..., None].expand(-1, -1, -1, beside)
        one = one if axis == 0 else one.mT
    first = next(iter(node.arguments))
    result = node.target(**{**node.arguments, first: one})
    if not node.op.endswith("1d"):
        result = result[..., 0] if axis == 0 else result[:, :, 0]
    if result.shape[-1] != to:
        raise Unsupported(f"{node.op} to a size that depends on the other side's")
    weights: Tensor = result[:, 0].T
    return weights


def _taps(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers int64 and weights float32 [to, taps] of the entries that have a weight."""
    taps = int((weights != 0).sum(1).max())
    order = (weights != 0).int().argsort(dim=1, descending=True, stable=True)[:, :taps]
    return order, weights.gather(1, order)
