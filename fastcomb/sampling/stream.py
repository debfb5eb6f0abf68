"""The coefficient stream, version 1: which random number belongs to which weight.

Every coefficient of every combination is a pure function of
``(seed, combination index, unit, element)``, drawn by the counter-based generator Philox4x32-10
(Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). This module is
the plain torch statement of that function and the law that compiled kernels are tested against, bit
for bit. It must never change; a different layout would be version 2.

===========  ============================================================================
key          ``(seed & 0xffffffff, seed >> 32)``
counter      ``(block, unit, index & 0xffffffff, index >> 32)``
bits=16      block = e >> 3, half-word e & 7 of the four output words, low half first
bits=32      block = e >> 2, word e & 3, of which the upper 23 bits are used
===========  ============================================================================

Step ``j`` towards one of several networks takes ``unit ^ j << 24`` for its unit (j = 0 for the second).

A draw is an integer ``k`` in ``[0, 2**16)`` or ``[0, 2**23)``; it stands for
``u = (k + 0.5) / 2**16`` or ``(k + 0.5) / 2**23``, exact in float32, inside (0, 1), symmetric about 1/2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

STREAM_VERSION = 1

#: Number of random bits behind one draw, for each legal ``bits=``.
RESOLUTION = {16: 16, 32: 23}

#: Philox blocks processed at a time: the int64 working set then stays near the cores' own caches.
_BLOCKS_AT_A_TIME = 1 << 15

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)

Word = Tensor | int


def philox4x32_10(
    counter: tuple[Word, Word, Word, Word], key: tuple[int, int]
) -> tuple[Word, Word, Word, Word]:
    """Ten rounds of Philox4x32, equal to ``philox4x32`` of the Random123 library.

    Args:
        counter: four 32-bit words, each an int64 tensor with values in [0, 2**32) or an int; the
            tensors broadcast against each other.
        key: two 32-bit words.

    Returns:
        Four words in [0, 2**32); tensors are int64 and broadcast shapes may differ between words
        after few rounds, but are all full after ten.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2**64, so their upper half survives a shift and a mask
        p0 = c0 * _MULTIPLIERS[0]
        p1 = c2 * _MULTIPLIERS[1]
        c0 = (p1 >> 32) ^ c1
        c0 ^= k0
        c0 &= _MASK
        c2 = (p0 >> 32) ^ c3
        c2 ^= k1
        c2 &= _MASK
        p1 &= _MASK
        p0 &= _MASK
        c1, c3 = p1, p0
        k0 = (k0 + _KEY_STEPS[0]) & _MASK
        k1 = (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def pieces(
    index: Tensor, *, seed: int, unit: int, count: int, bits: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The draws of one unit for each combination, in cache-sized pieces.

    Args:
        index: int64 tensor [K] of combination indices; indices from 2**63 on are given as their
            two's complement (``i - 2**64``).
        seed: integer in [0, 2**64).
        unit: integer in [0, 2**32).
        count: number of elements of the unit.
        bits: 16 or 32.

    Yields:
        rows (of K), columns (of ``count``), and their draws: int32 tensor [rows, columns] with values in
        [0, 2**RESOLUTION[bits]).
    """
    per_block = 128 // bits
    blocks = -(-count // per_block)
    rows = max(1, _BLOCKS_AT_A_TIME // max(1, blocks))
    key = (seed & _MASK, seed >> 32)
    for row in range(0, len(index), rows):
        chunk = index[row : row + rows, None]
        low, high = chunk & _MASK, (chunk >> 32) & _MASK
        for column in range(0, blocks, _BLOCKS_AT_A_TIME):
            last = min(column + _BLOCKS_AT_A_TIME, blocks)
            block = torch.arange(column, last, device=index.device)[None, :]
            w0, w1, w2, w3 = philox4x32_10((block, unit, low, high), key)
            pairs = torch.stack([w0 | (w1 << 32), w2 | (w3 << 32)], dim=-1)  # type: ignore[list-item]
            if bits == 16:  # little-endian views list the half-words and words in stream order
                drawn = pairs.view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF)
            else:
                drawn = (pairs.view(torch.int32) >> 9).bitwise_and_(0x7FFFFF)
            columns = slice(column * per_block, min(last * per_block, count))
            drawn = drawn.flatten(1)[:, : columns.stop - columns.start]
            yield slice(row, row + len(chunk)), columns, drawn


def step_unit(unit: int, step: int) -> int:
    """The unit that a step of a unit's chain of coefficients draws from; the first (0) is the unit itself."""
    return unit ^ step << 24


def grid(bits: int) -> Tensor:
    """All values that ``u`` can take, ascending: float64 tensor [2**RESOLUTION[bits]]."""
    size = 1 << RESOLUTION[bits]
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def as_signed(index: int) -> int:
    """A combination index in [0, 2**64) as the int64 that :func:`pieces` takes."""
    return index - (1 << 64) if index >= 1 << 63 else index


def as_unsigned(index: int) -> int:
    """The combination index behind an int64 (the inverse of :func:`as_signed`)."""
    return index & (1 << 64) - 1
