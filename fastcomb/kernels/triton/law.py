"""A law as kernels take it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

_TABLE = 3


class Law(NamedTuple):
    """Numbers of a law, from the arguments of ``fastcomb::mix``.

    Attributes:
        kind: as in ``ScalarSampler.rule``; several steps always look up tables.
        lowest, span: of a uniform law.
        threshold: of a Bernoulli law.
        bits: per draw.
        ends: whether coefficients may be exactly 0 or 1.
    """

    kind: int
    lowest: float
    span: float
    threshold: int
    bits: int
    ends: bool

    @staticmethod
    def of(tables: Tensor, rules: list[float], draw: list[int]) -> Law:
        kind, lowest, span, threshold = rules[:4]
        kind = int(kind) if len(tables) == 1 else _TABLE
        return Law(kind, lowest, span, int(threshold), draw[2], bool(draw[3]))
