"""Linear layers and convolutions of mixed weights, as operators: generation and product in one call.

``torch.ops.fastcomb.mixed_linear`` and ``torch.ops.fastcomb.mixed_conv2d`` serve modules that the engine
cannot run as a whole. Linear layers in float32 and bfloat16 run on its kernels on CPUs. Convolutions generate
their weights there and call torch for each combination: one layer at a time, bringing images into the
engine's layout and back costs more than its convolutions save.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcomb import compiled
from fastcomb.backends.native.instructions import Goal
from fastcomb.backends.native.machine import Machine, Pair
from fastcomb.program import Node, Program, Value, Weight
from fastcomb.stream import as_unsigned


@torch.library.custom_op("fastcomb::mixed_linear", mutates_args=())
def mixed_linear(
    x: Tensor,
    index: Tensor,
    weight_a: Tensor,
    weight_b: Tensor,
    bias_a: Tensor | None,
    bias_b: Tensor | None,
    table: Tensor,
    rule: list[float],
    draw: list[int],
    weight_unit: list[int],
    bias_unit: list[int],
    own: bool,
) -> Tensor:
    """``F.linear`` with the weights of combination ``index``, or of each of K combinations.

    Args:
        x: [..., I]; with ``own`` [K, ..., I], each combination's.
        index: int64, shape [] or [K].
        weight_a, weight_b: float32 [O, I].
        bias_a, bias_b: float32 [O], or None.
        table, rule, draw: as for ``fastcomb::mix``.
        weight_unit, bias_unit: its ``unit`` for weight and bias.
        own: whether x has a leading K.

    Returns:
        [..., O], with a leading K for an index [K]; dtype of x.
    """
    weight, bias = Pair(weight_a, weight_b, weight_unit), _bias(bias_a, bias_b, bias_unit)
    law = _Law(table, rule, draw)
    inputs = x if own else x[None]
    rows = inputs.shape[1:-1].numel()
    fits = x.dtype in compiled.STORAGE and inputs.numel() and weight_a.numel() and index.numel()
    if not (fits and compiled.serves(x.device)):
        return _one_by_one(F.linear, {}, x, index, weight, bias, law, own)
    many = index.reshape(-1)
    inputs = inputs.reshape(-1, rows, x.shape[-1])  # a row of inputs is a sample
    out = torch.empty(len(many), rows, len(weight_a), dtype=x.dtype)
    _machine(weight, bias, law, inputs[0]).run(
        Goal("outputs", rounded=True),
        rows,
        [as_unsigned(i) for i in many.tolist()],
        [inputs.contiguous()],
        own_inputs=own,
        outputs=out,
    )
    return out.view(*index.shape, *x.shape[int(own) : -1], len(weight_a))


@torch.library.custom_op("fastcomb::mixed_conv2d", mutates_args=())
def mixed_conv2d(
    x: Tensor,
    index: Tensor,
    weight_a: Tensor,
    weight_b: Tensor,
    bias_a: Tensor | None,
    bias_b: Tensor | None,
    table: Tensor,
    rule: list[float],
    draw: list[int],
    weight_unit: list[int],
    bias_unit: list[int],
    own: bool,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """``F.conv2d`` with the weights of combination ``index``, or of each of K combinations.

    Args:
        x: [N, C, H, W]; with ``own`` [K, N, C, H, W].
        weight_a, weight_b: float32 [O, C / groups, kh, kw].
        stride, padding, dilation, groups: as for ``F.conv2d``, two numbers each but for groups.
        (the others): as for ``fastcomb::mixed_linear``.

    Returns:
        [N, O, H', W'], with a leading K for an index [K]; dtype of x.
    """
    weight, bias = Pair(weight_a, weight_b, weight_unit), _bias(bias_a, bias_b, bias_unit)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _one_by_one(F.conv2d, geometry, x, index, weight, bias, _Law(table, rule, draw), own)


class _Law:
    """The law and stream of a mixture, as operators take it."""

    def __init__(self, table: Tensor, rule: list[float], draw: list[int]) -> None:
        self.table, self.rule, self.draw = table, rule, draw

    def values(self, index: Tensor, pair: Pair, dtype: torch.dtype) -> Tensor:
        mixed: Tensor = torch.ops.fastcomb.mix(
            index, pair.a, pair.b, self.table, self.rule, self.draw, pair.unit, dtype
        )
        return mixed


def _bias(a: Tensor | None, b: Tensor | None, unit: list[int]) -> Pair | None:
    return None if a is None or b is None else Pair(a, b, unit)


def _one_by_one(
    function: Callable[..., Tensor],
    geometry: dict[str, Any],
    x: Tensor,
    index: Tensor,
    weight: Pair,
    bias: Pair | None,
    law: _Law,
    own: bool,
) -> Tensor:
    """Weights generated for all combinations, then torch's own layer for each."""
    many = index.reshape(-1)
    weights = law.values(many, weight, x.dtype)
    biases = None if bias is None else law.values(many, bias, x.dtype)
    if not len(many):
        one = x.new_empty(x.shape[int(own) :], device="meta")
        shape = function(one, weight.a.to(device="meta", dtype=x.dtype), None, **geometry).shape
        return x.new_empty(0, *shape)
    parts = [
        function(x[k] if own else x, w, None if biases is None else biases[k], **geometry)
        for k, w in enumerate(weights)
    ]
    return torch.stack(parts) if index.ndim else parts[0]


