"""Measures of representations against other packages, and against their formulas written out.

RECORDED are numbers of packages that need not be installed, for the representations of ``pair``; where a
package is installed it is asked again. Tolerances of 1e-12 are some thousand roundings of float64.
"""

import importlib
import itertools
import re
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.spatial
import scipy.stats
import sklearn.decomposition
import sklearn.linear_model
import sklearn.metrics
import sklearn.neighbors
import torch
from scipy.spatial.distance import cdist, pdist, squareform

from fastcomb import similarity as fs
from fastcomb.models import MLP

CLOSE = {"rel": 1e-12, "abs": 1e-14}

#: Package and version, what was called on (x, y) of ``pair``, and what it said.
RECORDED = {
    # repsim 0.1.5: cka([x, y], kernel, "gretton")[0, 1]
    "repsim cka linear": 0.5105430486714514,
    "repsim cka rbf": 0.5299669087842721,
    # hsic([x, y], kernel, "song"): h[0, 1] / sqrt(h[0, 0] h[1, 1])
    "repsim hsic linear": 0.39708365103272647,
    "repsim hsic rbf": 0.34333100052314225,
    # cca([x, y], "yanai")[0, 1] and "pillai"; pwcca([x, y])[0, 1], the mean of both sides
    "repsim cca yanai": 0.6197842436538827,
    "repsim cca pillai": 0.7823798371185948,
    "repsim pwcca": 0.7805662541517174,
    # pytorch-cka 1.1.3: cka_from_features; hsic of the batches of 8 samples, summed
    "pytorch-cka": 0.39708365103272647,
    "pytorch-cka minibatch": 0.3506396562587026,
    # rsatoolbox 0.3.2: calc_rdm(Dataset(x), method), compare(rdm_x, rdm_y, method)
    "rsatoolbox correlation spearman": 0.3763696294288038,
    "rsatoolbox correlation corr": 0.3738375108707744,
    "rsatoolbox correlation kendall": 0.26092226613965747,
    "rsatoolbox correlation cosine": 0.8736109206163332,
    "rsatoolbox euclidean spearman": 0.3212414206418287,
    "rsatoolbox euclidean corr": 0.3930212855588019,
    "rsatoolbox euclidean kendall": 0.22155467720685115,
    "rsatoolbox euclidean cosine": 0.8741130833674028,
    # POT 0.9.7.post1: emd2 with uniform weights, of dist(x.T, y.T), its root; of minus the correlations
    "POT distance": 12.115580777112244,
    "POT correlation": 0.5328212721452805,
    "POT correlation of equal widths": 0.736097004023549,
}


def lattice(n, d, a):
    """Numbers that are the same everywhere: multiples of 1/256 in [-2, 2), without a pattern to speak of."""
    i, j = np.arange(n)[:, None], np.arange(d)
    return ((i * i * (a + 2 * j) + a * j * j * 31 + 71 * i * j + 3 * i) % 997 - 498) / 256.0


def pair():
    """24 samples of 6 and of 4 features that depend on them."""
    x = lattice(24, 6, 5)
    return x, lattice(24, 4, 11) + x[:, :4] + 2.0


def random_pair(seed, n=40, d1=7, d2=5):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d1)) @ rng.standard_normal((d1, d1)) + 3
    return x, x[:, : min(d1, d2)] @ rng.standard_normal((min(d1, d2), d2)) + rng.standard_normal((n, d2))


def around(x):
    return x - x.mean(0)


@pytest.fixture(params=["recorded", 0, 1])
def features(request):
    return pair() if request.param == "recorded" else random_pair(request.param)


def package(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name, exc_type=ImportError)
        return importlib.import_module(name)


def test_recorded_numbers():
    x, y = pair()
    batches = [(x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)]
    found = {
        "repsim cka linear": fs.cka(x, y),
        "repsim cka rbf": fs.cka(x, y, kernel="rbf"),
        "repsim hsic linear": fs.cka(x, y, estimator="debiased"),
        "repsim hsic rbf": fs.cka(x, y, kernel="rbf", estimator="debiased"),
        "repsim cca yanai": fs.mean_squared_cca(x, y),
        "repsim cca pillai": fs.mean_cca(x, y),
        "repsim pwcca": (fs.pwcca(x, y) + fs.pwcca(x, y, side="y")) / 2,
        "pytorch-cka": fs.cka(x, y, estimator="debiased"),
        "pytorch-cka minibatch": fs.minibatch_cka(batches),
        "POT distance": fs.soft_matching_distance(x, y),
        "POT correlation": fs.soft_matching_correlation(x, y),
        "POT correlation of equal widths": fs.soft_matching_correlation(x[:, :4], y),
    }
    for theirs in ("spearman", "corr", "kendall", "cosine"):
        ours = "pearson" if theirs == "corr" else theirs
        for metric in ("correlation", "euclidean"):  # their "euclidean" is squared
            of = "squared_euclidean" if metric == "euclidean" else metric
            found[f"rsatoolbox {metric} {theirs}"] = fs.rsa(x, y, metric=of, compare=ours)
    assert found == pytest.approx(RECORDED, rel=1e-11)  # their unbiased HSIC cancels more


