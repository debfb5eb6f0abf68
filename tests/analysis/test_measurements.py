"""Barriers, transitivity, robustness and diversity, each against a plain computation of the same."""

import copy
import importlib
import json

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import fastcomb as fc
from fastcomb.analysis import weight_distance
from fastcomb.analysis.transitivity import PAIRS, agreement
from fastcomb.models import MLP, VGG, ViT
from fastcomb.rebasin import align, perturb
from fastcomb.rebasin.perturb import KINDS
from fastcomb.similarity import linear_cka, linear_cka_matrix
from fastcomb.similarity.functional import error_correlation
from tests.networks import inputs, randomised, shuffled
from tests.quick import mostly_slow

WIDTHS = (20, 17, 13, 5)
#: Mean of float32 losses against float64: the relative bound that DESIGN states for the engines.
LOSS = 1e-5


def small_vgg():
    return VGG((6, "M", 7, "M"), batch_norm=True, hidden=9)


@pytest.fixture
def networks():
    return randomised(small_vgg, 0), randomised(small_vgg, 1)


@pytest.fixture
def mlps():
    """Three MLPs that differ, and inputs with the first one's labels, every fourth one wrong."""
    torch.manual_seed(0)
    found = [MLP(WIDTHS).eval() for _ in range(3)]
    with torch.no_grad():
        for model in found:
            for value in model.parameters():
                value.mul_(3)  # outputs that differ between samples
        x = inputs(found[0], 60)
        y = found[0](x).argmax(1)
    y[::4] = (y[::4] + 1) % 5
    return found, (x, y)


def interpolated(a, b, t, calibration=None):
    """A module between two others, in float64, its running statistics a's or recomputed."""
    module = copy.deepcopy(a).double()
    other = dict(b.named_parameters())
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.lerp_(other[name].double(), t)
    if calibration is not None:
        update_bn([calibration.double()], module)
    return module.eval()


def scores(module, x, y):
    with torch.no_grad():
        logits = module.double()(x.double())
    return F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).double().mean().item()


def test_a_barrier_equals_a_plain_loop(pair, data):
    a, b = pair
    t = [-0.5, 0, 0.2, 0.5, 0.9, 1, 1.5]
    found = fc.barrier(a, b, data=data, points=[0.9, 1.5, 0.5, -0.5, 0.2])
    assert found.t.tolist() == t
    loss, accuracy = np.array([scores(interpolated(a, b, value), *data) for value in t]).T
    np.testing.assert_allclose(found.loss, loss, rtol=LOSS)
    np.testing.assert_allclose(found.accuracy, accuracy, atol=1.01 / 100)
    inside = slice(1, 6)
    chord = (1 - found.t) * loss[1] + found.t * loss[5]
    assert found.loss_barrier == pytest.approx((loss - chord)[inside].max(), rel=1e-3)
    chord = (1 - found.t) * found.accuracy[1] + found.t * found.accuracy[5]
    assert found.accuracy_barrier == (chord - found.accuracy)[inside].max()
    assert found.excess("loss")[[1, 5]].tolist() == [0, 0]
    assert fc.barrier(a, b, data=data, points=5).t.tolist() == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("choice", ["recompute", "lerp", "a"])
def test_a_barrier_of_networks_with_batch_norm(networks, images, choice):
    a, b = networks
    calibration = images[0][:16]
    arguments = {"batch_norm": choice, "calibration": calibration if choice == "recompute" else None}
    found = fc.barrier(a, b, data=images, points=3, **arguments)
    if choice == "recompute":
        expected = [scores(interpolated(a, b, t, calibration), *images)[0] for t in (0, 0.5, 1)]
        np.testing.assert_allclose(found.loss, expected, rtol=LOSS)
        np.testing.assert_array_equal(found.ends_loss, found.loss[[0, 2]])
    else:
        own = [scores(copy.deepcopy(model), *images)[0] for model in networks]
        np.testing.assert_allclose(found.ends_loss, own, rtol=LOSS)
        at_b = scores(interpolated(a, b, 1.0), *images)[0] if choice == "a" else own[1]
        assert found.loss[2] == pytest.approx(at_b, rel=LOSS)


