"""Sinkhorn re-basin: gradient descent over doubly stochastic matrices.

Guerrero Peña et al., "Re-basin via implicit Sinkhorn differentiation" (CVPR 2023). Every group has a free
matrix X, of which Sinkhorn's algorithm makes a doubly stochastic one, P = S(X / τ); the gradient of P
comes from unrolling the iteration or from its fixed point (Eisenberger et al., "A unified framework for
implicit Sinkhorn differentiation", CVPR 2022). At the end every P is rounded to the nearest permutation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from fastcomb.rebasin.assignment import assign
from fastcomb.rebasin.method import Match, Method, Problem, check_count, inner_product
from fastcomb.rebasin.midpoint import Midpoint
from fastcomb.rebasin.symmetries import Matching
from fastcomb.utils.inputs import Samples
from fastcomb.utils.progress import hidden

_OBJECTIVES = ("distance", "midpoint", "line")


@dataclass(frozen=True)
class Sinkhorn(Method):
    """Descend on the distance of the weights, or on the loss between the networks.

    Args:
        objective: "distance" between A's and permuted B's weights (no data needed), the loss at the
            "midpoint", or at a random point of the "line" between them at each step; the losses are
            cross-entropies on ``data=(x, y)``.
        differentiate: "implicit" or "unrolled".
        steps: of Adam.
        lr: its learning rate.
        temperature: τ.
        iterations: of Sinkhorn's algorithm.
        starts: descents, the first with all permutations equally weighted, further ones from noise.

    Raises:
        ValueError: an option outside its range.

    Example:
        >>> b = fc.rebasin.align(a, a, "random", seed=1).model  # a with its units in another order
        >>> found = fc.rebasin.align(a, b, fc.rebasin.Sinkhorn(steps=50), progress=False)
        >>> torch.equal(found.model[0].weight, a[0].weight)
        True
    """

    name: ClassVar[str] = "sinkhorn"
    objective: Literal["distance", "midpoint", "line"] = "distance"
    differentiate: Literal["implicit", "unrolled"] = "implicit"
    steps: int = 150
    lr: float = 0.3
    temperature: float = 1.0
    iterations: int = 20
    starts: int = 1

    def __post_init__(self) -> None:
        if self.objective not in _OBJECTIVES:
            raise ValueError(f"objective={self.objective!r} is none of {', '.join(map(repr, _OBJECTIVES))}")
        if self.differentiate not in ("implicit", "unrolled"):
            raise ValueError(f"differentiate={self.differentiate!r} is neither 'implicit' nor 'unrolled'")
        for name in ("steps", "iterations", "starts"):
            check_count(name, getattr(self, name))
        if not (self.lr > 0 and self.temperature > 0):
            raise ValueError(f"lr={self.lr} and temperature={self.temperature} must be positive")

    def match(self, problem: Problem) -> Match:
        """The descent whose best rounded matching has the highest objective.

        Raises:
            ValueError: the objective is a loss, and there are no data or no targets.
        """
        if self.objective != "distance" and problem.data is None:
            raise ValueError(f"objective={self.objective!r} needs data=(x, y)")
        matches = [self._descend(problem, start) for start in range(self.starts)]
        return max(matches, key=lambda match: match.objective[-1])

    def doubly_stochastic(self, free: Tensor) -> Tensor:
        """P = S(X / τ), differentiable."""
        if self.differentiate == "unrolled":
            return sinkhorn(free / self.temperature, self.iterations)
        implicit: Tensor = _Implicit.apply(free / self.temperature, self.iterations)
        return implicit

    def _descend(self, problem: Problem, start: int) -> Match:
        """One descent by Adam: the best matching that rounding gave, looked for every ten steps."""
        symmetries = problem.symmetries
        generator = torch.Generator().manual_seed(problem.seed + start)
        free = [
            (torch.randn(g.size, g.size, generator=generator) * (0.1 if start else 0.0)).requires_grad_()
            for g in symmetries.groups
        ]
        names = problem.members()
        a, b = problem.numbers(problem.a), problem.numbers(problem.b)
        scale = sum(float(a[n].norm() * b[n].norm()) for n in names) or 1.0
        midpoint = Midpoint(problem) if self.objective != "distance" else None
        batches = _forever(problem) if midpoint else None
        optimiser = torch.optim.Adam(free, lr=self.lr)
        best = (self._value(problem, midpoint, symmetries.identity()), symmetries.identity())
        history = [best[0]]
        with torch.enable_grad():
            for step in tqdm(range(self.steps), unit="step", disable=hidden(problem.progress)):
                mixed = symmetries.mix(b, [self.doubly_stochastic(x) for x in free])
                if midpoint is None or batches is None:
                    loss = -torch.stack([(a[n] * mixed[n]).sum() for n in names]).sum() / scale
                else:
                    t = float(torch.rand((), generator=generator)) if self.objective == "line" else 0.5
                    loss = midpoint.loss(mixed, *next(batches), t)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if (step + 1) % 10 == 0 or step + 1 == self.steps:
                    rounded = self._rounded(free)
                    value = self._value(problem, midpoint, rounded)
                    if value > best[0]:
                        best = value, rounded
                    history.append(best[0])
        return Match(best[1], history)

    def _rounded(self, free: Sequence[Tensor]) -> Matching:
        with torch.no_grad():
            return [assign(sinkhorn(x / self.temperature, self.iterations)) for x in free]

    def _value(self, problem: Problem, midpoint: Midpoint | None, matching: Matching) -> float:
        if midpoint is None:
            return inner_product(problem, matching)
        return -midpoint.mean_loss(problem.symmetries.permute(problem.b, matching))


def _forever(problem: Problem) -> Iterator[tuple[Samples, Tensor]]:
    while True:
        yield from problem.labelled("sinkhorn")


def sinkhorn(logits: Tensor, iterations: int) -> Tensor:
    """Rows and columns normalised in turn, in the logarithm."""
    for _ in range(iterations):
        logits = logits - logits.logsumexp(1, keepdim=True)
        logits = logits - logits.logsumexp(0, keepdim=True)
    return logits.exp()


class _Implicit(torch.autograd.Function):
    """Sinkhorn's algorithm, differentiated at its fixed point."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, iterations: int) -> Tensor:
        p = sinkhorn(logits, iterations)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """∂logits = P ⊙ (G − α1ᵀ − 1βᵀ), where α, β keep the sums of rows and columns at one.

        They solve [I P; Pᵀ I][α; β] = [(P⊙G)1; (P⊙G)ᵀ1], which is solvable up to a constant that moves
        from α to β; J/n fixes it.
        """
        (p,), (gradient,) = ctx.saved_tensors, gradients
        weighted = p * gradient
        rows, columns = weighted.sum(1), weighted.sum(0)
        n = len(p)
        system = torch.eye(n) - p.T @ p + 1.0 / n
        beta = torch.linalg.solve(system.double(), (columns - p.T @ rows).double()).float()
        alpha = rows - p @ beta
        return weighted - p * (alpha[:, None] + beta), None
