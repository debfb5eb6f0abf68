"""Straight-through matching: permutations learned so that the midpoint of the networks works.

Ainsworth, Hayase and Srinivasa, "Git Re-Basin" (ICLR 2023), section 3.3: a free copy of A's weights is
trained; at each step B is matched to it by weight matching, the loss is taken between A and permuted B,
and its gradient is passed straight through the matching to the free weights.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fastcomb.rebasin.descent import Descent
from fastcomb.rebasin.method import Match, Method, Problem, check_count
from fastcomb.rebasin.midpoint import Midpoint
from fastcomb.utils.progress import bar


@dataclass(frozen=True)
class StraightThrough(Method):
    """Minimise the cross-entropy of the midpoint on ``data=(x, y)``.

    Starts from weight matching, and returns the permutations with the lowest loss over all data, so it
    is never worse than weight matching by that measure.

    Args:
        epochs: passes over the data.
        lr: learning rate of Adam on the free weights.

    Raises:
        ValueError: an option outside its range.

    Example:
        >>> b = fc.rebasin.align(a, a, "random", seed=1).model  # a with its units in another order
        >>> method = fc.rebasin.StraightThrough(epochs=2)
        >>> found = fc.rebasin.align(a, b, method, data=(x, y), progress=False)
        >>> torch.equal(found.model[0].weight, a[0].weight)
        True
    """

    name: ClassVar[str] = "ste"
    needs_data: ClassVar[bool] = True
    epochs: int = 5
    lr: float = 1e-2

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs)
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr} must be positive")

    def match(self, problem: Problem) -> Match:
        """Train free weights through the matching; the objective is minus the midpoint's loss over all data.

        It is given unmatched, after weight matching, and at its best so far after each epoch.

        Raises:
            ValueError: there are only inputs.
        """
        symmetries, midpoint = problem.symmetries, Midpoint(problem)
        generator = np.random.default_rng(problem.seed)
        names = problem.members()
        free = {n: problem.a[n].detach().float().clone().requires_grad_() for n in names}
        b = {n: problem.b[n].detach().float() for n in names}
        optimiser = torch.optim.Adam(free.values(), lr=self.lr)
        batches = list(problem.labelled("ste"))
        unmatched = -midpoint.mean_loss(b)
        matching = Descent(problem, symmetries.identity()).run(100, generator).permutations
        best = (-midpoint.mean_loss(symmetries.permute(b, matching)), matching)
        history = [unmatched, best[0]]
        with bar(self.epochs * len(batches), "step", problem.progress) as shown:
            for _ in range(self.epochs):
                for i in generator.permutation(len(batches)):
                    towards = dataclasses.replace(problem, a={**problem.a, **_detached(free)})
                    matching = Descent(towards, matching).run(5, generator).permutations
                    permuted = symmetries.permute(b, matching)
                    with torch.enable_grad():
                        through = {n: permuted[n] + (free[n] - free[n].detach()) for n in names}
                        loss = midpoint.loss(through, *batches[i])
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    shown.update()
                value = -midpoint.mean_loss(symmetries.permute(b, matching))
                if value > best[0]:
                    best = value, matching
                history.append(best[0])
        return Match(best[1], history)


def _detached(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}
