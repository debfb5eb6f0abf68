"""Heat maps of layers against each measure on activations collected by hand."""

import functools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fastcomb import similarity as fs
from fastcomb.models import MLP, VGG, ResNet20, ViT
from fastcomb.program import Program
from fastcomb.similarity.layerwise import DISTANCES, MEASURES, STREAMED
from tests.networks import randomised

LAYERS = ("features.1", "features.2", "features.3", "features.4", "flatten", "classifier.0", "classifier.2")


def small_vgg():
    """In-place ReLUs after batch norms, 32×32 and 16×16 maps."""
    return VGG((5, "M", 4), batch_norm=True, hidden=9)


@pytest.fixture(scope="module")
def networks():
    return randomised(small_vgg, 0), randomised(small_vgg, 1)


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(30, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def activations(model, x):
    """Outputs of modules and the flattened maps, copied before anything overwrites them."""
    found = {}

    def hook(name, output):
        if isinstance(output, torch.Tensor):
            found[name] = output.detach().clone()

    for name, module in model.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: hook(name, output))
    with torch.no_grad():
        model.eval()(x)
    for module in model.modules():
        module._forward_hooks.clear()
    if "features" in found:
        found["flatten"] = found["features"].flatten(1)
    return found


def by_hand(function, to, a, b, names):
    """A measure on whole matrices, NaN where there are not as many rows."""
    values = np.full((len(names), len(names)), np.nan)
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            x, y = fs.flatten(a[one], to), fs.flatten(b[other], to)
            if len(x) == len(y):
                values[i, j] = function(x, y)
    return values


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "minibatch_cka"])
def test_every_measure_equals_itself_on_activations(name, networks, inputs, monkeypatch):
    monkeypatch.setattr("fastcomb.similarity.collect._BLOCK_BYTES", 100_000)  # several blocks
    a, b = networks
    names = ("features.1", "features.2", "features.4", "classifier.2")
    found = fs.layerwise(a, b, inputs, layers_a=names, measure=name, batch=11, progress=False)
    function, to = MEASURES[name]
    expected = by_hand(function, to, activations(a, inputs), activations(b, inputs), names)
    # activations are float32, and the captured operations add up in another order
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-6)
    assert (found.measure, found.flattening, found.samples) == (name, to, 30)
    assert found.layers_a == found.layers_b == names
    assert found.distance == (name in DISTANCES)
    assert np.isnan(expected).any() == (to == "positions")


@pytest.mark.parametrize("to", ["samples", "positions"])
def test_either_flattening_and_options(to, networks, inputs):
    a, b = networks
    names = ("features.0", "features.1", "features.4")
    side = functools.partial(fs.pwcca, side="y", ridge=0.1)
    kernel = functools.partial(fs.cka, kernel="rbf")
    first = (a, b, inputs[:10])
    values = activations(a, inputs[:10]), activations(b, inputs[:10])
    for measure in (side, kernel) if to == "samples" else (side, fs.cka):
        found = fs.layerwise(*first, layers_a=names, measure=measure, flatten=to, batch=4, progress=False)
        expected = by_hand(measure, to, *values, names)
        np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-6)
    assert found.measure == "cka"


def test_minibatch_cka_sums_over_batches(networks, inputs):
    a, b = networks
    found = fs.layerwise(a, b, inputs, layers_a=LAYERS, measure="minibatch_cka", batch=9, progress=False)
    one, other = activations(a, inputs), activations(b, inputs)
    rows = [slice(0, 9), slice(9, 18), slice(18, 27)]  # the last three are left out
    expected = by_hand(
        lambda x, y: fs.minibatch_cka((x[part], y[part]) for part in rows), "samples", one, other, LAYERS
    )
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-6)


