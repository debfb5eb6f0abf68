"""One pass over the data: the moments of the activations at both ends of many stitches.

Activations are used batch by batch and never kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastcomb.data.reading import LABELS, Reader
from fastcomb.data.samples import Data
from fastcomb.similarity.moments import Moments
from fastcomb.stitching.cut import Cut, Network, places
from fastcomb.stitching.layer import Resize
from fastcomb.utils.inputs import Inputs, Samples
from fastcomb.utils.progress import bar

#: Bytes of activations, in float64, that a batch may have at all layers together.
BATCH_BYTES = 256 << 20
_MOST_SAMPLES = 1024
#: Bytes that the third moments of a pair of layers may take.
_THIRD_BYTES = 2 << 30
#: Rows whose products are held at a time for third moments.
_ROWS = 2048

Pair = tuple[Cut, Cut]


@dataclass(frozen=True, eq=False)
class Third:
    """Third moments, for squared errors weighted by their target: with inputs x = (features, 1), float64.

    Attributes:
        xxy: Σ y_j x xᵀ for each output j, [outputs, inputs + 1, inputs + 1].
        xyy: Σ y_j² x for each output j, [outputs, inputs + 1].
        least: the smallest entry of any y.
    """

    xxy: Tensor
    xyy: Tensor
    least: float

    @staticmethod
    def of(x: Tensor, y: Tensor) -> Third:
        """Of features x [n, inputs] and targets y [n, outputs]."""
        x = torch.cat([x, x.new_ones(len(x), 1)], 1).double()
        y = y.double()
        width = x.shape[1]
        xxy = x.new_zeros(y.shape[1], width * width)
        for one, target in zip(x.split(_ROWS), y.split(_ROWS), strict=True):
            xxy += target.T @ (one[:, :, None] * one[:, None, :]).flatten(1)
        return Third(xxy.view(-1, width, width), y.square().T @ x, float(y.min()))

    def __add__(self, other: Third) -> Third:
        return Third(self.xxy + other.xxy, self.xyy + other.xyy, min(self.least, other.least))


@dataclass(frozen=True, eq=False)
class Gathered:
    """What direct matching needs to know of the activations x of one network and y of another.

    Attributes:
        moments: their moments over all samples and positions.
        third: their third moments, where a method asks for them.
    """

    moments: Moments
    third: Third | None

    def __add__(self, other: Gathered) -> Gathered:
        third = self.third + other.third if self.third and other.third else None
        return Gathered(self.moments + other.moments, third)


def gather(
    pairs: Sequence[Pair],
    data: Any,
    *,
    resize: str | None = None,
    third: bool = False,
    progress: bool | None = None,
) -> list[Gathered]:
    """Moments of the activations of many pairs of layers, in one pass through each network.

    Args:
        pairs: cuts; those of one network (:func:`~fastcomb.stitching.cuts`) share its pass.
        data: inputs, ``(x, y)``, a dict, a Dataset or a DataLoader (:func:`fastcomb.evaluate`).
        resize: "pool" or "interpolate", where positions differ.
        third: also third moments.
        progress: show a progress bar; if None, when standard error is a terminal.

    Raises:
        ValueError: positions differ and ``resize`` does not say what to do, layers are too wide for third
            moments, or activations are not finite.

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> (found,) = fc.stitching.gather([(one, other)], x, progress=False)
        >>> found.moments.count, found.moments.xy.shape
        (100, torch.Size([8, 8]))
    """
    resizes: list[Resize | None] = [places(a, b, resize)["resize"] for a, b in pairs]
    for a, b in pairs if third else ():
        needed = 8 * b.width * (a.width + 1) ** 2
        if needed > _THIRD_BYTES:
            raise ValueError(
                f"weighted least squares between {a.layer} and {b.layer} takes {needed / 2**30:.1f} GiB, "
                f"more than {_THIRD_BYTES >> 30}: 8 · outputs · (inputs + 1)² bytes; choose narrower layers"
            )
    samples = as_data(data)
    gathered: list[Gathered | None] = [None] * len(pairs)
    runners = {id(c.network): Taps(c.network, [d for p in pairs for d in p]) for p in pairs for c in p}
    size = batch_size([c for pair in pairs for c in pair])
    with bar(samples.samples, "sample", progress) as shown, torch.no_grad():
        for x, _ in samples.batches(size):
            activations = {key: taps.run(x) for key, taps in runners.items()}
            for i, ((a, b), change) in enumerate(zip(pairs, resizes, strict=True)):
                h, g = (activations[id(c.network)][c.layer.value] for c in (a, b))
                if change is not None:
                    h = change(h, a.layer.channels)
                new = _moments(positions(h, a.layer.channels), positions(g, b.layer.channels), third, a, b)
                before = gathered[i]
                gathered[i] = new if before is None else before + new
            shown.update(len(x))
    return [one for one in gathered if one is not None]


class Taps:
    """Activations of one network at several layers, in one pass."""

    def __init__(self, network: Network, cuts: Sequence[Cut]) -> None:
        layers = {cut.layer.value: cut.layer for cut in cuts if cut.network is network}
        self.names = list(layers)
        self._network = network
        self._part = network.taps(list(layers.values()), output=False)

    def run(self, x: Samples) -> dict[str, Tensor]:
        """Inputs to activations by the name of the value."""
        values, _ = self._network.run(self._part, x)
        return dict(zip(self.names, values, strict=True))


def positions(h: Tensor, channels: int) -> Tensor:
    """Activations as rows, one per sample and position: [n · positions, channels]."""
    return h.movedim(channels, -1).reshape(-1, h.shape[channels])


def as_data(data: Any) -> Data:
    """Data of which the inputs count; inputs alone will do."""
    if isinstance(data, Data):
        return data
    if _unlabelled(data):
        x = next(iter(Reader(data, "data"))).x
        data = (x, torch.zeros(len(x), dtype=torch.int64))
    return Data(data)


def _unlabelled(data: Any) -> bool:
    """Whether data in memory are inputs alone."""
    if isinstance(data, Mapping):
        return not any(name in data for name in LABELS)
    return isinstance(data, (Tensor, np.ndarray, Inputs)) or (
        isinstance(data, (tuple, list)) and len(data) == 1
    )


def check_labels(source: Any, data: Data, classes: int) -> None:
    """Raise ValueError unless the data have class numbers below ``classes``."""
    _, y = data.first()
    if _unlabelled(source) or y.ndim != 1 or y.is_floating_point():
        raise ValueError("labels are needed; pass data=(x, y) with class numbers y [N]")
    if min(data.lowest or 0, 0) < 0 or (data.highest or 0) >= classes:
        raise ValueError(f"labels run from {data.lowest} to {data.highest}, but there are {classes} classes")


def batch_size(cuts: Sequence[Cut]) -> int:
    """Samples at a time for which the activations at these cuts stay within the budget."""
    per_sample = 8 * sum(c.width * int(np.prod(c.positions)) for c in cuts)
    return max(1, min(_MOST_SAMPLES, BATCH_BYTES // max(1, per_sample)))


def _moments(x: Tensor, y: Tensor, third: bool, a: Cut, b: Cut) -> Gathered:
    try:
        return Gathered(Moments.of(x, y), Third.of(x, y) if third else None)
    except ValueError as error:
        raise ValueError(f"activations x at {a.layer} and y at {b.layer}: {error}") from None
