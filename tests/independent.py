"""The coefficient stream once more, in plain Python integers, from its definition alone."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

MASK = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    c = list(counter)
    k = list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 1 << 32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c[0], c[1], c[2], c[3]


def draw(seed: int, index: int, unit: int, element: int, bits: int) -> int:
    per_block = 8 if bits == 16 else 4
    counter = (element // per_block, unit, index & MASK, index >> 32)
    words = philox(counter, (seed & MASK, seed >> 32))
    lane = element % per_block
    if bits == 16:
        return (words[lane // 2] >> (16 * (lane % 2))) & 0xFFFF
    return words[lane] >> 9


def uniform(seed: int, index: int, unit: int, element: int, bits: int) -> float:
    return (draw(seed, index, unit, element, bits) + 0.5) / (1 << (16 if bits == 16 else 23))


def uniforms(
    parameters: Mapping[str, Tensor], seed: int, index: int, per: str, bits: int, flip: int = 0
) -> dict[str, np.ndarray]:
    """u of every weight of one combination, float64 arrays shaped like the parameters.

    ``flip`` is combined with every unit by exclusive or.
    """
    owners = sorted({name.rpartition(".")[0] for name in parameters})
    result = {}
    for name, value in parameters.items():
        shape = tuple(value.shape)
        flat = np.empty(int(np.prod(shape)))
        rows = shape[0] if shape else 1
        for e in range(flat.size):
            if per == "element":
                unit, element = sorted(parameters).index(name), e
            elif per == "neuron":
                unit, element = owners.index(name.rpartition(".")[0]), e // (flat.size // rows)
            elif per == "layer":
                unit, element = owners.index(name.rpartition(".")[0]), 0
            else:
                unit, element = 0xFFFFFFFF, 0
            flat[e] = uniform(seed, index, unit ^ flip, element, bits)
        result[name] = flat.reshape(shape)
    return result
