"""One run as the report sees it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fastcomb.sampling.stream import STREAM_VERSION
from fastcomb.statistics.density import Density
from fastcomb.statistics.sequential_decision import Decide
from fastcomb.sweep import Decided, Sweep, open_sweep
from fastcomb.sweep.origin import Ran
from fastcomb.sweep.parts import Part, Parts
from fastcomb.sweep.rows import Held
from fastcomb.sweep.run import Run
from fastcomb.utils import digest
from fastcomb.utils.result import METRICS


@dataclass(frozen=True, eq=False)
class Entry:
    """A sweep whose columns were read, and what is known about it.

    Attributes:
        label: what the user calls it.
        number: its place among the runs, which is also its colour.
        sweep: the sweep; its columns are in memory.
        experiment: identity of the experiment, as the manifest has it; of a sweep that was never on disk
            what is known of that.
        created: when the run was begun, ISO 8601; empty if it is not on disk.
        parts: files of the run.
    """

    label: str
    number: int
    sweep: Sweep
    experiment: Mapping[str, Any]
    created: str
    parts: tuple[Part, ...]

    @staticmethod
    def of(label: str, number: int, run: str | Path | Sweep) -> Entry:
        """Read a run; every column once.

        Raises:
            FileNotFoundError: there is no run.
            ValueError: its manifest or a part is damaged.
        """
        sweep = run if isinstance(run, Sweep) else open_sweep(run)
        rows = sweep.rows
        columns = {name: rows.column(name) for name in rows.names}
        held = dataclasses.replace(sweep, rows=Held(rows.spans, columns))
        parts = tuple(rows.parts) if isinstance(rows, Parts) else ()
        if sweep.path is None:
            return Entry(label, number, held, _known(sweep), "", parts)
        manifest = Run(sweep.path).manifest
        return Entry(label, number, held, manifest.experiment, manifest.created, parts)

    @property
    def decide(self) -> Decide | None:
        """The question, of a sweep that answered one instead of measuring."""
        return self.sweep.decide if isinstance(self.sweep, Decided) else None

    @property
    def measured(self) -> bool:
        """Whether there are values to show."""
        return bool(self.densities)

    @cached_property
    def densities(self) -> dict[str, Density]:
        """The distribution of every metric; none of a decided or an empty sweep."""
        return {name: self.sweep.density(name) for name in self.sweep.metrics} if len(self.sweep) else {}

    def own(self, metric: str) -> dict[str, float]:
        """The metric of the networks themselves, by name, where it is known and finite."""
        if metric not in METRICS:
            return {}
        values = {one.label: float(getattr(one, metric)) for one in self.sweep.endpoints}
        return {label: value for label, value in values.items() if math.isfinite(value)}


def _known(sweep: Sweep) -> dict[str, Any]:
    """Of the identity of a sweep in memory, what it still knows."""
    mixture = sweep.mixture
    known: dict[str, Any] = {
        "stream": STREAM_VERSION,
        "networks": {name: digest.of_tensors(one.tensors()) for name, one in mixture.networks.items()},
        "sampler": {"law": repr(mixture.sampler)},
        "seed": mixture.seed,
        "data": {"samples": sweep.samples},
    }
    if isinstance(sweep.origin, Ran):
        kind = type(sweep.origin.module)
        known["model"] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
        if sweep.origin.experiment is not None:
            loss = sweep.origin.experiment.loss
            known["loss"] = loss if isinstance(loss, str) else "a callable"
    return known
