"""Linear assignments: the compiled kernel against scipy, and units with others inside against all pairs."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from fastcomb.kernels import native
from fastcomb.rebasin.assignment import assign, best_step
from fastcomb.rebasin.symmetries import Group, Member, Symmetries
from tests.quick import levels, mostly_slow

MATRICES = {
    "different": lambda x: x,
    "of few values": lambda x: (2 * x).round(),
    "all equal": torch.zeros_like,
    "equal rows": lambda x: x[:, :1].expand_as(x),
    "of small rank": lambda x: x[:, :, :2] @ x[:, :2],
    "far apart": lambda x: x.exp() ** 8,
    "nearly in order": lambda x: x + 6 * torch.eye(x.shape[-1], dtype=x.dtype),
}


def value(similarity, permutation):
    return similarity.double().gather(-1, permutation[..., None]).sum((-1, -2))


def best(similarity):
    """By scipy."""
    found = [linear_sum_assignment(one, maximize=True)[1] for one in similarity.double().numpy()]
    return torch.stack([torch.from_numpy(one) for one in found])


@pytest.fixture(params=[*levels(), "scipy"])
def way(request, monkeypatch):
    if request.param == "scipy":
        monkeypatch.setattr(native, "serves", lambda device: False)
    else:
        monkeypatch.setenv(native.LEVEL_VARIABLE, request.param)


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", mostly_slow([1, 2, 3, 4, 7, 8, 9, 63, 100], 0, 2, 5, 7))
def test_no_permutation_is_better(size, dtype, kind, way):
    random = torch.randn(3, size, size, generator=torch.Generator().manual_seed(size), dtype=dtype)
    similarity = MATRICES[kind](random)
    found = assign(similarity)
    assert torch.equal(found.sort(-1).values, torch.arange(size).expand(3, size))
    # sums of the same numbers in another order, in float64
    scale = similarity.double().abs().sum((-1, -2))
    torch.testing.assert_close(
        value(similarity, found),
        value(similarity, best(similarity)),
        rtol=0,
        atol=1e-15 * float(scale.max()) + 1e-300,
    )
    assert kind != "different" or torch.equal(found, best(similarity))  # which is the only best one


@pytest.mark.parametrize("kind", ["different", "of few values"])
def test_no_permutation_is_better_of_many_units(kind, way):
    similarity = MATRICES[kind](torch.randn(1, 500, 500, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(value(similarity, assign(similarity)), value(similarity, best(similarity)))


def test_every_level_finds_the_same(monkeypatch):
    random = torch.randn(4, 41, 41, generator=torch.Generator().manual_seed(1))
    for kind in MATRICES.values():
        found = []
        for level in native.extension().levels():
            monkeypatch.setenv(native.LEVEL_VARIABLE, level)
            found.append(assign(kind(random)))
        assert all(torch.equal(one, found[0]) for one in found)


def test_shapes(way):
    assert assign(torch.zeros(0, 0)).shape == (0,)
    assert assign(torch.zeros(2, 0, 0)).shape == (2, 0)
    assert assign(torch.zeros(0, 3, 3)).shape == (0, 3)
    assert assign(torch.randn(2, 3, 4, 4)).shape == (2, 3, 4)
    x = torch.randn(5, 5, generator=torch.Generator().manual_seed(2))
    assert torch.equal(assign(x), best(x[None])[0])
    assert torch.equal(assign(x.T), best(x.T[None])[0])  # strided


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_refused(wrong, way):
    similarity = torch.zeros(2, 3, 3)
    similarity[1, 2, 0] = wrong
    with pytest.raises(ValueError, match="not finite, so the weights or activations"):
        assign(similarity)


def test_large_numbers_are_finite(way):
    similarity = torch.full((2, 2), 3e38)
    assert sorted(assign(similarity).tolist()) == [0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_units_are_compared_at_their_best(seed):
    """Six heads with two families of features: the best of all pairs of heads, each by itself."""
    heads, parts = 6, (4, 5)
    generator = torch.Generator().manual_seed(seed)
    total = torch.randn(heads, heads, generator=generator)
    inside = [torch.randn(heads, heads, n, n, generator=generator) for n in parts]
    families = (tuple(range(1, 1 + heads)), tuple(range(1 + heads, 1 + 2 * heads)))

    def member(units):
        return (Member("weight", 0, torch.arange(units)[:, None]),)

    inner = [Group(n, member(n), ()) for n in parts for _ in range(heads)]
    symmetries = Symmetries((Group(heads, member(heads), families), *inner), {}, {})
    step = best_step(
        symmetries, 0, lambda ones, others: total[None, None] if len(ones) == 1 else inside[ones[0] > heads]
    )

    values, matched = total.double().clone(), []
    for s in inside:
        matched.append(torch.stack([best(row) for row in s]))
        values += value(s, matched[-1])
    units = best(values[None])[0]
    assert torch.equal(step[0], units)
    for family, found in zip(families, matched, strict=True):
        for head, number in enumerate(family):
            assert torch.equal(step[number], found[head, units[head]])
