"""The machine's matrix-multiplication rate: what no evaluator can exceed."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

_SIZES = ((1000, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048))


def _contenders(m: int, k: int, n: int, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    x, w = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    contenders: dict[str, Callable[[], Tensor]] = {"torch.mm": lambda: torch.mm(x, w.T)}
    if torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(w, m)
        contenders["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return contenders


def peak(dtype: torch.dtype, rounds: int = 15) -> tuple[float, str]:
    """Largest rate in FLOP/s over sizes and libraries (best of ``rounds``), and where it was reached."""
    best = (0.0, "")
    for m, k, n in _SIZES:
        for name, call in _contenders(m, k, n, dtype).items():
            call()
            for _ in range(rounds):
                began = time.perf_counter()
                call()
                rate = 2 * m * k * n / (time.perf_counter() - began)
                best = max(best, (rate, f"{name} {m}×{k}×{n}"))
    return best
