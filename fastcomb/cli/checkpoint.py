"""Checkpoints that ``fastcomb align`` writes, in the format that their names say."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from fastcomb.rebasin import Alignment
from fastcomb.utils.files import write_atomically


def write(alignment: Alignment, path: Path, *, like: Path) -> None:
    """Write the aligned network, whole or not at all; tensors keep the dtypes that network B's file has.

    Args:
        alignment: the alignment.
        path: ending in .safetensors, or in .pt or .pth for ``torch.save`` of a state dict with the versions
            of its modules, as ``module.state_dict()`` has them.
        like: network B's file, whose metadata a .safetensors file keeps.

    Raises:
        OSError: it cannot be written.
    """
    if path.suffix.lower() == ".safetensors":
        whole = {name: tensor.detach().clone().contiguous() for name, tensor in alignment.state_dict.items()}
        text = save(whole, _metadata(like))
        write_atomically(path, lambda beside: beside.write_bytes(text))
        return
    copies: dict[int, Tensor] = {}  # tied weights stay one tensor
    for tensor in alignment.state_dict.values():
        copies.setdefault(id(tensor), tensor.detach().clone())
    state = OrderedDict((name, copies[id(tensor)]) for name, tensor in alignment.state_dict.items())
    state._metadata = alignment.model.state_dict()._metadata  # type: ignore[attr-defined]
    write_atomically(path, lambda beside: torch.save(state, beside))


def _metadata(path: Path) -> dict[str, str]:
    """Metadata of a .safetensors file, and the entry that readers of such files look for."""
    about: dict[str, str] = {}
    if path.is_file() and path.suffix.lower() == ".safetensors":
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
    return {"format": "pt"} | about
