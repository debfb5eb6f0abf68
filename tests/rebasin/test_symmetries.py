"""Permutation symmetries: those derived by hand are found, and every one preserves the function."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from torch import nn
from torch.func import functional_call

import fastcomb as fc
from fastcomb.models import MLP, ViT
from fastcomb.rebasin import symmetries
from tests.networks import FAMILIES, MAKERS, VIT, inputs, randomise, randomised
from tests.quick import mostly_slow

#: Of the outputs' size; float64 rounds at 1e-16, and sums in another order gather some hundred of these.
CLOSE = 1e-11


def check(model, x, least=1):
    """Random permutations of all groups move weights and keep the function; returns the symmetries."""
    model, x = randomise(model.double(), 0), x.double() if x.is_floating_point() else x
    groups = symmetries(fc.capture(model, x))
    assert len(groups.groups) >= least, str(groups)
    for number, group in enumerate(groups.groups):
        assert group.size > 1
        assert group.members, number
    with torch.no_grad():
        before = model(x)
        state = groups.permute(model.state_dict(), groups.random(1))
        moved = sum(not torch.equal(state[n], t) for n, t in model.state_dict().items())
        after = functional_call(model, state, (x,))
    assert moved >= len(groups.groups) / 4
    assert (before - after).abs().max() <= CLOSE * before.abs().max()
    return groups


def kept(groups, model, x):
    """Every two units of every group may change places alone."""
    x = x.double()
    with torch.no_grad():
        before = model(x)
        for number, group in enumerate(groups.groups):
            for one, other in itertools.combinations(range(group.size), 2):
                matching = groups.identity()
                matching[number][[one, other]] = torch.tensor([other, one])
                after = functional_call(model, groups.permute(model.state_dict(), matching), (x,))
                assert (before - after).abs().max() <= CLOSE * before.abs().max(), (number, one, other)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_groups_are_those_derived_by_hand(name):
    make, sizes = FAMILIES[name]
    assert [group.size for group in symmetries(fc.capture(make())).groups] == sizes


def test_attention_heads_and_the_features_inside_them():
    groups = symmetries(fc.capture(ViT()))
    assert [group.size for group in groups.groups] == VIT
    heads = groups.groups[1]
    assert heads.families == ((2, 3, 4, 5), (6, 7, 8, 9))
    queries = {(m.name, tuple(m.index.shape)) for m in groups.groups[2].members}
    assert queries == {(f"encoder.layers.0.self_attn.in_proj_{part}", (8, 2)) for part in ("weight", "bias")}
    assert "inside them groups 2-9" in str(groups)


@pytest.mark.parametrize("name", MAKERS)
def test_permuting_the_groups_preserves_the_function(name):
    check(MAKERS[name](), inputs(MAKERS[name]()))


# sizes derived by hand: the residual streams of four stages and the inner convolutions of their blocks
RESNET18 = [64] * 3 + [128] * 3 + [256] * 3 + [512] * 3
RESNET50 = [64] * 7 + [256] + [128] * 8 + [512] + [256] * 12 + [1024] + [512] * 6 + [2048]


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("resnet18", {}, 64),
        *(
            pytest.param(name, options, side, marks=pytest.mark.slow)
            for name, options, side in [
                ("mobilenet_v3_small", {}, 64),
                ("resnet50", {}, 64),
                ("densenet121", {}, 64),
                ("convnext_tiny", {}, 64),
                ("vit_b_16", {"image_size": 32}, 32),
                ("resnext50_32x4d", {}, 64),
                ("shufflenet_v2_x0_5", {}, 64),
            ]
        ),
    ],
)
def test_torchvision_models(name, options, side, vision):
    torch.manual_seed(0)
    model = getattr(vision, name)(weights=None, **options)
    groups = check(model, torch.randn(2, 3, side, side), least=8)
    sizes = sorted(group.size for group in groups.groups)
    if name in ("resnet18", "resnet50"):
        assert sizes == sorted(RESNET18 if name == "resnet18" else RESNET50)
    elif name == "vit_b_16":  # residual stream; per layer heads, features of both kinds in each, hidden units
        assert sizes == sorted([768, *([12] + [64] * 24 + [3072]) * 12])


class Block(nn.Module):
    """A network made of a body between two layers, on images."""

    def __init__(self, body, channels=(8, 8)):
        super().__init__()
        self.first = nn.Conv2d(3, channels[0], 3, padding=1)
        self.body = body
        self.last = nn.Linear(channels[1], 4)

    def forward(self, x):
        return self.last(self.body(torch.relu(self.first(x))).mean((2, 3)))


class Function(nn.Module):
    def __init__(self, function, *modules):
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.function = function

    def forward(self, x):
        return self.function(x, *self.parts)


def conv(i, o, **options):
    return nn.Conv2d(i, o, 3, padding=1, **options)


def shuffle(x, *parts):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def windows(x, *parts):
    """Seen as windows of 4 pixels and as grids of 4, and back."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(n, c, -1, 4)
    return x.reshape(n, c, 4, -1).swapaxes(2, 3).reshape(n, c, h, w)


