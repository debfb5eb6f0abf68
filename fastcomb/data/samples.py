"""Evaluation data: held in memory where it fits a budget, else streamed on every pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from fastcomb.data.reading import Reader
from fastcomb.utils.digest import Digest
from fastcomb.utils.dtypes import dtype_name
from fastcomb.utils.inputs import Inputs, Samples, joined, leaves, named, pieces, ready, structure

#: Bytes of a data set that are held in memory before it is streamed instead.
DATA_BUDGET = 2 << 30

#: Samples that tell how a network is run.
FIRST = 6

_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class Data:
    """Samples x, every tensor of which is [N, ...], with targets y [N, ...].

    Args:
        source: ``(x, y)`` or a mapping with labels (:mod:`fastcomb.data.reading`), a Dataset of such, or a
            DataLoader of batches of them.
        budget: bytes up to which what a Dataset or DataLoader yields is held; above, it is iterated once
            per pass, so it must yield the same samples in the same order every time. Every pass is compared
            with the first.
        ignored: integer target that stands for none.

    Attributes:
        samples: N.
        targets: how many numbers y has that are not ``ignored``.
        complete: whether none is ``ignored``.
        in_memory: whether the samples are in memory.
        lowest, highest: extremes of the targets that are not ``ignored``; None where there are none.
        shuffled: whether they come from a DataLoader that draws its order.

    Raises:
        TypeError, ValueError: not pairs of tensors, empty, of different lengths, with NaN, in batches that
            are not built alike, or streamed and different from pass to pass.
    """

    def __init__(self, source: Any, budget: int = DATA_BUDGET, ignored: int | None = None) -> None:
        self._ignored = ignored
        self._reader: Reader | None = Reader(source, "data", pairs=True)  # of what is streamed
        self._held: tuple[Samples, Tensor] | None = None
        self._mark = ""  # of the first pass over what is streamed
        self.samples = self.targets = 0
        self.complete = True
        self.shuffled = isinstance(source, DataLoader) and _draws(source)
        self.lowest: float | None = None
        self.highest: float | None = None
        if self._reader.loader is None:
            (self._held,) = self._pairs()
            self._count(*self._held)
        else:
            self._hold_or_stream(budget)
        if self._held is not None:
            self._reader = None
        if not self.samples:
            raise ValueError("data is empty; at least one sample is needed")

    @property
    def in_memory(self) -> bool:
        """Whether the samples are in memory; if not, the source is read on every pass."""
        return self._held is not None

    def first(self, count: int = FIRST) -> tuple[Samples, Tensor]:
        """The first few samples."""
        if self._held is not None:
            x, y = self._held
            return x[:count], y[:count]
        pairs: list[tuple[Samples, Tensor]] = []
        for x, y in self._pairs():
            pairs.append((x, y))
            if sum(len(x) for x, _ in pairs) >= count:
                break
        xs, ys = zip(*pairs, strict=True)
        return joined(xs)[:count], torch.cat(ys)[:count]

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Data:
        """These data with held samples moved, inputs cast to the compute dtype if there is one."""
        moved = copy.copy(self)
        if self._held is not None:
            x, y = self._held
            moved._held = ready(x, device, dtype), y.to(device)
        return moved

    def check_range(self, dtype: torch.dtype) -> None:
        """Raise ValueError where held inputs exceed a compute dtype."""
        for name, tensor in () if self._held is None else named(self._held[0]):
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            most = float(tensor.abs().nan_to_num(posinf=0.0).max())
            if most > torch.finfo(dtype).max:
                raise ValueError(
                    f"{name} reaches {most:.3g}, which exceeds {dtype_name(dtype)}; scale it, or choose "
                    "another dtype="
                )

    def digest(self) -> str:
        """SHA-256 of all samples and targets, whatever the batches they come in."""
        mark = _Mark()
        for x, y in self.batches(self.samples):
            mark.add(x, y)
        return mark.hex

    def batches(self, size: int) -> Iterator[tuple[Samples, Tensor]]:
        """One pass, in order: held samples in batches of ``size``, streamed ones of at most ``size``.

        Raises:
            RuntimeError: streamed samples are not those of the first pass.
        """
        if self._held is not None:
            x, y = self._held
            yield from zip(pieces(x, size), y.split(size), strict=True)
            return
        mark = _Mark()
        for x, y in self._pairs():
            mark.add(x, y)
            yield from zip(pieces(x, size), y.split(size), strict=True)
        if mark.hex != self._mark:
            raise RuntimeError(f"{_CHANGED}; the results of this pass are not used")

    def _pairs(self) -> Iterator[tuple[Samples, Tensor]]:
        """One reading of the source."""
        for x, y in () if self._reader is None else self._reader:
            assert y is not None  # the reader demands pairs
            yield x, y

    def _count(self, x: Samples, y: Tensor) -> None:
        """Take a batch into the numbers of samples and targets, and the extremes of the targets.

        Raises:
            ValueError: it has NaN.
        """
        for name, value in (*named(x), ("y", y)):
            if value.is_floating_point() and torch.isnan(value).any():
                raise ValueError(
                    f"{name} has {int(torch.isnan(value).sum())} values that are NaN; leave them out"
                )
        self.samples += len(x)
        counted = y if self._ignored is None or y.is_floating_point() else y[y != self._ignored]
        self.targets += counted.numel()
        self.complete = self.complete and counted.numel() == y.numel()
        if counted.numel():
            lowest, highest = counted.min().item(), counted.max().item()
            self.lowest = lowest if self.lowest is None else min(lowest, self.lowest)
            self.highest = highest if self.highest is None else max(highest, self.highest)

    def _hold_or_stream(self, budget: int) -> None:
        """Read the source once: hold it if it fits the budget, else keep a hash to compare passes with."""
        pairs: list[tuple[Samples, Tensor]] | None = []
        taken = 0
        mark = _Mark()
        first: tuple[Samples, Tensor] | None = None
        for x, y in self._pairs():
            first = first or (x, y)
            self._count(x, y)
            mark.add(x, y)
            taken += sum(t.nbytes for t in leaves(x)) + y.nbytes
            if taken > budget:
                pairs = None
            if pairs is not None:
                pairs.append((x, y))
        if pairs is None:
            self._mark = mark.hex
            self._check_streamed(budget, first)
        elif pairs:
            xs, ys = zip(*pairs, strict=True)
            self._held = joined(xs), torch.cat(ys)

    def _check_streamed(self, budget: int, first: tuple[Samples, Tensor] | None) -> None:
        """Raise ValueError where another pass will not yield the same."""
        streamed = f"the data exceed data_budget={budget} bytes, so they are streamed on every pass, and "
        if self.shuffled:
            raise ValueError(
                f"{streamed}a shuffled DataLoader yields another order each time; pass shuffle=False or "
                "raise "
                "data_budget="
            )
        again = next(self._pairs(), None)
        if again is None:
            raise ValueError(
                f"{streamed}these can be read only once; pass a Dataset, or raise data_budget= to hold them"
            )
        assert first is not None
        before, after = ([*leaves(x), y] for x, y in (first, again))
        if any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            raise ValueError(f"{streamed}{_CHANGED}, or raise data_budget= to hold one pass")


_CHANGED = (
    "the samples differ from pass to pass (does the Dataset draw random augmentations, or an order?); pass "
    "fixed ones"
)


class _Mark:
    """A hash of samples and targets, whatever the batches they come in."""

    def __init__(self) -> None:
        self._inputs: list[Digest] = []
        self._targets = Digest()
        self._built: list[str] = []  # what one tensor does not need

    def add(self, x: Samples, y: Tensor) -> None:
        tensors = leaves(x)
        if not self._inputs:
            self._inputs = [Digest() for _ in tensors]
            self._built = [structure(x[:0])] if isinstance(x, Inputs) else []
        for digest, tensor in zip(self._inputs, tensors, strict=True):
            digest.add(tensor)
        self._targets.add(y)

    @property
    def hex(self) -> str:
        return Digest().text(*self._built, *(one.hex for one in self._inputs), self._targets.hex).hex


def _draws(loader: DataLoader[Any]) -> bool:
    """Whether a loader's order is drawn anew on every pass."""
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    return any(isinstance(sampler, _RANDOM) for sampler in samplers)
