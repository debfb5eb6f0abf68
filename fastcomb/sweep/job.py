"""An experiment in a backend: results of ranges of combinations, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fastcomb.backends import Backend, Scores
from fastcomb.data.samples import Data
from fastcomb.kernels import native
from fastcomb.sweep.rows import Columns, Span

#: Combinations evaluated per pass over data that are streamed.
_STREAMED_GROUP = 1024

#: First index, results, seconds that they took, and where they were made.
Piece = tuple[int, Columns, float, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Job:
    """An experiment in a backend.

    Attributes:
        runner: the backend.
        module: the module that runs, in eval mode.
        data: samples where the backend wants them.
        scores: what is measured.
        chunk: samples to hand over at a time.
        names: of the columns of results.
    """

    runner: Backend
    module: nn.Module
    data: Data
    scores: Scores
    chunk: int
    names: tuple[str, ...]

    def timed(self, spans: Sequence[Span]) -> Generator[Piece]:
        """Pieces of the results of some spans, with how long each took and on what."""
        about = {
            "backend": self.runner.name,
            "device": str(self.runner.mixture.device),
            "instructions": native.cpu_capability(),
            "threads": torch.get_num_threads(),
        }
        for start, stop in spans:
            began = time.perf_counter()
            for first, columns in self.run(start, stop):
                yield first, columns, time.perf_counter() - began, about
                began = time.perf_counter()

    def run(self, start: int, stop: int) -> Iterator[tuple[int, Columns]]:
        """First index and results of successive pieces of combinations [start, stop).

        Always whole runs of the backend's slots, of which the ends may be cut off: so every combination
        meets operations of the same shapes in the same slot, however a range is divided.
        """
        runner = self.runner
        first = start - start % runner.slots
        end = stop + -stop % runner.slots
        together = runner.block if self.data.in_memory else max(runner.block, _STREAMED_GROUP)
        for low in range(first, end, together):
            high = min(low + together, end)
            blocks = [
                runner.prepare(runner.mixture.index_tensor(range(i, min(i + runner.block, high))))
                for i in range(low, high, runner.block)
            ]
            totals: list[Any] = [0] * len(blocks)
            for x, y in self.data.batches(self.chunk):
                for i, prepared in enumerate(blocks):
                    totals[i] = totals[i] + runner.summed_metrics(prepared, x, y, self.scores)
            means = (torch.cat(totals, dim=1) / self.data.samples).float().cpu().numpy()
            within = means[:, max(start - low, 0) : stop - low]
            yield max(start, low), dict(zip(self.names, np.ascontiguousarray(within), strict=True))
