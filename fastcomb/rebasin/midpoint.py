"""The loss between two networks, as the methods that learn from data see it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fastcomb.program import private_copy
from fastcomb.program.choose import choose
from fastcomb.rebasin.method import Problem
from fastcomb.utils.inputs import Samples, arguments, ready


class Midpoint:
    """Cross-entropy of (1 − t)·θ_A + t·π(θ_B); BatchNorm uses each batch's own statistics.

    Raises:
        ValueError: complex parameters.
        TypeError: it is not obvious which of several outputs is meant.
    """

    def __init__(self, problem: Problem) -> None:
        for name in sorted(problem.counted):
            if problem.a[name].is_complex():
                raise ValueError(
                    f"{name!r} is complex, which methods that learn from the loss do not take; choose "
                    "method='weights', 'activations' or 'frank_wolfe'"
                )
        self._problem = problem
        model = private_copy(problem.model).float()
        self._model = choose(model, ready(problem.example, dtype=torch.float32), None)
        for module in self._model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.train()
        self._buffers = {n: t for n, t in problem.a.items() if n not in problem.counted}

    def loss(self, b: Mapping[str, Tensor], x: Samples, y: Tensor, t: float = 0.5) -> Tensor:
        """Mean loss on a batch; ``b`` are the permuted weights, gradients flow through them."""
        state = {n: v.clone() for n, v in self._buffers.items()}
        for name in self._problem.counted:
            a = self._problem.a[name].float()
            state[name] = torch.lerp(a, b.get(name, self._problem.b[name]).float(), t)
        return F.cross_entropy(functional_call(self._model, state, *arguments(x)), y)

    @torch.no_grad()
    def mean_loss(self, b: Mapping[str, Tensor]) -> float:
        """Mean loss on all batches, at t = ½."""
        total, count = 0.0, 0
        for x, y in self._problem.labelled("midpoint"):
            total += float(self.loss(b, x, y)) * len(x)
            count += len(x)
        return total / count
