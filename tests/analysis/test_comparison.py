"""Two distributions beside each other: against scipy, against truths, and when the samples hang together."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import fastcomb as fc
from fastcomb.analysis.comparison import Comparison, compare
from fastcomb.statistics import two_samples
from fastcomb.statistics.density import Density
from fastcomb.statistics.moments import Moments
from tests.misses import most_misses

#: Two laws, and what they differ by: mean, median, P(A < B) + ½ P(A = B), Wasserstein-1.
TRUTHS = {
    "same": (scipy.stats.norm(), scipy.stats.norm(), (0, 0, 0.5, 0)),
    "moved": (scipy.stats.norm(), scipy.stats.norm(2), (2, 2, scipy.stats.norm.cdf(2**0.5), 2)),
    "scaled": (scipy.stats.expon(), scipy.stats.expon(scale=2), (1, np.log(2), 2 / 3, 1)),
    "ties": (scipy.stats.binom(4, 0.5), scipy.stats.binom(4, 0.6), (0.4, 0, 0.60875, 0.4)),
    # Pareto with indices a and b: P(A < B) = a / (a + b)
    "long tail": (
        scipy.stats.pareto(3),
        scipy.stats.pareto(2.5),
        (1 / 6, 2**0.4 - 2 ** (1 / 3), 3 / 5.5, 1 / 6),
    ),
}

#: Samples with ties, as float32 or float64.
samples = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: st.tuples(
        *[arrays.arrays(dtype, st.integers(2, 30), elements=st.integers(-9, 9).map(lambda i: i / 4))] * 2
    )
)


def drawn(law, shape, seed):
    return law.rvs(shape, random_state=np.random.default_rng(seed)).astype(float)


@settings(deadline=None)
@given(samples, st.integers(1, 40))
def test_gaps_are_scipys_whatever_the_pieces(pair, block):
    a, b = map(np.sort, pair)
    above, below, area = two_samples.gaps(a, b, block)
    assert above == pytest.approx(scipy.stats.ks_2samp(a, b, "greater", method="asymp").statistic, abs=1e-12)
    assert below == pytest.approx(scipy.stats.ks_2samp(a, b, "less", method="asymp").statistic, abs=1e-12)
    assert area == pytest.approx(scipy.stats.wasserstein_distance(a, b), abs=1e-9)


def test_gaps_of_infinite_values():
    """inf counts in the distribution functions; a distance it has none."""
    a, b = np.array([-np.inf, 0, 1, np.inf]), np.array([0.0, 2, np.inf, np.inf])
    above, below, area = two_samples.gaps(a, b)
    assert (above, below) == (0.5, 0)
    assert np.isnan(area)
    assert two_samples.wasserstein_interval(a, b, area, 0.95).high == np.inf


@pytest.mark.parametrize(("n", "m"), [(7, 12), (300, 300), (10_000, 500), (20_000, 10_001)])
def test_p_values_are_scipys(n, m):
    a, b = np.sort(drawn(scipy.stats.norm(), n, 0)), np.sort(drawn(scipy.stats.norm(0.1), m, 1))
    expected = scipy.stats.ks_2samp(a, b)
    assert two_samples.smirnov(a, b, expected.statistic) == pytest.approx(expected.pvalue, rel=1e-9)
    bound = two_samples.smirnov(a, b, expected.statistic, independent=False)
    assert expected.pvalue < bound <= 1


@settings(deadline=None)
@given(samples)
def test_differences_of_means_are_welchs(pair):
    a, b = pair
    for confidence in (0.8, 0.95):
        moments = [Moments().add(values) for values in pair]
        found = two_samples.mean_difference(*moments, confidence)
        a, b = (values.astype(float) for values in pair)
        assert found.value == pytest.approx(b.mean() - a.mean(), abs=1e-9)
        if np.ptp(a) > 0 and np.ptp(b) > 0:
            expected = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval(confidence)
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)
        apart = two_samples.mean_difference(*moments, confidence, independent=False)
        assert apart.half_width >= found.half_width * (1 - 1e-9)


@settings(deadline=None)
@given(samples)
def test_probabilities_are_mann_and_whitneys_with_brunner_and_munzels_variance(pair):
    """Their variance as published, from ranks; the p-value it gives is scipy's."""
    a, b = pair
    n, m = len(a), len(b)
    found = two_samples.probability_below(*map(np.sort, pair), 0.9)
    assert found.value == pytest.approx(scipy.stats.mannwhitneyu(b, a).statistic / (n * m))
    assert 0 <= found.low <= found.value <= found.high <= 1
    other = two_samples.probability_below(*map(np.sort, (b, a)), 0.9)
    assert (other.low, other.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)
    ranks = scipy.stats.rankdata(np.concatenate(pair))
    parts = [
        ((together - own) / size).var(ddof=1) / len(own)
        for together, own, size in (
            (ranks[:n], scipy.stats.rankdata(a), m),
            (ranks[n:], scipy.stats.rankdata(b), n),
        )
    ]
    if sum(parts) > 1e-12:
        degrees = sum(parts) ** 2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (m - 1))
        error = sum(parts) ** 0.5
        margin = error / (found.value * (1 - found.value)) * scipy.stats.t.ppf(0.95, degrees)
        middle = scipy.special.logit(found.value)
        expected = scipy.special.expit([middle - margin, middle + margin])
        assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)
        p_value = 2 * scipy.stats.t.sf(abs(found.value - 0.5) / error, degrees)
        assert p_value == pytest.approx(scipy.stats.brunnermunzel(a, b).pvalue, abs=1e-9)


