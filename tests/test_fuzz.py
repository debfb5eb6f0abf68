"""A short slice of the fuzz of random networks (``make fuzz`` runs thousands)."""

import pytest

from tests.fuzz.checks import findings
from tests.fuzz.networks import make
from tests.quick import mostly_slow

#: Networks of one test: it should take a few seconds.
_SLICE = 5


def faults(numbers: range, seed: int, extras: int) -> str:
    """Everything wrong about these networks, with their sources; extras as in ``findings``."""
    lines = []
    for number in numbers:
        network = make(number, seed)
        bad = [f for f in findings(network, extras) if f["verdict"] in ("wrong", "raised")]
        lines += [str(network), *(f"{f['verdict']} {f['check']}: {f['text']}" for f in bad)] if bad else []
    return "\n".join(lines)


@pytest.mark.parametrize("first", mostly_slow(range(0, 2 * _SLICE, _SLICE), 0))
@pytest.mark.filterwarnings("ignore")
def test_random_networks(first: int) -> None:
    found = faults(range(first, first + _SLICE), seed=0, extras=0)
    assert not found, found


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 60 * _SLICE, _SLICE))
@pytest.mark.filterwarnings("ignore")
def test_more_random_networks(first: int) -> None:
    found = faults(range(first, first + _SLICE), seed=1, extras=3)
    assert not found, found


def test_a_number_gives_the_same_network_again() -> None:
    one, other = make(7), make(7)
    assert str(one) == str(other)
    assert one.build("a").state_dict().keys() == other.build("a").state_dict().keys()
