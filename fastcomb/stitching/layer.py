"""Stitching layers: affine maps along the channels of one network's activations to those of another's.

A stitching layer acts on every position (pixel or token) alike, as a 1×1 convolution or a token-wise linear
layer does (Csiszárik et al., "Similarity and Matching of Neural Network Representations", NeurIPS 2021).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


@dataclass(frozen=True)
class Resize:
    """How positions become others, before the map: between activations of different spatial sizes.

    Attributes:
        how: "pool", adaptive average pooling, or "interpolate", (bi)linear interpolation between positions.
        size: the positions wanted: (height, width), or (tokens,).

    Example:
        >>> fc.stitching.Resize("pool", (2, 2))(torch.zeros(10, 16, 8, 8), channels=1).shape
        torch.Size([10, 16, 2, 2])
    """

    how: str
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.how not in ("pool", "interpolate"):
            raise ValueError(f"resize={self.how!r} is neither 'pool' nor 'interpolate'")
        if len(self.size) not in _POOLS:
            raise ValueError(f"activations of {len(self.size)} spatial dimensions cannot be resized")

    def __call__(self, x: Tensor, channels: int) -> Tensor:
        """Activations with the positions wanted."""
        first = moved(x, channels, 1)
        if self.how == "pool":
            resized = _POOLS[len(self.size)](first, self.size)
        else:
            resized = F.interpolate(first, self.size, mode=_MODES[len(self.size)], align_corners=False)
        return moved(resized, 1, channels)


class StitchingLayer(nn.Module, abc.ABC):
    """y = M x + b at every position.

    Args:
        channels: dimension of the channels in the activations that come in, and in those that go out.
        resize: how positions change first, or None.

    Attributes:
        kind: its name in files and options.
    """

    kind: ClassVar[str]

    def __init__(self, channels: tuple[int, int] = (1, 1), resize: Resize | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.resize = resize

    @classmethod
    @abc.abstractmethod
    def nearest(cls, weight: Tensor, bias: Tensor, **options: Any) -> Self:
        """The layer of this kind next to the affine map with this matrix [outputs, inputs] and bias.

        Options are those of the kind (``rank``), and ``channels`` and ``resize``.
        """

    @abc.abstractmethod
    def matrix(self) -> Tensor:
        """M, [outputs, inputs], differentiable in the parameters."""

    def offset(self) -> Tensor | None:
        """b, [outputs], or None."""
        bias = getattr(self, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    def map(self) -> tuple[Tensor, Tensor]:
        """M and b as they are now, b = 0 where there is none; without gradients."""
        weight, bias = self.matrix().detach(), self.offset()
        return weight, weight.new_zeros(len(weight)) if bias is None else bias.detach()

    def options(self) -> dict[str, Any]:
        """Arguments that a layer of this kind is made with, besides its tensors."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Activations of A as B's: resized, in the layer's dtype, M x + b at every position, contiguous."""
        before, after = self.channels
        if self.resize is not None:
            x = self.resize(x, before)
        weight = self.matrix()
        if x.dtype != weight.dtype:  # between networks of different precision
            x = x.to(weight.dtype)
        y: Tensor = F.linear(moved(x, before, -1), weight, self.offset())
        return moved(y, -1, after).contiguous()  # what follows rounds otherwise in another layout

    def extra_repr(self) -> str:
        """Numbers of channels, and how positions change, for ``print``."""
        outputs, inputs = self.matrix().shape
        return f"{inputs} -> {outputs}" + (f", {self.resize}" if self.resize else "")


def moved(x: Tensor, before: int, after: int) -> Tensor:
    """``torch.movedim``, as the operation that the compiled engine knows."""
    order = list(range(x.ndim))
    order.insert(after % x.ndim, order.pop(before))
    return x if order == list(range(x.ndim)) else x.permute(order)


def sizes(weight: Tensor, bias: Tensor | None, kind: str, square: bool = False) -> None:
    """Raise ValueError unless this is an affine map; with ``square``, between equal numbers of channels."""
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise ValueError(
            "a stitching layer needs a matrix [outputs, inputs] and a bias [outputs], not "
            f"{tuple(weight.shape)} and {None if bias is None else tuple(bias.shape)}"
        )
    if square and weight.shape[0] != weight.shape[1]:
        raise ValueError(
            f"{kind} needs as many channels on both sides, not {weight.shape[1]} and {weight.shape[0]}"
        )


def parameter(value: Tensor) -> nn.Parameter:
    """A copy as a parameter in the default dtype."""
    return nn.Parameter(value.detach().to(torch.get_default_dtype(), copy=True))