def test_probabilities_of_samples_that_are_apart():
    """Every draw below every other: at least 0.025^(1/n) of all, as Clopper and Pearson say of n of n."""
    apart = two_samples.probability_below(np.arange(20.0), np.arange(20.0) + 30, 0.95)
    assert (apart.value, apart.high) == (1, 1)
    assert apart.low == pytest.approx(scipy.stats.binomtest(20, 20).proportion_ci().low)
    equal = two_samples.probability_below(np.ones(20), np.ones(30), 0.95)
    assert equal.value == 0.5
    assert (equal.low, equal.high) == pytest.approx((apart.low / 2, 1 - apart.low / 2))
    together = two_samples.probability_below(np.arange(20.0), np.arange(20.0) + 30, 0.95, independent=False)
    assert together.low == pytest.approx(scipy.stats.binomtest(10, 10).proportion_ci().low)


@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize("n", [10, *(pytest.param(n, marks=pytest.mark.slow) for n in (100, 1000))])
def test_intervals_of_two_samples_cover(name, n, monkeypatch):
    """1,000 pairs of samples, resampled on fewer points than usual.

    The misses allowed follow from the binomial law at 5 %, or at 10 % for the intervals that rest on the
    central limit theorem where n is 10: docs/statistics.md says how far they are off.
    """
    monkeypatch.setattr(two_samples, "_POINTS", 100)
    first, second, truths = TRUTHS[name]
    a, b = drawn(first, (1000, n), 0), drawn(second, (1000, n), 1)
    misses = np.zeros(4, dtype=int)
    for x, y in zip(np.sort(a), np.sort(b), strict=True):
        distance = two_samples.gaps(x, y)[2]
        found = (
            two_samples.mean_difference(Moments().add(x), Moments().add(y), 0.95),
            two_samples.median_difference(Density("loss", x), Density("loss", y), 0.95),
            two_samples.probability_below(x, y, 0.95),
            two_samples.wasserstein_interval(x, y, distance, 0.95, resamples=79),
        )
        misses += [
            not each.low - 1e-9 <= truth <= each.high + 1e-9
            for each, truth in zip(found, truths, strict=True)
        ]
        assert all(each.low <= each.value <= each.high for each in found)
    close = most_misses(1000, 0.1 if n == 10 else 0.05)
    assert misses[0] <= close
    assert misses[1] <= most_misses(1000)
    assert misses[2] <= close
    assert misses[3] <= close


