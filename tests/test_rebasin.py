"""Alignment: symmetries read off the Program, functions preserved, planted permutations recovered."""

import pytest
import torch
from torch import nn

import fastcomb as fc
from fastcomb.models import MLP, VGG, ResNet20, Tiny10, ViT
from fastcomb.rebasin import align, symmetries

# sizes of the groups, derived by hand: the hidden widths of a chain; for ResNet20, in each of three stages,
# the residual stream and the inner convolutions of three blocks
FAMILIES = {
    "mlp": (lambda: MLP((20, 17, 13, 5)), [17, 13]),
    "tiny10": (Tiny10, [16, 16, 32, 32, 32, 64, 64, 64]),
    "vgg": (VGG, [16, 32, 64, 64, 64]),
    "vgg_bn": (lambda: VGG(batch_norm=True), [16, 32, 64, 64, 64]),
    "resnet20": (ResNet20, [16] * 4 + [32] * 4 + [64] * 4),
}


def distance(a, b):
    b = b.state_dict()
    return sum(float(((t.detach() - b[n]).double() ** 2).sum()) for n, t in a.named_parameters())


def shuffled(model, seed):
    """The same function with its hidden units in another order, and the permutations used."""
    groups = symmetries(fc.capture(model))
    generator = torch.Generator().manual_seed(seed)
    permutations = [torch.randperm(g.size, generator=generator) for g in groups.groups]
    state = groups.permute(model.state_dict(), permutations)
    return state, permutations


def randomised(make, seed):
    """A network whose running statistics and norm weights are random too."""
    torch.manual_seed(seed)
    model = make().eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model


def inputs(model):
    return torch.randn(4, 20) if isinstance(model, MLP) else torch.randn(4, 3, 32, 32)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_groups_are_those_derived_by_hand(name):
    make, sizes = FAMILIES[name]
    assert [group.size for group in symmetries(fc.capture(make())).groups] == sizes


@pytest.mark.parametrize("make", [*(make for make, _ in FAMILIES.values()), ViT])
@pytest.mark.parametrize("seed", [0, 1])
def test_permuting_the_groups_preserves_the_function(make, seed):
    model = randomised(make, seed)
    state, permutations = shuffled(model, seed)
    assert permutations
    x = inputs(model)
    with torch.no_grad():
        before = model(x)
        assert any(not torch.equal(state[n], t) for n, t in model.state_dict().items())
        model.load_state_dict(state)
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4 * before.abs().max().item())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_planted_permutation_is_recovered_exactly(name):
    model = randomised(FAMILIES[name][0], 3)
    state, planted = shuffled(model, 7)
    found = align(model, state)
    for permutation, original in zip(found.permutations, planted, strict=True):
        assert torch.equal(original[permutation], torch.arange(len(original)))
    assert all(torch.equal(found.state_dict[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("make", [make for make, _ in FAMILIES.values()])
def test_alignment_preserves_the_function_and_never_increases_the_distance(make):
    a, b = randomised(make, 0), randomised(make, 1)
    before = {n: t.clone() for n, t in b.state_dict().items()}
    found = align(a, b)
    assert found.objective == sorted(found.objective)
    assert distance(a, found.model) <= distance(a, b)
    x = inputs(b)
    with torch.no_grad():
        expected = b(x)
        torch.testing.assert_close(
            found.model(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
        )
    assert all(torch.equal(before[n], t) for n, t in b.state_dict().items())


def test_alignment_is_reproducible():
    a, b = MLP((20, 32, 32, 5)), MLP((20, 32, 32, 5))
    one, other = align(a, b, seed=3), align(a, b, seed=3)
    assert all(torch.equal(p, q) for p, q in zip(one.permutations, other.permutations, strict=True))


def test_tied_and_depthwise_layers():
    class Depthwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 8, 1)
            self.deep = nn.Conv2d(8, 16, 3, groups=8, padding=1)
            self.norm = nn.LayerNorm(16)
            self.hidden = nn.Linear(16, 16)
            self.head = nn.Linear(16, 2)
            self.again = nn.Linear(16, 16)
            self.again.weight = self.hidden.weight

        def forward(self, x):
            h = self.norm(torch.relu(self.deep(torch.relu(self.first(x)))).mean((2, 3)))
            return self.head(torch.tanh(self.again(torch.tanh(self.hidden(h)))))

    model = randomised(Depthwise, 0)
    groups = symmetries(fc.capture(model))
    assert [g.size for g in groups.groups] == [8]  # 16 outputs move in blocks of 2 with the 8 channels
    assert "deep.weight[0] in blocks of 2" in str(groups)
    state, _ = shuffled(model, 0)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = model(x)
        model.load_state_dict(state)
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_what_is_not_understood_is_pinned_and_named():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.three(torch.relu(self.two(torch.cumsum(self.one(x), 1))))

    groups = symmetries(fc.capture(Sorted()))
    assert [g.size for g in groups.groups] == [5]
    assert "one.weight[0]" in str(groups)
    assert "aten.cumsum" in groups.pinned["one.weight", 0]
    assert groups.pinned["one.weight", 1] == "input of the network"
    assert groups.pinned["three.weight", 0] == "output of the network"


def test_bad_input_is_one_clear_error():
    a, b = MLP((20, 17, 5)), MLP((20, 17, 5))
    with pytest.raises(ValueError, match="method='best' is none of 'weights'"):
        align(a, b, method="best")
    with pytest.raises(ValueError, match=r"'1.weight'"):
        align(a, MLP((20, 16, 5)))
    with pytest.raises(ValueError, match="different parameters"):
        align(a, MLP((20, 17, 3, 5)))
    with pytest.raises(TypeError, match="reference network as a module"):
        align(a.state_dict(), b)
    with pytest.raises(ValueError, match="no permutation symmetry"):
        align(nn.Linear(3, 2), nn.Linear(3, 2))
    with torch.no_grad():
        b.get_parameter("3.bias")[0] = float("inf")
    with pytest.raises(ValueError, match=r"model_b: '3.bias' has 1 values that are NaN or infinite"):
        align(a, b)


def test_a_misread_symmetry_is_an_error_not_a_result(monkeypatch):
    import sys

    from fastcomb.rebasin.symmetries import Symmetries

    module = sys.modules["fastcomb.rebasin.align"]
    right = module.symmetries

    def wrong(program):
        found = right(program)
        group = found.groups[0]
        return Symmetries((type(group)(group.size, group.members[:-1]), *found.groups[1:]), found.pinned)

    monkeypatch.setattr(module, "symmetries", wrong)
    with pytest.raises(RuntimeError, match="symmetry was misread"):
        align(MLP((20, 17, 5)), MLP((20, 17, 5)))


def test_alignment_makes_combinations_better():
    """Two networks that differ by a permutation and a little noise: their mixtures work once aligned."""
    torch.manual_seed(0)
    a = MLP((20, 32, 32, 5))
    state, _ = shuffled(a, 1)
    b = MLP((20, 32, 32, 5))
    b.load_state_dict({n: t + 0.01 * torch.randn_like(t) for n, t in state.items()})
    x = torch.randn(200, 20)
    y = a(x).argmax(1)
    aligned = fc.evaluate(a, align(a, b).model, fc.Uniform(), data=(x, y), n=50)
    unaligned = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=50)
    assert aligned.accuracy.min() > 0.9
    assert unaligned.accuracy.max() < aligned.accuracy.min()
