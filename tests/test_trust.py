"""Networks as people bring them: the right number, or a refusal by name. Right values are plain torch's."""

import copy
import dataclasses
import pickle
import types
from collections import deque
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

import fastcomb as fc
from tests.quick import mostly_slow


def pair(make):
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        nets.append(make().eval())
    return nets


def samples(count=50, width=6, classes=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, width, generator=generator)
    return x, torch.randint(0, classes, (count,), generator=generator)


def own_loss(model, data):
    with torch.no_grad():
        return F.cross_entropy(model(data[0]), data[1]).item()


def state_of(model):
    """Everything about a module that a call could change."""
    modules = []
    for name, module in model.named_modules(remove_duplicate=False):
        plain = {k: v for k, v in vars(module).items() if not k.startswith("_") and not isinstance(v, dict)}
        hooks = {k: list(v) for k, v in vars(module).items() if k.endswith("_hooks")}
        modules.append((name, id(module), {k: id(v) for k, v in plain.items()}, module.training, hooks))
    tensors = [
        (n, id(t), type(t), t.requires_grad, t._version, t.detach().clone(), t.grad)
        for n, t in (*model.named_parameters(), *model.named_buffers())
    ]
    return modules, tensors


def unchanged(before, after):
    assert before[0] == after[0]
    for one, other in zip(before[1], after[1], strict=True):
        assert one[:5] == other[:5]
        assert torch.equal(one[5], other[5])
        assert one[6] is other[6]


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(6, 6)
        self.again = self.enc
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.again(torch.tanh(self.enc(x))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.out(self.two(torch.relu(self.one(x))))


class Caching(nn.Module):
    """Keeps what it works out from its weights, outside tensors; in another mode it drops it."""

    def __init__(self):
        super().__init__()
        self.l, self.bias = nn.Linear(6, 3), nn.Parameter(torch.randn(3))
        self.kept = {}

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self.kept = {}
        return self

    def forward(self, x):
        if self.training:
            return self.l(x) + self.bias * 2
        if "bias" not in self.kept:
            self.kept["bias"] = self.bias * 2
        return self.l(x) + self.kept["bias"]


class CachingForGood(nn.Module):
    """Keeps what it works out from its weights at its first call, whatever the mode."""

    def __init__(self):
        super().__init__()
        self.l, self.raw, self.scale = nn.Linear(6, 3), nn.Parameter(torch.randn(3)), None

    def forward(self, x):
        if self.scale is None:
            self.scale = F.softplus(self.raw)
        return self.l(x) * self.scale


def weight_norm():
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.Linear(6, 12))
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(12, 3))


@pytest.mark.parametrize("make", [Shared, Tied, Caching, CachingForGood, weight_norm])
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_modules_that_share_cache_or_derive_their_weights(make, used):
    a, b = pair(make)
    data = samples()
    if used:
        with torch.no_grad():
            a(data[0]), b(data[0])
    fresh = pair(make)
    before = state_of(a), state_of(b)
    for backend in ("auto", "torch_reference"):
        for t, end in zip((0.0, 1.0), fresh, strict=True):
            sweep = fc.evaluate(a, b, fc.Constant(t), data=data, n=2, backend=backend)
            assert sweep.loss[0] == pytest.approx(own_loss(end, data), rel=1e-5)
    mix = fc.Mixture(a, b, fc.Uniform())
    outputs = mix.functional_call(a, range(3), data[0])
    for k in range(3):
        network = pair(make)[0]
        network.load_state_dict(mix[k])
        with torch.no_grad():
            torch.testing.assert_close(outputs[k], network(data[0]), rtol=1e-4, atol=1e-5)
    unchanged(before[0], state_of(a))
    unchanged(before[1], state_of(b))


class Slotted:
    __slots__ = ("calls", "last")

    def __init__(self):
        self.calls = 0


class Remembering(nn.Module):
    """Its result depends on what earlier calls left in a deque and in an object with slots."""

    def __init__(self):
        super().__init__()
        self.l, self.queue, self.state = nn.Linear(6, 3), deque([0.0], maxlen=2), Slotted()

    def forward(self, x):
        h = self.l(x) + self.queue[-1] + self.state.calls + (0 if not hasattr(self.state, "last") else 5)
        self.queue.append(1.0)
        self.state.calls += 1
        self.state.last = True
        return h


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_no_combination_finds_what_another_left_behind():
    a, b = pair(Remembering)
    x, y = samples()
    mix = fc.Mixture(a, b, fc.Uniform())
    found = mix.functional_call(a, range(4), x)
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=4)
    for k in range(4):
        network = Remembering()
        network.load_state_dict(mix[k])
        with torch.no_grad():
            logits = network(x)
        torch.testing.assert_close(found[k], logits, rtol=1e-5, atol=1e-6)
        assert sweep.loss[k] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert list(a.queue) == [0.0]
    assert a.state.calls == 0


def test_nothing_changes_when_a_call_raises():
    a, b = pair(Shared)
    before = state_of(a)
    with pytest.raises(RuntimeError):
        fc.Mixture(a, b, fc.Uniform()).functional_call(a, range(3), torch.randn(4, 5))
    unchanged(before, state_of(a))


