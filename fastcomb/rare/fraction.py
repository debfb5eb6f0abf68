"""The call: check what was given, simulate, and put the numbers together."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from torch import nn

from fastcomb.functional import Mixture
from fastcomb.program.choose import Output
from fastcomb.rare.fields import Fields, width
from fastcomb.rare.result import RareFraction
from fastcomb.rare.simulation import simulate
from fastcomb.rare.subset import Size
from fastcomb.statistics.density import Array
from fastcomb.statistics.proportion import check_level
from fastcomb.sweep.measures import UserLoss
from fastcomb.utils.notice import warn
from fastcomb.utils.progress import bar
from fastcomb.utils.result import METRICS

#: Bytes that the points of a run may take.
POINTS_BUDGET = 4 << 30

_FEWEST_CHAINS = 10


def rare_fraction(
    mixture: Mixture,
    metric: str,
    level: float,
    *,
    above: bool = False,
    model: nn.Module,
    data: Any,
    loss: str | UserLoss = "cross_entropy",
    batch_norm: str | None = None,
    calibration: Any = None,
    buffers: str | None = None,
    output: Output | None = None,
    n: int = 1000,
    p0: float = 0.1,
    repeats: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
    max_levels: int = 20,
    budget: int = POINTS_BUDGET,
    progress: bool | None = None,
) -> RareFraction:
    """Fraction of a mixture's combinations with ``metric`` < level (or > level), however small.

    Subset simulation (Au and Beck, "Estimation of small failure probabilities in high dimensions by subset
    simulation", 2001) writes the small fraction as a product of large ones: of the combinations that are
    below a first threshold, of those among them below a second, and so on to the level. Combinations below a
    threshold come from Markov chains in the space of coefficients. A pilot run chooses thresholds and steps;
    ``repeats`` runs follow them, each with fresh random numbers and without bias; the interval
    (:func:`fastcomb.rare.interval.lognormal`) is that of their mean. About
    (1 + repeats) · n · log p / log p0 networks are evaluated for a fraction p. The runs begin with
    combinations 0 to n · repeats − 1, the pilot with the n after them. docs/rare.md says more, and what the
    interval's coverage was measured to be.

    Args:
        mixture: the combinations; runs where the mixture is, in its dtype, on the torch reference.
        metric: "loss" or "accuracy", the mean over the samples.
        level: the metric's, compared in float32, strictly.
        above: ask for metric > level instead. NaN is neither below nor above.
        model: the module that the mixture's networks are weights of; a copy in eval mode is used.
        data: as :func:`fastcomb.evaluate` takes them.
        loss, batch_norm, calibration, buffers, output: as for :func:`fastcomb.evaluate`.
        n: networks on each level of a run; rounded down to whole chains.
        p0: fraction of them that start the chains of the next level, in [0.05, 0.5].
        repeats: independent runs, at least 2.
        confidence: of the interval, in (0, 1).
        seed: of the chains, in [0, 2**64); the combinations' own seed is the mixture's.
        max_levels: thresholds at most.
        budget: bytes that the points of a run may take: 4 n bytes for every draw of a combination.
        progress: show a progress bar; if None, when standard error is a terminal.

    Returns:
        A :class:`RareFraction`. Where at least ``n * p0`` of the pilot's n combinations are beyond the level,
        it is the plain proportion of combinations 0 to n · repeats − 1 with its exact interval. Where the
        thresholds do not come down to the level (``max_levels``, or a plateau that no chain leaves) a notice
        says so: ``value`` may then be 0, and ``high`` bounds it from above. Ctrl-C keeps the complete runs,
        if they are two or more.

    Raises:
        TypeError, ValueError: an argument that cannot work, a law without randomness, or points that exceed
            the budget; before any work.

    Example:
        >>> sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=1000, progress=False)
        >>> level = sweep.density("loss").quantile(0.01)
        >>> mix = fc.Mixture(a, b, fc.Uniform(), seed=1)
        >>> few = dict(n=200, repeats=3, progress=False)
        >>> found = fc.rare_fraction(mix, "loss", level, model=a, data=(x, y), **few)
        >>> found.reached, 0.002 < found.value < 0.05
        (True, True)
    """
    n, repeats, seed, max_levels = (operator.index(v) for v in (n, repeats, seed, max_levels))
    _check(metric, level, p0, repeats, confidence, seed, max_levels)
    size = Size.of(n, p0)
    if size.chains < _FEWEST_CHAINS:
        raise ValueError(
            f"n={n} with p0={p0} makes {size.chains} chains; take n of at least {_FEWEST_CHAINS}/p0"
        )
    if not any(bool((table != table[0]).any()) for table in mixture.law_arguments[0]):
        raise ValueError(
            f"{mixture.sampler} always draws the same coefficients; there is no fraction to estimate"
        )
    _check_memory(mixture, size, budget)
    fields = Fields.of(
        mixture,
        metric,
        above=above,
        model=model,
        data=data,
        loss=loss,
        batch_norm=batch_norm,
        calibration=calibration,
        buffers=buffers,
        output=output,
    )
    sign = -1 if above else 1
    target = float(np.float32(sign * level))

    with bar(0, "network", progress) as shown:
        simulation = simulate(fields, target, size, repeats=repeats, most=max_levels, seed=seed, shown=shown)
    plan, runs = simulation.plan, simulation.runs
    curve = simulation.curve(confidence)
    moved = np.stack([run.acceptance for run in runs])
    marks = [mark for stage in plan.marks for mark in stage]
    value, low, high = map(float, curve[-1])
    result = RareFraction(
        value=value,
        low=low,
        high=high,
        confidence=confidence,
        metric=metric,
        level=level,
        above=above,
        sampler=str(mixture.sampler),
        n=size.points,
        repeats=len(runs),
        evaluations=simulation.evaluations,
        reached=plan.reached,
        thresholds=np.array([*(sign * t for t in plan.thresholds), level]),
        conditional=np.stack([run.conditional for run in runs]),
        acceptance=np.array([_mean(column[~np.isnan(column)]) for column in moved.T]),
        steps=np.array(plan.steps),
        curve_at=np.array([*(sign * mark for mark in marks), level]),
        curve=curve,
        plain=simulation.plain,
    )
    if not plan.reached:
        warn(_unreached(result, max_levels))
    return result


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else math.nan


def _unreached(result: RareFraction, max_levels: int) -> str:
    count = len(result.steps)
    if count == max_levels:
        why = f"after max_levels={max_levels} thresholds the last is {result.thresholds[-2]:.5g}"
    elif count:
        why = f"no chain gets beyond {result.metric} {result.thresholds[-2]:.5g}"
    else:
        why = f"the pilot's combinations have no {result.metric} to go by"
    return f"{result.event} was not reached: {why}. The fraction is at most {result.high:.3g}"


def _check(
    metric: str, level: float, p0: float, repeats: int, confidence: float, seed: int, max_levels: int
) -> None:
    """Raise ValueError for an argument outside its range."""
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r} is none of {', '.join(map(repr, METRICS))}")
    if not abs(level) <= float(np.finfo(np.float32).max):
        raise ValueError(f"level={level} is no finite number in float32")
    check_level(metric, level)
    if not 0.05 <= p0 <= 0.5:
        raise ValueError(f"p0={p0} is outside [0.05, 0.5]")
    if repeats < 2:
        raise ValueError(f"repeats={repeats}: the interval comes from the spread of at least 2")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is outside (0, 1)")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed={seed} is outside [0, 2**64)")
    if max_levels < 1:
        raise ValueError(f"max_levels={max_levels}: at least one threshold is needed")


def _check_memory(mixture: Mixture, size: Size, budget: int) -> None:
    """Raise ValueError where the points of a run would not fit."""
    draws = width(mixture)
    needed = 4 * draws * (size.points + 4 * size.chains)  # starts, proposals, and copies on the way
    if needed > budget:
        share = "" if mixture.sampler.per != "element" else ', share coefficients with per="neuron"'
        raise ValueError(
            f"n={size.points} points of {draws:,} draws take {needed / 2**30:.1f} GiB, the budget is "
            f"{budget / 2**30:.1f} GiB; take a smaller n{share}, or raise budget="
        )
