"""What stitches of one pair of layers are trained and evaluated on, taken from a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcomb.stitching.cache import Cache
from fastcomb.stitching.cut import Cut
from fastcomb.stitching.layer import Resize
from fastcomb.stitching.task import TaskLoss

_SAMPLES = 256


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Samples as the stitches of one pair see them.

    Attributes:
        h: activations of A at its cut, at B's positions: [N, positions..., channels].
        g: activations of B at its cut, where a task compares with them.
        targets: probabilities [N, classes], by what gives them and temperature.
    """

    h: Tensor
    g: Tensor | None
    targets: Mapping[tuple[str, float], Tensor]

    @staticmethod
    def of(a: Cut, b: Cut, tasks: Sequence[TaskLoss], cache: Cache, resize: Resize | None) -> TrainingData:
        """From a cache what these tasks need; A's activations have their positions changed already."""
        h = cache.activations(a)
        if resize is not None:
            h = torch.cat([resize(part, part.ndim - 1) for part in h.split(_SAMPLES)])
        kinds = {(task.targets, task.temperature) for task in tasks}
        targets = {
            (what, temperature): _targets(what, temperature, a, b, cache) for what, temperature in kinds
        }
        return TrainingData(h, cache.activations(b) if any(task.cka for task in tasks) else None, targets)


def _targets(what: str, temperature: float, a: Cut, b: Cut, cache: Cache) -> Tensor:
    if what == "labels":
        return F.one_hot(cache.y, b.network.classes).float()
    cuts = {"a": [a], "b": [b], "mean": [a, b]}[what]
    return torch.stack([(cache.output(cut.network) / temperature).softmax(1) for cut in cuts]).mean(0)
