"""Sums over samples from which many measures and matchings follow, so that samples need not be kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of two representations of the same samples, in float64.

    Moments of disjoint sets of samples add up, ``Moments.of(x1, y1) + Moments.of(x2, y2)``; products are kept
    around the mean, so that large means cost no digits (Chan, Golub and LeVeque, "Algorithms for Computing
    the Sample Variance", The American Statistician, 1983).

    Attributes:
        count: number of samples n.
        mean_x, mean_y: [d1], [d2].
        xx, xy, yy: Σ (x − x̄)(x − x̄)ᵀ [d1, d1], Σ (x − x̄)(y − ȳ)ᵀ [d1, d2], Σ (y − ȳ)(y − ȳ)ᵀ [d2, d2].
    """

    count: int
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @staticmethod
    def of(x: Tensor, y: Tensor) -> Moments:
        """Moments of features x [n, d1] and y [n, d2], n ≥ 1."""
        both = torch.cat([x, y], 1).double()
        mean = both.mean(0)
        both -= mean
        products = both.T @ both
        d = x.shape[1]
        return Moments(len(x), mean[:d], mean[d:], products[:d, :d], products[:d, d:], products[d:, d:])

    def __add__(self, other: Moments) -> Moments:
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
        )

    @property
    def swapped(self) -> Moments:
        """The same with x and y exchanged."""
        return Moments(self.count, self.mean_y, self.mean_x, self.yy, self.xy.T, self.xx)
