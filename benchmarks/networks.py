"""Networks beyond fastcomb.models: transformers as Hugging Face writes them, recurrent nets, a U-Net.

Each takes one tensor and returns logits [N, classes], so that every contender can run it.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

#: Of the transformers: layers, width, heads, tokens and words.
LAYERS, WIDTH, HEADS, TOKENS, WORDS = 4, 256, 4, 64, 1000
CLASSES = 10


@functools.cache
def declare_operators() -> torch.library.Library | None:
    """Declare torchvision's compiled operators where its package, made for another torch, lacks them.

    transformers imports it where it is installed.
    """
    if not importlib.util.find_spec("torchvision"):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
        importlib.import_module("torchvision")
    return library


class Logits(nn.Module):
    """A Hugging Face model that is given one tensor and gives its logits."""

    def __init__(self, model: nn.Module, argument: str) -> None:
        super().__init__()
        self.model, self.argument = model, argument

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(**{self.argument: x}).logits
        return logits


def hugging_face(family: str) -> Callable[[], nn.Module]:
    """A small classifier of a family: "bert", "gpt2", "llama" or "vit"."""

    def make() -> nn.Module:
        declare_operators()
        import transformers

        config: Any
        sizes: dict[str, Any] = {
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "intermediate_size": 4 * WIDTH,
            "num_labels": CLASSES,
        }
        text: dict[str, Any] = {"vocab_size": WORDS, "max_position_embeddings": TOKENS, "pad_token_id": 0}
        if family == "vit":
            config = transformers.ViTConfig(**sizes, image_size=32, patch_size=4)
            return Logits(transformers.ViTForImageClassification(config), "pixel_values")
        if family == "gpt2":
            config = transformers.GPT2Config(
                n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=TOKENS, vocab_size=WORDS,
                num_labels=CLASSES, pad_token_id=0, use_cache=False,
            )  # fmt: skip
        elif family == "llama":
            text |= {"num_key_value_heads": HEADS // 2, "use_cache": False}
            config = transformers.LlamaConfig(**sizes, **text)
        else:
            config = transformers.BertConfig(**sizes, **text)
        return Logits(transformers.AutoModelForSequenceClassification.from_config(config), "input_ids")

    return make


class Recurrent(nn.Module):
    """An LSTM over 32 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(64, 128, batch_first=True), nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(x)[0][:, -1])
        return logits


def conv1d() -> nn.Module:
    """Four convolutions over sequences."""
    layers: list[nn.Module] = []
    for before, after, stride in ((16, 64, 1), (64, 64, 2), (64, 128, 1), (128, 128, 2)):
        layers += [nn.Conv1d(before, after, 5, stride=stride, padding=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, CLASSES))


class UNet(nn.Module):
    """Two levels down, two up by transposed convolutions, classes averaged over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(_block(i, o) for i, o in ((3, 16), (16, 32), (32, 64)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in ((64, 32), (32, 16)))
        self.join = nn.ModuleList(_block(i, o) for i, o in ((64, 32), (32, 16)))
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for block in self.down:
            x = block(self.pool(skips[-1]) if skips else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        logits: Tensor = self.head(x).mean((2, 3))
        return logits


def _block(inputs: int, outputs: int) -> nn.Module:
    convolutions = (nn.Conv2d(i, outputs, 3, padding=1) for i in (inputs, outputs))
    return nn.Sequential(*(layer for one in convolutions for layer in (one, nn.ReLU())))
