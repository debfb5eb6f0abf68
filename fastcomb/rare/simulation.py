"""The whole procedure for one problem: settle a plan with a pilot run, follow it in independent runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastcomb.rare.interval import bounds
from fastcomb.rare.subset import Plan, Problem, Run, Size, explore, run
from fastcomb.statistics.density import Array
from fastcomb.utils.notice import warn


@dataclass(frozen=True)
class Simulation:
    """Independent runs R along one plan with m thresholds and G − 1 marks.

    Attributes:
        plan, size, runs: what was followed, with how many points, and what each run found.
    """

    plan: Plan
    size: Size
    runs: list[Run]

    @property
    def draws(self) -> int:
        """Plain draws that the runs began with."""
        return self.size.points * len(self.runs)

    @property
    def evaluations(self) -> int:
        """Points scored, the pilot's too."""
        return (len(self.runs) + 1) * self.size.scored(len(self.plan.thresholds))

    @property
    def plain(self) -> Array:
        """Plain draws that are counted for each mark, and last for the event: float64 [G]."""
        return np.asarray(sum(run.plain for run in self.runs))

    def curve(self, confidence: float) -> Array:
        """Probability of each mark, and last of the event, with its interval: float64 [G, 3]."""
        estimates = np.stack([run.curve for run in self.runs])
        chainless = len(self.plan.marks[0]) + (not self.plan.thresholds)
        value = estimates.mean(axis=0)
        value[:chainless] = self.plain[:chainless] / self.draws
        return np.stack([value, *bounds(estimates, self.plain, chainless, self.draws, confidence)], axis=1)


def simulate(
    problem: Problem, level: float, size: Size, *, repeats: int, most: int, seed: int, shown: Any
) -> Simulation:
    """Estimate P(score < level) ``repeats`` times, along a plan that a pilot has made.

    Run r begins with plain draws from number r · size.points on, the pilot with those after the last run's.
    Ctrl-C after two runs or more keeps them, with a notice.

    Args:
        problem: the score.
        level: of the event.
        size: of the population on each level.
        repeats: runs, at least 2.
        most: thresholds at most.
        seed: of the chains, in [0, 2**64).
        shown: a progress bar; told the total once it is known.
    """

    def stage(number: int) -> dict[str, Any]:
        state = int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])
        generator = torch.Generator(problem.device).manual_seed(state)
        return {"first": number * size.points, "generator": generator, "done": shown.update}

    shown.total = None  # known once the pilot has come down
    plan = explore(problem, level, size, most=most, **stage(repeats))
    shown.total = (repeats + 1) * size.scored(len(plan.thresholds))
    runs: list[Run] = []
    try:
        for number in range(repeats):
            runs.append(run(problem, level, size, plan, **stage(number)))
    except KeyboardInterrupt:
        if len(runs) < 2:
            raise
        warn(f"interrupted: {len(runs)} of {repeats} repeats are done")
    return Simulation(plan, size, runs)
