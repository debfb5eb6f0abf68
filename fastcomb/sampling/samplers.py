"""Laws of the mixing coefficient: what Λ is drawn from, and how finely.

A sampler says two things: the law of one coefficient, and which weights share one
(``per="element" | "neuron" | "layer" | "model"``). Values outside [0, 1] are legal; they reach the
vicinity of the hypercube between the two networks. :class:`Dirichlet` serves any number of networks, the
others two.

The stream (:mod:`fastcomb.sampling.stream`) draws integers, and a law is a *table* from those integers to
coefficients: 65,536 float32 numbers for ``bits=16``, 8,388,608 for ``bits=32``, each the law's value at
``u`` computed in float64 and rounded once. There is no interpolation, hence no error beyond that
rounding, and every backend that reads the table or computes the same rule agrees bit for bit.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from fastcomb.sampling.fma import fma
from fastcomb.sampling.rules import Rule
from fastcomb.sampling.stream import grid

Granularity = Literal["element", "neuron", "layer", "model"]
GRANULARITIES: tuple[Granularity, ...] = ("element", "neuron", "layer", "model")
MOST_NETWORKS = 256


@dataclass(frozen=True)
class Sampler(abc.ABC):
    """The law of the coefficients and their granularity.

    Args:
        per: which weights share a coefficient. "element": none; "neuron": the slices along dimension 0
            with the same number in all parameters of a module (weight row and bias entry of a unit);
            "layer": all parameters of a module; "model": all parameters.
        bits: random bits spent on a draw: 16 (65,536 distinct values) or 32 (8,388,608).

    Raises:
        ValueError: a parameter is outside its range.
    """

    per: Granularity = field(default="element", kw_only=True)
    bits: Literal[16, 32] = field(default=16, kw_only=True)

    def __post_init__(self) -> None:
        if self.per not in GRANULARITIES:
            raise ValueError(f"per={self.per!r} is none of {', '.join(map(repr, GRANULARITIES))}")
        if self.bits not in (16, 32):
            raise ValueError(f"bits={self.bits!r} is neither 16 nor 32")
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and name != "bits":
                object.__setattr__(self, name, float(value))
            if isinstance(value, (int, float)) and not math.isfinite(value):
                raise ValueError(f"{type(self).__name__}: {name}={value} is not finite")
        self._check()

    @abc.abstractmethod
    def steps(self, networks: int) -> tuple[ScalarSampler, ...]:
        """Laws of the steps that make a combination of so many networks θ_1, …, θ_m.

        A combination starts as θ_1 and moves towards each other network in turn,
        θ ← fma(λ_j, θ_j − θ, θ), with independent coefficients λ_2, …, λ_m of these laws.

        Raises:
            ValueError: the law is not one for so many networks.
        """

    def _check(self) -> None:  # noqa: B027 - not every law has parameters to check
        """Raise ValueError where the law's parameters are outside their range."""


@dataclass(frozen=True)
class ScalarSampler(Sampler):
    """A law of one number, the coefficient between two networks; arguments as for :class:`Sampler`."""

    @property
    @abc.abstractmethod
    def mean(self) -> float:
        """Expected coefficient."""

    @abc.abstractmethod
    def ppf(self, u: Any) -> Any:
        """Quantile function of the law at ``u`` in (0, 1), in float64, elementwise (as scipy.stats)."""

    def steps(self, networks: int) -> tuple[ScalarSampler, ...]:
        """The law itself as the only step.

        Raises:
            ValueError: there are not two networks.
        """
        if networks != 2:
            raise ValueError(
                f"{self} draws the one coefficient between two networks, not the weights of {networks}; "
                "pass Dirichlet(alpha)"
            )
        return (self,)

    def _values(self, u: Tensor) -> Tensor:
        """Coefficients that the stream assigns to ``u`` (float64 tensor, exact in float32)."""
        return torch.from_numpy(np.asarray(self.ppf(u.numpy()), dtype=np.float64)).float()

    def rule(self) -> Rule:
        """How kernels compute the table's entries."""
        return Rule("table")

    def table(self) -> Tensor:
        """Coefficient of every draw: float32 tensor [65536] or [8388608]. Cached; don't write to it."""
        return _TABLES[self.bits](self)


def _table(sampler: ScalarSampler) -> Tensor:
    values = sampler._values(grid(sampler.bits))
    if not torch.isfinite(values).all():
        raise ValueError(f"{sampler} yields coefficients that are not finite in float32")
    return values


#: Tables by their bits, kept: 256 KB each with 16, 32 MB with 32.
_TABLES = {bits: functools.lru_cache(kept)(_table) for bits, kept in ((16, MOST_NETWORKS), (32, 8))}


