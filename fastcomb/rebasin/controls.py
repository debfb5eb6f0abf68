"""Controls: what matching achieves is seen beside no matching and a random one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastcomb.rebasin.method import Match, Method, Problem, inner_product
from fastcomb.rebasin.symmetries import Matching


@dataclass(frozen=True)
class Identity(Method):
    """Leave network B as it is.

    Example:
        >>> fc.rebasin.align(a, b, fc.rebasin.Identity()).permutations[0].tolist()
        [0, 1, 2, 3, 4, 5, 6, 7]
    """

    name: ClassVar[str] = "identity"

    def match(self, problem: Problem) -> Match:
        """The identity; its inner product stands for both before and after."""
        return _measured(problem, problem.symmetries.identity())


@dataclass(frozen=True)
class Random(Method):
    """A uniformly random permutation of every group.

    Example:
        >>> found = fc.rebasin.align(a, b, fc.rebasin.Random(), seed=1)
        >>> sorted(found.permutations[0].tolist())
        [0, 1, 2, 3, 4, 5, 6, 7]
        >>> torch.allclose(found.model(x), b(x), atol=1e-5)
        True
    """

    name: ClassVar[str] = "random"

    def match(self, problem: Problem) -> Match:
        """A draw from the problem's seed, with the inner product before and after it."""
        return _measured(problem, problem.symmetries.random(problem.seed))


def _measured(problem: Problem, matching: Matching) -> Match:
    before = inner_product(problem, problem.symmetries.identity())
    return Match(matching, [before, inner_product(problem, matching)])
