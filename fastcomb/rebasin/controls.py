"""Controls: what matching achieves is seen beside no matching and a random one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastcomb.rebasin.method import Match, Method, Problem, inner_product
from fastcomb.rebasin.symmetries import Matching


@dataclass(frozen=True)
class Identity(Method):
    """Leave network B as it is."""

    name: ClassVar[str] = "identity"

    def match(self, problem: Problem) -> Match:
        """The identity; its inner product stands for both before and after."""
        return _measured(problem, problem.symmetries.identity())


@dataclass(frozen=True)
class Random(Method):
    """A uniformly random permutation of every group."""

    name: ClassVar[str] = "random"

    def match(self, problem: Problem) -> Match:
        """A draw from the problem's seed, with the inner product before and after it."""
        return _measured(problem, problem.symmetries.random(problem.seed))


def _measured(problem: Problem, matching: Matching) -> Match:
    before = inner_product(problem, problem.symmetries.identity())
    return Match(matching, [before, inner_product(problem, matching)])