CALLS = {
    "evaluate": lambda a, b, d: fc.evaluate(a, b, fc.Uniform(), data=d, n=2, batch_norm="a"),
    "recompute": lambda a, b, d: fc.evaluate(
        a, b, fc.Uniform(), data=d, n=2, batch_norm="recompute", calibration=d[0]
    ),
    "functional_call": lambda a, b, d: fc.Mixture(a, b, fc.Uniform()).functional_call(
        a, range(3), d[0], batch_norm="lerp"
    ),
    "barrier": lambda a, b, d: fc.barrier(a, b, data=d, points=3, batch_norm="a", progress=False),
    "align": lambda a, b, d: fc.rebasin.align(a, b, progress=False),
    "repair": lambda a, b, d: fc.rebasin.repair(a, a, b, d[0]),
    "capture": lambda a, b, d: fc.capture(a, d[0]),
    "cut": lambda a, b, d: fc.stitching.cut(a, "0", d[0]),
    "layerwise": lambda a, b, d: fc.similarity.layerwise(a, b, d[0], progress=False),
    "diversity": lambda a, b, d: fc.diversity(
        fc.Mixture(a, b, fc.Uniform()), range(3), data=d, model=a, batch_norm="a", progress=False
    ),
    "rare_fraction": lambda a, b, d: fc.rare_fraction(
        fc.Mixture(a, b, fc.Uniform()), "loss", 1.0, model=a, data=d, n=100, repeats=2, batch_norm="a",
        progress=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_no_public_call_changes_what_it_is_given(call, mode):
    a, b = pair(lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    for model in (a, b):
        getattr(model, mode)()
        model[0].bias.requires_grad_(False)
        model[3].register_forward_hook(lambda *_: None)
    data = samples()
    given = tuple(t.clone() for t in data)
    before = state_of(a), state_of(b)
    if call == "functional_call" and mode == "train":
        fc.Mixture(a, b, fc.Uniform()).functional_call(a, range(3), data[0])
    else:
        CALLS[call](a, b, data)
    unchanged(before[0], state_of(a))
    unchanged(before[1], state_of(b))
    assert all(torch.equal(one, other) for one, other in zip(data, given, strict=True))


def turned(model):
    for p in model.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
        elif p.ndim == 2:
            p.data = p.data.t().contiguous().t()
        else:
            p.data = torch.stack([p.data, p.data], 1)[:, 1]
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_in_any_memory_format(dtype):
    def make():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        ).to(dtype)

    x, y = torch.randn(20, 3, 8, 8).to(dtype), torch.randint(3, (20,))
    plain = fc.evaluate(*pair(make), fc.Uniform(), data=(x, y), n=4)
    odd = fc.evaluate(*map(turned, pair(make)), fc.Uniform(), data=(x, y), n=4)
    assert odd.backend == "native"
    assert np.array_equal(plain.loss, odd.loss)
    a, _ = pair(make)
    with torch.no_grad():
        for k in range(4):
            logits = functional_call(a, odd.mixture[k], (x,)).float()
            rel = 1e-5 if dtype == torch.float32 else 0.02  # bfloat16 rounds the logits at 2^-9
            assert odd.loss[k] == pytest.approx(F.cross_entropy(logits, y).item(), rel=rel)


class Similarity(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 8)

    def forward(self, x):
        h = self.l(x)
        return (h[:, None] * h[None]).sum(-1)


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.o = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x):
        h = self.l(x)
        return self.o((h - h.mean(0)).relu())


class ByCount(nn.Module):
    def __init__(self):
        super().__init__()
        self.o = nn.Linear(6, 3)

    def forward(self, x):
        return self.o(x) / float(x.shape[0])


class CountAsTensor(ByCount):
    def forward(self, x):
        return self.o(x) / x.shape[0]


class WholeNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(6, 16), nn.Linear(4, 3)

    def forward(self, x):
        return self.o(self.a(x).view(int(x.shape[0]), 4, 4).mean(2))


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 3)

    def forward(self, x):
        return torch.stack([self.a(x[i]) for i in range(x.shape[0])])


class MixedUp(nn.Module):
    """A view that puts entries of different samples side by side."""

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = self.a(x)
        return self.o(torch.relu(h.reshape(4, -1).t()))


class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 3)

    def forward(self, x):
        return self.a(x) if x.shape[0] > 1 else 2 * self.a(x)


COUPLED = [Similarity, Centred, ByCount, CountAsTensor, WholeNumber, Loop, MixedUp, Single]


@pytest.mark.parametrize("make", mostly_slow(COUPLED, 0, 1, 2, 4, 6))
@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_samples_that_meet_and_networks_that_count_them(make):
    a, b = pair(make)
    mix = fc.Mixture(a, b, fc.Uniform())
    for count in (1, 2, 7, 40):
        x = torch.randn(count, 6, generator=torch.Generator().manual_seed(count))
        outputs = mix.functional_call(a, range(2), x)
        for k in range(2):
            with torch.no_grad():
                expected = functional_call(a, mix[k], (x,))
            torch.testing.assert_close(outputs[k], expected, rtol=1e-4, atol=1e-5)
    x, y = samples(600)
    if make is Similarity:
        y = torch.zeros(600, dtype=torch.int64)
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2)
    for k in range(2):
        with torch.no_grad():
            logits = functional_call(a, mix[k], (x,))
        assert sweep.loss[k] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-4)


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_coupled_samples_that_are_streamed_are_refused():
    a, b = pair(Centred)
    loader = DataLoader(TensorDataset(*samples(300)), batch_size=32)
    with pytest.raises(ValueError, match=r"samples influence one another.*data_budget"):
        fc.evaluate(a, b, fc.Uniform(), data=loader, n=1, data_budget=100)


