"""Direct matching: stitching layers computed from the activations of both networks, without training.

Csiszárik et al., "Similarity and Matching of Neural Network Representations" (NeurIPS 2021). Every method
works on the moments of activations x of network A and y of network B over all samples and positions, so one
pass over the data serves all of them, and activations need not be kept.
"""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastcomb.similarity.moments import Moments
from fastcomb.stitching.affine import Affine, Diagonal, Identity, LowRank, check_rank
from fastcomb.stitching.gather import Gathered
from fastcomb.stitching.layer import StitchingLayer, sizes
from fastcomb.stitching.orthogonal import Orthogonal
from fastcomb.stitching.permutation import Permutation, ScaledPermutation, paired

#: Directions in which activations vary less than this, relative to the largest, are taken not to vary: the
#: rounding of activations in float32, squared and with a margin of ten.
_FLAT = 1e-13


@dataclass(frozen=True)
class Direct(abc.ABC):
    """Base of methods: frozen dataclasses of options."""

    name: ClassVar[str]
    #: Whether third moments are needed.
    third: ClassVar[bool] = False

    @abc.abstractmethod
    def solve(self, gathered: Gathered, **places: Any) -> StitchingLayer:
        """The stitching layer that this method finds.

        Raises:
            ValueError: the method does not apply to these numbers of channels.
        """

    def __str__(self) -> str:
        chosen = [
            f"{field.name}={getattr(self, field.name):g}"
            if isinstance(getattr(self, field.name), float)
            else f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return self.name + (f"({', '.join(chosen)})" if chosen else "")


@dataclass(frozen=True)
class LeastSquares(Direct):
    """M, b that minimise Σ ‖M x + b − y‖² + ridge ‖M‖² (Frobenius): the pseudo-inverse for ``ridge=0``.

    Equivalent to ``sklearn.linear_model.Ridge(alpha=ridge)``, and for ``ridge=0`` to ``scipy.linalg.lstsq``
    with a column of ones. Where activations do not vary in some direction, M is the minimiser of least norm.

    Args:
        ridge: weight of the penalty, not per sample.
        bias: with b, or with b = 0.

    Raises:
        ValueError: a negative penalty.

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> free = fc.stitching.match(one, other, x, fc.stitching.LeastSquares(), progress=False)
        >>> held = fc.stitching.match(one, other, x, fc.stitching.LeastSquares(ridge=10.0), progress=False)
        >>> bool(held.layer.matrix().norm() < free.layer.matrix().norm())
        True
    """

    name: ClassVar[str] = "least_squares"
    ridge: float = 0.0
    bias: bool = True

    def __post_init__(self) -> None:
        if not self.ridge >= 0:
            raise ValueError(f"ridge={self.ridge} must not be negative")

    def solve(self, gathered: Gathered, **places: Any) -> Affine:
        """M from the second moments, around the means with a bias and around 0 without."""
        xx, xy, _ = second(gathered.moments, self.bias)
        return Affine(*with_bias(solved(xx, xy, self.ridge).T, gathered.moments, self.bias), **places)


@dataclass(frozen=True)
class Procrustes(Direct):
    """The orthogonal M that minimises Σ ‖M x + b − y‖²; with orthonormal rows or columns where widths differ.

    M = V Uᵀ from the singular value decomposition Σ x yᵀ = U S Vᵀ (Schönemann, "A generalized solution of the
    orthogonal Procrustes problem", Psychometrika, 1966). Equivalent to ``scipy.linalg.orthogonal_procrustes``
    on centred activations, or for ``bias=False`` on activations as they are.

    Args:
        bias: with b, or with b = 0.

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> stitch = fc.stitching.match(one, other, x, fc.stitching.Procrustes(), progress=False)
        >>> m = stitch.layer.matrix()
        >>> torch.allclose(m @ m.T, torch.eye(8), atol=1e-4)
        True
    """

    name: ClassVar[str] = "procrustes"
    bias: bool = True

    def solve(self, gathered: Gathered, **places: Any) -> Orthogonal:
        """V Uᵀ, as a layer that stays orthogonal when it is trained."""
        _, xy, _ = second(gathered.moments, self.bias)
        u, _, v = torch.linalg.svd(xy, full_matrices=False)
        return Orthogonal.nearest(*with_bias((u @ v).T, gathered.moments, self.bias), **places)


@dataclass(frozen=True)
class ReducedRank(Direct):
    """The M of at most a given rank, and b, that minimise Σ ‖M x + b − y‖².

    Reduced-rank regression (Izenman, Journal of Multivariate Analysis, 1975): least squares projected on the
    first ``rank`` principal components of its own predictions.

    Args:
        rank: of M.
        ridge: as for least squares, added before the projection.

    Raises:
        ValueError: a rank below 1 or a negative penalty; in solving, one above the smaller number of
            channels.

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> stitch = fc.stitching.match(one, other, x, fc.stitching.ReducedRank(2), progress=False)
        >>> stitch.layer.left.shape, stitch.layer.right.shape
        (torch.Size([8, 2]), torch.Size([2, 8]))
    """

    name: ClassVar[str] = "reduced_rank"
    rank: int = 1
    ridge: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.ridge >= 0:
            raise ValueError(f"rank={self.rank} must be at least 1, ridge={self.ridge} not negative")

    def solve(self, gathered: Gathered, **places: Any) -> LowRank:
        """Least squares projected on ``rank`` directions of the outputs; b takes mean to mean.

        Raises:
            ValueError: a rank above the smaller number of channels.
        """
        moments = gathered.moments
        check_rank(self.rank, min(moments.xy.shape))
        free = solved(moments.xx, moments.xy, self.ridge)
        _, axes = torch.linalg.eigh(free.T @ moments.xx @ free)
        leading = axes[:, -self.rank :]  # eigenvalues ascend
        left, right = leading, (free @ leading).T
        return LowRank(left, right, moments.mean_y - left @ (right @ moments.mean_x), **places)


@dataclass(frozen=True)
class WeightedLeastSquares(Direct):
    """M, b that minimise Σ w ⊙ (M x + b − y)², each entry weighted by its target, w = y − min y.

    The paper's activation-weighted least squares, with the weights that its published code calls
    "norm_end_acts" (there scaled to [0, 1], which changes nothing): the larger an activation, the more
    exactly it is met. Every output is a regression of its own; takes 8 · outputs · (inputs + 1)² bytes.

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> stitch = fc.stitching.match(one, other, x, fc.stitching.WeightedLeastSquares(), progress=False)
        >>> torch.allclose(stitch(x), b(x), atol=1e-2)
        True
    """

    name: ClassVar[str] = "weighted"
    third: ClassVar[bool] = True

    def solve(self, gathered: Gathered, **places: Any) -> Affine:
        """A linear system for each output from the third moments, b being a coefficient of the constant 1."""
        third, m = gathered.third, gathered.moments
        assert third is not None
        ones = m.mean_x.new_ones(1)
        mean = torch.cat([m.mean_x, ones])
        xx = torch.block_diag(m.xx, 0 * ones[:, None]) + m.count * torch.outer(mean, mean)
        xy = torch.cat([m.xy.T, 0 * m.mean_y[:, None]], 1) + m.count * torch.outer(m.mean_y, mean)
        weighted = zip(third.xxy - third.least * xx, third.xyy - third.least * xy, strict=True)
        rows = torch.stack([solved(gram, target[:, None])[:, 0] for gram, target in weighted])
        return Affine(rows[:, :-1], rows[:, -1], **places)


@dataclass(frozen=True)
class PermutationMatching(Direct):
    """The pairing of channels with the largest sum of correlations, by linear assignment.

    (Li et al., "Convergent Learning", ICLR 2016.) A channel that does not vary correlates with nothing.

    Example:
        >>> b = fc.rebasin.align(a, a, "random", seed=1).model  # a with its units in another order
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> stitch = fc.stitching.match(one, other, x, fc.stitching.PermutationMatching(), progress=False)
        >>> torch.allclose(stitch(x), b(x), atol=1e-4)
        True
    """

    name: ClassVar[str] = "permutation"

    def solve(self, gathered: Gathered, **places: Any) -> Permutation:
        """The pairing as a layer without scales.

        Raises:
            ValueError: B has more channels than A.
        """
        similarity = correlations(gathered.moments).T
        return Permutation(paired(similarity), similarity.shape[1], **places)


@dataclass(frozen=True)
class ScaledPermutationMatching(Direct):
    """The pairing of channels, each with a scale and a shift, that minimises Σ ‖M x + b − y‖².

    A channel paired with another explains the square of their correlation of its variance, so the pairing
    is a linear assignment on those.

    Example:
        >>> b = fc.rebasin.align(a, a, "random", seed=1).model  # a with its units in another order
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> method = fc.stitching.ScaledPermutationMatching()
        >>> stitch = fc.stitching.match(one, other, x, method, progress=False)
        >>> torch.allclose(stitch.layer.scale, torch.ones(8), atol=1e-4)
        True
    """

    name: ClassVar[str] = "scaled_permutation"

    def solve(self, gathered: Gathered, **places: Any) -> ScaledPermutation:
        """The pairing with the slope of each pair; b takes mean to mean.

        Raises:
            ValueError: B has more channels than A.
        """
        m = gathered.moments
        explained = correlations(m).square() * m.yy.diagonal()
        index = paired(explained.T)
        scale = slopes(m.xy[index, torch.arange(len(index))], m.xx.diagonal()[index])
        bias = m.mean_y - scale * m.mean_x[index]
        return ScaledPermutation(index, len(m.mean_x), scale, bias, **places)


@dataclass(frozen=True)
class DiagonalMatching(Direct):
    """Every channel scaled and shifted to its own counterpart by least squares; no channel is moved.

    Example:
        >>> one = fc.stitching.cut(a, "0")
        >>> stitch = fc.stitching.match(one, one, x, fc.stitching.DiagonalMatching(), progress=False)
        >>> torch.allclose(stitch.layer.scale, torch.ones(8), atol=1e-4)
        True
    """

    name: ClassVar[str] = "diagonal"

    def solve(self, gathered: Gathered, **places: Any) -> Diagonal:
        """The slope of each channel on its counterpart, 0 where that is constant; b takes mean to mean.

        Raises:
            ValueError: different numbers of channels.
        """
        m = gathered.moments
        sizes(m.xy.T, None, self.name, square=True)
        scale = slopes(m.xy.diagonal(), m.xx.diagonal())
        return Diagonal(scale, m.mean_y - scale * m.mean_x, **places)


@dataclass(frozen=True)
class IdentityMatching(Direct):
    """The control: activations as they are.

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> stitch = fc.stitching.match(one, other, x, fc.stitching.IdentityMatching(), progress=False)
        >>> torch.allclose(stitch(x), b[1:](a[0](x)), atol=1e-5)
        True
    """

    name: ClassVar[str] = "identity"

    def solve(self, gathered: Gathered, **places: Any) -> Identity:
        """The identity; of the moments only their size counts.

        Raises:
            ValueError: different numbers of channels.
        """
        shape = gathered.moments.xy.T
        return Identity.nearest(shape, shape.new_zeros(len(shape)), **places)


@dataclass(frozen=True)
class RandomMatching(Direct):
    """The control: a random affine map, as ``torch.nn.Linear`` is initialised.

    Args:
        seed: of the draw.

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> stitch = fc.stitching.match(one, other, x, fc.stitching.RandomMatching(seed=1), progress=False)
        >>> bool(stitch.layer.matrix().abs().max() <= 8**-0.5)
        True
    """

    name: ClassVar[str] = "random"
    seed: int = 0

    def solve(self, gathered: Gathered, **places: Any) -> Affine:
        """A draw; of the moments only their size counts."""
        inputs, outputs = gathered.moments.xy.shape
        return Affine(*random_map(inputs, outputs, self.seed), **places)


def random_map(inputs: int, outputs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Matrix and bias as ``torch.nn.Linear`` draws them: uniform on ±1/√inputs."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(outputs, inputs + 1, generator=generator) * 2 - 1
    drawn /= inputs**0.5
    return drawn[:, :-1], drawn[:, -1]


def second(moments: Moments, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Σ x xᵀ, Σ x yᵀ, Σ y yᵀ, around the means or around 0."""
    if centred:
        return moments.xx, moments.xy, moments.yy
    n, x, y = moments.count, moments.mean_x, moments.mean_y
    return (
        moments.xx + n * torch.outer(x, x),
        moments.xy + n * torch.outer(x, y),
        moments.yy + n * torch.outer(y, y),
    )


def with_bias(weight: Tensor, moments: Moments, bias: bool) -> tuple[Tensor, Tensor]:
    """A matrix with the bias that takes mean to mean, or with zeros."""
    shift = moments.mean_y - weight @ moments.mean_x
    return weight, shift if bias else torch.zeros_like(shift)


def solved(xx: Tensor, xy: Tensor, ridge: float = 0.0) -> Tensor:
    """(xx + ridge I)⁺ xy, [inputs, outputs]; directions without variation are left out."""
    values, axes = torch.linalg.eigh(xx)
    kept = values > _FLAT * values[-1].clamp_min(0)
    inverse = torch.where(kept, 1 / (values + ridge).where(kept, 1.0), 0.0)
    solution: Tensor = axes @ (inverse[:, None] * (axes.T @ xy))
    return solution


def correlations(moments: Moments) -> Tensor:
    """Correlation of every channel of x with every one of y, [inputs, outputs]; 0 where one is constant."""
    spread = torch.outer(_varying(moments.xx), _varying(moments.yy))
    return torch.where(
        spread > 0, moments.xy / spread.sqrt().where(spread > 0, 1.0), torch.zeros_like(spread)
    )


def slopes(xy: Tensor, xx: Tensor) -> Tensor:
    """xy / xx, and 0 where x is constant."""
    return torch.where(xx > 0, xy / xx.where(xx > 0, 1.0), torch.zeros_like(xy))


def _varying(products: Tensor) -> Tensor:
    """Variances, with 0 for channels that vary by rounding only."""
    variance: Tensor = products.diagonal()
    return torch.where(variance > _FLAT * variance.max(), variance, torch.zeros_like(variance))