def overwritten(x, a):
    """Half of the channels written over in place, through a view."""
    out = a(x) * 1
    out[:, :6] = out[:, :6].sin()
    out[:, 0].mul_(2)
    return out


def einsums(x, a):
    """Attention over pixels, two heads of three features, written out."""
    q, k, v = a(x).flatten(2).reshape(len(x), 3, 2, 3, -1).unbind(1)
    scores = torch.einsum("nhfi,nhfj->nhij", q, k).softmax(-1)
    return torch.einsum("nhij,nhfj->nhfi", scores, v).flatten(1, 2)[..., None]


# body → sizes of the groups, derived by hand
BODIES = {
    "depthwise": (conv(8, 8, groups=8), (8, 8), [8]),
    "depthwise with two outputs each": (conv(8, 16, groups=8), (8, 16), [8, *[2] * 8]),
    # two groups change places; in each, 4 inputs and 6 outputs of any order
    "grouped": (conv(8, 12, groups=2), (8, 12), [2, 4, 4, 6, 6]),
    "group norm": (nn.GroupNorm(2, 8), (8, 8), [2, 4, 4]),
    "group norm of one group": (nn.GroupNorm(1, 8), (8, 8), [8]),
    "instance norm": (nn.InstanceNorm2d(8, affine=True), (8, 8), [8]),
    "prelu": (nn.PReLU(8), (8, 8), [8]),
    "concatenation": (
        Function(lambda x, a, b: torch.cat([a(x), x, b(x)], 1), conv(8, 5), conv(8, 6)),
        (8, 19),
        [8, 5, 6],
    ),
    "gated halves": (Function(lambda x, a: F.glu(a(x), 1), conv(8, 12)), (8, 6), [8, 6]),
    "halves treated unlike": (
        Function(lambda x, a: torch.cat([a(x)[:, :6].sin(), a(x)[:, 6:].cos()], 1), conv(8, 12)),
        (8, 12),
        [8, 6, 6],
    ),
    "channel shuffle": (Function(shuffle), (8, 8), [8]),
    "squeeze and excitation": (
        Function(
            lambda x, a, b: x * torch.sigmoid(b(torch.relu(a(F.adaptive_avg_pool2d(x, 1))))),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(4, 8, 1),
        ),
        (8, 8),
        [8, 4],
    ),
    "residual": (Function(lambda x, a, b: x + b(torch.relu(a(x))), conv(8, 5), conv(5, 8)), (8, 8), [8, 5]),
    "the same convolution twice": (Function(lambda x, a: a(torch.relu(a(x))), conv(8, 8)), (8, 8), [8]),
    "transposed convolution": (nn.ConvTranspose2d(8, 6, 2, 2), (8, 6), [8, 6]),
    "windows": (Function(windows), (8, 8), [8]),
    # of the six that are written over one is changed once more, alone
    "written through views": (Function(overwritten, conv(8, 12)), (8, 12), [8, 5, 6]),
    "einsum": (Function(einsums, conv(8, 18)), (8, 6), [8, 2, *[3] * 4]),
    "sorted channels": (Function(lambda x: x.cumsum(1)), (8, 8), []),
}


@pytest.mark.parametrize("name", BODIES)
def test_operations(name):
    body, channels, sizes = BODIES[name]
    groups = check(Block(body, channels), torch.randn(2, 3, 8, 8), least=len(sizes))
    assert sorted(group.size for group in groups.groups) == sorted(sizes)


def test_what_is_not_understood_is_pinned_and_named():
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.three(torch.relu(self.two(torch.cumsum(self.one(x), 1))))

    groups = symmetries(fc.capture(Summed()))
    assert [g.size for g in groups.groups] == [5]
    assert "one.weight[0]" in str(groups)
    assert "aten.cumsum" in groups.pinned["one.weight", 0]
    assert groups.pinned["one.weight", 1] == "input of the network"
    assert groups.pinned["three.weight", 0] == "output of the network"