@dataclass(frozen=True)
class Uniform(ScalarSampler):
    """Uniform on (low, high): λ = fma(u, high − low, low) in float32.

    Example:
        >>> law = fc.Uniform(-0.25, 1.25, per="neuron")  # also around the cube between the networks
        >>> law.mean
        0.5
        >>> lam = fc.Mixture(a, b, law).coefficients(7)["0.weight"]
        >>> lam.shape, bool(lam.min() >= -0.25 and lam.max() <= 1.25)
        (torch.Size([8, 4]), True)
    """

    low: float = 0.0
    high: float = 1.0

    def _check(self) -> None:
        if not np.float32(self.low) < np.float32(self.high):
            raise ValueError(f"Uniform: low={self.low} must be below high={self.high} in float32")

    @property
    def mean(self) -> float:
        """The middle of the interval."""
        return (self.low + self.high) / 2

    def rule(self) -> Rule:
        """u itself on (0, 1), elsewhere one fma; with low and span rounded to float32."""
        low = np.float32(self.low)
        span = np.float32(self.high) - low
        return Rule("unit" if low == 0 and span == 1 else "uniform", float(low), float(span))

    def ppf(self, u: Any) -> Any:
        """low + u (high − low), in float64."""
        return self.low + np.asarray(u, dtype=np.float64) * (self.high - self.low)

    def _values(self, u: Tensor) -> Tensor:
        low = torch.tensor(self.low, dtype=torch.float32)
        return fma(u.float(), torch.tensor(self.high, dtype=torch.float32) - low, low)


@dataclass(frozen=True)
class Bernoulli(ScalarSampler):
    """1 (take θ_B) with probability p, else 0 (take θ_A): λ = (u < p).

    Example:
        >>> mix = fc.Mixture(a, b, fc.Bernoulli(0.5, per="neuron"))  # each unit is a's or b's
        >>> lam = mix.coefficients(7)["0.weight"]
        >>> lam.unique().tolist()
        [0.0, 1.0]
        >>> torch.equal(mix[7]["0.weight"], torch.where(lam == 1, b[0].weight, a[0].weight))
        True
    """

    p: float = 0.5

    def _check(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"Bernoulli: p={self.p} is outside [0, 1]")

    @property
    def mean(self) -> float:
        """The probability p of taking θ_B."""
        return self.p

    def rule(self) -> Rule:
        """A comparison of the draw with the number of draws that give 1."""
        return Rule("bernoulli", threshold=int(self.table().sum()))

    def ppf(self, u: Any) -> Any:
        """0 up to u = 1 − p, then 1; the stream takes 1 for the smallest u instead, as often."""
        return np.where(np.asarray(u, dtype=np.float64) <= 1 - self.p, 0.0, 1.0)

    def _values(self, u: Tensor) -> Tensor:
        # not the quantile at u but at 1 − u: the stream's rule compares without a subtraction
        return (u.float() < torch.tensor(self.p, dtype=torch.float32)).float()


@dataclass(frozen=True)
class Beta(ScalarSampler):
    """Beta(a, b) on (0, 1).

    Example:
        >>> law = fc.Beta(2, 6)
        >>> law.mean
        0.25
        >>> lam = fc.Mixture(a, b, law).coefficients(7)["0.weight"]
        >>> bool((lam > 0).all() and (lam < 1).all())
        True
    """

    a: float
    b: float

    def _check(self) -> None:
        if not (self.a > 0 and self.b > 0):
            raise ValueError(f"Beta: a={self.a} and b={self.b} must be positive")

    @property
    def mean(self) -> float:
        """a / (a + b)."""
        return self.a / (self.a + self.b)

    def ppf(self, u: Any) -> Any:
        """The inverse of the regularised incomplete beta function, in float64."""
        return scipy.special.betaincinv(self.a, self.b, np.asarray(u, dtype=np.float64))


@dataclass(frozen=True)
class Normal(ScalarSampler):
    """Normal with the given mean and standard deviation.

    Example:
        >>> law = fc.Normal(0.5, 0.25)
        >>> law.ppf([0.1587, 0.5, 0.8413]).round(2).tolist()  # one standard deviation to both sides
        [0.25, 0.5, 0.75]
    """

    mean: float = 0.5
    std: float = 0.25

    def _check(self) -> None:
        if not self.std > 0:
            raise ValueError(f"Normal: std={self.std} must be positive")

    def ppf(self, u: Any) -> Any:
        """mean + std Φ⁻¹(u), in float64."""
        return self.mean + self.std * scipy.special.ndtri(np.asarray(u, dtype=np.float64))


