"""Activations and outputs of networks, computed once and kept: in memory within a budget, else on disk."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcomb.data.samples import Data
from fastcomb.stitching.cut import Cut, Network
from fastcomb.stitching.gather import batch_size
from fastcomb.utils.progress import bar

#: Bytes of activations that are kept in memory.
MEMORY_BUDGET = 4 << 30


class Cache:
    """What networks compute on a data set.

    Every network runs once. Activations are kept in the order that they are asked for: in memory while they
    fit the budget, the others in files of a temporary folder, which goes with the cache.

    Args:
        layers: network → cuts at whose layers activations are kept.
        outputs: networks whose outputs are kept, in memory.
        data: the samples.
        budget: bytes of activations in memory.
        progress: show a progress bar; if None, when standard error is a terminal.

    Attributes:
        y: targets [N, ...].
        in_memory, on_disk: bytes of activations here and there.

    Raises:
        ValueError: a network whose outputs are kept is no classifier, or activations are not finite.
    """

    def __init__(
        self,
        layers: Mapping[Network, Sequence[Cut]],
        outputs: Sequence[Network],
        data: Data,
        budget: int = MEMORY_BUDGET,
        progress: bool | None = None,
    ) -> None:
        self.in_memory = self.on_disk = 0
        self._budget = budget
        self._folder: Path | None = None
        self._activations: dict[tuple[Network, str], Tensor] = {}
        self._outputs: dict[Network, Tensor] = {}
        self._count = data.samples
        targets = []
        runs = []
        for network in dict.fromkeys([*layers, *outputs]):
            cuts = list({cut.layer.value: cut for cut in layers.get(network, ())}.values())
            part = network.taps([cut.layer for cut in cuts], output=network in outputs)
            runs.append((network, cuts, part))
        done = 0
        with bar(data.samples, "sample", progress) as shown, torch.no_grad():
            for x, y in data.batches(batch_size([cut for _, cuts, _ in runs for cut in cuts])):
                targets.append(y)
                for network, cuts, part in runs:
                    values, output = network.run(part, x)
                    for cut, value in zip(cuts, values, strict=True):
                        self._keep(network, cut, value.movedim(cut.layer.channels, -1), done)
                    if output is not None:
                        self._keep_output(network, output, done)
                done += len(x)
                shown.update(len(x))
        self.y = torch.cat(targets)

    def activations(self, cut: Cut) -> Tensor:
        """Activations [N, positions..., channels] of a network at a cut."""
        return self._activations[cut.network, cut.layer.value]

    def output(self, network: Network) -> Tensor:
        """Outputs [N, classes] of a whole network."""
        return self._outputs[network]

    def _keep(self, network: Network, cut: Cut, values: Tensor, done: int) -> None:
        if not torch.isfinite(values).all():
            raise ValueError(f"{network.name} has activations at {cut.layer} that are NaN or infinite")
        key = (network, cut.layer.value)
        if key not in self._activations:
            self._activations[key] = self._room((self._count, *values.shape[1:]), values.dtype)
        self._activations[key][done : done + len(values)] = values

    def _keep_output(self, network: Network, output: object, done: int) -> None:
        (logits,) = tree_leaves(output)
        if network not in self._outputs:
            self._outputs[network] = torch.empty(self._count, network.classes)
        self._outputs[network][done : done + len(logits)] = logits

    def _room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An empty tensor in memory while the budget lasts, then in a file that goes with the cache."""
        count = torch.Size(shape).numel()
        size = count * dtype.itemsize
        if self.in_memory + size <= self._budget:
            self.in_memory += size
            return torch.empty(shape, dtype=dtype)
        self.on_disk += size
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="fastcomb-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / str(len(self._activations))
        return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)
