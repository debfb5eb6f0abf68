"""``mixed_linear``: linear layers of few samples, whose weight tiles are generated as they are multiplied.

All samples fit one tile, so every weight is generated once and never written to memory. A program serves two
combinations: it reads a tile of both networks, mixes it for one and for the other, rounds to the inputs'
dtype and multiplies. What this costs and saves is counted in docs/gpu.md.
"""

# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcomb.kernels.operands import Laws, Mixed
from fastcomb.kernels.triton.epilogue import Epilogue, finish
from fastcomb.kernels.triton.implicit_gemm import precision, roomy
from fastcomb.kernels.triton.philox import coefficient, convex, draw_at, draws_of_blocks, words

#: Most samples of a tile, that is, of a layer.
MOST_SAMPLES = 256


@triton.jit
def _weights(
    first, second, others, o, i, e, inside, index, table, lowest, span, threshold, inputs, outputs, unit,
    seed,
    STEPS: tl.constexpr, DRAWS: tl.constexpr, LAW: tl.constexpr, BITS: tl.constexpr, ENDS: tl.constexpr,
    SHARING: tl.constexpr, ALIGNED: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Weights [BN, BK] of one combination, float32, from tiles of both networks."""
    PER: tl.constexpr = 128 // BITS
    low, high = words(tl.load(index))
    value = first
    for step in tl.static_range(STEPS):
        own = unit.to(tl.uint32) ^ (step << 24)
        if SHARING == "element":
            if ALIGNED:
                block = (o[:, None] * inputs + i) // PER + tl.arange(0, BK // PER)[None, :]
                draw = tl.reshape(draws_of_blocks(block, own, low, high, seed, BITS), (BN, BK))
            else:
                draw = draw_at(e, own, low, high, seed, BITS)
        elif SHARING == "row":
            draw = draw_at(o[:, None], own, low, high, seed, BITS)
        else:
            draw = draw_at(o[:, None] * 0, own, low, high, seed, BITS)
        lam = coefficient(draw, table + step * DRAWS, lowest, span, threshold, LAW, BITS)
        other = second
        if step > 0:
            other = tl.load(others + step * outputs * inputs + e, mask=inside, other=0.0)
        value = convex(lam, value, other, ENDS)
    return value


@triton.jit(do_not_specialize=["lowest", "span", "threshold", "unit", "seed"])
def _linear(
    out, x, index, weight, weights, table, scale, shift, residual, lowest, span, threshold,
    combinations, samples, inputs, outputs, unit, seed,
    PAIR: tl.constexpr, OWN: tl.constexpr, STEPS: tl.constexpr, DRAWS: tl.constexpr, LAW: tl.constexpr,
    BITS: tl.constexpr, ENDS: tl.constexpr, SHARING: tl.constexpr, ALIGNED: tl.constexpr,
    SCALE: tl.constexpr, SHIFT: tl.constexpr,
    RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Program (n, p): outputs [n · BN, …) of all samples of combination p, or of the two of pair p."""
    k = tl.program_id(1).to(tl.int64)
    if PAIR:
        k *= 2
    # an odd number of combinations ends with a pair of one and the same
    l = tl.minimum(k + 1, combinations - 1)
    o = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.arange(0, BM)
    size = samples * inputs
    total = tl.zeros((BM, BN), dtype=tl.float32)
    also = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, inputs, BK):
        i = start + tl.arange(0, BK)
        e = o[:, None] * inputs + i[None, :]
        inside = (o[:, None] < outputs) & (i[None, :] < inputs)
        first = tl.load(weight + e, mask=inside, other=0.0)
        second = tl.load(weights + e, mask=inside, other=0.0)
        at = m[:, None] * inputs + i[None, :]
        real = (m[:, None] < samples) & (i[None, :] < inputs)
        here = tl.load(x + (k * size if OWN else 0) + at, mask=real, other=0.0)
        tile = _weights(
            first, second, weights, o, start, e, inside, index + k, table, lowest, span, threshold,
            inputs, outputs, unit, seed, STEPS, DRAWS, LAW, BITS, ENDS, SHARING, ALIGNED, BN, BK,
        )  # fmt: skip
        total = tl.dot(here, tl.trans(tile.to(here.dtype)), total, input_precision=PRECISION)
        if PAIR:
            if OWN:
                here = tl.load(x + l * size + at, mask=real, other=0.0)
            tile = _weights(
                first, second, weights, o, start, e, inside, index + l, table, lowest, span, threshold,
                inputs, outputs, unit, seed, STEPS, DRAWS, LAW, BITS, ENDS, SHARING, ALIGNED, BN, BK,
            )  # fmt: skip
            also = tl.dot(here, tl.trans(tile.to(here.dtype)), also, input_precision=PRECISION)
    at = m[:, None] * outputs + o[None, :]
    inside = (m[:, None] < samples) & (o[None, :] < outputs)
    for one in tl.static_range(2 if PAIR else 1):
        if one == 1:
            total = also
            k = l
        begin = k * samples * outputs
        total = finish(
            total, scale + k * outputs, shift + k * outputs, residual + begin, at, inside, o, outputs,
            SCALE, SHIFT, RESIDUAL, ACTIVATION,
        )  # fmt: skip
        tl.store(out + begin + at, total.to(out.dtype.element_ty), mask=inside)


def tiles(samples: int, outputs: int, inputs: int) -> tuple[int, int, int]:
    """Samples, outputs and inputs of a tile: of sizes only, so that the interpreter runs the same code."""
    bm = max(16, triton.next_power_of_2(samples))
    bn = min(64, max(16, triton.next_power_of_2(outputs)))
    bk = min(32, max(16, triton.next_power_of_2(inputs)))
    return bm, bn, bk


def mixed_linear(
    x: Tensor,
    index: Tensor,
    weight: Mixed,
    laws: Laws,
    epilogue: Epilogue,
) -> Tensor:
    """``F.linear`` with the weights of each combination, for few samples.

    Args:
        x: [S, I], or [K, S, I], each combination's; S ≤ ``MOST_SAMPLES``; float32, bfloat16 or float16.
        index: int64 [K].
        weight: [O, I].
        laws: of the mixture.
        epilogue: what follows.

    Returns:
        [K, S, O]; sums are float32, and so are products of float32 unless torch's own matrix products may use
        TF32 (``torch.set_float32_matmul_precision``).
    """
    a, others, unit = weight
    outputs, inputs = a.shape
    samples, combinations = x.shape[-2], len(index)
    shape = (combinations, samples, outputs)
    out = torch.empty(shape, dtype=epilogue.dtype or x.dtype, device=x.device)
    if not out.numel():
        return out
    law = laws.one
    bm, bn, bk = tiles(samples, outputs, inputs)
    pair = combinations > 1
    _linear[(triton.cdiv(outputs, bn), triton.cdiv(combinations, 2) if pair else 1)](
        out, x.contiguous(), index, a.contiguous(), others.contiguous(), laws.tables, *epilogue.pointers(x),
        law.low, law.span, law.threshold, combinations, samples, inputs, outputs, unit[0],
        laws.seed, PAIR=pair, OWN=x.ndim == 3, STEPS=len(others), DRAWS=laws.tables.shape[1],
        LAW=law.kind, BITS=laws.bits, ENDS=laws.ends, SHARING=weight.sharing,
        ALIGNED=inputs % (128 // laws.bits) == 0,
        **epilogue.flags(), PRECISION=precision(), BM=bm, BN=bn, BK=bk,
        num_warps=8 if bm >= 128 else 4, num_stages=3 if roomy(x.device) else 2,
    )  # fmt: skip
    return out