@dataclass(frozen=True)
class Constant(ScalarSampler):
    """The same coefficient t everywhere: the point at t on the line from θ_A to θ_B.

    Example:
        >>> middle = fc.Mixture(a, b, fc.Constant(0.5))[0]
        >>> torch.allclose(middle["0.weight"], (a[0].weight + b[0].weight) / 2, atol=1e-6)
        True
    """

    t: float

    @property
    def mean(self) -> float:
        """The coefficient t itself."""
        return self.t

    def ppf(self, u: Any) -> Any:
        """t for every u."""
        return np.full_like(np.asarray(u, dtype=np.float64), self.t)


@dataclass(frozen=True)
class Law(ScalarSampler):
    """Any frozen distribution of :mod:`scipy.stats`, continuous or discrete, through its ``ppf``.

    Args:
        dist: for example ``scipy.stats.truncnorm(-1, 1, loc=0.5, scale=0.2)``.

    Example:
        >>> from scipy import stats
        >>> law = fc.Law(stats.triang(0.5), per="layer")
        >>> law.mean
        0.5
        >>> law.ppf([0.125, 0.5]).round(4).tolist()
        [0.25, 0.5]
    """

    dist: Any

    def _check(self) -> None:
        if not isinstance(self.dist, (scipy.stats.distributions.rv_frozen,)):
            raise ValueError(
                f"Law: {self.dist!r} is not a frozen scipy.stats distribution; "
                "pass one with its parameters, such as scipy.stats.beta(2, 5)"
            )
        if not np.isfinite(self.ppf([0.25, 0.5, 0.75])).all():
            raise ValueError("Law: the distribution's quantiles are not finite; check its parameters")

    def __repr__(self) -> str:
        arguments = [repr(value) for value in self.dist.args]
        arguments += [f"{name}={value!r}" for name, value in self.dist.kwds.items()]
        law = f"{self.dist.dist.name}({', '.join(arguments)})"
        return f"Law(dist={law}, per={self.per!r}, bits={self.bits})"

    @property
    def mean(self) -> float:
        """The distribution's own mean; it may be infinite or NaN."""
        return float(self.dist.mean())

    def ppf(self, u: Any) -> Any:
        """Quantiles by the distribution's own ``ppf``."""
        return self.dist.ppf(np.asarray(u, dtype=np.float64))


@dataclass(frozen=True)
class Dirichlet(Sampler):
    """Dirichlet weights of m ≥ 2 networks: non-negative, with sum 1, ∝ Π w_j^(α_j − 1).

    ``Dirichlet(1.0)`` is uniform on the simplex; a smaller alpha favours its corners, a larger one its
    middle. Weights come from breaking a stick: λ_j ~ Beta(α_j, α_1 + … + α_{j−1}) is network j's share of
    what it has in common with those before it, so w_j = λ_j Π_{k>j} (1 − λ_k) (Connor and Mosimann,
    Journal of the American Statistical Association 64, 1969). For two networks this is
    ``Beta(α_2, α_1)``, the same numbers.

    Args:
        alpha: the concentrations, positive: one number for all networks, or one for each.

    Example:
        >>> c = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> mix = fc.Mixture(a, [b, c], fc.Dirichlet(1.0))
        >>> weights = mix.coefficients(7)["0.weight"]
        >>> weights.shape  # three networks' weights of each entry
        torch.Size([3, 8, 4])
        >>> torch.allclose(weights.sum(0), torch.ones(8, 4))
        True
    """

    alpha: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        alpha = np.asarray(self.alpha, dtype=float)
        object.__setattr__(self, "alpha", tuple(alpha.tolist()) if alpha.ndim else float(alpha))  # hashable
        super().__post_init__()

    def _check(self) -> None:
        values = self.alpha if isinstance(self.alpha, Sequence) else [self.alpha]
        if not values or not all(math.isfinite(value) and value > 0 for value in values):
            raise ValueError(f"Dirichlet: alpha={self.alpha} must be positive and finite")

    def steps(self, networks: int) -> tuple[ScalarSampler, ...]:
        """For each network after the first the Beta law of its share of the stick.

        Raises:
            ValueError: another number of concentrations than of networks, or not 2 to 256 networks.
        """
        alpha = self.alpha if isinstance(self.alpha, Sequence) else (self.alpha,) * networks
        if len(alpha) != networks:
            raise ValueError(f"{self} has {len(alpha)} concentrations for {networks} networks")
        if not 2 <= networks <= MOST_NETWORKS:
            raise ValueError(f"{networks} networks given; between 2 and {MOST_NETWORKS} can be mixed")
        return tuple(
            Beta(alpha[j], math.fsum(alpha[:j]), per=self.per, bits=self.bits) for j in range(1, networks)
        )