def test_a_barrier_from_mappings_and_loaders_is_the_same(pair, data):
    expected = fc.barrier(*pair, data=data, points=3)
    states = [model.state_dict() for model in pair]
    loader = DataLoader(TensorDataset(*data), batch_size=7)
    assert fc.barrier(*states, model=pair[0], data=loader, points=3) == expected
    shuffled_loader = DataLoader(TensorDataset(*data), batch_size=7, shuffle=True)
    found = fc.barrier(*states, model=pair[0], data=shuffled_loader, points=3)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=LOSS)


def test_a_barrier_without_classes_has_no_accuracy(pair, data, tmp_path):
    x, _ = data
    found = fc.barrier(*pair, data=(x, torch.randn(100, 5)), loss="mse", points=3)
    assert found.metrics == ("loss",)
    assert "accuracy" not in found.table() + repr(found)
    found.plot(tmp_path / "line.png")
    assert fc.Barrier.load(found.save(tmp_path / "line.json")) == found


def test_networks_that_differ_in_order_only_are_transitive(mlps):
    """All three are one network with its units in different orders, so matching is exact."""
    model, data = mlps[0][0], mlps[1]
    states = [shuffled(model, seed)[0] for seed in (5, 6)]
    found = fc.transitivity(*states, model, data=data, points=5, model=model)
    assert tuple(found.barriers) == PAIRS
    assert found.agreement.tolist() == [1, 1]
    assert found.cycle_consistency == 1
    assert found.barriers["a–b unaligned"].loss_barrier > 0.2
    for pair in PAIRS[1:]:
        assert found.barriers[pair].loss_barrier == pytest.approx(0, abs=1e-6)


def test_transitivity_is_made_of_alignments_and_barriers(mlps):
    (a, b, c), data = mlps
    found = fc.transitivity(a, b, c, data=data, matching_data=data, points=3, method="activations")
    one, other, direct = (
        align(to, model, "activations", data=data) for to, model in ((c, a), (c, b), (a, b))
    )
    through = fc.barrier(one.model, other.model, data=data, points=3)
    assert found.barriers["a′–b′"] == through
    assert found.barriers["a–b aligned"] == fc.barrier(a, direct.model, data=data, points=3)
    assert found.barriers["b′–reference"] == fc.barrier(other.model, c, data=data, points=3)
    for group, (p, q, r) in enumerate(
        zip(one.permutations, other.permutations, direct.permutations, strict=True)
    ):
        same = [int(q[torch.nonzero(p == j).item()]) == int(r[j]) for j in range(len(r))]
        assert found.agreement[group] == pytest.approx(np.mean(same))
    assert found.units == (17, 13)
    assert "a′–b′" in found.table()
    assert "all" in found.consistency_table()


def test_features_agree_only_inside_the_same_head():
    groups = fc.rebasin.symmetries(fc.capture(ViT(dim=16, depth=1)))
    heads = next(i for i, group in enumerate(groups.groups) if group.families)
    other = groups.identity()
    other[heads] = torch.tensor([1, 0, 2, 3])
    found = agreement(groups, groups.identity(), other)
    assert found[heads] == 0.5
    for family in groups.groups[heads].families:
        assert found[list(family)].tolist() == [0, 0, 1, 1]


@pytest.fixture(scope="module")
def alignment():
    return align(*(randomised(lambda: MLP(WIDTHS), seed) for seed in (0, 1)))


