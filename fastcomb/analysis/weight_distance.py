"""Inner products of networks' weights, without storing the networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcomb.mixing import Mixture

#: Bytes of one block of combinations' values of one parameter, in float64.
_BLOCK_BYTES = 64 << 20


def gram(networks: Sequence[tuple[Mixture, Tensor]]) -> Tensor:
    """Inner products of the parameters of all networks with each other: float64 [M, M], on the CPU.

    Values are float32 as mixed; products and sums are float64. Two blocks of networks hold one parameter
    at a time.

    Args:
        networks: mixtures of the same parameters, each with combination indices int64 [K]; M is the sum
            of all K.
    """
    total = sum(len(index) for _, index in networks)
    result = torch.zeros(total, total, dtype=torch.float64)
    first = networks[0][0]
    for name in first.names:
        block = max(1, _BLOCK_BYTES // (8 * max(1, first.shape(name).numel())))
        parts = [(mixture, part) for mixture, index in networks for part in index.split(block)]
        ends = torch.tensor([len(part) for _, part in parts]).cumsum(0).tolist()
        for i, (mixture, part) in enumerate(parts):
            rows = _values(mixture, name, part)
            for j in range(i, len(parts)):
                columns = rows if i == j else _values(parts[j][0], name, parts[j][1])
                products = (rows @ columns.T).cpu()
                result[ends[i] - len(rows) : ends[i], ends[j] - len(columns) : ends[j]] += products
    return result.triu() + result.triu(1).T


def _values(mixture: Mixture, name: str, index: Tensor) -> Tensor:
    return mixture.parameter(name, index, torch.float32).reshape(len(index), -1).double()
