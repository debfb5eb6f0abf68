"""What is generated for every combination, and how the engine wants it laid out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastcomb.backends.native.memory import Buffer, Space


@dataclass(frozen=True)
class Layout:
    """How a weight [outputs, inner] is packed.

    Attributes:
        outputs, inner: rows that are packed and entries in a row.
        first: number of the first of these rows in the parameter.
        inverse: entry of each packed row, -1 for a row of zeros.
    """

    outputs: int
    inner: int
    first: int
    inverse: tuple[int, ...]

    @property
    def place(self) -> list[int]:
        """Packed row of each entry; empty where it has the same number."""
        place = [0] * self.inner
        for row, entry in enumerate(self.inverse):
            if entry >= 0:
                place[entry] = row
        return [] if place == list(range(self.inner)) else place


def linear_layout(outputs: int, inner: int, *, even: bool) -> Layout:
    """Of a matrix [outputs, inner]; with ``even`` an odd inner dimension gets a row of zeros."""
    rows = inner + (inner % 2 if even else 0)
    return Layout(outputs, inner, 0, tuple(k if k < inner else -1 for k in range(rows)))


def conv_layout(shape: tuple[int, ...], wide: int, group: int = 0, groups: int = 1) -> Layout:
    """Of a kernel [O, I, kh, kw]: entries in the order (kh, kw, I), ``wide`` instead of I channels."""
    outputs, inputs, kh, kw = shape
    inverse = [
        (i * kh + y) * kw + x if i < inputs else -1 for y in range(kh) for x in range(kw) for i in range(wide)
    ]
    per_group = outputs // groups
    return Layout(per_group, inputs * kh * kw, group * per_group, tuple(inverse))


@dataclass(eq=False)
class Generated:
    """A parameter in one form (of csrc/ops.def): where, and how."""

    name: str
    form: str
    buffer: Buffer
    layout: Layout | None = None


class Weights:
    """The registry of everything in the engine's weight memory.

    Args:
        shapes: of the mixed parameters.
        dtype: compute dtype.
        width: lanes of a vector.
    """

    def __init__(
        self, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, width: int, pairs: bool
    ) -> None:
        self.shapes = shapes
        self.dtype = dtype
        self.width = width
        self.pairs = pairs
        self.bytes = 0
        self._generated: dict[object, Generated] = {}
        self._derived: dict[object, Buffer] = {}

    @property
    def generated(self) -> list[Generated]:
        """Every parameter in each form that was asked for, in that order."""
        return list(self._generated.values())

    def packed(self, name: str, layout: Layout) -> Buffer:
        """A weight as matrix products read it, padded to whole vectors: float32, or bfloat16 in pairs."""
        half = self.pairs and self.dtype == torch.bfloat16
        lanes = -(-layout.outputs // self.width) * self.width
        kind = torch.bfloat16 if half else torch.float32
        return self._get((name, layout), name, "packed", lanes * len(layout.inverse), kind, layout)

    def plain(self, name: str, dtype: torch.dtype) -> Buffer:
        """Row-major values as ``dtype``; float32 holds values rounded to the compute dtype."""
        wide = "float" if self.dtype == torch.float32 else "rounded"
        form = "half" if dtype == torch.bfloat16 else wide
        count = torch.Size(self.shapes[name]).numel()
        return self._get((name, form), name, form, count, dtype, None)

    def derived(self, key: object, count: int) -> tuple[Buffer, bool]:
        """Room for ``count`` float32 values that are worked out; whether it is new."""
        new = key not in self._derived
        if new:
            self._derived[key] = self._room(count, torch.float32)
        return self._derived[key], new

    def _get(
        self, key: object, name: str, form: str, count: int, dtype: torch.dtype, layout: Layout | None
    ) -> Buffer:
        if key not in self._generated:
            self._generated[key] = Generated(name, form, self._room(count, dtype), layout)
        return self._generated[key].buffer

    def _room(self, count: int, dtype: torch.dtype) -> Buffer:
        buffer = Buffer(count, dtype, Space.WEIGHTS, self.bytes)
        self.bytes += buffer.bytes
        return buffer


class Constants:
    """Values that are the same for all combinations, in one block of bytes."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._known: dict[object, Buffer] = {}
        self._values: dict[Buffer, Tensor] = {}
        self._bytes = 0

    def __contains__(self, buffer: Buffer) -> bool:
        return buffer in self._values

    def of(self, buffer: Buffer) -> Tensor:
        """The value that a buffer holds."""
        return self._values[buffer]

    def outside(self, buffer: Buffer, entries: int) -> bool:
        """Whether a constant holds anything but numbers of so many entries."""
        values = self._values[buffer]
        return bool(((values < 0) | (values >= entries)).any())

    def add(self, key: object, value: Tensor) -> Buffer:
        """The buffer of a value; the first value of a key is the one that is kept."""
        if key not in self._known:
            value = value.detach().contiguous()
            buffer = Buffer(value.numel(), value.dtype, Space.CONSTANTS, self._bytes)
            flat = torch.zeros(buffer.bytes, dtype=torch.uint8)
            flat[: value.nbytes] = value.reshape(-1).view(torch.uint8)
            self._parts.append(flat)
            self._bytes += buffer.bytes
            self._known[key] = buffer
            self._values[buffer] = value
        return self._known[key]

    def block(self) -> Tensor:
        """All values at their offsets, uint8 [bytes], and 64 bytes after the last."""
        return torch.cat([*self._parts, torch.zeros(64, dtype=torch.uint8)])
