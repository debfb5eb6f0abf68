"""Mixtures of more than two networks."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fastcomb as fc
from fastcomb.kernels import native
from fastcomb.mixing import ops
from fastcomb.models import MLP, Tiny10
from fastcomb.sampling.rules import encoded
from tests import independent
from tests.quick import levels

GRANULARITIES = ["element", "neuron", "layer", "model"]


@pytest.fixture(params=levels())
def level(request, monkeypatch):
    monkeypatch.setenv(native.LEVEL_VARIABLE, request.param)
    return request.param


class Steps(fc.Sampler):
    """Half the way towards each network, on average."""

    def steps(self, networks):
        return (fc.Uniform(),) * (networks - 1)


def networks(make, count):
    torch.manual_seed(0)
    return [make().eval() for _ in range(count)]


def vertices(count, size):
    """Networks whose combinations show the weights: entry j of ``w`` is 1 in network j only."""
    return [{f"w{k}": torch.full((size,), float(j == k)) for k in range(count)} for j in range(count)]


@pytest.mark.parametrize("per", GRANULARITIES)
def test_for_two_networks_it_is_beta_number_for_number(per):
    a, b = networks(lambda: MLP((5, 7, 3)), 2)
    one = fc.Mixture(a, [b], fc.Dirichlet((0.7, 2.0), per=per), seed=3)
    other = fc.Mixture(a, b, fc.Beta(2.0, 0.7, per=per), seed=3)
    for found, wanted in ((one[9], other[9]), (one.coefficients(9), other.coefficients(9))):
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@given(
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**64 - 1),
    per=st.sampled_from(GRANULARITIES),
    law=st.sampled_from([(16, (1.0, 1.0, 1.0)), (16, (0.25, 2.0, 1.0, 5.0)), (32, (1.0, 1.0, 1.0))]),
)
@settings(max_examples=20, deadline=None)
def test_combinations_equal_an_independent_computation(seed, index, per, law):
    """The chain of fused multiply-adds in rational numbers, on draws in plain integers."""
    bits, alpha = law
    rng = np.random.default_rng(0)
    shapes = {"b.weight": (3, 2, 2), "b.bias": (3,), "B.weight": (9, 1), "ä": ()}
    thetas = [
        {n: torch.from_numpy(np.asarray(rng.normal(size=s), np.float32)) for n, s in shapes.items()}
        for _ in alpha
    ]
    mix = fc.Mixture(thetas[0], thetas[1:], fc.Dirichlet(alpha, per=per, bits=bits), seed)
    state, lam = mix[index], mix.coefficients(index)
    values = {name: value.flatten().tolist() for name, value in thetas[0].items()}
    weights = {name: [np.ones(value.numel(), np.float32)] for name, value in thetas[0].items()}
    for step, theta in enumerate(thetas[1:]):
        shape = alpha[step + 1], sum(alpha[: step + 1])
        uniforms = independent.uniforms(theta, seed, index, per, bits, flip=step << 24)
        for name, u in uniforms.items():
            drawn = scipy.special.betaincinv(*shape, u.ravel()).astype(np.float32)
            weights[name] = [w * (1 - drawn) for w in weights[name]] + [drawn]
            for e, (coefficient, other) in enumerate(zip(drawn, theta[name].flatten(), strict=True)):
                here = values[name][e]
                slope = Fraction(float(np.float32(float(other)) - np.float32(here)))
                exact = Fraction(float(coefficient)) * slope + Fraction(here)
                values[name][e] = float(other) if coefficient == 1 else _rounded(exact)
    for name, value in thetas[0].items():
        assert state[name].flatten().tolist() == values[name]
        expected = np.stack(weights[name]).reshape(len(alpha), *value.shape)
        np.testing.assert_array_equal(lam[name].numpy(), expected)


def _rounded(exact: Fraction) -> float:
    """The nearest float32, ties to even."""
    near = np.float32(float(exact))
    options = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return float(min(options, key=lambda v: (abs(Fraction(float(v)) - exact), v.view(np.int32) & 1)))


@pytest.mark.parametrize(
    ("bits", "alpha"),
    [(16, (1.0, 1.0, 1.0)), (32, (1.0, 1.0, 1.0)), (16, (0.5, 2.0, 1.0, 4.0)), (16, (0.3,) * 5)],
    ids=str,
)
def test_weights_follow_the_law(bits, alpha):
    """Marginals by Kolmogorov–Smirnov, all second moments, on 200,000 draws, level 1e-6 each."""
    count, total, m = 200_000, sum(alpha), len(alpha)
    thetas = vertices(m, count)
    weights = fc.Mixture(thetas[0], thetas[1:], fc.Dirichlet(alpha, bits=bits)).coefficients(4)["w0"]
    weights = weights.double().numpy()
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(0), 1, atol=m * 2.0**-24)
    law = scipy.stats.dirichlet(alpha)
    for j, own in enumerate(alpha):
        marginal = scipy.stats.beta(own, total - own)
        # 1 - λ is a multiple of 2^-24, and a draw moves the distribution function by up to 2^-16
        points = np.concatenate([np.geomspace(2.0**-14, 0.5, 500), np.linspace(0.5, 1 - 2.0**-14, 500)])
        found = np.searchsorted(np.sort(weights[j]), points, side="right") / count
        distance = abs(found - marginal.cdf(points)).max() - (m - 1) * 2.0**-16
        assert scipy.stats.kstwo.sf(max(distance, 0), count) > 1e-6
    products = np.einsum("in,jn->ijn", weights, weights)
    expected = law.cov() + np.outer(law.mean(), law.mean())
    z = scipy.stats.norm.isf(5e-7)
    assert (abs(products.mean(2) - expected) < z * products.std(2) / count**0.5 + 2.0**-14).all()


@pytest.mark.parametrize("per", GRANULARITIES)
def test_which_weights_share(per):
    thetas = [nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)) for _ in range(3)]
    lam = fc.Mixture(thetas[0], thetas[1:], fc.Dirichlet(per=per)).coefficients(0)
    distinct = {name: len(torch.unique(value.reshape(3, -1), dim=1)[0]) for name, value in lam.items()}
    sizes = {"element": (12, 3), "neuron": (3, 3), "layer": (1, 1), "model": (1, 1)}[per]
    assert (distinct["0.weight"], distinct["0.bias"]) == sizes
    if per != "element":
        assert torch.equal(lam["0.weight"][..., 0], lam["0.bias"])
    assert torch.equal(lam["0.bias"], lam["1.bias"]) == (per == "model")


@given(st.integers(2, 6), st.integers(0, 2**64 - 1), st.floats(0.05, 20), st.sampled_from(GRANULARITIES))
@settings(max_examples=25, deadline=None)
def test_combinations_stay_between_their_networks(count, index, alpha, per):
    torch.manual_seed(count)
    thetas = [{"m.weight": torch.randn(7, 3), "m.bias": torch.randn(7)} for _ in range(count)]
    for same in (False, True):
        used = thetas[:1] * count if same else thetas
        mix = fc.Mixture(used[0], used[1:], fc.Dirichlet(alpha, per=per))
        state = mix[index]
        for name in state:
            values = torch.stack([theta[name] for theta in used])
            slack = 0 if same else count * 2.0**-23 * values.abs().max()
            assert (state[name] <= values.max(0).values + slack).all()
            assert (state[name] >= values.min(0).values - slack).all()


class TestKernels:
    @pytest.mark.parametrize(("bits", "others", "alpha"), [(16, 2, 0.4), (16, 4, 0.4), (32, 2, 1.0)])
    def test_mixing_equals_the_reference_bit_for_bit(self, level, bits, others, alpha):
        laws = fc.Dirichlet(alpha, bits=bits).steps(others + 1)
        tables, rules = torch.stack([law.table() for law in laws]), encoded([law.rule() for law in laws])
        index, draw = torch.tensor([0, 7, -1]), [0xDEADBEEF, 0xFFFFFFFF, bits, 1]
        for size in (0, 1, 3, 63, 100, 500):
            torch.manual_seed(size)
            a, b = torch.randn(size, 3), torch.randn(others, size, 3)
            for unit in ([1, 3 * size, 0], [2, size, 1], [3, 1, 0], [0xFFFFFFFF, 1, 0]):
                for dtype in (torch.float32, torch.bfloat16, torch.float16):
                    fast = ops.mix(index, a, b, tables, rules, draw, unit, dtype)
                    slow = ops.reference(index, a, b, tables, draw, unit, dtype)
                    assert torch.equal(fast, slow), (size, unit, dtype)

    @pytest.mark.parametrize("bits", [16, 32])
    def test_steps_of_any_law_equal_the_reference(self, level, bits):
        """A Sampler of one's own may step by laws that have rules of their own."""
        index, draw = torch.tensor([0, 5]), [1, 2, bits, 1]
        for law in (fc.Uniform(bits=bits), fc.Uniform(-1, 2, bits=bits), fc.Bernoulli(0.3, bits=bits)):
            laws = (law, fc.Uniform(bits=bits), law)
            tables = torch.stack([one.table() for one in laws])
            rules = encoded([one.rule() for one in laws])
            for shape in ((40, 16), (63, 3), (5, 24)):
                a, b = torch.randn(shape), torch.randn(3, *shape)
                unit = [1, a.numel(), 0]
                fast = ops.mix(index, a, b, tables, rules, draw, unit, torch.float32)
                assert torch.equal(fast, ops.reference(index, a, b, tables, draw, unit, torch.float32))

    def test_a_sampler_of_ones_own_steps_inside_the_engine(self, level):
        a, *others = networks(lambda: nn.Linear(16, 40, bias=False), 3)
        mix = fc.Mixture(a, others, Steps())
        assert torch.equal(mix.functional_call(a, [4], torch.eye(16))[0].T, mix[4]["weight"])

    @pytest.mark.parametrize("per", GRANULARITIES[:3])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_weights_inside_the_engine_are_those_of_the_mixture(self, level, dtype, per):
        """A unit vector through a layer yields one row of its weight, exactly: all other products are 0."""
        for inner, outputs in ((1, 1), (3, 63), (8, 16), (100, 33), (24, 500)):
            a, *others = networks(lambda: nn.Linear(inner, outputs, bias=False, dtype=dtype), 4)  # noqa: B023
            mix = fc.Mixture(a, others, fc.Dirichlet(0.8, per=per), seed=3)
            rows = mix.functional_call(a, [0, 2**40 + 1], torch.eye(inner, dtype=dtype))
            for k, i in enumerate((0, 2**40 + 1)):
                assert torch.equal(rows[k].T, mix[i]["weight"]), (inner, outputs)

    @pytest.mark.parametrize("make", [lambda: MLP((12, 20, 5)), Tiny10], ids=["mlp", "tiny10"])
    def test_losses_equal_those_of_the_combinations_themselves(self, level, make):
        a, *others = networks(make, 3)
        x = torch.randn(20, 12) if isinstance(a, MLP) else torch.randn(6, 3, 32, 32)
        y = torch.randint(0, 5, (len(x),))
        sweep = fc.evaluate(a, others, fc.Dirichlet(), data=(x, y), n=3, batch_norm="lerp")
        assert sweep.backend == "native"
        model = make().double().eval()
        for i in range(3):
            state = {name: value.double() for name, value in sweep.mixture[i].items()}
            for name in state:
                if "running" in name:  # equal concentrations: the plain mean
                    state[name] = sum(n.state_dict()[name].double() for n in (a, *others)) / 3
            with torch.no_grad():
                loss = F.cross_entropy(torch.func.functional_call(model, state, (x.double(),)), y)
            assert sweep.loss[i] == pytest.approx(loss.item(), rel=1e-5)


