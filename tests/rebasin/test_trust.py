"""Aligned networks compute what B computes, beyond the example: other sizes, training mode, odd modules."""

import random
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import fastcomb as fc
from fastcomb.models import MLP
from fastcomb.rebasin import align, align_all, load, repair, symmetries
from fastcomb.utils.notice import BackendNotice
from tests.networks import randomised
from tests.quick import mostly_slow

#: Largest difference of outputs, relative to their largest entry: sums in another order, in float32.
CLOSE = 1e-4


class Made(nn.Module):
    """A network of a function and tensors or modules."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def two(make):
    return randomised(make, 0), randomised(make, 1)


def same(found, b, *inputs, training=False):
    """Whether the aligned network computes B's function on all inputs."""
    model, b = found.model.train(training), b.train(training)
    for x in inputs:
        with torch.no_grad():
            outputs, expected = model(x), b(x)
        outputs, expected = (o if isinstance(o, tuple) else (o,) for o in (outputs, expected))
        for one, other in zip(outputs, expected, strict=True):
            assert (one - other).abs().max() <= CLOSE * other.abs().max()


def moved(found):
    """Groups that were given another order."""
    return [not torch.equal(p, torch.arange(len(p))) for p in found.permutations]


def tokens(*shape):
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(3))


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def table():
    return Made(
        lambda n, ids: n.out(torch.relu(n.hid(n.tok(ids) + n.pos[: ids.shape[1]])).mean(1)),
        tok=nn.Embedding(11, 8), pos=nn.Parameter(torch.randn(16, 8)), hid=nn.Linear(8, 12),
        out=nn.Linear(12, 5),
    )  # fmt: skip


def test_rows_of_a_position_table_beyond_the_example_move_with_its_columns():
    a, b = two(table)
    found = align(a, b)  # on 8 tokens
    same(found, b, tokens(4, 16), tokens(4, 3))
    assert [g.size for g in found.symmetries.groups] == [8, 12]
    assert all(moved(found))
    assert "not reached by the example (8 of 16 entries)" in found.pinned["pos", 0]


def causal():
    def forward(n, ids):
        t = ids.shape[1]
        h = n.tok(ids)
        even, odd = h[..., ::2], h[..., 1::2]
        cos, sin = n.cos[:t], n.sin[:t]
        h = h + torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(2)
        scores = (n.q(h) @ n.k(h).transpose(1, 2)).masked_fill(n.mask[:t, :t] == 0, float("-inf"))
        return n.out(torch.relu(n.v(scores.softmax(-1) @ h)).mean(1))

    places = torch.arange(12.0)[:, None] / torch.tensor([1.0, 3.0, 9.0, 27.0])
    return Made(
        forward, tok=nn.Embedding(11, 8), q=nn.Linear(8, 6), k=nn.Linear(8, 6), v=nn.Linear(8, 10),
        out=nn.Linear(10, 3), cos=places.cos(), sin=places.sin(), mask=torch.ones(12, 12).tril(),
    )  # fmt: skip


def test_masks_and_rotary_tables_longer_than_the_example():
    a, b = (causal() for _ in range(2))
    found = align(a, b, example=tokens(2, 5))
    same(found, b, tokens(4, 12), tokens(4, 2))
    assert sorted(g.size for g in found.symmetries.groups)[-1] == 10
    assert all(torch.equal(found.state_dict[n], b.state_dict()[n]) for n in ("mask", "sin"))


def slots():
    """Memory of as many slots as there are tokens: their order does not matter, but which they are does."""

    def forward(n, ids):
        t = ids.shape[1]
        return n.out(((n.tok(ids) @ n.slots[:t].T).softmax(-1) @ n.values[:t]).mean(1))

    return Made(
        forward, tok=nn.Embedding(11, 8), slots=nn.Parameter(torch.randn(14, 8)),
        values=nn.Parameter(torch.randn(14, 6)), out=nn.Linear(6, 3),
    )  # fmt: skip


def test_entries_of_which_longer_inputs_read_more_are_pinned():
    a, b = two(slots)
    assert [g.size for g in symmetries(fc.capture(a, tokens(2, 6))).groups] == [8, 6, 6]
    found = align(a, b, "random", example=tokens(2, 6))
    assert [g.size for g in found.symmetries.groups] == [8, 6]
    assert "cut to the size of the input" in found.pinned["slots", 0]
    same(found, b, *(tokens(3, length) for length in range(1, 15)))


