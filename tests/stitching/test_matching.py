"""Direct matching against scipy, scikit-learn, planted solutions and plain computations."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import sklearn.linear_model
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastcomb import stitching
from fastcomb.models import MLP, VGG, ResNet20, Tiny10, ViT
from fastcomb.similarity.moments import Moments
from fastcomb.stitching import Lasso, LeastSquares, Procrustes, ReducedRank
from fastcomb.stitching.gather import Gathered, Third, positions
from fastcomb.stitching.match import METHODS
from fastcomb.stitching.stitched import KINDS
from tests.networks import inputs, operations, randomised
from tests.quick import mostly_slow
from tests.stitches import activations, pair

#: Stitching layers are rounded to float32: half an ulp, and as much for activations computed in float32.
FLOAT32 = 2e-6


def solve(method, x, y):
    """Matrix and bias that a method finds for given activations, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        weight, bias = method.solve(Gathered(Moments.of(x, y), Third.of(x, y))).map()
    finally:
        torch.set_default_dtype(torch.float32)
    return weight.numpy(), bias.numpy()


def drawn(seed, samples=60, widths=(5, 4)):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(samples, widths[0])) + 1
    y = np.tanh(x @ generator.normal(size=widths)) + 0.3 * generator.normal(size=(samples, widths[1]))
    return torch.from_numpy(x), torch.from_numpy(y)


def error(weight, bias, x, y):
    return float(np.square(x.numpy() @ weight.T + bias - y.numpy()).sum())


def test_least_squares_is_scipys():
    a, b, u = pair(0)
    x, y = activations(a, b, u)
    expected, *_ = scipy.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y)
    weight, bias = stitching.match(a, b, u, progress=False).layer.map()
    np.testing.assert_allclose(weight, expected[:-1].T, rtol=1e-5, atol=FLOAT32)
    np.testing.assert_allclose(bias, expected[-1], rtol=1e-5, atol=FLOAT32)
    without, *_ = scipy.linalg.lstsq(x, y)
    found = stitching.match(a, b, u, "least_squares", bias=False, progress=False).layer
    np.testing.assert_allclose(found.map()[0], without.T, rtol=1e-5, atol=FLOAT32)
    assert not found.map()[1].any()


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 100.0])
def test_ridge_is_scikit_learns(ridge):
    x, y = drawn(1)
    weight, bias = solve(LeastSquares(ridge=ridge), x, y)
    expected = sklearn.linear_model.Ridge(alpha=ridge).fit(x, y)
    np.testing.assert_allclose(weight, expected.coef_, rtol=1e-9)
    np.testing.assert_allclose(bias, expected.intercept_, rtol=1e-9)


def test_procrustes_is_scipys():
    x, y = drawn(2, widths=(5, 5))
    x0, y0 = (z.numpy() - z.numpy().mean(0) for z in (x, y))
    weight, bias = solve(Procrustes(), x, y)
    np.testing.assert_allclose(weight, scipy.linalg.orthogonal_procrustes(x0, y0)[0].T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(bias, y.numpy().mean(0) - weight @ x.numpy().mean(0), rtol=1e-9, atol=1e-12)
    weight, bias = solve(Procrustes(bias=False), x, y)
    np.testing.assert_allclose(
        weight, scipy.linalg.orthogonal_procrustes(x.numpy(), y.numpy())[0].T, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("widths", [(5, 3), (3, 5)])
def test_procrustes_between_different_widths_has_orthonormal_rows_or_columns(widths):
    weight, _ = solve(Procrustes(), *drawn(3, widths=widths))
    small = weight @ weight.T if widths[1] < widths[0] else weight.T @ weight
    np.testing.assert_allclose(small, np.eye(min(widths)), atol=1e-12)


@pytest.mark.parametrize("alpha", [0.3, 0.03, 0.001])
def test_the_lasso_is_scikit_learns(alpha):
    x, y = drawn(4, samples=100, widths=(8, 3))
    weight, bias = solve(Lasso(alpha, tolerance=1e-12), x, y)
    expected = sklearn.linear_model.Lasso(alpha, tol=1e-12, max_iter=100_000).fit(x, y)
    np.testing.assert_allclose(weight, expected.coef_, atol=1e-6)
    assert ((weight == 0) == (expected.coef_ == 0)).all()
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-6)


def test_the_lasso_path_goes_from_nothing_to_least_squares():
    x, y = drawn(5, samples=100, widths=(8, 3))
    moments = Moments.of(x, y)
    top = stitching.largest_alpha(moments)
    alphas = [top * 1.0001, *(top * 0.25**k for k in range(1, 6)), 0.0]
    path = stitching.lasso_path(moments, alphas, tolerance=1e-9)
    sparsities = [layer.sparsity for layer in path]
    assert sparsities[0] == 1.0
    assert path[1].sparsity < 1.0
    assert sparsities[-1] == 0.0
    weight, _ = solve(LeastSquares(), x, y)
    np.testing.assert_allclose(path[-1].map()[0], weight, atol=1e-3)
    for alpha, layer in zip(alphas, path, strict=True):
        alone, _ = solve(Lasso(alpha, tolerance=1e-9), x, y)
        np.testing.assert_allclose(layer.map()[0], alone, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 7), st.integers(1, 6))
