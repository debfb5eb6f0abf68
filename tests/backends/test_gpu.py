"""The Triton backend against the reference: in the interpreter, or compiled where there is a GPU.

What is compared are losses, so tolerances are of float32 arithmetic in another order.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import fastcomb as fc
from fastcomb.models import MLP
from tests.networks import randomised
from tests.quick import mostly_slow

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def both(make, x, y, *, n=3, sampler=None, backend="triton", **options):
    """The same sweep on a GPU backend and on the reference."""
    a, b = (randomised(make, seed) for seed in (1, 2))
    sweeps = [
        fc.evaluate(a, b, sampler or fc.Uniform(), data=(x, y), n=n, backend=name, device=DEVICE, **options)
        for name in (backend, "torch_reference")
    ]
    assert [sweep.backend for sweep in sweeps] == [backend, "torch_reference"]
    return sweeps


def agree(make, x, y, **options):
    found, expected = both(make, x, y, **options)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=2e-5)
    # where two logits are nearly equal, rounding decides
    np.testing.assert_allclose(found.accuracy, expected.accuracy, atol=1.01 / len(x), equal_nan=True)
    return found


def vectors(samples, width, classes=5):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, width, generator=generator)
    return x, torch.randint(0, classes, (samples,), generator=generator)


def pictures(samples=5, size=8):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(samples, 3, size, size, generator=generator)
    return x, torch.randint(0, 5, (samples,), generator=generator)


@pytest.mark.parametrize("per", mostly_slow(["element", "neuron", "layer", "model"], 0, 2))
def test_mlp_at_every_granularity(per):
    agree(lambda: MLP((7, 63, 3, 5)), *vectors(100, 7), sampler=fc.Bernoulli(0.4, per=per), n=5)


@pytest.mark.parametrize(
    "loss",
    mostly_slow(
        [
            nn.CrossEntropyLoss(ignore_index=2),
            "cross_entropy(label_smoothing=0.2)",
            "bce_with_logits",
            "huber",
        ],
        0,
    ),
    ids=str,
)
def test_losses_that_no_kernel_computes(loss):
    x, y = vectors(20, 7)
    agree(lambda: MLP((7, 20, 5)), x, y if "ross" in str(loss) else torch.eye(5)[y], loss=loss)


@pytest.mark.parametrize("samples", mostly_slow([1, 256, 257, 700], 2))
def test_any_number_of_samples(samples):
    agree(lambda: MLP((7, 20, 5)), *vectors(samples, 7))


def test_between_several_networks():
    nets = [randomised(lambda: MLP((7, 20, 5)), seed) for seed in range(4)]
    x, y = vectors(40, 7)
    sweeps = [
        fc.evaluate(nets[0], nets[1:], fc.Dirichlet(), data=(x, y), n=4, backend=name, device=DEVICE)
        for name in ("triton", "torch_reference")
    ]
    np.testing.assert_allclose(sweeps[0].loss, sweeps[1].loss, rtol=2e-5)


class Residual(nn.Module):
    """Norms after convolutions and before them, a shortcut with a stride, additions in both orders."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.inner_norm = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(8, 6, 1, stride=2, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(6, affine=False)
        self.before = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(x + self.inner_norm(self.inner(x)))
        x = F.silu(self.down(x) + self.shortcut_norm(self.shortcut(x)))
        x = F.relu(self.before(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["a", "lerp", "recompute"])
def test_batch_norms(choice):
    calibration = pictures(9)[0] if choice == "recompute" else None
    sweep = agree(Residual, *pictures(), batch_norm=choice, calibration=calibration)
    statistics = sweep.origin.runner.statistics(2)
    expected = fc.evaluate(
        *(randomised(Residual, seed) for seed in (1, 2)),
        fc.Uniform(),
        data=pictures(),
        n=3,
        batch_norm=choice,
        calibration=calibration,
        backend="torch_reference",
        device=DEVICE,
    ).origin.runner.statistics(2)
    for name, value in statistics.items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_batches_of_calibration_data():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(pictures(8)[0]), batch_size=4)
    agree(Residual, *pictures(), batch_norm="recompute", calibration=loader)


def test_norms_of_vectors():
    def make():
        return nn.Sequential(
            nn.Linear(7, 9), nn.BatchNorm1d(9), nn.GELU(), nn.BatchNorm1d(9), nn.Linear(9, 5)
        )

    agree(make, *vectors(30, 7), batch_norm="recompute", calibration=vectors(20, 7)[0])


def test_convolutions_that_the_kernels_leave_to_torch():
    def make():
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, groups=3),
            nn.GroupNorm(2, 6),
            nn.Conv2d(6, 4, 3, padding="same"),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(36, 5),
        )

    agree(make, *pictures())


