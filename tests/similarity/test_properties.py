"""What the docstrings of the measures claim: invariances, symmetry, ranges, metrics, sums over batches."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcomb import similarity as fs

#: Rounding of float64 times the condition numbers of the maps (25) and of drawn features (up to some 10⁴,
#: squared), for numbers of size 1.
CLOSE = 1e-7

EUCLIDEAN = ("orthogonal", "permutation", "scaling", "shift")
LINEAR = (*EUCLIDEAN, "invertible", "signs", "units")


def using(measure, **options):
    return functools.partial(measure, **options)


#: Measure by name: the function, least and greatest value, value of a representation with itself, and what
#: may be done to x and to y.
MEASURES = {
    "cka": (fs.cka, 0, 1, 1, EUCLIDEAN, EUCLIDEAN),
    "cka rbf": (using(fs.cka, kernel="rbf"), 0, 1, 1, EUCLIDEAN, EUCLIDEAN),
    "cka debiased": (using(fs.cka, estimator="debiased"), -1, 1, 1, EUCLIDEAN, EUCLIDEAN),
    "cka rbf debiased": (
        using(fs.cka, kernel="rbf", estimator="debiased"), -1, 1, 1, EUCLIDEAN, EUCLIDEAN
    ),
    "mean_cca": (fs.mean_cca, 0, 1, 1, LINEAR, LINEAR),
    "mean_squared_cca": (fs.mean_squared_cca, 0, 1, 1, LINEAR, LINEAR),
    "mean_cca ridge": (using(fs.mean_cca, ridge=0.1), 0, 1, None, EUCLIDEAN, EUCLIDEAN),
    "svcca": (using(fs.svcca, threshold=0.8), 0, 1, 1, EUCLIDEAN, EUCLIDEAN),
    "pwcca x": (fs.pwcca, 0, 1, 1, ("permutation", "scaling", "shift", "signs"), LINEAR),
    "pwcca y": (using(fs.pwcca, side="y"), 0, 1, 1, LINEAR, ("permutation", "scaling", "shift", "signs")),
    "r2 of x": (fs.linear_regression_r2, 0, 1, 1, EUCLIDEAN, LINEAR),
    "r2 of y": (using(fs.linear_regression_r2, predict="y"), 0, 1, 1, LINEAR, EUCLIDEAN),
    "r2 ridge": (using(fs.linear_regression_r2, ridge=0.1), 0, 1, None, EUCLIDEAN, EUCLIDEAN),
    "angular_procrustes": (fs.angular_procrustes, 0, math.pi / 2, 0, EUCLIDEAN, EUCLIDEAN),
    "size_and_shape_procrustes": (
        fs.size_and_shape_procrustes, 0, math.inf, 0, *[("orthogonal", "permutation", "shift")] * 2
    ),
    "rsa correlation": (fs.rsa, -1, 1, 1, *[("permutation", "scaling", "offset")] * 2),
    "rsa cosine": (using(fs.rsa, metric="cosine"), -1, 1, 1, *[("orthogonal", "permutation", "scaling")] * 2),
    "rsa euclidean": (using(fs.rsa, metric="euclidean"), -1, 1, 1, EUCLIDEAN, EUCLIDEAN),
    "rsa kendall": (
        using(fs.rsa, metric="squared_euclidean", compare="kendall"), -1, 1, 1, EUCLIDEAN, EUCLIDEAN
    ),
    "rsa pearson": (using(fs.rsa, metric="euclidean", compare="pearson"), -1, 1, 1, EUCLIDEAN, EUCLIDEAN),
    "rsa of cosines": (
        using(fs.rsa, metric="euclidean", compare="cosine"), 0, 1, 1, EUCLIDEAN, EUCLIDEAN
    ),
    "neighbours": (
        using(fs.neighbour_jaccard, k=3), 0, 1, 1, *[("orthogonal", "permutation", "scaling")] * 2
    ),
    "neighbours euclidean": (
        using(fs.neighbour_jaccard, k=3, metric="euclidean"), 0, 1, 1, EUCLIDEAN, EUCLIDEAN
    ),
    "soft_matching_distance": (fs.soft_matching_distance, 0, math.inf, 0, ("permutation",), ("permutation",)),
    "soft_matching_correlation": (
        fs.soft_matching_correlation, -1, 1, 1, *[("permutation", "scaling", "shift", "units")] * 2
    ),
}  # fmt: skip
ASYMMETRIC = {"pwcca x", "pwcca y", "r2 of x", "r2 of y", "r2 ridge"}
MAPS = sorted({*LINEAR, "offset"})

drawn = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32)


def draw(seed, count=2):
    """Features of the same 14 to 40 samples, that depend on each other: [n, 3 to 6] each."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(14, 41))
    common = rng.standard_normal((n, 3))
    widths = rng.integers(3, 7, count)
    sides = [common @ rng.standard_normal((3, d)) + rng.standard_normal((n, d)) for d in widths]
    return rng, [side + rng.standard_normal(side.shape[1]) for side in sides]


def mapped(kind, x, rng):
    d = x.shape[1]
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    if kind == "invertible":
        return x @ rotation @ np.diag(np.linspace(0.2, 5, d)) @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    return {
        "orthogonal": x @ rotation,
        "permutation": x[:, rng.permutation(d)],
        "scaling": x * 10 ** rng.uniform(-3, 3),
        "shift": x + rng.standard_normal(d) * 3,
        "signs": x * rng.choice([-1, 1], d),
        "units": x * rng.uniform(0.2, 5, d),
        "offset": x + rng.standard_normal() * 3,
    }[kind]


