"""Task-loss matching against hooks in whole networks; scores; combinations of stitches."""

import copy
import math
import warnings

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastcomb as fc
from fastcomb import stitching
from fastcomb.models import MLP, VGG, ViT
from fastcomb.stitching import TaskLoss
from fastcomb.stitching import training as training_module
from fastcomb.stitching.cache import Cache
from fastcomb.stitching.gather import as_data
from tests.networks import randomised
from tests.quick import mostly_slow

WIDTHS = (12, 9, 8, 4)
LAYER = "2"  # after the first ReLU


def small_vgg():
    return VGG((6, "M", 7, "M"), batch_norm=True, hidden=9)


@pytest.fixture
def mlps():
    """Two trained MLPs and their data."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 12, generator=generator)
    y = (x @ torch.randn(12, 4, generator=generator)).argmax(1)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = MLP(WIDTHS)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(60):
            optimiser.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimiser.step()
        found.append(model.eval())
    return found, (x, y)


@pytest.fixture
def cuts(mlps):
    return [stitching.cut(model, LAYER) for model in mlps[0]]


def hooked(models, layer, task, data, epochs, batch=128, seed=0, start=None):
    """The same training with both whole networks in every step: the plain way."""
    a, b = (copy.deepcopy(model) for model in models)
    x, y = data
    for parameter in (*a.parameters(), *b.parameters()):
        parameter.requires_grad_(False)
    own = copy.deepcopy(start)
    seen = {}
    # cloned, since the in-place ReLUs that follow would overwrite it
    a.get_submodule(layer).register_forward_hook(lambda _m, _i, out: seen.update(a=out.clone()))

    def replace(_module, _inputs, out):
        seen["b"] = out.clone()
        return own(seen["a"]) if seen["stitched"] else None

    b.get_submodule(layer).register_forward_hook(replace)
    optimiser = torch.optim.Adam(own.parameters(), lr=task.lr)
    losses = []
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed((seed << 20) + epoch))
        total = 0.0
        for rows in order.split(batch):
            seen["stitched"] = False
            given = {"a": [a(x[rows])], "b": [b(x[rows])]}
            given["mean"] = given["a"] + given["b"]
            t = task.temperature
            if task.targets == "labels":
                targets = F.one_hot(y[rows], given["b"][0].shape[1]).float()
            else:
                targets = torch.stack([(logits / t).softmax(1) for logits in given[task.targets]]).mean(0)
            seen["stitched"] = True
            logits = b(x[rows])
            loss = F.cross_entropy(logits / t, targets)
            total += float(loss.detach()) * len(rows) / len(x)
            if task.cka:
                loss = loss + task.cka * cka(own(seen["a"]).flatten(1), seen["b"].flatten(1))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if task.l1:  # a proximal step in Adam's metric
                with torch.no_grad():
                    state = optimiser.state[own.weight]
                    steps = float(state["step"])
                    scale = (state["exp_avg_sq"] / (1 - 0.999**steps)).sqrt() + 1e-8
                    limit = task.lr * task.l1 / own.weight.numel() / scale
                    own.weight.copy_(torch.nn.functional.softshrink(own.weight / limit, 1.0) * limit)
        losses.append(total)
    return own, losses


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


TASKS = [
    TaskLoss(),
    TaskLoss(kind="linear", targets="a"),
    TaskLoss(init="random", targets="mean", temperature=2.0, seed=3),
    TaskLoss(init="identity", targets="labels", lr=1e-2),
    TaskLoss(init="permutation", l1=0.1),
    TaskLoss(init="ones", cka=0.5),
    TaskLoss(rank=2),
    TaskLoss(kind="orthogonal", init="random"),
    TaskLoss(kind="diagonal"),
    TaskLoss(kind="scaled_permutation"),
    TaskLoss(kind="soft_permutation", init="identity"),
]


class TestAgainstHooks:
    """Adam divides by the root of squared gradients, so roundings of small gradients grow; measured, all
    parameters agree to a few 1e-6 after as many steps."""

    @pytest.mark.parametrize("task", TASKS, ids=str)
    def test_an_mlp(self, mlps, cuts, task):
        models, data = mlps
        found = stitching.fit(*cuts, data, task, epochs=3, batch=64, snapshots=True, progress=False)
        start = found.at(0, 0).layer
        own, losses = hooked(models, LAYER, task, data, 3, batch=64, start=start)
        last = found.at(0, 3).layer
        torch.testing.assert_close(last.matrix(), own.matrix(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.loss[0], losses, rtol=1e-4)
        assert found.complete
        assert found.epochs == 3
        assert found.loss[0, -1] < found.loss[0, 0]

    @pytest.mark.parametrize(
        "layer", mostly_slow(["features.1", "features.2", "features.3", "classifier.0"], 0, 3)
    )
    def test_a_convolutional_network(self, layer):
        models = [randomised(small_vgg, seed) for seed in (0, 1)]
        generator = torch.Generator().manual_seed(0)
        data = torch.randn(24, 3, 32, 32, generator=generator), torch.zeros(24, dtype=torch.long)
        pair = [stitching.cut(model, layer) for model in models]
        task = TaskLoss(init="random")
        found = stitching.fit(*pair, data, task, epochs=2, batch=10, snapshots=True, progress=False)
        own, losses = hooked(models, layer, task, data, 2, batch=10, start=found.at(0, 0).layer)
        torch.testing.assert_close(found.networks[0].layer.matrix(), own.matrix(), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.loss[0], losses, rtol=1e-4)

    def test_tokens(self):
        models = [randomised(ViT, seed) for seed in (0, 1)]
        data = torch.randn(12, 3, 32, 32), torch.zeros(12, dtype=torch.long)
        pair = [stitching.cut(model, "encoder.layers.0") for model in models]
        task = TaskLoss()
        found = stitching.fit(*pair, data, task, epochs=2, batch=6, snapshots=True, progress=False)
        own, losses = hooked(models, "encoder.layers.0", task, data, 2, batch=6, start=found.at(0, 0).layer)
        torch.testing.assert_close(found.networks[0].layer.matrix(), own.matrix(), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.loss[0], losses, rtol=1e-4)


@pytest.mark.parametrize("together", [1, 3, 100])
def test_a_stitch_comes_out_alike_alone_and_among_others(cuts, mlps, together, monkeypatch):
    _, data = mlps
    monkeypatch.setattr(training_module, "_TOGETHER", together * 4 * 64 * 12)
    among = stitching.fit(*cuts, data, TASKS, epochs=2, batch=64, progress=False)
    for number in (0, 2, 6):
        alone = stitching.fit(*cuts, data, TASKS[number], epochs=2, batch=64, progress=False)
        torch.testing.assert_close(
            alone.networks[0].layer.matrix(), among.networks[number].layer.matrix(), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(alone.loss[0], among.loss[number], rtol=1e-5)


def test_the_same_call_gives_the_same_bits(cuts, mlps):
    first, second = (stitching.fit(*cuts, mlps[1], TASKS, epochs=2, progress=False) for _ in range(2))
    for one, other in zip(first.networks, second.networks, strict=True):
        assert torch.equal(one.layer.matrix(), other.layer.matrix())
    np.testing.assert_array_equal(first.loss, second.loss)
    other = stitching.fit(*cuts, mlps[1], TASKS[0], epochs=2, seed=1, batch=64, progress=False)
    assert not torch.equal(other.networks[0].layer.matrix(), first.networks[0].layer.matrix())


def test_many_pairs_share_the_networks_passes(mlps):
    models, data = mlps
    names = ["1", "2", "3"]
    pairs = list(zip(*(stitching.cuts(model, names) for model in models), strict=True))
    jobs = [(a, b, [TaskLoss(), TaskLoss(init="random")]) for a, b in pairs]
    together = stitching.fit_all(jobs, data, epochs=2, progress=False)
    for job, found in zip(jobs, together, strict=True):
        alone = stitching.fit(*job[:2], data, job[2], epochs=2, progress=False)
        np.testing.assert_allclose(found.loss, alone.loss, rtol=1e-6)


def test_what_exceeds_the_memory_budget_is_kept_on_disk(cuts, mlps):
    held = stitching.fit(*cuts, mlps[1], TaskLoss(), epochs=2, progress=False)
    kept = stitching.fit(*cuts, mlps[1], TaskLoss(), epochs=2, budget=0, progress=False)
    assert torch.equal(held.networks[0].layer.matrix(), kept.networks[0].layer.matrix())


def test_the_cache_counts_what_it_holds(cuts, mlps):
    a, _ = cuts
    data = as_data(mlps[1])
    size = 150 * 9 * 4
    for budget, expected in ((size, (size, 0)), (size - 1, (0, size))):
        cache = Cache({a.network: [a]}, [a.network], data, budget, progress=False)
        assert (cache.in_memory, cache.on_disk) == expected
        with torch.no_grad():
            assert torch.equal(cache.activations(a), a.bottom(mlps[1][0]))
            assert torch.equal(cache.output(a.network), mlps[0][0](mlps[1][0]))


class TestStopping:
    def test_early_stopping_keeps_the_best_epoch(self, cuts, mlps):
        x, y = mlps[1]
        held_out = torch.randn(40, 12, generator=torch.Generator().manual_seed(9))
        tasks = [TaskLoss(init="random", lr=0.1, targets="labels"), TaskLoss(lr=1e-5)]
        found = stitching.fit(
            *cuts,
            (x[:30], y[:30]),
            tasks,
            epochs=60,
            validation=(held_out, torch.zeros(40, dtype=torch.long)),
            patience=3,
            snapshots=True,
            progress=False,
        )
        stopped = np.isfinite(found.validation_loss[0])
        best = int(np.nanargmin(found.validation_loss[0]))
        assert stopped.sum() == best + 1 + 3
        assert stopped.sum() < 60
        assert torch.equal(found.networks[0].layer.matrix(), found.at(0, best + 1).layer.matrix())
        assert np.isnan(found.loss[0][~stopped]).all()
        assert np.isfinite(found.loss[1]).sum() > stopped.sum()

    def test_validation_losses_are_those_of_the_network(self, cuts, mlps):
        models, (x, y) = mlps
        found = stitching.fit(
            *cuts, (x[:100], y[:100]), TaskLoss(), epochs=2, validation=(x[100:], y[100:]), progress=False
        )
        with torch.no_grad():
            expected = F.cross_entropy(found.networks[0](x[100:]), models[1](x[100:]).softmax(1))
        assert found.validation_loss[0, -1] == pytest.approx(float(expected), rel=1e-5)

    def test_entries_made_small_by_the_penalty_are_zero(self, cuts, mlps):
        tasks = [TaskLoss(l1=strength, lr=1e-2) for strength in (0.0, 0.3, 3.0)]
        found = stitching.fit(*cuts, mlps[1], tasks, epochs=60, progress=False)
        dense, some, most = (float((n.layer.matrix() == 0).double().mean()) for n in found.networks)
        assert dense == 0
        assert 0 < some < most
        assert found.networks[2].layer.kind == "sparse"
        assert found.networks[2].layer.sparsity == most

    def test_a_support_can_be_kept(self, cuts, mlps):
        sparse = stitching.match(*cuts, mlps[1], "lasso", alpha=0.1, progress=False).layer
        found = stitching.fit(*cuts, mlps[1], TaskLoss(kind="sparse", init=sparse), epochs=3, progress=False)
        layer = found.networks[0].layer
        assert torch.equal(layer.matrix() != 0, sparse.matrix() != 0)
        assert not torch.equal(layer.matrix(), sparse.matrix())

    def test_the_penalty_drives_representations_apart(self, mlps):
        models, data = mlps
        cut = stitching.cut(models[1], LAYER)
        tasks = [TaskLoss(init="identity", cka=strength, lr=1e-2) for strength in (0.0, 1.0)]
        found = stitching.fit(cut, cut, data, tasks, epochs=30, progress=False)
        with torch.no_grad():
            h = cut.bottom(data[0])
            alike = [float(cka(n.layer(h), h)) for n in found.networks]
        assert alike[1] < alike[0] - 0.1


class TestResume:
    def test_the_same_call_continues_after_an_interruption(self, cuts, mlps, tmp_path, monkeypatch):
        _, data = mlps
        options = {"epochs": 5, "batch": 64, "progress": False, "snapshots": True, "validation": data}
        whole = stitching.fit(*cuts, data, TASKS, **options)
        step, count = torch.optim.Adam.step, [0]

        def interrupted(self, *args):
            count[0] += 1
            if count[0] == 8:  # in the third epoch of three steps each
                raise KeyboardInterrupt
            return step(self, *args)

        monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
        with pytest.warns(
            fc.BackendNotice, match="interrupted: 2 of 5 epochs are done; the same call continues"
        ):
            part = stitching.fit(*cuts, data, TASKS, out=tmp_path, **options)
        assert (part.epochs, part.complete) == (2, False)
        np.testing.assert_array_equal(part.loss, whole.loss[:, :2])
        torch.testing.assert_close(part.at(0, 2).layer.matrix(), part.networks[0].layer.matrix())
        done = count[0]
        rest = stitching.fit(*cuts, data, TASKS, out=tmp_path, **options)
        assert count[0] == done + 9
        np.testing.assert_array_equal(rest.loss, whole.loss)
        np.testing.assert_array_equal(rest.validation_loss, whole.validation_loss)
        for one, other in zip(rest.networks, whole.networks, strict=True):
            assert torch.equal(one.layer.matrix(), other.layer.matrix())
        assert torch.equal(rest.at(3, 1).layer.matrix(), whole.at(3, 1).layer.matrix())
        again = stitching.fit(*cuts, data, TASKS, out=tmp_path, **options)
        assert count[0] == done + 9
        np.testing.assert_array_equal(again.loss, whole.loss)

    def test_more_epochs_go_on_and_fewer_are_there_already(self, cuts, mlps, tmp_path):
        whole = stitching.fit(*cuts, mlps[1], TASKS, epochs=4, progress=False)
        for epochs in (2, 4, 3):
            found = stitching.fit(*cuts, mlps[1], TASKS, epochs=epochs, out=tmp_path, progress=False)
            assert found.complete
            assert found.epochs == (2 if epochs == 2 else 4)
            np.testing.assert_array_equal(found.loss, whole.loss[:, : found.epochs])

    def test_an_interruption_before_the_first_epoch_is_one(self, cuts, mlps, monkeypatch):
        def interrupted(self, *args):
            raise KeyboardInterrupt

        monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stitching.fit(*cuts, mlps[1], epochs=2, progress=False)

    def test_another_training_is_refused(self, cuts, mlps, tmp_path):
        _, (x, y) = mlps
        stitching.fit(*cuts, (x, y), TaskLoss(), epochs=1, out=tmp_path, progress=False)
        for data, task in (((x + 1, y), TaskLoss()), ((x, y), TaskLoss(lr=0.1))):
            with pytest.raises(ValueError, match="is of another training"):
                stitching.fit(*cuts, data, task, epochs=2, out=tmp_path, progress=False)
        (tmp_path / "0000.pt").write_bytes(b"no")
        with pytest.raises(ValueError, match="cannot be read"):
            stitching.fit(*cuts, (x, y), TaskLoss(), epochs=2, out=tmp_path, progress=False)


def test_a_picture_of_the_training(cuts, mlps, tmp_path):
    found = stitching.fit(*cuts, mlps[1], TASKS[:3], epochs=3, validation=mlps[1], progress=False)
    assert found.plot(tmp_path / "training.png").stat().st_size > 5000


class TestScores:
    def test_every_measure_against_plain_computations(self, mlps, cuts):
        models, (x, y) = mlps
        y = y.clone()
        y[::3] = (y[::3] + 1) % 4
        found = stitching.match_all([tuple(cuts)], x, ["least_squares", "random"], progress=False)[0]
        scores = stitching.score(found, (x, y), progress=False)
        assert scores.names == ("least_squares", "random")
        with torch.no_grad():
            own = torch.stack([stitch(x) for stitch in found.values()]).double()
            a, b = (model(x).double() for model in models)
        right = [float((logits.argmax(1) == y).double().mean()) for logits in (*own, a, b)]
        np.testing.assert_allclose(scores.accuracy, right[:2])
        np.testing.assert_allclose(scores.accuracy_a, [right[2]] * 2)
        np.testing.assert_allclose(scores.accuracy_b, [right[3]] * 2)
        np.testing.assert_allclose(scores.relative_b, np.array(right[:2]) / right[3])
        np.testing.assert_allclose(scores.relative_a, np.array(right[:2]) / right[2])
        for i, logits in enumerate(own):
            assert scores.loss[i] == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-6)
            soft = F.cross_entropy(logits, b.softmax(1))
            assert scores.cross_entropy[i] == pytest.approx(float(soft), rel=1e-6)
            for other, name in ((a, "a"), (b, "b")):
                agreement = sklearn.metrics.accuracy_score(other.argmax(1), logits.argmax(1))
                assert getattr(scores, f"disagreement_{name}")[i] == pytest.approx(1 - agreement)
            p, q = logits.softmax(1), b.softmax(1)
            middle = (p + q) / 2
            divergence = ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)).mean() / 2
            assert scores.jensen_shannon[i] == pytest.approx(float(divergence), rel=1e-6)
            confidence, classes = p.max(1)
            expected = 0.0
            for low in np.arange(15) / 15:
                inside = (confidence > low) & (confidence <= low + 1 / 15)
                if inside.any():
                    gap = (classes == y)[inside].double().mean() - confidence[inside].mean()
                    expected += float(inside.double().mean() * gap.abs())
            assert scores.calibration_error[i] == pytest.approx(expected, rel=1e-9)

    def test_standard_errors_are_those_of_the_bootstrap(self, mlps, cuts):
        models, (x, y) = mlps
        stitch = stitching.match(*cuts, x, "random", progress=False)
        scores = stitching.score(stitch, (x, y), progress=False)
        with torch.no_grad():
            right = np.stack([(m(x).argmax(1) == y).numpy() for m in (stitch, models[1])]).astype(float)
        generator = np.random.default_rng(0)
        drawn = generator.integers(0, len(y), (4000, len(y)))
        ratios = right[0][drawn].mean(1) / right[1][drawn].mean(1)
        assert scores.relative_error[0] == pytest.approx(ratios.std(), rel=0.1)

    def test_stitches_of_different_networks_in_one_call(self, mlps, tmp_path):
        models, (x, y) = mlps
        stitches = {}
        for layer in ("1", "3"):
            pair = [stitching.cut(model, layer) for model in models]
            stitches[layer] = stitching.match(*pair, x, progress=False)
            stitches[f"{layer} back"] = stitching.match(*pair[::-1], x, progress=False)
        loader = DataLoader(TensorDataset(x, y), batch_size=40)
        scores = stitching.score(stitches, loader, progress=False)
        for name, stitch in stitches.items():
            alone = stitching.score(stitch, (x, y), progress=False)
            assert alone.accuracy[0] == scores.accuracy[scores.names.index(name)]
        assert scores.accuracy_a[0] == scores.accuracy_b[1]
        assert "3 back" in scores.table()
        assert scores.plot(tmp_path / "scores.png").stat().st_size > 5000
        assert stitching.Scores.load(scores.save(tmp_path / "scores.json")) == scores

    def test_bad_input(self, mlps, cuts):
        _, (x, y) = mlps
        stitch = stitching.match(*cuts, x, progress=False)
        with pytest.raises(ValueError, match="no stitches"):
            stitching.score([], (x, y))
        with pytest.raises(ValueError, match="labels are needed"):
            stitching.score(stitch, x)
        with pytest.raises(ValueError, match="labels run from 4 to 7, but there are 4 classes"):
            stitching.score(stitch, (x, y + 4))


class TestCombinations:
    def test_they_are_combinations_of_the_maps(self, mlps, cuts):
        _, (x, y) = mlps
        one = stitching.match(*cuts, x, progress=False)
        other = one.replaced(stitching.match(*cuts, x, "procrustes", progress=False).layer)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a notice would tell of the slower backend
            sweep = stitching.combine(one, other, fc.Uniform(), data=(x, y), n=20, seed=5, progress=False)
        assert sweep.backend == "native"
        for index in (0, 7, 19):
            coefficients = sweep.mixture.coefficients(index)
            weight = torch.lerp(one.layer.map()[0], other.layer.map()[0], coefficients["layer.weight"])
            bias = torch.lerp(one.layer.map()[1], other.layer.map()[1], coefficients["layer.bias"])
            stitched = one.replaced(stitching.Affine(weight, bias))
            with torch.no_grad():
                logits = stitched(x)
            assert sweep.loss[index] == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-4)
            rebuilt = one.replaced(sweep.rebuild(index).layer)
            torch.testing.assert_close(rebuilt(x), logits, rtol=1e-4, atol=1e-4)

    def test_the_tops_stay_as_they_are(self, mlps, cuts):
        _, (x, y) = mlps
        one = stitching.match(*cuts, x, progress=False)
        other = one.replaced(stitching.match(*cuts, x, "random", progress=False).layer)
        ends = stitching.combine(
            one, other, fc.Bernoulli(0.5, per="model"), data=(x, y), n=16, progress=False
        )
        with torch.no_grad():
            expected = [float(F.cross_entropy(stitch(x), y)) for stitch in (one, other)]
        for loss in ends.loss:
            assert min(abs(loss / value - 1) for value in expected) < 1e-5

    @pytest.mark.parametrize("layer", ["features.1", "features.3"])
    def test_convolutional_networks_run_on_the_engine(self, layer):
        models = [randomised(small_vgg, seed) for seed in (0, 1)]
        x, y = torch.randn(20, 3, 32, 32), torch.randint(0, 10, (20,))
        pair = [stitching.cut(model, layer) for model in models]
        one = stitching.match(*pair, x, progress=False)
        other = one.replaced(stitching.match(*pair, x, "identity", progress=False).layer)
        sweep = stitching.combine(one, other, fc.Constant(0.25), data=(x, y), n=1, progress=False)
        assert sweep.backend == "native"
        weight = torch.lerp(one.layer.map()[0], torch.eye(6), 0.25)
        stitched = one.replaced(stitching.Affine(weight, 0.75 * one.layer.map()[1]))
        with torch.no_grad():
            assert sweep.loss[0] == pytest.approx(float(F.cross_entropy(stitched(x), y)), rel=1e-4)

    def test_stitches_of_different_cuts_are_refused(self, mlps, cuts):
        models, (x, y) = mlps
        one = stitching.match(*cuts, x, progress=False)
        other = stitching.match(*(stitching.cut(model, "3") for model in models), x, progress=False)
        with pytest.raises(ValueError, match="not of the same two cuts"):
            stitching.combine(one, other, fc.Uniform(), data=(x, y), n=1)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"kind": "quadratic"}, "kind='quadratic' is none of 'linear', 'affine'"),
            ({"kind": "permutation"}, "kind='permutation' is none of"),
            ({"init": "zeros"}, "init='zeros' is none of 'least_squares'"),
            ({"targets": "c"}, "targets='c' is none of 'b', 'a', 'mean', 'labels'"),
            ({"kind": "low_rank"}, "low-rank layers, and only they, have a rank"),
            ({"kind": "diagonal", "rank": 2}, "low-rank layers, and only they, have a rank"),
            ({"lr": 0.0}, "lr=0.0 must be positive"),
            ({"temperature": -1.0}, "temperature=-1.0"),
            ({"l1": -1.0}, "l1=-1.0 not negative"),
            ({"rank": 2, "l1": 1.0}, "makes a matrix sparse"),
            ({"kind": "sparse"}, "kind='sparse' needs init="),
            ({"rank": 0}, "rank=0 must be at least 1"),
        ],
    )
    def test_tasks(self, options, message):
        with pytest.raises(ValueError, match=message):
            TaskLoss(**options)

    def test_cuts_that_do_not_allow_a_task(self, mlps):
        models, data = mlps
        wide, narrow = stitching.cut(models[0], "1"), stitching.cut(models[1], "3")
        for task, message in (
            (TaskLoss(rank=9), r"rank=9 is outside \[1, 8\]"),
            (TaskLoss(kind="diagonal"), "as many channels on both sides, not 9 and 8"),
            (TaskLoss(init="identity"), "as many channels on both sides, not 9 and 8"),
            (TaskLoss(init=stitching.Identity(3)), "does not map 9 channels to 8"),
        ):
            with pytest.raises(ValueError, match=message):
                stitching.fit(wide, narrow, data, task)
        with pytest.raises(ValueError, match="8 channels cannot be paired with 9"):
            stitching.fit(narrow, wide, data, TaskLoss(init="permutation"))
        found = stitching.fit(wide, narrow, data, [TaskLoss(init="permutation"), TaskLoss(rank=2)], epochs=1)
        assert math.isfinite(found.loss.sum())

    @pytest.mark.parametrize("options", [{"epochs": 0}, {"batch": 1.5}, {"patience": 0}])
    def test_schedules(self, cuts, mlps, options):
        with pytest.raises(ValueError, match="must be an integer of at least 1"):
            stitching.fit(*cuts, mlps[1], **options)

    def test_data(self, cuts, mlps):
        _, (x, y) = mlps
        with pytest.raises(ValueError, match="labels are needed"):
            stitching.fit(*cuts, x, TaskLoss(targets="labels"))
        with pytest.raises(ValueError, match="patience=2 needs validation="):
            stitching.fit(*cuts, x, patience=2)
        with pytest.raises(ValueError, match="shuffled DataLoader"):
            stitching.fit(*cuts, DataLoader(TensorDataset(x, y), shuffle=True))
        with pytest.raises(ValueError, match="there is no task"):
            stitching.fit_all([(*cuts, [])], x)
        with pytest.raises(ValueError, match="NaN or infinite"):
            stitching.fit(*cuts, x / 0, TaskLoss(init="random"), progress=False)

    def test_what_is_no_cut_no_task_and_no_stitch(self, cuts, mlps):
        models, (x, y) = mlps
        with pytest.raises(TypeError, match=r"a is a MLP; pass stitching.cut\(model, layer\)"):
            stitching.fit(*models, x)
        with pytest.raises(TypeError, match="a is a MLP"):
            stitching.match(*models, x)
        with pytest.raises(TypeError, match="a task is a str"):
            stitching.fit(*cuts, x, ["least_squares"])
        with pytest.raises(TypeError, match="stitch '0' is a MLP; pass stitched networks"):
            stitching.score(models, (x, y))
        with pytest.raises(TypeError, match="layer=2 is no name"):
            stitching.cut(models[0], 2)
        with pytest.raises(ValueError, match=r"seed=-1 is outside"):
            stitching.fit(*cuts, x, seed=-1)
        one = stitching.match(*cuts, x, progress=False)
        with pytest.raises(TypeError, match="data is a Tensor"):
            stitching.combine(one, one, fc.Uniform(), data=x, n=1)

    @pytest.mark.parametrize("x", [torch.randn(5, 7), torch.ones(5, 12, dtype=torch.int64)])
    def test_inputs_that_do_not_run(self, cuts, x):
        for call in (stitching.match, stitching.fit):
            with pytest.raises(ValueError, match="do not run through MLP, which was cut for N×12"):
                call(*cuts, x, progress=False)

    def test_networks_that_are_no_classifiers(self):
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.Unflatten(1, (2, 3)))
        cut = stitching.cut(model, "1", torch.randn(2, 4))
        with pytest.raises(ValueError, match=r"does not return logits \[N, classes\]"):
            stitching.fit(cut, cut, torch.randn(8, 4), progress=False)

    def test_snapshots_that_were_not_kept(self, cuts, mlps):
        found = stitching.fit(*cuts, mlps[1], epochs=1, progress=False)
        with pytest.raises(ValueError, match="pass snapshots=True to fit"):
            found.at(0, 1)


class TestOtherNetworks:
    def test_double_precision_and_mixed(self):
        torch.manual_seed(0)
        models = [MLP(WIDTHS).double().eval(), MLP(WIDTHS).eval()]
        x, y = torch.randn(40, 12), torch.randint(0, 4, (40,))
        double, single = stitching.cut(models[0], LAYER), stitching.cut(models[1], LAYER)
        data = (x.double(), y)
        direct = stitching.match(double, double, data, progress=False)
        tasks = [TaskLoss(), TaskLoss(rank=2)]
        found = stitching.fit(double, double, data, tasks, epochs=2, progress=False)
        for network in (direct, *found.networks):
            assert network(data[0]).dtype == torch.float64
        assert np.isfinite(stitching.score(found.networks, data, progress=False).loss).all()
        with pytest.warns(fc.BackendNotice, match="the dtype float64"):
            sweep = stitching.combine(direct, found.networks[0], fc.Uniform(), data=data, n=2, progress=False)
        assert np.isfinite(sweep.loss).all()
        weight, bias = torch.eye(9), torch.zeros(9)
        mixed = stitching.Stitched(single, double, stitching.Affine(weight, bias))
        assert mixed(x).dtype == torch.float64

    def test_tops_that_need_contiguous_activations(self):
        class Shuffled(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 6, 3)
                self.head = nn.Conv2d(6, 4, 1)

            def forward(self, x):
                h = self.conv(x)
                n, c, height, width = h.shape
                h = h.view(n, 2, c // 2, height, width).transpose(1, 2).reshape(n, c, height, width)
                return self.head(h.view(n, c, height, width)).mean((2, 3))

        torch.manual_seed(0)
        models = [Shuffled().eval() for _ in range(2)]
        x = torch.randn(20, 3, 8, 8)
        pair = [stitching.cut(model, "conv", x[:2]) for model in models]
        task = TaskLoss(init="random")
        found = stitching.fit(*pair, x, task, epochs=2, batch=8, snapshots=True, progress=False)
        start = found.at(0, 0).layer
        own, losses = hooked(models, "conv", task, (x, None), 2, batch=8, start=start)
        torch.testing.assert_close(found.networks[0].layer.matrix(), own.matrix(), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.loss[0], losses, rtol=1e-4)
