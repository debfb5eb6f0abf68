"""Centred kernel alignment: how alike two representations arrange the same samples.

Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations Revisited" (ICML 2019).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastcomb.similarity.centring import alone, both, centred
from fastcomb.similarity.distances import squared_distances
from fastcomb.similarity.features import Features
from fastcomb.similarity.moments import Moments

Kernel = Literal["linear", "rbf"]

#: Of a kernel matrix, in norm: less than this is what rounding leaves of one without structure.
_NOTHING = 1e-12


def cka(
    x: Features | Moments,
    y: Features | None = None,
    *,
    kernel: Kernel = "linear",
    estimator: Literal["biased", "debiased"] = "biased",
    bandwidth: float = 1.0,
) -> float:
    """Centred kernel alignment, HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)): a score.

    K_ij = k(x_i, x_j) and L_ij = k(y_i, y_j) are kernel matrices [n, n] of the samples.

    "biased" is HSIC(K, L) = tr(K H L H) / (n − 1)² with H = 1 − 1/n; the score is in [0, 1]. For the linear
    kernel, k(a, b) = aᵀ b, it is ‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖) of centred features. It is high for few samples of
    many features, whatever they are: for independent Gaussian features about d / (n + d).

    "debiased" has the unbiased HSIC in the numerator and in both denominators,
    [tr(K̃ L̃) + 1ᵀK̃1 1ᵀL̃1 / ((n − 1)(n − 2)) − 2/(n − 2) 1ᵀK̃L̃1] / (n (n − 3)), with K̃ and L̃ those without
    their diagonals; the score is in [−1, 1], and around 0 for independent features.

    Unchanged by orthogonal maps, isotropic scaling and shifts of either. Symmetric. Takes n² · 8 bytes for
    each of x and y, and O(n² d); the biased linear one O(n d²) if that is less, and works from moments.

    Source: Kornblith et al. (ICML 2019) for the measure and the bandwidth; Gretton, Bousquet, Smola and
    Schölkopf, "Measuring Statistical Dependence with Hilbert–Schmidt Norms" (ALT 2005) and Song, Smola,
    Gretton, Bedo and Borgwardt, "Feature Selection via Dependence Maximization" (JMLR 2012) for the biased
    and the unbiased HSIC.

    Args:
        x, y: features [n, d1] and [n, d2] of the same samples; or :class:`Moments` alone.
        kernel: "linear", or "rbf": k(a, b) = exp(−‖a − b‖² / (2 σ²)).
        estimator: "biased" or "debiased".
        bandwidth: of "rbf": σ as a fraction of the median distance between two different samples.

    Raises:
        TypeError: other inputs than features or moments of real numbers.
        ValueError: features that are not [n, d] of the same samples, not finite, or do not vary; fewer than 4
            samples for "debiased", or samples of which the unbiased HSIC sees no structure; unknown names; a
            bandwidth that is not positive, or a median distance of 0; moments for what does not follow from
            them.

    Example:
        >>> x = torch.randn(500, 5)
        >>> rotation = torch.linalg.qr(torch.randn(5, 5)).Q
        >>> round(fc.similarity.cka(x, 3 * x @ rotation + 1), 4)
        1.0
        >>> fc.similarity.cka(x, torch.randn(500, 5)) < 0.2
        True
    """
    _check_options(kernel, estimator, bandwidth)
    if isinstance(x, Moments):
        if (kernel, estimator) != ("linear", "biased"):
            raise ValueError(
                f"{estimator} CKA with the {kernel} kernel does not follow from moments; pass features, or "
                "use minibatch_cka"
            )
        moments = alone(x, y)
        return _bounded(float(moments.xy.square().sum() / (moments.xx.norm() * moments.yy.norm())))
    one, other = (side.values for side in centred(x, y))
    if estimator == "debiased":
        return _ratio(_unbiased(one, other, kernel, bandwidth))
    if kernel == "linear":
        return _bounded(float(linear_cka_matrix([one, other])[0, 1]))
    k, l = (_doubly_centred(_gram(values, kernel, bandwidth)) for values in (one, other))
    return _bounded(float((k * l).sum() / (k.norm() * l.norm())))


def minibatch_cka(
    batches: Iterable[tuple[Features, Features]], *, kernel: Kernel = "linear", bandwidth: float = 1.0
) -> float:
    """CKA from batches, each held alone: Σ HSIC(K_b, L_b) / √(Σ HSIC(K_b, K_b) Σ HSIC(L_b, L_b)).

    A score in [−1, 1]. The HSIC is the unbiased one, and the sums over the batches b come before the ratio;
    the mean of the batches' CKA is another, biased number. For independent batches of one size it estimates
    the debiased CKA of all samples, and with one batch equals it. Batches count alike, whatever their sizes.

    Unchanged by orthogonal maps, isotropic scaling and shifts that are the same in all batches. Symmetric.
    Takes n² · 16 bytes for a batch of n samples.

    Source: Nguyen, Raghu and Kornblith, "Do Wide and Deep Networks Learn the Same Things?" (ICLR 2021).

    Args:
        batches: pairs of features [n, d1] and [n, d2] of the same n ≥ 4 samples; any iterable.
        kernel, bandwidth: as in :func:`cka`; the median distance is each batch's own.

    Raises:
        TypeError, ValueError: as :func:`cka`; no batches.

    Example:
        >>> x, y = torch.randn(5, 100, 8), torch.randn(5, 100, 6)  # five batches
        >>> round(fc.similarity.minibatch_cka((one, 2 * one) for one in x), 4)
        1.0
        >>> abs(fc.similarity.minibatch_cka(zip(x, y))) < 0.2
        True
    """
    _check_options(kernel, "debiased", bandwidth)
    total = torch.zeros(3, dtype=torch.float64)
    count = 0
    for count, (x, y) in enumerate(batches, 1):  # noqa: B007
        one, other = (_around(values) for values in both(x, y))
        total += _unbiased(one, other, kernel, bandwidth).cpu()
    if not count:
        raise ValueError("there are no batches; at least one of 4 samples or more is needed")
    return _ratio(total)


def linear_cka(x: Features, y: Features) -> float:
    """‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖) of centred features (Frobenius norms), in float64.

    In [0, 1]; 1 for features that differ by rotation, isotropic scaling and shift. Feature maps are
    usually flattened to [N, c · h · w] for it.

    Args:
        x, y: features [N, d1] and [N, d2] of the same N samples.

    Returns:
        the similarity; NaN where one of the two does not vary over the samples.

    Raises:
        ValueError: not two dimensions each, fewer than two samples, or different numbers of samples.

    Example:
        >>> x = torch.randn(100, 5)
        >>> round(fc.similarity.linear_cka(x, 3 * x + 1), 4)
        1.0
    """
    return float(linear_cka_matrix([x, y])[0, 1])


def linear_cka_matrix(features: Sequence[Features]) -> Tensor:
    """:func:`linear_cka` of every pair of K sets of features [N, d_k]: float64 [K, K].

    Works on Gram matrices [N, N] where features are more than samples, which takes 8 K N² bytes.

    Raises:
        ValueError: as :func:`linear_cka`.

    Example:
        >>> x = torch.randn(100, 5)
        >>> found = fc.similarity.linear_cka_matrix([x, 3 * x + 1, torch.randn(100, 7)])
        >>> found.shape, round(float(found[0, 1]), 4), bool(found[0, 2] < 0.5)
        (torch.Size([3, 3]), 1.0, True)
    """
    tensors = [torch.as_tensor(f) for f in features]
    if not tensors:
        raise ValueError("features is empty; pass the features of at least one layer")
    shapes = [tuple(f.shape) for f in tensors]
    if any(len(s) != 2 for s in shapes) or len({s[0] for s in shapes}) > 1 or shapes[0][0] < 2:
        raise ValueError(
            f"features of shapes {', '.join(map(str, shapes))}; CKA needs [N, d] of the same N ≥ 2 samples"
        )
    if max(s[1] for s in shapes) > shapes[0][0]:
        grams = torch.stack([_gram(_around(f), "linear", 1).flatten() for f in tensors])
        products = grams @ grams.T
    else:
        around = [_around(f) for f in tensors]
        products = torch.empty(len(around), len(around), dtype=torch.float64)
        for i, f in enumerate(around):
            for j, g in enumerate(around[: i + 1]):
                products[i, j] = products[j, i] = (f.T @ g).square().sum()
    scale = products.diagonal().sqrt()
    return products / torch.outer(scale, scale)


def _check_options(kernel: str, estimator: str, bandwidth: float) -> None:
    if kernel not in ("linear", "rbf"):
        raise ValueError(f"kernel={kernel!r} is neither 'linear' nor 'rbf'")
    if estimator not in ("biased", "debiased"):
        raise ValueError(f"estimator={estimator!r} is neither 'biased' nor 'debiased'")
    if not 0 < bandwidth < float("inf"):
        raise ValueError(f"bandwidth={bandwidth} must be positive and finite")


def _around(features: Tensor) -> Tensor:
    values = features.double()
    return values - values.mean(0)


def _gram(values: Tensor, kernel: str, bandwidth: float) -> Tensor:
    """Kernel matrix [n, n] of centred features."""
    if kernel == "linear":
        return values @ values.T
    squared = squared_distances(values, values)
    upper = squared[tuple(torch.triu_indices(len(values), len(values), 1))].sqrt()
    median = float(np.median(upper.cpu().numpy()))
    if not median > 0:
        raise ValueError(
            "the median distance between samples is 0, since half of the pairs coincide, so the rbf kernel "
            "has no bandwidth; use kernel='linear' or other samples"
        )
    return torch.exp(-squared / (2 * (bandwidth * median) ** 2))


def _doubly_centred(gram: Tensor) -> Tensor:
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _unbiased(one: Tensor, other: Tensor, kernel: str, bandwidth: float) -> Tensor:
    """Unbiased HSIC of x with y, of x with itself, of y with itself: [3], of centred features.

    It is the inner product of matrices that are centred without their diagonals, over n (n − 3): the same
    terms as in :func:`cka`, summed where they cancel (Székely and Rizzo, "Partial Distance Correlation with
    Methods for Dissimilarities", Annals of Statistics, 2014).
    """
    n = len(one)
    if n < 4:
        raise ValueError(f"the unbiased HSIC needs at least 4 samples in a batch; there are {n}")
    k, l = (u_centred(_gram(values, kernel, bandwidth)) for values in (one, other))
    return torch.stack([(k * l).sum(), k.square().sum(), l.square().sum()]) / (n * (n - 3))


def u_centred(gram: Tensor) -> Tensor:
    """A kernel matrix without its diagonal, centred so that its rows sum to 0; 0 where rounding is left."""
    n = len(gram)
    gram = gram - torch.diag(gram.diagonal())
    rows = gram.sum(1)
    centred = gram - (rows + rows[:, None]) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    centred = centred - torch.diag(centred.diagonal())
    return torch.where(centred.norm() > _NOTHING * gram.norm(), centred, 0.0)


def _ratio(hsic: Tensor) -> float:
    """CKA of the three HSICs."""
    between, x, y = hsic.tolist()
    for name, own in (("x", x), ("y", y)):
        if not own > 0:
            raise ValueError(
                f"the unbiased HSIC of {name} with itself is 0, so the debiased CKA is undefined: its "
                "samples are too few or too much alike (only one of them differs, say); use more samples"
            )
    return _bounded(between / math.sqrt(x * y))


def _bounded(score: float) -> float:
    """A score that only rounding can bring out of [−1, 1]."""
    return min(max(score, -1.0), 1.0)
