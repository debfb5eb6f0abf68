"""What ``make test`` takes of many parameters; ``make test-all`` takes all."""

import pytest

from fastcomb.kernels import native


def mostly_slow(values, *quick):
    """Parameters, all but those at these places marked slow."""
    return [v if i in quick else pytest.param(v, marks=pytest.mark.slow) for i, v in enumerate(values)]


def levels():
    """Instruction levels: the best of this processor, and AVX2, which most laptops have."""
    known = native.extension().levels() if native.extension() else []
    return mostly_slow(known, 0, known.index("avx2") if "avx2" in known else len(known) - 1)