def test_repsim_agrees(features):
    repsim = package("repsim")
    x, y = features
    assert fs.cka(x, y) == pytest.approx(repsim.cka([x, y], "linear", "gretton")[0, 1], **CLOSE)
    assert fs.cka(x, y, kernel="rbf") == pytest.approx(repsim.cka([x, y], "rbf", "gretton")[0, 1], **CLOSE)
    for kernel in ("linear", "rbf"):
        # its cka(…, "song") has the unbiased HSIC in the numerator only, so it is not compared
        hsic = repsim.hsic([x, y], kernel, "song")
        expected = hsic[0, 1] / np.sqrt(hsic[0, 0] * hsic[1, 1])
        assert fs.cka(x, y, kernel=kernel, estimator="debiased") == pytest.approx(expected, rel=1e-10)
    # what it calls Pillai's trace is the mean, and Yanai's coefficient the mean square
    assert fs.mean_cca(x, y) == pytest.approx(repsim.cca([x, y], "pillai")[0, 1], rel=1e-11)
    assert fs.mean_squared_cca(x, y) == pytest.approx(repsim.cca([x, y], "yanai")[0, 1], rel=1e-11)
    both = (fs.pwcca(x, y) + fs.pwcca(x, y, side="y")) / 2
    assert both == pytest.approx(repsim.pwcca([x, y])[0, 1], rel=1e-11)
    # its svcca reduces the whitened features instead of the features, so it is not compared


def test_pytorch_cka_agrees(features):
    package("cka")
    from cka import cka_from_features

    x, y = features
    expected = float(cka_from_features(torch.tensor(x), torch.tensor(y)))
    assert fs.cka(x, y, estimator="debiased") == pytest.approx(expected, rel=1e-10)


def test_rsatoolbox_agrees(features):
    rsatoolbox = package("rsatoolbox")
    for metric in ("correlation", "euclidean"):
        rdms = [rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(side), method=metric) for side in features]
        for compare in ("spearman", "corr", "kendall", "cosine"):
            expected = float(rsatoolbox.rdm.compare(*rdms, method=compare)[0, 0])
            of = "squared_euclidean" if metric == "euclidean" else metric
            ours = "pearson" if compare == "corr" else compare
            assert fs.rsa(*features, metric=of, compare=ours) == pytest.approx(expected, rel=1e-11)


def test_pot_agrees(features):
    ot = package("ot")
    x, y = features
    weights = [np.full(side.shape[1], 1 / side.shape[1]) for side in features]
    assert fs.soft_matching_distance(x, y) == pytest.approx(ot.emd2(*weights, ot.dist(x.T, y.T)) ** 0.5)


def test_the_document_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "similarity.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = dict(zip(("x", "y"), random_pair(0, n=100), strict=True))
    names |= {f"model_{side}": MLP((20, 9, 7, 4)).eval() for side in "ab"}
    names |= {f"maps_{side}": torch.randn(6, 3, 5, 5) for side in "ab"}
    names |= {f"logits_{side}": torch.randn(8, 4) for side in "ab"} | {"x_test": torch.randn(30, 20)}
    exec(block, names)
    assert (tmp_path / "layers.png").exists()
    for name in fs.__all__:  # all that there is has its place in the table or the text
        assert f"`{name}`" in text or f"fs.{name}" in text, name


def unbiased_hsic(k, l):
    """Song et al. (2012), equation 5, in its own letters."""
    m = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
    one = np.ones(m)
    terms = (
        np.trace(k @ l)
        + (one @ k @ one) * (one @ l @ one) / ((m - 1) * (m - 2))
        - 2 / (m - 2) * (one @ k @ l @ one)
    )
    return terms / (m * (m - 3))


