"""The main job: losses and accuracies of combinations."""

import itertools
import sys

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
from fastcomb.models import MLP, VGG, ResNet20, Tiny10, ViT
from tests.quick import mostly_slow

SAMPLERS = [
    fc.Uniform(),
    fc.Uniform(-0.25, 1.25, per="neuron"),
    fc.Bernoulli(0.3, per="layer"),
    fc.Beta(0.5, 0.5, bits=32),
    fc.Normal(0.5, 0.3, per="model"),
    fc.Constant(0.4),
]


def expected(mix, model, index, x, y):
    """Loss and accuracy of one rebuilt combination, in float64."""
    state = {n: t.double() if t.is_floating_point() else t for n, t in mix[index].items()}
    logits = functional_call(model.double(), state, (x.double(),))
    model.float()
    return F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).double().mean().item()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_results_equal_networks_rebuilt_one_by_one(pair, data, sampler, backend):
    """float32 against float64: 1e-5 relative, the bound DESIGN states for float32 losses."""
    a, b = pair
    sweep = fc.evaluate(a, b, sampler, data=data, n=70, start=2**33 + 5, seed=9, backend=backend)
    assert sweep.backend == backend
    mix = fc.Mixture(a, b, sampler, 9)
    assert sweep.index.dtype == np.int64
    assert sweep.loss.dtype == sweep.accuracy.dtype == np.float32
    assert sweep.index.tolist() == list(range(2**33 + 5, 2**33 + 75))
    for k in (0, 1, 33, 69):
        loss, accuracy = expected(mix, a, int(sweep.index[k]), *data)
        assert sweep.loss[k] == pytest.approx(loss, rel=1e-5)
        assert sweep.accuracy[k] == pytest.approx(accuracy, abs=1.01 / 100)


@given(
    start=st.integers(0, 300),
    n=st.integers(1, 150),
    cut=st.integers(0, 150),
    backend=st.sampled_from(["native", "torch_reference"]),
)
@settings(max_examples=25, deadline=None)
def test_shards_equal_one_run_bit_for_bit(start, n, cut, backend):
    torch.manual_seed(0)
    a, b = MLP((7, 63, 3, 5)), MLP((7, 63, 3, 5))
    x, y = torch.randn(63, 7), torch.randint(0, 5, (63,))

    def run(start, n):
        return fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=n, start=start, backend=backend)

    whole = run(start, n)
    cut = min(cut, n - 1)
    parts = [run(start, cut)] if cut else []
    parts.append(run(start + cut, n - cut))
    assert np.array_equal(np.concatenate([p.loss for p in parts]), whole.loss)
    assert np.array_equal(np.concatenate([p.accuracy for p in parts]), whole.accuracy)


@pytest.mark.parametrize("make", [Tiny10, ViT])
def test_shards_of_larger_networks_agree_bit_for_bit(make, images, backend):
    a, b = make(), make()
    arguments = {"data": images, "batch_norm": "a", "backend": backend}
    whole = fc.evaluate(a, b, fc.Uniform(), n=9, **arguments)
    part = fc.evaluate(a, b, fc.Uniform(), n=4, start=3, **arguments)
    assert np.array_equal(whole.loss[3:7], part.loss)


def test_the_last_indices_of_the_stream(pair, data, backend):
    sweep = fc.evaluate(*pair, fc.Uniform(), data=data, n=3, start=2**64 - 3, backend=backend)
    assert sweep.index.dtype == np.uint64
    assert int(sweep.index[-1]) == 2**64 - 1
    loss, _ = expected(sweep.mixture, pair[0], 2**64 - 1, *data)
    assert sweep.loss[-1] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    "make",
    mostly_slow(
        [Tiny10, ResNet20, VGG, lambda: VGG(batch_norm=True), ViT, lambda: VGG((8, "M"), hidden=7)], 0, 3, 5
    ),
)
def test_network_families(make, images, backend):
    torch.manual_seed(0)
    a, b = make().eval(), make().eval()
    sweep = fc.evaluate(a, b, fc.Uniform(), data=images, n=5, batch_norm="a", backend=backend)
    assert sweep.backend == backend
    for k in (0, 4):
        loss, _ = expected(sweep.mixture, a, k, *images)
        assert sweep.loss[k] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("samples", [1, 3, 63, 100])