def test_least_squares_cannot_be_improved(seed, inputs, outputs):
    x, y = drawn(seed, widths=(inputs, outputs))
    weight, bias = solve(LeastSquares(), x, y)
    best = error(weight, bias, x, y)
    generator = np.random.default_rng(seed)
    for scale in (1e-4, 1e-2, 1.0):
        change = scale * generator.normal(size=(outputs, inputs + 1))
        assert error(weight + change[:, :-1], bias + change[:, -1], x, y) >= best * (1 - 1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_no_rotation_and_no_scaled_pairing_beats_the_one_found(seed):
    x, y = drawn(seed, widths=(4, 4))
    generator = np.random.default_rng(seed)
    rotation = solve(Procrustes(), x, y)
    scaled = solve(stitching.ScaledPermutationMatching(), x, y)
    diagonal = solve(stitching.DiagonalMatching(), x, y)
    free = error(*solve(LeastSquares(), x, y), x, y)
    assert free <= error(*scaled, x, y) <= error(*diagonal, x, y) * (1 + 1e-12)
    for _ in range(20):
        q = np.linalg.qr(generator.normal(size=(4, 4)))[0]
        bias = y.numpy().mean(0) - q @ x.numpy().mean(0)
        assert error(q, bias, x, y) >= error(*rotation, x, y) * (1 - 1e-12)
        index = generator.permutation(4)
        columns = [np.polyfit(x[:, i].numpy(), y[:, j].numpy(), 1) for j, i in enumerate(index)]
        other = np.zeros((4, 4))
        other[np.arange(4), index] = [slope for slope, _ in columns]
        assert error(other, [shift for _, shift in columns], x, y) >= error(*scaled, x, y) * (1 - 1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_reduced_rank_is_the_best_of_its_rank(seed, rank):
    x, y = drawn(seed, widths=(5, 4))
    weight, bias = solve(ReducedRank(rank), x, y)
    assert np.linalg.matrix_rank(weight) == rank
    best = error(weight, bias, x, y)
    # alternating least squares from random factors, a different way to the same optimum
    x0, y0 = (z.numpy() - z.numpy().mean(0) for z in (x, y))
    right = np.random.default_rng(seed).normal(size=(rank, 5))
    for _ in range(300):
        left = np.linalg.lstsq(x0 @ right.T, y0, rcond=None)[0].T
        right = np.linalg.lstsq(x0, y0 @ np.linalg.pinv(left).T, rcond=None)[0].T
    assert best <= np.square(x0 @ right.T @ left.T - y0).sum() * (1 + 1e-9)
    errors = [error(*solve(ReducedRank(r), x, y), x, y) for r in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(error(*solve(LeastSquares(), x, y), x, y))


def test_weighted_least_squares_is_one_weighted_regression_per_output():
    x, y = drawn(6, widths=(5, 3))
    weight, bias = solve(stitching.WeightedLeastSquares(), x, y)
    for j in range(3):
        weights = (y[:, j] - y.min()).numpy()
        expected = sklearn.linear_model.LinearRegression().fit(x, y[:, j], sample_weight=weights)
        np.testing.assert_allclose(weight[j], expected.coef_, rtol=1e-8)
        assert bias[j] == pytest.approx(expected.intercept_, rel=1e-8)


class TestPlanted:
    """The map between two networks is known, and found again."""

    def test_an_affine_map(self):
        a, b, u = pair(7, map=torch.randn(4, 6, generator=torch.Generator().manual_seed(1)))
        found = stitching.match(a, b, u, progress=False)
        with torch.no_grad():
            h = a.bottom(u)
            torch.testing.assert_close(found.layer(h), b.bottom(u), rtol=1e-4, atol=1e-5)

    def test_an_orthogonal_map(self):
        q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))[0]
        a, b, u = pair(8, widths=(6, 6), map=q)
        found = stitching.match(a, b, u, "procrustes", progress=False).layer
        torch.testing.assert_close(found.map()[0], q, rtol=1e-4, atol=1e-5)

    def test_a_permutation(self):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
        a, b, u = pair(9, widths=(6, 6), map=torch.eye(6)[order])
        for method in ("permutation", "scaled_permutation"):
            found = stitching.match(a, b, u, method, progress=False).layer
            assert torch.equal(found.index, order)
            torch.testing.assert_close(found.map()[0], torch.eye(6)[order], rtol=1e-5, atol=1e-6)

    def test_a_scaled_permutation(self):
        order = torch.tensor([2, 0, 1])
        scale = torch.tensor([-3.0, 0.5, 2.0])
        a, b, u = pair(10, widths=(3, 3), map=scale[:, None] * torch.eye(3)[order])
        found = stitching.match(a, b, u, "scaled_permutation", progress=False).layer
        torch.testing.assert_close(found.scale.detach(), scale, rtol=1e-5, atol=1e-6)

    def test_a_low_rank(self):
        generator = torch.Generator().manual_seed(4)
        planted = torch.randn(6, 2, generator=generator) @ torch.randn(2, 6, generator=generator)
        a, b, u = pair(11, widths=(6, 6), map=planted)
        found = stitching.match(a, b, u, "reduced_rank", rank=2, progress=False).layer
        torch.testing.assert_close(found.map()[0], planted, rtol=1e-3, atol=1e-4)

    def test_a_sparse_support(self):
        planted = torch.zeros(4, 6)
        planted[[0, 1, 1, 3], [2, 0, 5, 4]] = torch.tensor([2.0, -1.0, 1.5, 3.0])
        a, b, u = pair(12, samples=400, inputs=6, map=planted, first=torch.eye(6))
        found = stitching.match(a, b, u, "lasso", alpha=0.05, progress=False).layer
        assert torch.equal(found.map()[0] != 0, planted != 0)


@pytest.mark.parametrize(
    ("make", "layer", "positional"),
    mostly_slow(
        [
            (Tiny10, "bn3", True),
            (ResNet20, "layer2.0.add", True),
            (lambda: VGG(batch_norm=True), "features.1", True),
            (ViT, "encoder.layers.0", True),
            (lambda: MLP((20, 7, 5)), "2", False),
        ],
        *(0, 3, 4),
        several=True,
    ),
)
def test_one_pass_gives_what_all_activations_at_once_would(make, layer, positional):
    models = [randomised(make, seed) for seed in (0, 1)]
    a, b = (stitching.cut(model, layer) for model in models)
    data = inputs(models[0], 23)
    x, y = (positions(cut.bottom(data), cut.layer.channels).double().numpy() for cut in (a, b))
    assert (len(x) > 23) == positional
    expected, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)
    loader = DataLoader(TensorDataset(data, torch.zeros(23)), batch_size=7)
    for source in (data, data.numpy(), (data, torch.zeros(23)), loader):
        found = stitching.match(a, b, source, progress=False)
        fitted = x @ found.layer.map()[0].numpy().T + found.layer.map()[1].numpy()
        best = np.square(x @ expected[:-1] + expected[-1] - y).sum()
        assert np.square(fitted - y).sum() <= best * (1 + 1e-4) + 1e-6 * np.square(y).sum()


