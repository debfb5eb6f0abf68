"""``mix``: parameters of combinations, written to memory."""

# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcomb.kernels.operands import Laws, Mixed
from fastcomb.kernels.triton.philox import coefficient, convex, draw_at, draws_of_blocks, words

#: Philox blocks of one program, and the combinations that it mixes from one reading of the networks.
_BLOCKS, _TOGETHER = 128, 8


@triton.jit(do_not_specialize=["lowest", "span", "threshold", "unit", "seed"])
def _mix(
    out, index, a, others, table, lowest, span, threshold, combinations, count, row, taps, unit, seed,
    STEPS: tl.constexpr, DRAWS: tl.constexpr, LAW: tl.constexpr, BITS: tl.constexpr, ENDS: tl.constexpr,
    SHARING: tl.constexpr, TAPS: tl.constexpr, TOGETHER: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Program (r, g): run r of the parameter of combinations [g · TOGETHER, …)."""
    PER: tl.constexpr = 128 // BITS
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    e = block[:, None] * PER + tl.arange(0, PER)[None, :]
    inside = e < count
    first = tl.load(a + e, mask=inside, other=0.0)
    second = tl.load(others + e, mask=inside, other=0.0)
    place = e
    if TAPS:  # [O, I, taps] in, [O, taps, I] out
        within = e % row
        place = e - within + within % taps * (row // taps) + within // taps
    start = tl.program_id(1).to(tl.int64) * TOGETHER
    index += start
    out += start * count
    for k in range(tl.minimum(TOGETHER, combinations - start)):
        low, high = words(tl.load(index + k))
        value = first
        for step in tl.static_range(STEPS):
            own = unit.to(tl.uint32) ^ (step << 24)
            if SHARING == "element":
                draw = tl.reshape(draws_of_blocks(block, own, low, high, seed, BITS), (BLOCKS, PER))
            elif SHARING == "row":
                draw = draw_at(e // row, own, low, high, seed, BITS)
            else:
                draw = draw_at(e * 0, own, low, high, seed, BITS)
            lam = coefficient(draw, table + step * DRAWS, lowest, span, threshold, LAW, BITS)
            other = second
            if step > 0:
                other = tl.load(others + step * count + e, mask=inside, other=0.0)
            value = convex(lam, value, other, ENDS)
        tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)
        out += count


def mix(
    index: Tensor, mixed: Mixed, laws: Laws, dtype: torch.dtype, *, channels_last: bool = False
) -> Tensor:
    """What :func:`fastcomb.mixing.ops.reference` computes, for ``index`` [K]: [K, *a.shape].

    With ``channels_last`` a convolution's weight [O, I, …] comes out as [K, O, …, I].
    """
    a, others, unit = mixed
    shape = (a.shape[0], *a.shape[2:], a.shape[1]) if channels_last else a.shape
    out = torch.empty((len(index), *shape), dtype=dtype, device=a.device)
    if not out.numel():
        return out
    if a.numel() >= 1 << 31:  # which the kernel counts in 32 bits
        raise ValueError(f"a parameter of {a.numel():,} entries; Triton's kernel takes less than 2**31")
    law = laws.one
    count, taps = a.numel(), a.shape[2:].numel() if channels_last else 1
    runs = triton.cdiv(count, _BLOCKS * (128 // laws.bits))
    _mix[(runs, triton.cdiv(len(index), _TOGETHER))](
        out, index, a.contiguous(), others.contiguous(), laws.tables, law.low, law.span, law.threshold,
        len(index), count, count // (a.shape[0] if a.ndim else 1), taps, unit[0], laws.seed,
        STEPS=len(others), DRAWS=laws.tables.shape[1], LAW=law.kind, BITS=laws.bits, ENDS=laws.ends,
        SHARING=mixed.sharing, TAPS=taps > 1, TOGETHER=_TOGETHER, BLOCKS=_BLOCKS,
    )  # fmt: skip
    return out
