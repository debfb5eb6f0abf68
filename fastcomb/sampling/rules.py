"""How kernels compute a law's coefficients, and how an operator's arguments say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: Ways to make a coefficient of a draw, as csrc/ops.def names them: its u; ``fma(u, span, low)``;
#: 1 where the draw is below the threshold, else 0; the law's table. Operators take their places in this list.
KINDS = ("unit", "uniform", "bernoulli", "table")


class Rule(NamedTuple):
    """A law in a few numbers.

    Attributes:
        kind: of :data:`KINDS`.
        low, span: of a uniform law, float32.
        threshold: draws below it give 1, for a Bernoulli law.
    """

    kind: str
    low: float = 0.0
    span: float = 0.0
    threshold: int = 0


def encoded(rules: Sequence[Rule]) -> list[float]:
    """Rules as operators take them: four numbers each, in a row."""
    return [float(n) for rule in rules for n in (KINDS.index(rule.kind), *rule[1:])]


def decoded(numbers: Sequence[float]) -> list[Rule]:
    """The inverse of :func:`encoded`."""
    rows = [numbers[at : at + 4] for at in range(0, len(numbers), 4)]
    return [Rule(KINDS[int(kind)], low, span, int(threshold)) for kind, low, span, threshold in rows]
