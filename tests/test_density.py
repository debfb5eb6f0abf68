"""Densities and proportions of a sweep."""

import numpy as np
import pytest
import scipy.stats
import torch

import fastcomb as fc
from fastcomb.density import Density, proportion


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
    assert sweep.fraction_below("accuracy", 2.0).value == 1
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


def test_pictures_of_awkward_sweeps(pair, data, tmp_path):
    """One value only, and values that are not finite."""
    for sampler in (fc.Constant(0.5), fc.Constant(1e30)):
        fc.evaluate(*pair, sampler, data=data, n=5).plot(tmp_path / "density.png")
