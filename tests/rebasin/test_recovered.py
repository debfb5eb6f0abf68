"""Planted permutations keep the function and come back through ``align``; what only looks alike stays."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import fastcomb as fc
from fastcomb.rebasin import align, symmetries
from tests.networks import randomise
from tests.quick import mostly_slow
from tests.rebasin.test_symmetries import CLOSE, Made


def recovered(make, *x, sizes=None):
    """Plants a permutation that moves all groups; returns the symmetries."""
    torch.manual_seed(0)
    model = randomise(make(), 0).double().eval()
    x = [t.double() if t.is_floating_point() else t for t in x]
    groups = symmetries(fc.capture(model, *x))
    if sizes is not None:
        assert sorted(g.size for g in groups.groups) == sorted(sizes), str(groups)
    planted = [torch.roll(p, 1) if torch.equal(p, p.sort().values) else p for p in groups.random(3)]
    state = groups.permute(model.state_dict(), planted)
    with torch.no_grad():
        before, after = model(*x), functional_call(model, state, tuple(x))
    assert (before - after).abs().max() <= CLOSE * before.abs().max()
    if groups.groups:
        example = x[0] if len(x) == 1 else tuple(x)
        found = align(model, state, example=example)
        wrong = [n for n, t in model.state_dict().items() if not torch.equal(t, found.state_dict[n])]
        assert not wrong
    return groups


def members(groups, size):
    """The tensors that each group of a size moves."""
    return [{m.name for m in g.members} for g in groups.groups if g.size == size]


def halves(x):
    """Rotary positions, whose pairs of features are the same places of two halves."""
    angles = torch.arange(x.shape[-2])[:, None] / 100 ** torch.linspace(0, 1, x.shape[-1] // 2, dtype=x.dtype)
    cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
    return x * cos + torch.cat([-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]], -1) * sin


def neighbours(x):
    """Rotary positions, whose pairs of features are neighbours."""
    angles = torch.arange(x.shape[-2])[:, None] / 100 ** torch.linspace(0, 1, x.shape[-1] // 2, dtype=x.dtype)
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def interleaved(k, count):
    return k.repeat_interleave(count, 1)


def expanded(k, count):
    n, groups, length, size = k.shape
    return k[:, :, None].expand(n, groups, count, length, size).reshape(n, groups * count, length, size)


class Grouped(nn.Module):
    """Attention of six heads of four features, of which several share a key and a value."""

    def __init__(self, groups=2, repeat=interleaved, turn=lambda x: x, written=True, scale=1.0):
        super().__init__()
        self.groups, self.repeat, self.turn, self.written, self.scale = groups, repeat, turn, written, scale
        self.first, self.last = nn.Linear(5, 10), nn.Linear(10, 3)
        self.q, self.k, self.v = (nn.Linear(10, 4 * n) for n in (6, groups, groups))
        self.out = nn.Linear(24, 10)

    def forward(self, x):
        h = torch.relu(self.first(x))
        q, k, v = (part(h).unflatten(-1, (-1, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k = self.turn(q) * self.scale, self.turn(k)
        if self.repeat is not None:
            k, v = self.repeat(k, 6 // self.groups), self.repeat(v, 6 // self.groups)
        if self.written:
            seen = (q @ k.mT).softmax(-1) @ v
        else:
            seen = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.repeat is None)
        h = h + self.out(seen.transpose(1, 2).flatten(2))
        return self.last(torch.relu(h).mean(1))


WAYS = {
    "written out, interleaved": (interleaved, True),
    "written out, expanded": (expanded, True),
    "one operation, expanded": (expanded, False),
    "one operation, grouped": (None, False),
}


@pytest.mark.parametrize("way", mostly_slow(WAYS, 0, 2))
@pytest.mark.parametrize("turn", mostly_slow([None, halves, neighbours], 0, 1))
def test_query_heads_that_share_keys_and_values(way, turn):
    repeat, written = WAYS[way]
    groups = recovered(
        lambda: Grouped(repeat=repeat, turn=turn or (lambda x: x), written=written), torch.randn(3, 7, 5),
        # the stream, groups of heads; in each its heads, the features of its key, those of its value
        sizes=[10, 2, 3, 3, *[4] * (2 if turn else 4)],
    )  # fmt: skip
    (whole,) = members(groups, 2)
    assert whole == {f"{m}.{p}" for m in "qkv" for p in ("weight", "bias")} | {"out.weight"}
    assert {"q.weight", "q.bias", "out.weight"} in members(groups, 3)
    assert ({"q.weight", "q.bias", "k.weight", "k.bias"} in members(groups, 4)) == (turn is None)
    assert {"v.weight", "v.bias", "out.weight"} in members(groups, 4)


@pytest.mark.parametrize("way", mostly_slow(WAYS, 0, 2))
def test_query_heads_that_share_one_key_and_value(way):
    repeat, written = WAYS[way]
    make = lambda: Grouped(1, repeat, written=written)  # noqa: E731
    recovered(make, torch.randn(3, 7, 5), sizes=[10, 6, 4, 4])


def test_groups_of_heads_that_are_not_alike_stay():
    # heads of different temperatures: none may move, but the features of keys and values may
    scale = torch.linspace(1, 2, 6, dtype=torch.float64)[:, None, None]
    recovered(lambda: Grouped(scale=scale), torch.randn(3, 7, 5), sizes=[10, 4, 4, 4, 4])
    # two temperatures: in each group two heads are alike
    scale = torch.tensor([1, 2, 1, 2, 1, 1.0], dtype=torch.float64)[:, None, None]
    recovered(lambda: Grouped(scale=scale), torch.randn(3, 7, 5), sizes=[10, 2, 2, 4, 4, 4, 4])


class Crossed(Grouped):
    """Heads that take the keys of the groups in turn, but the values in order."""

    def forward(self, x):
        h = torch.relu(self.first(x))
        q, k, v = (part(h).unflatten(-1, (-1, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        seen = (q @ k.repeat(1, 3, 1, 1).mT).softmax(-1) @ interleaved(v, 3)
        return self.last(torch.relu(h + self.out(seen.transpose(1, 2).flatten(2))).mean(1))


def test_heads_that_share_keys_otherwise_than_values_stay():
    groups = recovered(Crossed, torch.randn(3, 7, 5))
    assert all(g.size == 4 or "q.weight" not in {m.name for m in g.members} for g in groups.groups[1:])


def test_features_that_one_group_of_heads_has_in_another_order():
    def rolled(k, count):
        k = interleaved(k, count)
        return torch.cat([k[:, :3], k[:, 3:].roll(1, -1)], 1) if k.shape[-1] == 4 else k

    groups = recovered(lambda: Grouped(repeat=rolled), torch.randn(3, 7, 5))
    assert 2 not in [g.size for g in groups.groups]


class Fused(nn.Module):
    """Attention whose heads have queries, keys and values one after the other, as GPT-NeoX's have."""

    def __init__(self, turned=4, turn=halves):
        super().__init__()
        self.turned, self.turn = turned, turn
        self.first, self.last = nn.Linear(5, 10), nn.Linear(10, 3)
        self.qkv, self.out = nn.Linear(10, 3 * 3 * 6), nn.Linear(18, 10)

    def forward(self, x):
        h = torch.relu(self.first(x))
        q, k, v = self.qkv(h).unflatten(-1, (3, 18)).transpose(1, 2).chunk(3, -1)
        q, k = (torch.cat([self.turn(t[..., : self.turned]), t[..., self.turned :]], -1) for t in (q, k))
        seen = F.scaled_dot_product_attention(q, k, v)
        return self.last(torch.relu(h + self.out(seen.transpose(1, 2).flatten(2))).mean(1))