def test_language_models_embeddings_tied_heads_and_hand_written_attention():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 12)
            self.places = nn.Parameter(torch.randn(6, 12))
            self.norm = nn.LayerNorm(12)
            self.qkv = nn.Linear(12, 36)
            self.out = nn.Linear(12, 12)
            self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)
            self.head = nn.Linear(12, 11)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            x = self.embed(tokens) + self.places
            n, t, e = x.shape
            q, k, v = self.qkv(self.norm(x)).view(n, t, 3, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)
            weights = (q @ k.transpose(-2, -1) / 3**0.5).softmax(-1)
            x = x + self.out((weights @ v).transpose(1, 2).reshape(n, t, e))
            return self.head(x + self.down(F.silu(self.up(x))))

    tokens = torch.randint(0, 11, (3, 6), generator=torch.Generator().manual_seed(0))
    model = Language()
    groups = check(model, tokens)
    # residual stream, 4 heads, 3 features of queries and keys and 3 of values in each, hidden units
    assert sorted(g.size for g in groups.groups) == sorted([12, 4, *[3] * 8, 20])
    stream = next(g for g in groups.groups if g.size == 12)
    assert ("embed.weight", 1) in {(m.name, m.dim) for m in stream.members}
    assert groups.pinned["embed.weight", 0]
    permuted = groups.permute(model.state_dict(), groups.random(2))
    assert torch.equal(permuted["embed.weight"], permuted["head.weight"])


@pytest.fixture(scope="module")
def attention():
    model = randomised(lambda: ViT(dim=16, depth=1), 0)
    return model, symmetries(fc.capture(model, torch.randn(2, 3, 32, 32)))


@settings(max_examples=50, deadline=None)
@given(first=st.integers(0, 2**31), second=st.integers(0, 2**31))
def test_matchings_compose_and_invert(attention, first, second):
    model, groups = attention
    one, other = groups.random(first), groups.random(second)
    state = model.state_dict()
    both = groups.permute(groups.permute(state, one), other)
    together = groups.permute(state, groups.compose(one, other))
    back = groups.permute(groups.permute(state, one), groups.inverse(one))
    for name, tensor in state.items():
        assert torch.equal(both[name], together[name])
        assert torch.equal(back[name], tensor)


def test_mixing_with_a_permutation_matrix_is_permuting(attention):
    model, groups = attention
    planted = groups.random(3)
    permuted = groups.permute(model.state_dict(), planted)
    matrices = [torch.eye(len(p))[p] for p in planted]
    mixed = groups.mix(model.state_dict(), matrices)
    assert all(torch.equal(permuted[name], mixed[name]) for name in permuted)


def test_matchings_are_checked():
    model = MLP((4, 6, 5, 2))
    groups = symmetries(fc.capture(model))
    with pytest.raises(ValueError, match="1 permutations for 2 groups"):
        groups.permute(model.state_dict(), [torch.arange(6)])
    with pytest.raises(ValueError, match="entry 1 is no permutation of 5 units"):
        groups.permute(model.state_dict(), [torch.arange(6), torch.zeros(5, dtype=torch.long)])


