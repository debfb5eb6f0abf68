"""Stitches that were trained together, and how it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastcomb.statistics.density import Array
from fastcomb.stitching.layer import StitchingLayer
from fastcomb.stitching.stitched import Stitched
from fastcomb.stitching.task import TaskLoss
from fastcomb.utils.plotting import new_figure, save

#: Curves that a legend can still name.
_NAMED = 10


@dataclass(frozen=True, eq=False)
class Trained:
    """Stitches of one pair of layers.

    Attributes:
        tasks: what each was trained for.
        networks: the stitched networks, in that order. With ``patience`` each is as it was after its best
            epoch, otherwise as after its last.
        epochs: how many epochs are done.
        complete: whether that is all that was asked for; not after Ctrl-C.
        loss: float64 [tasks, epochs], cross-entropy to the targets in nats, averaged over an epoch while it
            trained; NaN once a task had stopped early.
        validation_loss: the same on validation data after each epoch; NaN without.
        snapshots: with ``snapshots=True`` the stitching layers of all tasks before training and after each
            epoch, [epochs + 1][tasks].
    """

    tasks: tuple[TaskLoss, ...]
    networks: list[Stitched] = field(repr=False)
    epochs: int
    complete: bool
    loss: Array = field(repr=False)
    validation_loss: Array = field(repr=False)
    snapshots: Sequence[Sequence[StitchingLayer]] = field(repr=False)

    def at(self, task: int, epoch: int) -> Stitched:
        """A stitch as it was after some epochs; 0 is before training.

        Raises:
            ValueError: ``fit`` was not told to keep ``snapshots``, or there was no such epoch.
        """
        if not 0 <= epoch < len(self.snapshots):
            advice = f" of {self.epochs}" if self.snapshots else "; pass snapshots=True to fit"
            raise ValueError(f"no stitch was kept after epoch {epoch}{advice}")
        return self.networks[task].replaced(self.snapshots[epoch][task])

    def plot(self, path: str | Path) -> Path:
        """Write a picture of how the losses fell; returns its path.

        Raises:
            ImportError: matplotlib is not installed.
        """
        figure, axes = new_figure(1)
        axis = axes[0, 0]
        at = np.arange(1, self.epochs + 1)
        named = len(self.tasks) <= _NAMED
        for task, loss, validation in zip(self.tasks, self.loss, self.validation_loss, strict=True):
            (line,) = axis.plot(at, loss, label=str(task), alpha=1.0 if named else 0.4)
            axis.plot(at, validation, linestyle="--", color=line.get_color())
        axis.set_xlabel("epoch")
        axis.set_ylabel("cross-entropy to the targets (nats)")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if named:
            axis.legend(frameon=False, fontsize="small")
        a, b = self.networks[0].ends
        dashed = "; dashed: validation" if np.isfinite(self.validation_loss).any() else ""
        figure.suptitle(f"Training {len(self.tasks)} stitches, {a.layer.name} to {b.layer.name}{dashed}")
        return save(figure, path)