@pytest.mark.parametrize("sign", [-1, pytest.param(1, marks=pytest.mark.slow)])
def test_intervals_of_samples_that_hang_together_cover(sign):
    """B is −A, or A: the first makes the ordinary intervals too narrow, the second far too wide."""
    a = drawn(scipy.stats.norm(), (1000, 60), 2)
    misses = np.zeros((2, 3), dtype=int)
    for x in a:
        y = sign * x
        first, second = np.sort(x), np.sort(y)
        distance = two_samples.gaps(first, second)[2]
        moments = [Moments().add(values) for values in (x, y)]
        for independent in (False, True):
            found = (
                two_samples.mean_difference(*moments, 0.95, independent=independent),
                two_samples.probability_below(first, second, 0.95, independent=independent),
                two_samples.wasserstein_interval(
                    first, second, distance, 0.95, independent=independent, resamples=79
                ),
            )
            truths = (0, 0.5, 0)
            misses[int(independent)] += [not f.low <= t <= f.high for f, t in zip(found, truths, strict=True)]
    assert (misses[0] <= most_misses(1000)).all()
    if sign < 0:
        assert (misses[1][:2] > most_misses(1000)).all()


def test_large_samples_are_resampled_on_some_of_their_values(monkeypatch):
    """The margin agrees with that from all values up to the noise of the resampling, some per cent."""
    first, second, _ = TRUTHS["scaled"]
    a, b = np.sort(drawn(first, 4000, 0)), np.sort(drawn(second, 3000, 1))
    distance = two_samples.gaps(a, b)[2]
    some = two_samples.wasserstein_interval(a, b, distance, 0.95).half_width
    monkeypatch.setattr(two_samples, "_POINTS", 10_000)
    every = two_samples.wasserstein_interval(a, b, distance, 0.95).half_width
    assert some == pytest.approx(every, rel=0.1)


def truthful(found, forward, backward):
    """Whether what a comparison says about dominance holds for the laws' own one-sided distances."""
    if found.dominance == "neither":
        return forward > 0 and backward > 0
    if found.dominance == "a is below b":
        return forward > 0 and backward <= found.slack
    if found.dominance == "b is below a":
        return backward > 0 and forward <= found.slack
    return True


@pytest.mark.parametrize(
    ("first", "second", "forward", "backward", "expected"),
    [
        (scipy.stats.norm(), scipy.stats.norm(), 0, 0, "undecided"),
        (scipy.stats.norm(), scipy.stats.norm(1), 0.3829, 0, "a is below b"),
        (scipy.stats.norm(1), scipy.stats.norm(), 0, 0.3829, "b is below a"),
        (scipy.stats.norm(), scipy.stats.norm(0, 4), 0.3032, 0.3032, "neither"),
        (scipy.stats.binom(4, 0.5), scipy.stats.binom(4, 0.52), 0.03, 0, "undecided"),
        (scipy.stats.norm(), scipy.stats.norm(0.5, 1.6), 0.2772, 0.0583, None),
    ],
)
def test_dominance_is_rarely_said_where_it_is_not(first, second, forward, backward, expected):
    """1,000 pairs of 400 values; false statements allowed by the binomial law at 5 %."""
    a, b = drawn(first, (1000, 400), 3), drawn(second, (1000, 400), 4)
    said, false = [], 0
    margin = two_samples.band_margin(400, 400, 0.95)
    for x, y in zip(np.sort(a), np.sort(b), strict=True):
        lead, behind, _ = two_samples.gaps(x, y)
        found = with_leads(lead, behind, margin)
        false += not truthful(found, forward, backward)
        said.append(found.dominance)
    assert false <= most_misses(1000)
    if expected:
        assert max(set(said), key=said.count) == expected


def with_leads(lead, behind, margin):
    """A comparison of which nothing but the leads is looked at."""
    leads = {
        name: np.array([value, max(value - margin, 0), min(value + margin, 1)])
        for name, value in (("lead of the first", lead), ("lead of the second", behind))
    }
    empty = np.zeros((2, 1))
    return Comparison(("a", "b"), "loss", 0.95, (2, 2), (0, 0), True, 0.5, leads, empty[0], empty, empty)


def test_dominance_by_its_definition():
    assert with_leads(0.5, 0.4, 0.1).dominance == "neither"
    assert with_leads(0.5, 0.1, 0.1).dominance == "a is below b"
    assert with_leads(0.1, 0.5, 0.1).dominance == "b is below a"
    assert with_leads(0.3, 0.1, 0.1).dominance == "undecided"
    assert with_leads(0.5, 0.05, 0.1).slack == pytest.approx(0.15)
    assert with_leads(0.5, 0.05, 0.1).statistic == 0.5