def test_many_pairs_and_methods_in_one_pass_are_those_one_by_one():
    models = [randomised(Tiny10, seed) for seed in (0, 1)]
    x = inputs(models[0], 20)
    names = ["bn2", "bn5", "bn8"]
    pairs = list(zip(*(stitching.cuts(model, names) for model in models), strict=True))
    methods = ["least_squares", "weighted", ReducedRank(3), "procrustes", "scaled_permutation", "random"]
    together = stitching.match_all(pairs, x, methods, progress=False)
    assert list(together[0]) == [
        "least_squares",
        "weighted",
        "reduced_rank(rank=3)",
        "procrustes",
        "scaled_permutation",
        "random",
    ]
    for (a, b), found in zip(pairs, together, strict=True):
        for method, stitch in zip(methods, found.values(), strict=True):
            alone = stitching.match(a, b, x, method, progress=False)
            with torch.no_grad():
                torch.testing.assert_close(alone(x), stitch(x), rtol=1e-3, atol=1e-3)


def test_every_method_stitches_other_networks():
    torch.manual_seed(0)
    a = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 64, 4)).eval()
    b = nn.Sequential(nn.Conv2d(3, 6, 5, padding=2), nn.GELU(), nn.Flatten(), nn.Linear(6 * 64, 4)).eval()
    x = torch.randn(40, 3, 8, 8)
    cuts = stitching.cut(a, "1", x), stitching.cut(b, "1", x)
    for method in METHODS.names:
        stitch = stitching.match(*cuts, x, method, progress=False)
        assert isinstance(stitch, nn.Module)
        assert stitch(x).shape == (40, 4)