@pytest.mark.parametrize("chunk", [1 << 10, 1 << 27])
def test_awkward_numbers_of_samples(pair, samples, chunk, monkeypatch, backend):
    from fastcomb.backends import torch_reference
    from fastcomb.backends.native import compiled, engine

    monkeypatch.setattr(torch_reference, "_SAMPLE_BYTES", chunk)
    monkeypatch.setattr(engine, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(compiled, "ARENA_BYTES", chunk)
    x, y = torch.randn(samples, 7), torch.randint(0, 5, (samples,))
    sweep = fc.evaluate(*pair, fc.Uniform(), data=(x, y), n=3, backend=backend)
    for k in range(3):
        loss, accuracy = expected(sweep.mixture, pair[0], k, x, y)
        assert sweep.loss[k] == pytest.approx(loss, rel=1e-5)
        assert sweep.accuracy[k] == pytest.approx(accuracy, abs=1.01 / samples)


def test_half_precision_is_near_and_double_is_exact(pair, data):
    """bfloat16 rounds weights, inputs and three layers by 2**-9 each; 0.05 leaves room for cancellation."""
    runs = {
        dtype: fc.evaluate(*pair, fc.Uniform(), data=data, n=20, dtype=dtype, backend=backend)
        for dtype, backend in (
            (torch.float64, "torch_reference"),
            (torch.float32, "auto"),
            (torch.bfloat16, "auto"),
        )
    }
    exact = [expected(runs[torch.float64].mixture, pair[0], k, *data)[0] for k in range(20)]
    np.testing.assert_allclose(runs[torch.float64].loss, np.float32(exact), rtol=1e-7)
    np.testing.assert_allclose(runs[torch.float32].loss, exact, rtol=1e-5)
    np.testing.assert_allclose(runs[torch.bfloat16].loss, exact, rtol=0.05)
    assert not np.array_equal(runs[torch.bfloat16].loss, runs[torch.float32].loss)


def test_networks_in_bfloat16_are_computed_in_bfloat16(pair, data):
    a, b = (model.bfloat16() for model in pair)
    sweep = fc.evaluate(a, b, fc.Uniform(), data=data, n=2)
    logits = functional_call(a, sweep.mixture[1], (data[0].bfloat16(),))
    # the engine keeps the last layer's result in float32, torch rounds it to bfloat16 (2^-9 relative)
    assert sweep.loss[1] == pytest.approx(F.cross_entropy(logits.float(), data[1]).item(), rel=2**-9)
    reference = fc.evaluate(a, b, fc.Uniform(), data=data, n=2, backend="torch_reference")
    assert reference.loss[1] == pytest.approx(F.cross_entropy(logits.float(), data[1]).item(), rel=1e-5)


def test_weights_without_a_module_need_model(pair, data):
    states = [model.state_dict() for model in pair]
    sweep = fc.evaluate(*states, fc.Uniform(), model=MLP((7, 63, 3, 5)), data=data, n=4)
    assert np.array_equal(sweep.loss, fc.evaluate(*pair, fc.Uniform(), data=data, n=4).loss)
    with pytest.raises(ValueError, match="pass model="):
        fc.evaluate(*states, fc.Uniform(), data=data, n=4)


class TestData:
    def sweep(self, pair, data, **arguments):
        return fc.evaluate(*pair, fc.Uniform(), data=data, n=70, **arguments).loss

    def test_every_form_gives_the_same(self, pair, data):
        x, y = data
        whole = self.sweep(pair, data)
        dataset = TensorDataset(x, y)
        assert np.array_equal(whole, self.sweep(pair, (x.numpy(), y.int().numpy())))
        assert np.array_equal(whole, self.sweep(pair, dataset))
        assert np.array_equal(whole, self.sweep(pair, DataLoader(dataset, batch_size=7)))

    def test_a_held_loader_is_iterated_once(self, pair, data):
        class Counting(TensorDataset):
            reads = 0

            def __getitem__(self, i):
                Counting.reads += 1
                return super().__getitem__(i)

        self.sweep(pair, DataLoader(Counting(*data), batch_size=9))
        assert Counting.reads == 100

    def test_streamed_data_give_the_same_up_to_rounding(self, pair, data):
        loader = DataLoader(TensorDataset(*data), batch_size=9)
        streamed = self.sweep(pair, loader, data_budget=1000)
        np.testing.assert_allclose(streamed, self.sweep(pair, data), rtol=1e-6)

    def test_streamed_shards_agree_bit_for_bit(self, pair, data, monkeypatch):
        module = sys.modules["fastcomb.sweep.job"]
        loader = DataLoader(TensorDataset(*data), batch_size=9)
        whole = self.sweep(pair, loader, data_budget=1000)
        monkeypatch.setattr(module, "_STREAMED_GROUP", 64)
        assert np.array_equal(self.sweep(pair, loader, data_budget=1000), whole)

    def test_streams_may_refill_the_same_memory(self, pair, data, backend):
        class Refilled(torch.utils.data.Dataset):
            x = np.empty((10, 7), dtype=np.float32)

            def __len__(self):
                return 10

            def __getitem__(self, i):
                if i >= 10:
                    raise IndexError
                self.x[:] = data[0][10 * i : 10 * i + 10].numpy()
                return self.x, data[1][10 * i : 10 * i + 10]

        streamed = self.sweep(pair, DataLoader(Refilled(), batch_size=None), data_budget=1, backend=backend)
        np.testing.assert_allclose(streamed, self.sweep(pair, data, backend=backend), rtol=1e-6)

    def test_shuffled_streams_are_refused(self, pair, data):
        loader = DataLoader(TensorDataset(*data), batch_size=9, shuffle=True)
        with pytest.raises(ValueError, match="shuffle=False"):
            self.sweep(pair, loader, data_budget=1000)
        assert np.isfinite(self.sweep(pair, loader)).all()

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda x, y: (x[:0], y[:0]), ValueError, "data is empty"),
            (lambda x, y: (x, y[:-1]), ValueError, "x has 100 samples but y has 99"),
            (lambda x, y: (x, y + 1), ValueError, "labels run from 1 to 5, but the model has 5 logits"),
            (lambda x, y: (x, y - 1), ValueError, "labels run from -1 to 3"),
            (lambda x, y: (x, y.float()), ValueError, "class numbers must be integers"),
            (lambda x, y: x, TypeError, "data is a Tensor"),
            (lambda x, y: (x, y, y), TypeError, "not as 3 items"),
            (lambda x, y: (["a"], y), TypeError, "x is a list"),
            (lambda x, y: (x * torch.nan, y), ValueError, "x has 700 values that are NaN"),
            (lambda x, y: DataLoader(TensorDataset(x)), TypeError, "pairs"),
            (lambda x, y: TensorDataset(x[:0], y[:0]), ValueError, "data is empty"),
        ],
    )
    def test_bad_data_is_refused(self, pair, data, change, error, message):
        with pytest.raises(error, match=message):
            self.sweep(pair, change(*data))