def long_inputs_otherwise():
    def forward(n, x):
        h = torch.relu(n.body(x))
        if x.shape[1] > 6:
            h = h.flip(-1) + n.late
        return n.out(torch.relu(n.hid(h)).mean(1))

    return Made(
        forward,
        body=nn.Linear(4, 8),
        hid=nn.Linear(8, 7),
        out=nn.Linear(7, 3),
        late=nn.Parameter(torch.randn(8)),
    )


@pytest.mark.parametrize("length", [4, 8])
def test_a_forward_that_depends_on_the_size(length):
    a, b = two(long_inputs_otherwise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BackendNotice)  # 4: the example does not reach "late"
        found = align(a, b, "random", example=normal(2, length, 4))
    same(found, b, *(normal(3, n, 4) for n in (1, 4, 6, 7, 12)))
    assert [g.size for g in found.symmetries.groups] == [7]


def head(n, x):
    h = torch.relu(n.body(x))
    return (n.out(h), n.aux(h)) if n.training else n.out(h)


def with_head(**parts):
    return Made(head, body=nn.Linear(6, 8), out=nn.Linear(8, 3), **{"aux": nn.Linear(8, 3), **parts})


def deep_head():
    def forward(n, x):
        h = n.drop(n.norm(torch.relu(n.body(x))))
        return (n.out(h), n.aux(h)) if n.training else n.out(h)

    aux = nn.Sequential(nn.Linear(8, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 3))
    return Made(
        forward,
        body=nn.Linear(6, 8),
        norm=nn.BatchNorm1d(8),
        drop=nn.Dropout(0.3),
        out=nn.Linear(8, 3),
        aux=aux,
    )


def nested_head():
    inner = Made(lambda n, h: h + n.extra(h) if n.training else h, extra=nn.Linear(8, 8))
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), inner, nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize("make", [with_head, deep_head, nested_head])
def test_heads_that_only_training_runs_move_with_the_units(make):
    a, b = two(make)
    found = align(a, b, "random", example=normal(5, 6))
    assert moved(found)[0]
    same(found, b, normal(5, 6))
    for model in (found.model, b):  # no chance, and statistics as they are
        for part in model.modules():
            part.train = lambda mode=True, part=part: part
            part.training = not isinstance(part, (nn.BatchNorm1d, nn.Dropout))
    same(found, b, normal(5, 6), training=True)


def random_head():
    def forward(n, x):
        h = F.dropout(torch.relu(n.body(x)), 0.3, n.training)
        return (n.out(h), n.aux(h)) if n.training else n.out(h)

    return Made(forward, body=nn.Linear(6, 8), out=nn.Linear(8, 3), aux=nn.Linear(8, 3))


def test_parameters_that_cannot_be_reached_are_named():
    a, b = two(random_head)
    with pytest.warns(BackendNotice, match=r"'aux.weight', 'aux.bias' are not reached by the example"):
        found = align(a, b, example=normal(5, 6))
    assert found.pinned["aux.weight", 1] == "not reached by the example"
    same(found, b, normal(5, 6))
    assert torch.equal(found.state_dict["aux.weight"], b.aux.weight)


def shifted_in_training():
    return Made(
        lambda n, x: n.out(torch.relu(n.hid(torch.relu(n.body(x)).roll(int(n.training), 1)))),
        body=nn.Linear(6, 8), hid=nn.Linear(8, 7), out=nn.Linear(7, 3),
    )  # fmt: skip


def test_training_mode_that_treats_units_otherwise():
    a, b = two(shifted_in_training)
    found = align(a, b, "random", example=normal(5, 6))
    assert [g.size for g in found.symmetries.groups] == [7]
    same(found, b, normal(5, 6))
    same(found, b, normal(5, 6), training=True)


class LN32(nn.LayerNorm):  # as in CLIP
    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


def cast_to(kind):
    return Made(lambda n, x: {
        "own type": lambda: x.to(x.dtype),
        "float": lambda: x.float(),
        "type_as": lambda: x.type_as(x),
        "double and back": lambda: x.double().to(torch.float32),
        "compared": lambda: x * (x > 0).to(x.dtype) + x,
        "constant": lambda: x * torch.tensor([2.0], dtype=torch.float32) + torch.zeros(1),
        "asserted": lambda: (torch._assert(x.ndim == 2, "two"), x)[1],
    }[kind]())  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["own type", "float", "type_as", "double and back", "compared", "constant", "asserted"]
)
def test_casts_keep_their_symmetries(kind):
    a, b = two(lambda: nn.Sequential(nn.Linear(6, 16), cast_to(kind), nn.ReLU(), nn.Linear(16, 3)))
    found = align(a, b, "random")
    assert [g.size for g in found.symmetries.groups] == [16]
    same(found, b, normal(9, 6))