@given(st.sampled_from(sorted(KINDS)), st.floats(0, 1), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_perturbation_keeps_the_function_and_moves_what_it_says(alignment, kind, fraction, seed):
    found = perturb(alignment, fraction=fraction, kind=kind, seed=seed)
    x = inputs(found.model)
    with torch.no_grad():  # sums in another order
        torch.testing.assert_close(found.model(x), alignment.model(x), rtol=1e-4, atol=1e-4)
    again = perturb(alignment, fraction=fraction, kind=kind, seed=seed)
    for before, after, repeated in zip(
        alignment.permutations, found.permutations, again.permutations, strict=True
    ):
        assert torch.equal(after, repeated)
        assert sorted(after.tolist()) == list(range(len(before)))
        count = round(fraction * len(before))
        moved = int((after != before).sum())
        if kind == "swap":
            assert moved == count // 2 * 2
        elif kind == "shuffle":
            assert moved <= count
        else:
            home = torch.arange(len(before))
            assert int((after == home).sum()) >= count
            assert (after == home)[before == home].all()
    assert found.options["perturbation"] == {"kind": kind, "fraction": fraction, "seed": seed}
    assert alignment.options.keys() == found.options.keys() - {"perturbation"}


@pytest.mark.parametrize("make", [lambda: MLP(WIDTHS), lambda: ViT(dim=16, depth=1)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_a_perturbation(make, kind):
    a, b = randomised(make, 0), randomised(make, 1)
    aligned = align(a, b, "random")
    unchanged = perturb(aligned, fraction=0, kind=kind)
    assert all(map(torch.equal, unchanged.permutations, aligned.permutations))
    assert all(torch.equal(unchanged.state_dict[n], t) for n, t in aligned.state_dict.items())
    x = inputs(a)
    whole, half = (perturb(aligned, fraction=f, kind=kind, seed=3) for f in (1, 0.5))
    with torch.no_grad():
        for found in (whole, half):
            torch.testing.assert_close(found.model(x), b(x), rtol=1e-4, atol=1e-4)
    back = all(torch.equal(whole.state_dict[n], t) for n, t in b.state_dict().items())
    assert back == (kind == "partial")


@pytest.mark.parametrize("kind", ["swap", "partial"])
def test_a_larger_fraction_disturbs_the_same_units_and_more(alignment, kind):
    less, more = (perturb(alignment, fraction=f, kind=kind, seed=5) for f in (0.3, 0.8))
    for before, few, many in zip(alignment.permutations, less.permutations, more.permutations, strict=True):
        done = few != before if kind == "swap" else few == torch.arange(len(few))
        assert done.any()
        assert torch.equal(many[done], few[done])


def test_a_uniform_shuffle_is_uniform(alignment):
    """Fixed points of a uniform permutation: mean and variance 1; 400 of 30 units in two groups."""
    fixed = [
        int((p == q).sum())
        for seed in range(400)
        for p, q in zip(
            perturb(alignment, fraction=1, kind="shuffle", seed=seed).permutations,
            alignment.permutations,
            strict=True,
        )
    ]
    assert np.mean(fixed) == pytest.approx(1, abs=4 / 800**0.5)
    assert np.var(fixed) == pytest.approx(1, abs=0.35)


def test_robustness_is_made_of_sweeps_of_perturbed_alignments(mlps):
    (a, b, _), data = mlps
    found = fc.robustness(
        a, b, data=data, n=20, fractions=(0, 0.3, 1), kinds=("swap", "partial"), repeats=2, seed=4
    )
    aligned = align(a, b, seed=4)
    assert found.loss.shape == found.accuracy.shape == (2, 3, 2)
    for repeat in range(2):

        def mean(b, repeat=repeat):
            return fc.evaluate(a, b, fc.Uniform(), data=data, n=20, seed=4 + repeat).loss.mean(dtype=float)

        swapped = perturb(aligned, fraction=0.3, kind="swap", seed=4 + repeat)
        assert found.loss[:, 0, repeat].tolist() == [mean(aligned.model)] * 2
        assert found.loss[0, 1, repeat] == mean(swapped.model)
        assert found.loss[1, 2, repeat] == found.unaligned_loss[repeat] == mean(b)
    np.testing.assert_allclose(found.mean("loss"), found.loss.mean(2))
    np.testing.assert_allclose(found.standard_error("loss"), scipy.stats.sem(found.loss, axis=2))
    own = [scores(copy.deepcopy(model), *data)[0] for model in (a, b)]
    np.testing.assert_allclose(found.ends_loss, own, rtol=LOSS)
    same = fc.robustness(
        a, aligned, data=data, n=20, fractions=(0, 0.3, 1), kinds=("swap", "partial"), repeats=2, seed=4
    )
    assert same == found


def test_an_interrupted_robustness_keeps_complete_repeats(mlps, alignment, monkeypatch):
    module = importlib.import_module("fastcomb.analysis.robustness")  # its name there is the function's
    original = module._repeat
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "_repeat", interrupted)
    arguments = {"data": mlps[1], "n": 3, "fractions": (0, 1), "kinds": ("swap",)}
    with pytest.warns(fc.BackendNotice, match="2 of 3 repeats"):
        found = fc.robustness(mlps[0][0], alignment, **arguments)
    assert found.repeats == 2
    calls[:] = [None, None]
    with pytest.raises(KeyboardInterrupt):
        fc.robustness(mlps[0][0], alignment, **arguments)


def plain_diversity(modules, x, y):
    """Every functional measure from its definition, pair by pair, with numpy and scipy."""
    with torch.no_grad():
        p = np.stack([m.double()(x.double()).softmax(1).numpy() for m in modules])
    y = y.numpy()
    classes = p.argmax(2)
    wrong = classes != y

    def loss(q):
        return -np.log(q[np.arange(len(y)), y]).mean()

    def gain(one, other):
        both = (p[one] + p[other]) / 2
        accuracy = (both.argmax(1) == y).mean() - 1 + (wrong[one].mean() + wrong[other].mean()) / 2
        return accuracy, (loss(p[one]) + loss(p[other])) / 2 - loss(both)

    each = range(len(modules))
    return {
        "disagreement": [[(classes[i] != classes[j]).mean() for j in each] for i in each],
        "churn": [[(wrong[i] != wrong[j]).mean() for j in each] for i in each],
        "jensen_shannon": [
            [np.mean(scipy.spatial.distance.jensenshannon(p[i], p[j], axis=1) ** 2) for j in each]
            for i in each
        ],
        "error_correlation": np.corrcoef(wrong),
        "accuracy_gain": [[gain(i, j)[0] for j in each] for i in each],
        "loss_gain": [[gain(i, j)[1] for j in each] for i in each],
        "loss": [loss(p[i]) for i in each],
        "accuracy": 1 - wrong.mean(1),
    }


def plain_geometry(modules):
    flat = torch.stack([nn.utils.parameters_to_vector(m.parameters()).detach().double() for m in modules])
    seen = flat - flat[-2:].mean(0)
    return {
        "distance": torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist"),
        "cosine": F.cosine_similarity(flat[:, None], flat, dim=2),
        "direction": F.cosine_similarity(seen[:, None], seen, dim=2),
    }


@pytest.mark.parametrize("block", mostly_slow([1, 1 << 26], 1))
def test_diversity_equals_its_definitions(mlps, block, monkeypatch):
    monkeypatch.setattr(weight_distance, "_BLOCK_BYTES", block)
    (a, b, _), data = mlps
    mix = fc.Mixture(a, b, fc.Uniform(), seed=3)
    index = [5, 2**64 - 1, 0, 17]
    found = fc.diversity(mix, index, data, model=a, layers=["1", "4"], batch=7)
    assert found.indices == tuple(index)
    modules = []
    for i in index:
        modules.append(copy.deepcopy(a))
        modules[-1].load_state_dict(mix[i])
    modules += [copy.deepcopy(a), copy.deepcopy(b)]
    features = {"1": [], "4": []}
    with torch.no_grad():
        for module in modules:
            hidden = module[1](data[0])
            features["1"].append(hidden)
            features["4"].append(module[3](hidden.relu()).relu())
    # the definitions subtract numbers near 1 (probabilities, norms); outputs are float32
    for name, expected in (plain_geometry(modules) | plain_diversity(modules, *data)).items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-4, atol=2e-6, err_msg=name)
    for layer, given_features in features.items():
        np.testing.assert_allclose(found.cka[layer], linear_cka_matrix(given_features), rtol=1e-5)
    np.testing.assert_array_equal(found.distance.diagonal(), 0)
    for matrix in found.measures.values():
        np.testing.assert_array_equal(matrix, matrix.T)
    assert found.direction[-1, -2] == pytest.approx(-1)
    probabilities = sum(m.float()(data[0]).softmax(1) for m in modules[:4]).detach() / 4
    assert found.joint_loss == pytest.approx(F.nll_loss(probabilities.log(), data[1]).item(), rel=1e-5)
    assert found.joint_accuracy == (probabilities.argmax(1) == data[1]).double().mean()
    assert found.joint_gain[0] == pytest.approx(found.joint_accuracy - found.accuracy[:4].mean())
    inner, mixed, outer = found.parts(found.disagreement)
    assert (len(inner), len(mixed), outer.tolist()) == (6, 8, [found.disagreement[-2, -1]])


def test_diversity_of_networks_with_batch_norm(networks, images):
    """Recomputed statistics in all networks; layers before an operation in place; whole feature maps."""
    a, b = networks
    mix = fc.Mixture(a, b, fc.Uniform())
    calibration = images[0][:16]
    found = fc.diversity(
        mix, [0, 1], images, model=a, layers=["features.1"], batch_norm="recompute", calibration=calibration
    )
    modules = []
    for state in (mix[0], mix[1], a.state_dict(), b.state_dict()):
        module = copy.deepcopy(a)
        module.load_state_dict(state)
        update_bn([calibration], module)
        modules.append(module.eval())
    with torch.no_grad():
        maps = [module.features[:2](images[0]).flatten(1) for module in modules]
    np.testing.assert_allclose(found.cka["features.1"], linear_cka_matrix(maps), rtol=1e-4)
    expected = plain_diversity(modules, *images)
    np.testing.assert_allclose(found.loss, expected["loss"], rtol=1e-4)
    np.testing.assert_allclose(found.jensen_shannon, expected["jensen_shannon"], rtol=1e-3, atol=1e-6)
    own = fc.diversity(mix, [0, 1], images, model=a, batch_norm="a")
    assert own.loss[3] == pytest.approx(scores(copy.deepcopy(b), *images)[0], rel=LOSS)


def test_errors_that_do_not_vary_have_a_correlation_by_convention():
    wrong = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]], dtype=torch.float64)
    found = error_correlation(wrong @ wrong.T / 4)
    assert found.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_cka_is_normalised_hsic():
    x, y = torch.randn(30, 7), torch.randn(30, 50)
    centre = torch.eye(30, dtype=torch.float64) - 1 / 30
    k, l = (centre @ (f.double() @ f.double().T) @ centre for f in (x, y))
    expected = (k * l).sum() / ((k * k).sum() * (l * l).sum()).sqrt()
    assert linear_cka(x, y) == pytest.approx(expected.item(), rel=1e-12)
    narrow = y[:, :9]
    k, l = (centre @ (f.double() @ f.double().T) @ centre for f in (x, narrow))
    expected = (k * l).sum() / ((k * k).sum() * (l * l).sum()).sqrt()
    assert linear_cka(x.numpy(), narrow.numpy()) == pytest.approx(expected.item(), rel=1e-12)