def test_self_stitches_are_the_network_bit_for_bit():
    places = {"bn3": Tiny10, "layer2.1.add": ResNet20, "encoder.layers.0": ViT, "features.3": VGG}
    for name, make in places.items():
        model = randomised(make, 2)
        x = inputs(model, 6)
        cut = stitching.cut(model, name)
        channels = (cut.layer.channels, cut.layer.channels)
        expected = operations(model, x)
        for layer in (
            stitching.match(cut, cut, x, "identity", progress=False).layer,
            stitching.Affine(torch.eye(cut.width), torch.zeros(cut.width), channels=channels),
            stitching.Permutation(torch.arange(cut.width), cut.width, channels=channels),
        ):
            assert torch.equal(stitching.Stitched(cut, cut, layer)(x), expected)


@pytest.mark.parametrize("how", ["pool", "interpolate"])
def test_different_widths_and_sizes(how):
    a, b = randomised(Tiny10, 0), randomised(ResNet20, 1)
    x = inputs(a, 12)
    first, second = stitching.cut(a, "bn2"), stitching.cut(b, "layer2")
    with pytest.raises(
        ValueError, match=r"different positions, \(28, 28\) and \(16, 16\); pass resize='pool'"
    ):
        stitching.match(first, second, x)
    with pytest.raises(ValueError, match="resize='stretch' is neither"):
        stitching.match(first, second, x, resize="stretch")
    stitch = stitching.match(first, second, x, resize=how, progress=False)
    h = first.bottom(x)
    sized = (
        torch.nn.functional.adaptive_avg_pool2d(h, 16)
        if how == "pool"
        else torch.nn.functional.interpolate(h, (16, 16), mode="bilinear")
    )
    weight, bias = stitch.layer.map()
    expected = torch.einsum("oc,nchw->nohw", weight, sized) + bias[:, None, None]
    torch.testing.assert_close(stitch.layer(h), expected, rtol=1e-4, atol=1e-4)
    assert stitch(x).shape == (12, 10)


def test_tokens_of_different_numbers_can_be_pooled():
    a, b = randomised(ViT, 0), randomised(lambda: ViT(patch=16), 1)
    x = inputs(a, 6)
    cuts = stitching.cut(a, "encoder.layers.0"), stitching.cut(b, "encoder.layers.0")
    assert stitching.match(*cuts, x, resize="pool", progress=False)(x).shape == (6, 10)


