"""What users hand over as data, read in one way: batches of inputs, with targets where there are any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

#: Samples of a batch that a Dataset is read in.
BATCH = 256


class Batch(NamedTuple):
    """Some samples.

    Attributes:
        x: inputs [N, ...].
        y: targets [N, ...], whole numbers as int64; or None.
    """

    x: Tensor
    y: Tensor | None


class Reader:
    """Yields batches, as often as it is iterated over.

    Args:
        source: inputs, ``(x, y)`` (tensors, arrays or lists), a Dataset or a DataLoader.
        name: of the argument, for errors.
        pairs: whether targets are needed.

    Attributes:
        loader: what is iterated over; None for samples that are in memory, which are one batch.

    Raises:
        TypeError: it is none of these.
    """

    def __init__(self, source: Any, name: str, *, pairs: bool = False) -> None:
        self.name, self._pairs, self._held = name, pairs, None
        self.loader: DataLoader[Any] | None = None
        alone = isinstance(source, (Tensor, np.ndarray)) and not pairs
        if isinstance(source, DataLoader):
            self.loader = source
        elif isinstance(source, Dataset):
            self.loader = DataLoader(source, batch_size=BATCH)
        elif alone or isinstance(source, (tuple, list)):
            self._held = self._batch((source,) if alone else source)
        else:
            accepted = "(x, y), a Dataset of pairs" if pairs else "inputs, (x, y), a Dataset"
            raise TypeError(f"{name} is a {type(source).__name__}; pass {accepted} or a DataLoader")

    def __iter__(self) -> Iterator[Batch]:
        """Batches in order.

        Raises:
            TypeError, ValueError: one holds no tensors or arrays of numbers, or its inputs and targets differ
                in number.
        """
        if self._held is not None:
            yield self._held
        for batch in () if self.loader is None else self.loader:
            yield self._batch(batch)

    def _batch(self, batch: Any) -> Batch:
        """One batch as tensors, class numbers as int64.

        Raises:
            TypeError, ValueError: as iterating does.
        """
        parts = batch if isinstance(batch, (tuple, list)) else (batch,)
        if len(parts) != 2 and (self._pairs or len(parts) != 1):
            what = f"{len(parts)} items" if isinstance(batch, (tuple, list)) else type(batch).__name__
            raise TypeError(f"{self.name} must come as pairs (x, y), not as {what}")
        x, y = (*(as_tensor(name, value) for name, value in zip("xy", parts, strict=False)), None)[:2]
        assert x is not None
        for name, value in (("x", x), ("y", y)):
            if value is not None and value.ndim == 0:
                raise ValueError(f"{name} is a single number; the first dimension must count samples")
        if y is not None and len(x) != len(y):
            raise ValueError(f"x has {len(x)} samples but y has {len(y)}")
        return Batch(x, y if y is None or y.is_floating_point() else y.long())


def in_batches(source: Any, name: str = "data") -> tuple[Batch, ...]:
    """All of the data on the CPU, in batches of at most :data:`BATCH` or those of a DataLoader.

    Raises:
        TypeError, ValueError: they cannot be read (:class:`Reader`), there are none, or inputs are NaN or
            infinite.
    """
    reader = Reader(source, name)
    batches = []
    for x, y in reader:
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise ValueError(f"{name} has inputs that are NaN or infinite")
        size = BATCH if reader.loader is None else max(1, len(x))
        parts = x.cpu().split(size)
        targets = [None] * len(parts) if y is None else y.cpu().split(size)
        batches += [Batch(part, target) for part, target in zip(parts, targets, strict=True)]
    if not batches or not len(batches[0].x):
        raise ValueError(f"{name} is empty; at least one sample is needed")
    return tuple(batches)


def calibration_batches(source: Any) -> tuple[Tensor, ...]:
    """Inputs that running statistics are recomputed on: a DataLoader's batches, or all as one batch.

    Raises:
        TypeError, ValueError: they cannot be read, or there are none.
    """
    batches = [batch.x for batch in Reader(source, "calibration")]
    if batches and not isinstance(source, DataLoader):
        batches = [torch.cat(batches)] if len(batches) > 1 else batches
    if not batches or any(len(batch) == 0 for batch in batches):
        raise ValueError("calibration is empty; pass some hundred samples")
    return tuple(batches)


def as_tensor(name: str, value: Any) -> Tensor:
    """A tensor, array, or list of numbers as a tensor.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (np.ndarray, list, tuple)):
        try:
            array = np.asarray(value)
            if array.dtype.kind in "biuf":
                listed = isinstance(value, (list, tuple)) and array.dtype.kind == "f"
                return torch.from_numpy(np.ascontiguousarray(array.astype(np.float32) if listed else array))
        except (ValueError, TypeError):
            pass
        if isinstance(value, (list, tuple)) and value and all(isinstance(one, Tensor) for one in value):
            try:
                return torch.stack(list(value))
            except RuntimeError as error:
                raise TypeError(f"{name} is a list of tensors of different shapes: {error}") from error
    raise TypeError(f"{name} is a {type(value).__name__}, not a tensor or array of numbers")
