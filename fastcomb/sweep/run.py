"""A run: a folder with the results of one experiment, which grows and is never half written.

::

    run/manifest.json            which experiment this is, and which combinations were asked for
    run/networks.safetensors     the networks
    run/parts/part-….parquet     results of spans of combinations; each file is complete or not there

A part appears by renaming, so a process that is killed leaves complete parts and at most one hidden file that
is swept up later. Which combinations are done is what the parts' names say; nothing else keeps count.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from fastcomb.mixing.endpoints import Endpoint
from fastcomb.statistics.proportion import Interval, Proportion
from fastcomb.sweep.endpoint_results import EndpointResult
from fastcomb.sweep.networks import save_networks
from fastcomb.sweep.parts import DamagedPart, ForeignPart, Part, Parts, listed, opened, parquet, write
from fastcomb.sweep.rows import Columns, Span, joined
from fastcomb.utils.files import write_atomically
from fastcomb.utils.notice import warn

_FORMAT = "fastcomb run 1"

#: Seconds of work in the first part; each has twice as many as the last, up to what was asked for.
_FIRST_PART = 2.0

#: Most combinations in a part.
PART_ROWS = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """What a run is of.

    Attributes:
        experiment: identity of the experiment, as JSON has it.
        columns: names of the columns of results.
        requested: combinations asked for, all in all.
        created: when, ISO 8601.
        estimate: what the last sweep with ``until`` found, if nothing was asked for since.
        endpoints: what the networks score by themselves; empty until a sweep has ended, and in runs of
            earlier versions.
    """

    experiment: Mapping[str, Any]
    columns: tuple[str, ...]
    requested: list[Span]
    created: str
    estimate: Interval | None = None
    endpoints: tuple[EndpointResult, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the experiment and the columns."""
        return _digest(self.experiment, self.columns)

    def save(self, path: Path) -> None:
        """Write it as JSON, complete or not at all; :meth:`load` reads it."""
        record = {
            "format": _FORMAT,
            "experiment": self.experiment,
            "columns": self.columns,
            "digest": self.digest,
            "requested": self.requested,
            "created": self.created,
            "estimate": None if self.estimate is None else dataclasses.asdict(self.estimate),
            "endpoints": [dataclasses.asdict(endpoint) for endpoint in self.endpoints],
        }
        text = json.dumps(record, indent=1) + "\n"
        write_atomically(path, lambda beside: beside.write_text(text, "utf-8"))

    @staticmethod
    def load(path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or was changed by hand.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path.parent} is not a run: it has no {path.name}")
        try:
            record = json.loads(path.read_text("utf-8"))
            if record["format"] != _FORMAT:
                raise ValueError(f"its format is {record['format']!r}, not {_FORMAT!r}")
            requested = [(int(start), int(stop)) for start, stop in record["requested"]]
            if any(not 0 <= start < stop <= 1 << 64 for start, stop in requested):
                raise ValueError(f"requested={requested} are no spans of combinations")
            columns = tuple(record["columns"])
            estimate = _interval(record["estimate"]) if record["estimate"] else None
            endpoints = tuple(EndpointResult(**endpoint) for endpoint in record.get("endpoints", ()))
            manifest = Manifest(
                record["experiment"], columns, requested, record["created"], estimate, endpoints
            )
            if record["digest"] != manifest.digest:
                raise ValueError("its digest does not fit: it was changed after it was written")
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path} cannot be trusted: {reason}") from error
        return manifest


