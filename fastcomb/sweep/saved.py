"""Sweeps from disk: opened, and put together from the runs of many machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from fastcomb.statistics.sequential_decision import from_record
from fastcomb.sweep.decided import Decided
from fastcomb.sweep.networks import load_networks
from fastcomb.sweep.origin import Origin, Saved
from fastcomb.sweep.parts import Parts
from fastcomb.sweep.result import Sweep
from fastcomb.sweep.rows import Span, missing, overlap
from fastcomb.sweep.run import Run, check_same, writing
from fastcomb.utils.progress import hidden


def open_sweep(path: str | Path, *, model: nn.Module | None = None, calibration: Any = None) -> Sweep:
    """The sweep in a folder that :func:`fastcomb.evaluate` wrote with ``out=``.

    Reads the manifest and the ends of the parts; columns are read when they are asked for. Another process
    may be writing to the run: what it has written by now is there.

    Args:
        path: the run's folder.
        model: the module that the networks are weights of, for ``sweep.rebuild``.
        calibration: as in :func:`fastcomb.evaluate`, for ``sweep.rebuild`` of a run with recomputed running
            statistics.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the manifest or a part is damaged, or does not belong there.

    Example:
        >>> sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=100, out="run", progress=False)
        >>> opened = fc.open_sweep("run", model=a)
        >>> np.array_equal(opened.loss, sweep.loss)
        True
        >>> opened.rebuild(17)(x).shape
        torch.Size([100, 3])
    """
    run = Run(path)
    return from_run(run, Saved(run, model, calibration))


def from_run(run: Run, origin: Origin, within: Span | None = None) -> Sweep:
    """The sweep of a run, or of some of its combinations."""
    rows = run.rows(within)
    seconds = 0.0
    for part in rows.parts:
        low, high = within or (part.start, part.stop)
        share = (min(high, part.stop) - max(low, part.start)) / (part.stop - part.start)
        seconds += share * part.about["seconds"]
    requested = [within] if within else run.manifest.requested
    experiment = run.manifest.experiment
    fields = {
        "rows": rows,
        "requested": sum(stop - start for start, stop in requested),
        "samples": experiment["data"]["samples"],
        "seconds": seconds,
        "backend": " and ".join(sorted({part.about["backend"] for part in rows.parts})),
        "origin": origin,
        "path": run.path,
        "estimate": None if within else run.manifest.estimate,
    }
    return (
        Decided(**fields, decide=from_record(experiment["decide"]))
        if experiment["decide"]
        else Sweep(**fields)
    )


def merge(runs: Sequence[str | Path], out: str | Path, *, progress: bool | None = None) -> Sweep:
    """Put runs of one experiment together, for example those of an array of jobs with ``start`` and ``n``.

    Args:
        runs: their folders; they are left as they are. Results that two of them have must be the same bits.
        out: folder of the run to create or to add to. Stopped in the middle, the same call continues.
        progress: show a progress bar; if None, when standard error is a terminal.

    Returns:
        the sweep in ``out``, in parts of up to 2**20 combinations.

    Raises:
        FileNotFoundError: a run is not there.
        ValueError: no runs, they are of different experiments (names what differs), a part is damaged, or
            they disagree about a combination.
        OSError, RuntimeError: ``out`` cannot be written, or is being written by another process.

    Example:
        >>> job = dict(data=(x, y), n=100, progress=False)
        >>> first = fc.evaluate(a, b, fc.Uniform(), start=0, out="runs/0", **job)
        >>> second = fc.evaluate(a, b, fc.Uniform(), start=100, out="runs/1", **job)
        >>> len(fc.merge(["runs/0", "runs/1"], "run", progress=False))
        200
    """
    if isinstance(runs, (str, Path)):
        raise TypeError(f"runs={str(runs)!r} is one folder; pass a list of folders")
    if Path(out).resolve() in [Path(path).resolve() for path in runs]:
        raise ValueError(f"{out} is one of the runs; merge them into another folder")
    sources = [Run(path) for path in runs]
    if not sources:
        raise ValueError("runs is empty; name at least one folder")
    first = sources[0].manifest
    for other in sources[1:]:
        check_same(other.path, other.manifest, first.experiment, first.columns, f"{sources[0].path}")
    rows = [run.rows() for run in sources]
    for i, one in enumerate(rows):
        for j, before in enumerate(rows[:i]):
            _check_agree(one, before, (sources[i].path, sources[j].path))
    requested = [span for run in sources for span in run.manifest.requested]
    networks = load_networks(sources[0].networks)
    parts = [part for source in rows for part in source.parts]
    with writing(out, first.experiment, first.columns, networks, requested, every=math.inf) as writer:
        there = writer.run.rows()
        for run, run_rows in zip(sources, rows, strict=True):
            _check_agree(run_rows, there, (run.path, writer.run.path))
        for part in tqdm(parts, unit="part", disable=hidden(progress)):
            about = {key: value for key, value in part.about.items() if key not in ("experiment", "seconds")}
            each = part.about["seconds"] / (part.stop - part.start)
            for span in missing((part.start, part.stop), writer.done):
                for start, columns in Parts([part], first.columns, span).pieces(*first.columns):
                    count = len(next(iter(columns.values())))
                    writer.add(start, columns, each * count, about)
    return open_sweep(out)


def _check_agree(one: Parts, other: Parts, paths: tuple[Path, Path]) -> None:
    """Raise ValueError where two runs have different results for a combination."""
    for span in overlap(one.spans, other.spans):
        for name in one.names:
            both = [Parts(rows.parts, rows.names, span).column(name).tobytes() for rows in (one, other)]
            if both[0] != both[1]:
                raise ValueError(
                    f"{paths[0]} and {paths[1]} disagree about {name} of combinations {span[0]} to "
                    f"{span[1] - 1}, evaluated on machines whose arithmetic differs; keep one of them"
                )
