"""The files of a run: one Parquet file for a span of combinations, complete or not there.

Any reader of Parquet takes the folder: ``pandas.read_parquet("run/parts")``,
``polars.scan_parquet("run/parts/*.parquet")``, ``SELECT … FROM 'run/parts/*.parquet'`` in DuckDB.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastcomb.sweep.rows import Columns, Rows, Span, indices, joined
from fastcomb.utils.files import write_atomically

_NAME = re.compile(r"part-(\d{20})-(\d{20})\.parquet")
_KEY = b"fastcomb"

#: What reading a broken file may raise.
_UNREADABLE = (OSError, ValueError, KeyError, NotImplementedError)

#: Combinations that are read at a time.
_READ_AT_ONCE = 1 << 20


class DamagedPart(ValueError):
    """A file of results that is not what was written."""


class ForeignPart(DamagedPart):
    """A file of results of another experiment."""


class Part(NamedTuple):
    """Results of combinations [start, stop) in one file; ``about``: where and how fast they were made."""

    start: int
    stop: int
    path: Path
    about: Mapping[str, Any]


def parquet() -> Any:
    """pyarrow's Parquet module.

    Raises:
        ImportError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("results on disk need pyarrow: pip install fastcomb[runs]") from error
    return pyarrow.parquet


def write(folder: Path, start: int, columns: Columns, about: Mapping[str, Any]) -> Part:
    """Write one part, and let it appear when it is complete and on disk.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    import pyarrow

    stop = start + len(next(iter(columns.values())))
    arrays = {"index": indices([(start, stop)]), **columns}
    table = pyarrow.table(arrays).replace_schema_metadata({_KEY: json.dumps(dict(about))})
    path = folder / f"part-{start:020d}-{stop:020d}.parquet"

    def fill(beside: Path) -> None:
        parquet().write_table(
            table,
            beside,
            compression="zstd",
            use_dictionary=False,
            column_encoding={"index": "DELTA_BINARY_PACKED"},
            write_page_checksum=True,
        )

    write_atomically(path, fill)
    return Part(start, stop, path, about)


def listed(folder: Path) -> list[Path]:
    """The files of a run, in order."""
    return sorted(path for path in folder.glob("part-*.parquet") if _NAME.fullmatch(path.name))


def opened(path: Path, experiment: str, names: Sequence[str]) -> Part:
    """A part by what its end says.

    Args:
        path: the file.
        experiment: digest of the experiment that it must be of.
        names: the columns that it must have.

    Raises:
        DamagedPart: it is cut off, or not what its name says.
        ForeignPart: it is of another experiment.
    """
    match = _NAME.fullmatch(path.name)
    assert match is not None
    start, stop = int(match[1]), int(match[2])
    try:
        with parquet().ParquetFile(path) as file:
            about = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"{}"))
            rows, columns = file.metadata.num_rows, set(file.schema_arrow.names)
    except _UNREADABLE as error:
        raise DamagedPart(f"{path} is damaged: {_first_line(error)}") from error
    if about.get("experiment") != experiment:
        raise ForeignPart(
            f"{path} holds results of another experiment than the manifest beside it says; move it away"
        )
    if rows != stop - start or not {"index", *names} <= columns:
        raise DamagedPart(f"{path} holds {rows} rows of {sorted(columns)}; its name and run say otherwise")
    return Part(start, stop, path, about)


class Parts(Rows):
    """Columns in files; a column is read when it is asked for.

    Args:
        parts: files of a run.
        names: of their columns.
        within: only these combinations, all if None.

    Raises:
        DamagedPart: two parts hold the same combination.
    """

    def __init__(self, parts: Sequence[Part], names: tuple[str, ...], within: Span | None = None) -> None:
        ordered = sorted(parts)
        for one, other in itertools.pairwise(ordered):
            if other.start < one.stop:
                raise DamagedPart(f"{one.path} and {other.path} hold the same combinations; delete one")
        low, high = within or (0, 1 << 64)
        self._taken = [
            (part, max(part.start, low), min(part.stop, high))
            for part in ordered
            if max(part.start, low) < min(part.stop, high)
        ]
        self.names = names
        self.spans = joined([(start, stop) for _, start, stop in self._taken])
        self._read: Columns = {}

    @property
    def parts(self) -> list[Part]:
        """The files that hold these combinations."""
        return [part for part, _, _ in self._taken]

    def pieces(self, *names: str) -> Iterator[tuple[int, Columns]]:
        """First index and columns of successive pieces, up to 1,048,576 combinations each.

        Raises:
            DamagedPart: a file cannot be read.
        """
        for part, start, stop in self._taken:
            try:
                yield from _read(part, start, stop, names)
            except _UNREADABLE as error:
                raise DamagedPart(
                    f"{part.path} is damaged ({_first_line(error)}); delete it and evaluate again with the "
                    "same out= to compute its combinations anew"
                ) from error

    def column(self, name: str) -> NDArray[Any]:
        """A whole column [n], which is kept; float32 [0] where there are no combinations.

        Raises:
            DamagedPart: a file cannot be read.
        """
        if name not in self._read:
            column: NDArray[Any] | None = None
            at = 0
            for _, columns in self.pieces(name):
                values = columns[name]
                if column is None:
                    column = np.empty(len(self), dtype=values.dtype)
                column[at : at + len(values)] = values
                at += len(values)
            self._read[name] = np.zeros(0, dtype=np.float32) if column is None else column
        return self._read[name]


def _read(part: Part, start: int, stop: int, names: Sequence[str]) -> Iterator[tuple[int, Columns]]:
    at = part.start
    with parquet().ParquetFile(part.path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(_READ_AT_ONCE, columns=list(names)):
            low, high = max(start, at), min(stop, at + len(batch))
            if low < high:
                columns = {name: batch[name].to_numpy(zero_copy_only=False) for name in names}
                yield low, {name: values[low - at : high - at] for name, values in columns.items()}
            at += len(batch)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
