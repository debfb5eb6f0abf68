"""The data that matching methods compare networks on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_BATCH = 256


def in_batches(data: Any) -> tuple[tuple[Tensor, Tensor | None], ...]:
    """Data in batches, held in memory."""
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if isinstance(data, Tensor):
        data = (data,)
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=_BATCH)
    if isinstance(data, (tuple, list)):
        parts = [torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in data]
        if not 1 <= len(parts) <= 2 or not all(isinstance(part, Tensor) for part in parts):
            raise TypeError("data must be inputs, (x, y), a Dataset or a DataLoader")
        if len({len(part) for part in parts}) > 1:
            raise ValueError(f"data has {len(parts[0])} inputs and {len(parts[1])} targets")
        found: list[Any] = list(zip(*(part.split(_BATCH) for part in parts), strict=True))
    elif isinstance(data, DataLoader):
        found = list(data)
    else:
        raise TypeError(f"data is a {type(data).__name__}; pass inputs, (x, y), a Dataset or a DataLoader")
    batches = []
    for batch in found:
        x, y = (
            (batch[0], batch[1] if len(batch) > 1 else None)
            if isinstance(batch, (tuple, list))
            else (batch, None)
        )
        if not isinstance(x, Tensor):
            raise TypeError(f"a batch of data holds a {type(x).__name__}, not a tensor of inputs")
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise ValueError("data has inputs that are NaN or infinite")
        batches.append((x.cpu(), None if y is None else y.cpu()))
    if not batches or not len(batches[0][0]):
        raise ValueError("data is empty; at least one sample is needed")
    return tuple(batches)
