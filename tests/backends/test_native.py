"""The compiled engine: the same stream and weights bit for bit, and torch's results within rounding."""

import functools
import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

import fastcomb as fc
from fastcomb import functional
from fastcomb.kernels import native
from fastcomb.mixing import ops
from fastcomb.models import MLP, ResNet20, Tiny10
from fastcomb.sampling.rules import encoded
from tests.quick import levels, levels_and_dtypes, mostly_slow

LEVELS = native.extension().levels()
SAMPLERS = [
    fc.Uniform(),
    fc.Uniform(-0.25, 1.25),
    fc.Uniform(-1, 2, bits=32),
    fc.Bernoulli(0.3),
    fc.Bernoulli(0.7, bits=32),
    fc.Beta(0.5, 2),
    fc.Normal(bits=32),
    fc.Constant(1.0),
]
SIZES = [0, 1, 3, 63, 100, 500]


@pytest.fixture(params=levels())
def level(request, monkeypatch) -> str:
    monkeypatch.setenv(native.LEVEL_VARIABLE, request.param)
    assert native.cpu_capability() == request.param
    return request.param


def pair_of(make, seed=0):
    torch.manual_seed(seed)
    return make().eval(), make().eval()


class TestStream:
    @pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
    def test_mixing_equals_the_reference_bit_for_bit(self, level, sampler):
        """Sizes that end in the middle of a block or vector, every granularity and dtype."""
        table, rule = sampler.table()[None], encoded([sampler.rule()])
        ends = int(((table == 0) | (table == 1)).any())
        index = torch.tensor([0, 7, -1])
        draw = [0xDEADBEEF, 0xFFFFFFFF, sampler.bits, ends]
        for size in SIZES:
            torch.manual_seed(size)
            a, b = torch.randn(size, 3), torch.randn(1, size, 3)
            for unit in ([1, 3 * size, 0], [2, size, 1], [3, 1, 0]):
                for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
                    fast = ops.mix(index, a, b, table, rule, draw, unit, dtype)
                    slow = ops.reference(index, a, b, table, draw, unit, dtype)
                    assert torch.equal(fast, slow), (size, unit, dtype)

    @pytest.mark.parametrize("sampler", mostly_slow(SAMPLERS, 1, 2, 4), ids=str)
    @pytest.mark.parametrize(("level", "dtype"), levels_and_dtypes(), indirect=["level"], ids=str)
    def test_weights_inside_the_engine_are_those_of_the_mixture(self, level, sampler, dtype):
        """A unit vector through a layer yields one row of its weight, exactly: all other products are 0."""
        for inner, outputs in ((1, 1), (3, 63), (63, 3), (8, 16), (100, 33), (24, 500)):
            for per in ("element", "neuron", "layer"):
                law = type(sampler)(**{**vars(sampler), "per": per})
                a, b = pair_of(functools.partial(nn.Linear, inner, outputs, bias=False, dtype=dtype))
                mix = fc.Mixture(a, b, law, seed=3)
                rows = mix.functional_call(a, [0, 2**40 + 1], torch.eye(inner, dtype=dtype))
                for k, i in enumerate((0, 2**40 + 1)):
                    assert torch.equal(rows[k].T, mix[i]["weight"]), (inner, outputs, per)

    @pytest.mark.parametrize(("level", "dtype"), levels_and_dtypes(), indirect=["level"], ids=str)
    @pytest.mark.parametrize("groups", mostly_slow([1, 2, 4], 0, 2))
    @pytest.mark.parametrize("bits", [16, 32])
    def test_kernels_inside_the_engine_are_those_of_the_mixture(self, level, dtype, groups, bits):
        for channels, outputs, kernel in ((4, 4, (3, 3)), (8, 36, (1, 1)), (12, 8, (5, 2)), (16, 20, (3, 1))):
            if (channels // groups) % 2 and dtype == torch.bfloat16 and groups != channels:
                continue  # runs on the reference backend
            make = functools.partial(
                nn.Conv2d, channels, outputs, kernel, groups=groups, bias=False, dtype=dtype
            )
            a, b = pair_of(make)
            mix = fc.Mixture(a, b, fc.Uniform(bits=bits))
            own = channels // groups
            found = []
            for group in range(groups):
                x = torch.zeros(own * kernel[0] * kernel[1], channels, *kernel, dtype=dtype)
                x[:, group * own : (group + 1) * own] = torch.eye(len(x)).view(len(x), own, *kernel)
                rows = mix.functional_call(a, 5, x)[0, :, :, 0, 0]
                part = outputs // groups
                found.append(rows[:, group * part : (group + 1) * part].T.reshape(part, own, *kernel))
            assert torch.equal(torch.cat(found), mix[5]["weight"])


class Residual(nn.Module):
    """Additions before and after a ReLU, a concatenation, and a value read three times."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.last = nn.Conv2d(10, 4, 3, stride=2, padding=2)

    def forward(self, x):
        x = self.one(x)
        y = torch.relu(self.norm(self.two(x)) + x)
        return self.last(torch.cat([y, torch.tanh(x) * y - x / 2], 1)).mean((2, 3))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.layer = nn.TransformerEncoderLayer(6, 2, 9, 0.0, F.gelu, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return F.log_softmax(self.head(self.layer(self.table(x)).amax(1)), -1)


class Positions(nn.Module):
    """Two embeddings, the second of fewer entries than there are tokens."""

    def __init__(self):
        super().__init__()
        self.table, self.places = nn.Embedding(11, 6), nn.Embedding(8, 6)
        self.register_buffer("numbers", torch.arange(8)[None])

    def forward(self, x):
        return (self.table(x) + self.places(self.numbers[:, : x.shape[1]])).flatten(1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(5, 21)

    def forward(self, x):
        q, k, v = self.project(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).softmax(1).transpose(1, 2).flatten(1)


def statistics(module):
    """Running statistics that are not the trivial ones."""
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    return module


def conv(*layers):
    return lambda: statistics(nn.Sequential(*(layer() for layer in layers)))


IMAGES, ROWS = (3, 3, 9, 7), (5, 13)
MODULES = {
    "linear": (lambda: nn.Linear(13, 63), ROWS),
    "linear of tokens": (lambda: nn.Linear(13, 7, bias=False), (3, 4, 13)),
    "mlp": (lambda: MLP((13, 100, 1, 500, 3)), ROWS),
    "batch norm of features": (conv(lambda: nn.Linear(13, 6), lambda: nn.BatchNorm1d(6), nn.ReLU), ROWS),
    "layer norm": (conv(lambda: nn.LayerNorm(13), lambda: nn.Linear(13, 4)), ROWS),
    "conv": (lambda: nn.Conv2d(3, 17, 3), IMAGES),
    "conv, stride and padding": (lambda: nn.Conv2d(3, 5, (3, 2), stride=(2, 3), padding=(2, 1)), IMAGES),
    "conv, dilation": (lambda: nn.Conv2d(3, 33, 3, dilation=(1, 2), padding=2, bias=False), IMAGES),
    "conv, same": (lambda: nn.Conv2d(3, 5, (3, 5), dilation=(2, 1), padding="same"), IMAGES),
    "conv, groups": (
        conv(lambda: nn.Conv2d(3, 8, 1), lambda: nn.Conv2d(8, 12, 3, padding=1, groups=2)), IMAGES),
    "conv, depthwise": (
        conv(lambda: nn.Conv2d(3, 3, 3, 2, 1, groups=3), lambda: nn.BatchNorm2d(3), nn.ReLU), IMAGES),
    "conv, deep": (
        conv(lambda: nn.Conv2d(3, 16, 3, padding=1), lambda: nn.BatchNorm2d(16), nn.ReLU,
             lambda: nn.Conv2d(16, 32, 3, padding=1), lambda: nn.MaxPool2d(2), nn.ReLU,
             lambda: nn.Conv2d(32, 7, 3, padding=1), nn.Flatten, lambda: nn.Linear(84, 10)), IMAGES),
    "max pooling": (conv(lambda: nn.Conv2d(3, 19, 1), lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True)), IMAGES),
    "dilated pooling": (conv(lambda: nn.Conv2d(3, 2, 1), lambda: nn.MaxPool2d(2, 1, dilation=2)), IMAGES),
    "average pooling": (conv(lambda: nn.Conv2d(3, 2, 1), lambda: nn.AvgPool2d(3, 2, 1, True)), IMAGES),
    "average pooling, own": (
        conv(lambda: nn.Conv2d(3, 2, 1), lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)), IMAGES),
    "adaptive pooling": (conv(lambda: nn.Conv2d(3, 2, 1), lambda: nn.AdaptiveAvgPool2d((2, 3))), IMAGES),
    "group norm": (conv(lambda: nn.Conv2d(3, 6, 1), lambda: nn.GroupNorm(3, 6)), IMAGES),
    "norm first": (conv(lambda: nn.BatchNorm2d(3), nn.ReLU, lambda: nn.Conv2d(3, 4, 3, padding=1)), IMAGES),
    "residual": (lambda: statistics(Residual()), IMAGES),
    "tokens": (Tokens, (4, 7)),
    "positions": (Positions, (4, 7)),
    "attention": (Attention, (3, 4, 5)),
    "mish": (conv(lambda: nn.Linear(13, 63), nn.Mish, lambda: nn.Linear(63, 3)), ROWS),
    "selu": (conv(lambda: nn.Linear(13, 63), nn.SELU, lambda: nn.Linear(63, 3)), ROWS),
}  # fmt: skip
NAN_STAYS = [
    nn.ReLU(), nn.LeakyReLU(0.2), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Tanh(), nn.Sigmoid(), nn.ELU(0.7),
    nn.Softplus(), nn.Mish(), nn.SELU(),
]  # fmt: skip
ACTIVATIONS = [
    *NAN_STAYS, nn.Hardtanh(-0.5, 2), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.Softmax(1),
    nn.LogSoftmax(-1),
]  # fmt: skip


def check(make, x, dtype=torch.float32, sampler=None, **arguments):
    """Outputs of two combinations against the module in float64 on the same weights."""
    a, b = pair_of(lambda: make().to(dtype))
    mix = fc.Mixture(a, b, sampler or fc.Uniform())
    x = x.to(dtype) if x.is_floating_point() else x
    found = mix.functional_call(a, range(2), x, **arguments)
    assert mix in functional._ENGINES  # it did run on the compiled engine
    assert found.dtype == dtype
    a.double()
    for k in range(2):
        state = {n: t.double() if t.is_floating_point() else t for n, t in mix[k].items()}
        wanted = functional_call(a, state, (x.double() if x.is_floating_point() else x,))
        # float32: sums of some hundred products, each rounded to 2^-24. bfloat16: every stored value of a
        # few layers rounded to 2^-9.
        close = {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
        scale = wanted.abs().max().item()
        torch.testing.assert_close(found[k].double(), wanted, rtol=close, atol=close * scale)


class TestOperations:
    @pytest.mark.parametrize(("level", "dtype"), levels_and_dtypes(), indirect=["level"], ids=str)
    @pytest.mark.parametrize("name", MODULES)
    def test_modules(self, level, name, dtype):
        make, shape = MODULES[name]
        torch.manual_seed(1)
        x = torch.randint(0, 11, shape) if name in ("tokens", "positions") else torch.randn(shape)
        normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in make().modules())
        check(make, x, dtype, **({"batch_norm": "a"} if normed else {}))

    @pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
    def test_activations(self, level, activation):
        x = torch.cat([torch.linspace(-12, 12, 481), torch.tensor([-90.0, 90.0, 0.0])])[:, None].repeat(1, 3)
        check(lambda: nn.Sequential(nn.Linear(3, 5, bias=False), activation), x)

    @pytest.mark.parametrize("activation", NAN_STAYS, ids=str)
    def test_not_a_number_stays(self, level, activation):
        a, b = pair_of(lambda: nn.Sequential(nn.Linear(3, 5), activation, nn.Linear(5, 2)))
        x = torch.randn(6, 3)
        x[2] = torch.nan
        outputs = fc.Mixture(a, b, fc.Uniform()).functional_call(a, 0, x)[0]
        assert outputs[2].isnan().all()
        assert not outputs[[0, 1, 3, 4, 5]].isnan().any()

    def test_unusual_numbers_of_samples(self, level):
        for samples in SIZES[1:]:
            check(lambda: MLP((7, 63, 3)), torch.randn(samples, 7))


@st.composite
def networks(draw):
    """A random network, its input, and a sampler."""
    images = draw(st.booleans())
    size = st.integers(1, 40)
    layers, x = [], None
    if images:
        channels, side = draw(st.integers(1, 6)), draw(st.integers(4, 12))
        x = (draw(st.integers(1, 9)), channels, side, side)
        for _ in range(draw(st.integers(1, 3))):
            outputs, kernel = draw(size), draw(st.integers(1, 3))
            layers.append(
                (nn.Conv2d, channels, outputs, kernel, draw(st.integers(1, 2)), draw(st.integers(1, 2)))
            )
            channels = outputs
            layers.append(
                draw(st.sampled_from([(nn.BatchNorm2d, channels), (nn.GroupNorm, 1, channels), None]))
            )
            layers.append(draw(st.sampled_from([(nn.ReLU,), (nn.GELU,), (nn.MaxPool2d, 2, 1), None])))
        layers += [(nn.AdaptiveAvgPool2d, draw(st.integers(1, 2))), (nn.Flatten,)]
    else:
        x = (draw(st.integers(1, 70)), draw(size))
        width = x[1]
        for _ in range(draw(st.integers(1, 4))):
            outputs = draw(size)
            layers += [(nn.Linear, width, outputs, draw(st.booleans()))]
            width = outputs
            layers.append(draw(st.sampled_from([(nn.BatchNorm1d, width), (nn.LayerNorm, width), None])))
            layers.append(draw(st.sampled_from([(nn.ReLU,), (nn.Tanh,), (nn.SiLU,), None])))
    layers = [layer for layer in layers if layer]
    per = draw(st.sampled_from(["element", "neuron", "layer", "model"]))
    bits = draw(st.sampled_from([16, 32]))
    law = draw(
        st.sampled_from([fc.Uniform, lambda **k: fc.Beta(2, 3, **k), lambda **k: fc.Bernoulli(0.4, **k)])
    )
    return (
        (lambda: statistics(nn.Sequential(*(kind(*rest) for kind, *rest in layers)))),
        x,
        law(per=per, bits=bits),
    )


any_network = given(networks(), st.sampled_from(LEVELS), st.sampled_from(["a", "recompute"]))


@pytest.mark.slow
@any_network
@settings(max_examples=15)
def test_random_networks_agree_with_the_reference_backend(network, level, batch_norm):
    agrees(network, level, batch_norm)


@pytest.mark.slow
@any_network
@settings(max_examples=100)
def test_more_random_networks_agree_with_the_reference_backend(network, level, batch_norm):
    agrees(network, level, batch_norm)


def agrees(network, level, batch_norm):
    make, shape, sampler = network
    a, b = pair_of(make)
    torch.manual_seed(1)
    x = torch.randn(shape)
    calibration = torch.randn(11, *shape[1:])
    y = torch.zeros(len(x), dtype=torch.int64)
    arguments = {"data": (x, y), "n": 3, "batch_norm": batch_norm, "calibration": calibration}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.LEVEL_VARIABLE, level)
        fast = fc.evaluate(a, b, sampler, backend="native", **arguments)
    slow = fc.evaluate(a.double(), b.double(), sampler, backend="torch_reference", **arguments)
    assert fast.backend == "native"
    # recomputed variances of nearly constant features amplify rounding: those of 11 samples, 1e-5 apart
    np.testing.assert_allclose(
        fast.loss, slow.loss, rtol=1e-4 if batch_norm == "recompute" else 1e-5, atol=1e-5
    )


class TestLosses:
    def test_bfloat16_within_the_bound_of_a_running_error_analysis(self, level):
        """Every weight, input and stored activation is off by at most 2^-9 relative, sums by (K + 2)·2^-24.

        With E the bound on a layer's input, its output is off by at most |W| E + (2·2^-9 + 2^-18 + (K + 2)
        2^-24)·(|W| (|x| + E) + |b|), which ReLU does not widen and storing widens by 2^-9 of the result;
        cross-entropy moves by at most twice the largest error of a logit.
        """
        a, b = pair_of(lambda: MLP((30, 64, 33, 5)))
        x, y = torch.randn(50, 30), torch.randint(0, 5, (50,))
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=4, dtype=torch.bfloat16)
        unit = 2.0**-9
        for k in range(4):
            state = {n: t.double() for n, t in sweep.mixture[k].items()}
            value, error = x.double(), unit * x.double().abs()
            for i in (1, 3, 5):
                w, bias = state[f"{i}.weight"], state[f"{i}.bias"]
                sums = (value.abs() + error) @ w.abs().T + bias.abs()
                error = error @ w.abs().T + (2 * unit + unit**2 + (w.shape[1] + 2) * 2.0**-24) * sums
                value = value @ w.T + bias
                if i < 5:
                    value = value.relu()
                    error = error + unit * (value + error)
            loss = F.cross_entropy(value, y).item()
            bound = 2 * error.max(1).values.mean().item()
            assert abs(sweep.loss[k] - loss) <= bound
            assert bound < 0.2 * loss  # a bound that says something

    @pytest.mark.parametrize("loss", ["cross_entropy", "nll", "mse"])
    def test_sums_equal_those_of_its_own_outputs(self, level, pair, data, loss):
        x, y = data
        if loss == "mse":
            y = torch.randn(100, 5)
        if loss == "nll":
            pair = tuple(nn.Sequential(model, nn.LogSoftmax(1)) for model in pair)
        sweep = fc.evaluate(*pair, fc.Uniform(), data=(x, y), n=5, loss=loss)
        outputs = sweep.mixture.functional_call(pair[0], range(5), x).double()
        functions = {"cross_entropy": F.cross_entropy, "nll": F.nll_loss, "mse": F.mse_loss}
        for k in range(5):
            assert sweep.loss[k] == pytest.approx(
                functions[loss](outputs[k], y.double() if loss == "mse" else y).item(), rel=1e-6
            )
            if loss != "mse":
                assert sweep.accuracy[k] == pytest.approx((outputs[k].argmax(1) == y).double().mean().item())

    def test_many_classes_and_extreme_logits(self, level):
        a, b = pair_of(lambda: nn.Linear(4, 1000))
        with torch.no_grad():
            a.weight *= 1000
        x, y = torch.randn(19, 4), torch.randint(0, 1000, (19,))
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2)
        for k in range(2):
            state = {n: t.double() for n, t in sweep.mixture[k].items()}
            logits = functional_call(a.double(), state, (x.double(),))
            assert sweep.loss[k] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
            a.float()


class TestThreads:
    @pytest.mark.parametrize("n", mostly_slow([1, 2, 5, 64], 2))
    @pytest.mark.parametrize("make", [lambda: MLP((7, 640, 640, 5)), Tiny10], ids=["mlp", "conv"])
    def test_results_do_not_depend_on_the_number_of_threads(self, make, n, data, images):
        a, b = pair_of(make)
        conv = isinstance(a, Tiny10)
        arguments = {"data": images if conv else (data[0].repeat(20, 1), data[1].repeat(20))}
        if conv:
            arguments |= {"batch_norm": "recompute", "calibration": images[0]}
        threads = torch.get_num_threads()
        losses = []
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                losses.append(fc.evaluate(a, b, fc.Uniform(), n=n, **arguments).loss)
        finally:
            torch.set_num_threads(threads)
        assert np.array_equal(losses[0], losses[1])
        assert np.array_equal(losses[0], losses[2])

    def test_a_forked_process_has_threads_of_its_own(self):
        """Generation only: torch's own threads do not survive a fork."""
        code = """
import os, torch, fastcomb as fc
from fastcomb.mixing.ops import mix
from fastcomb.sampling.rules import encoded
torch.set_num_threads(2)
law, a, b = fc.Uniform(), torch.randn(500, 1000), torch.randn(1, 500, 1000)
rest = law.table()[None], encoded([law.rule()]), [1, 0, 16, 0], [0, 500000, 0], torch.float32
run = lambda: mix(torch.arange(4), a, b, *rest)
before = run()
child = os.fork()
if child == 0:
    os._exit(0 if before.numpy().tobytes() == run().numpy().tobytes() else 1)
assert os.waitpid(child, 0)[1] == 0
"""
        # the limit ends a deadlock; a machine as slow as that there is none
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=1800)