def test_a_network_beside_itself(networks, inputs):
    a, _ = networks
    own = fs.layerwise(a, a, inputs, progress=False)
    np.testing.assert_allclose(own.values.diagonal(), 1, rtol=1e-6)
    np.testing.assert_allclose(own.values, own.values.T, rtol=1e-9)
    angles = fs.layerwise(a, a, inputs, measure="angular_procrustes", progress=False)
    np.testing.assert_allclose(angles.values.diagonal(), 0, atol=1e-6)
    assert np.array(angles.best).tolist() == list(range(len(angles.layers_a)))


def test_functions_of_ones_own(networks, inputs):
    def difference(x, y):
        return (x.mean() - y.mean()).abs()

    a, b = networks
    found = fs.layerwise(
        a, b, inputs, layers_a=["classifier.0"], layers_b=["classifier.2"], measure=difference
    )
    one, other = activations(a, inputs)["classifier.0"], activations(b, inputs)["classifier.2"]
    assert found.values.item() == pytest.approx(float(difference(one, other)), rel=1e-4)
    assert (found.measure, found.flattening, found.distance) == ("difference", "samples", False)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: MLP((3072, 7, 6, 5)), ("1", "2", "3", "4", "5")),
        (
            small_vgg,
            (*(f"features.{i}" for i in range(7)), *(f"classifier.{i}" for i in range(3))),
        ),
        (
            lambda: ViT(dim=8, depth=1, heads=2),
            (
                "patches", "add", *(
                    f"encoder.layers.0{part}"
                    for part in (
                        ".norm1", ".self_attn.scaled_dot_product_attention", ".self_attn", ".add@1", ".norm2",
                        ".linear1", ".gelu", ".linear2", "",
                    )
                ), "norm", "mean", "head",
            ),
        ),
    ],
)  # fmt: skip
def test_default_layers_compute_something(make, names):
    model = randomised(make, 0)
    x = torch.randn(6, 3, 32, 32)
    found = fs.layerwise(model, model, x, progress=False)
    assert found.layers_a == names


def test_networks_of_different_architectures(inputs):
    torch.manual_seed(0)
    a, b = ResNet20().eval(), ViT(dim=8, depth=1, heads=2).eval()
    found = fs.layerwise(a, b, inputs[:8], progress=False)
    assert {"layer1.0.add", "layer1.0", "fc"} <= set(found.layers_a)
    assert found.values.shape == (len(found.layers_a), len(found.layers_b))
    one, other = (
        activations(a, inputs[:8])["layer2.1"],
        activations(b, inputs[:8])["encoder.layers.0.linear1"],
    )
    place = found.layers_a.index("layer2.1"), found.layers_b.index("encoder.layers.0.linear1")
    expected = fs.linear_cka(one.flatten(1), other.flatten(1))
    assert found.values[place] == pytest.approx(expected, rel=1e-4)
    # 16 tokens are not 32×32 pixels, but both end in one row per sample
    angles = fs.layerwise(a, b, inputs[:8], measure="angular_procrustes", progress=False)
    assert np.isnan(angles.values[0]).all()
    assert np.isfinite(angles.values[-1, -1])
    assert angles.best[0] == -1
    assert "none" in angles.table()


def test_networks_run_once_per_batch_and_stay_as_they_are(networks, inputs, monkeypatch):
    a, b = (randomised(small_vgg, seed).train() for seed in (0, 1))
    before = [tensor.clone() for tensor in a.state_dict().values()]
    calls = []
    values = Program.values

    def counted(self, state, x):
        calls.append(len(x))
        return values(self, state, x)

    fs.layerwise(*networks, inputs)  # captured, and checked on an example
    monkeypatch.setattr(Program, "values", counted)
    for measure in ("cka", "mean_cca", "minibatch_cka"):
        calls.clear()
        found = fs.layerwise(a, b, inputs, layers_a=LAYERS[:4], measure=measure, batch=20)
        assert calls == [20, 20, 10, 10]
    expected = fs.layerwise(*networks, inputs, layers_a=LAYERS[:4], measure=measure, batch=20)
    np.testing.assert_array_equal(found.values, expected.values)
    assert a.training
    for kept, now in zip(before, a.state_dict().values(), strict=True):
        assert torch.equal(kept, now)