@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(1, 30), st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_cka_ignores_rotation_scale_and_shift(seed, samples, width, scale):
    generator = torch.Generator().manual_seed(seed)
    x, y, z = (torch.randn(samples, width, generator=generator, dtype=torch.float64) for _ in range(3))
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), rel=1e-9)
    assert linear_cka(x, y) == pytest.approx(linear_cka(scale * x @ rotation + 5, y), rel=1e-6, abs=1e-9)
    assert linear_cka(x, x @ rotation) == pytest.approx(1, rel=1e-9)
    assert -1e-9 <= linear_cka(x, z) <= 1 + 1e-9


def test_cka_says_what_is_wrong():
    assert np.isnan(linear_cka(torch.ones(4, 3), torch.randn(4, 3)))
    for x, y in (
        (torch.randn(4, 3, 2), torch.randn(4, 3)),
        (torch.randn(4, 3), torch.randn(5, 3)),
        (torch.randn(1, 3), torch.randn(1, 3)),
    ):
        with pytest.raises(ValueError, match=r"CKA needs \[N, d\]"):
            linear_cka(x, y)


@pytest.fixture
def results(mlps, alignment):
    (a, b, c), data = mlps
    mix = fc.Mixture(a, b, fc.Constant(0.5))
    return [
        fc.barrier(a, b, data=data, points=[0.5, 1e30]),  # infinite and NaN losses
        fc.transitivity(a, b, c, data=data, points=3),
        fc.robustness(a, alignment, data=data, n=3, repeats=1, fractions=(0, 0.5)),
        fc.diversity(mix, [0, 1], data, model=a, layers=["1"]),  # at the midpoint: no direction
    ]