def kernels(side, kernel, bandwidth=1.0):
    if kernel == "linear":
        return side @ side.T
    distances = pdist(side)
    return np.exp(-(squareform(distances) ** 2) / (2 * (bandwidth * np.median(distances)) ** 2))


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_cka_equals_its_formulas(features, kernel):
    for bandwidth in (0.4, 1.0):
        k, l = (kernels(side, kernel, bandwidth) for side in features)
        h = np.eye(len(k)) - 1 / len(k)
        hsic = [np.trace(a @ h @ b @ h) for a, b in ((k, l), (k, k), (l, l))]
        found = fs.cka(*features, kernel=kernel, bandwidth=bandwidth)
        assert found == pytest.approx(hsic[0] / np.sqrt(hsic[1] * hsic[2]), **CLOSE)
        hsic = [unbiased_hsic(*of) for of in ((k, l), (k, k), (l, l))]
        found = fs.cka(*features, kernel=kernel, bandwidth=bandwidth, estimator="debiased")
        assert found == pytest.approx(hsic[0] / np.sqrt(hsic[1] * hsic[2]), rel=1e-9)  # the formula cancels


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_minibatch_cka_sums_before_the_ratio(features, kernel):
    batches = [tuple(side[rows] for side in features) for rows in (slice(9), slice(9, 14), slice(14, None))]
    hsic = np.zeros(3)
    for x, y in batches:
        k, l = kernels(x, kernel), kernels(y, kernel)
        hsic += [unbiased_hsic(*of) for of in ((k, l), (k, k), (l, l))]
    found = fs.minibatch_cka(iter(batches), kernel=kernel)
    assert found == pytest.approx(hsic[0] / np.sqrt(hsic[1] * hsic[2]), rel=1e-9)
    mean = np.mean([fs.cka(x, y, kernel=kernel, estimator="debiased") for x, y in batches])
    assert abs(found - mean) > 1e-3


def test_debiased_cka_of_independent_features_is_about_zero():
    """Of 200 draws of 30 samples of 60 features: the biased one is near d / (n + d), the other near 0."""
    rng = np.random.default_rng(3)
    draws = [rng.standard_normal((2, 30, 60)) for _ in range(200)]
    assert np.mean([fs.cka(x, y) for x, y in draws]) == pytest.approx(60 / 90, abs=0.02)
    debiased = [fs.cka(x, y, estimator="debiased") for x, y in draws]
    assert abs(np.mean(debiased)) < 4 * np.std(debiased) / 200**0.5
    assert min(debiased) < 0


def correlations(x, y):
    """Cosines of the principal angles between the column spaces, by scipy."""
    angles = scipy.linalg.subspace_angles(around(x), around(y))
    return np.sort(np.cos(angles))[::-1]


def test_canonical_correlations_equal_scipy(features):
    expected = correlations(*features)
    np.testing.assert_allclose(fs.canonical_correlations(*features), expected, rtol=1e-12)
    assert fs.mean_cca(*features) == pytest.approx(expected.mean(), **CLOSE)
    assert fs.mean_squared_cca(*features) == pytest.approx((expected**2).mean(), **CLOSE)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_svcca_equals_pca_and_scipy(features, threshold):
    pca = sklearn.decomposition.PCA(threshold, svd_solver="full")
    reduced = [pca.fit_transform(side) for side in features]
    expected = correlations(*reduced).mean()
    assert fs.svcca(*features, threshold=threshold) == pytest.approx(expected, **CLOSE)
    assert fs.svcca(*features, threshold=1.0) == pytest.approx(fs.mean_cca(*features), **CLOSE)


def test_svcca_keeps_a_fraction_of_the_variance():
    """Orthogonal directions of norm 3, 2, 1 hold 9/14, 13/14 and all of the variance, not 3/6, 5/6."""
    columns = scipy.linalg.orth(around(np.random.default_rng(0).standard_normal((30, 6))))
    # in y the shared direction leads too: of equal variances, which one leads would be LAPACK's choice
    x, y = columns[:, :3] * [3, 2, 1], columns[:, [0, 3, 4]] * [3, 2, 1]
    for threshold, expected in ((0.64, 1), (0.65, 1 / 2), (0.92, 1 / 2), (0.93, 1 / 3)):
        assert fs.svcca(x, y, threshold=threshold) == pytest.approx(expected), threshold


def test_pwcca_equals_its_formula(features):
    """By the generalised eigenproblem of covariances, as far from the implementation as can be."""
    for side, (own, other) in (("x", features), ("y", features[::-1])):
        a, b = around(own), around(other)
        middle = a.T @ b @ np.linalg.solve(b.T @ b, b.T @ a)
        values, vectors = scipy.linalg.eigh(middle, a.T @ a)
        count = min(a.shape[1], b.shape[1])
        variates = (a @ vectors)[:, ::-1][:, :count]  # of norm 1 already
        weights = np.abs(variates.T @ a).sum(1)
        expected = weights @ np.sqrt(values[::-1][:count]) / weights.sum()
        assert fs.pwcca(*features, side=side) == pytest.approx(expected, rel=1e-10)
    assert fs.pwcca(*features, side="y") == fs.pwcca(*features[::-1], side="x")
    assert abs(fs.pwcca(*features) - fs.pwcca(*features, side="y")) > 1e-4