@pytest.mark.parametrize("name", MEASURES)
@given(seed=seeds)
@drawn
def test_invariances_symmetry_and_range(name, seed):
    measure, least, greatest, own, of_x, of_y = MEASURES[name]
    rng, (x, y) = draw(seed)
    found = measure(x, y)
    assert least <= found <= greatest
    for kind in of_x:
        assert measure(mapped(kind, x, rng), y) == pytest.approx(found, rel=CLOSE, abs=CLOSE), kind
    for kind in of_y:
        assert measure(x, mapped(kind, y, rng)) == pytest.approx(found, rel=CLOSE, abs=CLOSE), kind
    if name not in ASYMMETRIC:
        assert measure(y, x) == pytest.approx(found, rel=CLOSE, abs=CLOSE)
    if own is not None:
        assert measure(x, x) == pytest.approx(own, abs=CLOSE)
        assert least <= measure(x, x) <= greatest


@pytest.mark.parametrize("name", MEASURES)
def test_other_maps_change_it(name):
    """So that the maps above do something, and no docstring claims too little."""
    measure, _, _, _, of_x, _ = MEASURES[name]
    rng, (x, y) = draw(1)
    found = measure(x, y)
    for kind in MAPS:
        if (
            kind not in of_x
            and not (kind == "offset" and "shift" in of_x)
            and not (kind == "signs" and "orthogonal" in of_x)
        ):
            assert abs(measure(mapped(kind, x, rng), y) - found) > 1e-4, kind
    if name in ASYMMETRIC:
        assert abs(measure(y, x) - found) > 1e-4


@given(seed=seeds)
@drawn
def test_distances_satisfy_the_triangle_inequality(seed):
    _, sides = draw(seed, 3)
    for distance in (fs.angular_procrustes, fs.size_and_shape_procrustes, fs.soft_matching_distance):
        one, two, direct = (distance(sides[i], sides[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
        assert direct <= one + two + CLOSE


STREAMED = {
    "cka": fs.cka,
    "mean_cca": fs.mean_cca,
    "mean_squared_cca": fs.mean_squared_cca,
    "mean_cca ridge": using(fs.mean_cca, ridge=0.1),
    "svcca": using(fs.svcca, threshold=0.8),
    "pwcca": fs.pwcca,
    "pwcca y": using(fs.pwcca, side="y"),
    "r2": fs.linear_regression_r2,
    "r2 ridge": using(fs.linear_regression_r2, predict="y", ridge=0.1),
    "angular_procrustes": fs.angular_procrustes,
    "size_and_shape_procrustes": fs.size_and_shape_procrustes,
}


@given(seed=seeds, offset=st.sampled_from([0.0, 1e3]))
@drawn
def test_moments_of_batches_give_what_all_samples_give(seed, offset):
    rng, (x, y) = draw(seed)
    x = x + offset
    cuts = np.sort(rng.choice(np.arange(1, len(x)), 3, replace=False))
    parts = [fs.Moments.of(*batch) for batch in zip(np.split(x, cuts), np.split(y, cuts), strict=True)]
    total = functools.reduce(lambda a, b: a + b, parts)
    assert total.count == len(x)
    covariance = np.cov(x.T, y.T) * (len(x) - 1)
    d = x.shape[1]
    for name, expected in (
        ("mean_x", x.mean(0)),
        ("mean_y", y.mean(0)),
        ("xx", covariance[:d, :d]),
        ("xy", covariance[:d, d:]),
        ("yy", covariance[d:, d:]),
    ):
        # means of 1e3 are rounded to 1e-13, and np.cov's too
        np.testing.assert_allclose(getattr(total, name), expected, rtol=1e-9, atol=1e-9)
    for name, measure in STREAMED.items():
        assert measure(total) == pytest.approx(measure(x, y), rel=CLOSE, abs=CLOSE), name
        assert measure(total.swapped) == pytest.approx(measure(y, x), rel=CLOSE, abs=CLOSE), name
    part = total.part(slice(1, 3), slice(0, 2))
    assert fs.cka(part) == pytest.approx(fs.cka(x[:, 1:3], y[:, :2]), rel=CLOSE)


@given(seed=seeds)
@drawn
def test_minibatch_cka_of_one_batch_is_the_debiased_one(seed):
    _, (x, y) = draw(seed)
    for kernel in ("linear", "rbf"):
        whole = fs.cka(x, y, kernel=kernel, estimator="debiased")
        assert fs.minibatch_cka([(x, y)], kernel=kernel) == pytest.approx(whole, rel=1e-9, abs=1e-12)
        # equal batches say no more than one, in any order
        assert fs.minibatch_cka([(x, y), (x[::-1], y[::-1])], kernel=kernel) == pytest.approx(whole, rel=1e-9)
        assert -1 <= whole <= 1


@given(
    seed=seeds,
    shape=st.sampled_from([(5, 3, 2, 4), (5, 7, 3), (4, 6), (3, 2, 2, 2, 2)]),
    channels=st.sampled_from([None, 1, -1]),
)
@drawn
def test_flatten_keeps_every_number_in_its_place(seed, shape, channels):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(seed % 2**31))
    rows = fs.flatten(maps, "samples")
    assert torch.equal(rows, maps.reshape(len(maps), -1))
    axis = channels if channels is not None else (2 if len(shape) == 3 else 1)
    positions = fs.flatten(maps.numpy(), "positions", channels=channels)
    last = np.moveaxis(maps.numpy(), axis, -1)
    assert positions.shape == (last[..., 0].size, shape[axis])
    for row, index in enumerate(np.ndindex(last.shape[:-1])):
        np.testing.assert_array_equal(positions[row], last[index])
