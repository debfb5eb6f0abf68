"""``mix``: parameters of combinations, written to memory."""

# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcomb import compiled
from fastcomb.triton.draws import coefficient, convex, draw_at, draws_of_blocks, words
from fastcomb.triton.law import Law

#: Philox blocks of one program.
_BLOCKS = 128


@triton.jit
def _mix(
    out, index, a, others, table, lowest, span, threshold, count, row, unit, seed,
    STEPS: tl.constexpr, DRAWS: tl.constexpr, LAW: tl.constexpr, BITS: tl.constexpr, ENDS: tl.constexpr,
    SHARING: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Program (k, r): run r of the parameter of combination k."""
    PER: tl.constexpr = 128 // BITS
    k = tl.program_id(0)
    low, high = words(tl.load(index + k))
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    e = block[:, None] * PER + tl.arange(0, PER)[None, :]
    inside = e < count
    value = tl.load(a + e, mask=inside, other=0.0)
    for step in tl.static_range(STEPS):
        own = (unit ^ (step << 24)).to(tl.uint32)
        if SHARING == 0:
            draw = tl.reshape(draws_of_blocks(block, own, low, high, seed, BITS), (BLOCKS, PER))
        elif SHARING == 1:
            draw = draw_at(e // row, own, low, high, seed, BITS)
        else:
            draw = draw_at(e * 0, own, low, high, seed, BITS)
        lam = coefficient(draw, table + step * DRAWS, lowest, span, threshold, LAW, BITS)
        other = tl.load(others + step * count + e, mask=inside, other=0.0)
        value = convex(lam, value, other, ENDS)
    tl.store(out + k.to(tl.int64) * count + e, value.to(out.dtype.element_ty), mask=inside)


def mix(
    index: Tensor,
    a: Tensor,
    others: Tensor,
    tables: Tensor,
    rules: list[float],
    draw: list[int],
    unit: list[int],
    dtype: torch.dtype,
) -> Tensor:
    """What :func:`fastcomb.mixing.reference` computes, for ``index`` [K]: [K, *a.shape]."""
    out = torch.empty((len(index), *a.shape), dtype=dtype, device=a.device)
    if not out.numel():
        return out
    law = Law.of(tables, rules, draw)
    count = a.numel()
    per_block = 128 // law.bits
    runs = triton.cdiv(count, _BLOCKS * per_block)
    _mix[(len(index), runs)](
        out, index, a.contiguous(), others.contiguous(), tables, law.lowest, law.span, law.threshold,
        count, count // (a.shape[0] if a.ndim else 1), unit[0], compiled.seed(draw),
        STEPS=len(others), DRAWS=tables.shape[1], LAW=law.kind, BITS=law.bits, ENDS=law.ends,
        SHARING=compiled.sharing(unit, count), BLOCKS=_BLOCKS,
    )  # fmt: skip
    return out
