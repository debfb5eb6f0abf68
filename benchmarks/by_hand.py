"""Networks of :mod:`benchmarks.zoo` written by hand, as people write them; odd sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


@dataclass(frozen=True)
class ByHand:
    """A network, what it is called with, and how it is judged; as in :class:`benchmarks.zoo.Architecture`."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    loss: str = "cross_entropy"
    output: str | None = None


def normal(*shape: int) -> Callable[[int], Tensor]:
    """Inputs [N, *shape]."""
    return lambda n: torch.randn(n, *shape)


def tokens(length: int = 9, vocabulary: int = 31) -> Callable[[int], Tensor]:
    """Token numbers [N, length]."""
    return lambda n: torch.randint(1, vocabulary, (n, length))


class Residual(nn.Module):
    """Blocks whose results are added to what they take."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class UNet(nn.Module):
    """Two levels down and up, with transposed convolutions or upsampling."""

    def __init__(self, mode: str | None) -> None:
        super().__init__()
        self.mode = mode
        self.down = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 7), (7, 13)))
        self.middle = nn.Conv2d(13, 17, 3, padding=1)
        if mode is None:
            self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in ((17, 13), (13, 7)))
        else:
            self.up = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in ((17, 13), (13, 7)))
        self.merge = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in ((26, 13), (14, 7)))
        self.head = nn.Conv2d(7, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for conv in self.down:
            x = F.relu(conv(x))
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = F.relu(self.middle(x))
        for up, merge in zip(self.up, self.merge, strict=True):
            if self.mode is not None:
                straight = None if self.mode == "nearest" else False
                x = F.interpolate(x, scale_factor=2, mode=self.mode, align_corners=straight)
            x = F.relu(merge(torch.cat([up(x), skips.pop()], dim=1)))
        out: Tensor = self.head(x)
        return out


class Recurrent(nn.Module):
    """The last, or the mean, of a recurrent network's states, classified."""

    def __init__(
        self, kind: Callable[..., nn.RNNBase], *, both: bool = False, layers: int = 1, mean: bool = False
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 11)
        self.rnn = kind(11, 13, num_layers=layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(26 if both else 13, 5)
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(self.embed(x))
        out: Tensor = self.head(states.mean(1) if self.mean else states[:, -1])
        return out


class Cell(nn.Module):
    """A GRU cell called in a loop, from zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(7, 13), nn.Linear(13, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 13)
        for step in range(x.shape[1]):
            h = self.cell(x[:, step], h)
        out: Tensor = self.head(h)
        return out


class Attention(nn.Module):
    """Self-attention written out: softmax of products, causal or with padding, rotary or not."""

    def __init__(
        self, width: int = 24, heads: int = 3, groups: int = 3, causal: bool = False, rotary: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.groups, self.causal, self.rotary = heads, groups, causal, rotary
        self.size = width // heads
        self.q = nn.Linear(width, width)
        self.k, self.v = (nn.Linear(width, groups * self.size) for _ in range(2))
        self.out = nn.Linear(width, width)

    def turned(self, x: Tensor) -> Tensor:
        half = self.size // 2
        angles = torch.arange(x.shape[-2])[:, None] / 100 ** (torch.arange(half) / half)
        cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        n, length, width = x.shape
        q = self.q(x).view(n, length, self.heads, self.size).transpose(1, 2)
        k, v = (m(x).view(n, length, self.groups, self.size).transpose(1, 2) for m in (self.k, self.v))
        if self.rotary:
            q, k = self.turned(q), self.turned(k)
        if self.groups != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.groups, dim=1) for t in (k, v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.size)
        if self.causal:
            later = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None] == 0, -1e9)
        mixed = scores.softmax(-1) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return out


class Reader(nn.Module):
    """Embedded tokens, attention with residual connections, and the mean over tokens."""

    def __init__(self, *, masked: bool = False, **settings: Any) -> None:
        super().__init__()
        self.masked = masked
        self.embed, self.places = nn.Embedding(31, 24), nn.Parameter(torch.randn(1, 9, 24) / 5)
        self.norms = nn.ModuleList(nn.LayerNorm(24) for _ in range(2))
        self.attend = Attention(**settings)
        self.mlp = nn.Sequential(nn.Linear(24, 37), nn.GELU(), nn.Linear(37, 24))
        self.head = nn.Linear(24, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids) + self.places
        x = x + self.attend(self.norms[0](x), attention_mask)
        x = x + self.mlp(self.norms[1](x))
        if attention_mask is None:
            return torch.as_tensor(self.head(x.mean(1)))
        weights = attention_mask[..., None].to(x.dtype)
        return torch.as_tensor(self.head((x * weights).sum(1) / weights.sum(1)))


def masked(n: int) -> dict[str, Tensor]:
    """Tokens with a mask of padding."""
    lengths = torch.randint(4, 10, (n, 1))
    return {"input_ids": tokens()(n), "attention_mask": (torch.arange(9) < lengths).long()}


class TorchEncoder(nn.Module):
    """torch's own transformer layers, with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 24)
        layer = nn.TransformerEncoderLayer(24, 3, 37, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(x)).amax(1))
        return out