def test_a_comparison_of_arrays(tmp_path):
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=800), generator.normal(0.5, 1, size=900)
    found = compare(a, b, labels=("aligned", "unaligned"))
    assert found.dominance == "aligned is below unaligned"
    assert found.independent
    assert found.statistic == pytest.approx(scipy.stats.ks_2samp(a, b).statistic)
    assert found.wasserstein.value == pytest.approx(scipy.stats.wasserstein_distance(a, b))
    assert found.median_difference.value == pytest.approx(np.median(b) - np.median(a))
    assert found.counts == (800, 900)
    again = compare(a[::-1], b[::-1], labels=("aligned", "unaligned"))
    for name, values in found.estimates.items():
        np.testing.assert_allclose(again.estimates[name], values, rtol=1e-12)
    assert compare(Density("loss", a), b, labels=("aligned", "unaligned")) == found
    assert Comparison.load(found.save(tmp_path / "found.json")) == found
    assert "sup(F of aligned − F of unaligned)" in found.table()
    assert "aligned is below unaligned" in repr(found)
    assert found.plot(tmp_path / "found.png").stat().st_size > 3000
    swapped = compare(b, a)
    for name in ("mean_difference", "median_difference"):
        one, other = getattr(found, name), getattr(swapped, name)
        assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    scaled = compare(4 * a - 1, 4 * b - 1, labels=("aligned", "unaligned"))
    assert scaled.probability_below == found.probability_below
    assert scaled.wasserstein.high == pytest.approx(4 * found.wasserstein.high)
    assert scaled.mean_difference.low == pytest.approx(4 * found.mean_difference.low)


def test_values_that_are_not_finite_are_compared_by_rank(tmp_path):
    a = np.array([1.0, 2, 3, np.nan, np.inf], dtype=np.float32)
    found = compare(a, np.array([1.0, 1, 1], dtype=np.float32))
    assert found.nonfinite == (2, 0)
    assert np.isnan(found.mean_difference.value)
    assert np.isnan(found.wasserstein.value)
    assert found.median_difference.value == -2
    assert found.probability_below.value == pytest.approx(0.5 / 5)
    assert found.leads[1].value == 0.8
    assert np.isnan(found.density[1]).all()
    assert np.trapezoid(found.density[0], found.at) < 0.6
    found.plot(tmp_path / "found.png")
    assert Comparison.load(found.save(tmp_path / "found.json")) == found
    lost = np.full(3, np.nan)
    compare(lost, lost).plot(tmp_path / "lost.png")


def test_comparisons_of_sweeps(pair, data):
    def sweep(seed, n=200, start=0, law=None):
        return fc.evaluate(*pair, law or fc.Uniform(), data=data, n=n, seed=seed, start=start, progress=False)

    one = sweep(0)
    assert compare(one, sweep(1)).independent
    assert compare(one, sweep(0, start=200)).independent
    together = compare(one, sweep(0, start=150, law=fc.Bernoulli()), "accuracy")
    assert not together.independent
    assert together.metric == "accuracy"
    assert compare(one, sweep(1), independent=False).p_value >= compare(one, sweep(1)).p_value
    with pytest.raises(ValueError, match="metric='error'"):
        compare(one, one, "error")
    regression = fc.evaluate(
        *pair, fc.Uniform(), data=(data[0], torch.randn(100, 5)), loss="mse", n=5, progress=False
    )
    with pytest.raises(ValueError, match="no accuracy"):
        compare(regression, one, "accuracy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0, 2.0]), "a has 1 values"),
        (([1.0, 2.0], []), "b has 0 values"),
        (([1.0, 2.0], [1.0, 2.0], "loss", 1.0), "confidence=1"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        compare(*arguments)
    for options in ({"labels": ("x", "x")}, {"resamples": 20}):
        with pytest.raises(ValueError, match=r"labels=|resamples=20"):
            compare([1.0, 2.0], [1.0, 2.0], **options)
