"""Densities and proportions of a sweep."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import fastcomb as fc
from fastcomb.statistics.density import Density
from fastcomb.statistics.moments import Moments, blocks
from fastcomb.statistics.proportion import proportion
from tests.misses import most_misses

LAWS = {
    "normal": scipy.stats.norm(),
    "exponential": scipy.stats.expon(),
    "ties": scipy.stats.binom(4, 0.5),
    "heavy": scipy.stats.cauchy(),
}
SIZES = (10, 100, 1000)

#: Samples with ties, infinities and NaN, as float32 or float64.
samples = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: arrays.arrays(
        dtype,
        st.integers(1, 40),
        elements=st.sampled_from([-np.inf, np.inf, np.nan, *range(-3, 4)])
        | st.floats(-1e6, 1e6, width=np.dtype(dtype).itemsize * 8),
    )
)


@pytest.fixture
def sweep(pair, data):
    return fc.evaluate(*pair, fc.Uniform(), data=data, n=300)


@pytest.mark.parametrize(("count", "total"), [(0, 10), (10, 10), (3, 10), (512, 1000)])
def test_proportions_have_clopper_pearson_intervals(count, total):
    """Against the interval's definition by quantiles of Beta distributions."""
    found = proportion(count, total, 0.9)
    low = scipy.stats.beta.ppf(0.05, count, total - count + 1) if count else 0.0
    high = scipy.stats.beta.ppf(0.95, count + 1, total - count) if count < total else 1.0
    assert found.value == count / total
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


def test_proportions_of_huge_totals():
    """Of rare events too, where the ends are some 10⁻⁹: against the gamma law of Poisson counts."""
    found = proportion(3, 10**9)
    low, high = scipy.stats.gamma.ppf(0.025, 3), scipy.stats.gamma.ppf(0.975, 4)
    assert (found.low * 1e9, found.high * 1e9) == pytest.approx((low, high), rel=1e-7)
    assert str(proportion(1, 4)) == "0.25 [0.006309, 0.8059]"
    assert found.half_width == (found.high - found.low) / 2
    for count, total in ((-1, 10), (11, 10), (0, 0)):
        with pytest.raises(ValueError, match=r"count=|undefined"):
            proportion(count, total)


def test_the_interval_covers_as_often_as_it_says():
    """Exact coverage from the binomial law, no simulation: at least 95 % for every p tried."""
    total = 40
    intervals = [proportion(k, total) for k in range(total + 1)]
    for p in np.linspace(0.01, 0.99, 99):
        inside = [k for k, found in enumerate(intervals) if found.low <= p <= found.high]
        assert scipy.stats.binom.pmf(inside, total, p).sum() >= 0.95


def test_fractions_of_a_sweep(sweep):
    level = float(np.median(sweep.loss))
    below = sweep.fraction_below("loss", level)
    assert below.count == (sweep.loss < np.float32(level)).sum()
    assert below.low < below.value < below.high
    above = sweep.fraction_above("loss", level)
    assert below.count + above.count + (sweep.loss == np.float32(level)).sum() == 300
    assert sweep.fraction_below("accuracy", 1.0).value == (sweep.accuracy < 1).mean()
    with pytest.raises(ValueError, match="confidence"):
        sweep.fraction_below("loss", level, confidence=95)
    with pytest.raises(ValueError, match="metric='error'"):
        sweep.fraction_below("error", level)


def test_moments_quantiles_histogram_and_kde(sweep):
    density = sweep.density("loss")
    values = sweep.loss.astype(np.float64)
    assert density.mean == pytest.approx(values.mean())
    assert density.standard_error == pytest.approx(scipy.stats.sem(values))
    assert density.quantile(0.3) == pytest.approx(np.quantile(values, 0.3))
    np.testing.assert_allclose(density.quantile([0.1, 0.9]), np.quantile(values, [0.1, 0.9]))
    heights, edges = density.histogram(bins=17)
    assert len(heights) == 17
    assert (heights * np.diff(edges)).sum() == pytest.approx(1)
    grid = np.linspace(values.min() - 0.1, values.max() + 0.1, 2000)
    np.testing.assert_allclose(density.kde(grid), scipy.stats.gaussian_kde(values)(grid))
    assert np.trapezoid(density.kde(grid), grid) == pytest.approx(1, abs=1e-3)