def test_norms_in_float32_as_in_clip():
    a, b = two(
        lambda: nn.Sequential(
            nn.Linear(6, 16),
            nn.ReLU(),
            nn.Linear(16, 8),
            LN32(8),
            nn.Linear(8, 16),
            nn.ReLU(),
            nn.Linear(16, 3),
        )
    )
    found = align(a, b, "random")
    assert [g.size for g in found.symmetries.groups] == [16, 8, 16]
    same(found, b, normal(9, 6))
    half = [model.bfloat16() for model in (a, b)]
    for model in half:
        model[3].float()
    assert [g.size for g in align(*half, example=normal(4, 6).bfloat16()).symmetries.groups] == [16, 8, 16]


def only_float32(n, x):
    if x.dtype is not torch.float32:
        raise TypeError("float32 only")
    return n.out(torch.relu(n.body(x)))


def test_networks_that_run_in_one_type_only_are_compared_in_it():
    a, b = two(lambda: Made(only_float32, body=nn.Linear(6, 16), out=nn.Linear(16, 3)))
    found = align(a, b, "random", example=normal(4, 6))
    assert [g.size for g in found.symmetries.groups] == [16]
    same(found, b, normal(9, 6))


def test_a_misread_symmetry_is_found_in_one_type_only_too(monkeypatch):
    module = sys.modules["fastcomb.rebasin.verified"]
    right = module.symmetries

    def wrong(program):
        found = right(program)
        less = type(found.groups[0])(found.groups[0].size, found.groups[0].members[:-1])
        return type(found)((less, *found.groups[1:]), found.pinned)

    monkeypatch.setattr(module, "symmetries", wrong)
    a, b = two(lambda: Made(only_float32, body=nn.Linear(6, 16), out=nn.Linear(16, 3)))
    with pytest.raises(RuntimeError, match="on the example, so a symmetry was misread"):
        align(a, b, example=normal(4, 6))


def old(norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(
            norm(nn.Linear(4, 8)), nn.ReLU(), norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 3)
        )


@pytest.mark.parametrize(
    "norm",
    mostly_slow(
        [
            nn.utils.weight_norm,
            nn.utils.spectral_norm,
            parametrizations.weight_norm,
            parametrizations.spectral_norm,
        ],
        *(0, 3),
    ),
)
def test_normalised_weights(norm):
    a, b = old(norm).eval(), old(norm).eval()
    a(normal(2, 4)), b(normal(2, 4))  # hooks keep weights that torch cannot deepcopy
    found = align(a, b, "random", example=normal(5, 4))
    assert [g.size for g in found.symmetries.groups] == [8, 6]
    same(found, b, normal(9, 4))
    again = found.followed_by(found.symmetries.random(5))
    same(again, b, normal(9, 4))


