"""Planted permutations keep the function and come back through ``align``; what only looks alike stays."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import fastcomb as fc
from fastcomb.rebasin import align, symmetries
from tests.networks import randomise
from tests.rebasin.test_symmetries import CLOSE


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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("turn", [None, halves, neighbours])
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


@pytest.mark.parametrize("way", WAYS)
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
