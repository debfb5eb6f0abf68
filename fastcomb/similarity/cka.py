"""Centred kernel alignment with the linear kernel.

Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations Revisited" (ICML 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

Features = Tensor | NDArray[Any]


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
    """
    return float(linear_cka_matrix([x, y])[0, 1])


def linear_cka_matrix(features: Sequence[Features]) -> Tensor:
    """:func:`linear_cka` of every pair of K sets of features [N, d_k]: float64 [K, K].

    Works on Gram matrices [N, N] where features are more than samples, which takes 8 K N² bytes.

    Raises:
        ValueError: as :func:`linear_cka`.
    """
    given = [torch.as_tensor(f) for f in features]
    shapes = [tuple(f.shape) for f in given]
    if any(len(s) != 2 for s in shapes) or len({s[0] for s in shapes}) > 1 or shapes[0][0] < 2:
        raise ValueError(
            f"features of shapes {', '.join(map(str, shapes))}; CKA needs [N, d] of the same N ≥ 2 samples"
        )
    samples = shapes[0][0]
    centred = [f.double() - f.double().mean(0) for f in given]
    if max(s[1] for s in shapes) > samples:
        grams = torch.stack([(f @ f.T).flatten() for f in centred])
        products = grams @ grams.T
    else:
        products = torch.empty(len(centred), len(centred), dtype=torch.float64)
        for i, f in enumerate(centred):
            for j, g in enumerate(centred[: i + 1]):
                products[i, j] = products[j, i] = (f.T @ g).square().sum()
    scale = products.diagonal().sqrt()
    return products / torch.outer(scale, scale)
