"""Means over combinations with fewer evaluations: antithetic pairs and strata.

Both estimate the same mean as a plain sweep does, without bias, and say how many plain evaluations one of
theirs was worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from fastcomb.analysis.evaluation import Evaluation, Options
from fastcomb.analysis.mean_estimate import MeanEstimate, from_pairs, from_strata
from fastcomb.mixing import endpoints
from fastcomb.mixing.endpoints import Endpoint, Theta
from fastcomb.sampling.samplers import Sampler, ScalarSampler
from fastcomb.statistics.proportion import check_confidence
from fastcomb.utils.progress import bar

#: How far a law's float32 coefficients may be from symmetric, relative to the larger of 1 and theirs.
_ASYMMETRY = 2.0**-20


@dataclass(frozen=True)
class Stratum(ScalarSampler):
    """One of several equally likely parts of a law: its quantiles at (number + u) / of.

    Args:
        law: the whole law.
        number: which part, from 0 for the smallest coefficients.
        of: how many parts there are.
    """

    law: ScalarSampler
    number: int
    of: int

    def _check(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"Stratum: number={self.number} is outside [0, {self.of})")

    @property
    def mean(self) -> float:
        """The whole law's mean: interpolated running statistics belong to the law, not to a part of it."""
        return self.law.mean

    def ppf(self, u: Any) -> Any:
        """The law's quantiles at (number + u) / of, in float64: those of this part for u in (0, 1)."""
        return self.law.ppf((self.number + np.asarray(u, dtype=np.float64)) / self.of)


