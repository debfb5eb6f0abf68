"""What goes into the measures: dtypes, dependent and constant features; what is refused, in which words."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastcomb import similarity as fs
from fastcomb.similarity.cka import linear_cka

#: Every measure of two representations that takes features alone.
MEASURES = {
    "cka": fs.cka,
    "cka_rbf": functools.partial(fs.cka, kernel="rbf"),
    "cka_debiased": functools.partial(fs.cka, estimator="debiased"),
    "minibatch_cka": lambda x, y: fs.minibatch_cka([(x, y)]),
    "canonical_correlations": lambda x, y: float(fs.canonical_correlations(x, y).sum()),
    "mean_cca": fs.mean_cca,
    "mean_squared_cca": fs.mean_squared_cca,
    "svcca": fs.svcca,
    "pwcca": fs.pwcca,
    "linear_regression_r2": fs.linear_regression_r2,
    "angular_procrustes": fs.angular_procrustes,
    "size_and_shape_procrustes": fs.size_and_shape_procrustes,
    "rsa": fs.rsa,
    "neighbour_jaccard": functools.partial(fs.neighbour_jaccard, k=3),
    "soft_matching_distance": fs.soft_matching_distance,
    "soft_matching_correlation": fs.soft_matching_correlation,
}
#: Those that also take moments.
FROM_MOMENTS = (
    fs.cka, fs.canonical_correlations, fs.mean_cca, fs.mean_squared_cca, fs.svcca, fs.pwcca,
    fs.linear_regression_r2, fs.angular_procrustes, fs.size_and_shape_procrustes,
)  # fmt: skip
#: Those that refuse features which are as many as the samples.
NEED_SAMPLES = (
    fs.canonical_correlations,
    fs.mean_cca,
    fs.mean_squared_cca,
    fs.pwcca,
    fs.linear_regression_r2,
)

every = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def features():
    x = drawn(20, 5)
    return x, x[:, :4] + drawn(20, 4, seed=1)


@every
def test_any_kind_of_numbers_is_computed_in_float64(measure, features):
    x, y = (side.float() for side in features)
    expected = measure(x.double(), y.double())
    assert measure(x, y) == expected
    assert measure(x.numpy(), y) == expected
    assert measure(x.requires_grad_(), y) == expected
    turned = np.asfortranarray(x.detach().numpy())[::-1][::-1].astype(">f4")
    turned.setflags(write=False)
    assert measure(turned, y) == expected
    whole = (features[0] * 8).round()
    assert measure(whole.long(), y) == measure(whole.numpy(), y) == measure(whole.to(torch.int8), y)
    for dtype in (torch.bfloat16, torch.float16):
        # 2⁻⁸ and less of each number; the last digit of the measures that count neighbours and ranks
        assert measure(x.detach().to(dtype), y) == pytest.approx(expected, abs=0.1, rel=0.02)
    assert x.requires_grad


@every
def test_refused_by_every_measure(measure, features):
    x, y = features
    for bad, error, words in (
        (drawn(20, 2, 3), ValueError, r"x has shape \(20, 2, 3\); it must be \[n, features\]"),
        (drawn(20), ValueError, r"x has shape \(20,\)"),
        (drawn(20, 0), ValueError, "no features"),
        (drawn(19, 5), ValueError, "x has 19 samples and y has 20"),
        (x.tolist(), TypeError, "x is list; pass a tensor or an array"),
        (x + 1j, TypeError, "complex128; features are real"),
        ((x + 1j).numpy(), TypeError, "complex128; features are real"),
        (x.numpy().astype(str), TypeError, "x is an array of <U"),
    ):
        with pytest.raises(error, match=words):
            measure(bad, y)
    broken = x.clone()
    broken[3, 1], broken[3, 2], broken[7, 0] = torch.nan, torch.inf, -torch.inf
    with pytest.raises(ValueError, match="x has 3 values that are NaN or infinite, in 2 of 20 samples"):
        measure(broken, y)
    with pytest.raises(ValueError, match="y has 3 values"):
        measure(x, broken)


@every
def test_constant_representations_are_refused(measure, features):
    x, y = features
    if measure is fs.soft_matching_distance:
        pytest.skip("units that do not vary are as far from others as any")
    if measure is MEASURES["minibatch_cka"]:
        words = "HSIC of {} with itself is 0"
    elif measure is fs.rsa:
        words = "all distances between the samples of {} are 0"
    else:
        words = "{} does not vary"
    rounded = torch.linspace(0.1, 7, 30, dtype=torch.float64).expand(20, 30)
    assert (rounded - rounded.mean(0)).any()
    for constant in (torch.tensor([0.1, -3.3, 1e9]).expand(20, 3), rounded):
        with pytest.raises(ValueError, match=words.format("x")):
            measure(constant, y)
        with pytest.raises(ValueError, match=words.format("y")):
            measure(x, constant)
    assert np.isnan(linear_cka(torch.ones(20, 3), y))


@pytest.mark.parametrize("measure", FROM_MOMENTS)
def test_moments_are_checked_alike(measure, features):
    x, y = features
    total = fs.Moments.of(x, y)
    for call, error, words in (
        (lambda: measure(total, y), TypeError, "pass them alone, without y"),
        (lambda: measure(x), TypeError, "y is missing"),
        (lambda: measure(fs.Moments.of(x[:1], y[:1])), ValueError, "moments of 1 samples"),
        (lambda: measure(fs.Moments.of(torch.full((20, 2), 0.1), y)), ValueError, "x does not vary"),
        (lambda: fs.Moments.of(x, y[:3]), ValueError, "x has 20 samples and y has 3"),
        (lambda: fs.Moments.of(x / 0, y), ValueError, "x has 100 values that are NaN or infinite"),
        (
            lambda: total + total.swapped,
            ValueError,
            r"moments of \(5, 4\) and \(4, 5\) features do not add up",
        ),
    ):
        with pytest.raises(error, match=words):
            call()
    broken = fs.Moments(20, total.mean_x, total.mean_y, total.xx, total.xy / 0, total.yy)
    with pytest.raises(ValueError, match=r"moments\.xy has values that are NaN or infinite"):
        measure(broken)


@pytest.mark.parametrize("measure", NEED_SAMPLES)
@pytest.mark.parametrize("width", [19, 20, 40])
def test_fewer_samples_than_features_are_refused_or_regularised(measure, width):
    wide, narrow = drawn(20, width), drawn(20, 3, seed=1)
    moments = fs.Moments.of(narrow, wide)
    for call in (lambda **o: measure(narrow, wide, **o), lambda **o: measure(moments, **o)):
        with pytest.raises(ValueError, match=r"y has 19 independent directions over 20 samples.*ridge="):
            call()
        assert 0 < np.mean(np.asarray(call(ridge=0.1))) < 1
    if measure is not fs.linear_regression_r2:
        with pytest.raises(ValueError, match="x has 19 independent directions"):
            measure(wide, narrow)
    # 18 features of 20 samples are few enough, and so are 40 features that only span 5 dimensions
    measure(narrow, drawn(20, 18))
    found = measure(narrow, drawn(20, 5) @ drawn(5, 40))
    np.testing.assert_allclose(found, measure(narrow, drawn(20, 5)), rtol=1e-9)
    for ridge in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be positive and finite"):
            measure(narrow, wide, ridge=ridge)


def test_svcca_reduces_before_it_refuses():
    common = drawn(20, 2) @ drawn(2, 40, seed=1) * 10
    x, y = common + drawn(20, 40, seed=2), common @ drawn(40, 30, seed=3) + drawn(20, 30, seed=4)
    assert fs.svcca(x, y, threshold=0.9) > 0.9
    with pytest.raises(ValueError, match=r"x has 19 independent directions.*lower the threshold"):
        fs.svcca(x, y, threshold=1.0)


def test_other_measures_take_more_features_than_samples():
    x, y = drawn(12, 30), drawn(12, 40, seed=1)
    for name in ("cka", "cka_rbf", "cka_debiased", "angular_procrustes", "size_and_shape_procrustes", "rsa"):
        assert np.isfinite(MEASURES[name](x, y))


def test_constant_and_dependent_features_do_not_count(features):
    x, y = features
    more = torch.cat([x, torch.full((20, 1), 0.1), x[:, :2] @ drawn(2, 3), x[:, :1]], 1)
    for measure in (fs.mean_cca, fs.mean_squared_cca, fs.linear_regression_r2):
        expected = measure(y, x)
        assert measure(y, more) == pytest.approx(expected, rel=1e-10)
        assert measure(fs.Moments.of(y, more)) == pytest.approx(
            expected, rel=1e-7
        )  # square roots of rounding
    assert len(fs.canonical_correlations(more, more)) == 5
    assert fs.mean_cca(more, x) == pytest.approx(1, rel=1e-10)
    still = torch.cat([x, torch.full((20, 1), 0.1)], 1)
    for measure in (fs.cka, fs.svcca, fs.pwcca, fs.angular_procrustes, fs.size_and_shape_procrustes):
        assert measure(still, y) == pytest.approx(measure(x, y), rel=1e-12)


@pytest.mark.parametrize("make", ["softmax", "layer_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_directions_of_rounding_do_not_count(make, dtype):
    """Outputs of a softmax and of a LayerNorm sum to a constant, but for rounding of their dtype."""
    x = drawn(300, 8).to(torch.float64 if dtype is torch.float64 else torch.float32)
    outputs = (F.softmax(x, 1) if make == "softmax" else F.layer_norm(x + 5, (8,))).to(dtype)
    assert len(fs.canonical_correlations(outputs, outputs)) == 7
    parts = [fs.Moments.of(rows, rows) for rows in outputs.split(50)]
    assert len(fs.canonical_correlations(sum(parts[1:], parts[0]))) == 7
    others = drawn(300, 9).to(dtype)
    assert len(fs.canonical_correlations(others, others)) == 9


def test_small_directions_count():
    """Features whose sizes span six orders, or that vary little around a large mean."""
    x = drawn(200, 6)
    for other in (x * 10.0 ** torch.arange(-3, 3), x + 1e5, (x * 10.0 ** torch.arange(-3, 3)).float()):
        assert fs.mean_cca(x, other) == pytest.approx(1, abs=1e-9)
        assert fs.mean_cca(fs.Moments.of(x, other)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y: fs.cka(x, y, kernel="poly"), "kernel='poly' is neither 'linear' nor 'rbf'"),
        (lambda x, y: fs.cka(x, y, estimator="unbiased"), "is neither 'biased' nor 'debiased'"),
        (lambda x, y: fs.cka(x, y, kernel="rbf", bandwidth=0), "bandwidth=0 must be positive"),
        (lambda x, y: fs.cka(fs.Moments.of(x, y), kernel="rbf"), "does not follow from moments"),
        (lambda x, y: fs.cka(fs.Moments.of(x, y), estimator="debiased"), "use minibatch_cka"),
        (
            lambda x, y: fs.cka(x[:3], y[:3], estimator="debiased"),
            "at least 4 samples in a batch; there are 3",
        ),
        (lambda x, y: fs.cka(x[:, :1] * (x == x[0]), y, estimator="debiased"), "with itself is 0"),
        (
            lambda x, y: fs.cka(x.sign().clamp(0) * (y[:, :1] > 1), y, kernel="rbf"),
            "half of the pairs coincide",
        ),
        (lambda x, y: fs.minibatch_cka([]), "there are no batches"),
        (lambda x, y: fs.svcca(x, y, threshold=0), r"in \(0, 1\]"),
        (lambda x, y: fs.svcca(x, y, threshold=99), r"in \(0, 1\]"),
        (lambda x, y: fs.pwcca(x, y, side="left"), "side='left' is neither 'x' nor 'y'"),
        (lambda x, y: fs.linear_regression_r2(x, y, predict="z"), "predict='z' is neither 'x' nor 'y'"),
        (lambda x, y: fs.rsa(x, y, metric="manhattan"), "metric='manhattan' is none of 'correlation'"),
        (lambda x, y: fs.rsa(x, y, compare="rank"), "compare='rank' is none of 'spearman'"),
        (lambda x, y: fs.rsa(x[:2], y[:2]), "at least 3 are needed"),
        (
            lambda x, y: fs.rsa(torch.eye(20), y, metric="euclidean"),
            "all distances between the samples of x are 1.41",
        ),
        (
            lambda x, y: fs.rsa(x * (x[:, :1] > 0), y, metric="cosine"),
            "of x have 0 in all features, so they have no",
        ),
        (lambda x, y: fs.rsa(x, y[:, :1]), "20 of 20 samples of y have the same value in all features"),
        (lambda x, y: fs.rdm(x[:1]), "1 samples; at least 2"),
        (
            lambda x, y: fs.neighbour_jaccard(x, y, k=20),
            "k=20 neighbours of 20 samples; k must be from 1 to 19",
        ),
        (lambda x, y: fs.neighbour_jaccard(x, y, k=0), "k=0"),
        (
            lambda x, y: fs.neighbour_jaccard(x, y, metric="l1"),
            "metric='l1' is neither 'cosine' nor 'euclidean'",
        ),
        (lambda x, y: fs.neighbour_jaccard(x * (x[:, :1] > 0), y), "use metric='euclidean'"),
        (lambda x, y: fs.flatten(x[:, 0], "samples"), r"maps have shape \(20,\)"),
        (lambda x, y: fs.flatten(x, "pixels"), "neither 'samples' nor 'positions'"),
        (
            lambda x, y: fs.flatten(x, "positions", channels=2),
            r"channels=2 is no dimension after the samples'",
        ),
        (lambda x, y: fs.flatten(x, "positions", channels=0), "channels=0"),
        (lambda x, y: fs.flatten([x], "positions"), "maps is list"),
    ],
)
def test_what_is_refused_is_named(call, words, features):
    with pytest.raises((ValueError, TypeError), match=words):
        call(*features)
