"""The engine's instructions, whose fields csrc/ops.def lists, and what a pass consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastcomb.backends.criterion import Criterion
from fastcomb.backends.native.memory import Buffer, Operand, Place


@dataclass(frozen=True)
class Goal:
    """What a pass is for.

    Attributes:
        kind: "loss", "outputs" or "collect".
        loss: for "loss", settled on outputs and targets.
        classes: whether to count correct answers.
        rounded: whether outputs are in the compute dtype instead of float32.
    """

    kind: str
    loss: Criterion | None = None
    classes: bool = False
    rounded: bool = False


@dataclass
class Norm:
    """A stage of calibration ends with this layer's moments (csrc/cpu/engine.h, Collected)."""

    channels: int
    per_sample: int
    statistics: int
    eps: float
    gamma: Buffer | None
    beta: Buffer | None
    scale: Buffer
    shift: Buffer

    def given(self) -> tuple[Any, ...]:
        """As the engine takes it."""
        buffers = (self.gamma, self.beta, self.scale, self.shift)
        places = (None if buffer is None else buffer.place() for buffer in buffers)
        return (self.channels, self.per_sample, self.statistics, self.eps, *places)


@dataclass
class Instruction:
    """One operation.

    Attributes:
        op: its name.
        dtype: name of the dtype of values that have none of their own.
        operands: by field; those that are missing are left out.
        fields: all other fields.
    """

    op: str
    dtype: str
    operands: Mapping[str, Operand]
    fields: Mapping[str, Any]

    def given(self) -> tuple[str, str, dict[str, Any]]:
        """As the engine takes it, now that buffers have their places."""
        places: dict[str, Place] = {n: buffer.place(at) for n, (buffer, at) in self.operands.items()}
        return self.op, self.dtype, {**places, **self.fields}


@dataclass
class Lowered:
    """Instructions for blocks of so many samples.

    Attributes:
        ends: of stages, as numbers of instructions.
        norms: what ends a stage.
        arena, lasting: bytes of values of one stage; of values that later ones read.
        outputs: shape of a sample's results.
        inputs: names of the dtypes of what it reads.
    """

    samples: int
    instructions: list[Instruction]
    ends: list[int]
    norms: list[Norm]
    arena: int
    lasting: int
    outputs: list[tuple[int, ...]]
    inputs: list[str]
