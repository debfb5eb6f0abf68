"""A sampler as the compiled kernels take it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fastcomb.backends.native.extension import extension
from fastcomb.samplers import Bernoulli, Sampler, Uniform

_UNIT, _UNIFORM, _BERNOULLI, _TABLE = range(4)


def law(sampler: Sampler, table: Tensor, ends: bool) -> Any:
    """The extension's law. ``table`` must outlive it."""
    kind, low, span, threshold = _TABLE, 0.0, 1.0, 0
    if type(sampler) is Uniform:
        low = float(np.float32(sampler.low))
        span = float(np.float32(sampler.high) - np.float32(sampler.low))
        kind = _UNIT if (low, span) == (0.0, 1.0) else _UNIFORM
    elif type(sampler) is Bernoulli:
        kind, threshold = _BERNOULLI, int(table.sum())
    return extension().Law(kind, sampler.bits, ends, low, span, threshold, table.data_ptr())  # type: ignore[union-attr]