class Made(nn.Module):
    """A network of a function and submodules."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def shuffled(h):
    return h.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8)


def blocks_of_two_factorings(net, x):
    z = net.a(x).view(-1, 3, 4)
    g = (z + z.amax(1, keepdim=True)).flatten(1)
    q, k, v = net.m(g).view(-1, 3, 2, 6).unbind(1)
    return net.b(g + (torch.softmax(q @ k.transpose(1, 2), -1) @ v).reshape(-1, 12))


def both_signs(net, x):
    h = net.a(x)
    return net.b(torch.relu(net.g(torch.relu(torch.cat([h, -h], 1)))))


def latent(net, x):
    tokens = net.a(x)
    return net.b(
        F.scaled_dot_product_attention(net.p.expand(len(x), 5, 8), tokens, tokens, is_causal=True).sum(1)
    )


def with_own_shuffle(net, x):
    h = net.a(x)
    return net.b(h + shuffled(h))


def conv(inputs, outputs, groups=1):
    return nn.Conv2d(inputs, outputs, 1, groups=groups)


# what makes a group of the obvious kind wrong, and the sizes of those that are right
TRAPS = {
    "groups of a convolution that read the same": (
        lambda: Made(both_signs, a=conv(3, 4), g=conv(8, 8, 2), b=conv(8, 2)), (2, 3, 5, 5), [4] * 3,
    ),
    "causal order of learned tokens": (
        lambda: Made(latent, p=nn.Parameter(torch.randn(1, 5, 8)), a=nn.Linear(6, 8), b=nn.Linear(8, 2)),
        (2, 7, 6), [8],
    ),
    "a sum with its own shuffle": (
        lambda: Made(with_own_shuffle, a=nn.Linear(6, 8), b=nn.Linear(8, 3)),
        (4, 6), [2],
    ),
    "gates across the groups of a convolution": (
        lambda: nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16, 4), nn.GLU(1), conv(8, 2)),
        (2, 3, 6, 6), [2] + [4] * 6,
    ),
    "a convolution in groups of the input": (
        lambda: nn.Sequential(conv(6, 8, 2), nn.ReLU(), conv(8, 2)), (2, 6, 3, 3), [],
    ),
    "a sum of blocks cut in two ways": (
        lambda: Made(blocks_of_two_factorings, a=nn.Linear(6, 12), m=nn.Linear(12, 36), b=nn.Linear(12, 2)),
        (4, 6), [6, 2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS)
def test_what_looks_like_a_group_and_is_none(trap):
    make, shape, sizes = TRAPS[trap]
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    groups = check(model, x, least=0)
    assert [group.size for group in groups.groups] == sizes
    kept(groups, model, x)


def test_buffers_that_state_dicts_leave_out_are_pinned():
    def make():
        net = Made(lambda n, x: n.b(torch.relu(n.a(x)) * n.scale), a=nn.Linear(6, 8), b=nn.Linear(8, 3))
        net.register_buffer("scale", torch.arange(1.0, 9), persistent=False)
        return net

    groups = symmetries(fc.capture(make(), torch.randn(2, 6)))
    assert not groups.groups
    assert "the buffer, which state dicts leave out, scale" in str(groups)
    with pytest.raises(ValueError, match="no permutation symmetry"):
        fc.rebasin.align(make(), make(), example=torch.randn(2, 6))


def test_a_module_is_no_program():
    with pytest.raises(TypeError, match=r"pass fastcomb.capture\(model\)"):
        symmetries(MLP((3, 4, 2)))


def swap(h):
    one, other = h.chunk(2, 1)
    return torch.cat([other, torch.tanh(one)], 1)


def rotate(h):
    one, two, three = h.chunk(3, 1)
    return h + 2 * torch.cat([two, three, one], 1)


def couple(h):
    one, other = h.chunk(2, 1)
    return torch.cat([one * other, one - other], 1)


def shared_heads(m, h):
    """Four heads of three features that are added to two keys."""
    q, k = m(h)[:, :12].view(-1, 4, 3), m(h)[:, 12:18].view(-1, 2, 3)
    weight = torch.einsum("nhf,nhf->nh", q, k[:, :, None].expand(-1, 2, 2, 3).reshape(-1, 4, 3))
    return (weight.softmax(-1)[..., None] * q).flatten(1)


STEPS = {
    "linear": lambda: (nn.Linear(12, 12), lambda m, h: torch.tanh(m(h))),
    "residual": lambda: (nn.Linear(12, 12), lambda m, h: h + torch.relu(m(h))),
    "gated": lambda: (nn.Linear(12, 24), lambda m, h: F.glu(m(h), 1)),
    "grouped": lambda: (nn.Conv1d(12, 12, 1, groups=3), lambda m, h: torch.tanh(m(h[:, :, None])[:, :, 0])),
    "norm": lambda: (nn.GroupNorm(4, 12), lambda m, h: m(h)),
    "shuffle": lambda: (nn.Identity(), lambda m, h: h.view(-1, 3, 4).transpose(1, 2).reshape(-1, 12)),
    "roll": lambda: (nn.Identity(), lambda m, h: torch.cat([h[:, 5:], h[:, :5]], 1)),
    "softmax": lambda: (nn.Identity(), lambda m, h: h * h.view(-1, 4, 3).softmax(2).reshape(-1, 12)),
    "swap": lambda: (nn.Identity(), lambda m, h: swap(h)),
    "rotate": lambda: (nn.Identity(), lambda m, h: rotate(h)),
    "couple": lambda: (nn.Identity(), lambda m, h: couple(h)),
    "shared heads": lambda: (nn.Linear(12, 20), shared_heads),
    "copies": lambda: (nn.Linear(24, 12), lambda m, h: m(h.repeat_interleave(2, 1).sin())),
    "tiled": lambda: (nn.Linear(24, 12), lambda m, h: m(h.view(-1, 3, 4).repeat(1, 2, 1).reshape(-1, 24))),
    "scaled": lambda: (nn.Identity(), lambda m, h: h * torch.arange(3.0).to(h).repeat_interleave(4)),
    "scaled in turn": lambda: (nn.Identity(), lambda m, h: h * torch.arange(4.0).to(h).repeat(3)),
    "largest of blocks": lambda: (
        nn.Identity(),
        lambda m, h: h - h.view(-1, 2, 6).max(1).values.repeat(1, 2),
    ),
    "pairs": lambda: (
        nn.Identity(),
        lambda m, h: torch.stack([-h[:, 1::2], h[:, ::2]], -1).flatten(1) + h,
    ),
    "padded": lambda: (nn.Identity(), lambda m, h: F.pad(h[:, :9], (2, 1))),
    "sorted": lambda: (nn.Identity(), lambda m, h: h * h.view(-1, 4, 3).sort(1).values.mean((1, 2))[:, None]),
}


@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5))
# once misread: units across the groups of a convolution, entries that constants tell apart in another order,
# units that have entries in common
@example(["largest of blocks", "grouped"])
@example(["shared heads", "grouped"])
@example(["scaled in turn", "couple"])
@example(["gated", "couple", "pairs", "scaled in turn"])
@example(["largest of blocks", "padded", "scaled in turn", "pairs"])
@settings(max_examples=15, deadline=None)
def test_random_networks_keep_their_function(names):
    torch.manual_seed(0)
    made = [STEPS[name]() for name in names]

    def forward(net, x):
        h = net.first(x)
        for module, (_, step) in zip(net.modules_, made, strict=True):
            h = step(module, h)
        return net.last(h)

    modules = nn.ModuleList([module for module, _ in made])
    net = Made(forward, first=nn.Linear(5, 12), modules_=modules, last=nn.Linear(12, 3))
    check(net, torch.randn(3, 5), least=0)


class Attention(nn.Module):
    """Attention with rotary positions, whose pairs of features are halves or neighbours."""

    def __init__(self, halves, frequencies=(1.0, 0.3, 0.1)):
        super().__init__()
        self.halves, self.frequencies = halves, frequencies
        self.first, self.last = nn.Linear(5, 10), nn.Linear(10, 3)
        self.q, self.k, self.v, self.out = (nn.Linear(*sizes) for sizes in [(10, 24)] * 3 + [(24, 10)])

    def turned(self, x):
        angles = torch.arange(x.shape[2])[:, None] * torch.tensor(self.frequencies, dtype=x.dtype)
        if self.halves:
            angles = torch.cat([angles, angles], -1)
            other = torch.cat([-x[..., 3:], x[..., :3]], -1)
        else:
            angles = angles.repeat_interleave(2, -1)
            other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        return x * angles.cos() + other * angles.sin()

    def forward(self, x):
        h = torch.relu(self.first(x))
        q, k, v = (part(h).unflatten(-1, (4, 6)).transpose(1, 2) for part in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v)
        h = h + self.out(seen.transpose(1, 2).flatten(2))
        return self.last(torch.relu(h).mean(1))


@pytest.mark.parametrize("halves", [True, False])
def test_rotary_pairs_are_never_torn(halves):
    model, x = Attention(halves), torch.randn(3, 7, 5)
    groups = check(model, x)
    # residual stream, heads, the features of their values; those of queries and keys stay in order
    assert [g.size for g in groups.groups] == [10, 4, *[6] * 4]
    assert {m.name for m in groups.groups[1].members} >= {"q.weight", "k.weight", "v.weight", "out.weight"}
    kept(groups, model, x)
    # queries and keys move head by head: features keep their places, of which pairs are made
    for group in groups.groups:
        for member in group.members:
            if member.name.partition(".")[0] in "qk" and member.dim == 0:
                steps = member.index - member.index[0]
                assert torch.equal(steps, 6 * torch.arange(4)[:, None].expand(4, 6))


def test_constants_let_only_alike_entries_change_places():
    def scaled(net, x):
        return net.b(torch.relu(net.a(x) * torch.tensor([2.0, 2, 3, 3, 3, 5], dtype=x.dtype)))

    groups = check(Made(scaled, a=nn.Linear(4, 6), b=nn.Linear(6, 3)), torch.randn(5, 4))
    assert [g.size for g in groups.groups] == [2, 3]
    assert "whose entries differ (1 of 6 entries)" in groups.pinned["a.weight", 0]


@pytest.mark.parametrize("make", mostly_slow([nn.LSTM, nn.GRU, nn.RNN], 0))
@pytest.mark.parametrize("both", mostly_slow([False, True], 0))
def test_units_of_recurrent_layers(make, both):
    net = Made(
        lambda n, x: n.out(n.body(x)[0][:, -1]),
        body=make(3, 6, num_layers=2, bidirectional=both, batch_first=True),
        out=nn.Linear(12 if both else 6, 2),
    )
    groups = check(net, torch.randn(4, 3, 3))
    assert [g.size for g in groups.groups] == [6] * (4 if both else 2)
