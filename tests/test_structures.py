"""Inputs and outputs as people have them: several tensors, dicts, results with many parts.

Beside each other: what the library says of networks that take and return structures, and plain torch.
"""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, Dataset

import fastcomb as fc
from fastcomb.cli.commands import run as main
from fastcomb.program import private_copy
from fastcomb.program.cache import captured
from fastcomb.program.choose import choose
from fastcomb.utils.inputs import Inputs, structure

pytestmark = pytest.mark.filterwarnings("ignore::fastcomb.BackendNotice")

WORDS, TOKENS, CLASSES = 11, 7, 3


class Cache:
    """Keys and values, as language models return them: an object of its own that holds tensors."""

    def __init__(self, *tensors):
        self.layers = [{"keys": tensor} for tensor in tensors]


class ModelOutput(OrderedDict):
    """What networks of Hugging Face return: a dataclass, of which what is there counts as a dict too."""

    def __post_init__(self):
        for field in fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self):
        kind, _, *rest = super().__reduce__()
        return kind, tuple(getattr(self, field.name) for field in fields(self)), *rest


@dataclass(eq=False)
class Result(ModelOutput):
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past: object = None
    hidden: torch.Tensor | None = None


class Text(nn.Module):
    """Classifies texts by the mean of their words' features; its loss where it gets labels."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, input_ids, attention_mask=None, labels=None, use_cache=True):
        h = F.relu(self.first(self.words(input_ids)))
        if attention_mask is None:
            pooled = h.mean(1)
        else:
            weight = attention_mask.to(h.dtype).unsqueeze(-1)
            pooled = (h * weight).sum(1) / (weight.sum(1) + 1)
        logits = self.head(F.relu(self.second(pooled)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return Result(loss, logits, Cache(h) if use_cache else None, h)


class Merged(nn.Module):
    """Two tensors by position, one of them in a structure, a flag, None; what it returns is up to a test."""

    def __init__(self, make=lambda out, aux: out):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 6), nn.Linear(5, 6), nn.Linear(6, CLASSES)
        self.make = make

    def forward(self, a, more, scale=None, *, flip=False):
        if scale is not None:
            raise TypeError("scale is None here")
        h = torch.tanh(self.left(a) - self.right(more["b"]) if flip else self.left(a) + self.right(more["b"]))
        return self.make(self.out(h), h)


class Items(Dataset):
    """Samples one by one, as ``make`` says."""

    def __init__(self, make, count):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError(index)
        return self.make(index)


#: The same without being a torch data set, as those of Hugging Face are not.
Rows = type("Rows", (), {name: vars(Items)[name] for name in ("__init__", "__len__", "__getitem__")})


@pytest.fixture
def texts():
    """Two networks, words, masks and classes of 41 texts."""
    ids = torch.randint(WORDS, (41, TOKENS))
    mask = (torch.arange(TOKENS) <= torch.randint(TOKENS, (41, 1))).long()
    return Text().eval(), Text().eval(), ids, mask, torch.randint(CLASSES, (41,))


def mean_loss(model, state, y, *args, **kwargs):
    """Of one network, in float64."""
    wide = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
    result = functional_call(model, wide, args, kwargs)
    return F.cross_entropy(result.logits if isinstance(result, Result) else result, y).item()


def forms(ids, mask, y):
    """One data set in all the ways in which people have it."""
    named = {"input_ids": ids, "attention_mask": mask}
    count = len(y)
    return {
        "dict": {**named, "labels": y},
        "another mapping": UserDict(named, label=y),
        "arrays": {name: value.numpy() for name, value in {**named, "targets": y}.items()},
        "lists": {name: value.tolist() for name, value in {**named, "target": y}.items()},
        "dict and targets": (named, y),
        "positions": ((ids, mask), y),
        "list of positions": ([ids, mask], y),
        "constants": ((ids, mask, None, False), y),
        "data set of dicts": Items(
            lambda i: {"y": y[i], "input_ids": ids[i], "attention_mask": mask[i]}, count
        ),
        "data set of pairs": Items(lambda i: ((ids[i], mask[i]), y[i]), count),
        "list of dicts": [
            {"input_ids": i, "attention_mask": m, "label": c} for i, m, c in zip(ids, mask, y, strict=True)
        ],
        "rows of numbers": Rows(
            lambda i: {
                "input_ids": ids[i].tolist(),
                "attention_mask": mask[i].tolist(),
                "labels": int(y[i]),
            },
            count,
        ),
        "loader of dicts": DataLoader(
            Items(lambda i: {"input_ids": ids[i], "attention_mask": mask[i], "labels": y[i]}, count),
            batch_size=7,
        ),
        "loader of pairs": DataLoader(Items(lambda i: ((ids[i], mask[i]), y[i]), count), batch_size=10),
        "loader of pairs with dicts": DataLoader(
            Items(lambda i: ({"input_ids": ids[i], "attention_mask": mask[i]}, y[i]), count), batch_size=40
        ),
    }


class TestData:
    def test_every_form_gives_the_same_sweep(self, texts):
        a, b, *data = texts
        losses = {}
        for form, given_as in forms(*data).items():
            sweep = fc.evaluate(a, b, fc.Uniform(), data=given_as, n=9, progress=False)
            assert sweep.samples == 41
            losses[form] = sweep.loss
        ids, mask, y = data
        for k in (0, 8):
            expected = mean_loss(a, sweep.mixture[k], y, ids, mask)
            assert losses["dict"][k] == pytest.approx(expected, rel=1e-5)
        assert all(np.array_equal(losses["dict"], loss) for loss in losses.values())

    @given(batch=st.integers(1, 45), n=st.integers(1, 20), cut=st.integers(1, 19))
    @settings(max_examples=10)
    def test_however_samples_and_combinations_are_cut(self, batch, n, cut):
        torch.manual_seed(batch)
        a, b = Text(), Text()
        ids, mask, y = torch.randint(WORDS, (41, 3)), torch.randint(2, (41, 3)), torch.randint(CLASSES, (41,))
        items = Items(lambda i: {"input_ids": ids[i], "attention_mask": mask[i], "labels": y[i]}, 41)
        whole = fc.evaluate(a, b, fc.Uniform(), data=({"input_ids": ids, "attention_mask": mask}, y), n=n)
        data = DataLoader(items, batch_size=batch)
        cut = min(cut, n)
        parts = [fc.evaluate(a, b, fc.Uniform(), data=data, n=cut)]
        if cut < n:
            parts.append(fc.evaluate(a, b, fc.Uniform(), data=data, start=cut, n=n - cut))
        assert np.array_equal(np.concatenate([part.loss for part in parts]), whole.loss)

    def test_streamed_in_batches(self, texts):
        a, b, ids, mask, y = texts
        loader = forms(ids, mask, y)["loader of dicts"]
        held = fc.evaluate(a, b, fc.Uniform(), data=loader, n=5)
        streamed = fc.evaluate(a, b, fc.Uniform(), data=loader, n=5, data_budget=0)
        assert np.allclose(streamed.loss, held.loss, rtol=1e-5)
        changing = DataLoader(
            Items(lambda i: {"input_ids": torch.randint(WORDS, (TOKENS,)), "labels": y[i]}, 41), batch_size=7
        )
        with pytest.raises(ValueError, match="differ from pass to pass"):
            fc.evaluate(a, b, fc.Uniform(), data=changing, n=5, data_budget=0)

    def test_nested_arguments_with_constants_and_floats(self):
        a, b = Merged(), Merged()
        left, right, y = torch.randn(23, 4), torch.randn(23, 5), torch.randint(CLASSES, (23,))
        x = (left, {"b": right}, None)
        sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=4, dtype=torch.float64)
        expected = mean_loss(a.double(), sweep.mixture[3], y, left.double(), {"b": right.double()})
        assert sweep.loss[3] == pytest.approx(expected, rel=1e-6)
        flipped = {"a": left, "more": {"b": right}, "flip": True, "labels": y}
        other = fc.evaluate(a.float(), b, fc.Uniform(), data=flipped, n=4)
        expected = mean_loss(a.double(), other.mixture[3], y, left.double(), {"b": right.double()}, flip=True)
        assert other.loss[3] == pytest.approx(expected, rel=1e-5)

    def test_lists_of_samples_stay_samples(self, pair, data):
        x, y = data
        whole = fc.evaluate(*pair, fc.Uniform(), data=(x, y), n=3)
        listed = fc.evaluate(*pair, fc.Uniform(), data=(list(x), list(y)), n=3)
        numbers = fc.evaluate(*pair, fc.Uniform(), data=(x.tolist(), y.tolist()), n=3)
        assert np.array_equal(whole.loss, listed.loss)
        assert np.array_equal(whole.loss, numbers.loss)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda d: d | {"attention_mask": d["attention_mask"][:40]},
                r"\{input_ids: int64 \[41, 7\], atten",
            ),
            (
                lambda d: {n: t for n, t in d.items() if n != "labels"},
                "exactly one of labels, label, targets",
            ),
            (lambda d: d | {"label": d["labels"]}, "exactly one of labels"),
            (lambda d: {"labels": d["labels"]}, "must have inputs by name"),
            (lambda d: d | {"labels": d["labels"][:9]}, "x has 41 samples but y has 9"),
            (lambda d: d | {"attention_mask": torch.tensor(1)}, r"x\['attention_mask'\] is a single number"),
            (
                lambda d: (*d.values(), d["labels"]),
                r"not as 4 items .*several inputs are one x: \(\(x1, x2\), y\)",
            ),
            (lambda d: d | {"extra": object()}, r"x\['extra'\] is a object"),
            (lambda d: d | {"words": d["input_ids"]}, r"does not run on \{input_ids: int64 \[4, 7\].*words"),
            (
                lambda d: d | {"attention_mask": torch.full((41, 7), torch.nan)},
                r"x\['attention_mask'\] has 287 values",
            ),
        ],
    )
    def test_what_cannot_be_read_is_shown(self, texts, change, message):
        a, b, ids, mask, y = texts
        data = change({"input_ids": ids, "attention_mask": mask, "labels": y})
        with pytest.raises((TypeError, ValueError), match=message):
            fc.evaluate(a, b, fc.Uniform(), data=data, n=2)

    @pytest.mark.parametrize(
        "other",
        [
            {"input_ids": torch.zeros(3, 9, dtype=torch.int64), "labels": torch.zeros(3, dtype=torch.int64)},
            {"input_ids": torch.zeros(3, 7), "labels": torch.zeros(3, dtype=torch.int64)},
            {"ids": torch.zeros(3, 7, dtype=torch.int64), "labels": torch.zeros(3, dtype=torch.int64)},
            {"input_ids": torch.zeros(3, 7, dtype=torch.int64), "labels": torch.zeros(3)},
            (torch.zeros(3, 7, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)),
        ],
    )
    @pytest.mark.parametrize("budget", [0, 1 << 20])
    def test_batches_that_change(self, texts, other, budget):
        a, b, ids, _, y = texts
        batches = DataLoader([{"input_ids": ids[:5], "labels": y[:5]}, other], batch_size=None)
        with pytest.raises(ValueError, match="are not built alike") as caught:
            fc.evaluate(a, b, fc.Uniform(), data=batches, n=2, data_budget=budget)
        assert "({input_ids: int64 [5, 7]}, int64 [5])" in str(caught.value)
        shown = structure(other if isinstance(other, tuple) else None)
        assert (shown if isinstance(other, tuple) else "[3, ") in str(caught.value)
        assert "pad to one length" in str(caught.value)

    def test_samples_of_different_lengths(self, texts):
        a, b, ids, _, y = texts
        items = Rows(lambda i: {"input_ids": ids[i, : 3 + i % 2], "labels": y[i]}, 41)
        for data in (items, DataLoader(items, batch_size=3)):
            with pytest.raises(ValueError, match=r"different shapes and make no batch .*\[3\].* pad texts"):
                fc.evaluate(a, b, fc.Uniform(), data=data, n=2)

    def test_runs_know_their_inputs(self, texts, tmp_path):
        a, b, ids, mask, y = texts
        data = {"input_ids": ids, "attention_mask": mask, "labels": y}
        options = {"n": 6, "out": tmp_path / "run", "progress": False}
        first = fc.evaluate(a, b, fc.Uniform(), data=data, **options)
        again = fc.evaluate(a, b, fc.Uniform(), data=forms(ids, mask, y)["loader of dicts"], **options)
        assert np.array_equal(first.loss, again.loss)
        assert np.array_equal(fc.open_sweep(tmp_path / "run", model=a).loss, first.loss)
        for changed in ({"attention_mask": 1 - mask}, {"use_cache": False}):
            with pytest.raises(ValueError, match=r"data\.sha256"):
                fc.evaluate(a, b, fc.Uniform(), data=data | changed, **options)
        with pytest.raises(ValueError, match=r"output is .*logits"):
            fc.evaluate(a, b, fc.Uniform(), data=data, output=lambda result: result.logits, **options)


Pair = namedtuple("Pair", "aux out")


@dataclass
class Two:
    out: torch.Tensor
    aux: torch.Tensor
    note: str = "text"


@pytest.mark.parametrize(
    ("make", "output"),
    [
        (lambda out, aux: {"aux": aux, "logits": out}, None),
        (lambda out, aux: [None, {"deep": (out, 3)}, aux.sum(), torch.zeros(8)], None),
        (lambda out, aux: (out, Cache(aux)), None),
        (lambda out, aux: (out, torch.zeros(4, 2)), None),
        (lambda out, aux: (aux, out), 1),
        (lambda out, aux: (aux, out), -1),
        (lambda out, aux: Pair(aux, out), "out"),
        (lambda out, aux: Pair(aux, out), 1),
        (lambda out, aux: Two(out, aux), "out"),
        (lambda out, aux: Two(out, aux), 0),
        (lambda out, aux: {"aux": aux, "scores": out}, "scores"),
        (lambda out, aux: {"aux": aux, "scores": out}, lambda result: result["scores"]),
        (lambda out, aux: Result(None, aux, None, out), "hidden"),
        (lambda out, aux: Result(None, aux, Cache(aux), out), 2),
        (lambda out, aux: 2 * out, lambda result: result / 2),
    ],
)
def test_outputs_are_found_or_chosen(make, output):
    a, b = Merged(make), Merged(make)
    left, right, y = torch.randn(12, 4), torch.randn(12, 5), torch.randint(CLASSES, (12,))
    more = {"b": right}
    sweep = fc.evaluate(a, b, fc.Uniform(), data=((left, more), y), n=3, output=output)
    plain = functional_call(Merged(), sweep.mixture[2], (left, more))
    assert sweep.loss[2] == pytest.approx(F.cross_entropy(plain, y).item(), rel=1e-5)
    assert sweep.accuracy[2] == pytest.approx((plain.argmax(1) == y).float().mean().item())
    rebuilt = sweep.rebuild(2)(left, more)  # returns what the user's network does
    assert type(rebuilt) is type(a(left, more))
    assert not a._forward_hooks
    if output is not None:
        chosen = sweep.mixture.functional_call(a, [2, 5], left, more, output=output)
        assert torch.allclose(chosen[0], plain, atol=1e-5)


class TestOutputs:
    def test_programs_of_chosen_outputs_are_kept(self):
        """Networks built alike are captured once, however many hooks torch has counted in between."""
        nets = [Merged(dict_of) for _ in range(2)]
        x = Inputs((torch.randn(5, 4), {"b": torch.randn(5, 5)}))
        one, other = (captured(choose(private_copy(net).eval(), x, "a"), x) for net in nets)
        assert one is other
        assert captured(choose(private_copy(nets[0]).eval(), x, "b"), x) is not one

    @pytest.mark.parametrize(
        ("output", "error", "message"),
        [
            (
                None,
                TypeError,
                r"returns \{aux: float32 \[4, 6\], scores: float32 \[4, 3\]\}, several.*output=",
            ),
            ("logits", ValueError, r"output='logits': the network returns \{aux: float32 .* not there"),
            (2, ValueError, "output=2: .* not there"),
            ("items", ValueError, "output='items'"),
            (lambda result: result, ValueError, r"\{aux: .*, not one tensor"),
            (1.5, TypeError, "output is a float"),
            (True, TypeError, "output is a bool"),
        ],
    )
    def test_what_is_not_there(self, output, error, message):
        nets = [Merged(lambda out, aux: {"aux": aux, "scores": out}) for _ in range(2)]
        data = ((torch.randn(12, 4), {"b": torch.randn(12, 5)}), torch.randint(CLASSES, (12,)))
        with pytest.raises(error, match=message):
            fc.evaluate(*nets, fc.Uniform(), data=data, n=3, output=output)
        with pytest.raises(error, match=message):
            fc.barrier(*nets, data=data, points=2, output=output)

    def test_programs(self, texts):
        a, _, ids, mask, _ = texts
        state = dict(a.named_parameters())
        program = fc.capture(a, ids, attention_mask=mask, output="logits")
        assert list(program.inputs) == ["input_ids", "attention_mask"]
        expected = a(ids, mask)
        assert torch.allclose(program.run(state, ids, mask), expected.logits, atol=1e-6)
        logits, hidden = fc.capture(a, ids, attention_mask=mask).run(state, ids, mask)
        assert torch.allclose(logits, expected.logits, atol=1e-6)
        assert torch.allclose(hidden, expected.hidden, atol=1e-6)
        with pytest.raises(ValueError, match=r"output='past': .* is Cache, not one tensor"):
            fc.capture(a, ids, output="past")

    def test_one_tensor_has_no_parts(self, pair, data):
        with pytest.raises(ValueError, match="returns one tensor, float32"):
            fc.evaluate(*pair, fc.Uniform(), data=data, n=3, output=0)

    def test_a_callable_loss_gets_all_of_the_result(self, texts):
        a, b, ids, mask, y = texts
        data = ({"input_ids": ids, "attention_mask": mask}, y)

        def loss(result, y):
            return F.cross_entropy(result.logits, y, reduction="none") + result.hidden.square().mean((1, 2))

        sweep = fc.evaluate(a, b, fc.Uniform(), data=data, n=3, loss=loss)
        result = functional_call(a, sweep.mixture[1], (ids, mask))
        assert sweep.loss[1] == pytest.approx(loss(result, y).mean().item(), rel=1e-5)

    def test_a_network_that_returns_something_else_is_another(self, texts):
        a, b, ids, mask, y = texts
        b.forward = lambda input_ids, attention_mask: {"logits": Text.forward(b, input_ids).logits}
        with pytest.raises(ValueError, match="theta_b computes something else"):
            fc.evaluate(a, b, fc.Uniform(), data=((ids, mask), y), n=2)

    def test_calls_return_everything_but_caches(self, texts):
        a, b, ids, mask, _ = texts
        mix = fc.Mixture(a, b, fc.Uniform(), seed=3)
        found = mix.functional_call(a, range(5), ids, attention_mask=mask)
        assert type(found) is Result
        assert found.past is None
        assert found.loss is None
        for k in range(5):
            plain = functional_call(a, mix[k], (ids, mask))
            assert torch.allclose(found.logits[k], plain.logits, atol=1e-5)
            assert torch.allclose(found.hidden[k], plain.hidden, atol=1e-5)
        logits = mix.functional_call(a, 4, input_ids=ids, attention_mask=mask, output="logits")
        assert torch.allclose(logits[0], plain.logits, atol=1e-5)
        with pytest.raises(ValueError, match="not there"):
            mix.functional_call(a, 4, ids, output="nothing")


def dict_of(out, aux):
    return {"a": out, "b": aux}


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.norm, self.head = (
            nn.Linear(4, 6),
            nn.Linear(5, 6),
            nn.BatchNorm1d(6),
            nn.Linear(6, 3),
        )

    def forward(self, a, b):
        return {"logits": self.head(F.relu(self.norm(self.left(a) * self.right(b))))}


def test_statistics_are_recomputed_on_structures():
    a, b = Normed().eval(), Normed().eval()
    left, right, y = torch.randn(30, 4), torch.randn(30, 5), torch.randint(3, (30,))
    calibration = {"a": left, "b": right}
    sweep = fc.evaluate(
        a, b, fc.Uniform(), data=calibration | {"y": y}, n=3, batch_norm="recompute", calibration=calibration
    )
    network = Normed().eval()
    network.load_state_dict(sweep.mixture[1])
    with torch.no_grad():
        h = network.left(left) * network.right(right)
    network.norm.running_mean, network.norm.running_var = h.mean(0), h.var(0)
    assert sweep.loss[1] == pytest.approx(F.cross_entropy(network(left, right)["logits"], y).item(), rel=1e-4)
    assert torch.allclose(sweep.rebuild(1).norm.running_mean, h.mean(0), atol=1e-5)


class TestAlignment:
    @pytest.mark.parametrize(("output", "sizes"), [("logits", [8, 16, 12]), (None, [8, 12])])
    @pytest.mark.parametrize("method", ["weights", "activations", "ste"])
    def test_planted_permutations_are_found(self, texts, method, output, sizes):
        """Without ``output`` all of the result stays as it is: so do the units that it has."""
        a, _, ids, mask, y = texts
        example = {"input_ids": ids[:3], "attention_mask": mask[:3]}
        b = fc.rebasin.align(a, a, "random", seed=4, example=example, output=output).model
        assert not torch.equal(b.second.weight, a.second.weight)
        data = {**example, "input_ids": ids, "attention_mask": mask, "labels": y}
        found = fc.rebasin.align(a, b, method, data=data, output=output, progress=False)
        assert [group.size for group in found.symmetries.groups] == sizes
        assert torch.equal(found.model.first.weight, a.first.weight)
        assert torch.equal(found.model.head.weight, a.head.weight)
        result = found.model(ids, mask)
        assert type(result) is Result
        assert torch.allclose(result.logits, a(ids, mask).logits, atol=1e-5)

    def test_unit_that_another_output_reads_moves_with_it(self):
        class Branches(Merged):
            def __init__(self):
                super().__init__(lambda out, aux: (out, self.side(aux)))
                self.side = nn.Linear(6, 2)

        a = Branches()
        x = (torch.randn(5, 4), {"b": torch.randn(5, 5)})
        b = fc.rebasin.align(a, a, "random", seed=1, example=x).model
        for one, other in zip(a(*x), b(*x), strict=True):
            assert torch.allclose(one, other, atol=1e-6)
        assert not torch.equal(a.side.weight, b.side.weight)

    def test_repair(self, texts):
        a, b, ids, mask, y = texts
        middle = fc.evaluate(a, b, fc.Constant(0.5), data=((ids, mask), y), n=1).rebuild(0)
        repaired = fc.rebasin.repair(
            middle, a, b, {"input_ids": ids, "attention_mask": mask}, output="logits"
        )

        def spread(network):
            with torch.no_grad():
                return network.first(network.words(ids)).flatten(0, 1).std(0)

        assert torch.allclose(spread(repaired), (spread(a) + spread(b)) / 2, rtol=1e-3)
        assert type(repaired(ids)) is Result


class TestLayers:
    def test_cuts(self, texts):
        a, b, ids, mask, y = texts
        x = {"input_ids": ids, "attention_mask": mask}
        names = [layer.name for layer in fc.stitching.layers(a, **x, output="logits")]
        assert "second" in names
        one, other = (fc.stitching.cut(net, "second", **x) for net in (a, b))
        for order in (x, dict(reversed(x.items()))):
            assert torch.allclose(one.top(one.bottom(**order)), a(**x).logits, atol=1e-5)
        with pytest.raises(ValueError, match=r"called with \(int64.*made for \{input_ids"):
            one.bottom(ids, mask)
        stitch = fc.stitching.match(one, other, x, progress=False)
        assert torch.allclose(stitch(**x), fc.stitching.match(one, other, (x,)).forward(**x))
        trained = fc.stitching.fit(
            one, other, x | {"labels": y}, fc.stitching.TaskLoss(targets="labels"), epochs=2
        )
        scores = fc.stitching.score([stitch, *trained.networks], x | {"labels": y})
        assert scores.accuracy_a[0] == pytest.approx((a(**x).logits.argmax(1) == y).float().mean().item())
        with pytest.raises(ValueError, match="labels are needed"):
            fc.stitching.score(stitch, x)

    def test_saved_stitches(self, texts, tmp_path):
        a, b, ids, mask, _ = texts
        one, other = (fc.stitching.cut(net, "second", ids, mask) for net in (a, b))
        stitch = fc.stitching.match(one, other, ((ids, mask),), progress=False)
        stitch.save(tmp_path / "stitch.safetensors")
        loaded = fc.stitching.load(tmp_path / "stitch.safetensors", a, b, ids, mask)
        assert torch.equal(loaded(ids, mask), stitch(ids, mask))

    def test_layerwise(self, texts):
        a, b, ids, mask, y = texts
        found = fc.similarity.layerwise(
            a,
            b,
            {"input_ids": ids, "attention_mask": mask, "labels": y},
            layers_a=["first", "second"],
            progress=False,
        )

        def features(network):
            first = network.first(network.words(ids))
            weight = mask.float()[..., None]
            return first, network.second((F.relu(first) * weight).sum(1) / (weight.sum(1) + 1))

        with torch.no_grad():
            for i, one in enumerate(features(a)):
                for j, other in enumerate(features(b)):
                    expected = fc.similarity.cka(one.flatten(1), other.flatten(1))
                    assert found.values[i, j] == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("layers", [(), ("second",)])
    def test_diversity(self, texts, layers):
        a, b, ids, mask, y = texts
        data = {"input_ids": ids, "attention_mask": mask, "labels": y}
        found = fc.diversity(
            fc.Mixture(a, b, fc.Uniform()), range(3), data, model=a, layers=layers, progress=False
        )
        assert found.loss[3] == pytest.approx(F.cross_entropy(a(ids, mask).logits, y).item(), rel=1e-5)
        assert found.disagreement[3, 4] == pytest.approx(
            (a(ids, mask).logits.argmax(1) != b(ids, mask).logits.argmax(1)).double().mean().item()
        )
        assert tuple(found.cka) == layers

    def test_barriers(self, texts):
        a, b, ids, mask, y = texts
        data = {"input_ids": ids, "attention_mask": mask, "labels": y}
        line = fc.barrier(a, b, data=data, points=3, progress=False)
        assert line.loss[0] == pytest.approx(F.cross_entropy(a(ids, mask).logits, y).item(), rel=1e-5)
        found = fc.transitivity(a, b, Text().eval(), data=data, points=2, progress=False)
        assert found.barriers["a–b unaligned"].ends_loss[1] == pytest.approx(
            F.cross_entropy(b(ids, mask).logits, y).item(), rel=1e-5
        )


def test_rare_fractions(texts):
    a, b, ids, mask, y = texts
    mix = fc.Mixture(a, b, fc.Uniform(), seed=1)
    options = {"model": a, "n": 100, "repeats": 2, "progress": False}
    one = fc.rare_fraction(mix, "loss", 10.0, data=((ids, mask), y), **options)
    assert one.value == 1.0


class TestCommandLine:
    @pytest.fixture
    def files(self, texts, tmp_path, monkeypatch):
        a, b, ids, mask, y = texts
        monkeypatch.chdir(tmp_path)
        for name, net in zip("ab", (a, b), strict=True):
            save_file(net.state_dict(), f"{name}.safetensors")
        named = {"input_ids": ids, "attention_mask": mask, "labels": y}
        np.savez("data.npz", **{name: value.numpy() for name, value in named.items()})
        save_file(named, "data.safetensors")
        torch.save(named, "data.pt")
        torch.save((ids, y), "pair.pt")
        torch.save([ids], "other.pt")
        return texts

    @pytest.mark.parametrize("data", ["data.npz", "data.safetensors", "data.pt"])
    def test_sweep(self, files, data, capsys):
        a, b, ids, mask, y = files
        command = ["sweep", "a.safetensors", "b.safetensors", "--model", f"{__name__}:Text", "--data", data]
        assert main([*command, "-n", "4", "--quiet", "--json", "--output", "logits", "-o", "run"]) == 0
        expected = fc.evaluate(a, b, fc.Uniform(), data=((ids, mask), y), n=4)
        assert np.array_equal(fc.open_sweep("run").loss, expected.loss)
        assert main([*command, "-n", "4", "--quiet", "--output", "1"]) == 1  # the cache
        assert "Cache, not one tensor" in " ".join(capsys.readouterr().err.split())

    def test_pairs_and_other_files(self, files, capsys):
        a, b, ids, _, y = files
        command = [
            "sweep",
            "a.safetensors",
            "b.safetensors",
            "--model",
            f"{__name__}:Text",
            "-n",
            "3",
            "--quiet",
        ]
        assert main([*command, "--data", "pair.pt", "-o", "run"]) == 0
        expected = fc.evaluate(a, b, fc.Uniform(), data=(ids, y), n=3)
        assert np.array_equal(fc.open_sweep("run").loss, expected.loss)
        assert main([*command, "--data", "other.pt"]) == 1
        assert "other.pt cannot be read as .pt: " in capsys.readouterr().err

    def test_align(self, files):
        a, *_ = files
        command = [
            "align",
            "a.safetensors",
            "b.safetensors",
            "--model",
            f"{__name__}:Text",
            "-o",
            "aligned.pt",
        ]
        assert main([*command, "--data", "data.npz", "--method", "activations"]) == 0
        a.load_state_dict(torch.load("aligned.pt"))


def test_structures_in_words():
    parts = {"a": torch.zeros(2, 3), "b": (None, [True, "word"]), "c": np.zeros(4), "d": object()}
    assert (
        structure(parts) == "{a: float32 [2, 3], b: (None, [True, 'word']), c: array float64 [4], d: object}"
    )
    assert (
        structure(Two(torch.zeros(1), torch.zeros(2)))
        == "Two(out: float32 [1], aux: float32 [2], note: 'text')"
    )
    assert structure(list(range(100))) == "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … 88 more]"
