"""Modules with habits of real code that one line of a generated ``forward`` does not show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Registered:
    """What a network returns, known to torch's pytrees."""

    logits: Tensor
    hidden: Tensor | None = None


@dataclass
class Unregistered:
    """The same, not known to them."""

    logits: Tensor
    hidden: Tensor | None = None


torch.export.register_dataclass(Registered)


class CachedBias(nn.Module):
    """Adds a bias that is gathered once for every length and kept in a dict, as LeViT's attention does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))
        self.kept: dict[int, Tensor] = {}

    def forward(self, h: Tensor) -> Tensor:
        length = h.shape[-1]
        if length not in self.kept:
            self.kept[length] = self.bias[torch.arange(length) % self.bias.shape[0]]
        return h + self.kept[length]


class CachedAttribute(nn.Module):
    """Keeps what it computed from its weights at its first call."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(width))
        self.scale: Tensor | None = None

    def forward(self, h: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = F.softplus(self.raw)
        return h * self.scale


class Counting(nn.Module):
    """Counts its calls and remembers its last input, without effect on the result."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.calls = 0
        self.last: Tensor | None = None
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, h: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        self.last = h
        return self.layer(h)


class TwoNames(nn.Module):
    """One layer under two names, one of them inside a container."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.again = self.first
        self.stack = nn.ModuleList([self.first, nn.Tanh(), nn.Linear(width, width)])

    def forward(self, h: Tensor) -> Tensor:
        h = self.again(torch.tanh(self.first(h)))
        for layer in self.stack:
            h = layer(h)
        return h


class Tied(nn.Module):
    """Two layers with one weight; the second uses it transposed."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, inner)
        self.other = nn.Linear(width, inner, bias=False)
        self.other.weight = self.down.weight

    def forward(self, h: Tensor) -> Tensor:
        inner = torch.tanh(self.down(h)) + self.other(h)
        return F.linear(inner, self.down.weight.t())


class Attention(nn.Module):
    """Self-attention written out, its heads split by views that use the batch's size as a number."""

    def __init__(self, width: int, heads: int, fused: bool, causal: bool) -> None:
        super().__init__()
        self.heads, self.fused, self.causal = heads, fused, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        n, t, d = h.shape
        q, k, v = self.qkv(h).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5
            if self.causal:
                scores = scores.masked_fill(~torch.ones(t, t, dtype=torch.bool).tril(), float("-inf"))
            mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n, t, d))


class FrozenNorm(nn.Module):
    """Normalisation with buffers for all it knows, as detection backbones have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name, value in {
            "weight": torch.rand(width) + 0.5,
            "bias": torch.randn(width),
            "running_mean": torch.randn(width),
            "running_var": torch.rand(width) + 0.5,
        }.items():
            self.register_buffer(name, value)

    def forward(self, h: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (h.ndim - 2)
        scale = (self.weight * (self.running_var + 1e-5).rsqrt()).reshape(shape)
        return h * scale + self.bias.reshape(shape) - self.running_mean.reshape(shape) * scale


class WidenedNorm(nn.LayerNorm):
    """LayerNorm in float32 whatever comes in, as CLIP's."""

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h.type(torch.float32)).type(h.dtype)


class Recursive(nn.Module):
    """A recurrence over tokens, from a state made in forward."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.read, self.turn = nn.Linear(width, inner), nn.Linear(inner, inner)

    def forward(self, h: Tensor) -> Tensor:
        state = h.new_zeros(h.shape[0], self.turn.in_features)
        states = []
        for t in range(h.shape[1]):
            state = torch.tanh(self.read(h[:, t]) + self.turn(state))
            states.append(state)
        return torch.stack(states, 1)


class Experts(nn.Module):
    """A soft mixture of experts over stacked weights."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts)
        self.weights = nn.Parameter(torch.randn(experts, width, width) / width**0.5)

    def forward(self, h: Tensor) -> Tensor:
        return torch.einsum("...e,eij,...i->...j", self.gate(h).softmax(-1), self.weights, h)


class Symmetric(nn.Module):
    """A parametrisation: the symmetric part of a matrix."""

    def forward(self, w: Tensor) -> Tensor:
        return (w + w.transpose(-1, -2)) / 2


class Scaled(nn.Module):
    """A parametrisation with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(()) + 0.5)

    def forward(self, w: Tensor) -> Tensor:
        return w * self.scale


class Positions(nn.Module):
    """Adds as many rows of a table as there are tokens."""

    def __init__(self, longest: int, width: int, sinusoidal: bool) -> None:
        super().__init__()
        if sinusoidal:
            angle = torch.arange(longest)[:, None] / 10 ** torch.linspace(0, 2, width)
            self.register_buffer("table", angle.sin(), persistent=False)
        else:
            self.table = nn.Parameter(torch.randn(longest, width))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.table[: h.shape[1]]


class Unused(nn.Module):
    """Parameters that evaluation does not reach."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.used, self.auxiliary = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, h: Tensor) -> Tensor:
        if self.training:
            return h + self.auxiliary(h).sum()
        return self.used(h)
