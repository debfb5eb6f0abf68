"""Losses and accuracy of every kind of target: torch's own means over a whole data set, in float64."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import fastcomb as fc
from fastcomb.kernels import native
from fastcomb.models import MLP
from fastcomb.sweep import criteria
from tests.quick import levels, mostly_slow

BACKENDS = ["native", "torch_reference"]
LEVELS = native.extension().levels()


class ClassesFirst(nn.Module):
    """Tokens [N, T] to logits [N, V, T], which lie with the classes last."""

    def __init__(self, classes):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 6), nn.Linear(6, classes)

    def forward(self, ids):
        return self.head(self.embed(ids)).transpose(1, 2)


class ClassesLast(ClassesFirst):
    """Tokens [N, T] to logits [N, T, V]."""

    def forward(self, ids):
        return self.head(self.embed(ids))


class Mixed(nn.Module):
    """Vectors [N, 4] to logits [N, C, 5] that lie with the positions innermost."""

    def __init__(self, classes):
        super().__init__()
        self.classes, self.head = classes, nn.Linear(4, classes * 5)

    def forward(self, x):
        return self.head(x).unflatten(1, (self.classes, 5))


class Logarithms(nn.Module):
    def __init__(self, inner, dimension):
        super().__init__()
        self.inner, self.dimension = inner, dimension

    def forward(self, x):
        return self.inner(x).log_softmax(self.dimension)


def ids(n, g):
    return torch.randint(7, (n, 3), generator=g)


#: Network of so many classes, its inputs, dimension of the classes, shape of a sample's class numbers.
LAYOUTS = {
    "rows": (lambda c: nn.Linear(4, c), lambda n, g: torch.randn(n, 4, generator=g), 1, ()),
    "pixels": (lambda c: nn.Conv2d(2, c, 2), lambda n, g: torch.randn(n, 2, 4, 5, generator=g), 1, (3, 4)),
    "positions innermost": (Mixed, lambda n, g: torch.randn(n, 4, generator=g), 1, (5,)),
    "tokens": (ClassesLast, ids, -1, (3,)),
    "tokens, classes first": (ClassesFirst, ids, 1, (3,)),
}


def pair(make, seed=0):
    torch.manual_seed(seed)
    return make().eval(), make().eval()


def outputs(sweep, model, x, k):
    """Outputs of combination ``k`` in float64."""
    state = {name: t.double() for name, t in sweep.mixture[k].items()}
    double = functional_call(model.double(), state, (x.double() if x.is_floating_point() else x,))
    model.float()
    return double.detach()


def evaluated(nets, x, y, loss, backend="native", **options):
    sweep = fc.evaluate(*nets, fc.Uniform(), data=(x, y), n=3, loss=loss, backend=backend, **options)
    assert sweep.backend == backend
    return sweep


def same(sweep, k, loss, accuracy=None):
    assert sweep.loss[k] == pytest.approx(float(loss), rel=1e-5, abs=1e-9)
    if accuracy is None:
        assert np.isnan(sweep.accuracy[k])
    else:
        assert sweep.accuracy[k] == pytest.approx(float(accuracy), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    kind=st.sampled_from(["cross_entropy", "nll", "probabilities"]),
    classes=st.sampled_from([1, 2, 6, 17, 40]),
    samples=st.sampled_from([1, 2, 15, 33]),
    ignore=st.sampled_from([-100, 0, -1]),
    share=st.sampled_from([0.0, 0.3, 0.9]),
    smoothing=st.sampled_from([0.0, 0.2]),
    backend=st.sampled_from(BACKENDS),
    level=st.sampled_from(LEVELS),
    seed=st.integers(0, 99),
)
def test_class_losses(layout, kind, classes, samples, ignore, share, smoothing, backend, level, seed):
    make, draw, dimension, shape = LAYOUTS[layout]
    g = torch.Generator().manual_seed(seed)
    x = draw(samples, g)
    nets = pair(lambda: make(classes), seed)
    axis = 2 if dimension == -1 else 1
    if kind == "nll":
        nets = tuple(Logarithms(net, axis) for net in nets)
    if kind == "probabilities":
        y = torch.rand(samples, classes, *shape, generator=g)
        y = y / y.sum(1, keepdim=True)
        wanted = y.double()
        y = y.movedim(1, -1) if dimension == -1 else y
        name = "token_cross_entropy" if dimension == -1 else "cross_entropy"
        loss = f"{name}(label_smoothing={smoothing})"
    else:
        y = torch.randint(classes, (samples, *shape), generator=g)
        y[torch.rand(y.shape, generator=g) < share] = ignore
        y.view(-1)[-1] = classes - 1
        wanted = y
        if (y == ignore).all():
            return
        smoothing = smoothing if kind == "cross_entropy" else 0.0
        loss = (
            nn.NLLLoss(ignore_index=ignore)
            if kind == "nll"
            else nn.CrossEntropyLoss(ignore_index=ignore, label_smoothing=smoothing)
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.LEVEL_VARIABLE, level)
        sweep = evaluated(nets, x, y, loss, backend)
    for k in range(3):
        logits = outputs(sweep, nets[0], x, k).movedim(axis, 1)
        if kind == "nll":
            same(sweep, k, F.nll_loss(logits, y, ignore_index=ignore), right(logits, y, ignore))
        else:
            left_out = -100 if kind == "probabilities" else ignore
            exact = F.cross_entropy(logits, wanted, ignore_index=left_out, label_smoothing=smoothing)
            same(sweep, k, exact, None if kind == "probabilities" else right(logits, y, ignore))


def right(logits, y, ignore):
    counted = y != ignore
    return (logits.argmax(1) == y)[counted].double().mean()


@settings(max_examples=25, deadline=None)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    kind=st.sampled_from(["cross_entropy", "nll", "probabilities"]),
    share=st.sampled_from([0.0, 0.4]),
    smoothing=st.sampled_from([0.0, 0.2]),
    backend=st.sampled_from(BACKENDS),
    seed=st.integers(0, 99),
)
def test_weights_of_classes(layout, kind, share, smoothing, backend, seed):
    make, draw, dimension, shape = LAYOUTS[layout]
    g = torch.Generator().manual_seed(seed)
    x, weight = draw(15, g), torch.rand(6, generator=g)
    axis = 2 if dimension == -1 else 1
    nets = pair(lambda: make(6), seed)
    y = torch.randint(6, (15, *shape), generator=g)
    y[torch.rand(y.shape, generator=g) < share] = -100
    loss = nn.CrossEntropyLoss(weight, label_smoothing=smoothing)
    if kind == "nll":
        nets, loss = tuple(Logarithms(net, axis) for net in nets), nn.NLLLoss(weight)
    given = y
    if kind == "probabilities":
        y = torch.rand(15, 6, *shape, generator=g)
        given = y.movedim(1, -1) if dimension == -1 else y
        name = "token_cross_entropy" if dimension == -1 else "cross_entropy"
        settings = f"label_smoothing={smoothing}, weight={weight.tolist()}"
        loss = f"{name}({settings})"
    sweep = evaluated(nets, x, given, loss, backend)
    for k in range(3):
        logits = outputs(sweep, nets[0], x, k).movedim(axis, 1)
        exact = (
            F.nll_loss(logits, y, weight.double())
            if kind == "nll"
            else F.cross_entropy(
                logits, y.double() if y.is_floating_point() else y, weight.double(), label_smoothing=smoothing
            )
        )
        same(sweep, k, exact, None if kind == "probabilities" else right(logits, y, -100))


ENTRIES = {
    "mse": (nn.MSELoss(), F.mse_loss),
    "l1": (nn.L1Loss(), F.l1_loss),
    "huber": (nn.HuberLoss(), F.huber_loss),
    "huber(delta=0.3)": (nn.HuberLoss(delta=0.3), lambda o, y: F.huber_loss(o, y, delta=0.3)),
    "smooth_l1": (nn.SmoothL1Loss(), F.smooth_l1_loss),
    "smooth_l1(beta=0.2)": (nn.SmoothL1Loss(beta=0.2), lambda o, y: F.smooth_l1_loss(o, y, beta=0.2)),
    "bce_with_logits": (nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits),
}


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(ENTRIES)),
    layout=st.sampled_from(sorted(LAYOUTS)),
    classes=st.sampled_from([1, 3, 21]),
    samples=st.sampled_from([1, 7, 33]),
    module=st.booleans(),
    backend=st.sampled_from(BACKENDS),
    level=st.sampled_from(LEVELS),
    seed=st.integers(0, 99),
)
def test_losses_of_entries(name, layout, classes, samples, module, backend, level, seed):
    make, draw, dimension, shape = LAYOUTS[layout]
    g = torch.Generator().manual_seed(seed)
    x = draw(samples, g)
    nets = pair(lambda: make(classes), seed)
    y = torch.randn(samples, classes, *shape, generator=g)
    if name == "bce_with_logits":
        y = (y > 0).float()
    y = y.movedim(1, -1) if dimension == -1 else y
    spec, function = ENTRIES[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.LEVEL_VARIABLE, level)
        sweep = evaluated(nets, x, y, spec if module else name, backend)
    for k in range(3):
        output = outputs(sweep, nets[0], x, k)
        signs = ((output > 0) == (y > 0.5)).double().mean() if name == "bce_with_logits" else None
        same(sweep, k, function(output, y.double()), signs)


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 300.0])
def test_logits_of_any_size(level, scale, monkeypatch):
    """Losses near zero keep their relative precision, and large ones do not overflow."""
    monkeypatch.setenv(native.LEVEL_VARIABLE, level)
    nets = pair(lambda: nn.Linear(3, 5))
    x = torch.randn(50, 3)
    with torch.no_grad():
        for net in nets:
            net.weight.copy_(scale * nets[0].weight)
            net.bias.fill_(0.2)
    y = (nets[0](x) > 0).float()
    sweep = evaluated(nets, x, y, "bce_with_logits")
    for k in range(3):
        exact = F.binary_cross_entropy_with_logits(outputs(sweep, nets[0], x, k), y.double())
        assert sweep.loss[k] == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_number_for_each_sample(backend):
    nets = pair(lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)))
    x, y = torch.randn(9, 4), torch.randint(2, (9,))
    sweep = evaluated(nets, x, y, "bce_with_logits", backend)
    output = outputs(sweep, nets[0], x, 2)
    same(
        sweep, 2, F.binary_cross_entropy_with_logits(output, y.double()), ((output > 0) == y).double().mean()
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_left_out_targets_count_once_however_the_data_come(backend):
    """Held, streamed and in shards: the mean over all targets."""
    nets = pair(lambda: ClassesLast(5))
    g = torch.Generator().manual_seed(4)
    x, y = torch.randint(7, (23, 6), generator=g), torch.randint(5, (23, 6), generator=g)
    y[torch.rand(y.shape, generator=g) < 0.5] = -100
    y[3] = -100
    options = {"loss": "cross_entropy", "backend": backend, "progress": False}
    whole = fc.evaluate(*nets, fc.Uniform(), data=(x, y), n=8, **options)
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    streamed = fc.evaluate(*nets, fc.Uniform(), data=loader, data_budget=0, n=8, **options)
    part = fc.evaluate(*nets, fc.Uniform(), data=(x, y), start=3, n=5, **options)
    assert np.array_equal(part.loss, whole.loss[3:])
    np.testing.assert_allclose(streamed.loss, whole.loss, rtol=1e-6)
    np.testing.assert_allclose(streamed.accuracy, whole.accuracy, rtol=1e-6)
    logits = outputs(whole, nets[0], x, 5).movedim(2, 1)
    same(whole, 5, F.cross_entropy(logits, y), right(logits, y, -100))


@pytest.mark.filterwarnings("ignore:the pilot alone evaluates")
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
@pytest.mark.parametrize("loss", mostly_slow(["cross_entropy", "bce_with_logits"], 0))
def test_questions_about_tokens(loss, metric):
    """Answers are those of the sweep, exactly where all samples were taken; some tokens are left out."""
    nets = pair(lambda: ClassesLast(5))
    g = torch.Generator().manual_seed(4)
    x, y = torch.randint(7, (30, 3), generator=g), torch.randint(5, (30, 3), generator=g)
    if loss == "bce_with_logits":
        y = F.one_hot(y, 5).float()
    else:
        y[torch.rand(y.shape, generator=g) < 0.5] = -100
    options = {"data": (x, y), "n": 200, "loss": loss}
    values = fc.evaluate(*nets, fc.Uniform(), **options).values(metric)
    level = float(np.quantile(values, 0.5))
    above = metric == "accuracy"
    ask = (fc.Above if above else fc.Below)(metric, level, error=0.05)
    holds = values > np.float32(level) if above else values < np.float32(level)
    for backend in BACKENDS:
        decided = fc.evaluate(*nets, fc.Uniform(), decide=ask, backend=backend, **options)
        assert (decided.holds != holds).mean() <= 0.2
        exact = decided.samples_taken == 30
        assert exact.any()
        estimate = decided.rows.column(f"{metric}_estimate")
        np.testing.assert_allclose(estimate[exact], values[exact], rtol=1e-5)


class TestReading:
    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ("cross_entropy", "cross_entropy"),
            (nn.CrossEntropyLoss(), "cross_entropy"),
            (
                nn.CrossEntropyLoss(ignore_index=3, label_smoothing=0.1),
                "cross_entropy(ignore_index=3, label_smoothing=0.1)",
            ),
            ("token_cross_entropy(label_smoothing=0.5)", "token_cross_entropy(label_smoothing=0.5)"),
            (nn.NLLLoss(ignore_index=0), "nll(ignore_index=0)"),
            (nn.NLLLoss(torch.tensor([0.5, 2.0])), "nll(weight=[0.5, 2.0])"),
            (nn.HuberLoss(delta=2.0), "huber(delta=2.0)"),
            (nn.SmoothL1Loss(beta=0.0), "l1"),
            ("smooth_l1(beta=0.25)", "smooth_l1(beta=0.25)"),
            (nn.BCEWithLogitsLoss(), "bce_with_logits"),
        ],
    )
    def test_what_is_asked_for_is_written_as_it_can_be_asked_for_again(self, given, text):
        asked = criteria.read(given)
        assert str(asked) == text
        assert str(criteria.read(text)) == text
        assert pickle.loads(pickle.dumps(asked)) == asked

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (nn.CrossEntropyLoss(reduction="sum"), "means over samples; pass reduction='mean'"),
            ("nll(weight=[1, 'a'])", "is no list of a number for each class"),
            (nn.BCEWithLogitsLoss(pos_weight=torch.ones(5)), "pos_weight= is not supported"),
            (nn.BCEWithLogitsLoss(weight=torch.ones(5)), "weight= is not supported"),
            (nn.CrossEntropyLoss(label_smoothing=1.5), "label_smoothing=1.5 is outside"),
            (nn.HuberLoss(delta=-1.0), "delta=-1.0 is not positive"),
            ("huber(beta=1)", "huber has no 'beta'; it has delta"),
            ("mse(delta=1)", "mse has no 'delta'; it has no settings"),
            ("huber(1)", "write settings as in"),
            ("huber(delta=", "write settings as in"),
            ("nll(ignore_index=0.5)", "ignore_index=0.5 is not an integer"),
        ],
    )
    def test_settings_that_cannot_be(self, loss, message):
        with pytest.raises(ValueError, match=message):
            criteria.read(loss)

    def test_a_module_that_reduces_nothing_is_a_callable(self):
        nets = pair(lambda: MLP((4, 6, 5)))
        x, y = torch.randn(9, 4), torch.randint(5, (9,))
        own = evaluated(nets, x, y, nn.CrossEntropyLoss(reduction="none"))
        np.testing.assert_allclose(own.loss, evaluated(nets, x, y, "cross_entropy").loss, rtol=1e-6)
        assert np.isnan(own.accuracy).all()

    def test_a_run_knows_its_loss(self, tmp_path):
        nets = pair(lambda: ClassesLast(5))
        x, y = torch.randint(7, (9, 3)), torch.randint(5, (9, 3))
        loss = nn.CrossEntropyLoss(ignore_index=2)
        sweep = fc.evaluate(*nets, fc.Uniform(), data=(x, y), n=4, loss=loss, out=tmp_path / "run")
        assert sweep.path is not None
        again = fc.open_sweep(tmp_path / "run")
        np.testing.assert_allclose(again.perplexity, np.exp(sweep.loss.astype(float)))
        with pytest.raises(ValueError, match="another experiment"):
            fc.evaluate(*nets, fc.Uniform(), data=(x, y), n=4, out=tmp_path / "run")


class TestShapes:
    def test_two_readings_are_refused_until_the_loss_says_which(self):
        nets = pair(lambda: ClassesLast(3))
        x, y = torch.randint(7, (9, 3)), torch.randint(3, (9, 3))
        with pytest.raises(ValueError, match=r"two ways.*nn.CrossEntropyLoss.*token_cross_entropy"):
            evaluated(nets, x, y, "cross_entropy")
        tokens, classes = (
            evaluated(nets, x, y, loss) for loss in ("token_cross_entropy", nn.CrossEntropyLoss())
        )
        logits = outputs(tokens, nets[0], x, 1)
        same(tokens, 1, F.cross_entropy(logits.movedim(2, 1), y), right(logits.movedim(2, 1), y, -100))
        same(classes, 1, F.cross_entropy(logits, y), right(logits, y, -100))

    @pytest.mark.parametrize(
        ("loss", "change", "message"),
        [
            ("cross_entropy", lambda y: y + 1, r"labels run from 1 to 5, but the model has 5 logits"),
            ("cross_entropy", lambda y: y - 1, r"labels run from -1 to 3.*ignore_index="),
            (
                "cross_entropy",
                lambda y: y.float(),
                r"targets \(6, 3\) and outputs \(6, 3, 5\) differ",
            ),
            ("cross_entropy", lambda y: torch.full_like(y, -100), "all targets are -100"),
            ("token_cross_entropy", lambda y: y[:, :2], r"outputs \[S, ..., C\]; got torch.int64"),
            ("nll", lambda y: y, "log-probabilities"),
            ("bce_with_logits", lambda y: y, "differ in shape"),
            ("bce_with_logits", lambda y: torch.full((9, 3, 5), 2.0), "targets run from 2.0 to 2.0"),
            ("huber", lambda y: y.float(), "differ in shape"),
            (nn.CrossEntropyLoss(torch.ones(4)), lambda y: y, "has 4 weights, but the model has 5 logits"),
            (nn.CrossEntropyLoss(torch.zeros(5)), lambda y: y, "weights of all targets are 0"),
            (
                nn.CrossEntropyLoss(ignore_index=0),
                lambda y: torch.ones(9, 3, 5),
                r"loss='cross_entropy\(ignore_index=0\)'.*of class numbers",
            ),
        ],
    )
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_targets_that_a_loss_cannot_take(self, loss, change, message, backend):
        nets = pair(lambda: ClassesLast(5))
        y = torch.arange(27).view(9, 3) % 5
        with pytest.raises(ValueError, match=message):
            evaluated(nets, torch.randint(7, (9, 3)), change(y), loss, backend)


class TestPerplexity:
    def test_of_a_cross_entropy(self):
        nets = pair(lambda: ClassesLast(5))
        x, y = torch.randint(7, (9, 3)), torch.randint(5, (9, 3))
        sweep = evaluated(nets, x, y, "token_cross_entropy")
        exact = F.cross_entropy(outputs(sweep, nets[0], x, 2).flatten(0, 1), y.flatten()).exp()
        assert sweep.perplexity[2] == pytest.approx(exact.item(), rel=1e-5)
        assert pickle.loads(pickle.dumps(sweep)).perplexity[2] == sweep.perplexity[2]

    @pytest.mark.parametrize("loss", ["cross_entropy(label_smoothing=0.1)", lambda z, _: z.mean((1, 2))])
    def test_of_nothing_else(self, loss):
        nets = pair(lambda: ClassesLast(5))
        x, y = torch.randint(7, (9, 3)), torch.randint(5, (9, 3))
        with pytest.raises(ValueError, match="perplexity is exp of a cross-entropy"):
            _ = evaluated(nets, x, y, loss).perplexity
