"""What every way to run combinations offers to a sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastcomb.backends.criterion import Criterion
from fastcomb.mixing import Mixture
from fastcomb.statistics.sequential_decision import Answer, Question
from fastcomb.utils.inputs import Samples

#: Losses that kernels for GPUs compute.
LOSSES = ("cross_entropy", "nll", "mse")

__all__ = ["LOSSES", "Backend", "Score", "Scores", "Unsupported", "place", "power_of_two"]

#: A score of K combinations on S samples: (outputs [K, S, ...], y [S, ...]) -> [K, S].
Score = Callable[[Any, Tensor], Tensor]


class Unsupported(Exception):
    """A backend cannot run this; the message names what."""


class Scores(NamedTuple):
    """What is measured on every sample.

    Attributes:
        measures: loss, accuracy, and whatever else was asked for.
        criterion: the loss where it is known by name, and accuracy is what goes with it; else None.
        classes: whether accuracy has a meaning (it is NaN otherwise).
    """

    measures: tuple[Score, ...]
    criterion: Criterion | None
    classes: bool

    @property
    def name(self) -> str:
        """Name of the loss where it is one of :data:`LOSSES` without further settings, else ""."""
        loss = self.criterion
        return loss.kind if loss and loss.plain and loss.kind in LOSSES else ""

    def of(self, outputs: Any, y: Tensor) -> Tensor:
        """Sums over samples, float64 [measures, K], for outputs [K, S, ...] and targets y [S, ...]."""
        return torch.stack([measure(outputs, y).double().sum(1) for measure in self.measures])

    def in_kernels(self, dims: int, y: Tensor) -> bool:
        """Whether kernels for GPUs compute loss and accuracy of outputs of so many dimensions per sample."""
        if self.name == "mse":
            return not self.classes
        return bool(self.name) and y.ndim == 1 and not y.is_floating_point() and dims == 1


class Backend(Protocol):
    """Evaluates combinations of one mixture through one model.

    A backend's results for a combination depend on nothing but the combination, the samples handed over
    together, and the slot (``index % slots``) among ``slots`` successive combinations; sweeps hand over
    whole, aligned runs of slots.
    """

    name: str
    mixture: Mixture
    #: Combinations that pass through the network together, a power of two.
    slots: int
    #: Most combinations to hand over at a time, a multiple of ``slots``.
    block: int

    def prepare(self, index: Tensor) -> Any:
        """What is computed once for a block of combinations (int64 [K]) before any sample."""

    def summed_metrics(self, prepared: Any, x: Samples, y: Tensor, scores: Scores) -> Tensor:
        """Sums of the measures over samples x with targets y [S, ...]: float64 [measures, K]."""

    def per_sample_metric(self, prepared: Any, x: Samples, y: Tensor, measure: Score) -> Tensor:
        """One measure on every sample of x with targets y [S, ...]: [K, S]."""

    def decide(
        self, prepared: Any, x: Samples, y: Tensor, scores: Scores, question: Question
    ) -> list[Answer] | None:
        """Answers about the prepared combinations on all samples; None where only the plain rule can."""

    def statistics(self, index: int) -> dict[str, Tensor]:
        """Running statistics that combination ``index`` is evaluated with, where they are not θ_A's."""


def place(tensor: Tensor) -> tuple[object, ...]:
    """What tells one tensor in memory from another, and from itself before it was written to."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version


def power_of_two(value: float, most: int | None = None) -> int:
    """The largest power of two up to ``value`` and, where it is given, up to ``most``; at least 1."""
    whole = int(value) if most is None else min(int(value), most)
    return 1 << max(0, whole.bit_length() - 1)
