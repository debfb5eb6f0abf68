"""Linear layers and convolutions of mixed weights, as operators: generation and product in one call.

``torch.ops.fastcomb.mixed_linear`` and ``torch.ops.fastcomb.mixed_conv2d`` serve modules that the engine
cannot run as a whole: layer by layer they do what it does. On CPUs in float32 and bfloat16 they run on the
compiled kernels, elsewhere they generate the weights and call torch.
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
from fastcomb.backends.native.lower import Goal
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
    return _run(_linear_program(bias is not None), {}, F.linear, x, index, weight, bias, law, own)


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
    program = _conv_program(bias is not None, tuple(stride), tuple(padding), tuple(dilation), groups)
    law = _Law(table, rule, draw)
    return _run(program, geometry, F.conv2d, x, index, weight, bias, law, own)


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


def _run(
    program: Program,
    geometry: dict[str, Any],
    function: Callable[..., Tensor],
    x: Tensor,
    index: Tensor,
    weight: Pair,
    bias: Pair | None,
    law: _Law,
    own: bool,
) -> Tensor:
    many = index.reshape(-1)
    inputs = x if own else x[None]
    fits = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and inputs.shape[1:].numel()
    if fits and len(many) and inputs.ndim > 2 and compiled.extension():
        machine = _machine(program, weight, bias, law, inputs[0])
        samples = inputs.shape[1]
        out = torch.empty(len(many), samples, *machine.output)
        machine.run(
            Goal("outputs"),
            samples,
            [as_unsigned(i) for i in many.tolist()],
            [machine.prepared(inputs.reshape(-1, *inputs.shape[2:]))],
            own_inputs=own,
            outputs=out,
        )
        out = out.to(x.dtype)
    else:
        weights = law.values(many, weight, x.dtype)
        biases = None if bias is None else law.values(many, bias, x.dtype)
        parts = [
            function(inputs[k if own else 0], w, None if biases is None else biases[k], **geometry)
            for k, w in enumerate(weights)
        ]
        first = _out_shape(function, inputs, weight.a, geometry)
        out = torch.stack(parts) if parts else x.new_empty(0, *first)
    return out if index.ndim else out[0]


#: Engines of layers, by the tensors they mix; each goes when its tensors do.
_machines: dict[Any, Machine] = {}


def _machine(program: Program, weight: Pair, bias: Pair | None, law: _Law, x: Tensor) -> Machine:
    parts = [pair for pair in (weight, bias) if pair is not None]
    tensors = [tensor for pair in parts for tensor in (pair.a, pair.b)]
    stamps = tuple((t.data_ptr(), t._version) for t in (*tensors, law.table))
    units = tuple(tuple(pair.unit) for pair in parts)
    level, shape = compiled.level(), tuple(x.shape[1:])
    key = (id(program), stamps, units, tuple(law.rule), tuple(law.draw), shape, x.dtype, level)
    if key not in _machines:
        names = ("weight", "bias")
        _machines[key] = Machine(
            program,
            {n: Pair(p.a.detach(), p.b.detach(), p.unit) for n, p in zip(names, parts, strict=False)},
            compiled.law(law.table, law.rule, law.draw),
            law.draw[0] | law.draw[1] << 32,
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
    return _one_node("linear", torch.ops.aten.linear.default, bias, {})


@functools.cache
def _conv_program(
    bias: bool, stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...], groups: int
) -> Program:
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _one_node("conv2d", torch.ops.aten.conv2d.default, bias, geometry)


def _one_node(op: str, target: Any, bias: bool, rest: dict[str, Any]) -> Program:
    weights = {"weight": Weight("weight", "parameter"), "bias": Weight("bias", "parameter") if bias else None}
    node = Node("y", op, target, {"input": Value("x"), **weights, **rest}, (), "", "")
    return Program({"x": ()}, (node,), Value("y"), {}, {})


def _out_shape(function: Any, inputs: Tensor, weight: Tensor, geometry: dict[str, Any]) -> torch.Size:
    """Of one combination's result."""
    x = inputs.new_empty(inputs.shape[1:], device="meta")
    result: Tensor = function(x, weight.to(device="meta", dtype=x.dtype), None, **geometry)
    return result.shape


@mixed_linear.register_fake
def _linear_fake(x, index, weight_a, *rest):  # type: ignore[no-untyped-def]
    own = rest[-1]
    return x.new_empty((*index.shape, *x.shape[int(own) : -1], weight_a.shape[0]))


@mixed_conv2d.register_fake
def _conv_fake(x, index, weight_a, weight_b, bias_a, bias_b, table, rule, draw, weight_unit, bias_unit, own, *geometry):  # type: ignore[no-untyped-def]
    one = x[0] if own else x
    stride, padding, dilation, groups = geometry
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
