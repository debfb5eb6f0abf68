"""Weight matching: permutations that bring the weights of one network closest to another's.

Coordinate descent (:mod:`fastcomb.rebasin.descent`), made to end in better optima in two ways of ours: an
opening sweep that leaves out weights whose other side is not matched yet, and, after the descent, rounds
of scrambling one group and descending again (iterated local search; Lourenço, Martin and Stützle, in
"Handbook of Metaheuristics", 2003).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastcomb.rebasin.assignment import outer_groups
from fastcomb.rebasin.descent import Descent
from fastcomb.rebasin.method import Match, Method, Problem, check_count

#: Work of all rounds: some tenths of a second.
_WORK = 1e8


@dataclass(frozen=True)
class WeightMatching(Method):
    """Maximise the inner product of A's and permuted B's weights; no data needed.

    Args:
        starts: descents, of which the best counts. The first opens in two orders, with the data and from
            the least connected groups on, and goes on with the better; further ones in random orders.
        sweeps: most visits of all groups in a descent after its opening, and in each round.
        rounds: most scrambled groups after each descent; large networks get fewer, so that all rounds
            take some tenths of a second. 0 for coordinate descent alone.

    Raises:
        ValueError: a count below 1, or rounds below 0.

    Example:
        >>> b = fc.rebasin.align(a, a, "random", seed=1).model  # a with its units in another order
        >>> found = fc.rebasin.align(a, b, fc.rebasin.WeightMatching(starts=3))
        >>> torch.equal(found.model[0].weight, a[0].weight)
        True
    """

    name: ClassVar[str] = "weights"
    starts: int = 1
    sweeps: int = 100
    rounds: int = 100

    def __post_init__(self) -> None:
        check_count("starts", self.starts)
        check_count("sweeps", self.sweeps)
        check_count("rounds", self.rounds, least=0)

    def match(self, problem: Problem) -> Match:
        """The best of all starts, each an opening, coordinate descent and rounds of scrambling."""
        matches = []
        for start in range(self.starts):
            generator = np.random.default_rng([problem.seed, start])
            identity = Descent(problem, problem.symmetries.identity())
            opened = [self._opened(identity, order) for order in _orders(identity, start, generator)]
            best = max(opened, key=lambda descent: descent.value)  # the first of equals
            if best.value < identity.value:
                best = identity
            history = [identity.value, *([best.value] if best.value > identity.value else [])]
            history += best.settle(self.sweeps - 1, generator)
            history[-1] = max([best.measure(), *history[-2:-1]])
            matches.append(self._improved(best, history, generator))
        return max(matches, key=lambda match: match.objective[-1])

    def _opened(self, start: Descent, order: Iterable[int]) -> Descent:
        """After an opening and one whole sweep, whose result tells more."""
        descent = start.copy()
        descent.open(order)
        descent.sweep(outer_groups(descent.problem.symmetries), inside=True)
        return descent

    def _improved(self, descent: Descent, history: list[float], generator: np.random.Generator) -> Match:
        """Scramble single groups and descend again, and keep what is better."""
        outer = outer_groups(descent.problem.symmetries)
        spent, sweep, least = 0, descent.sweep_work(), 1e-7 * abs(descent.value)
        for _ in range(self.rounds):
            if spent + sweep > _WORK:
                break
            trial = descent.copy()
            trial.work = 0
            trial.scramble(outer[int(generator.integers(len(outer)))], generator)
            trial.settle(self.sweeps, generator)
            spent += trial.work
            if trial.measure() > descent.value + least:
                descent = trial
                history.append(descent.value)
        return Match(descent.matching, history)


def _orders(descent: Descent, start: int, generator: np.random.Generator) -> Iterator[Iterable[int]]:
    """Orders of the opening sweep."""
    outer = outer_groups(descent.problem.symmetries)
    if start:
        yield generator.permutation(outer).tolist()
        return
    yield outer
    yield _closing(descent, outer)


def _closing(descent: Descent, outer: list[int]) -> Iterator[int]:
    """Next comes the group with the fewest weights towards groups that are yet to come."""
    left, done = list(outer), set[int]()
    while left:
        number = min(left, key=lambda n: descent.unmatched(n, done))
        left.remove(number)
        done |= {number, *descent.problem.symmetries.inside(number)}
        yield number
