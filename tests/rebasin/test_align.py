"""Alignment: planted permutations come back, functions stay the same, every method keeps its promises."""

import json
import sys
from itertools import product

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastcomb as fc
from benchmarks.rebasin import objective, plain, weights_of
from fastcomb.models import MLP, VGG, ResNet20, Tiny10, ViT
from fastcomb.program.capture import CaptureError
from fastcomb.rebasin import Sinkhorn, WeightMatching, align, align_all, load, repair, symmetries
from tests.networks import FAMILIES, MAKERS, NAMES, distance, inputs, randomised, shuffled
from tests.quick import mostly_slow

WIDTHS = (20, 17, 13, 5)


def labelled(model, count=64):
    x = inputs(model, count)
    with torch.no_grad():
        return x, model(x).argmax(1)


def assert_recovered(found, groups, planted):
    for permutation, expected in zip(found.permutations, groups.inverse(planted), strict=True):
        assert torch.equal(permutation, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", mostly_slow(["weights", "activations", "frank_wolfe"], 0))
def test_a_planted_permutation_is_recovered_exactly(name, method):
    model = randomised(MAKERS[name], 3)
    state, groups, planted = shuffled(model, 7)
    found = align(model, state, method, data=inputs(model) if method == "activations" else None)
    assert_recovered(found, groups, planted)
    assert all(torch.equal(found.state_dict[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("activations", {"criterion": "l2"}),
        ("sinkhorn", {}),
        ("sinkhorn", {"differentiate": "unrolled"}),
        ("ste", {"epochs": 2}),
        ("weights", {"starts": 2}),
        ("frank_wolfe", {"starts": 2}),
    ],
)
def test_every_setting_recovers_a_planted_permutation(method, options):
    model = randomised(FAMILIES["mlp"][0], 3)
    state, groups, planted = shuffled(model, 7)
    found = align(model, state, method, data=labelled(model), **options)
    assert_recovered(found, groups, planted)


@pytest.mark.parametrize("method", [pytest.param("sinkhorn", marks=pytest.mark.slow), "ste"])
def test_learned_matchings_recover_heads_and_convolutions(method):
    for make in (lambda: VGG(batch_norm=True), lambda: ViT(dim=16, depth=1)):
        model = randomised(make, 3)
        state, groups, planted = shuffled(model, 7)
        options = {"epochs": 1} if method == "ste" else {}
        found = align(model, state, method, data=labelled(model, 8), **options)
        assert_recovered(found, groups, planted)


@pytest.mark.parametrize("name", NAMES)
def test_alignment_preserves_the_function_and_never_increases_the_distance(name):
    a, b = randomised(MAKERS[name], 0), randomised(MAKERS[name], 1)
    before = {n: t.clone() for n, t in b.state_dict().items()}
    found = align(a, b)
    assert found.objective == sorted(found.objective)
    assert distance(a, found.model) <= distance(a, b)
    x = inputs(b)
    with torch.no_grad():
        expected = b(x)
        # float32 sums in another order; the exact comparison, in float64, is align's own
        torch.testing.assert_close(
            found.model(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
        )
    assert all(torch.equal(before[n], t) for n, t in b.state_dict().items())


@pytest.mark.parametrize("method", ["weights", "activations", "ste", "sinkhorn", "frank_wolfe", "random"])
def test_the_same_seed_gives_the_same_alignment(method):
    a, b = randomised(lambda: MLP(WIDTHS), 0), randomised(lambda: MLP(WIDTHS), 1)
    data = labelled(a)
    options = {"ste": {"epochs": 1}, "sinkhorn": {"steps": 20, "starts": 2}, "weights": {"starts": 3}}
    runs = [align(a, b, method, data=data, seed=3, **options.get(method, {})) for _ in range(2)]
    for one, other in zip(*(run.permutations for run in runs), strict=True):
        assert torch.equal(one, other)
    assert runs[0].objective == runs[1].objective


def test_the_objective_is_what_it_is_said_to_be():
    a, b = randomised(lambda: MLP(WIDTHS), 0), randomised(lambda: MLP(WIDTHS), 1)
    theta_a = {n: t.detach() for n, t in a.named_parameters()}

    def inner(alignment):
        # the last bias belongs to no group
        return sum(float((theta_a[n] * alignment.state_dict[n]).sum()) for n in theta_a if n != "5.bias")

    for method in ("weights", "sinkhorn", "frank_wolfe", "random", "identity"):
        found = align(a, b, method)
        assert found.objective[-1] == pytest.approx(inner(found), rel=1e-6)
        if method == "identity":
            assert found.objective[0] == found.objective[-1]
    matched = align(a, b)
    assert distance(a, b) - distance(a, matched.model) == pytest.approx(
        2 * (matched.objective[-1] - matched.objective[0]), rel=1e-4
    )


def test_more_starts_are_never_worse_and_controls_are_worse():
    a, b = randomised(lambda: MLP(WIDTHS), 0), randomised(lambda: MLP(WIDTHS), 1)
    values = [align(a, b, WeightMatching(starts=n)).objective[-1] for n in (1, 2, 5, 10)]
    assert values == sorted(values)
    assert align(a, b, "random").objective[-1] < values[0]


@pytest.mark.parametrize(
    "make", [lambda: MLP(WIDTHS), VGG, Tiny10, ResNet20], ids=["mlp", "vgg", "tiny10", "resnet20"]
)
def test_the_objective_is_at_least_that_of_the_plain_algorithm(make):
    """Of three descents as published; random weights, on which descents end far apart."""
    a, b = randomised(make, 0), randomised(make, 1)
    groups = symmetries(fc.capture(a))
    published = [objective(a, plain(groups, weights_of(a), weights_of(b), seed)) for seed in range(3)]
    assert objective(a, weights_of(align(a, b).model)) >= max(published)


@pytest.mark.slow
def test_more_rounds_are_never_worse():
    a, b = randomised(ResNet20, 0), randomised(ResNet20, 1)
    runs = [align(a, b, rounds=rounds).objective for rounds in (0, 5, 30)]
    assert [run[-1] for run in runs] == sorted(run[-1] for run in runs)
    assert runs[2][-1] > runs[0][-1]
    assert all(run == sorted(run) for run in runs)


def test_one_layer_is_solved_to_the_optimum():
    """With one hidden layer weight matching is a single assignment; all 120 orders are tried here."""
    a, b = randomised(lambda: MLP((4, 5, 3)), 0), randomised(lambda: MLP((4, 5, 3)), 1)
    groups = symmetries(fc.capture(a))
    values = []
    for order in product(range(5), repeat=5):
        if len(set(order)) == 5:
            moved = groups.permute(b.state_dict(), [torch.tensor(order)])
            values.append(
                sum(float((t * moved[n]).sum()) for n, t in a.state_dict().items() if n != "3.bias")
            )
    for method in ("weights", "frank_wolfe"):
        assert align(a, b, method).objective[-1] == pytest.approx(max(values), rel=1e-6)


def test_activation_matching_is_the_assignment_of_correlations():
    a, b = randomised(lambda: MLP((20, 17, 5)), 0), randomised(lambda: MLP((20, 17, 5)), 1)
    x = inputs(a, 300)
    with torch.no_grad():
        hidden = [model[1](x) for model in (a, b)]
    seen = [(h.numpy(), h.relu().numpy()) for h in hidden]
    correlation = sum(np.corrcoef(p.T, q.T)[:17, 17:] for p, q in zip(*seen, strict=True))
    expected = scipy.optimize.linear_sum_assignment(correlation, maximize=True)[1]
    found = align(a, b, "activations", data=x)
    assert found.permutations[0].tolist() == expected.tolist()
    assert found.objective[-1] == pytest.approx(correlation[np.arange(17), expected].mean() / 2, rel=1e-5)


def test_activation_matching_takes_every_form_of_data():
    a, b = randomised(lambda: MLP(WIDTHS), 0), randomised(lambda: MLP(WIDTHS), 1)
    x, y = labelled(a, 300)
    dataset = TensorDataset(x, y)
    forms = [x, (x, y), x.numpy(), dataset, DataLoader(dataset, batch_size=7)]
    found = [align(a, b, "activations", data=form).permutations for form in forms]
    for other in found[1:]:
        assert all(torch.equal(p, q) for p, q in zip(found[0], other, strict=True))


def test_straight_through_is_at_least_as_good_as_weight_matching_at_the_midpoint():
    a, b = randomised(lambda: MLP(WIDTHS), 0), randomised(lambda: MLP(WIDTHS), 1)
    data = labelled(a, 200)

    def midpoint(alignment):
        point = fc.Constant(0.5, per="model")
        return float(fc.evaluate(a, alignment.model, point, data=data, n=1).loss[0])

    learned = align(a, b, "ste", data=data, epochs=3)
    assert midpoint(learned) <= midpoint(align(a, b)) + 1e-6
    assert -learned.objective[-1] == pytest.approx(midpoint(learned), rel=1e-5)
    lowered = align(a, b, Sinkhorn(objective="line", steps=60), data=data)
    assert midpoint(lowered) < midpoint(align(a, b, "identity"))


def test_implicit_and_unrolled_gradients_agree():
    generator = torch.Generator().manual_seed(0)
    free, towards = torch.randn(2, 7, 7, generator=generator)
    gradients = []
    for differentiate in ("implicit", "unrolled"):
        x = free.clone().requires_grad_()
        # enough iterations for the fixed point, where the two are the same derivative
        matrix = Sinkhorn(differentiate=differentiate, iterations=200).doubly_stochastic(x)
        torch.testing.assert_close(matrix.sum(0), torch.ones(7), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(matrix.sum(1), torch.ones(7), rtol=1e-5, atol=1e-5)
        (matrix * towards).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [lambda: MLP(WIDTHS), lambda: ViT(dim=16, depth=1)])
def test_joint_alignment_recovers_planted_permutations_around_every_cycle(make):
    model = randomised(make, 0)
    planted = [shuffled(model, seed) for seed in (1, 2)]
    models = [model, *(state for state, _, _ in planted)]
    found = align_all(models, example=inputs(model))
    for alignment in found:
        assert all(torch.equal(alignment.state_dict[n], t) for n, t in model.state_dict().items())


def test_joint_alignment_of_unlike_networks_raises_the_objective_of_all_pairs():
    models = [randomised(lambda: MLP(WIDTHS), seed) for seed in range(4)]
    found = align_all(models)
    assert found[0].objective[-1] > found[0].objective[0]
    assert all(torch.equal(p, torch.arange(len(p))) for p in found[0].permutations)
    states = [alignment.state_dict for alignment in found]
    total = sum(
        float((one[n] * other[n]).sum())
        for i, one in enumerate(states)
        for other in states[:i]
        for n in one
        if n != "5.bias"
    )
    assert found[0].objective[-1] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("make", [lambda: MLP(WIDTHS), Tiny10, lambda: ViT(dim=16, depth=1)])
def test_saved_and_loaded_alignments_are_the_same(make, tmp_path):
    a, b = randomised(make, 0), randomised(make, 1)
    found = align(a, b)
    path = found.save(tmp_path / "new" / "aligned.safetensors")
    assert {p.name for p in path.parent.iterdir()} == {"aligned.safetensors", "aligned.safetensors.json"}
    again = load(path, a)
    assert all(torch.equal(p, q) for p, q in zip(found.permutations, again.permutations, strict=True))
    assert again.state_dict.keys() == found.state_dict.keys()
    assert all(torch.equal(again.state_dict[n], t) for n, t in found.state_dict.items())
    assert (again.objective, again.method, again.options) == (found.objective, found.method, found.options)
    assert again.pinned == found.pinned
    assert str(again.symmetries) == str(found.symmetries)
    x = inputs(a)
    with torch.no_grad():
        assert torch.equal(again.model.eval()(x), found.model.eval()(x))
    undo = found.symmetries.inverse(found.permutations)
    assert all(torch.equal(again.followed_by(undo).state_dict[n], t) for n, t in b.state_dict().items())


def test_a_saved_alignment_is_checked_when_loaded(tmp_path):
    found = align(MLP(WIDTHS), MLP(WIDTHS))
    path = found.save(tmp_path / "aligned.safetensors")
    with pytest.raises(ValueError, match="does not fit MLP"):
        load(path, MLP((20, 17, 5)))
    with pytest.raises(FileNotFoundError, match="an alignment is two files"):
        load(tmp_path / "other.safetensors", MLP(WIDTHS))
    path.with_name(path.name + ".json").write_text(json.dumps({"format": "?"}))
    with pytest.raises(ValueError, match="is not a saved alignment"):
        load(path, MLP(WIDTHS))


@pytest.mark.parametrize("make", [lambda: MLP(WIDTHS), ResNet20])
def test_alignment_of_saved_and_loaded_networks_is_identical(make, tmp_path):
    a, b = randomised(make, 0), randomised(make, 1)
    for name, model in (("a", a), ("b", b)):
        torch.save(model.state_dict(), tmp_path / f"{name}.pt")
    again = make().eval()
    again.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    one, other = align(a, b), align(again, tmp_path / "b.pt")
    assert all(torch.equal(p, q) for p, q in zip(one.permutations, other.permutations, strict=True))
    assert one.objective == other.objective


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.hidden = nn.Linear(4, 6), nn.Linear(6, 6)
            self.again, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
            self.again.weight = self.hidden.weight

        def forward(self, x):
            return self.head(self.again(self.hidden(self.first(x).relu()).relu()).relu())

    a, b = randomised(Tied, 0), randomised(Tied, 1)
    found = align(a, b)
    assert [g.size for g in found.symmetries.groups] == [6]
    assert found.model.again.weight is found.model.hidden.weight
    further = found.followed_by(found.symmetries.random(1))
    x = torch.randn(5, 4)
    with torch.no_grad():
        for alignment in (found, further):
            assert torch.equal(alignment.state_dict["again.weight"], alignment.state_dict["hidden.weight"])
            torch.testing.assert_close(alignment.model(x), b(x))
    state, groups, planted = shuffled(a, 3, x)
    assert_recovered(align(a, state), groups, planted)


def sgd_is_special():
    """Two networks for "both coordinates are positive", from git-re-basin's src/sgd_is_special.py."""

    def network(first, bias, second, bias2):
        model = nn.Sequential(
            nn.Linear(2, 2), nn.LeakyReLU(0.01), nn.Linear(2, 2), nn.LeakyReLU(0.01), nn.Linear(2, 1)
        )
        values = (np.diag(first), bias, np.diag(second), bias2, [[-1, -1]], [0])
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), values, strict=True):
                parameter.copy_(torch.tensor(np.asarray(value)))
        return model

    return network([1, -1], [1, 0], [-1, 1], [1, 0]), network([-1, 1], [0, 1], [1, -1], [0, 1])


def test_some_networks_have_a_barrier_under_every_permutation():
    a, b = sgd_is_special()
    x = torch.rand(1024, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = ((x >= 0).all(1)).float()
    groups = symmetries(fc.capture(a, x))
    assert [g.size for g in groups.groups] == [2, 2]
    orders = [torch.tensor([0, 1]), torch.tensor([1, 0])]

    def wrong(output, target):
        return ((output[:, 0] >= 0) != target.bool()).float()

    for matching in product(orders, orders):
        state = groups.permute(b.state_dict(), matching)
        errors = [
            float(fc.evaluate(a, state, fc.Constant(t, per="model"), data=(x, y), n=1, loss=wrong).loss[0])
            for t in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
        assert max(errors[0], errors[-1]) < 0.005  # the slope of 0.01 blurs the boundary
        assert max(errors) > 0.05


@pytest.mark.parametrize("make", [lambda: MLP(WIDTHS), VGG, lambda: VGG(batch_norm=True), Tiny10])
def test_repaired_networks_have_the_statistics_of_their_endpoints(make):
    a, b = randomised(make, 0), randomised(make, 1)
    model = randomised(make, 2)
    middle = {n: (t + b.state_dict()[n]) / 2 for n, t in a.state_dict().items() if t.is_floating_point()}
    model.load_state_dict(middle, strict=False)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    x = inputs(a, 40)
    fixed = repair(model, a, b, x, t=0.25)
    normed = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    last = layers.pop()
    if normed:  # equal to the norms' own recomputation, on one batch
        layers = [n for n in layers if isinstance(model.get_submodule(n), nn.Linear)]
        fresh = make()
        fresh.load_state_dict(fixed.state_dict())
        torch.optim.swa_utils.update_bn([x], fresh)
        for name, buffer in fresh.named_buffers():
            if "running" in name:
                torch.testing.assert_close(
                    buffer, fixed.get_buffer(name), rtol=1e-4, atol=1e-4 * buffer.abs().max().item()
                )
    for layer in layers:
        of = {key: _moments(net, layer, x) for key, net in (("a", a), ("b", b), ("fixed", fixed))}
        for statistic in (0, 1):
            target = 0.75 * of["a"][statistic] + 0.25 * of["b"][statistic]
            torch.testing.assert_close(
                of["fixed"][statistic], target, rtol=1e-3, atol=1e-4 * target.abs().max().item()
            )
    assert torch.equal(fixed.get_submodule(last).weight, model.get_submodule(last).weight)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def _moments(model, layer, x):
    """Mean and standard deviation of a layer's outputs, unit by unit."""
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2].clone()))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    rows = seen[0].movedim(1, 0).flatten(1)
    return rows.mean(1), rows.std(1)