class TestRecompute:
    @pytest.mark.parametrize("make", mostly_slow([Tiny10, ResNet20], 0))
    def test_statistics_equal_update_bn_in_float64(self, level, make, images):
        x, y = images
        a, b = pair_of(make)
        batches = [x[:9], x[9:]]
        sweep = fc.evaluate(
            a, b, fc.Uniform(), data=images, n=2, batch_norm="recompute",
            calibration=torch.utils.data.DataLoader(x, batch_size=9),
        )  # fmt: skip
        batches = x.split(9)
        model = make().double()
        model.load_state_dict({n: t.double() for n, t in sweep.mixture[1].items()})
        torch.optim.swa_utils.update_bn([batch.double() for batch in batches], model)
        found = sweep.origin.runner.statistics(1)
        for name, wanted in model.named_buffers():
            if name in found:
                torch.testing.assert_close(found[name].double(), wanted, rtol=1e-4, atol=1e-5)
        loss = F.cross_entropy(model.eval()(x.double()), y).item()
        assert sweep.loss[1] == pytest.approx(loss, rel=1e-5)
        assert sum(name in found for name, _ in model.named_buffers()) == len(found) > 0

    def test_in_bfloat16(self, level, images):
        """Within a few per cent of float32: every value of eight layers is rounded to 2^-9."""
        a, b = pair_of(Tiny10)
        arguments = {"data": images, "n": 3, "batch_norm": "recompute", "calibration": images[0]}
        exact = fc.evaluate(a, b, fc.Uniform(), **arguments)
        sweep = fc.evaluate(a, b, fc.Uniform(), dtype=torch.bfloat16, **arguments)
        assert sweep.backend == "native"
        np.testing.assert_allclose(sweep.loss, exact.loss, rtol=0.03)


