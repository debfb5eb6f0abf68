"""Linear layers and convolutions of mixed weights, as operators: generation and product in one call.

``torch.ops.fastcomb.mixed_linear`` and ``torch.ops.fastcomb.mixed_conv2d`` serve modules that the engine
cannot run as a whole. On CUDA devices both run on Triton's kernels. On CPUs linear layers in float32 and
bfloat16 run on the engine's. Convolutions there generate their weights with its kernels and call torch for
each combination: one layer at a time, bringing images into the engine's layout and back costs more than its
convolutions save.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcomb.backends.native.compiled import CompiledProgram
from fastcomb.backends.native.instructions import Goal
from fastcomb.kernels import native, triton
from fastcomb.kernels.operands import Laws, Mixed
from fastcomb.program import Node, Program, Value, Weight
from fastcomb.sampling.stream import as_unsigned

#: Combinations that fit a launch of Triton's kernels.
_MOST = 65_535


@torch.library.custom_op("fastcomb::mixed_linear", mutates_args=())
def mixed_linear(
    x: Tensor,
    index: Tensor,
    weight_a: Tensor,
    weight_others: Tensor,
    bias_a: Tensor | None,
    bias_others: Tensor | None,
    tables: Tensor,
    law_rules: list[float],
    stream_key: list[int],
    weight_unit: list[int],
    bias_unit: list[int],
    own: bool,
) -> Tensor:
    """``F.linear`` with the weights of combination ``index``, or of each of K combinations.

    Args:
        x: [..., I]; with ``own`` [K, ..., I], each combination's.
        index: int64, shape [] or [K].
        weight_a, weight_others: float32 [O, I] and [s, O, I].
        bias_a, bias_others: float32 [O] and [s, O], or None.
        tables, law_rules, stream_key: as for ``fastcomb::mix``.
        weight_unit, bias_unit: its ``unit`` for weight and bias.
        own: whether x has a leading K.

    Returns:
        [..., O], with a leading K for an index [K]; dtype of x.
    """
    weight, bias = Mixed(weight_a, weight_others, weight_unit), _bias(bias_a, bias_others, bias_unit)
    laws = Laws(tables, law_rules, stream_key)
    inputs = x if own else x[None]
    rows = inputs.shape[1:-1].numel()
    many = index.reshape(-1)
    if triton.serves(x.device, x) and index.numel() <= _MOST:
        kernels = triton.load()
        flat = inputs.reshape(-1, rows, x.shape[-1])
        with torch.cuda.device_of(x):
            epilogue = kernels.Epilogue()
            outputs: Tensor = kernels.linear(flat if own else flat[0], many, weight, bias, laws, epilogue)
        return outputs.view(*index.shape, *x.shape[int(own) : -1], len(weight_a))
    fits = x.dtype in native.DTYPES and inputs.numel() and weight_a.numel() and index.numel()
    if not (fits and native.serves(x.device)):
        return _one_by_one(F.linear, {}, x, index, weight, bias, laws, own)
    inputs = inputs.reshape(-1, rows, x.shape[-1])  # a row of inputs is a sample
    out = torch.empty(len(many), rows, len(weight_a), dtype=x.dtype)
    _compiled_layer(weight, bias, laws, inputs[0]).run(
        Goal("outputs", rounded=True),
        rows,
        [as_unsigned(i) for i in many.tolist()],
        [inputs.contiguous()],
        own_inputs=[own],
        outputs=out,
    )
    return out.view(*index.shape, *x.shape[int(own) : -1], len(weight_a))


@torch.library.custom_op("fastcomb::mixed_conv2d", mutates_args=())
def mixed_conv2d(
    x: Tensor,
    index: Tensor,
    weight_a: Tensor,
    weight_others: Tensor,
    bias_a: Tensor | None,
    bias_others: Tensor | None,
    tables: Tensor,
    law_rules: list[float],
    stream_key: list[int],
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
        weight_a, weight_others: float32 [O, C / groups, kh, kw] and [s, O, C / groups, kh, kw].
        stride, padding, dilation, groups: as for ``F.conv2d``, two numbers each but for groups.
        (the others): as for ``fastcomb::mixed_linear``.

    Returns:
        [N, O, H', W'], with a leading K for an index [K]; dtype of x.
    """
    weight, bias = Mixed(weight_a, weight_others, weight_unit), _bias(bias_a, bias_others, bias_unit)
    laws = Laws(tables, law_rules, stream_key)
    if groups == 1 and triton.serves(x.device, x) and index.numel() <= _MOST:
        kernels = triton.load()
        kernel = kernels.Geometry(weight_a.shape[2:], *map(tuple, (stride, padding, dilation)))
        with torch.cuda.device_of(x):
            outputs: Tensor = kernels.conv2d(x, index.reshape(-1), weight, bias, laws, kernel)
        return outputs.view(*index.shape, *outputs.shape[1:])
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _one_by_one(F.conv2d, geometry, x, index, weight, bias, laws, own)


