"""Stitching: the bottom of one network, a computed or trained layer, and the top of another.

Csiszárik, Kőrösi-Szabó, Matszangosz, Papp and Varga, "Similarity and Matching of Neural Network
Representations" (NeurIPS 2021).
"""

from fastcomb.stitching.affine import Affine, Diagonal, Identity, LowRank, Sparse
from fastcomb.stitching.combine import combine
from fastcomb.stitching.cut import Cut, cut, cuts, layers
from fastcomb.stitching.direct import (
    DiagonalMatching,
    Direct,
    IdentityMatching,
    LeastSquares,
    PermutationMatching,
    Procrustes,
    RandomMatching,
    ReducedRank,
    ScaledPermutationMatching,
    WeightedLeastSquares,
)
from fastcomb.stitching.fit import fit, fit_all
from fastcomb.stitching.gather import Gathered, gather
from fastcomb.stitching.lasso import Lasso, largest_alpha, lasso_path
from fastcomb.stitching.layer import Resize, StitchingLayer
from fastcomb.stitching.match import match, match_all
from fastcomb.stitching.orthogonal import Orthogonal
from fastcomb.stitching.permutation import Permutation, ScaledPermutation, SoftPermutation
from fastcomb.stitching.scores import Scores, score
from fastcomb.stitching.stitched import Stitched, load
from fastcomb.stitching.task import TaskLoss
from fastcomb.stitching.trained import Trained

__all__ = [
    "Affine",
    "Cut",
    "Diagonal",
    "DiagonalMatching",
    "Direct",
    "Gathered",
    "Identity",
    "IdentityMatching",
    "Lasso",
    "LeastSquares",
    "LowRank",
    "Orthogonal",
    "Permutation",
    "PermutationMatching",
    "Procrustes",
    "RandomMatching",
    "ReducedRank",
    "Resize",
    "ScaledPermutation",
    "ScaledPermutationMatching",
    "Scores",
    "SoftPermutation",
    "Sparse",
    "Stitched",
    "StitchingLayer",
    "TaskLoss",
    "Trained",
    "WeightedLeastSquares",
    "combine",
    "cut",
    "cuts",
    "fit",
    "fit_all",
    "gather",
    "largest_alpha",
    "lasso_path",
    "layers",
    "load",
    "match",
    "match_all",
    "score",
]
