"""Mixed parameters and their laws, as operators and kernels take them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Mixed(NamedTuple):
    """A mixed parameter: the first network's values, those of the others [s, ...], its unit of the stream."""

    a: Tensor
    others: Tensor
    unit: list[int]


class Laws(NamedTuple):
    """The laws and stream of a mixture (:func:`fastcomb.mixing.ops.mix`)."""

    tables: Tensor
    rules: list[float]
    draw: list[int]