class TestCalls:
    def test_what_a_call_was_prepared_with_is_used_again_until_something_changes(self, pair, data):
        a, b = pair
        mix = fc.Mixture(a, b, fc.Uniform())
        first = mix.functional_call(a, range(3), data[0])
        engine = functional._ENGINES[mix]
        assert torch.equal(mix.functional_call(a, range(3), data[0]), first)
        assert functional._ENGINES[mix] is engine
        mix.functional_call(a, 0, data[0][:, None])
        assert functional._ENGINES[mix] is not engine

    def test_it_goes_with_its_mixture(self, pair, data):
        a, b = pair
        mix = fc.Mixture(a, b, fc.Uniform())
        mix.functional_call(a, 0, data[0])
        engine = weakref.ref(functional._ENGINES[mix][1])
        del mix
        gc.collect()
        assert engine() is None

    def test_changed_buffers_are_noticed(self):
        class Shifted(nn.Linear):
            def __init__(self):
                super().__init__(3, 2)
                self.register_buffer("shift", torch.zeros(2), persistent=False)

            def forward(self, x):
                return super().forward(x) + self.shift

        a, b = pair_of(Shifted)
        mix = fc.Mixture(dict(a.named_parameters()), dict(b.named_parameters()), fc.Uniform())
        x = torch.randn(4, 3)
        before = mix.functional_call(a, 0, x)
        a.shift += 1
        torch.testing.assert_close(mix.functional_call(a, 0, x), before + 1)

    def test_inputs_of_another_dtype_fail_as_in_torch(self, pair, data):
        with pytest.raises(RuntimeError, match="dtype"):
            fc.Mixture(*pair, fc.Uniform()).functional_call(pair[0], 0, data[0].double())

    def test_tokens_outside_the_table_are_refused(self):
        a, b = pair_of(Tokens)
        with pytest.raises(IndexError):
            fc.Mixture(a, b, fc.Uniform()).functional_call(a, 0, torch.full((2, 3), 11))


