"""Families of networks that were trained alike from different seeds, and real data to evaluate them on."""

from __future__ import annotations

import io
import pickle
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from fastcomb.demo import digits, train_mlp
from fastcomb.models import ResNet20, Tiny10

Samples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Family:
    """Networks of one architecture.

    Attributes:
        name: for tables.
        networks: trained from different seeds.
        test: samples (x, y) that nothing was fitted on.
        held_out: other such samples, for softmax temperatures.
        inputs: training inputs, for matching by activations and for running statistics.
        layers: submodules whose representations are compared.
    """

    name: str
    networks: list[nn.Module] = field(repr=False)
    test: Samples = field(repr=False)
    held_out: Samples = field(repr=False)
    inputs: Tensor = field(repr=False)
    layers: tuple[str, ...]

    @property
    def statistics(self) -> dict[str, Any]:
        """How ``evaluate`` treats running statistics, where there are any."""
        normed = any(isinstance(module, nn.BatchNorm2d) for module in self.networks[0].modules())
        return {"batch_norm": "recompute", "calibration": self.inputs} if normed else {}


def mlps(width: int, count: int) -> Family:
    """MLPs 784-w-w-10, trained here on 4,000 digits."""
    (x, y), (others, labels) = digits(4000)
    return Family(
        name=f"MLP w={width}",
        networks=[train_mlp((784, width, width, 10), x, y, seed) for seed in range(count)],
        test=(others[300:], labels[300:]),
        held_out=(others[:300], labels[:300]),
        inputs=x[:1000],
        layers=("2", "4"),
    )


def cifar_networks(name: str, folder: Path, images: dict[str, Samples]) -> Family:
    """The networks of ``folder``: Tiny10 or ResNet20, one safetensors file per seed."""
    make, layers = {
        "Tiny10": (Tiny10, ("bn2", "bn5", "bn8")),
        "ResNet20": (ResNet20, ("layer1", "layer2", "layer3")),
    }[name]
    networks: list[nn.Module] = []
    for file in sorted(folder.glob("*.safetensors")):
        model = make().eval()
        model.load_state_dict(load_file(file))
        networks.append(model)
    return Family(name, networks, images["test"], images["held out"], images["train"][0], layers)


def cifar_images(folder: Path, test: int, train: int = 500) -> dict[str, Samples]:
    """Equally many images of each class from ``folder``: test, 300 held-out ones, and ``train`` of training.

    Reads ``cifar10-jpeg.tar.xz`` (``test/<class>/<n>.jpg``, ``train/...``), or the folder that
    ``torchvision.datasets.CIFAR10(folder, download=True)`` makes.

    Raises:
        FileNotFoundError: neither is there.
    """
    counts = {"test": test + 300, "train": train}
    if (folder / "cifar10-jpeg.tar.xz").is_file():
        splits = _from_archive(folder / "cifar10-jpeg.tar.xz", counts)
    elif (folder / "cifar-10-batches-py").is_dir():
        splits = _from_batches(folder / "cifar-10-batches-py", counts)
    else:
        raise FileNotFoundError(
            f"no CIFAR-10 in {folder}: neither cifar10-jpeg.tar.xz nor cifar-10-batches-py; "
            f"torchvision.datasets.CIFAR10({str(folder)!r}, download=True) fetches the latter"
        )
    mean, spread = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    )
    parts = {}
    for split, (images, labels) in splits.items():
        x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / spread
        parts[split] = (x, torch.from_numpy(labels))
    x, y = parts["test"]
    # images alternate between classes, so both parts are balanced
    return {"train": parts["train"], "held out": (x[:300], y[:300]), "test": (x[300:], y[300:])}


Pixels = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _from_archive(path: Path, counts: dict[str, int]) -> dict[str, Pixels]:
    from PIL import Image

    files: dict[str, dict[str, list[bytes]]] = {split: {} for split in counts}
    with tarfile.open(path) as archive:
        for member in archive:
            split, label = member.name.split("/")[:2]
            taken = files[split].setdefault(label, [])
            content = archive.extractfile(member)
            if content is not None and len(taken) < -(-counts[split] // 10):
                taken.append(content.read())
    return {
        split: _alternating(
            [
                [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in classes[label]]
                for label in sorted(classes)
            ],
            counts[split],
        )
        for split, classes in files.items()
    }


def _from_batches(path: Path, counts: dict[str, int]) -> dict[str, Pixels]:
    splits = {}
    for split, file in (("test", "test_batch"), ("train", "data_batch_1")):
        batch = pickle.loads((path / file).read_bytes(), encoding="bytes")
        images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.array(batch[b"labels"])
        each = -(-counts[split] // 10)
        splits[split] = _alternating([list(images[labels == c][:each]) for c in range(10)], counts[split])
    return splits


def _alternating(classes: list[list[NDArray[np.uint8]]], count: int) -> Pixels:
    """Images of all classes in turn."""
    pairs = [(image, label) for images in zip(*classes, strict=True) for label, image in enumerate(images)]
    return np.stack([i for i, _ in pairs[:count]]), np.array([label for _, label in pairs[:count]], np.int64)
