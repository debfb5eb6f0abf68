"""What users hand over as data, read in one way: batches of inputs, with targets where there are any.

A batch is ``(x, y)``, or a mapping in which one of :data:`LABELS` is y and all else are inputs by name, as
Hugging Face's data sets and collators yield them. Inputs are a tensor; a tuple or list, the network's
positional arguments; or a mapping, its keyword arguments; nested as the network likes. Every tensor has the
samples first. What is no tensor (None, numbers, text) is the same for all samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from fastcomb.utils.inputs import (
    CONSTANTS,
    Inputs,
    Samples,
    alike,
    joined,
    leaves,
    named,
    pieces,
    ready,
    structure,
)

#: Samples of a batch that a Dataset is read in.
BATCH = 256

#: Names of the targets in a mapping.
LABELS = ("labels", "label", "targets", "target", "y")


class Batch(NamedTuple):
    """Some samples.

    Attributes:
        x: inputs, every tensor [N, ...].
        y: targets [N, ...], whole numbers as int64; or None.
    """

    x: Samples
    y: Tensor | None


class Reader:
    """Yields batches, as often as it is iterated over.

    Args:
        source: inputs, ``(x, y)`` (tensors, arrays or lists, or structures of them), a mapping, a Dataset, a
            list of samples that are mappings, or a DataLoader.
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
        alone = isinstance(source, (Tensor, np.ndarray, Inputs)) and not pairs
        rows = isinstance(source, list) and len(source) > 0 and all(isinstance(o, Mapping) for o in source)
        if isinstance(source, DataLoader):
            self.loader = source
        elif isinstance(source, Dataset) or rows:
            self.loader = _loader(source)
        elif alone or isinstance(source, (tuple, list, Mapping)):
            self._held = self._batch((source,) if alone else source)
        elif _indexed(source):  # such as a data set of Hugging Face
            self.loader = _loader(source)
        else:
            accepted = (
                "(x, y), a dict with labels, a Dataset of such" if pairs else "inputs, (x, y), a Dataset"
            )
            raise TypeError(f"{name} is a {type(source).__name__}; pass {accepted} or a DataLoader")

    def __iter__(self) -> Iterator[Batch]:
        """Batches in order.

        Raises:
            TypeError, ValueError: one holds no tensors or arrays of numbers, its tensors differ in the number
                of samples, or it is built otherwise than the first one.
        """
        if self._held is not None:
            yield self._held
        first: Batch | None = None
        for number, batch in enumerate(() if self.loader is None else self._loaded(self.loader)):
            read = self._batch(batch)
            first = first or read
            self._check_alike(first, read, number)
            yield read

    def _loaded(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """What a loader yields; raises ValueError where it cannot make a batch of its samples."""
        batches = iter(loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "equal size" not in str(error):  # what torch says of samples of different shapes
                    raise
                raise ValueError(
                    f"samples of {self.name} have different shapes and make no batch ({error}); pad texts to "
                    "one length, the same in all batches"
                ) from error
            yield batch

    def _batch(self, batch: Any) -> Batch:
        """One batch as tensors, class numbers as int64.

        Raises:
            TypeError, ValueError: as iterating does.
        """
        given, targets = self._divided(batch)
        y = None if targets is None else as_tensor("y", targets)
        if y is not None and y.ndim == 0:
            raise ValueError("y is a single number; the first dimension must count samples")
        x = as_samples("x", given, None if y is None else len(y))
        count = len(leaves(x)[0])
        if y is not None and count != len(y):
            raise ValueError(f"x has {count} samples but y has {len(y)}")
        return Batch(x, y if y is None or y.is_floating_point() else y.long())

    def _divided(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and targets of a batch; None for targets that are not there."""
        if isinstance(batch, Mapping):
            found = [name for name in LABELS if name in batch]
            inputs = {name: value for name, value in batch.items() if name not in found}
            if len(found) > 1 or not inputs or (self._pairs and not found):
                raise TypeError(
                    f"{self.name} is {structure(batch)}; it must have inputs by name and exactly one of "
                    f"{', '.join(LABELS)}"
                )
            return inputs, batch[found[0]] if found else None
        parts = batch if isinstance(batch, (tuple, list)) else (batch,)
        if len(parts) != 2 and (self._pairs or len(parts) != 1):
            what = f"{len(parts)} items" if isinstance(batch, (tuple, list)) else type(batch).__name__
            several = "; several inputs are one x: ((x1, x2), y)" if len(parts) > 2 else ""
            raise TypeError(
                f"{self.name} must come as pairs (x, y), not as {what} ({structure(batch)}){several}"
            )
        return parts[0], parts[1] if len(parts) == 2 else None

    def _check_alike(self, first: Batch, batch: Batch, number: int) -> None:
        """Raise ValueError where a batch is built otherwise than the first."""
        pairs = [(first.x, batch.x)]
        if (first.y is None) == (batch.y is None):
            pairs += [] if first.y is None or batch.y is None else [(first.y, batch.y)]
            if all(alike(*pair) for pair in pairs):
                return
        one, other = (structure(b.x if b.y is None else (b.x, b.y)) for b in (first, batch))
        raise ValueError(
            f"batches of {self.name} are not built alike: the first is {one}, number {number} {other}; give "
            "all the same keys, dtypes and shapes but for the number of samples (texts: pad to one length)"
        )


def _indexed(source: Any) -> bool:
    """Whether something is a data set by what it can do."""
    plain = isinstance(source, (str, bytes, type, Tensor, np.ndarray))
    return not plain and hasattr(source, "__getitem__") and hasattr(source, "__len__")


def _loader(dataset: Any) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=BATCH, collate_fn=_collated)


def _collated(items: list[Any]) -> Any:
    """Samples as one batch: as torch collates them, with lists of numbers taken for arrays, and None kept."""
    return collate(
        [_arrays(item) for item in items], collate_fn_map=default_collate_fn_map | {type(None): _none}
    )


def _none(batch: list[None], *, collate_fn_map: Any = None) -> None:
    return None


def _arrays(item: Any) -> Any:
    """A sample whose lists of numbers, such as token numbers, are tensors."""
    if isinstance(item, Mapping):
        return {name: _arrays(value) for name, value in item.items()}
    if isinstance(item, list) and _numbers(item):
        return as_tensor("a sample", item)
    if isinstance(item, (tuple, list)):
        return tuple(map(_arrays, item))
    return item


def in_batches(source: Any, name: str = "data") -> tuple[Batch, ...]:
    """All of the data on the CPU, in batches of at most :data:`BATCH` or those of a DataLoader.

    Raises:
        TypeError, ValueError: they cannot be read (:class:`Reader`), there are none, or inputs are NaN or
            infinite.
    """
    reader = Reader(source, name)
    batches = []
    for x, y in reader:
        if any(t.is_floating_point() and not torch.isfinite(t).all() for t in leaves(x)):
            raise ValueError(f"{name} has inputs that are NaN or infinite")
        size = BATCH if reader.loader is None else max(1, len(x))
        parts = pieces(ready(x, torch.device("cpu")), size)
        targets = [None] * len(parts) if y is None else y.cpu().split(size)
        batches += [Batch(part, target) for part, target in zip(parts, targets, strict=True)]
    if not batches or not len(batches[0].x):
        raise ValueError(f"{name} is empty; at least one sample is needed")
    return tuple(batches)


def calibration_batches(source: Any) -> tuple[Samples, ...]:
    """Inputs that running statistics are recomputed on: a DataLoader's batches, or all as one batch.

    Raises:
        TypeError, ValueError: they cannot be read, or there are none.
    """
    batches = [batch.x for batch in Reader(source, "calibration")]
    if batches and not isinstance(source, DataLoader):
        batches = [joined(batches)]
    if not batches or any(len(batch) == 0 for batch in batches):
        raise ValueError("calibration is empty; pass some hundred samples")
    return tuple(batches)


def as_samples(name: str, value: Any, count: int | None = None) -> Samples:
    """Inputs of a network: one tensor, or its arguments.

    A list of tensors is the samples themselves where it has as many as there are samples, and those do not
    come first in each of them.

    Args:
        name: for errors.
        value: a tensor, array or list of numbers; a tuple or list of arguments; or a mapping of named ones.
        count: how many samples there are, where that is known.

    Raises:
        TypeError: there are no tensors, or something that is neither tensor nor constant.
        ValueError: the tensors differ in the number of samples.
    """
    x = value if isinstance(value, Inputs) else _read(name, value, count)
    if isinstance(x, dict) and all(isinstance(key, str) for key in x):
        x = Inputs((), x)
    elif isinstance(x, (tuple, list)):
        x = x[0] if len(x) == 1 and isinstance(x[0], Tensor) else Inputs(tuple(x))
    if not isinstance(x, (Tensor, Inputs)) or not leaves(x):
        raise TypeError(f"{name} is a {type(value).__name__}, not a tensor or array of numbers")
    for label, tensor in named(x, name):
        if tensor.ndim == 0:
            raise ValueError(f"{label} is a single number; the first dimension must count samples")
    if len({len(tensor) for tensor in leaves(x)}) > 1:
        raise ValueError(f"{name} is {structure(x)}; every tensor must have the same number of samples first")
    return x


def _read(name: str, value: Any, count: int | None) -> Any:
    """Something with tensors in the places of arrays and of lists of numbers."""
    if isinstance(value, Mapping):
        return {key: _read(f"{name}[{key!r}]", item, count) for key, item in value.items()}
    if isinstance(value, CONSTANTS):
        return value
    if not isinstance(value, (tuple, list)) or _numbers(value):
        return as_tensor(name, value)
    parts = [_read(f"{name}[{i}]", item, count) for i, item in enumerate(value)]
    if parts and all(isinstance(part, Tensor) for part in parts):
        apart = len(parts) == count and not all(part.ndim and len(part) == count for part in parts)
        if apart or all(part.ndim == 0 for part in parts):
            return as_tensor(name, value)
    return parts if isinstance(value, list) else tuple(parts)


def _numbers(value: Any) -> bool:
    """Whether lists hold, as far as their first entries show, numbers alone."""
    while isinstance(value, (tuple, list)) and value:
        kinds = (Tensor, np.ndarray, Mapping, str, bytes, type(None))
        if (
            any(isinstance(one, kinds) for one in value)
            or len({isinstance(o, (tuple, list)) for o in value}) > 1
        ):
            return False
        value = value[0]
    return isinstance(value, (bool, int, float, np.generic, tuple, list))


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
