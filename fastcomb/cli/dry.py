"""``fastcomb sweep --dry-run``: everything is checked and the speed is measured, and nothing is created."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from fastcomb.data.samples import DATA_BUDGET
from fastcomb.statistics.sequential_decision import Decide
from fastcomb.sweep import Sweep, evaluate
from fastcomb.sweep.experiment import Experiment
from fastcomb.sweep.pilot import check
from fastcomb.sweep.rows import Span, missing
from fastcomb.sweep.run import existing

#: Seconds that may be spent on measuring the speed.
_TRIAL_SECONDS = 2.0
_BYTES_PER_COMBINATION = 8


def would(
    mixture: tuple[Any, Any, Any],
    options: dict[str, Any],
    span: Span,
    decide: Decide | None,
    out: str | None,
) -> dict[str, Any]:
    """What a sweep would do, by name.

    Args:
        mixture: both networks and the sampler.
        options: of :func:`fastcomb.evaluate`: model, data, seed, loss, output, batch_norm, calibration,
            device, dtype and backend.
        span: the combinations.
        decide: the question, if one is asked. The speed is that of evaluating in full.
        out: folder of the run.

    Raises:
        OSError, TypeError, ValueError: what the sweep would raise, also if ``out`` holds another experiment.
    """
    todo = span[1] - span[0]
    if out is not None or decide is not None:
        todo = sum(stop - start for start, stop in _left(mixture, options, span, decide, out))
    trial = _trial(mixture, options, span)
    report: dict[str, Any] = {
        "would_evaluate": todo,
        "already_there": span[1] - span[0] - todo,
        "mixture": str(trial.mixture),
        "samples": trial.samples,
        "backend": trial.backend,
        "combinations_per_second": trial.rate,
        "seconds": todo / trial.rate,
    }
    if out is not None:
        report |= {
            "out": out,
            "bytes": _BYTES_PER_COMBINATION * todo,
            "bytes_free": shutil.disk_usage(_nearest(out)).free,
        }
    return report


def _left(
    mixture: tuple[Any, Any, Any], options: dict[str, Any], span: Span, decide: Decide | None, out: str | None
) -> list[Span]:
    """What of the span is not there yet, in a folder that holds the same experiment or none."""
    place = None if options["device"] is None else torch.device(options["device"])
    arguments = options | {"device": place, "metrics": None, "data_budget": DATA_BUDGET, "decide": decide}
    experiment = Experiment.of(*mixture, **arguments)
    job = experiment.start()
    if decide is not None:
        check(decide, job)
    if out is None:
        return [span]
    if not os.access(_nearest(out), os.W_OK):
        raise PermissionError(f"{out} cannot be written; choose another folder")
    run = existing(Path(out), experiment.identity(), job.names)
    return [span] if run is None else missing(span, run.rows().spans)


def _trial(mixture: tuple[Any, Any, Any], options: dict[str, Any], span: Span) -> Sweep:
    """A few combinations, evaluated for long enough to tell the speed."""
    count, sweep = 1, evaluate(*mixture, n=1, start=span[0], progress=False, **options)
    while sweep.seconds < _TRIAL_SECONDS / 4 and count < span[1] - span[0]:
        count = min(4 * count, span[1] - span[0])
        sweep = evaluate(*mixture, n=count, start=span[0], progress=False, **options)
    return sweep


def _nearest(out: str) -> Path:
    """The folder, or the one nearest above it that is there."""
    return next(path for path in (Path(out).absolute(), *Path(out).absolute().parents) if path.exists())
