"""Buffers of a lowered program: what they are, when they live, where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

ALIGNMENT = 64
#: Bytes of a line of the first-level cache, and bytes after which lines share their places in it.
_CACHE_LINE, _CACHE_WAY = 64, 4096

#: Where a value starts: memory, which of the inputs (0 elsewhere), bytes into it, bytes between blocks.
Place = tuple[str, int, int, int]


class Space(StrEnum):
    """Memories that operands lie in, as csrc/ops.def names them."""

    ARENA = "arena"
    LASTING = "lasting"
    WEIGHTS = "weights"
    CONSTANTS = "constants"
    STATISTICS = "statistics"
    OUTPUT = "output"
    INPUT = "input"


@dataclass(eq=False)
class Buffer:
    """Memory of one value of a block of samples.

    Attributes:
        count: elements.
        space: where it lies.
        offset: bytes into the space.
        step: bytes between blocks.
        first, last: numbers of the instructions that write it first and touch it last.
        pad: zeros around the image on each side (rows, columns), for channels-last values.
        which: number of the input that it is.
    """

    count: int
    dtype: torch.dtype
    space: Space = Space.ARENA
    offset: int = 0
    step: int = 0
    first: int = -1
    last: int = -1
    pad: tuple[int, int] = (0, 0)
    which: int = 0

    def place(self, elements: int = 0) -> Place:
        """Where it starts, or some elements on."""
        return (self.space.value, self.which, self.offset + elements * self.dtype.itemsize, self.step)

    @property
    def bytes(self) -> int:
        """Bytes that it takes, a multiple of :data:`ALIGNMENT`."""
        return -(-self.count * self.dtype.itemsize // ALIGNMENT) * ALIGNMENT

    def touch(self, number: int) -> None:
        """Note that instruction ``number`` reads or writes it; instructions come in ascending order."""
        self.first = number if self.first < 0 else self.first
        self.last = number


@dataclass(eq=False)
class Value:
    """A view of a buffer: ``meta`` (a meta tensor) has its shape, strides and offset in elements.

    Attributes:
        key: names what made it, the same in every lowering of a program.
        whole: whether it is all that its buffer holds (padding aside).
    """

    buffer: Buffer
    meta: Tensor
    key: str = ""
    whole: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each dimension of the view."""
        return tuple(self.meta.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements between neighbours along each dimension of the view."""
        return self.meta.stride()

    @property
    def offset(self) -> int:
        """Elements from the start of the buffer to the first of the view."""
        return int(self.meta.storage_offset())

    @property
    def images(self) -> bool:
        """Whether it is [N, C, W], [N, C, H, W] or [N, C, D, H, W] with the channels innermost."""
        return self.meta.ndim in (3, 4, 5) and self.strides[1] == 1

    def view(self, meta: Tensor) -> Value:
        """Another view of the same buffer; it has no key and counts as a part."""
        return Value(self.buffer, meta)

    def tall(self) -> Value:
        """[N, C, W] as images [N, C, 1, W]."""
        return Value(self.buffer, self.meta.unsqueeze(2), self.key, self.whole)

    def at(self, elements: int) -> Operand:
        """Some elements from the start of its buffer."""
        return (self.buffer, elements)

    def shares(self, meta: Tensor) -> bool:
        """Whether a tensor derived from ``meta`` is a view of it."""
        return bool(meta.untyped_storage()._cdata == self.meta.untyped_storage()._cdata)


#: A buffer, and elements into it.
Operand = tuple[Buffer, int]


def images(
    shape: Sequence[int], dtype: torch.dtype, pad: tuple[int, int] = (0, 0), channels: int = 0
) -> Tensor:
    """Meta tensor [N, C, H, W] or [N, C, W], channels innermost, inside a frame of ``pad`` rows and columns.

    Volumes [N, C, D, H, W] have no frame.

    ``channels``: elements between pixels where they are more than C.
    """
    if len(shape) == 5:
        volumes = torch.empty(shape[0], *shape[2:], channels or shape[1], dtype=dtype, device="meta")
        return volumes[..., : shape[1]].permute(0, 4, 1, 2, 3)
    if len(shape) == 3:
        return images((*shape[:2], 1, shape[2]), dtype, pad, channels).squeeze(2)
    n, c, h, w = shape
    (top, left), wide = pad, channels or c
    frame = torch.empty(n, h + 2 * top, w + 2 * left, wide, dtype=dtype, device="meta")
    return frame[:, top : top + h, left : left + w, :c].permute(0, 3, 1, 2)


def pitch(width: int, dtype: torch.dtype) -> int:
    """Elements from one row of a matrix to the next that let the cache hold several rows side by side.

    What lies a multiple of 4096 bytes apart falls on the same few lines of it, and a product reads a dozen
    rows at a time.
    """
    return width if width * dtype.itemsize % _CACHE_WAY else width + _CACHE_LINE // dtype.itemsize


def image_strides(x: Value, out: Value) -> dict[str, int]:
    """The fields that say how images lie: strides of batch, rows and pixels."""
    return {
        f"{name}_{what}": value.strides[d]
        for name, value in (("in", x), ("out", out))
        for what, d in (("batch", 0), ("row", 2), ("pixel", 3))
    }


def allocate(buffers: Sequence[Buffer]) -> int:
    """Give offsets to buffers such that those alive together don't overlap; the bytes needed."""
    placed: list[Buffer] = []
    total = 0
    for buffer in sorted(buffers, key=lambda b: -b.bytes):
        taken = sorted(
            (other.offset, other.offset + other.bytes)
            for other in placed
            if other.first <= buffer.last and buffer.first <= other.last
        )
        offset = 0
        for low, high in taken:
            if offset + buffer.bytes <= low:
                break
            offset = max(offset, high)
        buffer.offset = offset
        placed.append(buffer)
        total = max(total, offset + buffer.bytes)
    return total


@dataclass
class Loops:
    """Nested loops over elements, outermost first: sizes, and each operand's strides."""

    size: list[int]
    strides: list[list[int]] = field(default_factory=list)


def loops(shape: Sequence[int], *strides: Sequence[int], dims: int = 6, keep_last: bool = False) -> Loops:
    """Merge dimensions that all operands step through evenly; order them by the last operand's strides.

    Args:
        shape: of all operands.
        *strides: of each operand, in elements.
        dims: how many loops the engine has.
        keep_last: leave the last dimension innermost and unmerged.

    Raises:
        ValueError: more loops remain.
    """
    order = [d for d in range(len(shape)) if shape[d] != 1 or (keep_last and d == len(shape) - 1)]
    inner = order[-1:] if keep_last else []
    outer = [d for d in order if d not in inner]
    outer.sort(key=lambda d: tuple(-s[d] for s in reversed(strides)))
    groups: list[list[int]] = []  # [size, strides...]
    for d in outer:
        row = [shape[d], *(s[d] for s in strides)]
        before = groups[-1] if groups else None
        if before and all(b == s * shape[d] for b, s in zip(before[1:], row[1:], strict=True)):
            groups[-1] = [before[0] * row[0], *row[1:]]
        else:
            groups.append(row)
    groups += [[shape[d], *(s[d] for s in strides)] for d in inner]
    if len(groups) > dims:
        raise ValueError("too many dimensions")
    groups = [[1, *(0 for _ in strides)]] * (dims - len(groups)) + groups
    return Loops([g[0] for g in groups], [[g[1 + i] for g in groups] for i in range(len(strides))])
