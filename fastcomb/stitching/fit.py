"""Task-loss matching: many stitching layers trained together.

The networks run once, and what they compute is cached. A step takes a batch of A's activations at its cut,
maps it by every stitching layer of the pair, and sends the results through B's top together, a few stitches
at a time. Only the stitching layers are trained; batch norms of the top are folded into the layers before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastcomb.data.samples import Data
from fastcomb.stitching.cache import MEMORY_BUDGET, Cache
from fastcomb.stitching.cut import Cut, Network, places
from fastcomb.stitching.gather import Gathered, as_data, check_labels, gather
from fastcomb.stitching.task import TaskLoss
from fastcomb.stitching.trained import Trained
from fastcomb.stitching.training import Schedule, Training
from fastcomb.stitching.training_data import TrainingData
from fastcomb.stitching.training_files import Files, identity
from fastcomb.utils.notice import warn
from fastcomb.utils.progress import bar

#: Two cuts, and what stitches between them are trained for.
Job = tuple[Cut, Cut, Sequence[TaskLoss]]


def fit(a: Cut, b: Cut, data: Any, tasks: TaskLoss | Sequence[TaskLoss] = (), **options: Any) -> Trained:
    """Train stitching layers between two networks, many at once.

    Args:
        a: the network that gives the bottom, cut.
        b: the network that gives the top, cut.
        data: ``(x, y)`` with class numbers y [N], a Dataset of such pairs or a DataLoader that is not
            shuffled; inputs [N, ...] alone where no targets are labels.
        tasks: what to train for, a stitch each; ``TaskLoss()`` if nothing is said.
        **options: as for :func:`fit_all`.

    Returns:
        the stitched networks, and how the losses fell. A stitch comes out the same, up to rounding, alone
        or among others. Ctrl-C ends the training after the epochs done.

    Raises:
        ValueError, TypeError: as :func:`fit_all`.

    Source: Csiszárik et al., "Similarity and Matching of Neural Network Representations" (NeurIPS 2021).

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> tasks = [fc.stitching.TaskLoss(), fc.stitching.TaskLoss(rank=2)]
        >>> trained = fc.stitching.fit(one, other, x, tasks, epochs=3, progress=False)
        >>> trained.loss.shape  # of two stitches in three epochs
        (2, 3)
        >>> trained.networks[1](x).shape
        torch.Size([100, 3])
    """
    chosen = [tasks] if isinstance(tasks, TaskLoss) else list(tasks) or [TaskLoss()]
    return fit_all([(a, b, chosen)], data, **options)[0]


def fit_all(
    jobs: Sequence[Job],
    data: Any,
    *,
    epochs: int = 30,
    batch: int = 128,
    validation: Any = None,
    patience: int | None = None,
    resize: str | None = None,
    seed: int = 0,
    snapshots: bool = False,
    budget: int = MEMORY_BUDGET,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> list[Trained]:
    """:func:`fit` for many pairs of layers: every network runs over the data once for all of them.

    Args:
        jobs: (a, b, tasks) each; :func:`~fastcomb.stitching.cuts` makes cuts that share a network.
        data: as for :func:`fit`.
        epochs: passes over the data.
        batch: samples in a step; their order is drawn anew for every epoch, the same for all stitches.
        validation: other data, on which losses are measured after each epoch.
        patience: stop a stitch when its validation loss has not fallen for so many epochs, and keep its best
            epoch; needs ``validation``.
        resize: "pool" or "interpolate": how A's positions become B's where they differ.
        seed: of the order of samples, in [0, 2**40).
        snapshots: keep every stitching layer after every epoch (:meth:`Trained.at`).
        budget: bytes of cached activations in memory; what exceeds it is cached in temporary files.
        out: a folder for the state of the training: after a stop the same call continues, and with more
            ``epochs`` it goes on.
        progress: show a progress bar; if None, when standard error is a terminal.

    Returns:
        one :class:`Trained` per job.

    Raises:
        ValueError, TypeError: tasks that the cuts do not allow, data without labels where they are needed, an
            option outside its range, or ``out`` holds another training; before anything is trained.

    Example:
        >>> task = fc.stitching.TaskLoss(init="random")
        >>> both = zip(fc.stitching.cuts(a, ["0", "1"]), fc.stitching.cuts(b, ["0", "1"]))
        >>> jobs = [(one, other, [task]) for one, other in both]
        >>> found = fc.stitching.fit_all(jobs, x, epochs=3, progress=False)
        >>> [trained.epochs for trained in found]
        [3, 3]
    """
    schedule = Schedule(epochs, batch, patience, seed, snapshots)
    where = [_checked(job, resize) for job in jobs]
    if patience is not None and validation is None:
        raise ValueError(f"patience={patience} needs validation=, other data to stop by")
    samples = _samples(data, jobs)
    held_out = None if validation is None else _samples(validation, jobs)
    files = Files(out)
    if out is not None:
        seen = [part.digest() for part in (samples, held_out) if part is not None]
        options = (batch, patience, resize, seed, snapshots, *seen)
        files.identities = [identity(*job, *options) for job in jobs]
    cache = _cache(jobs, samples, budget, progress)
    other = None if held_out is None else _cache(jobs, held_out, budget - cache.in_memory, progress)
    gathered = _gathered(jobs, samples, resize, progress)
    trainings = []
    for (a, b, tasks), moments, place in zip(jobs, gathered, where, strict=True):
        layers = [task.start(a, b, moments, **place) for task in tasks]
        training_data = TrainingData.of(a, b, tasks, cache, place["resize"])
        validated = None if other is None else TrainingData.of(a, b, tasks, other, place["resize"])
        trainings.append(Training(a, b, tasks, layers, training_data, validated, schedule))
        files.restore(len(trainings) - 1, trainings[-1])
    with (
        bar(sum(t.steps for t in trainings), "step", progress) as shown,
        _interruptible(trainings, files, epochs),
    ):
        for number, training in enumerate(trainings):
            for _ in training.run(shown):
                files.save(number, training)
    return [training.result() for training in trainings]


@contextlib.contextmanager
def _interruptible(trainings: Sequence[Training], files: Files, epochs: int) -> Iterator[None]:
    """Write what is done at the end, in whatever way it comes; Ctrl-C after an epoch is a notice."""
    try:
        yield
    except KeyboardInterrupt:
        done = sum(training.epoch for training in trainings)
        if not done:
            raise
        warn(
            f"interrupted: {done} of {epochs * len(trainings)} epochs are done"
            + ("; the same call continues" if files.kept else "")
        )
    finally:
        for number, training in enumerate(trainings):
            files.save(number, training, now=True)


def _checked(job: Job, resize: str | None) -> dict[str, Any]:
    """Where the layers of a job act; raises ValueError where its tasks and cuts do not go together."""
    a, b, tasks = job
    place = places(a, b, resize)
    for task in tasks:
        if not isinstance(task, TaskLoss):
            raise TypeError(f"a task is a {type(task).__name__}; pass TaskLoss(...)")
    if a.network.classes != b.network.classes and any(task.targets in ("a", "mean") for task in tasks):
        raise ValueError(f"{a.network.name} and {b.network.name} have different numbers of classes")
    if not tasks:
        raise ValueError(f"there is no task for {a} and {b}; pass TaskLoss()")
    for task in tasks:
        task.check(a, b)
    return place


def _samples(data: Any, jobs: Sequence[Job]) -> Data:
    samples = as_data(data)
    if samples.shuffled:
        raise ValueError(
            "data come from a shuffled DataLoader; pass shuffle=False: fit draws the order itself"
        )
    for _, b, tasks in jobs:
        if any(task.targets == "labels" for task in tasks):
            check_labels(data, samples, b.network.classes)
    return samples


def _cache(jobs: Sequence[Job], samples: Data, budget: int, progress: bool | None) -> Cache:
    """Runs every network once, for all jobs."""
    layers: dict[Network, list[Cut]] = {}
    outputs: dict[Network, None] = {}
    for a, b, tasks in jobs:
        layers.setdefault(a.network, []).append(a)
        if any(task.cka for task in tasks):
            layers.setdefault(b.network, []).append(b)
        for task in tasks:
            sources = {"a": [a], "b": [b], "mean": [a, b], "labels": [b]}[task.targets]
            outputs |= dict.fromkeys(cut.network for cut in sources)
    return Cache(layers, list(outputs), samples, budget, progress)


def _gathered(
    jobs: Sequence[Job], samples: Data, resize: str | None, progress: bool | None
) -> list[Gathered | None]:
    """Moments of the activations for the jobs that start from them."""
    needing = [number for number, (_, _, tasks) in enumerate(jobs) if any(task.gathers for task in tasks)]
    pairs = [jobs[number][:2] for number in needing]
    gathered = gather(pairs, samples, resize=resize, progress=progress) if pairs else []
    by_number: Mapping[int, Gathered] = dict(zip(needing, gathered, strict=True))
    return [by_number.get(number) for number in range(len(jobs))]