def test_a_loss_over_the_batch_sees_the_whole_batch():
    a, b = pair(lambda: nn.Linear(6, 4))
    x, y = samples(2000)

    def contrast(z, y):
        return F.cross_entropy(z @ z.T, torch.arange(len(z)), reduction="none")

    with pytest.warns(fc.BackendNotice, match="influence one another in loss"):
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, loss=contrast)
    with torch.no_grad():
        z = functional_call(a, sweep.mixture[1], (x,))
    assert sweep.loss[1] == pytest.approx(contrast(z, y).mean().item(), rel=1e-4)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.o = nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("mask", torch.rand(12))
        self.register_buffer("scale", torch.rand(1), persistent=False)

    def forward(self, x):
        return self.o(F.relu(self.l(x)) * self.mask * self.scale)


class TestBuffers:
    def test_a_choice_is_asked_for_by_name(self):
        a, b = pair(Masked)
        for call in (
            lambda: fc.evaluate(a, b, fc.Uniform(), data=samples(), n=1),
            lambda: fc.Mixture(a, b, fc.Uniform()).functional_call(a, 0, samples()[0]),
            lambda: fc.barrier(a, b, data=samples(), points=3, progress=False),
        ):
            with pytest.raises(ValueError, match=r"buffers 'mask', 'scale' differ.*buffers=\"lerp\""):
                call()

    @pytest.mark.parametrize("backend", ["auto", "torch_reference"])
    def test_choices(self, backend):
        a, b = pair(Masked)
        data = samples()
        run = lambda t, buffers: fc.evaluate(  # noqa: E731
            a, b, fc.Constant(t), data=data, n=1, buffers=buffers, backend=backend
        )
        for t, end in ((0.0, a), (1.0, b)):
            assert run(t, "lerp").loss[0] == pytest.approx(own_loss(end, data), rel=1e-6)
        mixed = copy.deepcopy(b)
        mixed.mask, mixed.scale = a.mask, a.scale
        assert run(1.0, "a").loss[0] == pytest.approx(own_loss(mixed, data), rel=1e-6)
        halfway = copy.deepcopy(a)
        for (_, p), q, r in zip(halfway.named_parameters(), a.parameters(), b.parameters(), strict=True):
            p.data = torch.lerp(q, r, 0.5)
        halfway.mask, halfway.scale = (a.mask + b.mask) / 2, (a.scale + b.scale) / 2
        sweep = run(0.5, "lerp")
        assert sweep.loss[0] == pytest.approx(own_loss(halfway, data), rel=1e-6)
        assert own_loss(sweep.rebuild(0), data) == pytest.approx(sweep.loss[0], rel=1e-6)

    def test_equal_buffers_need_no_choice(self):
        a, b = pair(Masked)
        b.mask, b.scale = a.mask.clone(), a.scale.clone()
        assert fc.evaluate(a, b, fc.Uniform(), data=samples(), n=1).backend == "native"

    def test_whole_numbers_cannot_be_interpolated(self):
        class Ordered(nn.Module):
            def __init__(self):
                super().__init__()
                self.l = nn.Linear(6, 3)
                self.register_buffer("order", torch.randperm(6))

            def forward(self, x):
                return self.l(x[:, self.order])

        a, b = pair(Ordered)
        with pytest.raises(ValueError, match="'order' are no floating-point numbers"):
            fc.evaluate(a, b, fc.Uniform(), data=samples(), n=1, buffers="lerp")

    @pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
    def test_spectral_norm(self):
        a, b = pair(
            lambda: nn.Sequential(
                nn.utils.parametrizations.spectral_norm(nn.Linear(6, 16)), nn.ReLU(), nn.Linear(16, 3)
            )
        )
        data = samples()
        for model in (a, b):
            model.train()(data[0])
            model.eval()
        with pytest.raises(ValueError, match=r"0\.parametrizations\.weight\.0\._u"):
            fc.barrier(a, b, data=data, points=3, progress=False)
        line = fc.barrier(a, b, data=data, points=3, buffers="lerp", progress=False)
        assert line.loss[[0, -1]] == pytest.approx([own_loss(a, data), own_loss(b, data)], rel=1e-5)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.w = nn.Linear(6, 4), nn.Parameter(torch.randn(4, 3, dtype=torch.cfloat))

    def forward(self, x):
        return (torch.relu(self.l(x)).to(torch.cfloat) @ self.w).real


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 3)
        self.times = nn.Parameter(torch.randint(1, 9, ()), requires_grad=False)

    def forward(self, x):
        return self.l(x) * self.times


@pytest.mark.parametrize(("make", "name"), [(Complex, "w"), (Counting, "times")])
@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_parameters_that_are_not_mixed(make, name):
    a, b = pair(make)
    for thetas in ((a, b), (a.state_dict(), b.state_dict())):
        with pytest.raises(ValueError, match=f"'{name}'.*are not mixed"):
            fc.Mixture(*thetas, fc.Uniform(), model=make())
    getattr(b, name).data = getattr(a, name).data.clone()
    data = samples()
    other = make()  # whose own value must not be used
    sweep = fc.evaluate(a.state_dict(), b.state_dict(), fc.Constant(1.0), data=data, n=1, model=other)
    assert sweep.loss[0] == pytest.approx(own_loss(b, data), rel=1e-6)