class TestLosses:
    def test_mse(self, pair, data):
        target = torch.randn(100, 5)
        sweep = fc.evaluate(*pair, fc.Uniform(), data=(data[0], target), n=3, loss="mse")
        output = functional_call(pair[0], sweep.mixture[2], (data[0],))
        assert sweep.loss[2] == pytest.approx(F.mse_loss(output, target).item(), rel=1e-5)
        assert np.isnan(sweep.accuracy).all()
        with pytest.raises(ValueError, match="no accuracy"):
            sweep.density("accuracy")
        with pytest.raises(ValueError, match="differ in shape"):
            fc.evaluate(*pair, fc.Uniform(), data=(data[0], target[:, :1]), n=3, loss="mse")

    def test_nll_probabilities_and_callables(self, data):
        class LogProbabilities(MLP):
            def forward(self, x):
                return F.log_softmax(super().forward(x), 1)

        torch.manual_seed(0)
        plain = [MLP((7, 8, 5)), MLP((7, 8, 5))]
        logs = [LogProbabilities((7, 8, 5)), LogProbabilities((7, 8, 5))]
        for one, other in zip(plain, logs, strict=True):
            other.load_state_dict(one.state_dict())
        soft = F.one_hot(data[1], 5).float()
        runs = [
            fc.evaluate(*plain, fc.Uniform(), data=data, n=3),
            fc.evaluate(*logs, fc.Uniform(), data=data, n=3, loss="nll"),
            fc.evaluate(*plain, fc.Uniform(), data=(data[0], soft), n=3),
            fc.evaluate(
                *plain,
                fc.Uniform(),
                data=data,
                n=3,
                loss=lambda z, y: F.cross_entropy(z, y, reduction="none"),
                accuracy="argmax",
            ),
        ]
        for run in runs[1:]:
            np.testing.assert_allclose(run.loss, runs[0].loss, rtol=1e-6)
        assert np.array_equal(runs[1].accuracy, runs[0].accuracy)
        assert np.isnan(runs[2].accuracy).all()
        assert np.array_equal(runs[3].accuracy, runs[0].accuracy)

    def test_pixelwise_classes(self):
        nets = [nn.Conv2d(3, 4, 3, padding=1) for _ in range(2)]
        x, y = torch.randn(5, 3, 6, 6), torch.randint(0, 4, (5, 6, 6))
        sweep = fc.evaluate(*nets, fc.Uniform(), data=(x, y), n=2)
        logits = functional_call(nets[0], sweep.mixture[1], (x,))
        assert sweep.loss[1] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
        assert sweep.accuracy[1] == pytest.approx((logits.argmax(1) == y).float().mean().item(), abs=0.01)

    def test_models_that_return_more_than_a_tensor(self, data):
        class Two(MLP):
            def forward(self, x):
                return {"logits": super().forward(x)}

        nets = [Two((7, 8, 5)), Two((7, 8, 5))]
        with pytest.warns(fc.BackendNotice, match="result that is not one tensor"):
            sweep = fc.evaluate(
                *nets,
                fc.Uniform(),
                data=data,
                n=2,
                loss=lambda out, y: F.cross_entropy(out["logits"], y, reduction="none"),
            )
        assert np.isfinite(sweep.loss).all()
        assert np.isnan(sweep.accuracy).all()

    def test_a_loss_that_averages_is_refused(self, pair, data):
        with pytest.raises(ValueError, match="one number per sample"):
            fc.evaluate(*pair, fc.Uniform(), data=data, n=2, loss=F.cross_entropy)

    def test_nan_and_infinite_losses_are_kept_and_counted(self, pair, data):
        """Weights of 1e25 overflow float32 for some coefficients and not for others."""
        a, b = (({n: t.clone() for n, t in model.state_dict().items()}) for model in pair)
        b["1.weight"].fill_(1e25)
        b["3.weight"].fill_(1e14)
        sweep = fc.evaluate(a, b, fc.Bernoulli(0.5, per="layer"), model=pair[0], data=data, n=200)
        bad = ~np.isfinite(sweep.loss)
        assert 0 < bad.sum() < 200
        summary = sweep.summary()
        assert summary["loss_nan"] + summary["loss_infinite"] == bad.sum()
        assert sweep.fraction_below("loss", 1e30).total == 200
        assert np.isfinite(sweep.loss[sweep.best(5)]).all()


