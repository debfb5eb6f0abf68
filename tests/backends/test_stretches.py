"""Networks that the compiled engine runs in parts: work on inputs alone, operations that torch runs."""

import contextlib
import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import fastcomb as fc
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.native import Native
from fastcomb.utils.inputs import Inputs
from tests.quick import mostly_slow

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 0.05}


class Climbed(nn.Module):
    """An operation without a kernel between layers."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 40), nn.Linear(40, 3)

    def forward(self, x):
        return self.two(self.one(x).cummax(1).values)


class ClimbedLast(Climbed):
    def forward(self, x):
        return self.two(self.one(x).relu()).cummax(1).values


class ClimbedTwice(Climbed):
    """Two such operations, the second of several values, and a value that skips both."""

    def forward(self, x):
        hidden = self.one(x)
        low, order = hidden.cummax(1)
        again = torch.gather(hidden.relu(), 1, order) + low
        return self.two(torch.cat([again[:, :20].cummax(1).values, hidden[:, 20:]], 1) * again)


class ClimbedTokens(Climbed):
    """A value that is handed over has its samples second."""

    def forward(self, x):
        tokens = x.unflatten(1, (3, 2)).repeat_interleave(3, 2).transpose(0, 1)
        return self.two(self.one(tokens).cummax(2).values.mean(0))


class ClimbedRows(nn.Module):
    """A value that is handed over has several rows for each sample."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(2, 9), nn.Linear(9, 3)

    def forward(self, x):
        tokens = self.one(x.unflatten(1, (3, 2)).reshape(-1, 2))
        return self.two(tokens.cummax(1).values.relu()).view(-1, 3, 3).mean(1)


class Routed(nn.Module):
    """Experts of which every token takes two, by whole numbers that are computed."""

    def __init__(self):
        super().__init__()
        self.route, self.head = nn.Linear(2, 4), nn.Linear(5, 3)
        self.experts = nn.Parameter(torch.randn(4, 5, 2))

    def forward(self, x):
        tokens = x.unflatten(1, (3, 2)).reshape(-1, 2)
        shares, numbers = self.route(tokens).softmax(-1).topk(2, -1)
        shares = shares / shares.sum(-1, keepdim=True)
        each = tokens.repeat_interleave(2, dim=0).unsqueeze(-1)
        hidden = torch.bmm(self.experts[numbers.reshape(-1)], each).squeeze(-1)
        hidden = F.silu(hidden) * shares.reshape(-1).unsqueeze(-1)
        return self.head(hidden.view(-1, 2, 5).sum(1)).view(-1, 3, 3).sum(1)


class ClimbedImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        return self.two(self.one(x).cummax(1).values.relu()).mean((2, 3))


class ClimbedWeights(Climbed):
    """What torch runs is made of weights alone."""

    def forward(self, x):
        return self.two(F.linear(x.relu(), self.one.weight.cummax(1).values, self.one.bias).relu())


class Attending(nn.Module):
    """A mask that operations before and after the one without a kernel read."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, x):
        seen = (x[:, :3] > -0.5)[:, None, None, :].expand(-1, 1, 3, -1) | torch.eye(3, dtype=torch.bool)
        hidden = self.one(x.unflatten(1, (3, 2))).unflatten(2, (2, 4)).transpose(1, 2)
        for _ in range(2):
            hidden = F.scaled_dot_product_attention(hidden, hidden, hidden, attn_mask=seen).cummax(2).values
        return self.two(hidden.transpose(1, 2).flatten(2).mean(1))


class Masked(nn.Module):
    """Tokens and a mask, of which positions, lengths and weights of a mean are made before any weight."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 8), nn.Embedding(7, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, ids, mask=None, scale=1.0):
        if mask is None:
            mask = torch.ones_like(ids)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = self.tokens(ids) + self.places(places)
        weights = mask.to(hidden.dtype) / mask.sum(1, keepdim=True)
        return self.head((hidden * weights[:, :, None]).sum(1).relu()) * scale


