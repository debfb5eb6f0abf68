"""Mixed parameters and their laws, as operators and kernels take them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastcomb.sampling.rules import Rule, decoded


class Mixed(NamedTuple):
    """A mixed parameter: the first network's values, those of the others [s, ...], its unit of the stream."""

    a: Tensor
    others: Tensor
    unit: list[int]

    @property
    def sharing(self) -> str:
        """Which entries share a draw: "element", "row" or "all" (csrc/ops.def)."""
        return sharing(self.unit, self.a.numel())


class Laws(NamedTuple):
    """The laws and stream of a mixture (:func:`fastcomb.mixing.ops.mix`)."""

    tables: Tensor
    law_rules: list[float]
    stream_key: list[int]

    @property
    def steps(self) -> list[Rule]:
        """The rule of each step towards another network."""
        return decoded(self.law_rules)

    @property
    def seed(self) -> int:
        """Of the stream."""
        return self.stream_key[0] | self.stream_key[1] << 32

    @property
    def bits(self) -> int:
        """Of a draw: 16 or 32."""
        return self.stream_key[2]

    @property
    def ends(self) -> bool:
        """Whether a coefficient may be exactly 0 or 1, or there are several steps."""
        return bool(self.stream_key[3])

    @property
    def one(self) -> Rule:
        """The rule that serves all steps: their own where there is one, else to look up tables."""
        return self.steps[0] if len(self.tables) == 1 else Rule("table")


def sharing(unit: list[int], elements: int) -> str:
    """How a unit's draws serve a parameter of so many elements."""
    _, count, per_row = unit
    return "row" if per_row else "element" if count == elements else "all"
