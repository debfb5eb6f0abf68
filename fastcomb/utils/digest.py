"""SHA-256 of tensors, so that results can say what they are of."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from fastcomb.utils.inputs import Inputs, Samples, leaves, structure


class Digest:
    """Grows by texts and tensors; tensors one after the other count as their concatenation."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._kind = ""

    def text(self, *texts: str) -> Digest:
        """Add texts, each after its length; returns itself."""
        for text in texts:
            self._hash.update(f"{len(text)}:{text}".encode())
        return self

    def add(self, tensor: Tensor) -> Digest:
        """Add the entries of a tensor [N, ...]; its dtype and trailing shape where they change."""
        kind = f"{tensor.dtype} {tuple(tensor.shape[1:])}"
        if kind != self._kind:
            self._kind = kind
            self.text(kind)
        if tensor.numel():
            values = tensor.detach().cpu().contiguous().flatten()
            self._hash.update(values.view(torch.uint8).numpy().data)
        return self

    @property
    def hex(self) -> str:
        """SHA-256 of all that was added, in 64 digits."""
        return self._hash.hexdigest()


def of_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors, whatever their order."""
    digest = Digest()
    for name in sorted(tensors):
        digest.text(name, str(tuple(tensors[name].shape))).add(tensors[name])
    return digest.hex


def of_samples(x: Samples) -> str:
    """SHA-256 of inputs, by their structure where they are not one tensor."""
    digest = Digest()
    if isinstance(x, Inputs):
        digest.text(structure(x[:0]))
    for tensor in leaves(x):
        digest.add(tensor)
    return digest.hex
