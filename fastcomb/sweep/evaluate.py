"""The main job: evaluate n combinations of a mixture on a data set."""

from __future__ import annotations

import copy
import operator
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from fastcomb import backends, endpoints
from fastcomb.backends import Backend, BackendNotice, Scores
from fastcomb.endpoints import Theta
from fastcomb.mixture import Mixture
from fastcomb.normalisation import Normalisation
from fastcomb.samplers import Sampler
from fastcomb.sweep import losses
from fastcomb.sweep.data import DATA_BUDGET, Data
from fastcomb.sweep.result import Sweep

#: Combinations evaluated per pass over data that are streamed.
_STREAMED_GROUP = 1024


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
    loss: str | losses.UserLoss = "cross_entropy",
    batch_norm: str | None = None,
    calibration: Any = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
    progress: bool | None = None,
    data_budget: int = DATA_BUDGET,
) -> Sweep:
    """Loss and accuracy of combinations ``start`` to ``start + n - 1`` of two networks.

    Memory does not grow with n beyond the two float32 results per combination. A combination's results do
    not depend on n, start or where the work was done in pieces: two runs over [0, k) and [k, n) equal one
    run over [0, n), bit for bit on one machine with one number of threads.

    Args:
        theta_a, theta_b: the two networks: modules, mappings of names to tensors, or checkpoint paths.
            With :class:`~fastcomb.Dirichlet`, ``theta_b`` may be a list of several.
        sampler: the law of the coefficients, for example ``Uniform()``.
        data: ``(x, y)`` with x [N, ...] and y [N, ...] (tensors or arrays), a Dataset of such pairs, or a
            DataLoader (iterated once and held; not shuffled if larger than ``data_budget``).
        model: the module that the thetas are weights of; needed when all are mappings or paths. A copy in
            eval mode is used.
        n: how many combinations.
        start: index of the first.
        seed: of the coefficient stream, in [0, 2**64).
        loss: "cross_entropy", "nll", "mse", or a callable ``(output, y) -> per-sample loss [N]``.
        batch_norm: for models with running statistics: "recompute", "lerp" or "a"
            (:mod:`fastcomb.normalisation`).
        calibration: inputs for "recompute": a tensor [M, ...] (one batch), Dataset or DataLoader.
        device: where to compute; θ_A's device if None.
        dtype: compute dtype; the parameters' own if None. Logits are widened to float32 for the loss.
        backend: "native" (compiled, CPU), "torch_reference" (any module, any device) or "auto", the faster
            one that can run the job. What did run is ``sweep.backend``.
        progress: show a progress bar; if None, when standard error is a terminal.
        data_budget: bytes of a Dataset's or DataLoader's samples that are held in memory; what exceeds it
            is streamed once per 1,024 combinations.

    Returns:
        A :class:`Sweep`. Ctrl-C ends the run early and returns the combinations done so far.

    Raises:
        TypeError, ValueError: an argument that cannot work, before any combination is evaluated.
    """
    n, start = operator.index(n), operator.index(start)
    if n < 1:
        raise ValueError(f"n={n}: at least one combination is needed")
    if start < 0 or start + n > 1 << 64:
        raise ValueError(f"start={start}, n={n}: combinations are numbered from 0 to 2**64 - 1")
    score = losses.resolve(loss)
    place = None if device is None else _device(device)
    structure = endpoints.structure(model, *endpoints.labelled(theta_a, theta_b).values())
    if structure is None:
        raise ValueError("all thetas are weights without a module; pass model= to say how to run them")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype} is not a floating-point dtype")
    backends.check_name(backend)
    mixture = Mixture(theta_a, theta_b, sampler, seed, model=structure)
    mixture = mixture.to(place or mixture.device)
    module = copy.deepcopy(structure).to(mixture.device).eval()
    normalisation = Normalisation.choose(module, mixture, batch_norm, calibration)
    samples = Data(data, data_budget)
    dtype = dtype or mixture.dtype
    x, y = samples.first()
    runner, output, chunk = backends.start(
        backend,
        mixture,
        module,
        dtype=dtype,
        normalisation=normalisation,
        x=x,
        samples=samples.samples,
        held=samples.held,
    )
    classes = losses.check(loss, output, y.to(mixture.device), samples.highest, samples.lowest)
    measure = losses.accuracy if classes else losses.no_accuracy
    scores = Scores(score, measure, loss if isinstance(loss, str) else "", classes)
    samples.to(mixture.device, dtype)

    began = time.perf_counter()
    results = np.empty((2, n), dtype=np.float32)
    done = 0
    bar = tqdm(total=n, unit="comb", unit_scale=True, disable=None if progress is None else not progress)
    try:
        with bar:
            for part in _run(runner, samples, scores, chunk, start, n):
                results[:, done : done + part.shape[1]] = part
                done += part.shape[1]
                bar.update(part.shape[1])
    except KeyboardInterrupt:
        if not done:
            raise
        warnings.warn(f"interrupted: {done} of {n} combinations are done", BackendNotice, stacklevel=2)
    return Sweep(
        start=start,
        loss=results[0, :done],
        accuracy=results[1, :done],
        requested=n,
        samples=samples.samples,
        seconds=time.perf_counter() - began,
        runner=runner,
        module=module,
    )


def _run(runner: Backend, data: Data, scores: Scores, chunk: int, start: int, n: int) -> Iterator[np.ndarray]:
    """Mean loss and accuracy [2, k] of successive runs of combinations.

    Always whole runs of the backend's slots, of which the ends may be cut off: so every combination meets
    operations of the same shapes in the same slot, however a range is divided.
    """
    first = start - start % runner.slots
    end = start + n + -(start + n) % runner.slots
    together = runner.block if data.held else max(runner.block, _STREAMED_GROUP)
    for low in range(first, end, together):
        high = min(low + together, end)
        blocks = [
            runner.prepare(runner.mixture.index_tensor(range(i, min(i + runner.block, high))))
            for i in range(low, high, runner.block)
        ]
        totals: list[Any] = [0] * len(blocks)
        for x, y in data.batches(chunk):
            for i, prepared in enumerate(blocks):
                totals[i] = totals[i] + torch.stack(runner.sums(prepared, x, y, scores))
        means = (torch.cat(totals, dim=1) / data.samples).float().cpu().numpy()
        yield means[:, max(start - low, 0) : start + n - low]


def _device(device: torch.device | str) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={str(device)!r} cannot be used here: {reason}") from error
    return place