class TestBatchNorm:
    def nets(self):
        torch.manual_seed(0)
        nets = [Tiny10().eval(), Tiny10().eval()]
        for net in nets:
            for name, buffer in net.named_buffers():
                if "running" in name:
                    buffer.copy_(torch.rand_like(buffer) + 0.5)
        return nets

    def test_a_choice_is_required(self, images):
        with pytest.raises(ValueError, match=r'"recompute".*"lerp".*"a"'):
            fc.evaluate(*self.nets(), fc.Uniform(), data=images, n=1)
        with pytest.raises(ValueError, match="is none of 'recompute', 'lerp', 'a'"):
            fc.evaluate(*self.nets(), fc.Uniform(), data=images, n=1, batch_norm="b")
        with pytest.raises(ValueError, match="needs calibration="):
            fc.evaluate(*self.nets(), fc.Uniform(), data=images, n=1, batch_norm="recompute")
        with pytest.raises(ValueError, match="calibration is empty"):
            fc.evaluate(
                *self.nets(),
                fc.Uniform(),
                data=images,
                n=1,
                batch_norm="recompute",
                calibration=images[0][:0],
            )

    def loss(self, model, images):
        with torch.no_grad():
            return F.cross_entropy(model(images[0]), images[1]).item()

    def test_lerp_and_a(self, images):
        a, b = self.nets()
        sampler = fc.Beta(2, 6)
        for choice, weight in (("lerp", 0.25), ("a", 0.0)):
            sweep = fc.evaluate(a, b, sampler, data=images, n=2, batch_norm=choice)
            model = Tiny10().eval()
            model.load_state_dict(sweep.mixture[1])
            for name, buffer in model.named_buffers():
                if "running" in name:
                    buffer.copy_(a.get_buffer(name) * (1 - weight) + b.get_buffer(name) * weight)
            assert sweep.loss[1] == pytest.approx(self.loss(model, images), rel=1e-5)
            assert self.loss(sweep.rebuild(1), images) == pytest.approx(sweep.loss[1], rel=1e-5)

    @pytest.mark.parametrize("batch", [None, 10])
    def test_recompute_equals_update_bn(self, images, batch):
        """Oracle: torch.optim.swa_utils.update_bn on the rebuilt combination."""
        calibration = torch.randn(20, 3, 32, 32)
        loader = DataLoader(calibration, batch_size=batch or 20)
        sweep = fc.evaluate(
            *self.nets(),
            fc.Uniform(),
            data=images,
            n=3,
            batch_norm="recompute",
            calibration=loader if batch else calibration,
        )
        model = Tiny10()
        model.load_state_dict(sweep.mixture[2])
        torch.optim.swa_utils.update_bn(loader, model)
        assert sweep.loss[2] == pytest.approx(self.loss(model.eval(), images), rel=1e-4)
        rebuilt = sweep.rebuild(2)
        torch.testing.assert_close(rebuilt.bn3.running_var, model.bn3.running_var, rtol=1e-4, atol=1e-5)
        assert self.loss(rebuilt, images) == pytest.approx(sweep.loss[2], rel=1e-5)

    def test_recompute_of_batch_norm_over_features(self, backend):
        torch.manual_seed(0)

        def make():
            return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()

        a, b = make(), make()
        x, y = torch.randn(30, 4), torch.randint(0, 3, (30,))
        sweep = fc.evaluate(
            a, b, fc.Uniform(), data=(x, y), n=70, batch_norm="recompute", calibration=x, backend=backend
        )
        assert (sweep.origin.runner.slots > 1) == (backend == "torch_reference")  # under vmap there
        for k in (0, 69):
            model = make()
            model.load_state_dict(sweep.mixture[k])
            torch.optim.swa_utils.update_bn([x], model)
            with torch.no_grad():
                assert sweep.loss[k] == pytest.approx(F.cross_entropy(model.eval()(x), y).item(), rel=1e-5)

    def test_networks_without_running_statistics_need_no_choice(self, images):
        nets = [
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(3600, 10))
            for _ in "ab"
        ]
        assert np.isfinite(fc.evaluate(*nets, fc.Uniform(), data=images, n=2).loss).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0: at least one"),
        ({"start": -1}, "numbered from 0"),
        ({"start": 2**64 - 2, "n": 3}, r"2\*\*64"),
        ({"seed": 2**64}, "seed"),
        ({"loss": "hinge"}, "loss='hinge' is none of 'cross_entropy', 'token_cross_entropy', 'nll'"),
        ({"backend": "tpu"}, "backend='tpu' is none of 'auto'"),
        ({"device": "cuda:99"}, "device='cuda:99' cannot be used"),
        ({"device": "nonsense"}, "device='nonsense' cannot be used"),
        ({"dtype": torch.int8}, "not a floating-point dtype"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(pair, data, arguments, message):
    class Untouchable(TensorDataset):
        def __getitem__(self, index):
            raise AssertionError("data were read before the arguments were checked")

    with pytest.raises(ValueError, match=message):
        fc.evaluate(*pair, fc.Uniform(), **{"data": Untouchable(*data), "n": 3} | arguments)


class Interrupting(TensorDataset):
    """Samples that somebody loses patience with: Ctrl-C while one of them is read."""

    def __init__(self, x, y, reads):
        super().__init__(x, y)
        self.left = reads

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@pytest.mark.parametrize("where", ["the data", "the loss"])
def test_interrupting_returns_what_is_done(pair, data, backend, where, monkeypatch):
    """At the same point whatever the machine: in the eleventh of many passes over the data."""
    from fastcomb.backends.native import engine

    monkeypatch.setattr(sys.modules["fastcomb.sweep.job"], "_STREAMED_GROUP", 64)
    monkeypatch.setattr(engine, "_CALL_WORK", 0)  # the least that the engine does between two looks
    calls = itertools.count(1)

    def loss(logits, y):
        if next(calls) == 300:
            raise KeyboardInterrupt
        return F.cross_entropy(logits, y, reduction="none")

    options = {"data": data, "backend": backend}
    if where == "the data":
        stream = DataLoader(Interrupting(*data, reads=1050), batch_size=9)
        options |= {"data": stream, "data_budget": 1000}
    else:
        options |= {"loss": loss}
    n = 10**6
    with pytest.warns(fc.BackendNotice, match=f"interrupted: .* of {n} combinations are done"):
        sweep = fc.evaluate(*pair, fc.Uniform(), n=n, **options)
    assert 0 < len(sweep) < n
    assert not sweep.complete
    again = fc.evaluate(*pair, fc.Uniform(), n=len(sweep), **options)
    assert np.array_equal(again.loss, sweep.loss)
    assert again.complete


def test_interrupting_before_anything_is_done_is_an_interrupt(pair, data, backend):
    def loss(logits, y):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fc.evaluate(*pair, fc.Uniform(), data=data, n=100, loss=loss, backend=backend)


def test_progress_shows_combinations_per_second(pair, data, capsys):
    fc.evaluate(*pair, fc.Uniform(), data=data, n=10, progress=True)
    assert "comb/s" in capsys.readouterr().err
    fc.evaluate(*pair, fc.Uniform(), data=data, n=10, progress=False)
    fc.evaluate(*pair, fc.Uniform(), data=data, n=10)
    assert capsys.readouterr().err == ""


def test_several_dtypes_and_inputs_of_another():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3, dtype=torch.float64)

        def forward(self, x):
            return self.last(self.first(x).double())

    torch.manual_seed(0)
    a, b, x, y = Two().eval(), Two().eval(), torch.randn(6, 4), torch.randint(0, 3, (6,))
    with pytest.warns(fc.BackendNotice):
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, dtype=torch.float64)
    with torch.no_grad():
        expected = F.cross_entropy(functional_call(a, sweep.mixture[1], (x,)), y).item()
    assert sweep.loss[1] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"parameters of several dtypes, so x stays float64.*pass x in"):
        fc.evaluate(a, b, fc.Uniform(), data=(x.double(), y), n=2)