class Versioned(nn.Sequential):
    """As torchvision's mnasnet: refuses state dicts that do not say their version."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        assert metadata.get("version") == 2, "no version"
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def versioned():
    return Versioned(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_metadata_of_state_dicts_are_kept(tmp_path):
    a, b = two(versioned)
    found = align(a, b)
    given = align(a, {n: t.clone() for n, t in b.state_dict().items()})
    read = load(found.save(tmp_path / "aligned.safetensors"), a)
    torch.save(found.state_dict, tmp_path / "aligned.pt")
    kept = torch.load(tmp_path / "aligned.pt", weights_only=True)
    further = found.followed_by(found.symmetries.identity())
    versioned().load_state_dict(found.symmetries.permute(b.state_dict(), found.permutations))
    for state in (found.state_dict, given.state_dict, read.state_dict, kept, further.state_dict):
        model = versioned()
        model.load_state_dict(state)
        assert all(torch.equal(t, found.state_dict[n]) for n, t in model.state_dict().items())


def test_buffers_that_moved_are_named_and_statistics_move():
    def make():
        return Made(
            lambda n, x: n.out(torch.relu(n.norm(n.body(x))) * n.scale + n.shift[0]),
            body=nn.Linear(6, 12), norm=nn.BatchNorm1d(12), out=nn.Linear(12, 3), scale=torch.rand(12),
            shift=torch.rand(3, 12),
        )  # fmt: skip

    a, b = two(make)
    found = align(a, b, "random", example=normal(5, 6))
    assert found.moved_buffers == ("scale", "shift", "norm.running_mean", "norm.running_var")
    (order,) = found.permutations
    for name in ("norm.running_mean", "norm.running_var", "scale"):
        assert torch.equal(found.state_dict[name], b.state_dict()[name][order])
    same(found, b, normal(9, 6))
    assert align(*two(lambda: MLP((4, 5, 2)))).moved_buffers == ()


def test_norms_without_running_statistics():
    a, b = two(
        lambda: nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16, track_running_stats=False), nn.ReLU(), nn.Linear(16, 10)
        )
    )
    for example in (normal(8, 6), normal(1, 6), None):
        found = align(a, b, "random", example=example)
        assert [g.size for g in found.symmetries.groups] == [16]
        same(found, b, normal(9, 6))


def test_modules_and_buffers_with_two_names():
    def make():
        net = Made(
            lambda n, x: n.out(n.scale * torch.relu(n.again(n.hid(torch.relu(n.norm(n.body(x))))))),
            body=nn.Linear(6, 12), norm=nn.BatchNorm1d(12), hid=nn.Linear(12, 12), out=nn.Linear(12, 3),
            scale=torch.rand(12),
        )  # fmt: skip
        net.again = net.norm
        net.register_buffer("other", net.scale)
        return net

    a, b = two(make)
    for theta in (b, b.state_dict()):
        found = align(a, theta, "random", example=normal(5, 6))
        assert moved(found) == [True]
        same(found, b, normal(9, 6))
        for one, other in (("norm.running_var", "again.running_var"), ("scale", "other")):
            assert torch.equal(found.state_dict[one], found.state_dict[other])
        assert found.model.again is found.model.norm


def test_complex_parameters_move_with_the_units():
    def make():
        return Made(
            lambda n, x: n.out((torch.relu(n.body(x)).to(torch.cfloat) @ n.w).abs()),
            body=nn.Linear(6, 12), w=nn.Parameter(torch.randn(12, 8, dtype=torch.cfloat)),
            out=nn.Linear(8, 3),
        )  # fmt: skip

    a, b = two(make)
    for method in ("random", "weights", "frank_wolfe", "activations"):
        found = align(a, b, method, data=normal(40, 6))
        assert [g.size for g in found.symmetries.groups] == [12, 8]
        same(found, b, normal(9, 6))


def test_networks_without_a_module_take_their_architecture(tmp_path):
    a, b = two(table)
    torch.save(a.state_dict(), tmp_path / "a.pt")
    expected = align(a, b)
    for one, other, model in (
        (a.state_dict(), b.state_dict(), table()),
        (tmp_path / "a.pt", b, None),
        (str(tmp_path / "a.pt"), b.state_dict(), table()),
        (a, b, table()),
    ):
        found = align(one, other, model=model)
        assert all(torch.equal(t, expected.state_dict[n]) for n, t in found.state_dict.items())
    joint = align_all([tmp_path / "a.pt", b.state_dict()], model=table(), example=tokens(2, 8))
    same(joint[1], b, tokens(4, 16))
    with pytest.raises(TypeError, match="pass a module of the architecture as model="):
        align(a.state_dict(), b.state_dict())
    other = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2))
    with pytest.raises(ValueError, match="model and model_b are different architectures"):
        align(MLP((4, 5, 2)), other, model=MLP((4, 5, 2)))


def recurrent(start):
    def forward(n, x):
        h = start(x)
        for t in range(x.shape[1]):
            h = torch.tanh(n.x(x[:, t]) + n.h(h))
        return n.out(h)

    return Made(forward, x=nn.Linear(5, 12), h=nn.Linear(12, 12), out=nn.Linear(12, 4))


STARTS = {
    "new_zeros": lambda x: x.new_zeros(x.shape[0], 12),
    "zeros": lambda x: torch.zeros(x.shape[0], 12),
    "ones": lambda x: torch.ones(len(x), 12) * 2 + 1,
    "full": lambda x: torch.full((1, 12), 0.5).expand(len(x), 12),
    "zeros_like": lambda x: torch.zeros_like(x[:, :1].expand(-1, 12, -1)[..., 0]),
    "transposed": lambda x: x.new_zeros(12, x.shape[0]).T,
}


@pytest.mark.parametrize("start", STARTS)
def test_constant_first_states_are_the_same_in_every_order(start):
    a, b = two(lambda: recurrent(STARTS[start]))
    found = align(a, b, "random", example=normal(3, 3, 5))
    assert [g.size for g in found.symmetries.groups] == [12]
    same(found, b, normal(7, 3, 5))


def test_constants_do_not_tie_what_reads_them():
    def forward(n, x):
        zeros = x.new_zeros(len(x), 8)
        one, other = n.one(x) + zeros, n.other(x) + zeros
        return n.out(torch.cat([torch.relu(one), zeros, torch.tanh(other)], 1))

    a, b = two(lambda: Made(forward, one=nn.Linear(5, 8), other=nn.Linear(5, 8), out=nn.Linear(24, 3)))
    found = align(a, b, "random", example=normal(3, 5))
    assert [g.size for g in found.symmetries.groups] == [8, 8, 8]  # the last: columns that meet zeros
    same(found, b, normal(7, 5))


PRODUCTS = {
    ".T": lambda n, h: n.out(h @ n.w.T),
    ".mT": lambda n, h: n.out(h @ n.w.mT),
    "addmm": lambda n, h: n.out(torch.addmm(n.b, h, n.w.t())),
    "addmm, weighted": lambda n, h: n.out(torch.addmm(n.b, h, n.w.t(), beta=0.5, alpha=2)),
    "baddbmm": lambda n, h: n.out(torch.baddbmm(n.b, h[None], n.w.t()[None])[0]),
    "vector": lambda n, h: (h @ n.v)[:, None] + n.out(h @ n.w.t()),
    "mv": lambda n, h: torch.mv(h, n.v)[:, None] + n.out(h @ n.w.t()),
    "vector first": lambda n, h: n.out(h @ n.w.t()) + n.v @ h.T[:, :, None].sum(1),
    "outer": lambda n, h: n.out(h @ (n.w + torch.outer(n.b, n.v)).T),
    "low rank": lambda n, h: n.out(h @ (n.w + n.up @ n.down).T),
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_products_with_transposed_parameters_and_vectors(product):
    a, b = two(
        lambda: Made(
            lambda n, x: PRODUCTS[product](n, torch.relu(n.a(x))),
            a=nn.Linear(5, 12), w=nn.Parameter(torch.randn(8, 12)), v=nn.Parameter(torch.randn(12)),
            b=nn.Parameter(torch.randn(8)), out=nn.Linear(8, 3), up=nn.Parameter(torch.randn(8, 2)),
            down=nn.Parameter(torch.randn(2, 12)),
        )
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BackendNotice)  # of the parameters that a product does not take
        found = align(a, b, "random", example=normal(4, 5))
    assert [g.size for g in found.symmetries.groups if g.size > 2] == [12, 8]
    assert (product == "low rank") == (2 in [g.size for g in found.symmetries.groups])
    same(found, b, normal(9, 5))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, lambda n: nn.InstanceNorm1d(n, track_running_stats=True)])
def test_repair_averages_statistics_over_calls(norm):
    def make():
        return Made(
            lambda n, x: n.out(torch.relu(n.norm(n.one(x))) + torch.relu(n.norm(n.one(n.two(3 * x))))),
            one=nn.Conv1d(6, 12, 1), two=nn.Conv1d(6, 6, 1, bias=False), norm=norm(12),
            out=nn.Conv1d(12, 4, 1),
        )  # fmt: skip

    a, b = two(make)
    model = make().eval()
    model.load_state_dict(
        {n: (t + b.state_dict()[n]) / 2 if t.is_floating_point() else t for n, t in a.state_dict().items()}
    )
    x = normal(40, 6, 7)
    fixed = repair(model, a, b, x)
    seen = []
    fixed.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    fixed(x)
    means, variances = [], []
    for value in seen:
        # per channel over the batch, or per sample and channel and then over samples
        rows = [value.movedim(1, 0).flatten(1)] if norm is nn.BatchNorm1d else list(value)
        means.append(torch.stack([row.mean(1) for row in rows]).mean(0))
        variances.append(torch.stack([row.var(1) for row in rows]).mean(0))
    assert len(seen) == 2
    torch.testing.assert_close(fixed.norm.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fixed.norm.running_var, torch.stack(variances).mean(0), rtol=1e-4, atol=1e-5)
    if norm is nn.BatchNorm1d:
        updated = make()
        updated.load_state_dict(fixed.state_dict())
        torch.optim.swa_utils.update_bn([x], updated)
        torch.testing.assert_close(fixed.norm.running_var, updated.norm.running_var, rtol=1e-4, atol=1e-5)


def attend(n, h):
    mask = ~n.mask[: h.shape[1], : h.shape[1]]
    return h + n.v((n.q(h) @ h.mT).masked_fill(mask, float("-inf")).softmax(-1) @ h)


STEPS = {
    "linear": lambda w: (nn.Linear(w, w), lambda n, h: torch.tanh(n(h))),
    "residual": lambda w: (nn.Linear(w, w), lambda n, h: h + torch.relu(n(h))),
    "shared": lambda w: (nn.Linear(w, w), lambda n, h: torch.tanh(n(torch.relu(n(h))))),
    "cast": lambda w: (LN32(w), lambda n, h: n(h)),
    "positions": lambda w: (
        Made(lambda n, h: h + n.table[: h.shape[1]], table=nn.Parameter(torch.randn(12, w))),
        lambda n, h: n(h),
    ),
    "mask": lambda w: (
        Made(lambda n, h: h * n.mask[: h.shape[1], :1] + h * n.mask[0], mask=torch.rand(12, w)),
        lambda n, h: n(h),
    ),
    "causal": lambda w: (
        Made(
            attend,
            q=nn.Linear(w, w), v=nn.Linear(w, w), mask=torch.ones(12, 12).tril().bool(),
        ),
        lambda n, h: n(h),
    ),
    "zeros": lambda w: (
        nn.Linear(2 * w, w),
        lambda n, h: torch.relu(n(torch.cat([h, torch.zeros_like(h)], -1))),
    ),
    "transposed": lambda w: (
        Made(lambda n, h: torch.relu(h @ n.weight.T), weight=nn.Parameter(torch.randn(w, w) / w**0.5)),
        lambda n, h: n(h),
    ),
}  # fmt: skip


class Chain(nn.Module):
    """Steps in a row on [N, T, 4], and a head on one of them that only training runs."""

    def __init__(self, names, width, aside):
        super().__init__()
        steps = [STEPS[name](width) for name in names]
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)
        self.parts = nn.ModuleList(part for part, _ in steps)
        self.functions = [function for _, function in steps]
        self.aside, self.aux = aside, nn.Linear(width, 2)

    def forward(self, x):
        h = torch.relu(self.first(x))
        heads = []
        for i, (part, function) in enumerate(zip(self.parts, self.functions, strict=True)):
            h = function(part, h)
            if i == self.aside and self.training:
                heads.append(self.aux(h))
        return (self.last(h), *heads)


@pytest.mark.parametrize("seed", mostly_slow(range(12), 0, 1, 2, 3))
def test_random_networks_keep_their_function_beyond_the_example(seed):
    draw = random.Random(seed)
    names = [draw.choice(sorted(STEPS)) for _ in range(draw.randint(2, 4))]
    make = lambda: Chain(names, draw_width, aside)  # noqa: E731
    draw_width, aside = draw.choice([5, 6, 8]), draw.randrange(len(names))
    torch.manual_seed(seed)
    a, b = make().eval(), make().eval()
    found = align(a, b, "random", seed=seed, example=normal(2, draw.choice([4, 5]), 4))
    assert len(found.symmetries.groups) >= 1
    for training in (False, True):
        same(found, b, *(normal(3, length, 4) for length in (1, 5, 12)), training=training)


class Squared(nn.Module):
    """Products of all pairs of features that are means over tokens: a dimension that meets itself."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(4, 6), nn.Linear(36, 3)

    def forward(self, x):
        h = self.inner(x.reshape(-1, 4)).view(-1, 5, 6).mean(1)
        return self.last((h[:, :, None] * h[:, None, :]).flatten(1))


class OneStep(nn.Module):
    """Units that are free for one step, and not for more."""

    def __init__(self):
        super().__init__()
        self.layer, self.places = nn.LSTM(2, 5), nn.Parameter(torch.randn(3, 5))

    def forward(self, x):
        return torch.cdist(self.layer(x.transpose(0, 1))[1][0][0], self.places)


@pytest.mark.parametrize(("make", "shape"), [(Squared, (7, 5, 4)), (OneStep, (7, 1, 2))])
def test_networks_without_symmetries_that_hold_are_refused(make, shape):
    a, b = make().eval(), make().eval()
    with pytest.raises(ValueError, match="no permutation symmetry that could be used"):
        align(a, b, data=torch.randn(shape), progress=False)
