"""Two ways to evaluate combinations of one pair of networks, timed for ``fastcomb bench``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fastcomb.models import MLP
from fastcomb.sampling.samplers import Uniform
from fastcomb.sweep import evaluate


@dataclass(frozen=True)
class Contest:
    """Two random MLPs and random samples.

    Attributes:
        a, b: the networks.
        x, y: samples [N, 784] and class numbers [N].
        before: seconds that calls of ``ours`` took before and after their combinations.
    """

    a: nn.Module
    b: nn.Module
    x: Tensor
    y: Tensor
    before: list[float] = field(default_factory=list)

    @staticmethod
    def of(widths: tuple[int, ...], samples: int) -> Contest:
        """Networks of these widths."""
        torch.manual_seed(0)
        a, b = MLP(widths).eval(), MLP(widths).eval()
        return Contest(a, b, torch.randn(samples, widths[0]), torch.randint(0, widths[-1], (samples,)))

    def ours(self, n: int) -> float:
        """Seconds that fastcomb takes for n combinations."""
        began = time.perf_counter()
        sweep = evaluate(self.a, self.b, Uniform(), data=(self.x, self.y), n=n, progress=False)
        self.before.append(time.perf_counter() - began - sweep.seconds)
        return sweep.seconds

    def loop(self, n: int) -> float:
        """Seconds that the loop takes which one would write in torch."""
        ends = [{name: p.detach() for name, p in model.named_parameters()} for model in (self.a, self.b)]
        began = time.perf_counter()
        with torch.no_grad():
            for _ in range(n):
                mixed = {name: p + torch.rand_like(p) * (ends[1][name] - p) for name, p in ends[0].items()}
                logits = functional_call(self.a, mixed, (self.x,))
                F.cross_entropy(logits, self.y).item()
                (logits.argmax(1) == self.y).float().mean().item()
        return time.perf_counter() - began