class Run:
    """A run on disk.

    Args:
        path: its folder.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: its manifest cannot be trusted.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = Manifest.load(self.path / "manifest.json")

    @property
    def networks(self) -> Path:
        """The file that holds the networks."""
        return self.path / "networks.safetensors"

    def parts(self, damaged: Callable[[DamagedPart, Path], None] | None = None) -> list[Part]:
        """All parts; what becomes of a damaged one is the caller's, an error if None.

        Raises:
            DamagedPart: naming the file and what to do.
        """
        parts = []
        for path in listed(self.path / "parts"):
            try:
                parts.append(opened(path, self.manifest.digest, self.manifest.columns))
            except ForeignPart:
                raise
            except DamagedPart as error:
                if damaged is None:
                    raise DamagedPart(
                        f"{error}. Evaluating again with the same out= sets it aside and computes it anew"
                    ) from error
                damaged(error, path)
        return parts

    def rows(self, within: Span | None = None) -> Parts:
        """The results that are there."""
        return Parts(self.parts(), self.manifest.columns, within)


class Writer:
    """The one process that writes to a run.

    Args:
        run: the run; its lock is held.
        every: seconds of work after which a part is written.

    Attributes:
        done: combinations whose results were taken or were there.
    """

    def __init__(self, run: Run, every: float) -> None:
        self.run, self._every = run, every
        self._next = min(every, _FIRST_PART)
        (run.path / "parts").mkdir(exist_ok=True)
        for left in (run.path / "parts").glob(".part-*.tmp"):  # by a process that was killed
            left.unlink()
        self.done = Parts(run.parts(_set_aside), run.manifest.columns).spans
        self._safe = sum(stop - start for start, stop in self.done)
        self._waiting: list[tuple[int, Columns]] = []
        self._seconds = 0.0
        self._about: Mapping[str, Any] = {}

    def add(self, first: int, columns: Columns, seconds: float, about: Mapping[str, Any]) -> None:
        """Take results of successive combinations; written once they are worth a file."""
        if self._waiting and about != self._about:
            self.flush()
        self._about = about
        self._seconds += seconds
        self._waiting.append((first, columns))
        self.done = joined([*self.done, (first, first + _count(columns))])
        if self._seconds >= self._next or self._rows >= PART_ROWS:
            self.flush()

    @property
    def _rows(self) -> int:
        return sum(_count(columns) for _, columns in self._waiting)

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OSError: it cannot be written; says what is safe.
        """
        total = self._rows
        for start, columns in _successive(self._waiting):
            count = _count(columns)
            about = {
                "experiment": self.run.manifest.digest,
                **self._about,
                "seconds": self._seconds * count / total,
            }
            try:
                write(self.run.path / "parts", start, columns, about)
            except OSError as error:
                safe = f"{self._safe:,} combinations are safe there and the same call continues"
                raise _explained(error, self.run.path, safe) from error
            self._safe += count
        self._waiting, self._seconds = [], 0.0
        self._next = min(self._every, 2 * self._next)

    def settle(self, span: Span, estimate: Interval | None, endpoints: Sequence[EndpointResult]) -> None:
        """Have the manifest say that these combinations were wanted, what for, and beside what they stand."""
        there = self.run.manifest
        requested = joined([*there.requested, span])
        new = endpoints and not there.endpoints
        if requested != there.requested or (estimate and estimate != there.estimate) or new:
            self.run.manifest = dataclasses.replace(
                there, requested=requested, estimate=estimate, endpoints=there.endpoints or tuple(endpoints)
            )
            self.run.manifest.save(self.run.path / "manifest.json")


@contextlib.contextmanager
def writing(
    path: str | Path,
    experiment: Mapping[str, Any],
    columns: tuple[str, ...],
    networks: Mapping[str, Endpoint],
    wanted: Sequence[Span],
    *,
    every: float,
) -> Iterator[Writer]:
    """Create a run or continue one; no other process can while this one does.

    Args:
        path: its folder.
        experiment: identity of the experiment.
        columns: names of the columns of results.
        networks: to be kept beside the results.
        wanted: combinations asked for now; none if that shows later (:meth:`Writer.settle`).
        every: seconds of work after which a part is written.

    Raises:
        OSError: the folder cannot be written.
        RuntimeError: another process writes to it.
        ValueError: it holds another experiment; names what differs.
    """
    parquet()  # missing packages are said before any work
    path = Path(path)
    with _locked(path):
        try:
            _request(path, experiment, columns, networks, wanted)
            writer = Writer(Run(path), every)
        except OSError as error:
            raise _explained(error, path, "nothing was lost") from error
        try:
            yield writer
        finally:
            writer.flush()


