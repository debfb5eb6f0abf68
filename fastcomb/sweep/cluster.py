"""Sweeps on a Ray cluster: spans of combinations as tasks, results as they arrive."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastcomb.sweep.experiment import Experiment
from fastcomb.sweep.job import Job, Piece
from fastcomb.sweep.pilot import DecidingJob
from fastcomb.sweep.rows import Columns, Span

#: Seconds that a task should take: long beside what Ray needs for one, short beside a part.
_TASK_SECONDS = 5.0
_FIRST_TASK = 64
_LARGEST_TASK = 1 << 20


@dataclass(frozen=True)
class Ray:
    """Evaluate on a Ray cluster: ``evaluate(..., engine=Ray(...))``, or ``engine="ray"`` for the defaults.

    The range is cut into tasks. A process of the cluster prepares the networks once and keeps them for its
    further tasks. A task whose process or machine dies is run again elsewhere, with the same result, since
    a combination is a function of its number.

    Args:
        address: of the cluster, as ``ray.init`` takes it ("auto", "ray://host:10001", …). None is the
            cluster that this process is connected to, or that RAY_ADDRESS names, or else a new one of
            this machine's cores, which ends with the sweep.
        cpus: cores of a task, which are also its threads.
        gpus: GPUs of a task; above 0 it runs on "cuda".
        retries: how often a task is run again whose process died.

    Raises:
        ValueError: an argument is outside its range.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0
    retries: int = 3

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0 or self.retries < 0:
            raise ValueError(f"{self}: cpus must be at least 1, gpus and retries at least 0")


def resolve(engine: str | Ray | None) -> Ray | None:
    """The engine behind ``engine=``; None is this process.

    Raises:
        ValueError: an unknown name.
        ImportError: Ray is wanted and not installed.
    """
    if engine is None:
        return None
    if isinstance(engine, str) and engine != "ray":
        raise ValueError(f"engine={engine!r} is neither 'ray' nor a fastcomb.Ray; leave it out to run here")
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ImportError("engine='ray' needs Ray: pip install fastcomb[ray]") from error
    return engine if isinstance(engine, Ray) else Ray()


def distribute(options: Ray, experiment: Experiment, job: Job, todo: Sequence[Span]) -> Generator[Piece]:
    """Pieces of results as tasks finish, in any order.

    Raises:
        RuntimeError: a task's process died too often, or the cluster differs from this process.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(address=options.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        # on CPUs, what runs here runs there too; everything that is needed travels once
        backend = experiment.backend if options.gpus else job.runner.name
        sent = dataclasses.replace(experiment, backend=backend)
        question = job.question if isinstance(job, DecidingJob) else None
        shared = ray.put((importlib.metadata.version("fastcomb"), sent, question))
        task = ray.remote(_evaluate).options(
            num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries
        )
        room = int(ray.cluster_resources().get("CPU", 1) // options.cpus)
        if options.gpus:
            room = min(room, int(ray.cluster_resources().get("GPU", 0) // options.gpus))
        if room < 1:
            raise RuntimeError(
                f"no room for a task of {options.cpus} cores and {options.gpus} GPUs in a cluster with "
                f"{ray.cluster_resources()}; ask for less or add machines"
            )
        yield from _gathered(ray, task, [shared], options, _Spans(todo, room), 2 * room)
    finally:
        if started:
            ray.shutdown()


def _gathered(
    ray: Any, task: Any, shared: list[Any], options: Ray, spans: _Spans, most: int
) -> Iterator[Piece]:
    """Keep at most ``most`` tasks under way, and yield what each returns; at the end cancel the rest."""
    running: list[Any] = []
    try:
        while True:
            while len(running) < most and (span := spans.next()):
                running.append(task.remote(shared, span, options.cpus, options.gpus > 0))
            if not running:
                return
            (done,), running = ray.wait(running, num_returns=1)
            try:
                first, columns, seconds, about = ray.get(done)
            except ray.exceptions.WorkerCrashedError as error:
                raise RuntimeError(
                    f"a task's process died {options.retries + 1} times, perhaps for want of memory; give "
                    "tasks more cores, so that fewer run on a machine"
                ) from error
            spans.learn(seconds / len(next(iter(columns.values()))))
            yield first, columns, seconds, about
    finally:
        for left in running:
            ray.cancel(left, force=True)


class _Spans:
    """Cuts what is to do into tasks of the right length, as it becomes known how long one takes."""

    def __init__(self, todo: Sequence[Span], room: int) -> None:
        self._todo, self._room = list(todo), room
        self._size = _FIRST_TASK

    def learn(self, seconds: float) -> None:
        """Take in the seconds per combination of a task; sizes at most double at a time."""
        ideal = int(_TASK_SECONDS / max(seconds, 1e-9))
        self._size = max(1, min(ideal, 2 * self._size, _LARGEST_TASK))

    def next(self) -> Span | None:
        if not self._todo:
            return None
        start, stop = self._todo[0]
        left = sum(stop - start for start, stop in self._todo)
        size = max(1, min(self._size, -(-left // self._room)))
        end = min(start + size, stop)
        self._todo[0] = (end, stop)
        if end == stop:
            del self._todo[0]
        return start, end


#: The job that this process of the cluster has prepared, by the sweep it is of.
_prepared: dict[str, Job] = {}


def _evaluate(shared: list[Any], span: Span, threads: int, gpu: bool) -> Piece:
    """One task."""
    import ray

    torch.set_num_threads(threads)
    reference = shared[0]
    name = reference.hex()
    if name not in _prepared:
        _prepared.clear()
        expected, experiment, question = ray.get(reference)
        version = importlib.metadata.version("fastcomb")
        if version != expected:
            raise RuntimeError(
                f"the cluster has fastcomb {version} and this process {expected}; install the same"
            )
        job = experiment.start(torch.device("cuda") if gpu else None)
        if not gpu and job.runner.name != experiment.backend:
            raise RuntimeError(
                f"a machine of the cluster cannot run the backend {experiment.backend!r}; install fastcomb "
                'with its compiled engine there, or pass backend="torch_reference"'
            )
        _prepared[name] = DecidingJob.of(job, question) if question else job
    pieces = list(_prepared[name].timed([span]))
    columns: Columns = {
        column: np.concatenate([piece[1][column] for piece in pieces]) for column in pieces[0][1]
    }
    return pieces[0][0], columns, sum(piece[2] for piece in pieces), pieces[0][3]
