"""What every measurement here yields: a frozen record with a table, a picture and a file."""

from __future__ import annotations

import abc
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, get_args, get_origin, get_type_hints

import numpy as np

from fastcomb.utils.files import write_atomically

METRICS = ("loss", "accuracy")


def measured(accuracy: np.ndarray[Any, Any]) -> tuple[str, ...]:
    """Those of :data:`METRICS` that a task has: without classes all accuracies are NaN."""
    return METRICS[:1] if np.isnan(accuracy).all() else METRICS


class Result(abc.ABC):
    """Base of results: frozen dataclasses of numbers, float64 arrays, tuples, and mappings of results.

    Two results are equal if all their fields are, NaN counting as equal to NaN.
    """

    @property
    @abc.abstractmethod
    def headline(self) -> str:
        """The finding in a few words."""

    @abc.abstractmethod
    def table(self) -> str:
        """The numbers as a Markdown table with aligned columns."""

    @abc.abstractmethod
    def plot(self, path: str | Path) -> Path:
        """Write a picture (format by the file's suffix); returns its path.

        Raises:
            ImportError: matplotlib is not installed.
        """

    def save(self, path: str | Path) -> Path:
        """Write all fields as JSON, complete or not at all; returns the path. :meth:`load` reads it."""
        path = Path(path)
        record = {"format": self._format(), **_encoded(self)}
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        write_atomically(path, lambda beside: beside.write_text(text, "utf-8"))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a saved result, equal to the one that was saved.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds something else.
        """
        try:
            record = json.loads(Path(path).read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not a saved {cls.__name__}: {error}") from error
        file_format = record.get("format") if isinstance(record, dict) else None
        if file_format != cls._format():
            raise ValueError(f"{path} is not a saved {cls.__name__}; its format is {file_format!r}")
        loaded: Self = _decoded(cls, record)
        return loaded

    @classmethod
    def _format(cls) -> str:
        return f"fastcomb {cls.__name__.lower()} 1"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _encoded(self) == _encoded(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """A Markdown table with aligned columns: text to the left, numbers (four digits) to the right."""
    cells = [[cell if isinstance(cell, str) else f"{cell:.4g}" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    left = [isinstance(cell, str) for cell in rows[0]]
    rule = [("-" * (w + 1) + ("-" if to else ":")) for w, to in zip(widths, left, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [c.ljust(w) if to else c.rjust(w) for c, w, to in zip(row, widths, left, strict=True)]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(header), f"|{'|'.join(rule)}|", *map(line, cells)])


def _encoded(value: Any) -> Any:
    """As JSON has it; numbers that are not finite become text, which float() reads back."""
    if isinstance(value, Result):
        return {f.name: _encoded(getattr(value, f.name)) for f in dataclasses.fields(value)}  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return {name: _encoded(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _decoded(kind: Any, value: Any) -> Any:
    """The inverse of :func:`_encoded` for a field of type ``kind``."""
    origin = get_origin(kind) or kind
    if issubclass(origin, Result):
        hints = get_type_hints(origin)
        names = [field.name for field in dataclasses.fields(origin)]
        return origin(**{name: _decoded(hints[name], value[name]) for name in names})
    if issubclass(origin, Mapping):
        return {name: _decoded(get_args(kind)[1], item) for name, item in value.items()}
    if issubclass(origin, np.ndarray):
        return np.array(value, dtype=np.float64)
    if issubclass(origin, tuple):
        return tuple(get_args(kind)[0](item) for item in value)
    return origin(value)