class TestBadInput:
    def test_layers_that_do_not_go_together(self):
        a, b = randomised(VGG, 0), randomised(VGG, 1)
        x = inputs(a, 4)
        with pytest.raises(ValueError, match="positions of different dimensions"):
            stitching.match(stitching.cut(a, "features.0"), stitching.cut(b, "classifier.0"), x)
        wide, narrow = stitching.cut(a, "features.6"), stitching.cut(b, "features.3")
        for method in ("diagonal", "identity"):
            with pytest.raises(ValueError, match="as many channels on both sides"):
                stitching.match(wide, narrow, x, method, resize="pool", progress=False)
        with pytest.raises(ValueError, match="16 channels cannot be paired with"):
            stitching.match(
                stitching.cut(a, "features.0"),
                stitching.cut(b, "features.6"),
                x,
                "permutation",
                resize="pool",
            )

    def test_layers_too_wide_for_weights(self):
        model = nn.Sequential(nn.Linear(4, 700), nn.ReLU(), nn.Linear(700, 3)).eval()
        cut = stitching.cut(model, "1")
        with pytest.raises(ValueError, match=r"takes 2\.6 GiB, more than 2: .*choose narrower layers"):
            stitching.match(cut, cut, torch.randn(5, 4), "weighted")

    def test_options(self):
        a, b, u = pair(0)
        with pytest.raises(ValueError, match="method='ols' is none of 'least_squares'"):
            stitching.match(a, b, u, "ols")
        with pytest.raises(ValueError, match=r"rank=5 is outside \[1, 4\]"):
            stitching.match(a, b, u, "reduced_rank", rank=5, progress=False)
        with pytest.raises(ValueError, match="ridge=-1"):
            stitching.match(a, b, u, "least_squares", ridge=-1)
        with pytest.raises(ValueError, match="alpha=-1"):
            stitching.match(a, b, u, "lasso", alpha=-1)
        with pytest.raises(ValueError, match=r"options ridge belong into LeastSquares\(...\)"):
            stitching.match(a, b, u, LeastSquares(), ridge=1.0)

    def test_data(self):
        a, b, u = pair(0)
        bad = u.clone()
        bad[3, 0] = torch.nan
        with pytest.raises(ValueError, match="x has 1 values that are NaN"):
            stitching.match(a, b, bad, progress=False)
        bad[3, 0] = torch.inf
        with pytest.raises(
            ValueError, match=r"activations x at inner N×6 .* values that are NaN or infinite"
        ):
            stitching.match(a, b, bad, progress=False)
        with pytest.raises(ValueError, match="empty"):
            stitching.match(a, b, u[:0])

    def test_layers_of_other_sizes(self):
        a, b, _ = pair(0)
        with pytest.raises(ValueError, match="from 5 to 4 channels does not fit between inner"):
            stitching.Stitched(a, b, stitching.Affine(torch.ones(4, 5)))
        with pytest.raises(ValueError, match=r"a matrix \[outputs, inputs\] and a bias"):
            stitching.Affine(torch.ones(4, 5), torch.ones(5))
        with pytest.raises(ValueError, match="different channels"):
            stitching.Permutation(torch.tensor([0, 0]), 3)


def test_directions_without_variation_do_no_harm():
    """A dead channel and one that is twice another."""
    x, y = drawn(13, widths=(4, 3))
    x = torch.cat([x, torch.full((60, 1), 2.0).double(), 2 * x[:, :1]], 1)
    weight, bias = solve(LeastSquares(), x, y)
    expected = error(*solve(LeastSquares(), x[:, :4], y), x[:, :4], y)
    assert error(weight, bias, x, y) == pytest.approx(expected, rel=1e-9)
    assert np.abs(weight).max() < 100
    for method in (stitching.PermutationMatching(), stitching.ScaledPermutationMatching(), Procrustes()):
        assert np.isfinite(solve(method, x, y)[0]).all()


@pytest.mark.parametrize("kind", mostly_slow(KINDS, 0))
def test_stitched_networks_survive_the_disk(kind, tmp_path):
    a, b = randomised(Tiny10, 0), randomised(ResNet20, 1)
    x = inputs(a, 3)
    cuts = stitching.cut(a, "bn2"), stitching.cut(b, "layer1.0.add")
    options = {"rank": 3} if kind == "low_rank" else {}
    layer = KINDS[kind].nearest(
        torch.randn(16, 16), torch.randn(16), **options, resize=stitching.Resize("pool", (32, 32))
    )
    stitch = stitching.Stitched(*cuts, layer)
    path = stitch.save(tmp_path / "deep" / "stitch.safetensors")
    loaded = stitching.load(path, randomised(Tiny10, 9), ResNet20())
    with torch.no_grad():
        assert torch.equal(loaded(x), stitch(x))
    assert {p.name for p in path.parent.iterdir()} == {"stitch.safetensors", "stitch.safetensors.json"}


def test_files_that_are_no_stitches_are_refused(tmp_path):
    a = randomised(Tiny10, 0)
    with pytest.raises(FileNotFoundError, match="a stitch is two files"):
        stitching.load(tmp_path / "nothing.safetensors", a, a)
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a saved stitch"):
        stitching.load(tmp_path / "x", a, a)
    cut = stitching.cut(a, "bn2")
    stitching.Stitched(cut, cut, stitching.Identity(16)).save(tmp_path / "y")
    with pytest.raises(ValueError, match="no layer 'bn2'"):
        stitching.load(tmp_path / "y", a, MLP((20, 5)))
