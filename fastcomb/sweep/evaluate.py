"""The main job: evaluate n combinations of a mixture on a data set."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from fastcomb.data.samples import DATA_BUDGET
from fastcomb.mixing.endpoints import Theta
from fastcomb.program.choose import Output
from fastcomb.sampling.samplers import Sampler
from fastcomb.statistics.confidence_sequence import Precision
from fastcomb.statistics.sequential_decision import Decide
from fastcomb.sweep.cluster import Ray, distribute, resolve
from fastcomb.sweep.decided import Decided
from fastcomb.sweep.experiment import Experiment
from fastcomb.sweep.job import Job, Piece
from fastcomb.sweep.measures import UserLoss
from fastcomb.sweep.origin import Ran
from fastcomb.sweep.pilot import DecidingJob, check, run_pilot
from fastcomb.sweep.result import Sweep
from fastcomb.sweep.rows import Collected, Span, missing
from fastcomb.sweep.run import Writer, writing
from fastcomb.sweep.saved import from_run
from fastcomb.sweep.until import Watch
from fastcomb.utils.notice import notify, warn
from fastcomb.utils.progress import hidden


def evaluate(
    theta_a: Theta,
    theta_b: Theta | Sequence[Theta],
    sampler: Sampler,
    *,
    data: Any,
    model: nn.Module | None = None,
    n: int = 1_000_000,
    start: int = 0,
    seed: int = 0,
    loss: str | UserLoss = "cross_entropy",
    accuracy: str | UserLoss | None = None,
    metrics: Mapping[str, UserLoss] | None = None,
    output: Output | None = None,
    batch_norm: str | None = None,
    calibration: Any = None,
    buffers: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
    out: str | Path | None = None,
    save_every: float = 20.0,
    decide: Decide | None = None,
    until: Precision | None = None,
    engine: str | Ray | None = None,
    progress: bool | None = None,
    data_budget: int = DATA_BUDGET,
) -> Sweep:
    """Loss and accuracy of combinations ``start`` to ``start + n - 1`` of two networks.

    A combination's results do not depend on n, start or where the work was done in pieces: two runs over
    [0, k) and [k, n) equal one run over [0, n), bit for bit on one machine with one number of threads.
    Memory does not grow with n beyond the results; with ``out`` it does not grow at all. The arguments are
    left as they are: a private copy of the module runs. A network whose samples influence one another (batch
    statistics, a similarity matrix over the batch), or such a loss, is evaluated on all samples as one batch.

    With ``out`` the results are kept in a folder (:mod:`fastcomb.sweep.run`). The same call continues a run
    that was stopped, in whatever way, and a larger n or another start adds to it; what is there is not
    evaluated again.

    Args:
        theta_a, theta_b: the two networks: modules, mappings of names to tensors, or checkpoint paths.
            With :class:`~fastcomb.Dirichlet`, ``theta_b`` may be a list of several.
        sampler: the law of the coefficients, for example ``Uniform()``.
        data: ``(x, y)`` with y [N, ...] and x a tensor [N, ...] (or array), a tuple or list of positional
            arguments, or a dict of named ones; a dict with labels ("labels", "label", "targets", "target" or
            "y"), the rest of which are inputs by name, as Hugging Face's batches; a Dataset of such; or a
            DataLoader (iterated once and held; not shuffled if larger than ``data_budget``).
        model: the module that the thetas are weights of; needed when all are mappings or paths. A copy in
            eval mode is used.
        n: how many combinations.
        start: index of the first.
        seed: of the coefficient stream, in [0, 2**64).
        loss: "cross_entropy", "nll", "mse", "l1", "huber", "smooth_l1" or "bce_with_logits", with settings in
            brackets where torch's are not meant, as in "huber(delta=0.5)"; a module of torch such as
            ``nn.CrossEntropyLoss(label_smoothing=0.1)``; or a callable ``(output, y) -> per-sample loss
            [N]``. With class numbers y [N, ...] the classes are dimension 1 of the outputs (pixels) or the
            last one (tokens), as the shapes say; where both fit, a module means dimension 1 and
            "token_cross_entropy" the last. Class numbers equal to ``ignore_index`` (-100) are left out: loss
            and accuracy are means over all other targets of the data. Cross-entropy also takes class
            probabilities y as the outputs.
        accuracy: if None, with class numbers the share of targets whose class has the largest output, with
            "bce_with_logits" of outputs that are positive where y is above one half and nowhere else; with
            other losses NaN, unless this says what it is: "argmax" or a callable ``(output, y) -> [N]``.
        metrics: further measures by name, callables like a loss; each is averaged over the samples.
        output: which tensor of what the model returns is meant: a name ("logits"; a key or an attribute), an
            index, or a function of the result. None finds it where it is obvious: the only tensor, "logits",
            or the only floating-point tensor with the samples first; a callable loss gets all of the result.
            Caches of keys and values do not count.
        batch_norm: for models with running statistics: "recompute", "lerp" or "a"
            (:mod:`fastcomb.backends.batch_norm`).
        calibration: inputs for "recompute", as in ``data`` (targets are ignored): a tensor or dict (one
            batch), ``(x, y)``, a Dataset or DataLoader.
        buffers: where the networks' buffers differ, other than running statistics: "a" (θ_A's for all
            combinations) or "lerp" (interpolated with the sampler's mean).
        device: where to compute; θ_A's device if None.
        dtype: compute dtype; the parameters' own if None (each its own where they have several). Logits are
            widened to float32 for the loss.
        backend: "native" (compiled, CPU), "cuda" (CUDA, narrow networks in one kernel), "triton" (CUDA, layer
            by layer), "torch_reference" (any module, any device) or "auto", the fastest that can run the job.
            What did run is ``sweep.backend``. One that is named and cannot run the job is an error.
        out: folder of the run, created if it is not there; None keeps results in memory.
        save_every: with ``out``, seconds of work after which results are written: what a kill may lose.
        decide: :class:`~fastcomb.Below` or :class:`~fastcomb.Above`: find out only on which side of a level
            each combination is, from as few samples as that takes
            (:mod:`fastcomb.statistics.sequential_decision`). Returns a :class:`Decided` sweep.
        until: :class:`~fastcomb.Precision`: stop before n once an estimate is as precise as this says;
            ``sweep.estimate`` is the estimate, with an interval that is valid although the sweep looked.
        engine: None evaluates in this process; "ray" or a :class:`~fastcomb.Ray` on a Ray cluster, with the
            same results.
        progress: show a progress bar; if None, when standard error is a terminal.
        data_budget: bytes of a Dataset's or DataLoader's samples that are held in memory; what exceeds it
            is streamed once per 1,024 combinations.

    Returns:
        A :class:`Sweep`. Ctrl-C ends the run early and returns the combinations done so far.

    Raises:
        TypeError, ValueError: an argument that cannot work, or ``out`` holds another experiment; before any
            combination is evaluated.
        OSError: ``out`` cannot be written, or the disk is full; what was written before is safe.
        RuntimeError: another process writes to ``out``.

    Example:
        >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
        >>> x, y = torch.randn(100, 4), torch.randint(3, (100,))
        >>> sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=1000, progress=False)
        >>> sweep.loss.shape, sweep.accuracy.shape
        ((1000,), (1000,))
        >>> part = fc.evaluate(a, b, fc.Uniform(), data=(x, y), start=400, n=100, progress=False)
        >>> np.array_equal(part.loss, sweep.loss[400:500])  # however the work is cut into pieces
        True
    """
    n, start = _integer("n", n), _integer("start", start)
    if n < 1:
        raise ValueError(f"n={n}: at least one combination is needed")
    if start < 0 or start + n > 1 << 64:
        raise ValueError(f"start={start}, n={n}: combinations are numbered from 0 to 2**64 - 1")
    if not save_every >= 0:
        raise ValueError(f"save_every={save_every} is not a number of seconds")
    if until is not None:
        _check_until(until, decide, metrics or {})
    cluster = resolve(engine)
    if cluster is not None and device is not None:
        raise ValueError(f"device={str(device)!r} is this process's; for GPUs of a cluster pass Ray(gpus=1)")
    span = (start, start + n)
    experiment = Experiment.of(
        theta_a,
        theta_b,
        sampler,
        data=data,
        model=model,
        seed=seed,
        loss=loss,
        metrics=metrics,
        output=output,
        batch_norm=batch_norm,
        calibration=calibration,
        accuracy=accuracy,
        buffers=buffers,
        device=None if device is None else _device(device),
        dtype=dtype,
        backend=backend,
        data_budget=data_budget,
        decide=decide,
    )
    job = experiment.start()
    if decide is not None:
        check(decide, job)
    if out is not None and experiment.data.shuffled:
        raise ValueError(
            "data come from a shuffled DataLoader, which has another order for the call that continues a "
            "run; pass shuffle=False with out="
        )
    context: Any = contextlib.nullcontext()
    if out is not None:
        networks = experiment.mixture.networks
        asked = [] if until else [span]
        context = writing(out, experiment.identity(), job.names, networks, asked, every=save_every)
    with context as writer:
        watch = Watch(until, span)
        if until is not None and writer is not None:
            earlier = writer.run.rows(span).pieces(until.metric)
            if any(watch.see(*piece) for piece in earlier):
                return _outcome(experiment, job, None, writer, watch, watch.seen, 0.0)
        todo = [span] if writer is None else missing(span, writer.done)
        if decide is not None and todo:
            if n <= decide.pilot:
                notify(
                    f"the pilot alone evaluates {decide.pilot} combinations in full, and n={n}: this takes "
                    "fewer samples without decide="
                )
            job = DecidingJob.of(job, run_pilot(decide, job, progress))
        pieces = job.timed(todo) if cluster is None else distribute(cluster, experiment, job, todo)
        with contextlib.closing(pieces):
            return _collect(experiment, job, pieces, todo, span, writer, watch, progress)


def _collect(
    experiment: Experiment,
    job: Job,
    pieces: Generator[Piece],
    todo: list[Span],
    span: Span,
    writer: Writer | None,
    watch: Watch,
    progress: bool | None,
) -> Sweep:
    """Put the results of the spans ``todo``, of the wanted one, where they belong."""
    total = span[1] - span[0]
    left = sum(stop - start for start, stop in todo)
    collected = Collected(todo)
    seconds = 0.0
    bar = tqdm(total=total, initial=total - left, unit="comb", unit_scale=True, disable=hidden(progress))
    enough = False
    try:
        with bar:
            for first, columns, took, about in pieces:
                if writer is None:
                    collected.add(first, columns)
                else:
                    writer.add(first, columns, took, about)
                seconds += took
                count = len(columns[job.names[0]])
                left -= count
                bar.update(count)
                if enough := watch.see(first, columns):
                    break
    except KeyboardInterrupt:
        if left == total:
            raise
        warn(
            f"interrupted: {total - left} of {total} combinations are done"
            + ("; the same call continues" if writer else "")
        )
    return _outcome(experiment, job, collected, writer, watch, watch.seen if enough else span, seconds)


def _outcome(
    experiment: Experiment,
    job: Job,
    collected: Collected | None,
    writer: Writer | None,
    watch: Watch,
    span: Span,
    seconds: float,
) -> Sweep:
    """The sweep over a span, of results in memory or in a run."""
    origin = Ran.of(experiment, job)
    if writer is not None:
        writer.flush()
        estimate = watch.interval()
        there = writer.run.manifest.endpoints
        writer.settle(span, estimate, there or origin.endpoints)
        return dataclasses.replace(from_run(writer.run, origin, span), estimate=estimate)
    assert collected is not None
    rows = collected.rows(span)
    arguments = rows, span[1] - span[0], job.data.samples, seconds, job.runner.name, origin
    if isinstance(job, DecidingJob):
        return Decided(*arguments, decide=job.question.decide)
    return Sweep(*arguments, estimate=watch.interval())


def _check_until(until: Precision, decide: Decide | None, metrics: Mapping[str, Any]) -> None:
    if not isinstance(until, Precision):
        raise TypeError(f"until is a {type(until).__name__}; pass Precision(quantity, level, half_width=…)")
    if decide is not None:
        raise ValueError("until= looks at values, which decide= does not measure; choose n= instead")
    known = ("loss", "accuracy", *metrics)
    if until.metric not in known:
        raise ValueError(f"until: metric={until.metric!r} is none of {', '.join(known)}")


def _integer(name: str, value: Any) -> int:
    """An integer, as which 1e6 counts too."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} is not an integer") from None


def _device(device: torch.device | str) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={str(device)!r} cannot be used here: {reason}") from error
    return place