def images(samples):
    return torch.randn(samples, 3, 5, 4)


def rows(samples):
    return torch.randn(samples, 6)


def pair(make):
    return make().eval(), make().eval()


def check_losses(sweep, model, y, *arguments):
    """Every combination's loss is what plain torch makes of it."""
    for i in range(len(sweep.loss)):
        logits = functional_call(model, dict(sweep.mixture[i]), arguments)
        assert sweep.loss[i] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "make", [Climbed, ClimbedLast, ClimbedTwice, ClimbedTokens, ClimbedImages, ClimbedWeights, Attending]
)
def test_an_operation_without_a_kernel_costs_only_itself(make, dtype):
    a, b = pair(make)
    if dtype != torch.float32:
        a, b = a.to(dtype), b.to(dtype)
    draw = images if make is ClimbedImages else rows
    x, y = draw(33), torch.randint(3, (33,))
    with pytest.warns(fc.BackendNotice, match="cummax"):
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=5, seed=3, progress=False)
    assert sweep.backend == "native"
    for i in range(5):
        state = {name: value.to(dtype) for name, value in sweep.mixture[i].items()}
        logits = functional_call(a, state, (x.to(dtype),)).float()
        assert sweep.loss[i] == pytest.approx(F.cross_entropy(logits, y).item(), rel=DTYPES[dtype])


@pytest.mark.parametrize("make", [ClimbedRows, Routed])
def test_rows_of_samples_are_handed_over_or_routed(make):
    a, b = pair(make)
    x, y = rows(33), torch.randint(3, (33,))
    said = pytest.warns(fc.BackendNotice, match="cummax") if make is ClimbedRows else contextlib.nullcontext()
    with said:
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=3, backend="native", progress=False)
    for i in range(3):
        state = {name: value.double() for name, value in sweep.mixture[i].items()}
        logits = functional_call(copy.deepcopy(a).double(), state, (x.double(),))
        assert sweep.loss[i] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


@pytest.mark.parametrize("samples", [1, 3, 63, 100])
def test_results_do_not_depend_on_how_samples_and_combinations_are_cut(samples, monkeypatch):
    a, b = pair(ClimbedTwice)
    data = rows(samples), torch.randint(3, (samples,))
    arguments = {"data": data, "n": 7, "backend": "native", "progress": False}
    with pytest.warns(fc.BackendNotice):
        whole = fc.evaluate(a, b, fc.Uniform(), **arguments)
    monkeypatch.setattr("fastcomb.backends.native.engine._STRETCH_BYTES", 9000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.BackendNotice)  # with another share of the time
        cut = fc.evaluate(a, b, fc.Uniform(), **arguments)
    np.testing.assert_allclose(cut.loss, whole.loss, rtol=1e-6)
    assert np.array_equal(cut.accuracy, whole.accuracy)


def test_samples_that_meet_in_an_operation_without_a_kernel_are_not_divided():
    class Ranks(Climbed):
        def forward(self, x):
            return self.two(self.one(x).cummax(0).values)

    a, b = pair(Ranks)
    x, y = rows(600), torch.randint(3, (600,))
    with pytest.warns(fc.BackendNotice, match="influence one another"):
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, progress=False)
    logits = functional_call(a, sweep.mixture[1], (x,))
    assert sweep.loss[1] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


def structured(samples):
    ids, mask = torch.randint(11, (samples, 7)), torch.ones(samples, 7, dtype=torch.int64)
    for row in range(samples):
        mask[row, 7 - row % 6 :] = 0
    return Inputs((ids,), {"mask": mask, "scale": 0.5})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("samples", [1, 2, 3, 63, 100])
