"""Subset simulation: the probability of a rare event as a product of probabilities that are not rare.

Nothing here knows about networks: a problem is a score of points in standard normal space, and the event
is that the score is below a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fastcomb.statistics.density import Array

#: Acceptance rate that the steps are adapted to, and the first step (Papaioannou et al., 2015).
ACCEPTANCE = 0.44
FIRST_STEP = 0.6
#: Values at which the distribution function is recorded between two thresholds.
_MARKS = 8


class Problem(Protocol):
    """A score on standard normal space of ``width`` dimensions, with an endless list of plain draws.

    Points are float32 on ``device``.
    """

    width: int
    device: torch.device

    def plain(self, first: int, count: int) -> Array:
        """Scores [count] of plain draws ``first``, ``first + 1``, …; NaN where there is none."""

    def draw(self, numbers: list[int], generator: torch.Generator) -> Tensor:
        """Points [K, width] of the plain draws with these numbers, standard normal."""

    def score(self, points: Tensor) -> Array:
        """Scores [K] of points [K, width]; NaN where there is none."""


@dataclass(frozen=True)
class Size:
    """Chains of a level: so many, each of ``length`` points with the one it starts from."""

    chains: int
    length: int

    @staticmethod
    def of(n: int, p0: float) -> Size:
        """At most n points of which a fraction of about p0 start chains."""
        length = max(2, round(1 / p0))
        return Size(n // length, length)

    @property
    def points(self) -> int:
        """Points of a level."""
        return self.chains * self.length

    @property
    def moves(self) -> int:
        """Points of a level that have to be scored: the starts of chains are known."""
        return self.points - self.chains

    def scored(self, thresholds: int) -> int:
        """Points that a run with so many thresholds scores."""
        return self.points + thresholds * self.moves


@dataclass
class Plan:
    """What a pilot run settles, so that the runs after it have nothing left to choose.

    Attributes:
        thresholds: scores t_1 > t_2 > … > t_m at or above the level.
        steps: of the chains below each threshold.
        marks: before each threshold, and before the level, values at which the distribution function is
            recorded, descending; the threshold itself is the last.
        reached: whether the level follows the last threshold; else a plateau or the number of levels
            stopped the pilot.
    """

    thresholds: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    marks: list[list[float]] = field(default_factory=list)
    reached: bool = False


@dataclass(frozen=True)
class Run:
    """One run along a plan of m thresholds.

    Attributes:
        conditional: float64 [m + 1], fractions of a level's points that pass the next threshold, and the
            level.
        curve: float64 [G], estimated probability of a score up to each mark, and last of the event: the
            product of ``conditional``.
        plain: float64 [G], how many of the plain draws are counted for each of these.
        acceptance: float64 [m], accepted moves below each threshold; NaN where no chain was left.
    """

    conditional: Array
    curve: Array
    plain: Array
    acceptance: Array


class _Population:
    """The points of a level and their scores; those of the level before are overwritten.

    Before the first threshold they are plain draws, which are scored by their numbers and made only
    where chains start.
    """

    def __init__(
        self,
        problem: Problem,
        size: Size,
        first: int,
        generator: torch.Generator,
        done: Callable[[int], object],
    ) -> None:
        self.problem, self.size, self.first, self.generator, self.done = problem, size, first, generator, done
        self.points: Tensor | None = None
        self.scores = _numbers(problem.plain(first, size.points))
        done(size.points)

    def starts(self, threshold: float) -> tuple[Tensor, Array]:
        """A fixed number of points at or below the threshold, each as often as another, give or take one.

        Fixed, since chains of a length that depended on how many points pass would bias the estimate.
        """
        passed = np.flatnonzero(self.scores <= threshold)
        where = self.generator.device
        order = torch.randperm(len(passed), generator=self.generator, device=where).cpu().numpy()
        chosen = np.resize(passed[order], self.size.chains)
        if self.points is None:
            numbers = [self.first + int(number) for number in chosen]
            return self.problem.draw(numbers, self.generator), self.scores[chosen]
        return self.points[torch.from_numpy(chosen).to(where)], self.scores[chosen]

    def move(self, threshold: float, step: float, *, adapt: bool) -> tuple[float, float]:
        """Replace the points by chains at or below the threshold; returns acceptance rate and last step.

        A move is z ← √(1 − s²) z + s ξ with a standard normal ξ, refused where the score comes out above
        the threshold: it leaves the normal law under this condition as it is, in any dimension (Papaioannou,
        Betz, Zwirglmaier and Straub, "MCMC algorithms for subset simulation", 2015; also known as
        preconditioned Crank–Nicolson: Cotter, Roberts, Stuart and White, "MCMC methods for functions:
        modifying old algorithms to make them faster", 2013). Steps are adapted as Papaioannou et al. do.
        """
        now, scores = self.starts(threshold)
        chains = self.size.chains
        if self.points is None:
            self.points = torch.empty(self.size.points, now.shape[1], device=now.device)
        self.points[:chains] = now
        self.scores[:chains] = scores
        accepted = 0
        for number in range(1, self.size.length):
            proposed = torch.randn(now.shape, generator=self.generator, device=now.device)
            proposed.mul_(step).add_(now, alpha=math.sqrt(1 - step * step))
            proposed_scores = _numbers(self.problem.score(proposed))
            inside = proposed_scores <= threshold
            keep = torch.from_numpy(inside).to(now.device)[:, None]
            part = slice(number * chains, (number + 1) * chains)
            now = torch.where(keep, proposed, now, out=self.points[part])
            scores = np.where(inside, proposed_scores, scores)
            self.scores[part] = scores
            accepted += int(inside.sum())
            if adapt:
                step = min(1.0, step * math.exp((inside.mean() - ACCEPTANCE) / math.sqrt(number)))
            self.done(chains)
        return accepted / self.size.moves, step


def explore(
    problem: Problem,
    level: float,
    size: Size,
    *,
    first: int,
    most: int,
    generator: torch.Generator,
    done: Callable[[int], object],
) -> Plan:
    """Find thresholds that about ``1 / size.length`` of the points pass, one after the other, and steps.

    Thresholds are passed by scores equal to them, so that points on a plateau all pass or all fail; where
    most points share one score the next threshold is the next lower score that was seen.

    Args:
        problem: the score.
        level: of the event ``score < level``.
        size: of a level's population.
        first: number of the first plain draw.
        most: thresholds at most.
        generator: of random numbers, on the points' device.
        done: is told how many points have been scored.
    """
    population = _Population(problem, size, first, generator, done)
    plan = Plan()
    threshold, step = math.inf, FIRST_STEP
    while True:
        scores = population.scores
        next_threshold = float(np.partition(scores, size.chains - 1)[size.chains - 1])
        if next_threshold >= threshold:
            next_threshold = float(np.max(scores[scores < threshold], initial=-math.inf))
        if next_threshold < level or len(plan.thresholds) == most:
            plan.marks.append(_marks(scores, level, threshold))
            plan.reached = next_threshold < level and bool((scores < level).any())
            return plan
        plan.marks.append([*_marks(scores, next_threshold, threshold), next_threshold])
        plan.thresholds.append(next_threshold)
        threshold = next_threshold
        step = population.move(threshold, step, adapt=True)[1]
        plan.steps.append(step)


def run(
    problem: Problem,
    level: float,
    size: Size,
    plan: Plan,
    *,
    first: int,
    generator: torch.Generator,
    done: Callable[[int], object],
) -> Run:
    """One estimate along a plan that was made without these points; arguments as for :func:`explore`.

    Thresholds, steps and lengths of chains being given, its expectation is the probability itself (Del Moral,
    "Feynman-Kac formulae", 2004, for the product of such fractions), however good or bad the plan.
    """
    population = _Population(problem, size, first, generator, done)
    conditional = np.zeros(len(plan.thresholds) + 1)
    acceptance = np.full(len(plan.thresholds), np.nan)
    every = [mark for marks in plan.marks for mark in marks]
    plain = [*(population.scores[:, None] <= every).sum(0), (population.scores < level).sum()]
    curve: list[float] = []
    reached = 1.0
    for place, marks in enumerate(plan.marks):
        scores = population.scores
        curve += [reached * float((scores <= mark).mean()) for mark in marks]
        if place == len(plan.thresholds):
            conditional[place] = (scores < level).mean()
            curve.append(reached * float(conditional[place]))
            break
        threshold = plan.thresholds[place]
        conditional[place] = (scores <= threshold).mean()
        reached *= float(conditional[place])
        if not reached:
            break
        acceptance[place] = population.move(threshold, plan.steps[place], adapt=False)[0]
    curve += [0.0] * (len(plain) - len(curve))
    return Run(conditional, np.array(curve), np.array(plain, dtype=np.float64), acceptance)


def _marks(scores: Array, low: float, high: float) -> list[float]:
    """Finite scores between ``low`` and ``high``, descending, at even steps of log probability."""
    share = max(float((scores <= low).mean()), 1 / len(scores))
    ranks = share ** (np.arange(1, _MARKS) / _MARKS)
    marks = np.unique(np.quantile(scores, ranks, method="inverted_cdf"))
    marks = marks[np.isfinite(marks) & (marks > low) & (marks < high)]
    return [float(mark) for mark in marks[::-1]]


def _numbers(scores: Array) -> Array:
    """Scores with NaN, which is below no level, as infinity."""
    return np.where(np.isnan(scores), np.inf, scores)
