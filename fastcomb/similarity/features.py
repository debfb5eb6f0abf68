"""Representations as matrices [n, features]: made of feature maps, and checked."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = Tensor | NDArray[Any]
Flattening = Literal["samples", "positions"]


def flatten(maps: Features, to: Flattening, *, channels: int | None = None) -> Tensor:
    """Feature maps as a matrix, in one of the two ways that are in use.

    "samples" makes one row per sample, [N, c · h · w], which is usual for CKA, RSA and neighbours: two maps
    are alike if they arrange the samples alike, whatever their spatial sizes. "positions" makes one row
    per position, [N · h · w, c], which is usual for CCA, regression, Procrustes and stitching: every pixel or
    token is a sample, and the channels are the features. Two maps can then only be compared if their
    positions correspond. Matrices [N, d] come back as they are.

    Args:
        maps: [N, c, h, w], tokens [N, t, d], or any [N, ...] with one dimension of channels.
        to: "samples" or "positions".
        channels: the dimension of the channels, for "positions"; by default the last of three, else
            the second.

    Raises:
        ValueError: fewer than two dimensions, an unknown way, or channels where there is no dimension or
            the samples are.

    Example:
        >>> maps = torch.zeros(10, 16, 8, 8)
        >>> fc.similarity.flatten(maps, "samples").shape
        torch.Size([10, 1024])
        >>> fc.similarity.flatten(maps, "positions").shape
        torch.Size([640, 16])
    """
    tensor = _tensor(maps, "maps")
    if tensor.ndim < 2:
        raise ValueError(f"maps have shape {tuple(tensor.shape)}; they must be [N, ...], samples first")
    if to not in ("samples", "positions"):
        raise ValueError(f"to={to!r} is neither 'samples' nor 'positions'")
    axis = channels if channels is not None else (-1 if tensor.ndim == 3 else 1)
    if not -tensor.ndim < axis < tensor.ndim or axis == 0:
        raise ValueError(f"channels={channels} is no dimension after the samples' in {tuple(tensor.shape)}")
    if to == "samples":
        return tensor.flatten(1)
    return tensor.movedim(axis, -1).flatten(0, -2)


def checked(x: Features, y: Features, *, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both as tensors in their own dtypes, if they are features of the same samples.

    Raises:
        TypeError: not tensors or arrays of real numbers.
        ValueError: not two dimensions each, different numbers of samples, fewer than ``least``, no features,
            or values that are not finite.
    """
    one, other = matrix(x, "x"), matrix(y, "y")
    if len(one) != len(other):
        raise ValueError(
            f"x has {len(one)} samples and y has {len(other)}; both must come from the same samples"
        )
    if len(one) < least:
        raise ValueError(f"x and y have {len(one)} samples; at least {least} are needed")
    return one, other


def matrix(values: Features, name: str) -> Tensor:
    """One set of features as a tensor, in its own dtype; raises as :func:`checked`."""
    tensor = _tensor(values, name)
    if tensor.ndim != 2:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; it must be [n, features], which "
            "fastcomb.similarity.flatten makes of feature maps"
        )
    if not tensor.shape[1]:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, so no features")
    if tensor.is_floating_point():
        bad = ~torch.isfinite(tensor)
        if bad.any():
            rows = int(bad.any(1).sum())
            raise ValueError(
                f"{name} has {int(bad.sum())} values that are NaN or infinite, in {rows} of {len(tensor)} "
                "samples; leave those samples out of both"
            )
    return tensor


def epsilon(values: Tensor) -> float:
    """Distance of 1 to the next number of the dtype; that of float64 for integers, which are exact."""
    return torch.finfo(values.dtype if values.is_floating_point() else torch.float64).eps


def _tensor(values: Features, name: str) -> Tensor:
    tensor = as_tensor(values, name)
    if tensor.is_complex():
        raise TypeError(f"{name} has dtype {tensor.dtype}; features are real numbers")
    return tensor


def as_tensor(values: Features, name: str) -> Tensor:
    """A tensor, or an array of numbers as one, detached; raises TypeError for anything else."""
    if isinstance(values, Tensor):
        return values.detach()
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiubc":
        what = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise TypeError(f"{name} is {what}; pass a tensor or an array of numbers")
    # torch shares memory only of arrays that are writable, and have neither steps backwards nor swapped bytes
    return torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))