def test_what_depends_on_inputs_alone_is_computed_once(samples, dtype):
    a, b = pair(Masked)
    mix = fc.Mixture(a, b, fc.Uniform())
    x = structured(samples)
    normalisation = Normalisation.choose(a, mix, None, None, None)
    engine = Native(mix, a, x, dtype=dtype, normalisation=normalisation)
    engine.check(a, x)
    assert not {"cumsum", "clamp"}.intersection(str(node.target) for node in engine._rest)
    outputs = engine.outputs(engine.prepare(mix.index_tensor(range(3))), x)
    for k in range(3):
        expected = functional_call(a, mix[k], x.args, x.kwargs)
        torch.testing.assert_close(outputs[k], expected, rtol=DTYPES[dtype], atol=DTYPES[dtype])


def test_inputs_that_meet_before_any_weight_are_refused():
    class Centred(Masked):
        def forward(self, ids, mask=None, scale=1.0):
            unusual = (mask.float() - mask.float().mean(0)).abs() > 0.4
            return super().forward(ids, unusual.long(), scale)

    a, b = pair(Centred)
    mix = fc.Mixture(a, b, fc.Uniform())
    x = structured(6)
    with pytest.warns(fc.BackendNotice, match="mean across samples before any weight"):
        outputs = mix.functional_call(a, range(2), *x.args, **x.kwargs)
    expected = functional_call(a, mix[1], x.args, x.kwargs)
    torch.testing.assert_close(outputs[1], expected)


class Outdone(nn.Module):
    """What is larger than 5 changes all samples after it, by an operation that nothing is known of."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 3)

    def forward(self, x):
        return self.one(x * (x.cummax(0).values > 5).logical_not())


def test_inputs_that_turn_out_to_meet_are_an_error():
    a, b = pair(Outdone)
    x, y = rows(33), torch.randint(3, (33,))
    fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, backend="native", progress=False)
    x[9] = 7
    with pytest.raises(ValueError, match=r"before any weight is used.*backend='torch_reference'"):
        fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, progress=False)


class NeedsTwo(nn.Module):
    """What torch computes for two samples, and refuses for one."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Linear(6, 3), nn.GroupNorm(3, 3)

    def forward(self, x):
        return self.norm(self.one(x)) + self.one(x)


def test_a_network_that_refuses_a_single_sample_runs_on_the_reference():
    a, b = pair(NeedsTwo)
    x, y = rows(33), torch.randint(3, (33,))
    with pytest.warns(fc.BackendNotice, match="refuses single samples"):
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, progress=False)
    check_losses(sweep, a, y, x)


def test_a_program_of_several_inputs_says_what_it_reads():
    x = structured(2)
    program = fc.capture(Masked().eval(), *x.args, **x.kwargs)
    assert list(program.inputs) == ["ids", "mask"]
    assert all(shape == ("N", 7) for shape in program.inputs.values())
    model = Masked().eval()
    program = fc.capture(model, *x.args, **x.kwargs)
    state = dict(model.named_parameters())
    torch.testing.assert_close(program.run(state, x.args[0], x.kwargs["mask"]), model(*x.args, **x.kwargs))


def test_arguments_that_a_forward_takes_as_they_come():
    class Batch(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, **batch):
            return self.layer(batch["x"]) * batch["scale"]

    a, b = pair(Batch)
    x, y = {"x": torch.randn(9, 4), "scale": torch.rand(9, 1)}, torch.randint(3, (9,))
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2, backend="native", progress=False)
    logits = functional_call(a, sweep.mixture[1], (), x)
    assert sweep.loss[1] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


