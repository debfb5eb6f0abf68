"""Writes the source of a random module, trying every piece on a sample as it goes."""

from __future__ import annotations

import linecache
import math
import random
import re
import textwrap
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune  # noqa: F401 - generated sources use nn.utils.prune
from torch.utils.checkpoint import checkpoint

from tests.fuzz import blocks

_WIDTHS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 63)
_CONSTANTS = ("0.5", "2.0", "-1.5", "0.1", "3")
_MOST_VALUES = 1500  # per sample
_LARGEST = 1e3
_MOST_DIMENSIONS = 4

Scope = dict[str, Any]


def scope() -> Scope:
    """What a generated source sees."""
    return {"torch": torch, "nn": nn, "F": F, "math": math, "blocks": blocks, "checkpoint": checkpoint}


class Draft:
    """A module being written: lines of ``__init__`` and ``forward``, and the value h they lead to.

    Args:
        rng: draws all choices.
        x: a sample input; is not changed.
    """

    def __init__(self, rng: random.Random, x: Tensor) -> None:
        self.rng = rng
        self.inits: list[str] = []
        self.lines: list[str] = ["h = x"]
        self._kept: list[str] = []
        self._counts = 0
        self._scope = scope() | {"self": nn.Module(), "x": x.clone()}
        self._scope["self"].eval()
        self._scope["h"] = self._scope["x"]

    @property
    def h(self) -> Tensor:
        """The value so far."""
        value: Tensor = self._scope["h"]
        return value

    def add(self, piece: str, *, final: bool = False, **given: int) -> bool:
        """Append a piece if it runs on the sample and leaves a value to go on with.

        Args:
            piece: its lines, with placeholders.
            final: it makes the result, which may be anything.
            **given: more placeholders.
        """
        try:
            inits, lines = self._written(piece, given)
        except LookupError:  # nothing fits a placeholder
            return False
        trial = self._scope.copy()
        for name in ("h", *self._kept):  # a piece may write to what it reads, and earlier values share memory
            trial[name] = self._scope[name]
        before = {name: value.clone() for name, value in self._values().items()}
        try:
            with torch.no_grad():
                for line in (*inits, *lines):
                    exec(line, trial)
            good = final or self._goes_on(trial["h"])
        except Exception:
            good = False
        if not good:
            for name, value in before.items():
                self._scope[name].copy_(value)
            return False
        trial["self"].eval()
        self._scope = trial
        self.inits += inits
        self.lines += lines
        return True

    def keep(self) -> None:
        """Let later pieces read the value as it is now."""
        name = f"r{len(self._kept)}"
        self._scope[name] = self._scope["h"]
        self.lines.append(f"{name} = h")
        self._kept.append(name)

    def source(self) -> str:
        """The class, as it would be written by hand."""
        inits = textwrap.indent("\n".join(["super().__init__()", *self.inits]), " " * 8)
        unread = {f"{name} = h" for name in self._kept if not any(_reads(line, name) for line in self.lines)}
        read = [line for line in self.lines if line not in unread]
        lines = textwrap.indent("\n".join([*read, "return h"]), " " * 8)
        return (
            f"class Net(nn.Module):\n    def __init__(self):\n{inits}\n\n    def forward(self, x):\n{lines}\n"
        )

    def _values(self) -> dict[str, Tensor]:
        names = ("x", "h", *self._kept)
        return {name: self._scope[name] for name in names if not _shared(self._scope[name])}

    def _goes_on(self, h: Any) -> bool:
        samples = len(self._scope["x"])
        return (
            isinstance(h, Tensor)
            and h.is_floating_point()
            and 2 <= h.ndim <= _MOST_DIMENSIONS
            and len(h) == samples
            and 0 < h.numel() <= _MOST_VALUES * samples
            and bool(h.isfinite().all())
            and float(h.abs().max()) < _LARGEST
            and h.dtype == torch.float32
        )

    def _written(self, piece: str, given: dict[str, int]) -> tuple[list[str], list[str]]:
        """Its lines with placeholders filled in."""
        drawn: dict[str, str] = {}
        text = re.sub(r"<([^<>]+)>", lambda match: self._filled(match[1], given, drawn), piece)
        names: dict[str, str] = {}
        inits: list[str] = []
        lines = []
        for line in text.split("; "):
            first = line.startswith("init ")
            made, line = self._attributes(line.removeprefix("init "), names)
            inits += made
            (inits if first else lines).append(line)
        return inits, lines

    def _filled(self, what: str, given: dict[str, int], drawn: dict[str, str]) -> str:
        if "|" in what:
            return self.rng.choice(what.split("|"))
        if what in given:
            return str(given[what])
        if what in ("w", "u", "k", "f"):
            pool: tuple[Any, ...] = {"w": _WIDTHS, "u": _WIDTHS, "k": (1, 2, 3), "f": _CONSTANTS}[what]
            if what == "f":
                return str(self.rng.choice(pool))
            return drawn.setdefault(what, str(self.rng.choice(pool)))
        shape = self.h.shape
        if what in ("r", "p"):
            fitting = [name for name in self._kept if what == "p" or self._scope[name].shape == shape]
            return self.rng.choice(fitting)
        return str(shape[{"D": -1, "C": 1, "T": 1, "H": 2, "W": 3}[what]])

    def _attributes(self, line: str, names: dict[str, str]) -> tuple[list[str], str]:
        """The line with ``$name{…}`` replaced by attributes, and the lines that make them."""
        made: list[str] = []
        while match := re.search(r"\$(\w+)(?::(buffer|hidden))?\{", line):
            end = _closing(line, match.end())
            value = line[match.end() : end]
            name = f"{match[1]}{self._counts}"
            self._counts += 1
            names[match[1]] = name
            if match[2]:
                extra = ", persistent=False" if match[2] == "hidden" else ""
                made.append(f'self.register_buffer("{name}", {value}{extra})')
            else:
                made.append(f"self.{name} = {value}")
            line = f"{line[: match.start()]}self.{name}{line[end + 1 :]}"
        for short in re.findall(r"\$(\w+)", line):
            if short not in names:
                names[short] = f"{short}{self._counts}"
                self._counts += 1
        return made, re.sub(r"\$(\w+)", lambda match: f"self.{names[match[1]]}", line)


def compiled(source: str, label: str) -> type[nn.Module]:
    """The class of a source; tracebacks can show its lines."""
    file = f"<{label}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space = scope() | {"__name__": __name__}
    exec(compile(source, file, "exec"), space)
    made: type[nn.Module] = space["Net"]
    return made


def _closing(text: str, start: int) -> int:
    """Where the brace that is open at ``start`` closes."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return place
    raise ValueError(f"a brace of {text!r} is not closed")


def _reads(line: str, name: str) -> bool:
    return not line.startswith(f"{name} =") and re.search(rf"\b{name}\b", line) is not None


def _shared(tensor: Tensor) -> bool:
    """Whether entries of the tensor share memory, so that it cannot be written back."""
    return any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))