#: Engines of layers, by the tensors they mix; each goes when its tensors do.
_machines: dict[Any, Machine] = {}


def _machine(weight: Pair, bias: Pair | None, law: _Law, x: Tensor) -> Machine:
    parts = [pair for pair in (weight, bias) if pair is not None]
    tensors = [tensor for pair in parts for tensor in (pair.a, pair.b)]
    stamps = tuple((t.data_ptr(), t._version) for t in (*tensors, law.table))
    units = tuple(tuple(pair.unit) for pair in parts)
    key = (stamps, units, tuple(law.rule), tuple(law.draw), x.dtype, compiled.level())
    if key not in _machines:
        names = ("weight", "bias")
        _machines[key] = Machine(
            _linear_program(bias is not None),
            {n: Pair(p.a.detach(), p.b.detach(), p.unit) for n, p in zip(names, parts, strict=False)},
            compiled.law(law.table, law.rule, law.draw),
            compiled.seed(law.draw),
            dtype=x.dtype,
            x=x,
            buffers={},
            fixed={},
            statistics={},
        )
        weakref.finalize(weight.a, _machines.pop, key, None)
    return _machines[key]


@functools.cache
def _linear_program(bias: bool) -> Program:
    weights = {"weight": Weight("weight", "parameter"), "bias": Weight("bias", "parameter") if bias else None}
    node = Node("y", "linear", torch.ops.aten.linear.default, {"input": Value("x"), **weights}, (), "", "")
    return Program({"x": ()}, (node,), Value("y"), {}, {}, {})


@mixed_linear.register_fake
def _linear_fake(x, index, weight_a, *rest):  # type: ignore[no-untyped-def]
    own = rest[-1]
    return x.new_empty((*index.shape, *x.shape[int(own) : -1], weight_a.shape[0]))


@mixed_conv2d.register_fake
def _conv_fake(x, index, weight_a, *rest):  # type: ignore[no-untyped-def]
    own, stride, padding, dilation, groups = rest[-5:]
    one = x[0] if own else x
    shape = F.conv2d(one, weight_a.to(x.dtype), None, stride, padding, dilation, groups).shape
    return x.new_empty((*index.shape, *shape))


def _vmap(operator: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, int]]:
    own_at = 11  # position of the argument `own`

    def rule(info, in_dims, x, index, *rest):  # type: ignore[no-untyped-def]
        others = torch.utils._pytree.tree_leaves(in_dims[2:])
        if in_dims[1] is None or index.ndim != 1 or any(dim is not None for dim in others):
            raise RuntimeError("mixed layers are batched over the combination index and the input only")
        own = in_dims[0] is not None
        x = x.movedim(in_dims[0], 0) if own else x
        arguments = [*rest]
        arguments[own_at - 2] = own
        return operator(x, index, *arguments), 0

    return rule


mixed_linear.register_vmap(_vmap(mixed_linear))
mixed_conv2d.register_vmap(_vmap(mixed_conv2d))
