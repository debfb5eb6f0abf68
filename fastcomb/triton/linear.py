"""``mixed_linear``: linear layers whose weight tiles are generated in registers.

A program computes a tile of samples by outputs for one combination. Along the inputs it generates the weights
of its outputs, mixes them in float32, rounds them to the inputs' dtype and multiplies. A tile of 256 samples
amortises the generation: some 12 integer operations per weight against 512 of the matrix units.
"""

# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcomb import compiled
from fastcomb.triton.draws import coefficient, convex, draw_at, draws_of_blocks, words
from fastcomb.triton.law import Law


@triton.jit
def _linear(
    out, x, index, weight, weights, bias, biases, table, lowest, span, threshold, samples, inputs, outputs,
    weight_unit, bias_unit, seed,
    OWN: tl.constexpr, BIAS: tl.constexpr, STEPS: tl.constexpr, DRAWS: tl.constexpr, LAW: tl.constexpr,
    BITS: tl.constexpr, ENDS: tl.constexpr, SHARING: tl.constexpr, BIAS_SHARING: tl.constexpr,
    ALIGNED: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Program (k, n, m): outputs [n · BN, …) of samples [m · BM, …) of combination k."""
    PER: tl.constexpr = 128 // BITS
    k = tl.program_id(0).to(tl.int64)
    low, high = words(tl.load(index + k))
    o = tl.program_id(1) * BN + tl.arange(0, BN)
    m = tl.program_id(2) * BM + tl.arange(0, BM)
    if OWN:
        x += k * samples * inputs
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for first in range(0, inputs, BK):
        i = first + tl.arange(0, BK)
        here = tl.load(
            x + m[:, None].to(tl.int64) * inputs + i[None, :],
            mask=(m[:, None] < samples) & (i[None, :] < inputs),
            other=0.0,
        )
        e = o[:, None] * inputs + i[None, :]
        inside = (o[:, None] < outputs) & (i[None, :] < inputs)
        value = tl.load(weight + e, mask=inside, other=0.0)
        for step in tl.static_range(STEPS):
            own = (weight_unit ^ (step << 24)).to(tl.uint32)
            if SHARING == 0:
                if ALIGNED:
                    block = (o[:, None] * inputs + first) // PER + tl.arange(0, BK // PER)[None, :]
                    draw = tl.reshape(draws_of_blocks(block, own, low, high, seed, BITS), (BN, BK))
                else:
                    draw = draw_at(e, own, low, high, seed, BITS)
            elif SHARING == 1:
                draw = draw_at(o[:, None], own, low, high, seed, BITS)
            else:
                draw = draw_at(o[:, None] * 0, own, low, high, seed, BITS)
            lam = coefficient(draw, table + step * DRAWS, lowest, span, threshold, LAW, BITS)
            other = tl.load(weights + step * outputs * inputs + e, mask=inside, other=0.0)
            value = convex(lam, value, other, ENDS)
        tile = tl.trans(value.to(here.dtype))
        total = tl.dot(here, tile, total, input_precision=PRECISION)
    if BIAS:
        shift = tl.load(bias + o, mask=o < outputs, other=0.0)
        for step in tl.static_range(STEPS):
            own = (bias_unit ^ (step << 24)).to(tl.uint32)
            at = o if BIAS_SHARING < 2 else o * 0
            draw = draw_at(at, own, low, high, seed, BITS)
            lam = coefficient(draw, table + step * DRAWS, lowest, span, threshold, LAW, BITS)
            other = tl.load(biases + step * outputs + o, mask=o < outputs, other=0.0)
            shift = convex(lam, shift, other, ENDS)
        # the bias is rounded like any weight
        total += shift.to(out.dtype.element_ty).to(tl.float32)[None, :]
    at = (k * samples + m[:, None]) * outputs + o[None, :]
    inside = (m[:, None] < samples) & (o[None, :] < outputs)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


def tiles(samples: int, outputs: int, inputs: int) -> tuple[int, int, int]:
    """Samples, outputs and inputs of a tile: of sizes only, so that the interpreter runs the same code."""
    bm = min(256, max(16, triton.next_power_of_2(samples)))
    bn = min(64, max(16, triton.next_power_of_2(outputs)))
    bk = min(32, max(16, triton.next_power_of_2(inputs)))
    return bm, bn, bk


def mixed_linear(
    x: Tensor,
    index: Tensor,
    weight: tuple[Tensor, Tensor, list[int]],
    bias: tuple[Tensor, Tensor, list[int]] | None,
    tables: Tensor,
    rules: list[float],
    draw: list[int],
) -> Tensor:
    """``F.linear`` with the weights of each combination.

    Args:
        x: [S, I], or [K, S, I], each combination's own; float32, bfloat16 or float16.
        index: int64 [K].
        weight: float32 [O, I], [s, O, I], and the stream's unit (see ``fastcomb::mix``).
        bias: the same for [O], or None.
        tables, rules, draw: as for ``fastcomb::mix``.

    Returns:
        [K, S, O], dtype of x; sums are float32, and so are products of float32 unless torch's own matrix
        products may use TF32 (``torch.set_float32_matmul_precision``).
    """
    a, others, unit = weight
    outputs, inputs = a.shape
    samples = x.shape[-2]
    out = torch.empty(len(index), samples, outputs, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    law = Law.of(tables, rules, draw)
    bm, bn, bk = tiles(samples, outputs, inputs)
    shift, shifts, bias_unit = bias if bias is not None else (a, others, [0, 0, 0])
    _linear[(len(index), triton.cdiv(outputs, bn), triton.cdiv(samples, bm))](
        out, x.contiguous(), index, a.contiguous(), others.contiguous(), shift.contiguous(),
        shifts.contiguous(), tables, law.lowest, law.span, law.threshold, samples, inputs, outputs,
        unit[0], bias_unit[0], compiled.seed(draw),
        OWN=x.ndim == 3, BIAS=bias is not None, STEPS=len(others), DRAWS=tables.shape[1], LAW=law.kind,
        BITS=law.bits, ENDS=law.ends, SHARING=compiled.sharing(unit, a.numel()),
        BIAS_SHARING=compiled.sharing(bias_unit, shift.numel()), ALIGNED=inputs % (128 // law.bits) == 0,
        PRECISION="ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        BM=bm, BN=bn, BK=bk,
        num_warps=8 if bm >= 128 else 4,
    )  # fmt: skip
    return out