@pytest.mark.parametrize("turn", mostly_slow([halves, neighbours], 0))
def test_fused_heads_that_turn_some_features(turn):
    # the stream, heads, in each of them the two features that are not turned, and those of values
    groups = recovered(lambda: Fused(turn=turn), torch.randn(3, 7, 5), sizes=[10, 3, *[2, 6] * 3])
    (heads,) = (g for g in groups.groups if g.size == 3)
    index = next(m.index for m in heads.members if m.name == "qkv.weight" and m.dim == 0)
    assert torch.equal(index.sort().values, torch.arange(54).reshape(3, 18))


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 1, **options)


IMAGE, ROW, SEQUENCE = (3, 4, 6, 6), (5, 4), (3, 7, 4)


def images(function, middle=8, **parts):
    """A function of the channels between two convolutions, of 8 and ``middle`` channels, on IMAGE."""
    return (
        lambda: Made(
            lambda n, x: n.last(function(n, torch.relu(n.first(x)))).mean((2, 3)),
            first=conv(4, 8), last=conv(middle, 3), **{name: part() for name, part in parts.items()},
        ),
        IMAGE,
    )  # fmt: skip


def rows(function, middle=8, shape=ROW, **parts):
    """A function of the features between two linear layers."""
    return (
        lambda: Made(
            lambda n, x: n.last(function(n, torch.relu(n.first(x)))),
            first=nn.Linear(4, 8), last=nn.Linear(middle, 3), **{n: part() for n, part in parts.items()},
        ),
        shape,
    )  # fmt: skip