class Wide(nn.Module):
    """As CLIP keeps some layers in another precision than others, with casts in between."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8).double(), nn.LayerNorm(8).to(torch.bfloat16)
        self.o = nn.Linear(8, 3)

    def forward(self, x):
        h = self.b(self.a(x).double())
        return self.o(self.c(h.to(torch.bfloat16)).float())


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_parameters_of_several_dtypes_keep_them():
    a, b = pair(Wide)
    data = samples()
    for t, end in ((0.0, a), (1.0, b)):
        sweep = fc.evaluate(a, b, fc.Constant(t), data=data, n=1)
        assert sweep.loss[0] == pytest.approx(own_loss(end, data), rel=1e-5)
    mix = fc.Mixture(a, b, fc.Uniform())
    outputs = mix.functional_call(a, range(3), data[0])
    for k in range(3):
        with torch.no_grad():
            expected = functional_call(a, mix[k], (data[0],))
        torch.testing.assert_close(outputs[k], expected, rtol=1e-2, atol=1e-3)  # bfloat16 inside


class TestAccuracy:
    def test_a_callable_loss_has_none_of_its_own(self):
        a, b = pair(lambda: nn.Linear(6, 1))
        x, _ = samples(200)
        y = (x[:, 0] > 0.3).long()
        bce = lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t.float(), reduction="none")  # noqa: E731
        right = lambda o, t: ((o[:, 0] > 0) == t.bool()).float()  # noqa: E731
        run = lambda **more: fc.evaluate(a, b, fc.Constant(0.0), data=(x, y), loss=bce, n=1, **more)  # noqa: E731
        assert np.isnan(run().accuracy).all()
        with torch.no_grad():
            expected = ((a(x)[:, 0] > 0) == y.bool()).float().mean().item()
        assert run(accuracy=right).accuracy[0] == pytest.approx(expected)
        with pytest.raises(ValueError, match="labels run from 0 to 1, but the model has 1 logits"):
            run(accuracy="argmax")

    def test_ignored_labels_and_regression(self):
        c, d = pair(lambda: nn.Linear(6, 3))
        x, y = samples(200)
        y[::2] = -100
        own = lambda o, t: F.cross_entropy(o, t, reduction="none")  # noqa: E731
        sweep = fc.evaluate(c, d, fc.Constant(0.0), data=(x, y), loss=own, n=1)
        assert np.isnan(sweep.accuracy).all()
        with pytest.raises(ValueError, match="labels run from -100 to 2"):
            fc.evaluate(c, d, fc.Constant(0.0), data=(x, y), loss=own, n=1, accuracy="argmax")
        whole = fc.evaluate(c, d, fc.Constant(0.0), data=(x, torch.randint(5, (200, 3))), loss="mse", n=1)
        assert np.isnan(whole.accuracy).all()

    def test_tokens_that_could_be_read_in_two_ways(self):
        a, b = pair(lambda: nn.Linear(6, 5))
        x, y = torch.randn(9, 5, 6), torch.randint(5, (9, 5))
        with pytest.raises(ValueError, match="can be read in two ways"):
            fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=1)

    def test_it_can_be_asked_for_with_a_callable_loss(self):
        a, b = pair(lambda: nn.Linear(6, 3))
        data = samples()
        own = lambda o, t: F.cross_entropy(o, t, reduction="none")  # noqa: E731
        plain = fc.evaluate(a, b, fc.Uniform(), data=data, n=5)
        asked = fc.evaluate(a, b, fc.Uniform(), data=data, n=5, loss=own, accuracy="argmax")
        assert np.array_equal(plain.accuracy, asked.accuracy)

    def test_unknown_kinds(self):
        a, b = pair(lambda: nn.Linear(6, 3))
        with pytest.raises(ValueError, match="accuracy='top5' is neither"):
            fc.evaluate(a, b, fc.Uniform(), data=samples(), n=1, accuracy="top5")


@pytest.mark.parametrize(
    "ask",
    [
        lambda sweep: sweep.fraction_above("accuracy", 90),
        lambda sweep: sweep.fraction_below("accuracy", -1),
        lambda sweep: fc.Above("accuracy", 90),
        lambda sweep: fc.Precision("fraction_above", 90, half_width=0.1, metric="accuracy"),
    ],
)
def test_levels_of_accuracy_are_fractions(ask):
    a, b = pair(lambda: nn.Linear(6, 3))
    sweep = fc.evaluate(a, b, fc.Uniform(), data=samples(), n=5)
    with pytest.raises(ValueError, match=r"of accuracy, which is a fraction: write 0\.9 for 90 %"):
        ask(sweep)


class Settings:
    factor = 1.0


SETTINGS = types.SimpleNamespace(factor=1.0)


class TestStale:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.l, self.scale, self.t = nn.Linear(6, 3), 1.0, torch.ones(3)

        def forward(self, x):
            return self.l(x) * self.t * self.scale

    def test_what_changes_after_a_call_is_seen(self):
        a, b = pair(self.Net)
        x, _ = samples()
        mix = fc.Mixture(a, b, fc.Uniform())

        def check(factor):
            with torch.no_grad():
                expected = functional_call(a.l, {k[2:]: v for k, v in mix[0].items()}, (x,)) * factor
            torch.testing.assert_close(mix.functional_call(a, 0, x)[0], expected, rtol=1e-5, atol=1e-6)

        check(1.0)
        a.scale = 10.0
        check(10.0)
        a.t.copy_(torch.tensor([9.0, 0.0, 1.0]))
        check(10 * a.t)
        a.forward = lambda x: a.l(x) * 3
        check(3.0)

    def test_code_of_a_class_and_globals(self, monkeypatch):
        a, b = pair(self.Net)
        data = samples()
        one = fc.evaluate(a, b, fc.Uniform(), data=data, n=1)
        monkeypatch.setattr(self.Net, "forward", lambda self, x: self.l(x) * -1)
        other = fc.evaluate(a, b, fc.Uniform(), data=data, n=1)
        with torch.no_grad():
            logits = functional_call(a, one.mixture[0], (data[0],))
        assert other.loss[0] == pytest.approx(F.cross_entropy(logits, data[1]).item(), rel=1e-5)
        assert one.loss[0] != other.loss[0]

    @pytest.mark.parametrize(
        "change", ["a tuple of the class", "a list of the class", "an object", "a class"]
    )
    def test_what_code_reaches_without_holding_it(self, change, monkeypatch):
        def network(factor):
            class Net(nn.Module):
                scales = (factor, 1.0)
                kept: ClassVar[list[float]] = [factor]

                def __init__(self):
                    super().__init__()
                    self.l = nn.Linear(6, 3)

                def forward(self, x):
                    return self.l(x) * self.scales[0] * self.kept[0] * SETTINGS.factor * Settings.factor

            return Net

        make = network(1.0)
        a, b = pair(make)
        x, _ = samples()
        mix = fc.Mixture(a, b, fc.Uniform())
        with torch.no_grad():
            plain = functional_call(a.l, {k[2:]: v for k, v in mix[0].items()}, (x,))
        torch.testing.assert_close(mix.functional_call(a, 0, x)[0], plain, rtol=1e-5, atol=1e-6)
        if change == "a tuple of the class":
            other = network(3.0)().eval()
            other.load_state_dict(a.state_dict())
            other.kept[0] = 1.0
            a = other
        elif change == "a list of the class":
            make.kept[0] = 3.0
        else:
            monkeypatch.setattr(SETTINGS if change == "an object" else Settings, "factor", 3.0)
        torch.testing.assert_close(mix.functional_call(a, 0, x)[0], 3 * plain, rtol=1e-5, atol=1e-6)

    def test_similarity_of_layers(self):
        a, b = pair(self.Net)
        x, _ = samples()
        look = lambda: fc.similarity.layerwise(a, b, x, progress=False).values[-1, -1]  # noqa: E731
        before = look()
        a.t.copy_(torch.tensor([9.0, 0.0, 0.0]))
        with torch.no_grad():
            expected = fc.similarity.linear_cka(a(x), b(x))
        assert look() == pytest.approx(expected, rel=1e-5)
        assert before != pytest.approx(expected, rel=1e-3)

    def test_the_mixture_keeps_the_networks_as_they_were(self):
        a, b = pair(lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))
        mix = fc.Mixture(a, b, fc.Constant(0.0))
        x, _ = samples()
        with torch.no_grad():
            expected = a(x)
        a.train()(x)
        a.eval()
        a[0].weight.data.zero_()
        torch.testing.assert_close(mix.functional_call(a, 0, x, batch_norm="a")[0], expected)

    def test_networks_that_differ_outside_their_weights_are_refused(self):
        a, b = pair(self.Net)
        b.scale = 3.0
        with pytest.raises(
            ValueError, match="theta_b computes something else than Net does with its weights"
        ):
            fc.evaluate(a, b, fc.Uniform(), data=samples(), n=1)
        other = pair(lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)))[0]
        tanh = pair(lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)))[1]
        with pytest.raises(ValueError, match="theta_b computes something else"):
            fc.evaluate(other, tanh, fc.Uniform(), data=samples(), n=1)


class Twice(nn.Module):
    def __init__(self, norm=nn.BatchNorm1d):
        super().__init__()
        self.l, self.n, self.o, self.i = nn.Linear(6, 12), norm(12), nn.Linear(12, 3), nn.Linear(6, 6)

    def forward(self, x):
        return self.o(torch.relu(self.n(self.l(x))) + torch.relu(self.n(self.l(self.i(3 * x)))))


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
@pytest.mark.parametrize("batches", [1, 3])
def test_recomputed_statistics_of_a_norm_that_is_called_twice(batches):
    a, b = pair(Twice)
    data = samples()
    calibration = torch.randn(96, 6, generator=torch.Generator().manual_seed(5)).split(96 // batches)
    loader = DataLoader(list(calibration), batch_size=None)
    sweep = fc.evaluate(a, b, fc.Uniform(), data=data, n=2, batch_norm="recompute", calibration=loader)
    expected = Twice()
    expected.load_state_dict(sweep.mixture[1])
    torch.optim.swa_utils.update_bn(calibration, expected)
    assert sweep.loss[1] == pytest.approx(own_loss(expected.eval(), data), rel=1e-4)
    assert own_loss(sweep.rebuild(1).eval(), data) == pytest.approx(sweep.loss[1], rel=1e-5)


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_recomputed_statistics_of_a_tracked_instance_norm():
    def make():
        return nn.Sequential(
            nn.Conv1d(2, 4, 3),
            nn.InstanceNorm1d(4, track_running_stats=True),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, 3),
        )

    a, b = pair(make)
    x, y = torch.randn(20, 2, 8), torch.randint(3, (20,))
    calibration = torch.randn(30, 2, 8)
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, batch_norm="recompute", calibration=calibration)
    expected = make()
    expected.load_state_dict(sweep.mixture[1])
    expected[1].momentum = 1.0
    with torch.no_grad():
        expected.train()(calibration)
    assert sweep.loss[1] == pytest.approx(own_loss(expected.eval(), (x, y)), rel=1e-4)


def test_batch_norm_over_tokens_is_not_folded_along_features():
    a, b = pair(lambda: nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(7), nn.Flatten(), nn.Linear(112, 3)))
    for m in (a, b):
        m[1].running_mean.normal_()
        m[1].running_var.uniform_(0.5, 2)
    x, y = torch.randn(6, 7, 5), torch.randint(3, (6,))
    for backend in ("auto", "torch_reference"):
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, batch_norm="a", backend=backend)
        for k in range(2):
            with torch.no_grad():
                logits = functional_call(a, sweep.mixture[k], (x,))
            assert sweep.loss[k] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


class TestOverflow:
    def test_weights_beyond_float32(self):
        a, b = pair(lambda: nn.Linear(6, 3).double())
        a.weight.data[0, 0] = 1e300
        with pytest.raises(ValueError, match=r"'weight' of theta_b.*exceeds float32"):
            fc.Mixture(a, b, fc.Uniform())
        c, d = pair(lambda: nn.Linear(6, 3))
        c.weight.data[0, 0], d.weight.data[0, 0] = 3e38, -3e38
        with pytest.raises(ValueError, match="exceeds float32"):
            fc.Mixture(c, d, fc.Uniform())

    def test_weights_and_inputs_beyond_float16(self):
        a, b = pair(lambda: nn.Linear(6, 3))
        x, y = samples()
        large = x.index_fill(1, torch.tensor([0]), 1e5)
        with pytest.raises(ValueError, match=r"x reaches 1e\+05, which exceeds float16"):
            fc.evaluate(
                a, b, fc.Uniform(), data=(large, y), n=1, dtype=torch.float16, backend="torch_reference"
            )
        b.weight.data[0, 0] = 1e5
        with pytest.raises(ValueError, match=r"theta_b: 'weight' reaches 1e\+05, beyond float16"):
            fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=1, dtype=torch.float16)

    def test_activations_beyond_float16_are_said(self):
        a, b = pair(lambda: nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3)))
        for model in (a, b):
            model[0].weight.data *= 5e4
            model.insert(1, Overflowing())
        with pytest.warns(fc.BackendNotice) as notices:
            fc.evaluate(a, b, fc.Uniform(), data=samples(), n=1, dtype=torch.float16)
        assert any(
            "in float16 Sequential returns something else than in float32" in str(n.message) for n in notices
        )

    def test_dtypes_without_kernels_are_said(self):
        a, b = pair(lambda: nn.Linear(6, 3))
        with pytest.warns(fc.BackendNotice, match="kernels cannot run the dtype float64"):
            fc.evaluate(a, b, fc.Uniform(), data=samples(), n=1, dtype=torch.float64)


class Overflowing(nn.Module):
    def forward(self, x):
        return (x * x) / (1 + x * x)


def test_a_backend_that_is_named_and_cannot_run_is_an_error():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(6, 3)

        def forward(self, x):
            return self.l(x) if self.l(x).sum().item() < 1e9 else -self.l(x)

    a, b = pair(Odd)
    with pytest.warns(fc.BackendNotice, match="combination by combination"):  # noqa: SIM117
        with pytest.raises(ValueError, match="backend='native' cannot run what torch"):
            fc.evaluate(a, b, fc.Uniform(), data=samples(), n=1, backend="native")
    with pytest.warns(fc.BackendNotice, match="cannot capture"):
        assert fc.evaluate(a, b, fc.Uniform(), data=samples(), n=1).backend == "torch_reference"


class TestData:
    def pair(self):
        return pair(lambda: nn.Linear(6, 3))

    def test_streamed_data_that_change_are_recognised(self):
        class Noisy(Dataset):
            def __len__(self):
                return 40

            def __getitem__(self, i):
                return torch.randn(6), i % 3

        a, b = self.pair()
        with pytest.raises(ValueError, match="differ from pass to pass"):
            fc.evaluate(a, b, fc.Uniform(), data=Noisy(), n=1, data_budget=100)
        held = fc.evaluate(a, b, fc.Uniform(), data=Noisy(), n=1)  # one pass is held, and all see it
        assert held.samples == 40

    def test_data_that_change_later_are_recognised(self):
        class Drifting(Dataset):
            calls = 0

            def __len__(self):
                return 40

            def __getitem__(self, i):
                Drifting.calls += 1
                return torch.full((6,), float(i)) + (Drifting.calls > 200 and i == 39), i % 3

        a, b = self.pair()
        with pytest.raises(RuntimeError, match="differ from pass to pass"):
            fc.evaluate(a, b, fc.Uniform(), data=Drifting(), n=20000, data_budget=100)

    def test_random_samplers_and_one_shot_loaders(self):
        a, b = self.pair()
        x, y = samples()
        sampler = WeightedRandomSampler(torch.ones(50), 50)
        loader = DataLoader(TensorDataset(x, y), sampler=sampler)
        with pytest.raises(ValueError, match="another order each time"):
            fc.evaluate(a, b, fc.Uniform(), data=loader, n=1, data_budget=100)

        class Once(torch.utils.data.IterableDataset):
            def __init__(self):
                self.left = iter(zip(x, y, strict=True))

            def __iter__(self):
                return self.left

        with pytest.raises(ValueError, match="can be read only once"):
            fc.evaluate(a, b, fc.Uniform(), data=DataLoader(Once(), batch_size=10), n=1, data_budget=100)
        one, two = (
            fc.evaluate(a, b, fc.Uniform(), data=d, n=2) for d in (DataLoader(Once(), batch_size=10), (x, y))
        )
        np.testing.assert_allclose(one.loss, two.loss, rtol=1e-6)

    def test_lists_and_arrays_in_any_order(self):
        a, b = self.pair()
        x, y = samples()
        plain = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2)
        backwards = np.ascontiguousarray(x.numpy()[::-1])[::-1]
        for data in ((x.tolist(), y.tolist()), (backwards, y.numpy()), (list(x), list(y))):
            assert np.array_equal(fc.evaluate(a, b, fc.Uniform(), data=data, n=2).loss, plain.loss)

    def test_bytes_as_images(self):
        a, b = pair(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)))
        x, y = torch.randint(0, 255, (4, 3, 8, 8), dtype=torch.uint8), torch.randint(3, (4,))
        with pytest.raises(ValueError, match=r"uint8.*x\.float\(\) / 255"):
            fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=1)

    def test_logits_are_no_log_probabilities(self):
        a, b = self.pair()
        with pytest.raises(ValueError, match="loss='nll' needs log-probabilities"):
            fc.evaluate(a, b, fc.Uniform(), data=samples(), n=1, loss="nll")


@dataclasses.dataclass
class Out:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


class Returning(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.l, self.kind = nn.Linear(6, 3), kind

    def forward(self, x):
        h = self.l(x)
        return {
            "dict": {"loss": None, "logits": h},
            "dataclass": Out(h),
            "tuple": (h, None, 3),
            "nested": {"a": [h, (h * 2,)], "n": 1},
        }[self.kind]


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
@pytest.mark.parametrize(
    ("kind", "pick"),
    [
        ("dict", lambda o: o["logits"]),
        ("dataclass", lambda o: o.logits),
        ("tuple", lambda o: o[0]),
        ("nested", lambda o: o["a"][0]),
    ],
)
def test_results_of_any_form(kind, pick):
    a, b = pair(lambda: Returning(kind))
    x, y = samples()
    loss = lambda o, t: F.cross_entropy(pick(o), t, reduction="none")  # noqa: E731
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=3, loss=loss)
    outputs = fc.Mixture(a, b, fc.Uniform()).functional_call(a, range(3), x)
    for k in range(3):
        with torch.no_grad():
            expected = pick(functional_call(a, sweep.mixture[k], (x,)))
        assert sweep.loss[k] == pytest.approx(F.cross_entropy(expected, y).item(), rel=1e-5)
        torch.testing.assert_close(pick(outputs)[k], expected, rtol=1e-5, atol=1e-6)
    if kind == "nested":
        with pytest.raises(TypeError, match="several of which may be meant"):
            fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=1)
    else:
        obvious = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=3)
        np.testing.assert_allclose(obvious.loss, sweep.loss, rtol=1e-5)


def test_masked_scores_are_left_out_of_layers():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.o = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            h = self.q(x)
            mask = ~torch.ones(5, 5).tril().bool()
            a = (h @ h.transpose(1, 2)).masked_fill(mask, float("-inf")).softmax(-1)
            return self.o((a @ h).mean(1))

    a, b = pair(Attending)
    found = fc.similarity.layerwise(a, b, torch.randn(8, 5, 4), progress=False)
    assert np.isfinite(found.values).all()


class Writing(nn.Module):
    """Writes to its input, and cannot be batched."""

    def __init__(self):
        super().__init__()
        self.r, self.o = nn.LSTM(5, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        x += 2.0
        return self.o(self.r(x)[0][:, 0])


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_every_combination_gets_inputs_that_no_other_has_written_to():
    a, b = pair(Writing)
    x, y = torch.randn(9, 6, 5), torch.randint(3, (9,))
    mix = fc.Mixture(a, b, fc.Uniform())
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(x.clone(), y), n=4)
    found = mix.functional_call(a, range(4), x.clone())
    for i in range(4):
        with torch.no_grad():
            logits = functional_call(a, mix[i], (x.clone(),))
        torch.testing.assert_close(found[i], logits, rtol=1e-5, atol=1e-6)
        assert sweep.loss[i] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


def test_dropout_in_place_keeps_the_engine():
    a, b = pair(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Dropout(0.2, inplace=True), nn.Linear(8, 3),
        )
    )  # fmt: skip
    x, y = torch.randn(8, 3, 8, 8), torch.randint(3, (8,))
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, batch_norm="a")
    assert sweep.backend == "native"
    with torch.no_grad():
        logits = functional_call(a, sweep.mixture[1], (x,))
    assert sweep.loss[1] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


class TestEndpoints:
    def make(self):
        return pair(lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))

    @pytest.mark.parametrize("backend", ["auto", "torch_reference"])
    def test_the_networks_own_loss_and_accuracy(self, backend, tmp_path):
        a, b = self.make()
        data = samples()
        b[1].running_mean.normal_()
        given = {"data": data, "n": 3, "batch_norm": "lerp", "backend": backend}
        sweep = fc.evaluate(a, b, fc.Uniform(), **given)
        for found, network, label in zip(sweep.endpoints, (a, b), ("theta_a", "theta_b"), strict=True):
            with torch.no_grad():
                right = (network(data[0]).argmax(1) == data[1]).float().mean().item()
            assert found.label == label
            assert found.loss == pytest.approx(own_loss(network, data), rel=1e-5)
            assert found.accuracy == pytest.approx(right)
        assert sweep.summary()["theta_b_loss"] == sweep.endpoints[1].loss
        assert "theta a accuracy" in str(sweep)
        fc.evaluate(a, b, fc.Uniform(), out=tmp_path / "run", **given)
        assert fc.open_sweep(tmp_path / "run").endpoints == sweep.endpoints

    def test_recomputed_statistics_are_the_networks_own(self):
        a, b = self.make()
        data = samples()
        sweep = fc.evaluate(a, b, fc.Uniform(), data=data, n=2, batch_norm="recompute", calibration=data[0])
        torch.optim.swa_utils.update_bn([data[0]], b)
        assert sweep.endpoints[1].loss == pytest.approx(own_loss(b.eval(), data), rel=1e-4)

    def test_without_classes_there_is_no_accuracy(self):
        a, b = self.make()
        x, _ = samples()
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, torch.randn(50, 3)), n=2, loss="mse", batch_norm="a")
        assert np.isnan(sweep.endpoints[0].accuracy)
        assert "theta_a_accuracy" not in sweep.summary()


def test_sweeps_in_memory_are_copied_and_pickled():
    a, b = pair(lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    data = samples()
    sweep = fc.evaluate(a, b, fc.Uniform(), data=data, n=3, batch_norm="recompute", calibration=data[0])
    for other in (copy.deepcopy(sweep), pickle.loads(pickle.dumps(sweep))):
        assert np.array_equal(other.loss, sweep.loss)
        assert other.endpoints == sweep.endpoints
        assert own_loss(other.rebuild(2), data) == pytest.approx(sweep.loss[2], rel=1e-4)
        assert torch.equal(other.mixture[1]["0.weight"], sweep.mixture[1]["0.weight"])


def test_the_class_of_a_sampler_is_no_sampler():
    a, b = pair(lambda: nn.Linear(6, 3))
    with pytest.raises(TypeError, match=r"sampler is the class Uniform; pass an instance"):
        fc.Mixture(a, b, fc.Uniform)


class Renormed(nn.Module):
    """An embedding that writes to its weights when it is read."""

    def __init__(self):
        super().__init__()
        self.e, self.o = nn.Embedding(19, 8, max_norm=1.0), nn.Linear(8, 3)

    def forward(self, ids):
        return self.o(self.e(ids).mean(1))


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_modules_that_write_to_their_parameters():
    data = torch.randint(19, (40, 5)), torch.randint(3, (40,))
    a, b = pair(Renormed)
    before = state_of(a)
    sweep = fc.evaluate(a, b, fc.Uniform(), data=data, n=3)
    unchanged(before, state_of(a))
    fresh = fc.Mixture(a, b, fc.Uniform())
    for k in range(3):
        assert torch.equal(sweep.mixture[k]["e.weight"], fresh[k]["e.weight"])
        network = Renormed()
        network.load_state_dict(fresh[k])
        assert sweep.loss[k] == pytest.approx(own_loss(network, data), rel=1e-5)


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_views_that_only_torchs_own_layout_allows():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.o = nn.TransformerEncoderLayer(4, 1, 8, 0.0, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            return self.o(self.e(x.mul(0.5).mul_(0.5))[:, -1])

    a, b = pair(Scaled)
    data = torch.randn(30, 5, 4), torch.randint(3, (30,))
    sweep = fc.evaluate(a, b, fc.Uniform(), data=data, n=2)
    with torch.no_grad():
        logits = functional_call(a, sweep.mixture[1], (data[0],))
    assert sweep.loss[1] == pytest.approx(F.cross_entropy(logits, data[1]).item(), rel=1e-5)


class Layouts(nn.Module):
    """Computes something else where values lie otherwise in memory, as they do in a batch of networks."""

    def __init__(self):
        super().__init__()
        self.n, self.l = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.n(x)
        return self.l(h if h.is_contiguous() else h * 2)


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_modules_that_ask_how_values_lie_in_memory():
    a, b = pair(Layouts)
    data = samples()
    for choice, backend in (("a", "auto"), ("a", "torch_reference"), ("recompute", "torch_reference")):
        sweep = fc.evaluate(
            a, b, fc.Uniform(), data=data, n=3, batch_norm=choice, calibration=data[0], backend=backend
        )
        network = sweep.rebuild(2)
        assert sweep.loss[2] == pytest.approx(own_loss(network, data), rel=1e-5)
    outputs = fc.Mixture(a, b, fc.Uniform()).functional_call(a, range(3), data[0], batch_norm="a")
    with torch.no_grad():
        expected = functional_call(a, sweep.mixture[2], (data[0],))
    torch.testing.assert_close(outputs[2], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")
def test_values_without_entries():
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.none, self.back = nn.Linear(6, 3), nn.Linear(6, 0), nn.Linear(0, 3)

        def forward(self, x):
            return self.a(x) + self.back(self.none(x))

    with pytest.warns(UserWarning, match="zero-element"):
        a, b = pair(Empty)
    data = samples()
    sweep = fc.evaluate(a, b, fc.Uniform(), data=data, n=2)
    with torch.no_grad():
        logits = functional_call(a, sweep.mixture[1], (data[0],))
    assert sweep.loss[1] == pytest.approx(F.cross_entropy(logits, data[1]).item(), rel=1e-5)


REFUSED = {
    "best of a negative number": (lambda a, b, x, y: sweep_of(a, b, x, y).best(-1), ValueError, "k=-1"),
    "one network for several": (lambda a, b, x, y: fc.rebasin.align_all(a), TypeError, "pass a list of"),
    "one method for several": (
        lambda a, b, x, y: fc.stitching.match_all(
            [(fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0"))], x, "procrustes"
        ),
        TypeError,
        "pass a list of methods",
    ),
    "a network for an alignment": (
        lambda a, b, x, y: fc.rebasin.perturb(a, fraction=0.5, kind="swap"),
        TypeError,
        "alignment is a Sequential",
    ),
    "a negative penalty": (
        lambda a, b, x, y: fc.stitching.lasso_path(fc.similarity.Moments.of(x, x), [-1.0]),
        ValueError,
        "must not be negative",
    ),
    "no features": (lambda a, b, x, y: fc.similarity.linear_cka_matrix([]), ValueError, "features is empty"),
    "values in a table": (
        lambda a, b, x, y: fc.compare(np.ones((3, 2)), np.ones(5)), ValueError, "of shape",
    ),
}  # fmt: skip


def sweep_of(a, b, x, y):
    return fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=3)


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_one_clear_error(what):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call(*pair(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))), *samples())


@pytest.mark.parametrize("seed", range(5))
def test_no_penalty_is_least_squares(seed):
    torch.manual_seed(seed)
    x = torch.randn(100, 3)
    (layer,) = fc.stitching.lasso_path(fc.similarity.Moments.of(x, 2 * x), [0.0])
    torch.testing.assert_close(layer.matrix(), 2 * torch.eye(3), rtol=0, atol=1e-5)
