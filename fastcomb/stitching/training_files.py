"""The state of a training on disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from fastcomb.stitching.cut import Cut
from fastcomb.stitching.task import TaskLoss
from fastcomb.stitching.training import Training
from fastcomb.utils.digest import Digest, of_tensors
from fastcomb.utils.files import write_atomically

_FORMAT = "fastcomb training 1"
#: Seconds of work that a kill may lose.
_EVERY = 10.0


def identity(a: Cut, b: Cut, tasks: Sequence[TaskLoss], *options: object) -> str:
    """A hash of everything that decides how a training goes."""
    digest = Digest()
    for cut in (a, b):
        digest.text(of_tensors(cut.network.state), cut.layer.value, str(cut.layer.channels))
    for task in tasks:
        digest.text(task.identity())
    return digest.text(*map(repr, options)).hex


class Files:
    """A file per job in a folder; with None nothing is written.

    Attributes:
        identities: of the jobs, in their order.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else Path(folder)
        self.identities: list[str] = []
        self._written: dict[int, tuple[float, int]] = {}

    @property
    def kept(self) -> bool:
        """Whether states are written: whether there is a folder."""
        return self._folder is not None

    def restore(self, number: int, training: Training) -> None:
        """Go on from where a training was.

        Raises:
            ValueError: the file is of another training, or of none.
        """
        if self._folder is None or not self._path(number).is_file():
            return
        path = self._path(number)
        try:
            record = torch.load(path, weights_only=True)
        except Exception as error:
            raise ValueError(f"{path} cannot be read as a training's state: {error}") from error
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise ValueError(f"{path} is not a training's state; choose another folder for out=")
        if record["identity"] != self.identities[number]:
            raise ValueError(
                f"{path} is of another training (networks, layers, data, tasks or options differ); choose "
                "another folder for out=, or delete it"
            )
        training.load_state_dict(record["state"])
        self._written[number] = (time.monotonic(), training.epoch)

    def save(self, number: int, training: Training, *, now: bool = False) -> None:
        """Write the state after the last whole epoch, unless that is written or was written just before."""
        if self._folder is None:
            return
        last, epoch = self._written.get(number, (0.0, 0))
        state = training.state_dict()
        if state["epoch"] == epoch or (not now and time.monotonic() - last < _EVERY):
            return
        record = {"format": _FORMAT, "identity": self.identities[number], "state": state}
        write_atomically(self._path(number), partial(torch.save, record))
        self._written[number] = (time.monotonic(), state["epoch"])

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{number:04d}.pt"