def test_results_are_saved_shown_and_drawn(results, tmp_path):
    for number, result in enumerate(results):
        path = result.save(tmp_path / "new" / f"{number}.json")
        json.loads(path.read_text(), parse_constant=pytest.fail)
        assert type(result).load(path) == result
        assert result != results[number - 1]
        assert not list(path.parent.glob("*.part"))
        assert result.plot(tmp_path / f"{number}.png").stat().st_size > 10_000
        lines = result.table().splitlines()
        assert len({len(line) for line in lines}) == 1
        assert {line[0] + line[-1] for line in lines} == {"||"}
        assert repr(result).startswith(type(result).__name__)
        assert len(repr(result)) < 200
    assert not np.isfinite(results[0].loss).all()
    with pytest.raises(ValueError, match="not a saved Barrier; its format is 'fastcomb diversity 1'"):
        fc.Barrier.load(tmp_path / "new" / "3.json")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="not a saved Barrier"):
        fc.Barrier.load(tmp_path / "text")


class Turned(nn.Module):
    """Transposes; two after one another change nothing."""

    def forward(self, x):
        return x.T


def test_layers_must_return_tensors_with_samples_first(images):
    x, y = torch.randn(6, 20), torch.arange(6) % 5
    a, b = (nn.Sequential(nn.Linear(20, 5), Turned(), Turned()) for _ in "ab")
    mix = fc.Mixture(a, b, fc.Uniform())
    assert fc.diversity(mix, [0, 1], (x, y), model=a, layers=["2"]).cka["2"].shape == (4, 4)
    with pytest.raises(ValueError, match=r"layer '1' returns \(5, 6\) for 6 samples"):
        fc.diversity(mix, [0, 1], (x, y), model=a, layers=["1"])
    a, b = (ViT(dim=16, depth=1) for _ in "ab")
    with pytest.raises(TypeError, match="self_attn' returns a tuple; choose one inside it"):
        fc.diversity(
            fc.Mixture(a, b, fc.Uniform()), [0, 1], images, model=a, layers=["encoder.layers.0.self_attn"]
        )


