"""Laws: what the coefficients are distributed as."""

import numpy as np
import pytest
import scipy.stats
import torch

import fastcomb as fc
from fastcomb.sampling.stream import grid

LAWS = [
    (fc.Uniform(), scipy.stats.uniform()),
    (fc.Uniform(-0.25, 1.25), scipy.stats.uniform(-0.25, 1.5)),
    (fc.Beta(2, 5), scipy.stats.beta(2, 5)),
    (fc.Beta(0.5, 0.5), scipy.stats.beta(0.5, 0.5)),
    (fc.Normal(0.5, 0.2), scipy.stats.norm(0.5, 0.2)),
    (fc.Law(scipy.stats.truncnorm(-1, 1, 0.5, 0.3)), scipy.stats.truncnorm(-1, 1, 0.5, 0.3)),
    (fc.Law(scipy.stats.triang(0.3)), scipy.stats.triang(0.3)),
]
NAMES = [str(law) for law, _ in LAWS]


def coefficients(sampler, count=200_000, seed=11):
    """Coefficients as a user gets them, from a network with ``count`` weights."""
    theta = {"w": torch.zeros(count)}
    return fc.Mixture(theta, {"w": torch.ones(count)}, sampler, seed).coefficients(0)["w"].double().numpy()


@pytest.mark.parametrize(("sampler", "law"), LAWS, ids=NAMES)
def test_coefficients_follow_their_law(sampler, law):
    """Kolmogorov–Smirnov and the first two moments on 200,000 draws, level 1e-6 each."""
    found = coefficients(sampler)
    # 65,536 values instead of a continuum move the distribution function by at most 2**-17
    distance = scipy.stats.ks_1samp(found, law.cdf).statistic - 2.0**-17
    assert scipy.stats.kstwo.sf(distance, len(found)) > 1e-6
    z = scipy.stats.norm.isf(5e-7)
    assert abs(found.mean() - law.mean()) < z * law.std() / len(found) ** 0.5
    fourth = law.stats(moments="k") + 3
    assert abs(found.var() / law.var() - 1) < z * ((float(fourth) - 1) / len(found)) ** 0.5
    assert sampler.mean == pytest.approx(law.mean())


@pytest.mark.parametrize("p", [0.0, 1 / 3, 0.5, 1.0])
def test_bernoulli_takes_the_second_network_with_probability_p(p):
    found = coefficients(fc.Bernoulli(p))
    assert set(np.unique(found)) <= {0.0, 1.0}
    assert scipy.stats.binomtest(int(found.sum()), len(found), round(p * 65536) / 65536).pvalue > 1e-6
    u = coefficients(fc.Uniform())
    assert np.array_equal(found, (u < np.float32(p)).astype(float))
    assert fc.Bernoulli(p).mean == p


def test_constant_is_constant():
    assert set(coefficients(fc.Constant(0.3), 100)) == {float(np.float32(0.3))}


@pytest.mark.parametrize(("sampler", "law"), LAWS, ids=NAMES)
@pytest.mark.parametrize("bits", [16, pytest.param(32, marks=pytest.mark.slow)])
def test_the_table_is_the_quantile_function_rounded_once(sampler, law, bits):
    sampler = type(sampler)(
        **{f: getattr(sampler, f) for f in sampler.__dataclass_fields__ if f != "bits"}, bits=bits
    )
    u = grid(bits).numpy()
    some = np.unique(np.concatenate([np.arange(50), np.arange(0, len(u), 997), len(u) - 1 - np.arange(50)]))
    table = sampler.table().numpy()
    assert table.dtype == np.float32
    assert len(table) == len(u)
    expected = law.ppf(u[some])
    # one float32 rounding of a float64 quantile, plus Uniform's rounding of high − low
    np.testing.assert_allclose(table[some], expected, rtol=2**-23, atol=2**-24)
    assert (np.diff(table) >= 0).all()
    np.testing.assert_allclose(sampler.ppf(u[some]), expected, rtol=1e-12, atol=1e-15)


def test_uniform_is_a_fused_multiply_add():
    """Against exact rational arithmetic, rounded once."""
    from fractions import Fraction

    sampler = fc.Uniform(-0.3, 1.7)
    low = np.float32(-0.3)
    width = np.float32(1.7) - low
    table = sampler.table().numpy()
    for k in range(0, 65536, 131):
        exact = Fraction(2 * k + 1, 131072) * Fraction(float(width)) + Fraction(float(low))
        around = [np.nextafter(table[k], np.float32(d)) for d in (-np.inf, np.inf)]
        error = abs(Fraction(float(table[k])) - exact)
        assert all(error <= abs(Fraction(float(other)) - exact) for other in around)


def test_bernoulli_ppf_is_the_quantile_function():
    u = np.linspace(0.005, 0.995, 100)
    np.testing.assert_array_equal(fc.Bernoulli(0.3).ppf(u), scipy.stats.bernoulli(0.3).ppf(u))


def test_discrete_laws_keep_their_values():
    found = coefficients(fc.Law(scipy.stats.randint(0, 3)), 3000)
    assert set(found) == {0.0, 1.0, 2.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fc.Uniform(1, 1), "low=1.0 must be below high=1.0"),
        (lambda: fc.Uniform(0, float("inf")), "high=inf is not finite"),
        (lambda: fc.Bernoulli(1.5), r"p=1.5 is outside \[0, 1\]"),
        (lambda: fc.Bernoulli(float("nan")), "p=nan is not finite"),
        (lambda: fc.Beta(0, 1), "must be positive"),
        (lambda: fc.Normal(0.5, -1), "std=-1.0 must be positive"),
        (lambda: fc.Constant(float("nan")), "not finite"),
        (lambda: fc.Uniform(per="channel"), "per='channel' is none of 'element', 'neuron'"),
        (lambda: fc.Uniform(bits=8), "bits=8 is neither 16 nor 32"),
        (lambda: fc.Law(scipy.stats.norm), "not a frozen scipy.stats distribution"),
        (lambda: fc.Law(scipy.stats.norm(0, -1)), "quantiles are not finite"),
    ],
)
def test_parameters_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
