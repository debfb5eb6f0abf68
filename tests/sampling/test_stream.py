"""The coefficient stream is version 1, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcomb.sampling import stream
from tests import independent

# philox4x32, 10 rounds, from the known-answer file of Random123
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    assert stream.philox4x32_10(counter, key) == expected
    words = stream.philox4x32_10(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(word) for word in words) == expected
    assert independent.philox(counter, key) == expected


def drawn(index, **arguments):
    rows = torch.full((len(index), arguments["count"]), -1, dtype=torch.int32)
    for row, column, values in stream.pieces(index, **arguments):
        assert (rows[row, column] == -1).all()
        rows[row, column] = values
    assert (rows >= 0).all()
    return rows


@given(
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**64 - 1),
    unit=st.integers(0, 2**32 - 1),
    bits=st.sampled_from([16, 32]),
    count=st.sampled_from([0, 1, 3, 63, 100, 500]),
)
@settings(max_examples=60, deadline=None)
def test_draws_equal_an_independent_implementation(seed, index, unit, bits, count):
    found = drawn(torch.tensor([stream.as_signed(index)]), seed=seed, unit=unit, count=count, bits=bits)
    expected = [independent.draw(seed, index, unit, e, bits) for e in range(count)]
    assert found[0].tolist() == expected


@pytest.mark.parametrize("bits", [16, 32])
def test_draws_do_not_depend_on_how_the_work_is_cut(bits, monkeypatch):
    index = torch.tensor([5, 2**40, -3])
    arguments = {"seed": 2**63 + 7, "unit": 9, "count": 501, "bits": bits}
    whole = drawn(index, **arguments)
    for size in (1, 2, 7, 64):
        monkeypatch.setattr(stream, "_BLOCKS_AT_A_TIME", size)
        assert torch.equal(drawn(index, **arguments), whole)
    assert torch.equal(drawn(index[1:2], **arguments), whole[1:2])


@pytest.mark.parametrize("bits", [16, 32])
def test_the_grid_is_exact_in_float32_inside_the_unit_interval_and_symmetric(bits):
    u = stream.grid(bits)
    assert torch.equal(u.float().double(), u)
    assert u[0] > 0
    assert u[-1] < 1
    assert torch.equal(1 - u, u.flip(0))


@pytest.mark.parametrize("bits", [16, 32])
def test_draws_are_independent_across_elements_units_indices_and_seeds(bits):
    """Correlations of 200,000 pairs, and a chi-square test of 16 × 16 joint cells, level 1e-6 each."""
    import scipy.stats

    def u(index, unit=3, seed=1):
        k = drawn(torch.arange(index, index + 400), seed=seed, unit=unit, count=501, bits=bits)
        return (k.double().numpy() + 0.5) / 2 ** stream.RESOLUTION[bits]

    base = u(0)
    neighbours = {
        "next element": (base[:, :-1], base[:, 1:]),
        "element of the next block": (base[:, :-8], base[:, 8:]),
        "next index": (base[:-1], base[1:]),
        "next unit": (base, u(0, unit=4)),
        "next seed": (base, u(0, seed=2)),
        "index plus 2**32": (base, u(2**32)),
    }
    for name, (one, other) in neighbours.items():
        one, other = one.ravel(), other.ravel()
        assert abs(scipy.stats.norm.isf(5e-7)) > abs(np.corrcoef(one, other)[0, 1]) * len(one) ** 0.5, name
        cells = np.histogram2d(one, other, bins=16, range=[[0, 1]] * 2)[0].ravel()
        assert scipy.stats.chisquare(cells).pvalue > 1e-6, name
