"""The engine's instructions, as csrc/engine.h numbers them, and what a pass consists of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from fastcomb.backends.native.memory import Buffer, Space

#: Numbers of element-wise operations (csrc/kernels.h).
RELU, IDENTITY = 0, 17
ADD, SUB, MUL, DIV = range(4)

Place = tuple[Buffer | None, int]


class Op(IntEnum):
    """What an instruction does."""

    CONTRACT = 0
    UNARY = 1
    BINARY = 2
    AFFINE = 3
    CONVERT = 4
    POOL = 5
    DEPTHWISE = 6
    LAYER_NORM = 7
    SOFTMAX = 8
    GROUP_NORM = 9
    REDUCE = 10
    ATTENTION = 11
    MOMENTS = 12
    LOSS = 13
    BORDER = 14
    EMBEDDING = 15
    FOLD = 16
    TRANSPOSE = 17
    ZERO = 18


@dataclass(frozen=True)
class Goal:
    """What a pass is for.

    Attributes:
        kind: "loss", "outputs" or "collect".
        loss: of LOSS_KINDS, for "loss".
        classes: whether to count correct classifications.
        rounded: whether outputs are in the compute dtype instead of float32.
    """

    kind: str
    loss: str = ""
    classes: bool = False
    rounded: bool = False


@dataclass
class Norm:
    """A stage of calibration ends with this layer's moments (csrc/engine.h, Collected)."""

    channels: int
    per_sample: int
    statistics: int
    eps: float
    gamma: Buffer | None
    beta: Buffer | None
    scale: Buffer
    shift: Buffer


@dataclass
class Instruction:
    op: int
    storage: int
    places: list[Place]
    numbers: list[int]
    factors: list[float]

    def given(self) -> tuple[int, int, list[tuple[int, int, int]], list[int], list[float]]:
        """As the engine takes it."""
        return self.op, self.storage, [place(*p) for p in self.places], self.numbers, self.factors


def place(buffer: Buffer | None, elements: int = 0) -> tuple[int, int, int]:
    if buffer is None:
        return (Space.NONE, 0, 0)
    return (buffer.space, buffer.offset + elements * buffer.dtype.itemsize, buffer.step)


def at(buffer: Buffer | None, elements: int = 0) -> Place:
    """A place some elements into a buffer; None stands for no operand."""
    return (buffer, elements)


@dataclass
class Lowered:
    """Instructions for blocks of so many samples."""

    samples: int
    instructions: list[Instruction]
    ends: list[int]
    norms: list[Norm]
    arena: int
    lasting: int
    output: tuple[int, ...]