def test_bad_input_is_refused_with_the_remedy(mlps, alignment):
    (a, b, c), (x, y) = mlps
    data = x, y
    mix = fc.Mixture(a, b, fc.Uniform())
    state = a.state_dict()
    for call, message in [
        (lambda: fc.barrier(a, b, data=data, points=1), "at least its two ends"),
        (lambda: fc.barrier(a, b, data=data, points=[0.5, np.nan]), "not finite"),
        (lambda: fc.barrier(state, state, data=data), "pass model="),
        (lambda: fc.transitivity(a, b, c, data=data, method="activations"), "pass matching_data="),
        (lambda: fc.transitivity(a, b, c, data=data, method="weight"), "method='weight' is none of"),
        (lambda: perturb(alignment, fraction=1.5, kind="swap"), "fraction=1.5 is outside"),
        (lambda: perturb(alignment, fraction=0.5, kind="swop"), "kind='swop' is none of 'swap', 'shuffle'"),
        (lambda: fc.robustness(a, alignment, data=data, fractions=[-1]), "fraction=-1 is outside"),
        (lambda: fc.robustness(a, alignment, data=data, kinds=["swop"]), "kind='swop'"),
        (lambda: fc.robustness(a, alignment, data=data, kinds=[]), "at least one"),
        (lambda: fc.robustness(a, alignment, data=data, repeats=0), "repeats=0"),
        (lambda: fc.diversity(mix, [3], data, model=a), "1 indices given"),
        (lambda: fc.diversity(mix, [0, 1], data, model=a, layers=["9"]), "no layer '9'; the nearest are"),
        (lambda: fc.diversity(mix, [0, 1], (x, y.float()), model=a), "class numbers"),
        (lambda: fc.diversity(mix, [0, 1], (x, y + 9), model=a), "labels run from"),
        (lambda: fc.diversity(mix, [0, 1], data, model=a, batch=0), "batch=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"pass \(x, y\)"):
        fc.diversity(mix, [0, 1], x, model=a)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        fc.barrier(a, b, data=data, batchnorm="a")