def test_canonical_ridge_equals_its_formula(features):
    """Singular values of (XᵀX + κ)^(-1/2) Xᵀ Y (YᵀY + κ)^(-1/2), and PWCCA with the variates of these."""
    a, b = (around(side) for side in features)
    roots = []
    for side in (a, b):
        penalty = 0.3 * (side**2).sum() / side.shape[1]
        products = side.T @ side + penalty * np.eye(side.shape[1])
        roots.append(scipy.linalg.inv(scipy.linalg.sqrtm(products)))
    left, expected, _ = np.linalg.svd(roots[0] @ a.T @ b @ roots[1], full_matrices=False)
    np.testing.assert_allclose(fs.canonical_correlations(*features, ridge=0.3), expected, rtol=1e-10)
    assert fs.mean_cca(*features, ridge=0.3) == pytest.approx(expected.mean(), rel=1e-10)
    assert fs.mean_squared_cca(*features, ridge=0.3) == pytest.approx((expected**2).mean(), rel=1e-10)
    weights = np.abs((a @ roots[0] @ left).T @ a).sum(1)
    found = fs.pwcca(*features, ridge=0.3)
    assert found == pytest.approx(weights @ expected / weights.sum(), rel=1e-10)


def test_regression_equals_sklearn(features):
    x, y = features
    for predict, (target, source) in (("x", (x, y)), ("y", (y, x))):
        penalty = 0.2 * (around(source) ** 2).sum() / source.shape[1]
        for ridge, model in (
            (None, sklearn.linear_model.LinearRegression()),
            (0.2, sklearn.linear_model.Ridge(penalty, solver="svd")),
        ):
            fitted = model.fit(source, target).predict(source)
            expected = sklearn.metrics.r2_score(target, fitted, multioutput="variance_weighted")
            found = fs.linear_regression_r2(x, y, predict=predict, ridge=ridge)
            assert found == pytest.approx(expected, **CLOSE)


def test_procrustes_equals_scipy(features):
    a, b = (around(side) for side in features)
    b = np.pad(b, ((0, 0), (0, a.shape[1] - b.shape[1])))
    rotation, nuclear = scipy.linalg.orthogonal_procrustes(b, a)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    assert fs.angular_procrustes(*features) == pytest.approx(np.arccos(nuclear / norms), **CLOSE)
    assert fs.size_and_shape_procrustes(*features) == pytest.approx(np.linalg.norm(a - b @ rotation), **CLOSE)
    disparity = scipy.spatial.procrustes(a, b)[2]  # after the best scaling too
    assert np.sin(fs.angular_procrustes(*features)) ** 2 == pytest.approx(disparity, **CLOSE)


def test_procrustes_of_more_features_than_samples():
    x, y = random_pair(2, n=12, d1=50, d2=30)
    nuclear = np.linalg.svd(around(x).T @ around(y), compute_uv=False).sum()
    norms = [np.linalg.norm(around(side)) for side in (x, y)]
    assert fs.angular_procrustes(x, y) == pytest.approx(np.arccos(nuclear / np.prod(norms)), **CLOSE)
    expected = np.sqrt(norms[0] ** 2 + norms[1] ** 2 - 2 * nuclear)
    assert fs.size_and_shape_procrustes(x, y) == pytest.approx(expected, **CLOSE)
    assert fs.size_and_shape_procrustes(x[:, :3], y) == pytest.approx(
        fs.size_and_shape_procrustes(y, x[:, :3]), **CLOSE
    )


SCIPY = {"squared_euclidean": "sqeuclidean"}


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean", "squared_euclidean"])
def test_rsa_equals_scipy(features, metric):
    vectors = [pdist(side, SCIPY.get(metric, metric)) for side in features]
    np.testing.assert_allclose(fs.rdm(features[0], metric=metric), squareform(vectors[0]), atol=1e-12)
    for compare, function in (
        ("spearman", scipy.stats.spearmanr),
        ("pearson", scipy.stats.pearsonr),
        ("kendall", scipy.stats.kendalltau),
    ):
        found = fs.rsa(*features, metric=metric, compare=compare)
        assert found == pytest.approx(function(*vectors).statistic, **CLOSE)
    cosine = 1 - scipy.spatial.distance.cosine(*vectors)
    assert fs.rsa(*features, metric=metric, compare="cosine") == pytest.approx(cosine, **CLOSE)


