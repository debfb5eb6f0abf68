"""Evaluation data: held in memory where it fits a budget, else streamed on every pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from fastcomb.digest import Digest

#: Bytes of a data set that are held in memory before it is streamed instead.
DATA_BUDGET = 2 << 30

_LOADER_BATCH = 256


class Data:
    """Samples x [N, ...] with targets y [N, ...].

    Args:
        source: ``(x, y)`` (tensors or arrays), a Dataset of pairs, or a DataLoader of batches of pairs.
        budget: bytes up to which what a Dataset or DataLoader yields is held; above, it is iterated once
            per pass, so it must yield the same samples in the same order every time.

    Attributes:
        samples: N.
        held: whether the samples are in memory.
        lowest, highest: extremes of integer targets, else None.
        shuffled: whether they come from a DataLoader that draws its order.

    Raises:
        TypeError, ValueError: not pairs of tensors, empty, or of different lengths.
    """

    def __init__(self, source: Any, budget: int = DATA_BUDGET) -> None:
        self._loader: DataLoader[Any]
        self._held: tuple[Tensor, Tensor] | None = None
        self.samples = 0
        self.shuffled = isinstance(source, DataLoader) and isinstance(source.sampler, RandomSampler)
        self.lowest: int | None = None
        self.highest: int | None = None
        if isinstance(source, (tuple, list)):
            self._held = _pair(source)
            self._count(*self._held)
        elif isinstance(source, (DataLoader, Dataset)):
            self._loader = (
                source if isinstance(source, DataLoader) else DataLoader(source, batch_size=_LOADER_BATCH)
            )
            self._hold_or_stream(budget)
        else:
            raise TypeError(
                f"data is a {type(source).__name__}; pass (x, y), a Dataset of pairs or a DataLoader"
            )
        if not self.samples:
            raise ValueError("data is empty; at least one sample is needed")

    @property
    def held(self) -> bool:
        return self._held is not None

    def first(self, count: int = 2) -> tuple[Tensor, Tensor]:
        """The first few samples."""
        x, y = self._held if self._held is not None else _pair(next(iter(self._loader)))
        return x[:count], y[:count]

    def to(self, device: torch.device, dtype: torch.dtype) -> Data:
        """These data with held samples moved, inputs cast to the compute dtype."""
        moved = copy.copy(self)
        if self._held is not None:
            x, y = self._held
            moved._held = x.to(device, dtype if x.is_floating_point() else None), y.to(device)
        return moved

    def digest(self) -> str:
        """SHA-256 of all samples and targets, whatever the batches they come in."""
        inputs, targets = Digest(), Digest()
        for x, y in self.batches(self.samples):
            inputs.add(x)
            targets.add(y)
        return Digest().text(inputs.hex, targets.hex).hex

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass, in order: held samples in batches of ``size``, streamed ones of at most ``size``."""
        pairs = [self._held] if self._held is not None else map(_pair, self._loader)
        for x, y in pairs:
            yield from zip(x.split(size), y.split(size), strict=True)

    def _count(self, x: Tensor, y: Tensor) -> None:
        self.samples += len(x)
        if len(y) and not y.is_floating_point():
            lowest, highest = int(y.min()), int(y.max())
            self.lowest = lowest if self.lowest is None else min(lowest, self.lowest)
            self.highest = highest if self.highest is None else max(highest, self.highest)

    def _hold_or_stream(self, budget: int) -> None:
        pairs: list[tuple[Tensor, Tensor]] | None = []
        taken = 0
        for batch in self._loader:
            x, y = _pair(batch)
            self._count(x, y)
            taken += x.nbytes + y.nbytes
            if taken > budget:
                pairs = None
            if pairs is not None:
                pairs.append((x, y))
        if pairs is None:
            if self.shuffled:
                raise ValueError(
                    f"the data exceed data_budget={budget} bytes, so they are streamed on every pass, and a "
                    "shuffled DataLoader yields another order each time; pass shuffle=False or raise "
                    "data_budget="
                )
        elif pairs:
            xs, ys = zip(*pairs, strict=True)
            self._held = torch.cat(xs), torch.cat(ys)


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        what = f"{len(batch)} items" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"data must come as pairs (x, y), not as {what}")
    x, y = (torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in batch)
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}, not a tensor or array")
        if value.ndim == 0:
            raise ValueError(f"{name} is a single number; the first dimension must count samples")
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} samples but y has {len(y)}")
    if not y.is_floating_point():
        y = y.long()
    return x, y