class Transformer(nn.Module):
    """Embeddings, attention, layer norms, tokens, a residual stream, a tied weight."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(11, 12)
        self.norm = nn.LayerNorm(12)
        self.heads = nn.Linear(12, 36)
        self.out = nn.Linear(12, 12)
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)
        self.last = nn.Linear(12, 11, bias=False)
        self.last.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids)
        q, k, v = self.heads(self.norm(x)).unflatten(-1, (3, 2, 6)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = self.down(F.gelu(self.up(x), approximate="tanh")) + x
        return self.last(x[:, 0] + x.mean(1))


@pytest.mark.parametrize("samples", mostly_slow([6, 60], 0))  # 60 · 5 tokens: more than a tile
def test_transformer(samples):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 11, (samples, 5), generator=generator)
    agree(Transformer, ids, ids[:, 0], n=2)


def test_concatenation():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 5, 1)

        def forward(self, x):
            return self.two(torch.cat([x, F.relu(self.one(x))], 1)).amax((2, 3))

    agree(Dense, *pictures())


def test_losses():
    x, y = vectors(30, 7)
    targets = torch.randn(30, 5, generator=torch.Generator().manual_seed(6))
    agree(lambda: MLP((7, 9, 5)), x, targets, loss="mse")
    agree(lambda: nn.Sequential(MLP((7, 9, 5)), nn.LogSoftmax(1)), x, y, loss="nll")
    agree(lambda: MLP((7, 9, 5)), x, F.one_hot(y, 5).float())  # cross-entropy against probabilities
    found, expected = both(
        lambda: MLP((7, 9, 5)),
        x,
        y,
        loss=lambda out, y: F.multi_margin_loss(out, y, reduction="none"),
        metrics={"top": lambda out, y: out.amax(1)},
    )
    for name in ("loss", "accuracy", "top"):
        np.testing.assert_allclose(found.rows.column(name), expected.rows.column(name), rtol=2e-5)


def test_a_result_that_is_an_input_or_a_weight():
    class Ignores(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(5))

        def forward(self, x):
            return x + self.w

    agree(Ignores, *vectors(20, 5))


@pytest.mark.slow
def test_results_do_not_depend_on_how_a_range_is_divided():
    def make():
        return nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 5))

    a, b = (randomised(make, seed) for seed in (1, 2))
    options = {"data": vectors(12, 7), "batch_norm": "recompute", "calibration": vectors(20, 7)[0]}

    def sweep(start, n):
        return fc.evaluate(a, b, fc.Uniform(), start=start, n=n, backend="triton", device=DEVICE, **options)

    whole = sweep(5, 20)
    for start, n in ((5, 1), (6, 9), (15, 10)):
        part = sweep(start, n)
        assert np.array_equal(part.loss, whole.loss[start - 5 : start - 5 + n])
        assert np.array_equal(part.accuracy, whole.accuracy[start - 5 : start - 5 + n])


@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [
        (torch.float32, 1e-5),
        pytest.param(torch.float16, 3e-3, marks=pytest.mark.slow),
        pytest.param(
            torch.bfloat16,
            3e-2,
            marks=pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter's bfloat16 is wrong"),
        ),
    ],
)
def test_losses_against_float64(dtype, rtol):
    a, b = (randomised(Residual, seed) for seed in (1, 2))
    x, y = pictures()
    sweep = fc.evaluate(
        a, b, fc.Uniform(), data=(x, y), n=3, dtype=dtype, batch_norm="a", backend="triton", device=DEVICE
    )
    assert sweep.backend == "triton"
    for k in range(3):
        state = {name: value.double() for name, value in fc.Mixture(a, b, fc.Uniform())[k].items()}
        exact = F.cross_entropy(functional_call(a.double(), state, (x.double(),)), y)
        assert sweep.loss[k] == pytest.approx(exact.item(), rel=rtol)
        a.float()


def test_a_result_that_is_not_one_tensor_is_refused():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(7, 5)

        def forward(self, x):
            return {"logits": self.lin(x)}

    a, b = (randomised(Named, seed) for seed in (1, 2))
    options = {"data": vectors(9, 7), "n": 2, "device": DEVICE, "backend": "triton"}
    with pytest.raises(ValueError, match=r"backend='triton' cannot run .*a result that is not one tensor"):
        fc.evaluate(
            a, b, fc.Uniform(), loss=lambda o, y: F.cross_entropy(o["logits"], y, reduction="none"), **options
        )


def test_what_it_cannot_run_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(7, 5)

        def forward(self, x):
            return self.lin(x).cummax(1).values

    a, b = (randomised(Odd, seed) for seed in (1, 2))
    with pytest.raises(ValueError, match=r"backend='triton' cannot run the operation.*cummax"):
        fc.evaluate(a, b, fc.Uniform(), data=vectors(9, 7), n=2, backend="triton", device=DEVICE)


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a device to run on")
def test_without_a_device(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    a, b = (randomised(lambda: MLP((7, 5)), seed) for seed in (1, 2))
    with pytest.raises(ValueError, match="backend='triton' cannot run on the device cpu"):
        fc.evaluate(a, b, fc.Uniform(), data=vectors(9, 7), n=2, backend="triton")