def test_rsa_does_not_break_ties_by_rounding():
    """Correlations of small integers tie often; their exact order comes from fractions."""
    rng = np.random.default_rng(5)
    sides = [rng.integers(0, 3, (14, 4)) for _ in range(2)]
    sides = [np.where(np.ptp(side, 1, keepdims=True) == 0, [0, 1, 2, 0], side) for side in sides]
    exact = []
    for side in sides:
        rows = [[Fraction(int(v)) - Fraction(int(row.sum()), 4) for v in row] for row in side]
        for i, a in enumerate(rows):
            for b in rows[i + 1 :]:
                dot = sum(p * q for p, q in zip(a, b, strict=True))
                square = dot * abs(dot) / (sum(p * p for p in a) * sum(q * q for q in b))
                exact.append(-square)  # rises with 1 - r
    half = len(exact) // 2
    order = {value: rank for rank, value in enumerate(sorted(set(exact)))}
    ranks = [[order[value] for value in part] for part in (exact[:half], exact[half:])]
    assert len(order) < half / 2
    for compare, function in (("spearman", scipy.stats.spearmanr), ("kendall", scipy.stats.kendalltau)):
        assert fs.rsa(*sides, compare=compare) == pytest.approx(function(*ranks).statistic, **CLOSE)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 5, 23])
def test_neighbours_equal_sklearn(features, metric, k, monkeypatch):
    monkeypatch.setattr("fastcomb.similarity.neighbours._BLOCK_BYTES", 2000)  # several blocks
    search = sklearn.neighbors.NearestNeighbors(n_neighbors=k, metric=metric)
    found = [search.fit(side).kneighbors(return_distance=False) for side in features]
    sets = [[set(row) for row in rows] for rows in found]
    expected = np.mean([len(a & b) / len(a | b) for a, b in zip(*sets, strict=True)])
    assert fs.neighbour_jaccard(*features, k=k, metric=metric) == pytest.approx(expected, **CLOSE)


def test_ties_among_neighbours_go_to_lower_numbers():
    """By hand, with one neighbour each; samples 0 to 2 coincide in x, 0 and 2 in y."""
    x = np.array([[1.0, 1], [1, 1], [1, 1], [9, 0], [0, 9], [0, 8]])
    y = np.array([[1.0, 1], [3, 3], [1, 1], [9, 0], [0, 9], [1, 2]])
    # in x 1 (not 2), 0, 0, 0 (of 0 to 2, all √65 away), 5, 4; in y 2, 5, 0, 1, 1, 0 (not 2)
    assert fs.neighbour_jaccard(x, y, k=1, metric="euclidean") == pytest.approx(1 / 6)


def test_soft_matching_equals_its_linear_program(features):
    x, y = features
    cost = cdist(x.T, y.T, "sqeuclidean")
    rows, columns = cost.shape
    sums = [np.repeat(np.eye(rows), columns, 1), np.tile(np.eye(columns), rows)]
    totals = np.repeat([1 / rows, 1 / columns], [rows, columns])
    found = scipy.optimize.linprog(cost.ravel(), A_eq=np.vstack(sums), b_eq=totals, method="highs-ipm")
    assert fs.soft_matching_distance(x, y) == pytest.approx(found.fun**0.5, rel=1e-9)


def test_soft_matching_of_equal_widths_is_the_best_permutation(features):
    x, y = (side[:, :4] for side in features)
    distance = cdist(x.T, y.T, "sqeuclidean")
    correlation = np.corrcoef(x.T, y.T)[:4, 4:]
    orders = [list(order) for order in itertools.permutations(range(4))]
    least = min(distance[range(4), order].mean() for order in orders)
    most = max(correlation[range(4), order].mean() for order in orders)
    assert fs.soft_matching_distance(x, y) == pytest.approx(least**0.5, **CLOSE)
    assert fs.soft_matching_correlation(x, y) == pytest.approx(most, **CLOSE)


def test_soft_matching_splits_units(features):
    """Twice the units of x are as far from y as x is: the masses are the same."""
    x, y = features
    twice = np.concatenate([x, x], 1)
    for measure in (fs.soft_matching_distance, fs.soft_matching_correlation):
        assert measure(twice, y) == pytest.approx(measure(x, y), rel=1e-9)
    assert fs.soft_matching_distance(twice, x) == pytest.approx(0, abs=1e-6)
    units = [side / np.linalg.norm(side, axis=0) for side in map(around, features)]
    both = 2 - 2 * fs.soft_matching_correlation(x, y)
    assert fs.soft_matching_distance(*units) ** 2 == pytest.approx(both, rel=1e-9)