class TestInstallation:
    def test_levels_that_are_not_there_are_refused(self, monkeypatch, pair, data):
        monkeypatch.setenv(native.LEVEL_VARIABLE, "sse9")
        with pytest.raises(ValueError, match=r"FASTCOMB_LEVEL='sse9': this processor has .*portable"):
            fc.evaluate(*pair, fc.Uniform(), data=data, n=1)

    def test_without_the_extension_torch_runs_and_says_so_once(self, monkeypatch, pair, data):
        compiled_loss = fc.evaluate(*pair, fc.Uniform(), data=data, n=4).loss
        monkeypatch.setitem(sys.modules, "fastcomb._native", None)
        native.extension.cache_clear()
        try:
            with pytest.warns(fc.BackendNotice, match="compiled engine is missing") as notices:
                sweeps = [fc.evaluate(*pair, fc.Uniform(), data=data, n=4) for _ in range(2)]
            assert len(notices) == 1
            assert "none" in fc.show_config()
        finally:
            native.extension.cache_clear()
        assert [sweep.backend for sweep in sweeps] == ["torch_reference"] * 2
        np.testing.assert_allclose(sweeps[0].loss, compiled_loss, rtol=1e-5)

    def test_the_configuration_names_what_runs(self, level):
        text = fc.show_config()
        for expected in (fc.__version__, level, torch.__version__, str(torch.get_num_threads())):
            assert expected in text
