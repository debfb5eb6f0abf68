"""Deciding a question in a sweep: the pilot that makes bets possible, and the answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from fastcomb.statistics.sequential_decision import Decide, Question
from fastcomb.sweep.job import Job
from fastcomb.sweep.rows import Columns
from fastcomb.utils.inputs import pieces
from fastcomb.utils.progress import hidden

#: A sample's bounds are at least this share of the mean width apart: samples that never differed may.
_LEAST_WIDTH = 0.02


def check(decide: Decide, job: Job) -> None:
    """Raise ValueError where the question cannot be asked about this job."""
    if not job.data.in_memory:
        raise ValueError("decide= takes samples in random order, so they must be held; raise data_budget=")
    if decide.metric == "accuracy" and not job.scores.classes:
        raise ValueError("decide: this task has no accuracy; its targets are not class numbers")


def run_pilot(decide: Decide, job: Job, progress: bool | None) -> Question:
    """Evaluate the pilot of a job that was checked."""
    mixture = job.runner.mixture
    total = decide.pilot
    low, high = np.full((2, job.data.samples), np.nan)
    slack = 0.0
    moments = np.zeros(3)
    with tqdm(total=total, unit="comb", desc="pilot", disable=hidden(progress), leave=False) as bar:
        for values in _every(job, decide, (1 << 64) - total, (1 << 64) - decide.checked):
            finite = np.where(np.isfinite(values), values, np.nan)
            low, high = np.fmin(low, np.fmin.reduce(finite)), np.fmax(high, np.fmax.reduce(finite))
            bar.update(len(values))
        low, high = np.nan_to_num(low), np.nan_to_num(high)  # a sample that was never finite counts as above
        width = np.maximum(high - low, max(_LEAST_WIDTH * float((high - low).mean()), 1e-6))
        low = (low + high - width) / 2
        level = decide.sign * float(np.float32(decide.level))
        for values in _every(job, decide, (1 << 64) - decide.checked, 1 << 64):
            holds = decide.holds(decide.sign * values.mean(1))
            clipped = np.clip(np.where(np.isnan(values), np.inf, values), low, low + width)
            share = (clipped - low) / width
            moments += [(width * share**power).sum() for power in range(3)]
            shift = np.where(holds, 1, -1) * (clipped.mean(1) - level)  # to the wrong side of the level
            slack = max(slack, float(shift.max()))
            bar.update(len(values))
    samples, base = len(low), float(low.sum())
    below, above = samples * (level - slack) - base, samples * (level + slack) - base
    expected, square = moments[1:] / moments[0]
    return Question(decide, low, width, below, above, expected, square - expected**2, mixture.seed)


@dataclass(frozen=True, eq=False, kw_only=True)
class DecidingJob(Job):
    """A job that answers a question about every combination instead of measuring it.

    Attributes:
        question: the question, with what its pilot found.
    """

    question: Question

    @staticmethod
    def of(job: Job, question: Question) -> DecidingJob:
        """A job that was to measure, with a question instead."""
        fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(Job)}
        return DecidingJob(**fields, question=question)

    def run(self, start: int, stop: int) -> Iterator[tuple[int, Columns]]:
        """First index and answers of successive pieces of combinations [start, stop)."""
        ((x, y),) = self.data.batches(self.data.samples)
        score = self.scores.measures[self.question.decide.metric == "accuracy"]
        runner = self.runner
        for low in range(start, stop, runner.block):
            indices = range(low, min(low + runner.block, stop))
            answers = runner.decide(
                runner.prepare(runner.mixture.index_tensor(indices)), x, y, self.scores, self.question
            )
            if answers is None:
                answers = []
                for index in indices:
                    prepared = runner.prepare(runner.mixture.index_tensor([index]))

                    def values(some: NDArray[np.int64], prepared: Any = prepared) -> NDArray[np.float32]:
                        at = torch.from_numpy(some).to(y.device)
                        each = runner.per_sample_metric(prepared, x[at], y[at], score)[0]
                        return each.float().cpu().numpy()

                    answers.append(self.question.answer(index, values))
            holds, samples, mean = zip(*answers, strict=True)
            yield (
                low,
                {
                    f"{self.question.decide.metric}_estimate": np.array(mean, dtype=np.float32),
                    "samples": np.array(samples, dtype=np.int32),
                    "holds": np.array(holds, dtype=bool),
                },
            )


def _every(job: Job, decide: Decide, start: int, stop: int) -> Iterator[NDArray[np.float64]]:
    """The metric, times the sign, on every sample: float64 [k, N] for successive combinations."""
    runner = job.runner
    ((x, y),) = job.data.batches(job.data.samples)
    score = job.scores.measures[decide.metric == "accuracy"]
    together = max(1, min(runner.block, (1 << 24) // max(1, len(y))))
    for low in range(start, stop, together):
        prepared = runner.prepare(runner.mixture.index_tensor(range(low, min(low + together, stop))))
        parts = [
            runner.per_sample_metric(prepared, some, target, score)
            for some, target in zip(pieces(x, job.chunk), y.split(job.chunk), strict=True)
        ]
        yield decide.sign * torch.cat(parts, 1).double().cpu().numpy()
