"""Small networks that combination experiments use again and again.

:class:`Tiny10` and :class:`ResNet20` have the parameter names of the checkpoints published with
Csiszárik et al., "Similarity and Matching of Neural Network Representations" (NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Sequential):
    """Fully connected ReLU network; inputs are flattened: [N, ...] -> [N, widths[-1]].

    Args:
        widths: inputs, hidden layers, outputs, for example ``(784, 64, 64, 10)``.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])


class Tiny10(nn.Module):
    """Eight convolutions with BatchNorm, mean over space, linear: [N, 3, H, W] -> [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        channels = (3, 16, 16, 32, 32, 32, 64, 64)
        strides = (1, 1, 2, 1, 1, 2, 1)
        for i, stride in enumerate(strides, 1):
            self.add_module(f"conv{i}", nn.Conv2d(channels[i - 1], channels[i], 3, stride))
            self.add_module(f"bn{i}", nn.BatchNorm2d(channels[i]))
        self.conv8 = nn.Conv2d(64, 64, 1)
        self.bn8 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of images x [N, 3, H, W], large enough for seven unpadded convolutions."""
        for i in range(1, 9):
            x = F.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class ResNet20(nn.Module):
    """The CIFAR ResNet-20 of He et al. (CVPR 2016), 1×1 convolutions as shortcuts: [N, 3, H, W] -> [N, 10].

    Args:
        width: factor on the 16, 32 and 64 channels.
    """

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        channels = [16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        inputs = channels[0]
        for number, outputs in enumerate(channels, 1):
            blocks = [_BasicBlock(inputs, outputs, 1 if number == 1 else 2)]
            blocks += [_BasicBlock(outputs, outputs, 1) for _ in range(2)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            inputs = outputs
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of images x [N, 3, H, W]."""
        x = F.relu(self.bn1(self.conv1(x)))
        for number in (1, 2, 3):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm beside a shortcut, which is a convolution where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class VGG(nn.Module):
    """A small VGG: 3×3 convolutions and max pooling, then two linear layers: [N, 3, 32, 32] -> [N, 10].

    Args:
        plan: output channels of each convolution, with "M" for a 2×2 max pooling.
        batch_norm: BatchNorm after each convolution.
    """

    def __init__(
        self,
        plan: Sequence[int | str] = (16, "M", 32, "M", 64, 64, "M"),
        batch_norm: bool = False,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, side = 3, 32
        for entry in plan:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                side //= 2
                continue
            layers.append(nn.Conv2d(channels, entry, 3, padding=1))
            layers += [nn.BatchNorm2d(entry)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = entry
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels * side * side, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of images x [N, 3, 32, 32]."""
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


class ViT(nn.Module):
    """A small vision transformer with learned positions and mean pooling: [N, 3, side, side] -> [N, 10]."""

    def __init__(self, side: int = 32, patch: int = 8, dim: int = 32, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, (side // patch) ** 2, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of images x [N, 3, side, side]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.encoder(tokens)).mean(1))  # type: ignore[no-any-return]
