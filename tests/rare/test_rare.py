"""Rare fractions: against known answers, against plain sampling, and where there is nothing to find."""

import copy
import json

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastcomb as fc
from benchmarks.rare import KNOWN, Known, Normal, linear, solve
from fastcomb.models import MLP, VGG
from fastcomb.rare import RareFraction, rare_fraction, simulation
from fastcomb.rare.fields import Fields
from fastcomb.rare.interval import bounds, lognormal
from fastcomb.rare.simulation import simulate
from fastcomb.rare.subset import Plan, Size, run
from fastcomb.statistics.proportion import proportion
from fastcomb.utils.notice import BackendNotice
from fastcomb.utils.progress import bar
from tests.networks import randomised

#: Mean of float32 losses, added up in another order.
LOSS = 1e-5

SAMPLERS = [
    fc.Uniform(-1, 2),
    fc.Uniform(0, 1, bits=32),
    fc.Bernoulli(0.3),
    fc.Normal(0.5, 0.3, per="neuron"),
    fc.Beta(2, 2, per="layer"),
    fc.Uniform(-0.5, 1.5, per="model"),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads cost more than they save on networks as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def covered(hits, total, confidence=0.95):
    """Whether so few hits have a probability of at least 1e-4 where each has ``confidence``."""
    return hits >= scipy.stats.binom.ppf(1e-4, total, confidence)


def small_vgg():
    return VGG((6, "M", 7, "M"), batch_norm=True, hidden=9)


@pytest.mark.slow
def test_intervals_hold_known_answers_and_estimates_are_unbiased():
    """1,000 repetitions of the whole procedure, pilot included, on Φ(−2.5)."""
    known = Known(linear, 2, -2.5, float(scipy.stats.norm.cdf(-2.5)))
    found = np.array([solve(known, 100, 5, seed, p0=0.2)[0] for seed in range(1000)])
    value, low, high = found.T
    assert covered(((low <= known.answer) & (known.answer <= high)).sum(), 1000)
    assert abs(value.mean() - known.answer) < 4 * value.std() / 1000**0.5
    assert np.median(high) < 3 * known.answer  # and says something


@pytest.mark.parametrize(
    "name", ["linear, d = 10, β = 5", "radius, d = 100", "stairs, d = 10", "two regions"]
)
def test_other_known_answers(name):
    """Linear, curved, with plateaus and in two pieces; estimates of 40 runs of 200 points."""
    known = KNOWN[name]
    (value, low, high), runs = solve(known, 200, 40, 1, confidence=0.999)
    assert low <= known.answer <= high
    assert abs(value - known.answer) < 4 * runs.std() / 40**0.5


@pytest.mark.parametrize("p0", [0.06, 0.3, 0.5])
def test_any_share_of_starting_points(p0):
    known = KNOWN["linear, d = 1, β = 3"]
    low, high = solve(known, 400, 20, 1, p0=p0, confidence=0.999)[0][1:]
    assert low <= known.answer <= high < 3 * known.answer


@given(st.floats(0.01, 0.8), st.integers(5, 20))
@settings(max_examples=8, deadline=None)
def test_the_interval_of_a_lognormal_mean_covers_it(spread, count):
    logs = np.random.default_rng(1).normal(-8 - spread**2 / 2, spread, (1000, count))
    ends = np.array([lognormal(row, 0.95) for row in np.exp(logs)])
    assert covered(((ends[:, 0] <= np.exp(-8)) & (ends[:, 1] >= np.exp(-8))).sum(), 1000)


@given(st.lists(st.floats(1e-300, 1), min_size=2, max_size=12), st.sampled_from([0.5, 0.95, 0.999]))
@settings(max_examples=200, deadline=None)
def test_an_interval_holds_its_value_and_is_one_of_fractions(estimates, confidence):
    low, high = lognormal(np.array(estimates), confidence)
    assert 0 <= low <= np.mean(estimates) <= high <= 1


def test_where_runs_die_the_event_is_bounded_by_what_they_reached():
    estimates = np.array([[0.1, 0.01, 1e-3, 0.0], [0.1, 0.02, 2e-3, 1e-5], [0.1, 0.015, 0.0, 0.0]])
    low, high = bounds(estimates, np.array([30, 3, 0, 0]), 1, 300, 0.95)
    counted = proportion(30, 300)
    assert (low[0], high[0]) == pytest.approx((counted.low, counted.high))
    assert (low[1], high[1]) == lognormal(estimates[:, 1], 0.95)
    none = proportion(0, 300).high
    assert low[2:].tolist() == [0, 0]
    assert high[2:].tolist() == pytest.approx([min(high[1], none)] * 2)
    assert bounds(estimates, np.array([3, 1, 0, 0]), 1, 30, 0.95)[1][3] == high[1]
    lucky = np.array([[0.1, 0.1], [0.1, 0.0]])
    assert bounds(lucky, np.array([20, 0]), 1, 200, 0.95)[1][1] == 0.05


def test_a_run_that_dies_estimates_zero():
    plan = Plan([-3.0, -40.0], [0.5, 0.5], [[-3.0], [-40.0], []], True)
    size = Size.of(100, 0.1)
    problem = Normal(linear, 1, 100, 1)
    found = run(problem, -50.0, size, plan, first=0, generator=generator(), done=lambda count: None)
    assert found.curve.tolist()[1:] == [0, 0]
    assert found.conditional[-1] == 0
    assert np.isnan(found.acceptance[1])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_points_of_combinations_are_these_combinations(pair, data, sampler):
    """Weights bit for bit; draws uniform within their step of the grid."""
    mix = fc.Mixture(*pair, sampler, seed=9)
    fields = Fields.of(mix, "loss", above=False, model=pair[0], data=data)
    index = [0, 5, 2**40 + 1]
    points = fields.draw(index, generator())
    assert points.shape == (3, fields.width)
    mixed = fields.mixed(points)
    for name in mix.names:
        assert torch.equal(mixed[name], mix.parameter(name, mix.index_tensor(index), torch.float32))
    many = fields.draw(list(range(-(-20_000 // fields.width))), generator()).flatten().numpy()
    assert scipy.stats.kstest(many, "norm").pvalue > 1e-4


def test_scores_are_those_of_a_sweep(pair, data):
    a, b = pair
    for metric, above in (("loss", False), ("accuracy", True)):
        mix = fc.Mixture(a, b, fc.Uniform(-1, 2), seed=9)
        fields = Fields.of(mix, metric, above=above, model=a, data=data)
        sweep = fc.evaluate(
            a, b, fc.Uniform(-1, 2), data=data, n=70, start=3, seed=9, backend="torch_reference"
        )
        sign = -1 if above else 1
        assert np.array_equal(fields.plain(3, 70), sign * sweep.values(metric).astype(float))
        points = fields.draw([3, 40, 72], generator())
        np.testing.assert_allclose(fields.score(points), sign * sweep.values(metric)[[0, 37, 69]], rtol=LOSS)


@pytest.mark.parametrize("choice", ["recompute", "lerp", "a"])
@pytest.mark.parametrize("per", ["element", "neuron"])
def test_networks_with_batch_norm(images, choice, per):
    a, b = randomised(small_vgg, 0), randomised(small_vgg, 1)
    before = copy.deepcopy(a.state_dict())
    sampler = fc.Uniform(-0.25, 1.25, per=per)
    options = {"batch_norm": choice, "calibration": images[0][:16] if choice == "recompute" else None}
    sweep = fc.evaluate(a, b, sampler, data=images, n=3, backend="torch_reference", **options)
    fields = Fields.of(fc.Mixture(a, b, sampler), "loss", above=False, model=a, data=images, **options)
    np.testing.assert_allclose(fields.score(fields.draw([0, 1, 2], generator())), sweep.loss, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in a.state_dict().items())


def test_three_networks_and_data_in_batches(data):
    torch.manual_seed(0)
    networks = [MLP((7, 9, 5)).eval() for _ in range(3)]
    loader = DataLoader(TensorDataset(*data), batch_size=32)
    sweep = fc.evaluate(networks[0], networks[1:], fc.Dirichlet(1.0), data=data, n=4)
    mix = fc.Mixture(networks[0], networks[1:], fc.Dirichlet(1.0))
    fields = Fields.of(mix, "loss", above=False, model=networks[0], data=loader)
    assert fields.width == 2 * sum(mix.shape(name).numel() for name in mix.names)
    np.testing.assert_allclose(fields.score(fields.draw([0, 1, 2, 3], generator())), sweep.loss, rtol=LOSS)


@pytest.fixture
def networks():
    """Two MLPs, and data that the first one classifies well."""
    torch.manual_seed(0)
    a, b = (MLP((7, 12, 5)).eval() for _ in "ab")
    with torch.no_grad():
        for model in (a, b):
            for value in model.parameters():
                value.mul_(3)
        x = torch.randn(30, 7)
        y = a(x).argmax(1)
    return a, b, (x, y)


@pytest.mark.parametrize(("metric", "above"), [("loss", False), ("loss", True), ("accuracy", True)])
def test_fractions_that_plain_sampling_can_see_agree_with_it(networks, metric, above):
    a, b, data = networks
    sampler = fc.Uniform(-0.5, 1.5)
    few = fc.evaluate(a, b, sampler, data=data, n=20_000, seed=8).values(metric)
    level = float(np.quantile(few, 0.999 if above else 0.001))
    plain = fc.evaluate(a, b, sampler, data=data, n=100_000, seed=9)
    expected = (plain.fraction_above if above else plain.fraction_below)(metric, level, 0.999)
    mix = fc.Mixture(a, b, sampler)
    options = {"model": a, "data": data, "n": 200, "repeats": 8, "confidence": 0.999}
    found = rare_fraction(mix, metric, level, above=above, **options)
    assert found.low <= expected.high
    assert expected.low <= found.high
    assert 1e-5 < found.value < 1e-2
    assert found.reached
    assert len(found.steps) >= 2
    assert found.thresholds[-1] == level
    order = np.sign(np.diff(found.thresholds))
    assert set(order) <= ({1, 0} if above else {-1, 0})
    assert found.value == pytest.approx(found.estimates.mean())
    assert found.value == pytest.approx(found.conditional.prod(1).mean())
    assert found.low < found.value < found.high
    assert found.evaluations == 9 * (200 + len(found.steps) * 180)
    assert found.plain_evaluations > 0
    assert ((found.steps > 0) & (found.steps <= 1)).all()
    assert ((found.acceptance > 0.1) & (found.acceptance < 0.9)).all()
    begun = fc.evaluate(a, b, sampler, data=data, n=1600, backend="torch_reference").values(metric)
    beyond = begun >= found.thresholds[0] if above else begun <= found.thresholds[0]
    assert found.conditional[:, 0].mean() == pytest.approx(beyond.mean())


def test_the_same_seed_gives_the_same_answer(networks):
    a, b, data = networks
    mix = fc.Mixture(a, b, fc.Uniform(-0.5, 1.5, per="neuron"))
    options = {"model": a, "data": data, "n": 100, "repeats": 2}
    first, again, other = (rare_fraction(mix, "loss", 0.6, seed=s, **options) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_what_is_not_rare_is_a_plain_proportion(networks):
    a, b, data = networks
    sweep = fc.evaluate(a, b, fc.Uniform(), data=data, n=400, backend="torch_reference")
    level = float(np.median(sweep.loss))
    found = rare_fraction(fc.Mixture(a, b, fc.Uniform()), "loss", level, model=a, data=data, n=100, repeats=4)
    expected = sweep.fraction_below("loss", level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == expected.value
    assert found.evaluations == 500
    assert len(found.thresholds) == 1


def test_a_plateau_that_cannot_be_left_ends_with_a_bound(networks):
    a, b, data = networks
    mix = fc.Mixture(a, b, fc.Bernoulli(0.5, per="model"))  # two networks only
    losses = fc.evaluate(a, b, mix.sampler, data=data, n=20).loss
    options = {"model": a, "data": data, "n": 100, "repeats": 4}
    with pytest.warns(BackendNotice, match="was not reached: no chain gets beyond loss"):
        found = rare_fraction(mix, "loss", float(losses.min()) / 2 - 1, **options)
    assert not found.reached
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(proportion(0, 400).high)
    assert found.plain_evaluations == pytest.approx(400)
    with pytest.warns(BackendNotice, match="no chain gets beyond accuracy"):
        found = rare_fraction(mix, "accuracy", 1.0, above=True, **options)
    assert found.value == 0
    between = float(losses.mean())
    assert rare_fraction(mix, "loss", between, **options).value == pytest.approx(0.5, abs=0.1)


def test_a_level_beyond_the_last_threshold_allowed(networks):
    a, b, data = networks
    options = {"model": a, "data": data, "n": 100, "repeats": 4, "max_levels": 2}
    with pytest.warns(BackendNotice, match="after max_levels=2 thresholds"):
        found = rare_fraction(fc.Mixture(a, b, fc.Uniform(-1, 2)), "loss", 1e-6, **options)
    assert not found.reached
    assert found.value == found.low == 0
    assert 0 < found.high < 0.1
    assert found.plain_evaluations > 30
    assert "[0, " in repr(found)


@pytest.mark.filterwarnings("ignore:samples influence one another in loss")
def test_losses_that_are_no_numbers_are_beyond_no_level(networks):
    a, b, data = networks
    mix = fc.Mixture(a, b, fc.Uniform(-0.5, 1.5))
    options = {"model": a, "data": data, "n": 100, "repeats": 3}

    def half(output, y):
        """NaN for about half of the combinations, infinite for some, else the output's first entry."""
        first = output[:, 0]
        mean = first.mean()
        return torch.where(mean > 0, first, torch.where(mean > -0.3, torch.nan, torch.inf))

    found = rare_fraction(mix, "loss", 0.02, loss=half, **options)
    plain = fc.evaluate(a, b, mix.sampler, data=data, n=20_000, seed=3, loss=half)
    assert np.isnan(plain.loss).any()
    assert np.isinf(plain.loss).any()
    expected = plain.fraction_below("loss", 0.02, 0.999)
    assert found.low <= expected.high
    assert expected.low <= found.high
    with pytest.warns(BackendNotice, match="the pilot's combinations have no loss to go by"):
        nothing = rare_fraction(
            mix, "loss", 1.0, loss=lambda o, y: torch.full((len(y),), torch.nan), **options
        )
    assert nothing.value == 0
    assert nothing.high == pytest.approx(proportion(0, 300).high)


def test_an_interrupted_search_keeps_complete_runs(networks, monkeypatch):
    a, b, data = networks
    original = simulation.run
    calls = []

    def interrupted(*arguments, **options):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(simulation, "run", interrupted)
    mix = fc.Mixture(a, b, fc.Uniform(-0.5, 1.5))
    options = {"model": a, "data": data, "n": 100, "repeats": 5}
    with pytest.warns(BackendNotice, match="2 of 5 repeats"):
        found = rare_fraction(mix, "loss", 0.9, **options)
    assert found.repeats == len(found.estimates) == 2
    calls[:] = [None]
    with pytest.raises(KeyboardInterrupt):
        rare_fraction(mix, "loss", 0.9, **options)


def test_results_are_saved_shown_and_drawn(networks, tmp_path):
    a, b, data = networks
    mix = fc.Mixture(a, b, fc.Uniform(-0.5, 1.5))
    options = {"model": a, "data": data, "n": 100, "repeats": 2}
    rare = rare_fraction(mix, "accuracy", 0.8, above=True, **options)
    plain = rare_fraction(mix, "loss", 100.0, **options)
    with pytest.warns(BackendNotice):
        missed = rare_fraction(mix, "loss", 1e-9, max_levels=1, **options)
    for number, result in enumerate((rare, plain, missed)):
        path = result.save(tmp_path / f"{number}.json")
        json.loads(path.read_text(), parse_constant=pytest.fail)
        assert RareFraction.load(path) == result
        assert result.plot(tmp_path / f"{number}.png").stat().st_size > 10_000
        lines = result.table().splitlines()
        assert len(lines) == 2 + len(result.thresholds)
        assert len({len(line) for line in lines}) == 1
        assert len(repr(result)) < 200
    assert "accuracy > 0.8" in repr(rare)


def test_the_bar_knows_how_far_it_is(capsys):
    with bar(0, "point", progress=True) as shown:
        problem = Normal(linear, 2, 300, 1)
        found = simulate(problem, -3.0, Size.of(100, 0.1), repeats=2, most=9, seed=0, shown=shown)
        assert shown.n == shown.total == found.evaluations


def test_bad_input_is_refused_with_the_remedy(networks):
    a, b, data = networks
    mix = fc.Mixture(a, b, fc.Uniform())

    def call(mix=mix, metric="loss", level=0.1, data=data, **options):
        return rare_fraction(mix, metric, level, **{"model": a, "data": data} | options)

    constant = fc.Mixture(a, b, fc.Constant(0.5))
    never = fc.Mixture(a, b, fc.Bernoulli(0.0))
    wide = fc.Mixture(*(nn.Linear(1000, 1000) for _ in "ab"), fc.Uniform())
    shared = fc.Mixture(*(nn.Linear(1000, 1000) for _ in "ab"), fc.Uniform(per="neuron"))
    for bad, message in [
        (lambda: call(metric="error"), "metric='error' is none of 'loss', 'accuracy'"),
        (lambda: call(level=np.nan), "level=nan"),
        (lambda: call(level=1e39), "no finite number in float32"),
        (lambda: call(n=50), "5 chains; take n of at least 10/p0"),
        (lambda: call(p0=0.7), "p0=0.7 is outside"),
        (lambda: call(repeats=1), "at least 2"),
        (lambda: call(confidence=1.0), "confidence=1.0 is outside"),
        (lambda: call(seed=-1), "seed=-1 is outside"),
        (lambda: call(max_levels=0), "at least one threshold"),
        (lambda: call(constant), "always draws the same coefficients"),
        (lambda: call(never), "always draws the same coefficients"),
        (lambda: call(wide), r"n=1000 points of 1,001,000 draws take 5.2 GiB, the budget is 4.0 GiB; take"),
        (lambda: call(wide), 'share coefficients with per="neuron", or raise budget='),
        (lambda: call(shared, budget=1 << 20), "take a smaller n, or raise budget="),
        (lambda: call(metric="accuracy", loss="mse", data=(data[0], torch.randn(30, 5))), "has no accuracy"),
        (lambda: call(wide, budget=1 << 40), "does not fit MLP"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()
    vgg = small_vgg()
    with pytest.raises(ValueError, match="choose batch_norm="):
        rare_fraction(fc.Mixture(vgg, vgg, fc.Uniform()), "loss", 0.1, model=vgg, data=data)
