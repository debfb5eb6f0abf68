"""Similarity of networks: of what their layers represent, and of what they predict.

Representations are matrices [n, features], of which :func:`flatten` makes feature maps; linear CKA, the CCA
family, regression and Procrustes also take :class:`Moments`, which add up over batches. Everything is
computed in float64. docs/similarity.md says which measure answers what.
"""

from fastcomb.similarity.cca import canonical_correlations, mean_cca, mean_squared_cca, pwcca, svcca
from fastcomb.similarity.cka import cka, linear_cka, linear_cka_matrix, minibatch_cka
from fastcomb.similarity.features import flatten
from fastcomb.similarity.functional import (
    churn,
    cohen_kappa,
    disagreement,
    error_corrected_disagreement,
    jensen_shannon,
    min_max_disagreement,
)
from fastcomb.similarity.layerwise import Layerwise, layerwise
from fastcomb.similarity.moments import Moments
from fastcomb.similarity.neighbours import neighbour_jaccard
from fastcomb.similarity.procrustes import angular_procrustes, size_and_shape_procrustes
from fastcomb.similarity.regression import linear_regression_r2
from fastcomb.similarity.rsa import rdm, rsa
from fastcomb.similarity.soft_matching import soft_matching_correlation, soft_matching_distance

__all__ = [
    "Layerwise",
    "Moments",
    "angular_procrustes",
    "canonical_correlations",
    "churn",
    "cka",
    "cohen_kappa",
    "disagreement",
    "error_corrected_disagreement",
    "flatten",
    "jensen_shannon",
    "layerwise",
    "linear_cka",
    "linear_cka_matrix",
    "linear_regression_r2",
    "mean_cca",
    "mean_squared_cca",
    "min_max_disagreement",
    "minibatch_cka",
    "neighbour_jaccard",
    "pwcca",
    "rdm",
    "rsa",
    "size_and_shape_procrustes",
    "soft_matching_correlation",
    "soft_matching_distance",
    "svcca",
]