def _request(
    path: Path,
    experiment: Mapping[str, Any],
    columns: tuple[str, ...],
    networks: Mapping[str, Endpoint],
    wanted: Sequence[Span],
) -> None:
    """Have the manifest say that these combinations are wanted, of this experiment."""
    manifest, run = path / "manifest.json", existing(path, experiment, columns)
    if run is not None:
        there = run.manifest
        requested = joined([*there.requested, *wanted])
        if requested != there.requested:
            dataclasses.replace(there, requested=requested, estimate=None).save(manifest)
        return
    save_networks(networks, path / "networks.safetensors")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    Manifest(experiment, columns, joined(wanted), now).save(manifest)


def existing(path: Path, experiment: Mapping[str, Any], columns: tuple[str, ...]) -> Run | None:
    """The run in a folder, which must be of this experiment; None if the folder is new or empty.

    Raises:
        ValueError: it holds another experiment (names what differs), or something that is no run.
    """
    if (path / "manifest.json").exists():
        run = Run(path)
        check_same(path, run.manifest, experiment, columns)
        return run
    if not path.exists():
        return None
    known = {".lock", "parts", "networks.safetensors", ".networks.safetensors.tmp", ".manifest.json.tmp"}
    others = sorted({entry.name for entry in path.iterdir()} - known)
    if others:
        raise ValueError(f"{path} holds {others[0]!r} and is no run; take a folder that is new or empty")
    if listed(path / "parts"):
        raise ValueError(f"{path} has results but no manifest.json to say of what; take another folder")
    return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """While this process alone may write to a folder, which is made if it is not there.

    Raises:
        RuntimeError: another process writes to it.
        OSError: it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise RuntimeError(
            f"another process is writing to {path}; wait for it, or take another folder and fc.merge them"
        ) from None
    except OSError as error:
        raise _explained(error, path, "choose a folder that can be written") from error
    try:
        yield
    finally:
        lock.release()


def _explained(error: OSError, path: Path, advice: str) -> OSError:
    reason = error.strerror or str(error).splitlines()[0]
    return OSError(error.errno, f"cannot write results to {path}: {reason}; {advice}")


def _set_aside(error: DamagedPart, path: Path) -> None:
    aside = path.with_name(path.name + ".damaged")
    path.replace(aside)
    warn(f"{error}; set aside as {aside.name}, computing it anew")


def check_same(
    path: Path, there: Manifest, experiment: Mapping[str, Any], columns: tuple[str, ...], other: str = "this"
) -> None:
    """Raise ValueError unless the run at ``path`` is of this experiment; names what differs."""
    both = {"columns": list(there.columns), **there.experiment}, {"columns": list(columns), **experiment}
    faults = list(_differences(*both))
    if faults:
        raise ValueError(
            f"{path} holds another experiment than {other}: {'; '.join(faults)}; keep them apart"
        )


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
    elif there != here:
        yield f"{name} is {_short(there)} there and {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 64 else text[:12] + "…"


def _digest(experiment: Mapping[str, Any], columns: tuple[str, ...]) -> str:
    text = json.dumps([experiment, columns], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _interval(record: Mapping[str, Any]) -> Interval:
    return (Proportion if "count" in record else Interval)(**record)


def _count(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _successive(waiting: list[tuple[int, Columns]]) -> Iterator[tuple[int, Columns]]:
    """Pieces that follow each other, put together."""
    group: list[Columns] = []
    start = end = 0
    for first, columns in [*sorted(waiting, key=lambda piece: piece[0]), (-1, {})]:
        if group and first != end:
            yield start, {name: np.concatenate([one[name] for one in group]) for name in group[0]}
            group = []
        if not columns:
            return
        if not group:
            start = end = first
        group.append(columns)
        end += _count(columns)
