"""Is a combination's loss below a level? Answered from as few samples as it takes, with a stated error.

Samples are taken in a random order without replacement until the answer is clear. Clear is when one of two
bets is won: against "the mean of the remaining samples is so large that the level is reached", and against
the opposite. With every sample, a bet's capital is multiplied by a factor whose mean is at most 1 if what it
is against holds; so it then grows to 1/α with probability at most α, whenever one looks (Ville's
inequality). This is betting for the mean of a finite population: Waudby-Smith and Ramdas, "Estimating means
of bounded random variables by betting" (Journal of the Royal Statistical Society B, 2024), section 5.
Samples that differ more between combinations tend to come earlier, with weights and bets as in Shekhar, Xu,
Lipton, Liang and Ramdas, "Risk-limiting financial audits via weighted sampling without replacement" (UAI
2023).

Bets need bounds on a sample's value, and a loss has none. A *pilot* finds them: combinations from the far
end of the sequence (indices just under 2**64) are evaluated in full. 500 of them give each sample its
bounds, the least and the greatest value seen. Values outside are clipped to them, and the rest of the pilot,
at least 2/error − 1 combinations, tells how far clipping can move a mean to the wrong side of the level, on
whichever side it is: bets must be won with the largest of these shifts to spare. A further combination needs
more than that with probability at most error / 2, since it is exchangeable with the pilot's (the argument of
conformal prediction: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005). Of the two
bets only one can be won wrongly, with probability α = error / 2. So the answer for a combination is wrong
with probability at most ``error``, over its coefficients, the order of its samples and the pilot. A
combination all of whose samples were taken has an exact answer.

The order of samples is drawn from unit 0xfffffffe of the coefficient stream, so an answer is a function of
(seed, index), as everything about a combination.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastcomb.sampling.stream import philox4x32_10
from fastcomb.statistics.proportion import Proportion, check_level, proportion

#: Pilot combinations that give samples their bounds.
BOUNDING = 500

#: Of the stream; no parameter's.
_ORDER_UNIT = 0xFFFFFFFE

#: Shares of the most that may be bet: by the bold one of two bets, and at most by the careful one.
_BOLD, _MOST = 0.9, 0.95

#: The careful bet starts from what the pilot expects, which counts as so many samples.
_PRIOR = 10
_LEAST_VARIANCE = 1e-3

#: Samples taken at a time; few suffice for most combinations.
BLOCK = 8


@dataclass(frozen=True)
class Decide:
    """Base of the questions to a combination: on which side of a level is the mean of a metric?

    Args:
        metric: "loss" or "accuracy".
        level: the level; compared in float32, as :meth:`fastcomb.Sweep.fraction_below` does.
        error: highest probability of a wrong answer, in [1e-5, 0.5].

    Raises:
        ValueError: an argument is outside its range.
    """

    metric: str
    level: float
    error: float = 1e-3
    sign: ClassVar[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "level", float(self.level))
        object.__setattr__(self, "error", float(self.error))
        if self.metric not in ("loss", "accuracy"):
            raise ValueError(
                f"{type(self).__name__}: metric={self.metric!r} is neither 'loss' nor 'accuracy'"
            )
        if not math.isfinite(self.level):
            raise ValueError(f"decide: level={self.level} is not finite")
        check_level(self.metric, self.level)
        if not 1e-5 <= self.error <= 0.5:
            raise ValueError(f"decide: error={self.error} is outside [1e-5, 0.5]")

    @property
    def record(self) -> dict[str, Any]:
        """As JSON has it; :func:`from_record` reads it."""
        return {"question": type(self).__name__, **asdict(self)}

    @property
    def pilot(self) -> int:
        """Combinations that are evaluated in full to make bets possible."""
        return BOUNDING + self.checked

    @property
    def checked(self) -> int:
        """Pilot combinations that tell how far clipping can move a mean."""
        return max(1, math.ceil(2 / self.error) - 1)

    def holds(self, mean: Any) -> Any:
        """Whether exact means satisfy the question; NaN does not."""
        return self.sign * np.float32(mean) < self.sign * np.float32(self.level)

    def fraction(self, count: int, total: int, confidence: float) -> Proportion:
        """Fraction of combinations that satisfy the question, from answers that may be wrong.

        The interval is that of Clopper and Pearson for the answers, at 90 % of the risk, widened by the
        rate of wrong answers: error / 2 from the bets, and from the pilot what its size excludes at the
        other 10 % of the risk (1 − r^(1/m) for risk r and m checked combinations).
        """
        risk = 1 - confidence
        answered = proportion(count, total, 1 - 0.9 * risk)
        wrong = self.error / 2 + 1 - (0.1 * risk) ** (1 / self.checked)
        low, high = max(0.0, answered.low - wrong), min(1.0, answered.high + wrong)
        return Proportion(answered.value, low, high, confidence, count, total)


@dataclass(frozen=True)
class Below(Decide):
    """Is the metric < level?

    Example:
        >>> below = fc.Below("loss", 1.0, error=0.01)
        >>> sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2000, decide=below, progress=False)
        >>> sweep.holds.shape  # an answer for each combination
        (2000,)
        >>> found = sweep.fraction_below("loss", 1.0)
        >>> found.low <= found.value <= found.high
        True
    """

    sign = 1


@dataclass(frozen=True)
class Above(Decide):
    """Is the metric > level?

    Example:
        >>> above = fc.Above("accuracy", 0.5, error=0.01)
        >>> sweep = fc.evaluate(a, b, fc.Uniform(), data=(x, y), n=2000, decide=above, progress=False)
        >>> sweep.fraction.count == int(sweep.holds.sum())
        True
    """

    sign = -1


def from_record(record: Mapping[str, Any]) -> Decide:
    """The question in a record."""
    kind = {"Below": Below, "Above": Above}[record["question"]]
    return kind(record["metric"], record["level"], record["error"])


class Answer(NamedTuple):
    """About one combination; ``mean`` is exact if all samples were taken, else an estimate."""

    holds: bool
    samples: int
    mean: float


@dataclass(frozen=True, eq=False)
class Question:
    """A question with what the pilot found, as kernels take it. Values are the metric's, times ``sign``.

    Attributes:
        decide: what is asked.
        low, width: float64 [N], every sample's bounds: its value is within [low, low + width].
        below, above: sums over all samples of (value − low) that deny that the question holds, or that
            it does not.
        expected, variance: of a sample's place between its bounds, over the samples weighted by width.
        seed: of the stream.
    """

    decide: Decide
    low: NDArray[np.float64]
    width: NDArray[np.float64]
    below: float
    above: float
    expected: float
    variance: float
    seed: int

    @property
    def low_sum(self) -> float:
        """Sum of all samples' lower bounds, rounded as in the compiled engine."""
        return _sum(self.low)

    @property
    def capital(self) -> float:
        """Capital at which a bet is won, 1/α."""
        return 2 / self.decide.error

    def order(self, index: int) -> NDArray[np.int64]:
        """The samples of a combination in their order: weighted by width, without replacement.

        Exponential keys divided by the weights, smallest first (Efraimidis and Spirakis, "Weighted random
        sampling with a reservoir", 2006).
        """
        samples = len(self.width)
        blocks = torch.arange(-(-samples // 4))
        counter = (blocks, _ORDER_UNIT, index & 0xFFFFFFFF, index >> 32)
        words = philox4x32_10(counter, (self.seed & 0xFFFFFFFF, self.seed >> 32))
        drawn = torch.stack([torch.as_tensor(word).expand(len(blocks)) for word in words], 1)
        u = (drawn.flatten()[:samples].double() + 0.5) * 2.0**-32
        keys = -np.log(u.numpy()) / self.width
        return np.argsort(keys, kind="stable")

    def answer(self, index: int, values: Callable[[NDArray[np.int64]], NDArray[np.float32]]) -> Answer:
        """The rule, in plain steps: what the compiled engine does.

        Args:
            index: of the combination.
            values: the metric on the samples with these numbers.
        """
        order = self.order(index)
        against_below, against_above = _Bets(), _Bets()
        left, within, drawn_width, total = _sum(self.width), 0.0, 0.0, 0.0
        shares, squares = _PRIOR * self.expected, _PRIOR * self.variance
        won: bool | None = None
        taken = 0
        while won is None and taken < len(order):
            some = order[taken : taken + BLOCK]
            for seen, (sample, measured) in enumerate(zip(some, values(some), strict=True), taken + _PRIOR):
                value, width = self.decide.sign * float(measured), self.width[sample]
                inside = value - self.low[sample]
                share = 1.0 if math.isnan(inside) else min(max(inside / width, 0.0), 1.0)
                if won is None:
                    slack = 1e-9 * (abs(self.below) + abs(self.above) + left)
                    if self.below - within > left + slack:
                        won = True
                    if self.above - within < -slack:
                        won = False
                    mean, variance = shares / seen, max(squares / seen, _LEAST_VARIANCE)
                    least = (self.below - within) / left
                    if 0 < least < 1:
                        against_above.bet(least - mean, variance, least - share, 1 - least)
                    most = (self.above - within) / left
                    if 0 < most < 1:
                        against_below.bet(mean - most, variance, share - most, most)
                    if against_above.capital >= self.capital:
                        won = True
                    elif against_below.capital >= self.capital:
                        won = False
                total += value
                shares += share
                squares += (share - self.expected) ** 2
                within += share * width
                left -= width
                drawn_width += width
            taken += len(some)
        if taken == len(order):
            mean = self.decide.sign * total / taken
            won = bool(self.decide.holds(mean))
        else:
            mean = self.decide.sign * (self.low_sum + within + within / drawn_width * left) / len(order)
        return Answer(bool(won), taken, mean)


class _Bets:
    """Two bets against one answer, each with half the capital; a mixture of bets is a bet."""

    def __init__(self) -> None:
        self._bold = self._careful = 1.0

    @property
    def capital(self) -> float:
        return (self._bold + self._careful) / 2

    def bet(self, edge: float, variance: float, gain: float, worst: float) -> None:
        """One sample: the expected gain, that of the sample, and how far it could have been below zero.

        The careful bet is the approximate maximum of log growth (Waudby-Smith and Ramdas' aGRAPA).
        """
        best = edge / (variance + edge * edge) * worst if edge > 0 else 0.0
        self._bold *= 1 + _BOLD * gain / worst
        self._careful *= 1 + min(best, _MOST) * gain / worst


def _sum(values: NDArray[np.float64]) -> float:
    """From the first to the last, as the compiled engine adds."""
    return float(np.add.accumulate(values)[-1]) if len(values) else 0.0