class LoRA(nn.Module):
    """A linear layer with a correction of low rank, whose products meet in the weight or after it."""

    def __init__(self, features: int, out: int, rank: int = 3, merged: bool = False) -> None:
        super().__init__()
        self.base, self.merged = nn.Linear(features, out), merged
        self.down = nn.Parameter(torch.randn(rank, features) / 4)
        self.up = nn.Parameter(torch.randn(out, rank) / 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return F.linear(x, self.base.weight + 0.5 * self.up @ self.down, self.base.bias)
        out: Tensor = self.base(x) + 0.5 * (x @ self.down.T @ self.up.T)
        return out


class Tied(nn.Module):
    """A language model whose embedding is its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = (
            nn.Embedding(31, 13),
            nn.Linear(13, 13),
            nn.Linear(13, 31, bias=False),
        )
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.mix(self.embed(x))))
        return out


class Autoencoder(nn.Module):
    """A decoder with the transposed weights of its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.bias = nn.Linear(15, 7), nn.Parameter(torch.zeros(15))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.sigmoid(self.encode(x)), self.encode.weight.T, self.bias)


class Experts(nn.Module):
    """A mixture of experts: each token goes to the best two of four."""

    def __init__(self) -> None:
        super().__init__()
        self.route = nn.Linear(11, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(11, 17), nn.SiLU(), nn.Linear(17, 11)) for _ in range(4)
        )
        self.head = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        best, chosen = self.route(x).softmax(-1).topk(2, dim=-1)
        best = best / best.sum(-1, keepdim=True)
        weights = torch.zeros_like(self.route(x)).scatter(-1, chosen, best)
        mixed = sum(weights[..., i, None] * expert(x) for i, expert in enumerate(self.experts))
        out: Tensor = self.head((x + mixed).mean(1))
        return out