def test_what_depends_on_shapes_alone_becomes_a_constant():
    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places, self.head = nn.Embedding(9, 4), nn.Embedding(6, 4), nn.Linear(4, 2)

        def forward(self, ids):
            places = torch.arange(ids.shape[1]).expand(ids.shape)
            hidden = self.tokens(ids) + self.places(places)
            mask = torch.full((ids.shape[1],) * 2, -1e4).triu(1).to(hidden.dtype)
            mask = mask[None].expand(ids.shape[0], -1, -1)
            scores = (hidden[:, :, None] * hidden[:, None]).sum(-1) + mask
            return self.head((scores.softmax(-1)[..., None] * hidden[:, None]).sum(2).mean(1))

    a, b = pair(Causal)
    ids, y = torch.randint(9, (40, 6)), torch.randint(2, (40,))
    program = fc.capture(a, ids)
    assert not program.unknown
    assert not {"arange", "full", "triu"} & {str(node.target).split(".")[1] for node in program}
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(ids, y), n=4, backend="native", progress=False)
    for i in range(4):
        logits = functional_call(a, sweep.mixture[i], (ids,))
        assert sweep.loss[i] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


@pytest.mark.parametrize("kind", mostly_slow([nn.LSTM, nn.GRU, nn.RNN], 0))
@pytest.mark.parametrize("both", mostly_slow([False, True], 0))
def test_recurrent_layers_run_on_the_engine(kind, both):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = kind(5, 7, num_layers=2, bidirectional=both, batch_first=True)
            self.head = nn.Linear(7 * (1 + both), 3)

        def forward(self, x):
            return self.head(self.layer(x)[0].mean(1))

    a, b = pair(Recurrent)
    x, y = torch.randn(37, 6, 5), torch.randint(3, (37,))
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=3, backend="native", progress=False)
    for i in range(3):
        logits = functional_call(a, sweep.mixture[i], (x,))
        assert sweep.loss[i] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


class Bags(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(11, 8, **how), nn.Linear(8, 3)

    def forward(self, ids, weights=None):
        return self.head(self.bag(ids, per_sample_weights=weights).relu())


HOW = {
    "mean": {}, "sum": {"mode": "sum"}, "max": {"mode": "max"}, "padded": {"padding_idx": 2},
    "padded sum": {"mode": "sum", "padding_idx": 0}, "weighted": {"mode": "sum"},
}  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_bags_of_as_many_entries_for_every_sample(how):
    torch.manual_seed(5)
    a, b = (Bags(**HOW[how]).eval() for _ in range(2))
    ids, y = torch.randint(11, (33, 4)), torch.randint(3, (33,))
    ids[:5, 1:] = 2  # which leaves bags of one entry, or of none, where it is padding
    ids[1] = 0
    x = (ids, torch.rand(33, 4)) if how == "weighted" else ids
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=3, backend="native", progress=False)
    check_losses(sweep, a, y, *(x if how == "weighted" else (x,)))


class Counted(nn.Module):
    """A number of samples that Python asks for."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(2, 5), nn.Bilinear(5, 2, 3)

    def forward(self, x):
        hidden = torch.zeros(len(x), 5)
        for step in x.unflatten(1, (3, 2)).unbind(1):
            hidden = self.cell(step, hidden)
        return self.head(hidden, x[:, :2])


def test_the_length_of_a_batch_is_no_constant():
    a, b = pair(Counted)
    x, y = rows(33), torch.randint(3, (33,))
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=3, backend="native", progress=False)
    check_losses(sweep, a, y, x)
    assert len([1, 2]) == 2  # and len means here what it meant


class Standardised(nn.Module):
    """Weights that are standardised by a batch norm of themselves, as NFNets have them."""

    def __init__(self):
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.randn(5, 2, 3, 3)), nn.Parameter(torch.randn(5))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        flat = self.weight.reshape(1, 5, -1)
        weight = F.batch_norm(flat, None, None, self.gain, None, training=True).view_as(self.weight)
        return self.head(F.conv2d(x.unflatten(1, (2, 3, 1)), weight, padding=1).relu().mean((2, 3)))


def test_weights_that_are_standardised():
    a, b = pair(Standardised)
    x, y = rows(33), torch.randint(3, (33,))
    sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=3, backend="native", progress=False)
    check_losses(sweep, a, y, x)