def test_data_come_in_any_form(networks, inputs):
    a, b = networks
    y = torch.zeros(30, dtype=torch.long)
    expected = fs.layerwise(a, b, inputs, layers_a=["classifier.0"]).values
    for data in (
        inputs.numpy(),
        (inputs, y),
        TensorDataset(inputs, y),
        DataLoader(TensorDataset(inputs), batch_size=7),
    ):
        found = fs.layerwise(a, b, data, layers_a=["classifier.0"]).values
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_layers_that_do_not_vary(inputs):
    model = MLP((3072, 7, 6, 5)).eval()
    with torch.no_grad():
        model[1].bias.fill_(-1e3)  # the ReLU after it is 0 for all samples
    found = fs.layerwise(model, model, inputs, layers_a=["1", "2"], progress=False)
    assert np.isnan(found.values).tolist() == [[False, True], [True, True]]
    assert found.best == (0, -1)
    with pytest.raises(
        ValueError, match=r"layer '1' of model_a \(x\) with '2' of model_b \(y\): y does not vary"
    ):
        fs.layerwise(model, model, inputs, layers_a=["1", "2"], measure="mean_cca")
    with pytest.raises(ValueError, match="no two layers can be compared"):
        fs.layerwise(model, model, inputs, layers_a=["2"])


@pytest.mark.parametrize("name", ["cka", "angular_procrustes", "rsa"])
def test_results_have_a_table_a_picture_and_a_file(name, networks, inputs, tmp_path):
    found = fs.layerwise(*networks, inputs, layers_a=LAYERS, layers_b=LAYERS[:5], measure=name)
    assert fs.Layerwise.load(found.save(tmp_path / "map.json")) == found
    assert found.plot(tmp_path / "map.png").stat().st_size > 10_000
    lines = found.table().splitlines()
    assert len(lines) == 2 + len(LAYERS)
    assert "features.1" in lines[2]
    assert name in repr(found)
    assert "7 × 5 layers over 30 samples" in repr(found)
    pick = np.nanargmin if name in DISTANCES else np.nanargmax
    for row, best in zip(found.values, found.best, strict=True):
        assert best == (pick(row) if np.isfinite(row).any() else -1)


def test_all_that_streams_takes_moments():
    x = torch.randn(40, 3)
    for name, (function, _) in MEASURES.items():
        if function in STREAMED:
            assert function(fs.Moments.of(x, x.exp())) == pytest.approx(function(x, x.exp()), rel=1e-6), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"measure": "CKA"}, "measure='CKA' is none of 'cka', 'minibatch_cka'"),
        ({"flatten": "rows"}, "flatten='rows' is neither"),
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"layers_a": ["features.11"]}, "no layer 'features.11'; the nearest are"),
        ({"layers_a": []}, "no layers of model_a"),
        (
            {"layers_a": ["features.1"], "layers_b": ["features.4"], "measure": "mean_cca"},
            "use flatten='samples'",
        ),
        ({"measure": "minibatch_cka", "batch": 3}, "no batch has 4 samples"),
        ({"measure": "minibatch_cka", "flatten": "positions"}, "is the linear one with flatten='samples'"),
        ({"measure": "mean_cca", "flatten": "samples"}, r"layer 'features.0' of model_a \(x\) with .*ridge="),
        ({"model_b": "vgg"}, "model_b is a str; pass a module"),
    ],
)
def test_what_is_refused_is_named(options, words, networks, inputs):
    call = {"model_a": networks[0], "model_b": networks[1], "data": inputs} | options
    with pytest.raises((ValueError, TypeError), match=words):
        fs.layerwise(**call)


def test_activations_that_are_not_finite_are_named(inputs):
    model = MLP((3072, 7, 6, 5)).eval()
    with torch.no_grad():
        model[3].bias[2] = torch.inf
    with pytest.raises(ValueError, match="layer '3' of model_b has 30 values that are NaN or infinite"):
        fs.layerwise(MLP((3072, 7, 6, 5)).eval(), model, inputs)
