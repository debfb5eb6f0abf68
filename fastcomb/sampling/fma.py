"""Fused multiply-add in float32, the same on every device and build."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST_NORMAL = 2.0**-126


def fma(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """``x * y + z`` in float32 with one rounding, on every device and build.

    torch has no fused multiply-add of its own and compilers may or may not fuse ``addcmul``. The product
    of two float32 numbers is exact in float64; the sum is rounded once there and once to float32, which
    is wrong only when the float64 sum falls on a rounding boundary of float32. Those few are redone by
    rounding the float64 sum to odd (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums",
    IEEE Transactions on Computers, 2008).

    Args:
        x, y, z: float32 tensors, broadcastable.

    Returns:
        float32 tensor of the broadcast shape.
    """
    total = x.double() * y
    total = total.add_(z) if total.shape == torch.broadcast_shapes(total.shape, z.shape) else total + z
    result = total.float()
    if not result.numel():
        return result
    ties = total.view(torch.int64).bitwise_and_(0x1FFFFFFF).bitwise_xor_(0x10000000)  # 0 on a boundary
    doubtful = ties == 0 if ties.min() == 0 else None
    if result.abs().min() < _SMALLEST_NORMAL:
        subnormal = (result.abs() < _SMALLEST_NORMAL) & ~((z == 0) & ((x == 0) | (y == 0)))
        doubtful = subnormal if doubtful is None else doubtful | subnormal
    if doubtful is not None:
        at = doubtful.nonzero(as_tuple=True)
        x, y, z = (t.expand(result.shape)[at].double() for t in (x, y, z))
        result[at] = _add_to_odd(x * y, z).float()
    return result


def _add_to_odd(x: Tensor, y: Tensor) -> Tensor:
    """``x + y`` in float64, rounded to odd where inexact."""
    total = x + y
    back = total - x
    error = (x - (total - back)) + (y - back)  # Knuth's two-sum: exact
    odd = total.view(torch.int64)
    step = torch.where((error > 0) == (total > 0), 1, -1)
    return torch.where((error != 0) & (odd & 1 == 0), odd + step, odd).view(torch.float64)