def test_backends_threads_and_ranges_agree():
    a, *others = networks(lambda: MLP((12, 40, 5)), 3)
    data = torch.randn(30, 12), torch.randint(0, 5, (30,))
    run = {"data": data, "seed": 5}
    law = fc.Dirichlet((1.0, 2.0, 0.5))
    whole = fc.evaluate(a, others, law, n=40, **run)
    parts = [fc.evaluate(a, others, law, start=s, n=20, **run).loss for s in (0, 20)]
    assert np.array_equal(whole.loss, np.concatenate(parts))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert np.array_equal(fc.evaluate(a, others, law, n=40, **run).loss, whole.loss)
    finally:
        torch.set_num_threads(threads)
    slow = fc.evaluate(a, others, law, n=40, backend="torch_reference", **run)
    np.testing.assert_allclose(slow.loss, whole.loss, rtol=1e-5)
    best = int(whole.best(1)[0])
    logits = torch.func.functional_call(a, whole.mixture[best], (data[0],))
    assert whole.loss[best] == pytest.approx(F.cross_entropy(logits, data[1]).item(), rel=1e-5)


def test_recomputed_statistics_of_three_networks():
    a, *others = networks(Tiny10, 3)
    x, y = torch.randn(8, 3, 32, 32), torch.randint(0, 5, (8,))
    options = {"data": (x, y), "n": 2, "batch_norm": "recompute", "calibration": x}
    fast = fc.evaluate(a, others, fc.Dirichlet(), **options)
    slow = fc.evaluate(a, others, fc.Dirichlet(), backend="torch_reference", **options)
    assert fast.backend == "native"
    np.testing.assert_allclose(fast.loss, slow.loss, rtol=1e-4)