def test_repair_refuses_what_it_cannot_do():
    a, b = MLP(WIDTHS), MLP(WIDTHS)
    with pytest.raises(ValueError, match="no spread"):
        repair(a, a, b, torch.randn(1, 20))
    with pytest.raises(ValueError, match="model and b have parameters of different shapes"):
        repair(a, a, MLP((20, 17, 12, 5)), torch.randn(9, 20))
    with pytest.raises(TypeError, match="as a module"):
        repair(a.state_dict(), a, b, torch.randn(9, 20))
    plain = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(ValueError, match="no layer to repair"):
        repair(plain, plain, plain, torch.randn(9, 4))


def other_activation():
    model = MLP(WIDTHS)
    model[2] = nn.GELU()
    return model


BAD = {
    "unknown method": (lambda a, b: align(a, b, "best"), ValueError, "method='best' is none of 'weights'"),
    "unknown option": (
        lambda a, b: align(a, b, begins=3),
        ValueError,
        "has no option 'begins'; it has rounds, starts, sweeps",
    ),
    "options twice": (lambda a, b: align(a, b, WeightMatching(), starts=3), ValueError, "belong into"),
    "starts": (lambda a, b: align(a, b, starts=0), ValueError, "starts=0 must be an integer of at least 1"),
    "criterion": (
        lambda a, b: align(a, b, "activations", data=torch.ones(2, 20), criterion="l1"),
        ValueError,
        "criterion='l1' is neither",
    ),
    "learning rate": (lambda a, b: align(a, b, "sinkhorn", lr=0.0), ValueError, "lr=0.0"),
    "objective": (
        lambda a, b: align(a, b, "sinkhorn", objective="loss"),
        ValueError,
        "is none of 'distance'",
    ),
    "another width": (lambda a, b: align(a, MLP((20, 16, 13, 5))), ValueError, r"'1.weight' \(17, 20\)"),
    "another depth": (lambda a, b: align(a, MLP((20, 17, 13, 9, 5))), ValueError, "only in model_b"),
    "another activation": (
        lambda a, b: align(a, other_activation()),
        ValueError,
        r"different architectures: at 'relu' in module '2', model_a has op relu and model_b gelu",
    ),
    "no module": (
        lambda a, b: align(a.state_dict(), b.state_dict()),
        TypeError,
        "pass a module of the architecture as model=",
    ),
    "no symmetry": (lambda a, b: align(a[5], b[5]), ValueError, "no permutation symmetry"),
    "no data": (lambda a, b: align(a, b, "activations"), ValueError, "on inputs; pass data="),
    "no targets": (lambda a, b: align(a, b, "ste", data=torch.ones(4, 20)), ValueError, "with targets"),
    "no data for a loss": (
        lambda a, b: align(a, b, "sinkhorn", objective="line"),
        ValueError,
        r"objective='line' needs data=\(x, y\)",
    ),
    "empty data": (
        lambda a, b: align(a, b, "activations", data=torch.ones(0, 20)),
        ValueError,
        "data is empty",
    ),
    "strange data": (lambda a, b: align(a, b, "activations", data="x"), TypeError, "data is a str"),
    "data of unequal lengths": (
        lambda a, b: align(a, b, "activations", data=(torch.ones(4, 20), torch.ones(3))),
        ValueError,
        "x has 4 samples but y has 3",
    ),
    "data that are not finite": (
        lambda a, b: align(a, b, "activations", data=torch.full((4, 20), float("nan"))),
        ValueError,
        "inputs that are NaN",
    ),
    "one network": (lambda a, b: align_all([a]), ValueError, "at least two"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_error(what):
    call, error, message = BAD[what]
    with pytest.raises(error, match=message):
        call(MLP(WIDTHS), MLP(WIDTHS))


def test_weights_that_are_not_finite_are_named():
    a, b = MLP(WIDTHS), MLP(WIDTHS)
    with torch.no_grad():
        b.get_parameter("3.bias")[0] = float("inf")
    with pytest.raises(ValueError, match=r"model_b: '3.bias' has 1 values that are NaN or infinite"):
        align(a, b)
    with pytest.raises(ValueError, match=r"models\[1\]: '3.bias'"):
        align_all([a, b])


def test_a_network_that_cannot_be_captured_says_why():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.two(self.one(x).relu() if x.sum() > 0 else self.one(x))

    with pytest.raises(CaptureError, match=r"data-dependent.*Rewrite the part of forward"):
        align(Branch(), Branch())


def test_a_misread_symmetry_is_an_error_not_a_result(monkeypatch):
    module = sys.modules["fastcomb.rebasin.verified"]
    right = module.symmetries

    def wrong(program):
        found = right(program)
        group = found.groups[0]
        less = type(group)(group.size, group.members[:-1])
        return type(found)((less, *found.groups[1:]), found.pinned)

    monkeypatch.setattr(module, "symmetries", wrong)
    with pytest.raises(RuntimeError, match="symmetry was misread"):
        align(MLP((20, 17, 5)), MLP((20, 17, 5)))


def test_alignment_makes_combinations_better():
    """Two networks that differ by a permutation and a little noise: their mixtures work once aligned."""
    a = randomised(lambda: MLP((20, 32, 32, 5)), 0)
    state, _, _ = shuffled(a, 1)
    generator = torch.Generator().manual_seed(2)
    b = MLP((20, 32, 32, 5))
    b.load_state_dict({n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in state.items()})
    data = labelled(a, 200)
    aligned = fc.evaluate(a, align(a, b).model, fc.Uniform(), data=data, n=50)
    unaligned = fc.evaluate(a, b, fc.Uniform(), data=data, n=50)
    assert aligned.accuracy.min() > 0.9
    assert unaligned.accuracy.max() < aligned.accuracy.min()
