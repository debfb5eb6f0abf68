"""What ``make test`` takes of many parameters; ``make test-all`` takes all."""

import pytest
import torch

from fastcomb.kernels import native


def mostly_slow(values, *quick, several=False):
    """Parameters, all but those at these places marked slow; ``several``: each is a tuple of them."""
    return [
        v if i in quick else pytest.param(*(v if several else (v,)), marks=pytest.mark.slow)
        for i, v in enumerate(values)
    ]


def levels():
    """Instruction levels: the best of this processor, and AVX2, which most laptops have."""
    known = native.extension().levels() if native.extension() else []
    return mostly_slow(known, 0, _common(known))


def levels_and_dtypes():
    """Levels of the engine in float32, as :func:`levels`, and in bfloat16, of which the best one."""
    known = native.extension().levels() if native.extension() else []
    pairs = [(level, dtype) for dtype in (torch.float32, torch.bfloat16) for level in known]
    return mostly_slow(pairs, 0, _common(known), len(known), several=True)


def _common(known):
    return known.index("avx2") if "avx2" in known else len(known) - 1