class Bag(nn.Module):
    """Bags of words."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(31, 13, mode=mode)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(13, 5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.bag(x))
        return out


class RMS(nn.Module):
    """Root-mean-square norm, written out, and a gated layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(13) + 0.5)
        self.first, self.gate, self.value = nn.Linear(7, 13), nn.Linear(13, 17), nn.Linear(13, 17)
        self.head = nn.Linear(17, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        out: Tensor = self.head(F.silu(self.gate(h)) * self.value(h))
        return out


class Two(nn.Module):
    """An image and a vector, that meet in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.vector = nn.Sequential(nn.Linear(6, 11), nn.Tanh())
        self.meet, self.head = nn.Bilinear(7, 11, 13), nn.Linear(13, 5)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.meet(self.image(image), self.vector(vector))))
        return out


class Heads(nn.Module):
    """Results by name, with None among them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 13), nn.Mish())
        self.head, self.other = nn.Linear(13, 5), nn.Linear(13, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        h = self.body(x)
        return {"loss": None, "logits": self.head(h), "scale": self.other(h)}


class Siamese(nn.Module):
    """Two sentences through the same layers, compared by their product, difference and cosine."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 13), nn.ELU(), nn.Linear(13, 11))
        self.head = nn.Linear(23, 5)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        a, b = self.body(one), self.body(other)
        cosine = F.cosine_similarity(a, b)[:, None]
        out: Tensor = self.head(torch.cat([a * b, (a - b).abs(), cosine], dim=1))
        return out


class Gated(nn.Module):
    """WaveNet-like: dilated convolutions over time, padded on the left, gated."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv1d(4, 11, 1)
        self.filters = nn.ModuleList(nn.Conv1d(11, 11, 2, dilation=d) for d in (1, 2, 4))
        self.gates = nn.ModuleList(nn.Conv1d(11, 11, 2, dilation=d) for d in (1, 2, 4))
        self.head = nn.Conv1d(11, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for number, (f, g) in enumerate(zip(self.filters, self.gates, strict=True)):
            past = F.pad(x, (2**number, 0))
            x = x + torch.tanh(f(past)) * torch.sigmoid(g(past))
        out: Tensor = self.head(x)[..., -1]
        return out


class Mixer(nn.Module):
    """Layers over tokens and over channels in turn, with einsum between."""

    def __init__(self) -> None:
        super().__init__()
        self.over_tokens = nn.Parameter(torch.randn(9, 9) / 3)
        self.over_channels, self.head = nn.Linear(7, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.gelu(torch.einsum("st,ntc->nsc", self.over_tokens, x))
        x = x + F.gelu(self.over_channels(x))
        out: Tensor = self.head(x.max(dim=1).values)
        return out


class Generator(nn.Module):
    """DCGAN's: transposed convolutions from a point to an image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(9, 12, 4),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.ConvTranspose2d(12, 6, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(6, 3, 3, stride=2, padding=1, output_padding=1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x[..., None, None])
        return out


class Periodic(nn.Module):
    """Coordinates as sines (SIREN), with Fourier features that are no parameters."""

    features: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("features", torch.linspace(-2, 2, 16).view(2, 8))
        self.first, self.second, self.head = nn.Linear(16, 13), nn.Linear(13, 13), nn.Linear(13, 3)

    def forward(self, x: Tensor) -> Tensor:
        turned = x @ self.features
        x = torch.cat([turned.sin(), turned.cos()], dim=-1)
        out: Tensor = self.head(torch.sin(3 * self.second(torch.sin(3 * self.first(x)))))
        return out


class Sorted(nn.Module):
    """Pooling over a set by sorting, which no kernel has."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.head = nn.Linear(3, 7), nn.Linear(7 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.each(x)).sort(dim=1).values.flatten(1))
        return out


def mlp(activation: nn.Module, *between: nn.Module) -> Callable[[], nn.Module]:
    """Three layers 7, 23, 13, 5."""
    return lambda: nn.Sequential(
        nn.Linear(7, 23), *between, activation, nn.Linear(23, 13), activation, nn.Linear(13, 5)
    )


def _convolutional_1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 11, 5, stride=2),
        nn.BatchNorm1d(11),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(11, 13, 3, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(13, 5),
    )


def _normed(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3),
        norm(12),
        nn.SiLU(),
        nn.Conv2d(12, 8, 3, stride=2),
        norm(8),
        nn.Hardswish(),
        nn.Flatten(),
        nn.LazyLinear(5),
    )


def _lazy(make: Callable[[], nn.Module], *shape: int) -> Callable[[], nn.Module]:
    """A network with its lazy layers made."""

    def made() -> nn.Module:
        model = make()
        model(torch.zeros(2, *shape))
        return model

    return made


def _convolutional_3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 7, 3),
        nn.BatchNorm3d(7),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(7, 9, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(9, 5),
    )


def _super_resolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 9, 3, padding=1, padding_mode="reflect"),
        nn.PReLU(9),
        nn.Conv2d(9, 12, 3, padding=1),
        nn.PixelShuffle(2),
    )


def _weight_normed() -> nn.Module:
    first, second = nn.Conv2d(3, 7, 3), nn.Linear(7, 5)
    return nn.Sequential(
        parametrizations.weight_norm(first),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        parametrizations.weight_norm(second),
    )


def _spectral_normed() -> nn.Module:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(7, 13)),
        nn.LeakyReLU(),
        parametrizations.spectral_norm(nn.Linear(13, 5)),
    )


def _lora(merged: bool) -> nn.Module:
    return nn.Sequential(LoRA(7, 13, merged=merged), nn.ReLU(), LoRA(13, 5, merged=merged))


