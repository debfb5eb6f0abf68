"""``implicit_gemm``: convolutions and linear layers whose weights were generated before, as matrix products.

A convolution is a product of [pixels, taps · channels] with the weight, of which the left side is gathered
from the images while it is read (implicit GEMM), and a linear layer is a convolution of images of one pixel.
"""

# mypy: ignore-errors
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcomb.kernels.triton.epilogue import Epilogue, finish


class Geometry(NamedTuple):
    """Of a convolution, (height, width) each."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of the result."""
        rows, columns = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip((height, width), *self, strict=True)
        )
        return rows, columns


@triton.jit
def _implicit_gemm(
    out, x, weight, scale, shift, residual, rows, outputs, channels, height, width, high, wide,
    SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr,
    DW: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, POINTS: tl.constexpr, FLAT: tl.constexpr,
    OWN: tl.constexpr, SCALE: tl.constexpr, SHIFT: tl.constexpr, RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Program (t, k): tile t of combination k, neighbours in outputs first.

    x [(K,) samples, height, width, channels], weight [K, outputs, KH, KW, channels], out [K, rows, outputs]
    of rows = samples · high · wide pixels.
    """
    k = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(outputs, BN)
    o = tl.program_id(0) % across * BN + tl.arange(0, BN)
    r = tl.program_id(0) // across * BM + tl.arange(0, BM)
    if POINTS:
        pixel = r
        y = r * 0
        z = r * 0
    else:
        z = r % wide * SW - PW
        y = r // wide % high * SH - PH
        pixel = (r // wide // high * height + y) * width + z
    inner = KH * KW * channels
    if OWN:
        x += k * (rows // (high * wide)) * height * width * channels
    weight += k * outputs * inner
    total = tl.zeros((BM, BN), dtype=tl.float32)
    blocks = tl.cdiv(inner if FLAT else channels, BK)
    for step in range(blocks if FLAT else KH * KW * blocks):
        if FLAT:  # few channels: taps and channels in one run
            j = step * BK + tl.arange(0, BK)
            tap = j // channels
            dy = tap // KW * DH
            dz = tap % KW * DW
            here = (pixel[:, None] + (dy * width + dz)[None, :]) * channels + (j - tap * channels)[None, :]
            known = (r[:, None] < rows) & (j[None, :] < inner)
            known &= (y[:, None] + dy[None, :] >= 0) & (y[:, None] + dy[None, :] < height)
            known &= (z[:, None] + dz[None, :] >= 0) & (z[:, None] + dz[None, :] < width)
            valid = j < inner
        else:
            tap = step // blocks
            c = (step - tap * blocks) * BK + tl.arange(0, BK)
            dy = tap // KW * DH
            dz = tap % KW * DW
            here = ((pixel + dy * width + dz) * channels)[:, None] + c[None, :]
            within = r < rows
            if not POINTS:
                within &= (y + dy >= 0) & (y + dy < height) & (z + dz >= 0) & (z + dz < width)
            valid = c < channels
            known = within[:, None] & valid[None, :]
            j = tap * channels + c
        # the taps of a convolution read the same pixels: kept in the first-level cache for the next tap
        left = tl.load(x + here, mask=known, other=0.0, cache_modifier="" if POINTS else ".ca")
        right = tl.load(
            weight + o[None, :] * inner + j[:, None],
            mask=(o[None, :] < outputs) & valid[:, None],
            other=0.0,
        )
        total = tl.dot(left, right, total, input_precision=PRECISION)
    # from the tile's first row, which is counted in 64 bits: a combination may have 2³¹ results and more
    at = tl.arange(0, BM)[:, None] * outputs + o[None, :]
    inside = (r[:, None] < rows) & (o[None, :] < outputs)
    start = (k * rows + tl.program_id(0) // across * BM) * outputs
    total = finish(
        total, scale + k * outputs, shift + k * outputs, residual + start, at, inside, o, outputs,
        SCALE, SHIFT, RESIDUAL, ACTIVATION,
    )  # fmt: skip
    tl.store(out + start + at, total.to(out.dtype.element_ty), mask=inside)


def tiles(rows: int, outputs: int, inner: int, size: int, *, wide: bool) -> tuple[int, int, int]:
    """Rows, outputs and inner entries of a tile, of shapes, bytes of an entry and room for wide ones."""
    bm = min(128, max(16, triton.next_power_of_2(rows)))
    # the wider, the fewer bytes per product: 256 keep up with the matrix units of an H100 (docs/gpu.md)
    widest = 256 if wide and size == 2 and bm == 128 else 128
    bn = min(widest, max(16, triton.next_power_of_2(outputs)))
    bk = min(128 // size, max(16, triton.next_power_of_2(inner)))
    return bm, bn, bk


def roomy(device: torch.device) -> bool:
    """Whether a block has the shared memory of an A100 or H100; other devices of their kind have 99 KiB."""
    if device.type != "cuda":
        return True
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", 0) >= 160 << 10


def precision() -> str:
    """How products of float32 are made: as torch's own."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def implicit_gemm(x: Tensor, weight: Tensor, geometry: Geometry, epilogue: Epilogue, *, own: bool) -> Tensor:
    """Convolutions of images by the weights of K combinations.

    Args:
        x: [S, H, W, I], or with ``own`` [K, S, H, W, I], each combination's; contiguous; less than 2³¹
            entries for one combination.
        weight: [K, O, kh, kw, I] of the dtype of x, contiguous.
        geometry: of the convolution; ``kernel`` is (kh, kw).
        epilogue: what follows.

    Returns:
        [K, S, H', W', O].

    Raises:
        ValueError: a combination's inputs, weights or rows of results are 2³¹ or more.
    """
    combinations, outputs, kh, kw, channels = weight.shape
    samples, height, width = x.shape[-4:-1]
    high, wide = geometry.size(height, width)
    shape = (combinations, samples, high, wide, outputs)
    out = torch.empty(shape, dtype=epilogue.dtype or x.dtype, device=x.device)
    if not out.numel():
        return out
    rows, flat = samples * high * wide, channels < 16 and kh * kw > 1
    for what, count in (
        ("inputs", samples * height * width * channels),
        ("weights", weight[0].numel()),
        ("rows of results", rows),
    ):
        if count >= 1 << 31:  # which the kernel counts in 32 bits
            raise ValueError(f"{count:,} {what} of one combination; hand over fewer samples at a time")
    inner = channels * kh * kw if flat else channels
    bm, bn, bk = tiles(rows, outputs, inner, x.dtype.itemsize, wide=roomy(x.device))
    _implicit_gemm[(triton.cdiv(rows, bm) * triton.cdiv(outputs, bn), combinations)](
        out, x, weight, *epilogue.pointers(x), rows, outputs, channels, height, width, high, wide,
        *geometry.stride, *geometry.padding, *geometry.dilation, kh, kw,
        POINTS=geometry == Geometry(), FLAT=flat, OWN=own, **epilogue.flags(), PRECISION=precision(),
        BM=bm, BN=bn, BK=bk, num_warps=8 if bm * bn >= 128 * 128 else 4, num_stages=3,
    )  # fmt: skip
    return out