def test_values_that_are_not_finite_count():
    density = Density("loss", np.array([1.0, 2.0, 3.0, np.inf, np.nan]))
    assert density.nonfinite == 2
    assert np.isnan(density.mean)
    assert density.quantile(0.5) == 3
    assert density.quantile([0.0, 1.0]).tolist() == [1, np.inf]
    heights, edges = density.histogram(bins=4)
    assert (heights * np.diff(edges)).sum() == pytest.approx(0.6)
    grid = np.linspace(-10, 20, 5000)
    assert np.trapezoid(density.kde(grid), grid) == pytest.approx(0.6, abs=1e-3)
    with pytest.raises(ValueError, match="two different finite values; there are 1"):
        Density("loss", np.array([1.0, 1.0, np.nan])).kde([0.0])


def test_a_density_sorts_once_in_the_values_own_precision():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    density = Density("loss", values)
    assert density.ranked.dtype == np.float32
    assert density.ranked is density.ranked
    assert np.shares_memory(density.finite, density.ranked)
    assert density.mean == pytest.approx(values.mean(dtype=float), rel=1e-15)
    # 0.1 in float32 is more than 0.1, and equal to it in its own precision
    assert Density("accuracy", np.array([0.1], dtype=np.float32)).distribution(0.1) == 1


@settings(deadline=None)
@given(samples, st.floats(0, 1))
def test_quantiles_are_numpys(values, q):
    """With inf for NaN; where numpy interpolates from infinity to infinity, that."""
    assume(not np.isneginf(values).any())  # from there numpy gives NaN below the middle, −inf above
    density = Density("loss", values)
    plain = np.where(np.isnan(values), np.inf, values.astype(float))
    with np.errstate(invalid="ignore"):
        expected = np.quantile(plain, q)
    expected = np.where(np.isnan(expected), np.quantile(plain, q, method="higher"), expected)
    np.testing.assert_allclose(density.quantile(q), expected, rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(density.quantile([q, q]), [density.quantile(q)] * 2)


def test_quantiles_refuse_what_they_cannot_do():
    density = Density("loss", np.arange(3.0))
    for q in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="level is in"):
            density.quantile(q)
    with pytest.raises(ValueError, match="no values of loss"):
        Density("loss", np.zeros(0)).quantile(0.5)
    with pytest.raises(ValueError, match="confidence=1"):
        density.quantile_interval(0.5, 1)
    with pytest.raises(ValueError, match="no values is undefined"):
        Density("loss", np.zeros(0)).band(0.5)


@settings(deadline=None)
@given(samples, st.floats(0, 1), st.floats(0.01, 0.999), st.randoms())
def test_quantile_intervals_contain_the_estimate_and_know_no_order(values, q, confidence, random):
    found = Density("loss", values).quantile_interval(q, confidence)
    assert found.low <= found.value <= found.high
    assert found.confidence == confidence
    shuffled = random.sample(list(values), len(values))
    again = Density("loss", np.array(shuffled, dtype=values.dtype)).quantile_interval(q, confidence)
    assert again == found
    wider = Density("loss", values).quantile_interval(q, (1 + confidence) / 2)
    assert wider.low <= found.low
    assert wider.high >= found.high
    moved = Density("loss", 4 * values).quantile_interval(q, confidence)
    assert (moved.low, moved.high) == (4 * found.low, 4 * found.high)


@settings(deadline=None)
@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_quantile_intervals_have_the_ranks_of_the_binomial_law(n, q, confidence):
    """Of the values 1 to n: each tail's probability is within its half, and not a rank further in."""
    found = Density("loss", np.arange(1.0, n + 1)).quantile_interval(q, confidence)
    low, high = (int(np.clip(end, 0, n + 1)) for end in (found.low, found.high))
    tail, below = (1 - confidence) / 2, scipy.stats.binom(n, q)
    assert below.cdf(low - 1) <= tail
    assert below.sf(high - 1) <= tail * (1 + 1e-9)
    if low < np.floor(q * (n - 1)) + 1:
        assert below.cdf(low) >= tail * (1 - 1e-9)
    if high > np.ceil(q * (n - 1)) + 1:
        assert below.sf(high - 2) >= tail * (1 - 1e-9)


