"""Device functions: the coefficient stream, the laws and the mixing (see stream.py and mixing.py)."""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def philox(block, unit, low, high, seed):
    """The four words of Philox blocks (:mod:`fastcomb.sampling.stream`); uint32 but for ``seed``.

    As ``tl.philox``, with each round's products in one wide multiplication instead of two narrow ones.
    """
    c0 = block.to(tl.uint32)
    c1 = c0 * 0 + unit
    c2 = c0 * 0 + low
    c3 = c0 * 0 + high
    key = tl.to_tensor(seed).to(tl.uint64)  # small seeds come as narrow integers, and 1 as a constant
    k0 = key.to(tl.uint32)
    k1 = (key >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        one = c0.to(tl.uint64) * 0xD2511F53
        two = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (two >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (one >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = two.to(tl.uint32)
        c3 = one.to(tl.uint32)
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def draw_at(e, unit, low, high, seed, BITS: tl.constexpr):
    """Draws of elements ``e``, each from a Philox block of its own: int32, shaped like e.

    Args:
        e: element numbers in the unit, int32.
        unit, low, high: counter words, uint32: the unit, and both halves of the combination's index.
        seed: the key, 64 bits.
    """
    if BITS == 16:
        w0, w1, w2, w3 = philox(e >> 3, unit, low, high, seed)
        word = _chosen((e >> 1) & 3, w0, w1, w2, w3)
        return ((word >> ((e & 1) * 16).to(tl.uint32)) & 0xFFFF).to(tl.int32)
    else:
        w0, w1, w2, w3 = philox(e >> 2, unit, low, high, seed)
        return (_chosen(e & 3, w0, w1, w2, w3) >> 9).to(tl.int32)


@triton.jit
def _chosen(which, w0, w1, w2, w3):
    return tl.where(which < 2, tl.where(which == 0, w0, w1), tl.where(which == 2, w2, w3))


@triton.jit
def draws_of_blocks(block, unit, low, high, seed, BITS: tl.constexpr):
    """All draws of Philox blocks, [..., 8] or [..., 4] for block numbers [...]: int32."""
    w0, w1, w2, w3 = philox(block, unit, low, high, seed)
    if BITS == 16:
        halves = tl.join(
            tl.join(tl.join(w0 & 0xFFFF, w2 & 0xFFFF), tl.join(w1 & 0xFFFF, w3 & 0xFFFF)),
            tl.join(tl.join(w0 >> 16, w2 >> 16), tl.join(w1 >> 16, w3 >> 16)),
        )
        return halves.to(tl.int32)
    else:
        return tl.join(tl.join(w0 >> 9, w2 >> 9), tl.join(w1 >> 9, w3 >> 9)).to(tl.int32)


@triton.jit
def coefficient(draw, table, lowest, span, threshold, LAW: tl.constexpr, BITS: tl.constexpr):
    """The law's value for each draw, float32; laws by :data:`fastcomb.sampling.rules.KINDS`."""
    if LAW == "table":
        return tl.load(table + draw)
    elif LAW == "bernoulli":
        return (draw < threshold).to(tl.float32)
    else:
        # 0x4B000000 are the bits of 2²³ and the draw fills the fraction: no conversion, and the fma is exact
        scale: tl.constexpr = 1.0 / 65536.0 if BITS == 16 else 1.0 / 8388608.0
        whole = (draw | 0x4B000000).to(tl.float32, bitcast=True)
        u = tl.fma(whole, scale, (0.5 - 8388608.0) * scale)
        if LAW == "uniform":
            u = tl.fma(u, span, lowest)
        return u


@triton.jit
def convex(lam, a, b, ENDS: tl.constexpr):
    """fma(lam, b − a, a); exactly a at 0 and exactly b at 1 where a law has those."""
    mixed = tl.fma(lam, b - a, a)
    if ENDS:
        mixed = tl.where(lam == 1.0, b, mixed)
        mixed = tl.where(lam == 0.0, a, mixed)
    return mixed


@triton.jit
def words(index):
    """Both halves of a combination's index, uint32."""
    return (index & 0xFFFFFFFF).to(tl.uint32), ((index >> 32) & 0xFFFFFFFF).to(tl.uint32)
