"""Coefficients of networks as points in standard normal space, and the networks they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastcomb import mixing
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.torch_reference import TorchReference
from fastcomb.data.samples import Data
from fastcomb.functional import Mixture
from fastcomb.mixing.ops import broadcastable, convex
from fastcomb.program import private_copy
from fastcomb.program.choose import Output
from fastcomb.sampling.stream import RESOLUTION, pieces, step_unit
from fastcomb.statistics.density import Array
from fastcomb.sweep import criteria
from fastcomb.sweep.experiment import Experiment, returning
from fastcomb.sweep.job import Job
from fastcomb.sweep.measures import UserLoss
from fastcomb.utils.inputs import ready


class Fields:
    """Scores points z [K, width]: one standard normal number for every draw of a combination's stream.

    A draw is an integer k in [0, D), D being 65,536 or 8,388,608, and the law's table gives it a coefficient.
    A number z stands for k = ⌊D Φ(z)⌋: coefficients made in this way follow the law exactly as the stream's
    do, and a move of z moves them. Weights that share a draw in the stream share a number.

    Args:
        job: a mixture in the torch reference, with data and measures.
        metric: name of the measure.
        above: whether low scores are to mean high values of the measure.
    """

    def __init__(self, job: Job, metric: str, *, above: bool) -> None:
        assert isinstance(job.runner, TorchReference)
        self._job, self._runner, self._metric = job, job.runner, metric
        self._sign = -1 if above else 1
        self._mixture = mixture = job.runner.mixture
        self._tables, _, draw = mixture.law_arguments
        self._ends = bool(draw[3])
        self._draws = 1 << RESOLUTION[mixture.sampler.bits]
        self._places = places(mixture)
        self.device = mixture.device
        self.width = width(mixture)

    @staticmethod
    def of(
        mixture: Mixture,
        metric: str,
        *,
        above: bool,
        model: nn.Module,
        data: Any,
        loss: str | UserLoss = "cross_entropy",
        batch_norm: str | None = None,
        calibration: Any = None,
        buffers: str | None = None,
        output: Output | None = None,
    ) -> Fields:
        """From arguments of :func:`fastcomb.rare_fraction`, which explains them.

        Raises:
            TypeError, ValueError: one that cannot work.
        """
        module = private_copy(model).to(mixture.device).eval()
        normalisation = Normalisation.choose(module, mixture, batch_norm, calibration, buffers)
        samples = Data(data)
        some = ready(samples.first()[0], mixture.device, mixture.dtype if mixture.uniform else None)
        module = returning(module, some, output, loss)
        # only the reference runs networks that are no combinations of the stream
        asked = criteria.read(loss)
        samples = Data(data, ignored=criteria.ignored(asked))
        job = Experiment(
            mixture, module, normalisation, samples, asked, {}, mixture.dtype, TorchReference.name
        ).start()
        if metric == "accuracy" and not job.scores.classes:
            raise ValueError("this task has no accuracy: its targets are not class numbers")
        return Fields(job, metric, above=above)

    def plain(self, first: int, count: int) -> Array:
        """Scores float64 [count] of the stream's own combinations from number ``first`` on: plain draws."""
        parts = [columns[self._metric] for _, columns in self._job.run(first, first + count)]
        return self._sign * np.concatenate(parts).astype(np.float64)

    def draw(self, numbers: list[int], generator: torch.Generator) -> Tensor:
        """The points [K, width] of combinations ``numbers``: each z uniform, as Φ has it, within its draw."""
        mixture = self._mixture
        index = mixture.index_tensor(numbers)
        points = torch.empty(len(index), self.width, device=mixture.device)
        for (unit, step), (start, stop) in self._places.items():
            streams = pieces(
                index,
                seed=mixture.seed,
                unit=step_unit(unit, step),
                count=stop - start,
                bits=mixture.sampler.bits,
            )
            for rows, columns, drawn in streams:
                within = torch.rand(
                    drawn.shape, generator=generator, dtype=torch.float64, device=mixture.device
                )
                z = self._normal(drawn, within)
                strayed = self._drawn(z) != drawn  # float32 rounded it over the edge of its draw
                points[rows, start + columns.start : start + columns.stop] = torch.where(
                    strayed, self._normal(drawn, 0.5), z
                )
        return points

    def score(self, points: Tensor) -> Array:
        """Scores float64 [K] of the networks at points z [K, width]."""
        return np.concatenate([self._scored(part) for part in points.split(self._runner.block)])

    def mixed(self, points: Tensor) -> dict[str, Tensor]:
        """The parameters [K, ...] of the networks at points z [K, width], by name."""
        mixture = self._mixture
        lams = {
            (unit, step): self._tables[step][self._drawn(points[:, start:stop])]
            for (unit, step), (start, stop) in self._places.items()
        }
        result = {}
        for name in mixture.names:
            unit, shape = mixture.units[name], mixture.shape(name)
            value, others = mixture.values(name)
            for step, other in enumerate(others):
                lam = broadcastable(lams[unit.number, step][:, : unit.count], shape, per_row=unit.per_row)
                value = convex(lam, value, other, ends=self._ends)
            result[name] = value.to(self._runner.dtype)
        return result

    def _scored(self, points: Tensor) -> Array:
        prepared = self._runner.given(self.mixed(points))
        column = self._job.names.index(self._metric)
        total = torch.zeros(len(points), dtype=torch.float64, device=self.device)
        for x, y in self._job.data.batches(self._job.chunk):
            total += self._runner.summed_metrics(prepared, x, y, self._job.scores)[column]
        mean = (total / self._job.data.samples).float()  # in the precision of a sweep's results
        return np.asarray(self._sign * mean.double().cpu().numpy())

    def _normal(self, drawn: Tensor, within: Tensor | float) -> Tensor:
        u = ((drawn + within) / self._draws).clamp(min=2.0**-60)
        z: Tensor = torch.special.ndtri(u.double())
        return z.float()

    def _drawn(self, z: Tensor) -> Tensor:
        u: Tensor = torch.special.ndtr(z.double())
        return (u * self._draws).long().clamp(max=self._draws - 1)


def places(mixture: mixing.Mixture) -> dict[tuple[int, int], tuple[int, int]]:
    """Where the draws of each (unit, step) lie among a combination's draws: start and end."""
    counts: dict[int, int] = {}
    for unit in mixture.units.values():
        counts[unit.number] = max(counts.get(unit.number, 0), unit.count)
    spans = {}
    start = 0
    for step in range(len(mixture.steps)):
        for number, count in counts.items():
            spans[number, step] = (start, start + count)
            start += count
    return spans


def width(mixture: mixing.Mixture) -> int:
    """How many draws a combination has."""
    return max(stop for _, stop in places(mixture).values())