def test_too_few_values_leave_quantile_intervals_open():
    density = Density("loss", np.arange(1.0, 11))
    assert density.quantile_interval(0.5).low == 2
    found = density.quantile_interval(0.95)
    assert (found.low, found.high) == (8, np.inf)
    assert density.quantile_interval(0.05).low == -np.inf
    assert density.quantile_interval(0).high == 1
    one = Density("loss", np.array([3.0])).quantile_interval(0.5)
    assert (one.value, one.low, one.high) == (3, -np.inf, np.inf)


@pytest.mark.parametrize("name", LAWS)
def test_quantile_intervals_cover_as_often_as_they_say(name):
    """1,000 samples of each size; the misses allowed follow from the binomial law at 5 %."""
    law, generator = LAWS[name], np.random.default_rng(0)
    for n in SIZES:
        values = law.rvs((1000, n), random_state=generator).astype(float)
        for q in (0.1, 0.5, 0.95):
            truth = float(law.ppf(q))
            found = [Density("loss", row).quantile_interval(q) for row in values]
            assert sum(not each.low <= truth <= each.high for each in found) <= most_misses(1000)


@settings(deadline=None)
@given(samples, st.lists(st.floats(-5, 5), min_size=1, max_size=9))
def test_distribution_functions_count(values, at):
    density, at = Density("loss", values), np.sort(at)
    ranked = np.where(np.isnan(values), np.inf, values)
    expected = [(ranked <= level).mean() for level in at.astype(values.dtype)]
    np.testing.assert_allclose(density.distribution(at), expected)
    low, high = density.band(at)
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()
    assert ((low >= 0) & (low <= density.distribution(at)) & (density.distribution(at) <= high)).all()
    assert (high <= 1).all()
    assert density.distribution(np.inf) == 1
    assert np.isnan(density.distribution(np.nan))


def test_a_band_is_as_wide_as_massart_says():
    """P(sup|F̂ − F| > ε) ≤ 2 exp(−2 n ε²), at its ε, and near Kolmogorov's exact law for many values."""
    values = np.arange(2000.0)
    low, high = Density("loss", values).band([999.0], 0.9)
    margin = (high - low)[0] / 2
    assert 2 * np.exp(-2 * 2000 * margin**2) == pytest.approx(0.1)
    assert scipy.stats.kstwo.sf(margin, 2000) == pytest.approx(0.1, rel=0.05)
    assert Density("loss", values).band(np.zeros((2, 3)))[0].shape == (2, 3)


@pytest.mark.parametrize("name", LAWS)
def test_bands_cover_everywhere_at_once(name):
    """The truth is looked up at each value and just below it, where a step function is off the most."""
    law, generator = LAWS[name], np.random.default_rng(1)
    for n in SIZES:
        misses = 0
        for values in law.rvs((1000, n), random_state=generator).astype(float):
            at = np.concatenate([values, np.nextafter(values, -np.inf)])
            low, high = Density("loss", values).band(at)
            truth = law.cdf(at)
            misses += not ((low <= truth + 1e-12) & (truth <= high + 1e-12)).all()
        assert misses <= most_misses(1000)


@pytest.mark.parametrize("bandwidth", ["scott", "silverman"])
def test_kernel_densities_of_few_values_are_scipys(bandwidth):
    values = np.random.default_rng(0).standard_cauchy(500).astype(np.float32)
    at = np.linspace(-60, 60, 777)
    expected = scipy.stats.gaussian_kde(values.astype(float), bandwidth)(at)
    np.testing.assert_allclose(Density("loss", values).kde(at, bandwidth), expected, rtol=1e-10)


@pytest.mark.parametrize("bandwidth", ["scott", "silverman", 0.003, 2.0])
def test_kernel_densities_of_many_values_are_within_the_error_that_is_stated(bandwidth):
    """Points in no order, repeated, beyond the values, and at infinity."""
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(size=30_000), np.full(5000, 0.7), [-900.0]])
    at = np.concatenate([generator.uniform(-4, 4, 300), [0.7, 0.7, 50.0, -900.0]])
    if isinstance(bandwidth, str):
        kernel = scipy.stats.gaussian_kde(values, bandwidth)
        width, expected = kernel.factor * values.std(ddof=1), kernel(at)
    else:
        width = bandwidth
        expected = np.concatenate([scipy.stats.norm(x, width).pdf(values).mean(keepdims=True) for x in at])
    density = Density("loss", values)
    found = density.kde(at, bandwidth)
    assert np.abs(found - expected).max() <= 6.2e-5 / (width * np.sqrt(2 * np.pi))
    dense = expected > 1e-3
    np.testing.assert_allclose(found[dense], expected[dense], rtol=1e-3)
    with_ends = density.kde([[-np.inf, at[0]], [np.nan, np.inf]], bandwidth)
    np.testing.assert_allclose(with_ends, [[0, found[0]], [np.nan, 0]], rtol=1e-4, atol=1e-9)