def antithetic_mean(
    theta_a: Theta,
    theta_b: Theta | Sequence[Theta],
    sampler: Sampler,
    *,
    data: Any,
    metric: str = "loss",
    n: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    progress: bool | None = None,
    **options: Unpack[Options],
) -> MeanEstimate:
    """Mean of a metric from pairs of combinations with coefficients Λ and 1 − Λ.

    Antithetic variates (Hammersley and Morton, "A new Monte Carlo technique: antithetic variates",
    Proceedings of the Cambridge Philosophical Society, 1956). They help where the metric rises towards one
    network and falls towards the other. Where it depends on the distance from the middle alone, both of a
    pair say the same, and an evaluation is worth half a plain one.

    Coefficients 1 − Λ between A and B are Λ between B and A, so both halves are ordinary sweeps.

    Args:
        theta_a, theta_b: the two networks, as :func:`fastcomb.evaluate` takes them.
        sampler: a law that is symmetric about ½, such as ``Uniform()``; any ``per``.
        data: evaluation data, as in :func:`fastcomb.evaluate`.
        metric: "loss" or "accuracy".
        n: combinations to evaluate, two of each pair.
        seed: of the coefficients.
        confidence: level of the intervals.
        progress: show a progress bar; if None, when standard error is a terminal.
        **options: ``model``, ``loss``, ``accuracy``, ``output``, ``batch_norm``, ``calibration``,
            ``buffers``, ``device``, ``dtype``, ``backend`` and ``data_budget`` of :func:`fastcomb.evaluate`.

    Raises:
        ValueError: more than two networks, a law that is not symmetric, n odd or below 4, running statistics
            or buffers that depend on which network comes first, or confidence outside (0, 1).
        TypeError, ValueError: as :func:`fastcomb.evaluate`.
        KeyboardInterrupt: interrupted; nothing is kept.

    Example:
        >>> found = fc.antithetic_mean(a, b, fc.Uniform(), data=(x, y), n=200, progress=False)
        >>> found.evaluations  # a hundred pairs
        200
        >>> found.low < found.value < found.high
        True
    """
    law = _check(theta_a, theta_b, sampler, n, 2, "pairs", confidence)
    _check_symmetric(sampler, law.table())
    if options.get("batch_norm") == "a":
        raise ValueError(
            'batch_norm="a" keeps the running statistics of the network that comes first, which differs '
            'within an antithetic pair; choose "recompute" or "lerp"'
        )
    evaluation, a, b = _read(theta_a, theta_b, data, options)
    _check_buffers(a, b)
    evaluation.sweep(a, b, law, 1, seed).values(metric)  # what it does not have is said before the work
    halves = []
    with bar(n, "comb", progress) as shown:
        for one, other in ((a, b), (b, a)):
            halves.append(evaluation.sweep(one, other, law, n // 2, seed).values(metric))
            shown.update(n // 2)
    return from_pairs(*halves, metric=metric, confidence=confidence)


def stratified_mean(
    theta_a: Theta,
    theta_b: Theta | Sequence[Theta],
    sampler: Sampler,
    *,
    data: Any,
    metric: str = "loss",
    n: int = 10_000,
    strata: int = 16,
    seed: int = 0,
    confidence: float = 0.95,
    progress: bool | None = None,
    **options: Unpack[Options],
) -> MeanEstimate:
    """Mean of a metric over the line between two networks, from as many combinations of each of its parts.

    Stratified sampling with proportional allocation (Cochran, "Sampling Techniques", 3rd edition, 1977,
    chapter 5) of the one coefficient that ``per="model"`` draws: the law is cut into equally likely parts
    (:class:`Stratum`), and part s is drawn with ``seed + s``. It is never worse than plain sampling. More
    strata remove more variance; each needs at least two combinations to estimate what is left.

    Args:
        sampler: a law with ``per="model"``.
        n: combinations to evaluate, a multiple of ``strata``.
        strata: how many parts.
        theta_a, theta_b, data, metric, seed, confidence, progress, **options: as in :func:`antithetic_mean`.

    Raises:
        ValueError: more than two networks, another granularity, fewer than two strata or than two
            combinations for each, n not a multiple of their number, or confidence outside (0, 1).
        TypeError, ValueError: as :func:`fastcomb.evaluate`.
        KeyboardInterrupt: interrupted; nothing is kept.

    Example:
        >>> line = fc.Uniform(per="model")
        >>> found = fc.stratified_mean(a, b, line, data=(x, y), n=200, strata=10, progress=False)
        >>> found.low < found.value < found.high
        True
        >>> found.variance_ratio > 2  # one evaluation was worth more than two plain ones
        True
    """
    if strata < 2:
        raise ValueError(f"strata={strata}: at least two are needed")
    law = _check(theta_a, theta_b, sampler, n, strata, "strata", confidence)
    if sampler.per != "model":
        raise ValueError(
            f"strata are of one coefficient, and {sampler} draws one per {sampler.per}; use antithetic_mean, "
            'or per="model"'
        )
    evaluation, a, b = _read(theta_a, theta_b, data, options)
    evaluation.sweep(a, b, law, 1, seed).values(metric)  # what it does not have is said before the work
    parts = []
    with bar(n, "comb", progress) as shown:
        for number in range(strata):
            part = Stratum(law, number, strata, per=law.per, bits=law.bits)
            drawn = (seed + number) % (1 << 64)  # strata with the same draws would not be independent
            parts.append(evaluation.sweep(a, b, part, n // strata, drawn).values(metric))
            shown.update(n // strata)
    return from_strata(np.stack(parts), metric=metric, confidence=confidence)


def _check(
    theta_a: Theta,
    theta_b: Theta | Sequence[Theta],
    sampler: Sampler,
    n: int,
    groups: int,
    kind: str,
    confidence: float,
) -> ScalarSampler:
    """The law of the coefficient between the networks, after checks of what is common to both methods."""
    check_confidence(confidence)
    thetas = endpoints.labelled(theta_a, theta_b)
    if len(thetas) != 2:
        raise ValueError(f"{kind} are of combinations of two networks, not of {len(thetas)}")
    if n < 2 * groups or n % groups:
        raise ValueError(f"n={n} must be a multiple of {groups}, at least {2 * groups}, to make {kind}")
    return sampler.steps(2)[0]


def _check_symmetric(sampler: Sampler, table: Tensor) -> None:
    values = table.double().sort().values
    wrong = (values + values.flip(0) - 1).abs() / values.abs().clamp(min=1)
    if float(wrong.max()) > _ASYMMETRY:
        raise ValueError(
            f"{sampler} is not symmetric about 1/2, so Λ and 1 − Λ have different laws; use stratified_mean "
            "or a plain sweep"
        )


def _read(
    theta_a: Theta, theta_b: Theta | Sequence[Theta], data: Any, options: Options
) -> tuple[Evaluation, Endpoint, Endpoint]:
    """The networks, read once for all sweeps, and what evaluates them."""
    thetas = endpoints.labelled(theta_a, theta_b)
    evaluation = Evaluation.of(data, options, *thetas.values())
    a, b = (endpoints.read(theta, evaluation.model, label) for label, theta in thetas.items())
    return evaluation, a, b


def _check_buffers(a: Endpoint, b: Endpoint) -> None:
    """Raise ValueError unless the networks share the buffers that combinations take from the first one."""
    for name, value in a.carried.items():
        if name.rpartition(".")[2] in (*endpoints.RUNNING_STATISTICS, "num_batches_tracked"):
            continue
        other = b.carried.get(name)
        if isinstance(value, Tensor) and not (isinstance(other, Tensor) and torch.equal(value, other)):
            raise ValueError(
                f"the networks have different buffers {name!r}; combinations keep those of the network that "
                "comes first, which differs within an antithetic pair"
            )
