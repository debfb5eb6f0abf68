"""Sums over samples from which many measures and matchings follow, so that samples need not be kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastcomb.similarity.features import Features, checked, epsilon

#: Entries in a piece of both matrices that is worked on at a time.
_PIECE = 1 << 17


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of two representations of the same samples, in float64.

    Moments of disjoint sets of samples add up, ``Moments.of(x1, y1) + Moments.of(x2, y2)``; products are kept
    around the mean, so that large means cost no digits (Chan, Golub and LeVeque, "Algorithms for Computing
    the Sample Variance", The American Statistician, 1983). Measures that follow from them take them in the
    place of features: ``mean_cca(total)``.

    Attributes:
        count: number of samples n.
        mean_x, mean_y: [d1], [d2].
        xx, xy, yy: Σ (x − x̄)(x − x̄)ᵀ [d1, d1], Σ (x − x̄)(y − ȳ)ᵀ [d1, d2], Σ (y − ȳ)(y − ȳ)ᵀ [d2, d2].
        eps: of the coarsest dtype that the features came in; what rounding may have done to them.

    Example:
        >>> x, y = torch.randn(100, 3), torch.randn(100, 2)
        >>> total = fc.similarity.Moments.of(x[:60], y[:60]) + fc.similarity.Moments.of(x[60:], y[60:])
        >>> total.count, total.xy.shape
        (100, torch.Size([3, 2]))
        >>> abs(fc.similarity.mean_cca(total) - fc.similarity.mean_cca(x, y)) < 1e-6
        True
    """

    count: int
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor
    eps: float = torch.finfo(torch.float64).eps

    @staticmethod
    def of(x: Features, y: Features) -> Moments:
        """Moments of features x [n, d1] and y [n, d2], n ≥ 1.

        Takes (d1 + d2)² · 8 bytes and n · (d1 + d2)² multiplications.

        Raises:
            TypeError, ValueError: not matrices of finite numbers, or different numbers of samples.
        """
        one, other = checked(x, y, least=1)
        mean, products = _second(one, other)
        d = one.shape[1]
        return Moments(
            len(one),
            mean[:d],
            mean[d:],
            products[:d, :d],
            products[:d, d:],
            products[d:, d:],
            max(epsilon(one), epsilon(other)),
        )

    def __add__(self, other: Moments) -> Moments:
        if self.xy.shape != other.xy.shape:
            raise ValueError(
                f"moments of {tuple(self.xy.shape)} and {tuple(other.xy.shape)} features do not add up; they "
                "must be of the same two representations"
            )
        count = self.count + other.count
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        apart = self.count * other.count / count
        return Moments(
            count,
            self.mean_x + dx * (other.count / count),
            self.mean_y + dy * (other.count / count),
            self.xx + other.xx + apart * torch.outer(dx, dx),
            self.xy + other.xy + apart * torch.outer(dx, dy),
            self.yy + other.yy + apart * torch.outer(dy, dy),
            max(self.eps, other.eps),
        )

    def part(self, x: slice, y: slice) -> Moments:
        """Moments of some of the features of each."""
        xx, xy, yy = self.xx[x, x], self.xy[x, y], self.yy[y, y]
        return Moments(self.count, self.mean_x[x], self.mean_y[y], xx, xy, yy, self.eps)

    @property
    def swapped(self) -> Moments:
        """The same with x and y exchanged."""
        return Moments(self.count, self.mean_y, self.mean_x, self.yy, self.xy.T, self.xx, self.eps)


def _second(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of both side by side [d], and products around it [d, d].

    Pieces that stay in the cache are shifted by the mean of the first of them, which removes what large means
    would cost; what is left of the mean is taken out at the end.
    """
    width = x.shape[1] + y.shape[1]
    pieces = list(zip(*(t.split(max(1, _PIECE // width)) for t in (x, y)), strict=True))
    pivot = torch.cat([t.double().mean(0) for t in pieces[0]])
    total, products = pivot.new_zeros(width), pivot.new_zeros(width, width)
    for piece in pieces:
        both = torch.cat([t.double() for t in piece], 1).sub_(pivot)
        total += both.sum(0)
        products.addmm_(both.T, both)
    shift = total / len(x)
    return pivot + shift, products - len(x) * torch.outer(shift, shift)