def test_a_binned_kernel_density_integrates_to_the_finite_share():
    values = np.random.default_rng(0).exponential(size=100_000).astype(np.float32)
    values[::10] = np.nan
    values[5::10] = np.inf
    grid = np.linspace(-2, 30, 20_001)
    density = Density("loss", values)
    assert np.trapezoid(density.kde(grid), grid) == pytest.approx(0.8, abs=1e-6)
    assert (density.kde(grid) >= 0).all()
    assert density.kde(1e300) == 0


def test_kernel_densities_move_and_scale_with_the_values():
    values = np.random.default_rng(0).gamma(2, size=100_000)
    at = np.linspace(0, 9, 100)
    expected = Density("loss", values).kde(at)
    np.testing.assert_allclose(Density("loss", 8 * values + 3).kde(8 * at + 3) * 8, expected, rtol=1e-4)
    np.testing.assert_allclose(Density("loss", values[::-1]).kde(at), expected, rtol=1e-12)


def test_bandwidths_that_are_none():
    density = Density("loss", np.arange(5.0))
    for bandwidth in ("wide", 0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="bandwidth="):
            density.kde([0.0], bandwidth)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9), min_size=1, max_size=9),
    st.sampled_from([0.0, 1e7]),
)
def test_moments_of_pieces_are_those_of_the_whole(pieces, offset):
    moments, whole = Moments(), np.concatenate(pieces) + offset
    for piece in pieces:
        moments.add(np.array(piece) + offset)
    assert moments.count == len(whole)
    assert moments.mean == pytest.approx(whole.mean(), rel=1e-14, abs=1e-12)
    if len(whole) > 1:
        assert moments.variance == pytest.approx(whole.var(ddof=1), rel=1e-9, abs=1e-9)
        assert moments.standard_error == pytest.approx(scipy.stats.sem(whole), rel=1e-9, abs=1e-9)
    else:
        assert np.isnan([moments.variance, moments.standard_error]).all()


def test_moments_carry_what_is_not_finite():
    infinite = Moments().add(np.array([1.0, 2.0])).add(np.array([np.inf], dtype=np.float32))
    assert infinite.mean == np.inf
    assert np.isnan(infinite.add(np.array([-np.inf])).mean)
    assert np.isnan(infinite.variance)
    assert np.isnan(Moments().add(np.array([np.nan, 1.0])).add(np.ones(2)).mean)
    pieces = list(blocks(np.arange(10), 4))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert np.isnan(Density("loss", np.array([1.0, np.inf])).standard_error)
    assert np.isnan(Density("loss", np.array([1.0])).standard_error)


def test_the_best_are_rebuilt_from_their_numbers(sweep, pair, data):
    best = sweep.best(5)
    assert sweep.loss[best].tolist() == sorted(sweep.loss.tolist())[:5]
    loss = torch.nn.functional.cross_entropy(sweep.rebuild(int(best[0]))(data[0]), data[1]).item()
    assert loss == pytest.approx(sweep.loss.min(), rel=1e-5)
    most_accurate = sweep.best(2, "accuracy")
    assert sweep.accuracy[most_accurate].tolist() == sorted(sweep.accuracy.tolist())[:-3:-1]


def test_summary_and_text(sweep):
    summary = sweep.summary()
    assert summary["combinations"] == 300
    assert summary["samples"] == 100
    assert summary["backend"] == sweep.backend
    assert summary["loss_q50"] == pytest.approx(np.median(sweep.loss))
    assert summary["loss_nan"] == summary["loss_infinite"] == 0
    assert "combinations per second" in str(sweep)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures(sweep, tmp_path, suffix):
    path = sweep.plot(tmp_path / "new" / f"density.{suffix}")
    assert path.stat().st_size > 3000


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_pictures_of_awkward_sweeps(pair, data, tmp_path):
    """One value only, and values that are not finite."""
    for sampler in (fc.Constant(0.5), fc.Constant(1e30)):
        fc.evaluate(*pair, sampler, data=data, n=5).plot(tmp_path / "density.png")
