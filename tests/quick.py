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
    """Instruction levels, all but the best of this processor slow."""
    return mostly_slow(_levels(), 0)


def levels_and_dtypes():
    """Instruction levels with dtypes, all but those of the best one slow."""
    pairs = [(level, dtype) for level in _levels() for dtype in (torch.float32, torch.bfloat16)]
    return mostly_slow(pairs, 0, 1, several=True)


def _levels():
    return native.extension().levels() if native.extension() else []
