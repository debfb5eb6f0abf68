"""Convex mixing of parameters with regenerated coefficients, as one operator.

``torch.ops.fastcomb.mix`` turns draws into weights: with the compiled kernels on CPUs and CUDA devices, with
Triton's where only those are there, and everywhere else with :func:`reference`, which says what they compute,
bit for bit. It carries a vmap rule, so a forward pass
batched over the combination index by :func:`torch.func.vmap` calls it once per parameter for all
combinations of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcomb.kernels import cuda, native, triton
from fastcomb.kernels.operands import Laws, Mixed
from fastcomb.sampling.fma import fma
from fastcomb.sampling.stream import as_unsigned, pieces, step_unit


def convex(coefficient: Tensor, a: Tensor, b: Tensor, *, ends: bool) -> Tensor:
    """``fma(coefficient, b - a, a)`` in float32; exactly ``a`` at 0 and exactly ``b`` at 1.

    Args:
        coefficient, a, b: float32 tensors, broadcastable.
        ends: whether a coefficient may be exactly 0 or 1; False saves the looking.
    """
    mixed = fma(coefficient, b - a, a)
    if not ends:
        return mixed
    mixed = torch.where(coefficient == 1, b, mixed)
    return torch.where(coefficient == 0, a, mixed)


def coefficients(index: Tensor, table: Tensor, seed: int, unit: int, count: int, bits: int) -> Tensor:
    """Coefficients of one unit: float32 [K, count] for ``index`` [K] (:func:`~.stream.pieces`).

    ``table`` is the law: entry ``k`` is the coefficient that draw ``k`` stands for.
    """
    lam = torch.empty((len(index), count), device=index.device)
    for rows, columns, drawn in pieces(index, seed=seed, unit=unit, count=count, bits=bits):
        lam[rows, columns] = _look_up(table, drawn)
    return lam


def _look_up(table: Tensor, drawn: Tensor) -> Tensor:
    return table.index_select(0, drawn.flatten()).view(drawn.shape)


@torch.library.custom_op("fastcomb::mix", mutates_args=())
def mix(
    index: Tensor,
    a: Tensor,
    others: Tensor,
    tables: Tensor,
    law_rules: list[float],
    stream_key: list[int],
    unit: list[int],
    dtype: torch.dtype,
) -> Tensor:
    """One parameter of combination ``index``, or of each of K combinations.

    Args:
        index: int64, shape [] or [K].
        a: the first network's parameter, float32.
        others: that of the s other networks, float32 [s, *a.shape]; a combination moves from ``a`` towards
            one after the other.
        tables: the laws of these steps (:meth:`~fastcomb.ScalarSampler.table`), float32 [s, draws].
        law_rules: the same laws in a few numbers (:meth:`~fastcomb.ScalarSampler.rule`), in a row.
        stream_key: lower and upper 32 bits of the seed (an operator's int is signed), bits per draw (16 or
            32), and whether a law has coefficients of exactly 0 or 1 (:func:`convex`) or there are several
            steps.
        unit: the stream's unit of this parameter; number of draws (the parameter's size, its rows, or 1);
            and whether draw ``e`` serves row ``e`` of the parameter (granularity "neuron").
        dtype: of the result; the mixing itself is float32 with one rounding at the end.

    Returns:
        Tensor of shape ``index.shape + a.shape``.
    """
    many = index.reshape(-1)
    mixed, laws = Mixed(a, others, unit), Laws(tables, law_rules, stream_key)
    if native.serves(a.device):
        out = native.mix([as_unsigned(i) for i in many.tolist()], mixed, laws, dtype)
    elif cuda.able(a.device) and dtype in cuda.DTYPES and (module := cuda.built()):
        out = cuda.mix(module, many, mixed, laws, dtype)
    elif triton.serves(a.device):
        with torch.cuda.device_of(a):
            out = triton.load().mix(many, mixed, laws, dtype)
    else:
        out = reference(many, a, others, tables, stream_key, unit, dtype)
    return out.view((*index.shape, *a.shape))


def reference(
    index: Tensor,
    a: Tensor,
    others: Tensor,
    tables: Tensor,
    stream_key: list[int],
    unit: list[int],
    dtype: torch.dtype,
) -> Tensor:
    """What :func:`mix` computes for ``index`` [K], in torch operations: [K, *a.shape]."""
    number, count, per_row = unit
    laws = Laws(tables, [], stream_key)
    seed, bits, ends = laws.seed, laws.bits, laws.ends
    out = torch.empty((len(index), *a.shape), dtype=dtype, device=a.device)
    units = [step_unit(number, step) for step in range(len(others))]
    if count == a.numel():
        streams = [pieces(index, seed=seed, unit=one, count=count, bits=bits) for one in units]
        flat, flat_a, flat_others = out.view(len(index), count), a.flatten(), others.flatten(1)
        for parts in zip(*streams, strict=True):
            rows, columns, _ = parts[0]
            value = flat_a[columns]
            for table, other, (_, _, drawn) in zip(tables, flat_others, parts, strict=True):
                value = convex(_look_up(table, drawn), value, other[columns], ends=ends)
            flat[rows, columns] = value
        return out
    lams = [
        broadcastable(coefficients(index, table, seed, one, count, bits), a.shape, per_row=bool(per_row))
        for one, table in zip(units, tables, strict=True)
    ]
    for k in range(len(index)):
        value = a
        for lam, other in zip(lams, others, strict=True):
            value = convex(lam[k], value, other, ends=ends)
        out[k] = value
    return out


def broadcastable(lam: Tensor, shape: torch.Size, *, per_row: bool) -> Tensor:
    """Shape [K, count] coefficients so that they broadcast to [K, *shape].

    ``count`` is the number of elements, of rows (``per_row``) or 1.
    """
    if per_row:
        return lam.view(len(lam), *shape[:1], *[1] * (len(shape) - 1))
    if lam.shape[1] == shape.numel():
        return lam.view((len(lam), *shape))
    return lam.view(len(lam), *[1] * len(shape))


@mix.register_fake
def _mix_fake(index, a, others, tables, law_rules, stream_key, unit, dtype):  # type: ignore[no-untyped-def]
    return a.new_empty((*index.shape, *a.shape), dtype=dtype)


@mix.register_vmap
def _mix_vmap(info, in_dims, index, *rest):  # type: ignore[no-untyped-def]
    if in_dims[0] is None or any(dim is not None for dim in tree_leaves(in_dims[1:])):
        raise RuntimeError("fastcomb::mix is batched over the combination index only")
    return torch.ops.fastcomb.mix(index.movedim(in_dims[0], 0), *rest), 0
