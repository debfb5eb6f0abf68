"""The training of all stitches of one pair of layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcomb.program import between, folded
from fastcomb.stitching.affine import Sparse
from fastcomb.stitching.cut import Cut
from fastcomb.stitching.layer import StitchingLayer
from fastcomb.stitching.part import Part
from fastcomb.stitching.stitched import Stitched
from fastcomb.stitching.task import TaskLoss
from fastcomb.stitching.trained import Trained
from fastcomb.stitching.training_data import TrainingData

#: Bytes of the largest activations of the stitches that pass through the top together: so that they stay
#: near the caches, and below what the allocator hands back to the system after every step.
_TOGETHER = 16 << 20
_BETAS, _EPS = (0.9, 0.999), 1e-8
#: Samples in a batch that is only evaluated.
_EVALUATED = 256


@dataclass(frozen=True)
class Schedule:
    """How long and in which order: as :func:`fastcomb.stitching.fit_all` explains."""

    epochs: int
    batch: int
    patience: int | None
    seed: int
    snapshots: bool

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "patience"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}={value!r} must be an integer of at least 1")
        if not 0 <= self.seed < 1 << 40:
            raise ValueError(f"seed={self.seed} is outside [0, 2**40)")


class Training:
    """Trains stitches of one pair of layers, epoch by epoch.

    Args:
        a, b: the two cuts.
        tasks: what to train for.
        layers: the stitching layers, which are trained.
        data: the samples.
        validation: other samples, or None.
        schedule: how long, in which order.

    Attributes:
        epoch: how many are done.
    """

    def __init__(
        self,
        a: Cut,
        b: Cut,
        tasks: Sequence[TaskLoss],
        layers: Sequence[StitchingLayer],
        data: TrainingData,
        validation: TrainingData | None,
        schedule: Schedule,
    ) -> None:
        self.epoch = 0
        self._ends = (a, b)
        self._tasks = tuple(tasks)
        self._layers = [layer.to(b.network.device, b.network.dtype) for layer in layers]
        self._data, self._validation, self._schedule = data, validation, schedule
        self._device = b.network.device
        program = between(b.network.program, b.layer.value, b.network.program.output)
        self._top = Part(*folded(program, b.network.state))
        self._contiguous = not self._takes_channels_last()
        largest = max(_entries(shape) for shape in program.value_shapes.values())
        self._together = max(1, _TOGETHER // (4 * largest * schedule.batch))
        groups = [
            {"params": list(layer.parameters()), "lr": task.lr}
            for layer, task in zip(self._layers, tasks, strict=True)
        ]
        self._optimiser = torch.optim.Adam(groups, betas=_BETAS, eps=_EPS, fused=True)
        self._best = [math.inf] * len(tasks)
        self._waited = [0] * len(tasks)
        self._losses: list[list[float]] = []
        self._validated: list[list[float]] = []
        self._kept = self._states()
        self._snapshots = [self._states()] if schedule.snapshots else []
        self._safe = self._state()

    @property
    def steps(self) -> int:
        """How many are left, if none stops early."""
        left = max(0, self._schedule.epochs - self.epoch)
        return left * -(-len(self._data.h) // self._schedule.batch)

    def run(self, shown: Any) -> Iterator[None]:
        """Train to the end; yields after every epoch.

        Args:
            shown: a progress bar of steps.
        """
        while self.epoch < self._schedule.epochs and self._active():
            self._train(shown)
            self.epoch += 1
            self._validate()
            if self._schedule.snapshots:
                self._snapshots.append(self._states())
            self._safe = self._state()
            yield
        shown.update(self.steps)

    def result(self) -> Trained:
        """The stitches after the epochs that are done."""
        self.load_state_dict(self._safe)
        networks = [
            Stitched(*self._ends, self._finished(layer, state, task))
            for layer, state, task in zip(self._layers, self._kept, self._tasks, strict=True)
        ]
        shape = (self.epoch, len(self._tasks))
        return Trained(
            self._tasks,
            networks,
            self.epoch,
            self.epoch >= self._schedule.epochs or not self._active(),
            np.array(self._losses).reshape(shape).T,
            np.array(self._validated).reshape(shape).T,
            [[_with(*pair) for pair in zip(self._layers, at, strict=True)] for at in self._snapshots],
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from, after the last whole epoch."""
        return self._safe

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back, or on, to a state."""
        copied = copy.deepcopy(dict(state))
        for layer, tensors in zip(self._layers, copied["layers"], strict=True):
            layer.load_state_dict(tensors)
        self._optimiser.load_state_dict(copied["optimiser"])
        self.epoch, self._best, self._waited = copied["epoch"], copied["best"], copied["waited"]
        self._losses, self._validated = copied["losses"], copied["validated"]
        self._kept, self._snapshots = copied["kept"], copied["snapshots"]
        self._safe = dict(state)

    def _state(self) -> dict[str, Any]:
        """Copies of what changes in place; states of layers are never changed, only replaced."""
        return {
            "epoch": self.epoch,
            "layers": self._states(),
            "optimiser": copy.deepcopy(self._optimiser.state_dict()),
            "best": list(self._best),
            "waited": list(self._waited),
            "losses": list(self._losses),
            "validated": list(self._validated),
            "kept": list(self._kept),
            "snapshots": list(self._snapshots),
        }

    def _states(self) -> list[dict[str, Tensor]]:
        return [copy.deepcopy(layer.state_dict()) for layer in self._layers]

    def _active(self) -> list[int]:
        """Tasks that have not stopped early."""
        patience = self._schedule.patience
        return [i for i, waited in enumerate(self._waited) if patience is None or waited < patience]

    def _train(self, shown: Any) -> None:
        """One epoch, in an order that the seed and its number decide; notes the mean losses."""
        samples = len(self._data.h)
        generator = torch.Generator().manual_seed((self._schedule.seed << 20) + self.epoch)
        order = torch.randperm(samples, generator=generator)
        active = self._active()
        total = torch.zeros(len(self._tasks), dtype=torch.float64)
        for rows in order.split(self._schedule.batch):
            self._optimiser.zero_grad()
            for which in self._groups(active):
                losses, z = self._cross_entropy(self._data, rows, which)
                (losses.sum() + self._penalties(z, rows, which)).backward()
                total[which] += losses.detach().double().cpu() * len(rows)
            self._optimiser.step()
            self._shrink(active)
            shown.update()
        self._losses.append(self._of_active(total / samples, active))

    @torch.no_grad()
    def _shrink(self, active: list[int]) -> None:
        """The proximal step of the L1 penalties, in the metric of Adam's step: it makes entries exactly 0.

        (Yun, Lozano and Yang, "Adaptive Proximal Gradient Methods for Structured Neural Networks",
        NeurIPS 2021.)
        """
        for i in active:
            task = self._tasks[i]
            if not task.l1:
                continue
            weight = self._layers[i].get_parameter("weight")
            state = self._optimiser.state[weight]
            corrected = state["exp_avg_sq"] / (1 - _BETAS[1] ** float(state["step"]))
            threshold = task.lr * (task.l1 / weight.numel()) / (corrected.sqrt() + _EPS)
            weight.copy_(weight.sign() * (weight.abs() - threshold).clamp_min(0))

    @torch.no_grad()
    def _validate(self) -> None:
        """Losses on the other samples; keeps the best layers, or without early stopping the latest."""
        active = self._active()
        total = torch.full((len(self._tasks),), torch.nan, dtype=torch.float64)
        if self._validation is not None:
            samples = len(self._validation.h)
            total.zero_()
            for rows in torch.arange(samples).split(_EVALUATED):
                for which in self._groups(active):
                    losses, _ = self._cross_entropy(self._validation, rows, which)
                    total[which] += losses.double().cpu() * len(rows) / samples
        self._validated.append(self._of_active(total, active))
        states = self._states()
        for i in active:
            better = self._validated[-1][i] < self._best[i]
            self._waited[i] = 0 if better else self._waited[i] + 1
            if better:
                self._best[i] = self._validated[-1][i]
            if better or self._schedule.patience is None:
                self._kept[i] = states[i]

    def _groups(self, active: list[int]) -> Iterator[list[int]]:
        """Tasks that pass through the top together."""
        for first in range(0, len(active), self._together):
            yield active[first : first + self._together]

    def _of_active(self, values: Tensor, active: list[int]) -> list[float]:
        return [float(value) if i in active else math.nan for i, value in enumerate(values)]

    def _cross_entropy(self, data: TrainingData, rows: Tensor, which: list[int]) -> tuple[Tensor, Tensor]:
        """Cross-entropy to the targets of some tasks on some samples, [tasks], and stitched activations.

        These come as [tasks, samples, positions..., channels].
        """
        layers = [self._layers[i] for i in which]
        weight = torch.stack([layer.matrix() for layer in layers])
        h = data.h[rows].to(self._device, weight.dtype)
        z = torch.matmul(h.flatten(0, -2), weight.mT)
        offsets = [layer.offset() for layer in layers]
        if any(offset is not None for offset in offsets):
            zero = weight.new_zeros(weight.shape[1])
            z = z + torch.stack([zero if offset is None else offset for offset in offsets])[:, None]
        z = z.view(len(which), *h.shape[:-1], weight.shape[1])
        stitched = z.flatten(0, 1).movedim(-1, self._ends[1].layer.channels)
        logits = tree_leaves(self._top(stitched.contiguous() if self._contiguous else stitched))[0]
        logits = logits.reshape(len(which), len(rows), -1)
        tasks = [self._tasks[i] for i in which]
        targets = torch.stack([data.targets[task.targets, task.temperature][rows] for task in tasks])
        temperature = logits.new_tensor([task.temperature for task in tasks])[:, None, None]
        losses: Tensor = -(targets.to(self._device) * (logits / temperature).log_softmax(2)).sum(2).mean(1)
        return losses, z

    @torch.no_grad()
    def _takes_channels_last(self) -> bool:
        """Whether the top runs on activations with the channels innermost; some views do not."""
        b = self._ends[1]
        one = torch.zeros(2, *b.positions, b.width, device=self._device, dtype=b.network.dtype)
        try:
            self._top(one.movedim(-1, b.layer.channels))
        except RuntimeError:
            return False
        return True

    def _penalties(self, z: Tensor, rows: Tensor, which: list[int]) -> Tensor:
        """What the tasks add to their cross-entropies and is differentiable, summed."""
        total = z.new_zeros(())
        for i, activations in zip(which, z, strict=True):
            task = self._tasks[i]
            if task.cka:
                assert self._data.g is not None
                total = total + task.cka * _linear_cka(activations, self._data.g[rows].to(self._device))
        return total

    def _finished(self, layer: StitchingLayer, state: Mapping[str, Tensor], task: TaskLoss) -> StitchingLayer:
        """A layer as it is handed out: with the entries that a penalty made small set to 0."""
        trained = _with(layer, state)
        if not task.l1:
            return trained
        return Sparse.nearest(*trained.map(), channels=trained.channels, resize=trained.resize)


def _with(layer: StitchingLayer, state: Mapping[str, Tensor]) -> StitchingLayer:
    """A copy of a layer in another state."""
    copied = copy.deepcopy(layer)
    copied.load_state_dict(state)
    return copied


def _entries(shape: tuple[int | str, ...]) -> int:
    """Entries of a value per sample."""
    return math.prod(size for size in shape if isinstance(size, int))


def _linear_cka(z: Tensor, g: Tensor) -> Tensor:
    """Linear CKA of stitched activations with B's own over a batch, each sample flattened; differentiable."""
    grams = []
    for values in (z, g):
        centred = values.flatten(1) - values.flatten(1).mean(0)
        grams.append(centred @ centred.T)
    k, l = grams
    similarity: Tensor = (k * l).sum() / (k.norm() * l.norm())
    return similarity