def test_diversity_compares_combinations_with_all_their_networks():
    a, *others = networks(lambda: MLP((6, 20, 4)), 3)
    data = torch.randn(50, 6), torch.randint(0, 4, (50,))
    mix = fc.Mixture(a, others, fc.Dirichlet())
    found = fc.diversity(mix, [3, 8], data, model=a, layers=["1"])
    assert found.disagreement.shape == found.cka["1"].shape == (5, 5)
    flat = [torch.cat([p.flatten() for p in (mix[3], mix[8])[i].values()]) for i in range(2)]
    flat += [nn.utils.parameters_to_vector(n.parameters()) for n in (a, *others)]
    wanted = torch.cdist(torch.stack(flat).double(), torch.stack(flat).double())
    np.testing.assert_allclose(found.distance, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert found.accuracy[2] == pytest.approx(float((a(data[0]).argmax(1) == data[1]).float().mean()))
    centred = torch.stack(flat[2:]).double()
    centred = torch.nn.functional.normalize(centred - centred.mean(0), dim=1).detach()
    np.testing.assert_allclose(found.direction[2:, 2:], centred @ centred.T, atol=1e-5)


@pytest.mark.parametrize(
    ("others", "law", "error", "message"),
    [
        (2, fc.Uniform(), ValueError, r"not the weights of 3; pass Dirichlet\(alpha\)"),
        (2, fc.Dirichlet((1.0, 2.0)), ValueError, "2 concentrations for 3 networks"),
        (0, fc.Dirichlet(), ValueError, "1 networks given; between 2 and 256"),
        (256, fc.Dirichlet(), ValueError, "257 networks given"),
    ],
)
def test_wrong_numbers_of_networks(others, law, error, message):
    theta = {"w": torch.zeros(2)}
    with pytest.raises(error, match=message):
        fc.Mixture(theta, [theta] * others, law)


def test_a_network_that_does_not_match_is_named():
    theta = {"w": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"theta_a and theta_b\[1\] have parameters of different shapes"):
        fc.Mixture(theta, [theta, {"w": torch.zeros(3)}], fc.Dirichlet())
    with pytest.raises(ValueError, match=r"theta_b\[0\]: 'w' has 1 values that are NaN"):
        fc.Mixture(theta, [{"w": torch.tensor([0, torch.nan])}, theta], fc.Dirichlet())


@pytest.mark.parametrize("alpha", [0, -1.0, [], float("nan"), (1.0, float("inf")), (1.0, 0.0, 2.0)])
def test_concentrations_outside_their_range(alpha):
    with pytest.raises(ValueError, match="Dirichlet: alpha="):
        fc.Dirichlet(alpha)