# network and input → sizes of its groups, derived by hand
FOUND = {
    "largest of places": (*rows(lambda n, h: h.max(1).values, shape=SEQUENCE), [8]),
    "largest of places, by two axes": (*images(lambda n, h: h.max(2, keepdim=True)[0]), [8]),
    "largest pooled": (*images(lambda n, h: F.adaptive_max_pool2d(h, 2)), [8]),
    "some largest": (*rows(lambda n, h: h.topk(3, 1).values.mean(1), shape=SEQUENCE), [8]),
    "sorted units": (*rows(lambda n, h: h.sort(-1).values), [8]),
    "largest of two": (*rows(lambda n, h: torch.max(h, n.other(h)), other=lambda: nn.Linear(8, 8)), [8]),
    "padded channels": (*images(lambda n, h: F.pad(h, (1, 1, 0, 0, 2, 1)), 11), [8]),
    "channels as pixels": (*images(lambda n, h: F.pixel_shuffle(h, 2), 2), [2]),
    "pixels as channels": (*images(lambda n, h: F.pixel_unshuffle(h, 2), 32), [8]),
    "every channel twice": (*images(lambda n, h: h.repeat_interleave(2, 1), 16), [8]),
    "all channels twice": (*images(lambda n, h: h.repeat(1, 2, 1, 1), 16), [8]),
    "expanded like another": (
        *images(lambda n, h: h * h.mean((2, 3), keepdim=True).sigmoid().expand_as(h)), [8],
    ),
    "shaped like another": (*images(lambda n, h: h.flatten(2).softmax(-1).reshape_as(h)), [8]),
    "chosen by a mask": (*rows(lambda n, h: torch.where(h > 0.1, h, 0.3 * h.sin())), [8]),
    "chosen, or a number": (*rows(lambda n, h: torch.where(h > 0.1, h, -1.0)), [8]),
    "masked units": (*rows(lambda n, h: h.masked_fill((h > 0.1) & (h < 2.0), 0.5)), [8]),
    "rolled places": (*images(lambda n, h: h.roll((1, 2), (2, 3)).cumsum(2)), [8]),
    "with a table that is looked up": (
        *images(lambda n, h: h + n.table[:, torch.arange(6).outer(torch.ones(6)).long()],
                table=lambda: nn.Parameter(torch.randn(8, 6))),
        [8],
    ),
    "variance and mean": (
        *images(lambda n, h: torch.cat(torch.var_mean(h, (2, 3), keepdim=True), 1), 16), [8],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_operations_that_permutations_pass(name):
    make, shape, sizes = FOUND[name]
    recovered(make, torch.randn(shape), sizes=sizes)


# what looks like one of those, and sizes of the groups that are right
STAY = {
    "the number of the largest": (*rows(lambda n, h: h * h.max(-1, keepdim=True).indices), []),
    "numbers of sorted units": (*rows(lambda n, h: h.sort(-1).indices * h), []),
    "the number of the largest of all": (*rows(lambda n, h: h + h.argmax(-1, keepdim=True)), []),
    "sorted units beside them": (*rows(lambda n, h: h + h.sort(-1).values), []),
    "rolled channels": (*images(lambda n, h: h.roll(1, 1)), []),
    "running sums of channels": (*images(lambda n, h: h.cumsum(1)), []),
    "pixels of channels in order": (
        *images(lambda n, h: F.pixel_shuffle(h, 2) * torch.arange(12.0).to(h.dtype), 2), [2],
    ),
    "copies that are scaled apart": (
        *images(lambda n, h: h.repeat_interleave(2, 1) * torch.arange(16.0).to(h)[:, None, None].fmod(2), 16),
        [8],
    ),
    "a table looked up by its channels": (
        *images(lambda n, h: h[:, torch.tensor([3, 1, 4, 1, 5, 2, 6, 0])]), [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STAY)
def test_operations_that_some_permutations_do_not_pass(name):
    make, shape, sizes = STAY[name]
    recovered(make, torch.randn(shape), sizes=sizes)


# what is read of the states [N, T, 12] of two directions → its width, sizes of the groups
RECURRENT = {
    "the last states": (lambda h: h[:, -1], 12, [6, 6]),
    "the mean of states": (lambda h: h.mean(1), 12, [6, 6]),
    "the sum of directions": (lambda h: (h[..., :6] + h[..., 6:]).amax(1), 6, [6]),
    "directions, one of them rolled": (lambda h: (h[..., :6] + h[..., 6:].roll(1, -1)).amax(1), 6, []),
    "running sums of units": (lambda h: h.cumsum(-1)[:, -1], 12, []),
}


@pytest.mark.parametrize(
    ("make", "way"),
    [
        *((nn.RNN, way) for way in RECURRENT),
        (nn.LSTM, "the last states"),
        pytest.param(nn.GRU, "the last states", marks=pytest.mark.slow),
    ],
)
def test_units_of_recurrent_layers(make, way):
    read, width, sizes = RECURRENT[way]

    def net():
        return Made(
            lambda n, x: n.out(read(n.body(x)[0])), out=nn.Linear(width, 2),
            body=make(3, 6, bidirectional=True, batch_first=True),
        )  # fmt: skip

    recovered(net, torch.randn(3, 2, 3), sizes=sizes)
