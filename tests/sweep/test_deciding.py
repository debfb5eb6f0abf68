"""Questions decided from few samples: wrong no more often than they may be, the same however they run."""

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import fastcomb as fc
from fastcomb.models import MLP, Tiny10
from fastcomb.statistics.sequential_decision import Question
from fastcomb.sweep.pilot import run_pilot

pytestmark = pytest.mark.filterwarnings("ignore:the pilot alone evaluates")


def trained(seed, x, y, steps=60):
    """A small classifier whose losses spread."""
    torch.manual_seed(seed)
    model = MLP((7, 24, 5))
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def problem():
    """Two trained networks, 300 samples, and the level that half of their combinations are under."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(5, 7, generator=generator)
    y = torch.randint(0, 5, (600,), generator=generator)
    x = centres[y] + torch.randn(600, 7, generator=generator)
    a, b = (trained(seed, x[300:], y[300:]) for seed in (1, 2))
    data = x[:300], y[:300]
    level = float(np.median(fc.evaluate(a, b, fc.Uniform(per="layer"), data=data, n=500).loss))
    return a, b, data, level


def question(samples, level, error=0.2, low=0.0, width=1.0):
    """Values between 0 and 1, as the pilot would put it."""
    lows, widths = np.full(samples, low), np.full(samples, width)
    at = samples * (level - low)
    return Question(fc.Below("loss", level, error), lows, widths, at, at, 0.5, 0.1, seed=7)


def binomial_limit(rate, total):
    """What a count with at most this rate exceeds with probability 1e-6."""
    return scipy.stats.binom.isf(1e-6, total, rate)


@pytest.mark.parametrize("law", [(0.5, 0.5), (2, 6), (0.1, 0.9)])
def test_bets_are_wrong_no_more_often_than_they_may(law):
    """Values whose mean is exactly the level, where no answer but the exact one is right."""
    rng = np.random.default_rng(0)
    wrong = {True: 0, False: 0}
    total = 400
    for index in range(total):
        values = rng.beta(*law, size=200).astype(np.float32)
        asked = question(200, values.astype(float).mean(), error=0.2)
        answer = asked.answer(index, lambda some, v=values: v[some])
        if answer.samples < 200:
            wrong[answer.holds] += 1
    for count in wrong.values():  # each bet may be won wrongly with probability α = error / 2
        assert count <= binomial_limit(0.1, total)
    assert max(wrong.values()) > 0.01 * total  # and they do get won


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 80),
    st.floats(-3, 3),
    st.floats(0.01, 5),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32),
)
def test_an_answer_at_the_end_is_exact(samples, low, width, index, seed):
    values = (low + width * np.random.default_rng(seed).random(samples)).astype(np.float32)
    level = float(np.float32(values.astype(float).mean()))
    asked = question(samples, level, error=1e-5, low=low, width=width)
    answer = asked.answer(index, lambda some: values[some])
    assert sorted(asked.order(index)) == list(range(samples))
    if answer.samples == samples:
        assert answer.mean == pytest.approx(values.astype(float).mean(), rel=1e-9, abs=1e-9)
    assert answer.samples == samples or samples > 8
    far = question(samples, low + 2 * width, error=1e-5, low=low, width=width)
    assert far.answer(index, lambda some: values[some]).holds  # certain: no bet is needed


def test_samples_come_in_proportion_to_their_width():
    asked = question(4, 0.5)
    asked = Question(asked.decide, asked.low, np.array([1.0, 2, 3, 4]), 1, 1, 0.5, 0.1, seed=3)
    orders = np.array([asked.order(index) for index in range(4000)])
    first = np.bincount(orders[:, 0], minlength=4)
    assert scipy.stats.chisquare(first, 4000 * np.array([0.1, 0.2, 0.3, 0.4])).pvalue > 1e-4
    second = orders[orders[:, 0] == 3, 1]  # without replacement: the rest, in proportion
    assert (
        scipy.stats.chisquare(
            np.bincount(second, minlength=4)[:3], len(second) * np.array([1, 2, 3]) / 6
        ).pvalue
        > 1e-4
    )


@pytest.mark.parametrize(
    ("ask", "wanted"),
    [
        (lambda level: fc.Below("loss", level, 1e-2), lambda s, level: s.loss < np.float32(level)),
        (lambda level: fc.Above("loss", level, 1e-2), lambda s, level: s.loss > np.float32(level)),
        (lambda _: fc.Below("accuracy", 0.8, 1e-2), lambda s, _: s.accuracy < np.float32(0.8)),
        (lambda _: fc.Above("accuracy", 0.8, 1e-2), lambda s, _: s.accuracy > np.float32(0.8)),
    ],
)
def test_answers_on_a_real_sweep(problem, ask, wanted):
    a, b, data, level = problem
    options = {"data": data, "n": 3000, "seed": 4}
    full = fc.evaluate(a, b, fc.Uniform(per="layer"), **options)
    decided = fc.evaluate(a, b, fc.Uniform(per="layer"), decide=ask(level), **options)
    truth = wanted(full, level)
    assert (decided.holds != truth).sum() <= binomial_limit(1e-2, 3000)
    assert decided.samples_taken.mean() < 200  # of 300, with the level in the middle
    interval = decided.fraction
    assert interval.low <= truth.mean() <= interval.high
    everything = decided.samples_taken == 300  # these are exact
    assert (decided.holds == truth)[everything].all()
    metric = decided.decide.metric
    np.testing.assert_allclose(
        decided.rows.column(f"{metric}_estimate")[everything], full.values(metric)[everything], rtol=1e-6
    )


@pytest.mark.parametrize("metric", [pytest.param("loss", marks=pytest.mark.slow), "accuracy"])
def test_the_engine_follows_the_plain_rule(problem, metric):
    """Per-sample losses differ in their last bits, so the odd bet may be won one sample sooner or later."""
    a, b, data, level = problem
    ask = fc.Below("loss", level, 0.01) if metric == "loss" else fc.Above("accuracy", 0.8, 0.01)
    sampler = fc.Uniform(per="layer")
    runs = [
        fc.evaluate(a, b, sampler, data=data, n=300, decide=ask, backend=backend)
        for backend in ("native", "torch_reference")
    ]
    assert runs[0].backend == "native"
    assert (runs[0].holds == runs[1].holds).mean() >= 0.99
    assert (runs[0].samples_taken == runs[1].samples_taken).mean() >= 0.99


def test_the_engine_takes_the_samples_that_the_plain_rule_does(problem):
    """The estimates tell which samples were taken: the same ones, to rounding."""
    a, b, data, level = problem
    ask = fc.Below("loss", level, 0.01)
    sampler = fc.Uniform(per="layer")
    fast = fc.evaluate(a, b, sampler, data=data, n=40, decide=ask)
    job = fast.origin.experiment.start()
    asked = run_pilot(ask, job, False)
    x, y = data
    for i in range(40):
        with torch.no_grad():
            losses = F.cross_entropy(fast.rebuild(i)(x), y, reduction="none").numpy()
        order = asked.order(i)[: fast.samples_taken[i]]
        clipped = np.clip(losses, asked.low, asked.low + asked.width) - asked.low
        left = asked.width.sum() - asked.width[order].sum()
        rest = clipped[order].sum() / asked.width[order].sum() * left
        estimate = (asked.low.sum() + clipped[order].sum() + rest) / len(x)
        wanted = losses.mean() if len(order) == len(x) else estimate
        assert fast.rows.column("loss_estimate")[i] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("samples", [1, 3, 8, 9, 63, 100])
def test_awkward_numbers_of_samples(problem, samples):
    a, b, (x, y), level = problem
    options = {"data": (x[:samples], y[:samples]), "n": 50}
    full = fc.evaluate(a, b, fc.Uniform(), **options)
    decided = fc.evaluate(a, b, fc.Uniform(), decide=fc.Below("loss", level, 0.1), **options)
    assert (decided.samples_taken >= 1).all()
    assert (decided.samples_taken <= samples).all()
    assert (decided.holds != (full.loss < np.float32(level))).sum() <= binomial_limit(0.1, 50)


def test_shards_and_runs_on_disk_agree(problem, tmp_path):
    a, b, data, level = problem
    options = {"data": data, "decide": fc.Below("loss", level, 0.05)}
    sampler = fc.Uniform(per="layer")
    whole = fc.evaluate(a, b, sampler, n=400, **options)
    fc.evaluate(a, b, sampler, start=150, n=100, out=tmp_path, **options)
    kept = fc.evaluate(a, b, sampler, n=400, out=tmp_path, **options)
    opened = fc.open_sweep(tmp_path)
    for sweep in (kept, opened):
        for name in ("loss_estimate", "samples", "holds"):
            np.testing.assert_array_equal(sweep.rows.column(name), whole.rows.column(name))
        assert sweep.fraction_below("loss", level) == whole.fraction
    assert opened.summary()["question"] == str(options["decide"])
    assert "times fewer samples" in str(opened)
    assert opened.plot(tmp_path / "taken.png").exists()
    with pytest.raises(ValueError, match=r"decide.* there and .* here"):
        fc.evaluate(a, b, sampler, n=400, out=tmp_path, data=data)
    with pytest.raises(ValueError, match="can answer nothing else"):
        opened.fraction_below("loss", level / 2)
    for call in (lambda: opened.density("loss"), lambda: opened.loss, opened.best):
        with pytest.raises(ValueError, match="measured nothing; evaluate without decide="):
            call()


def test_values_that_are_not_finite_count_as_above(problem):
    a, b, (x, y), level = problem
    broken = x.clone()
    broken[3, 0] = torch.inf
    options = {"data": (broken, y), "n": 40}
    found = fc.evaluate(a, b, fc.Uniform(), decide=fc.Below("loss", level, 0.1), **options)
    assert found.holds.sum() <= binomial_limit(0.1, 40)
    assert not np.isfinite(fc.evaluate(a, b, fc.Uniform(), **options).loss).any()


def test_a_run_that_has_only_begun(problem, tmp_path):
    a, b, data, level = problem
    fc.evaluate(a, b, fc.Uniform(), n=5, data=data, decide=fc.Below("loss", level, 0.3), out=tmp_path)
    next((tmp_path / "parts").iterdir()).unlink()
    opened = fc.open_sweep(tmp_path)
    assert opened.summary()["combinations"] == 0
    assert "question" in str(opened)
    with pytest.raises(ValueError, match="no combinations to draw"):
        opened.plot(tmp_path / "taken.png")


@pytest.mark.slow
def test_recomputed_statistics_regression_and_losses_of_ones_own(problem, images):
    torch.manual_seed(0)
    a, b = Tiny10().eval(), Tiny10().eval()
    options = {"data": images, "n": 3, "batch_norm": "recompute", "calibration": images[0][:8]}
    full = fc.evaluate(a, b, fc.Uniform(), **options)
    found = fc.evaluate(a, b, fc.Uniform(), decide=fc.Below("loss", 2.31, 0.5), **options)
    assert len(found) == 3
    np.testing.assert_allclose(
        found.rows.column("loss_estimate")[found.samples_taken == 24],
        full.loss[found.samples_taken == 24],
        rtol=1e-5,
    )
    a, b, (x, _), _ = problem
    y = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    squares = {"data": (x, y), "n": 200, "loss": "mse"}
    full = fc.evaluate(a, b, fc.Uniform(), **squares)
    level = float(np.quantile(full.loss, 0.9))
    ask = fc.Below("loss", level, 0.05)
    found = fc.evaluate(a, b, fc.Uniform(), decide=ask, **squares)
    assert (found.holds != (full.loss < np.float32(level))).sum() <= binomial_limit(0.05, 200)
    own = fc.evaluate(
        a, b, fc.Uniform(), decide=ask, **squares | {"loss": lambda o, t: ((o - t) ** 2).mean(1)}
    )
    assert (own.holds == found.holds).mean() > 0.98


def test_the_interval_covers_the_true_fraction():
    """With answers as wrong as they may be: bets at error / 2, and a pilot drawn anew every time."""
    rng = np.random.default_rng(1)
    ask = fc.Below("loss", 0.5, 0.01)
    total, repetitions = 2000, 2000
    for truth in (0.02, 0.3, 0.9):
        misses = 0
        for _ in range(repetitions):
            missed = 1 - rng.random() ** (1 / ask.checked)  # the rate that the worst of the pilot leaves
            wrong = min(1.0, ask.error / 2 + missed)
            said = truth - wrong if truth > 0.5 else truth + wrong
            interval = ask.fraction(rng.binomial(total, said), total, 0.95)
            misses += not interval.low <= truth <= interval.high
        assert misses <= binomial_limit(0.05, repetitions)


@pytest.mark.filterwarnings("default:the pilot alone evaluates")
def test_a_pilot_that_costs_more_than_it_saves_is_said(problem):
    a, b, data, level = problem
    with pytest.warns(fc.BackendNotice, match="the pilot alone evaluates 2499 combinations in full"):
        fc.evaluate(a, b, fc.Uniform(), data=data, n=20, decide=fc.Below("loss", level))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fc.Below("speed", 1), "metric='speed' is neither"),
        (lambda: fc.Below("loss", float("nan")), "level=nan is not finite"),
        (lambda: fc.Above("loss", 1, error=0.9), r"error=0.9 is outside \[1e-5, 0.5\]"),
    ],
)
def test_questions_that_cannot_be_asked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_jobs_that_cannot_be_asked(problem):
    a, b, data, level = problem
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=50)
    ask = fc.Below("loss", level)
    with pytest.raises(ValueError, match="must be held; raise data_budget="):
        fc.evaluate(a, b, fc.Uniform(), data=loader, n=5, decide=ask, data_budget=100)
    with pytest.raises(ValueError, match="this task has no accuracy"):
        fc.evaluate(
            a, b, fc.Uniform(), data=(data[0], torch.zeros(300, 5)), loss="mse", n=5,
            decide=fc.Above("accuracy", 0.5),
        )  # fmt: skip
    with pytest.raises(ValueError, match="metrics= are means over all samples"):
        fc.evaluate(a, b, fc.Uniform(), data=data, n=5, decide=ask, metrics={"m": lambda o, t: o[:, 0]})
    with pytest.raises(TypeError, match="decide is a float; pass Below"):
        fc.evaluate(a, b, fc.Uniform(), data=data, n=5, decide=0.5)
