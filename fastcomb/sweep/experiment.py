"""What decides the results of a combination, checked once: it can be run here or sent elsewhere."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastcomb import backends, compiled, digest, endpoints
from fastcomb.backends import Backend, Scores
from fastcomb.decision import Decide, Question
from fastcomb.endpoints import Theta
from fastcomb.mixture import Mixture
from fastcomb.normalisation import Normalisation
from fastcomb.samplers import Sampler
from fastcomb.stream import STREAM_VERSION
from fastcomb.sweep import identity, losses
from fastcomb.sweep.data import Data
from fastcomb.sweep.pilot import answers

#: Combinations evaluated per pass over data that are streamed.
_STREAMED_GROUP = 1024

#: Results of successive combinations: name → one number each.
Columns = dict[str, NDArray[Any]]

#: First index, results, seconds that they took, and where they were made.
Piece = tuple[int, Columns, float, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Experiment:
    """A mixture, and how its combinations are evaluated.

    Attributes:
        mixture, module, normalisation, data: what is run, and on what.
        loss: as the user gave it.
        metrics: further measures by name, as the user gave them.
        dtype: compute dtype.
        backend: wanted backend, "auto" for the fastest.
        decide: question to answer instead of measuring, or None.
    """

    mixture: Mixture
    module: nn.Module
    normalisation: Normalisation
    data: Data
    loss: str | losses.UserLoss
    metrics: Mapping[str, losses.UserLoss]
    dtype: torch.dtype
    backend: str
    decide: Decide | None = None

    @staticmethod
    def of(
        theta_a: Theta,
        theta_b: Theta | Sequence[Theta],
        sampler: Sampler,
        *,
        data: Any,
        model: nn.Module | None,
        seed: int,
        loss: str | losses.UserLoss,
        metrics: Mapping[str, losses.UserLoss] | None,
        batch_norm: str | None,
        calibration: Any,
        device: torch.device | None,
        dtype: torch.dtype | None,
        backend: str,
        data_budget: int,
        decide: Decide | None = None,
    ) -> Experiment:
        """Check what :func:`fastcomb.evaluate` was given; it explains the arguments and what is raised."""
        losses.resolve(loss)
        measures = losses.named(metrics or {})
        if decide is not None and not isinstance(decide, Decide):
            raise TypeError(f"decide is a {type(decide).__name__}; pass Below(metric, level) or Above(…)")
        if decide is not None and measures:
            raise ValueError("metrics= are means over all samples, which decide= does not take; drop one")
        structure = endpoints.structure(model, *endpoints.labelled(theta_a, theta_b).values())
        if structure is None:
            raise ValueError("all thetas are weights without a module; pass model= to say how to run them")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype={dtype} is not a floating-point dtype")
        backends.check_name(backend)
        mixture = Mixture(theta_a, theta_b, sampler, seed, model=structure)
        mixture = mixture.to(device or mixture.device)
        module = copy.deepcopy(structure).to(mixture.device).eval()
        normalisation = Normalisation.choose(module, mixture, batch_norm, calibration)
        samples = Data(data, data_budget)
        return Experiment(
            mixture, module, normalisation, samples, loss, measures, dtype or mixture.dtype, backend, decide
        )

    def start(self, device: torch.device | None = None) -> Job:
        """Ready to run, on ``device`` or where the mixture is."""
        mixture = self.mixture.to(device or self.mixture.device)
        module = self.module.to(mixture.device)
        x, y = self.data.first()
        runner, output, chunk = backends.start(
            self.backend,
            mixture,
            module,
            dtype=self.dtype,
            normalisation=self.normalisation,
            x=x,
            samples=self.data.samples,
            held=self.data.held,
        )
        target = y.to(mixture.device)
        classes = losses.check(self.loss, output, target, self.data.highest, self.data.lowest)
        for name, metric in self.metrics.items():
            losses.check_measure(f"metrics[{name!r}]", metric, output, target)
        measures = (
            losses.resolve(self.loss),
            losses.accuracy if classes else losses.no_accuracy,
            *map(losses.resolve, self.metrics.values()),
        )
        scores = Scores(measures, self.loss if isinstance(self.loss, str) else "", classes)
        names = ("loss", "accuracy", *self.metrics)
        if self.decide:
            names = (f"{self.decide.metric}_estimate", "samples", "holds")
        return Job(runner, module, self.data.to(mixture.device, self.dtype), scores, chunk, names)

    def identity(self) -> dict[str, Any]:
        """What decides the results, as JSON has it: two experiments with the same identity have the same."""
        mixture = self.mixture
        tables, rules, draw = mixture.law_arguments
        law = digest.Digest().text(repr(rules), repr(draw[2:])).add(tables)
        kind = type(self.module)
        return {
            "fastcomb": version("fastcomb"),
            "stream": STREAM_VERSION,
            "networks": {
                label: digest.of_tensors(network.tensors()) for label, network in mixture.networks.items()
            },
            "model": {
                "class": f"{kind.__module__}.{kind.__qualname__}",
                "sha256": identity.of_module(self.module),
            },
            "sampler": {"law": repr(mixture.sampler), "sha256": law.hex},
            "seed": mixture.seed,
            "data": {"samples": self.data.samples, "sha256": self.data.digest()},
            "loss": identity.of_function(self.loss),
            "metrics": {name: identity.of_function(metric) for name, metric in self.metrics.items()},
            "dtype": str(self.dtype).removeprefix("torch."),
            "decide": self.decide and self.decide.record,
            "batch_norm": {
                "choice": self.normalisation.choice,
                "calibration": [digest.Digest().add(batch).hex for batch in self.normalisation.batches],
            },
        }


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
        question: what is decided about every combination, instead of measured.
    """

    runner: Backend
    module: nn.Module
    data: Data
    scores: Scores
    chunk: int
    names: tuple[str, ...]
    question: Question | None = None

    def asking(self, question: Question) -> Job:
        """This job, to answer a question."""
        return dataclasses.replace(self, question=question)

    def timed(self, spans: Sequence[tuple[int, int]]) -> Generator[Piece]:
        """Pieces of the results of some spans, with how long each took and on what."""
        about = {
            "backend": self.runner.name,
            "device": str(self.runner.mixture.device),
            "instructions": compiled.level(),
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
        if self.question:
            yield from answers(self, self.question, start, stop)
            return
        runner = self.runner
        first = start - start % runner.slots
        end = stop + -stop % runner.slots
        together = runner.block if self.data.held else max(runner.block, _STREAMED_GROUP)
        for low in range(first, end, together):
            high = min(low + together, end)
            blocks = [
                runner.prepare(runner.mixture.index_tensor(range(i, min(i + runner.block, high))))
                for i in range(low, high, runner.block)
            ]
            totals: list[Any] = [0] * len(blocks)
            for x, y in self.data.batches(self.chunk):
                for i, prepared in enumerate(blocks):
                    totals[i] = totals[i] + runner.sums(prepared, x, y, self.scores)
            means = (torch.cat(totals, dim=1) / self.data.samples).float().cpu().numpy()
            wanted = means[:, max(start - low, 0) : stop - low]
            yield max(start, low), dict(zip(self.names, np.ascontiguousarray(wanted), strict=True))