def _depthwise() -> nn.Module:
    def block() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(12, 12, 5, padding=2, groups=12),
            nn.GroupNorm(3, 12),
            nn.Conv2d(12, 24, 1),
            nn.GELU(),
            nn.Conv2d(24, 12, 1),
        )

    return nn.Sequential(
        nn.Conv2d(3, 12, 4, stride=4),
        Residual(block(), block()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


#: All of them by name.
NETWORKS: dict[str, ByHand] = {
    "MLP": ByHand(mlp(nn.ReLU()), normal(7)),
    "MLP, batch norm, SELU": ByHand(mlp(nn.SELU(), nn.BatchNorm1d(23)), normal(7)),
    "MLP, layer norm, Softplus": ByHand(mlp(nn.Softplus(), nn.LayerNorm(23)), normal(7)),
    "MLP, dropout, Hardtanh": ByHand(mlp(nn.Hardtanh(), nn.Dropout(0.3)), normal(7)),
    "residual MLP": ByHand(
        lambda: nn.Sequential(
            nn.Linear(7, 13),
            Residual(*(nn.Sequential(nn.Linear(13, 13), nn.CELU()) for _ in range(3))),
            nn.Linear(13, 5),
        ),
        normal(7),
    ),
    "conv1d net": ByHand(_convolutional_1d, normal(4, 41)),
    "conv1d, dilated and gated": ByHand(Gated, normal(4, 21)),
    "conv3d net": ByHand(_convolutional_3d, normal(2, 8, 9, 10)),
    "depthwise residual net": ByHand(_depthwise, normal(3, 24, 24)),
    "GroupNorm net": ByHand(
        _lazy(lambda: _normed(lambda c: nn.GroupNorm(4, c)), 3, 11, 13), normal(3, 11, 13)
    ),
    "InstanceNorm net": ByHand(
        _lazy(lambda: _normed(lambda c: nn.InstanceNorm2d(c, affine=True)), 3, 11, 13), normal(3, 11, 13)
    ),
    "RMS norm by hand, gated": ByHand(RMS, normal(7)),
    "nn.RMSNorm": ByHand(mlp(nn.Tanh(), nn.RMSNorm(23)), normal(7)),
    "U-Net, transposed": ByHand(lambda: UNet(None), normal(3, 16, 20), loss="mse"),
    "U-Net, bilinear": ByHand(lambda: UNet("bilinear"), normal(3, 16, 20), loss="mse"),
    "U-Net, nearest": ByHand(lambda: UNet("nearest"), normal(3, 16, 20), loss="mse"),
    "generator, transposed": ByHand(Generator, normal(9), loss="mse"),
    "super-resolution": ByHand(_super_resolution, normal(3, 7, 9), loss="mse"),
    "LSTM": ByHand(lambda: Recurrent(nn.LSTM), tokens()),
    "LSTM, two directions, two layers": ByHand(
        lambda: Recurrent(nn.LSTM, both=True, layers=2, mean=True), tokens()
    ),
    "GRU": ByHand(lambda: Recurrent(nn.GRU), tokens()),
    "GRU, two directions": ByHand(lambda: Recurrent(nn.GRU, both=True, mean=True), tokens()),
    "RNN": ByHand(lambda: Recurrent(nn.RNN), tokens()),
    "RNN, two directions": ByHand(lambda: Recurrent(nn.RNN, both=True), tokens()),
    "GRU cell in a loop": ByHand(Cell, normal(6, 7)),
    "attention": ByHand(Reader, tokens()),
    "attention, causal": ByHand(lambda: Reader(causal=True), tokens()),
    "attention, rotary, grouped": ByHand(lambda: Reader(groups=1, causal=True, rotary=True), tokens()),
    "attention, padding mask": ByHand(lambda: Reader(masked=True), masked),
    "torch's encoder": ByHand(TorchEncoder, tokens()),
    "weight_norm": ByHand(_weight_normed, normal(3, 9, 9)),
    "spectral_norm": ByHand(_spectral_normed, normal(7)),
    "LoRA beside": ByHand(lambda: _lora(False), normal(7)),
    "LoRA in the weight": ByHand(lambda: _lora(True), normal(7)),
    "tied language model": ByHand(Tied, tokens(), loss="token_cross_entropy"),
    "tied autoencoder": ByHand(Autoencoder, normal(15), loss="mse"),
    "experts, top 2 of 4": ByHand(Experts, normal(6, 11)),
    "EmbeddingBag, mean": ByHand(lambda: Bag("mean"), tokens()),
    "EmbeddingBag, max": ByHand(lambda: Bag("max"), tokens()),
    "two inputs, bilinear": ByHand(Two, lambda n: (torch.randn(n, 3, 8, 8), torch.randn(n, 6))),
    "siamese": ByHand(Siamese, lambda n: {"one": torch.randn(n, 7), "other": torch.randn(n, 7)}),
    "results by name": ByHand(Heads, normal(7)),
    "mixer with einsum": ByHand(Mixer, normal(9, 7)),
    "SIREN with Fourier features": ByHand(Periodic, normal(2), loss="mse"),
    "a set, sorted": ByHand(Sorted, normal(6, 3)),
}
