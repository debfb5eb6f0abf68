"""Two classifiers' predictions: against other packages, by hand, and beside their pairwise sums."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcomb import similarity as fs
from fastcomb.similarity.functional import pairs

CLOSE = {"rel": 1e-12, "abs": 1e-14}

# ten samples of three classes, by hand: a errs on 3 (samples 7 to 9), b on 4 (6 to 9), alike on 9 only
Y = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
A = np.array([0, 0, 0, 0, 1, 1, 1, 0, 1, 0])
B = np.array([0, 0, 0, 0, 1, 1, 2, 1, 0, 0])


def drawn(seed, n=50, classes=4):
    """Outputs of two classifiers that often agree, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    logits = np.eye(classes)[y] * 2 + rng.standard_normal((2, n, classes)) * 1.5
    return *logits, y


def test_by_hand():
    assert fs.disagreement(A, B) == 3 / 10
    assert fs.churn(A, B) == 3 / 10
    assert fs.churn(A, B, Y) == 1 / 10
    assert fs.error_corrected_disagreement(A, B, Y) == pytest.approx(0.3 / 0.3)
    assert fs.error_corrected_disagreement(A, B, Y, error="b") == pytest.approx(0.3 / 0.4)
    assert fs.error_corrected_disagreement(A, B, Y, error="mean") == pytest.approx(0.3 / 0.35)
    assert fs.min_max_disagreement(A, B, Y) == pytest.approx((0.3 - 0.1) / (0.7 - 0.1))
    # A has 6, 4, 0 of the classes and B 6, 3, 1
    assert fs.cohen_kappa(A, B) == pytest.approx((0.7 - 0.48) / (1 - 0.48))


@pytest.mark.parametrize("seed", range(3))
def test_equal_other_packages(seed):
    a, b, y = drawn(seed)
    p, q = scipy.special.softmax(a, 1), scipy.special.softmax(b, 1)
    expected = np.mean([scipy.spatial.distance.jensenshannon(*of) ** 2 for of in zip(p, q, strict=True)])
    assert fs.jensen_shannon(a, b) == pytest.approx(expected, **CLOSE)
    assert fs.jensen_shannon(np.log(p), torch.tensor(q).log()) == pytest.approx(expected, **CLOSE)
    one, other = a.argmax(1), b.argmax(1)
    assert fs.cohen_kappa(a, b) == pytest.approx(sklearn.metrics.cohen_kappa_score(one, other), **CLOSE)
    assert fs.disagreement(a, b) == pytest.approx(scipy.spatial.distance.hamming(one, other), **CLOSE)
    wrong = [1 - sklearn.metrics.accuracy_score(y, side) for side in (one, other)]
    least, most = abs(wrong[0] - wrong[1]), min(1.0, sum(wrong))
    expected = (fs.disagreement(a, b) - least) / (most - least)
    assert fs.min_max_disagreement(a, b, y) == pytest.approx(expected, **CLOSE)


@given(st.integers(0, 2**32), st.sampled_from([2, 5]))
@settings(max_examples=30, deadline=None)
def test_properties(seed, classes):
    a, b, y = drawn(seed, classes=classes)
    c = drawn(seed + 1, classes=classes)[0]
    for measure in (fs.disagreement, fs.churn, fs.jensen_shannon, fs.cohen_kappa):
        assert measure(a, b) == pytest.approx(measure(b, a), **CLOSE)
        order = np.random.default_rng(seed).permutation(classes)  # classes by other names
        assert measure(a[:, order], b[:, order]) == pytest.approx(measure(a, b), **CLOSE)
        shifted = a + np.arange(len(a))[:, None]
        assert measure(shifted, b) == pytest.approx(measure(a, b), rel=1e-9, abs=1e-12)
    assert fs.disagreement(a, a) == fs.churn(a, a, y) == 0
    assert fs.jensen_shannon(a, a) == pytest.approx(0, abs=1e-15)
    assert fs.cohen_kappa(a, a) == 1
    assert fs.disagreement(a, c) <= fs.disagreement(a, b) + fs.disagreement(b, c)
    assert 0 <= fs.jensen_shannon(a * 1e4, b * 1e4) <= math.log(2) * (1 + 1e-12)
    assert -1 <= fs.cohen_kappa(a, b) <= 1
    assert fs.churn(a, b, y) <= fs.disagreement(a, b)
    assert 0 <= fs.min_max_disagreement(a, b, y) <= 1
    assert fs.min_max_disagreement(a, b, y) == pytest.approx(fs.min_max_disagreement(b, a, y), **CLOSE)
    assert 0 <= fs.error_corrected_disagreement(a, b, y, error="mean") <= 2 * (1 + 1e-12)
    swapped = fs.error_corrected_disagreement(b, a, y, error="b")
    assert fs.error_corrected_disagreement(a, b, y) == pytest.approx(swapped, **CLOSE)