def _bias(a: Tensor | None, others: Tensor | None, unit: list[int]) -> Mixed | None:
    return None if a is None or others is None else Mixed(a, others, unit)


def _one_by_one(
    function: Callable[..., Tensor],
    geometry: dict[str, Any],
    x: Tensor,
    index: Tensor,
    weight: Mixed,
    bias: Mixed | None,
    laws: Laws,
    own: bool,
) -> Tensor:
    """Weights generated for all combinations, then torch's own layer for each."""
    many = index.reshape(-1)
    weights = _values(many, weight, laws, x.dtype)
    biases = None if bias is None else _values(many, bias, laws, x.dtype)
    if not len(many):
        one = x.new_empty(x.shape[int(own) :], device="meta")
        shape = function(one, weight.a.to(device="meta", dtype=x.dtype), None, **geometry).shape
        return x.new_empty(0, *shape)
    parts = [
        function(x[k] if own else x, w, None if biases is None else biases[k], **geometry)
        for k, w in enumerate(weights)
    ]
    return torch.stack(parts) if index.ndim else parts[0]


def _values(index: Tensor, parameter: Mixed, laws: Laws, dtype: torch.dtype) -> Tensor:
    mixed: Tensor = torch.ops.fastcomb.mix(index, parameter.a, parameter.others, *laws, parameter.unit, dtype)
    return mixed


#: Engines of layers, by the tensors they mix; each goes when its tensors do.
_programs: dict[Any, CompiledProgram] = {}


def _compiled_layer(weight: Mixed, bias: Mixed | None, laws: Laws, x: Tensor) -> CompiledProgram:
    """The engine of one linear layer: that made for these tensors as they are now, or a new one."""
    parts = [part for part in (weight, bias) if part is not None]
    tensors = [tensor for part in parts for tensor in (part.a, part.others)]
    stamps = tuple((t.data_ptr(), t._version) for t in (*tensors, laws.tables))
    units = tuple(tuple(part.unit) for part in parts)
    key = (
        stamps,
        units,
        len(laws.tables),
        tuple(laws.law_rules),
        tuple(laws.stream_key),
        x.dtype,
        native.cpu_capability(),
    )
    if key not in _programs:
        names = ("weight", "bias")
        _programs[key] = CompiledProgram(
            _linear_program(bias is not None),
            {n: Mixed(p.a.detach(), p.others.detach(), p.unit) for n, p in zip(names, parts, strict=False)},
            native.laws(laws),
            laws.seed,
            dtype=x.dtype,
            xs=[x],
            buffers={},
            fixed={},
            statistics={},
        )
        weakref.finalize(weight.a, _programs.pop, key, None)
    return _programs[key]


@functools.cache
def _linear_program(bias: bool) -> Program:
    weights = {"weight": Weight("weight", "parameter"), "bias": Weight("bias", "parameter") if bias else None}
    node = Node("y", "linear", torch.ops.aten.linear.default, {"input": Value("x"), **weights}, (), "")
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
    """How vmap batches an operator: over the combination index, and the input where it has K of its own."""
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