def test_the_pairwise_sums_are_the_same_measures():
    a, b, y = (torch.tensor(values) for values in drawn(4))
    found = pairs(torch.stack([a, b]), y)
    assert found.differ[0, 1] / 50 == pytest.approx(fs.disagreement(a, b))
    assert found.divergence[0, 1] / 50 == pytest.approx(fs.jensen_shannon(a, b), **CLOSE)
    wrong = found.both_wrong
    assert (wrong[0, 0] + wrong[1, 1] - 2 * wrong[0, 1]) / 50 == pytest.approx(fs.churn(a, b, y))


def test_extremes_of_the_error_rates():
    """The least and the greatest disagreement that the accuracies allow."""
    y = np.zeros(10, dtype=int)
    a = np.repeat([0, 1], [7, 3])
    assert fs.min_max_disagreement(a, np.repeat([0, 1], [6, 4]), y) == pytest.approx(0, abs=1e-15)
    assert fs.min_max_disagreement(a, np.repeat([1, 0], [4, 6]), y) == pytest.approx(1)
    bad = np.repeat([0, 2], [1, 9])  # together more errors than samples
    assert fs.min_max_disagreement(np.repeat([1, 0], [8, 2]), bad, y) == pytest.approx((1 - 0.1) / (1 - 0.1))


def test_impossible_classes_and_ties():
    a = torch.tensor([[0.0, -torch.inf, 1.0], [2.0, 2.0, -torch.inf]])
    b = torch.tensor([[0.0, 1.0, -torch.inf], [2.0, 2.0, 1.0]])
    p, q = a.double().softmax(1).numpy(), b.double().softmax(1).numpy()
    expected = np.mean([scipy.spatial.distance.jensenshannon(*of) ** 2 for of in zip(p, q, strict=True)])
    assert fs.jensen_shannon(a, b) == pytest.approx(expected, **CLOSE)
    assert fs.disagreement(a, np.array([2, 0])) == 0


@pytest.mark.parametrize("number", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_of_any_precision(number):
    a, b, _ = drawn(5)
    a, b = torch.tensor(a).to(number), torch.tensor(b).to(number).requires_grad_()
    assert fs.jensen_shannon(a, b) == fs.jensen_shannon(a.double(), b.double())
    assert fs.cohen_kappa(a, b) == fs.cohen_kappa(a.double().numpy(), b.argmax(1).to(torch.int8))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fs.disagreement(A, B[:4]), "a has 10 samples and b has 4"),
        (lambda: fs.disagreement(A[:0], B[:0]), "no samples"),
        (lambda: fs.disagreement(A.astype(float), B), r"a is torch.float64 \[10\]; pass logits"),
        (lambda: fs.disagreement(A, np.ones((10, 1))), r"b is torch.float64 \[10, 1\]; pass logits"),
        (lambda: fs.disagreement(A, np.ones((10, 2), dtype=int)), r"b is torch.int64 \[10, 2\]"),
        (lambda: fs.disagreement(A - 1, B), "a has class numbers below 0"),
        (lambda: fs.disagreement(list(A), B), "a is list; pass a tensor or an array"),
        (
            lambda: fs.disagreement(np.full((10, 3), np.nan), B),
            "a has outputs that are NaN or infinite, in 10 samples",
        ),
        (lambda: fs.disagreement(np.full((10, 3), -np.inf), B), "NaN or infinite"),
        (lambda: fs.churn(A, B, Y[:3]), r"y has shape \(3,\); it must be class numbers \[10\]"),
        (lambda: fs.churn(A, B, np.eye(10)), r"y has shape \(10, 10\)"),
        (lambda: fs.error_corrected_disagreement(Y, B, Y), "a makes no errors, so .* disagreement 0.4"),
        (lambda: fs.error_corrected_disagreement(Y, Y, Y, error="mean"), "both classifiers make no errors"),
        (
            lambda: fs.error_corrected_disagreement(A, B, Y, error="c"),
            "error='c' is none of 'a', 'b', 'mean'",
        ),
        (lambda: fs.min_max_disagreement(A, Y, Y), "rates of 0.3 and 0 only allow the disagreement 0.3"),
        (lambda: fs.jensen_shannon(A, B), "a has shape .* probabilities need logits"),
        (lambda: fs.jensen_shannon(np.eye(3), np.ones((3, 4))), "a has 3 classes and b has 4"),
        (lambda: fs.cohen_kappa(A * 0 + 2, B * 0 + 2), "put all samples into class 2"),
    ],
)
def test_what_is_refused_is_named(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()
