"""How often each interval contains the truth, on laws whose answers are known.

    python -m benchmarks.coverage [--only mean quantile …] [--repetitions 2000]

Prints a Markdown table. A repetition draws a sample, asks for the interval as a user would, and looks whether
the truth is inside; for bands and confidence sequences, whether it is inside everywhere, or at every one of
100 looks. A measured coverage has a standard error of √(c (1 − c) / repetitions), 0.005 at 0.95 and 2,000.

Laws: standard normal; exponential with mean 1; "ties" is Binomial(4, ½), with five different values; "long
tail" is Pareto with index 2.5, whose variance is finite and whose skewness is not; "no variance" is Pareto
with index 1.5.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
import scipy.integrate
import scipy.stats
from tqdm import tqdm

import fastcomb as fc
from fastcomb.analysis.mean_estimate import from_pairs, from_strata
from fastcomb.statistics import two_samples
from fastcomb.statistics.confidence_sequence import Precision, Running, fraction_sequence, mean_sequence
from fastcomb.statistics.density import Density
from fastcomb.statistics.moments import Moments
from fastcomb.statistics.proportion import Interval, proportion

NOMINAL = 0.95
SIZES = (10, 100, 1000)
LAWS: dict[str, Any] = {
    "normal": scipy.stats.norm(),
    "exponential": scipy.stats.expon(),
    "ties": scipy.stats.binom(4, 0.5),
    "long tail": scipy.stats.pareto(2.5),
}
PAIRS: dict[str, tuple[Any, Any]] = {
    "normal, same": (scipy.stats.norm(), scipy.stats.norm()),
    "normal, moved and wider": (scipy.stats.norm(), scipy.stats.norm(1, 3)),
    "normal, far apart": (scipy.stats.norm(), scipy.stats.norm(3)),
    "exponential, scaled": (scipy.stats.expon(), scipy.stats.expon(scale=2)),
    "ties": (scipy.stats.binom(4, 0.5), scipy.stats.binom(4, 0.6)),
    "long tail": (scipy.stats.pareto(3), scipy.stats.pareto(2.5)),
}

#: One repetition: whether the truth was inside, and the width.
Trial = Callable[[np.random.Generator], tuple[bool, float]]


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    group: str
    interval: str
    law: str
    n: int
    trial: Trial

    def measure(self, repetitions: int) -> str:
        generator = np.random.default_rng(zlib.crc32(f"{self.interval} {self.law} {self.n}".encode()))
        trials = np.array([self.trial(generator) for _ in range(repetitions)], dtype=np.float64)
        coverage, width = trials.mean(0)
        n = self.n or "varies"
        return f"| {self.interval} | {self.law} | {n} | {NOMINAL} | {coverage:.3f} | {width:.3g} |"


def contains(interval: Interval, truth: float) -> tuple[bool, float]:
    """Whether the truth is inside, up to rounding, and the width."""
    hair = 1e-12 * max(1.0, abs(truth))
    return interval.low - hair <= truth <= interval.high + hair, interval.high - interval.low


def fractions() -> Iterator[Case]:
    for p in (0.5, 0.05):
        for n in SIZES:

            def trial(rng: np.random.Generator, p: float = p, n: int = n) -> tuple[bool, float]:
                return contains(proportion(int(rng.binomial(n, p)), n, NOMINAL), p)

            yield Case("fraction", "fraction (Clopper–Pearson)", f"p = {p}", n, trial)


def quantiles() -> Iterator[Case]:
    for q in (0.5, 0.95):
        for name, law in LAWS.items():
            for n in SIZES:

                def trial(
                    rng: np.random.Generator, law: Any = law, n: int = n, q: float = q
                ) -> tuple[bool, float]:
                    density = Density("loss", law.rvs(n, random_state=rng).astype(float))
                    return contains(density.quantile_interval(q, NOMINAL), float(law.ppf(q)))

                yield Case("quantile", f"quantile {q} (order statistics)", name, n, trial)


def bands() -> Iterator[Case]:
    for name in ("normal", "ties"):
        for n in SIZES:

            def trial(rng: np.random.Generator, law: Any = LAWS[name], n: int = n) -> tuple[bool, float]:
                values = np.sort(law.rvs(n, random_state=rng).astype(float))
                at = np.concatenate([values, np.nextafter(values, -np.inf)])  # a step function's extremes
                low, high = Density("loss", values).band(at, NOMINAL)
                truth = law.cdf(at)
                return bool(np.all((low <= truth + 1e-12) & (truth <= high + 1e-12))), float(
                    (high - low).max()
                )

            yield Case("band", "band (DKW–Massart), everywhere", name, n, trial)


@functools.cache
def truths(pair: str) -> dict[str, float]:
    """What two laws differ by."""
    a, b = PAIRS[pair]
    if hasattr(a.dist, "pmf"):
        at = np.arange(5)
        below = float((b.pmf(at) * (a.cdf(at) - a.pmf(at) / 2)).sum())
        apart = a.cdf(at) - b.cdf(at)
        area = float(np.abs(apart).sum())
    else:
        below = scipy.integrate.quad(lambda u: a.cdf(b.ppf(u)), 0, 1)[0]
        kinks = [0.2, 0.3085]  # where quantile functions cross, or nearly
        area = scipy.integrate.quad(lambda u: abs(a.ppf(u) - b.ppf(u)), 0, 1, limit=500, points=kinks)[0]
        apart = a.cdf(x := a.ppf(np.linspace(0, 1, 100_001)[1:-1])) - b.cdf(x)
    return {
        "mean": float(b.mean() - a.mean()),
        "median": float(b.median() - a.median()),
        "probability": below,
        "wasserstein": area,
        "lead": max(float(apart.max()), 0.0),
        "behind": max(float(-apart.min()), 0.0),
    }


def comparisons() -> Iterator[Case]:
    names = {
        "mean": "difference of means (Welch)",
        "median": "difference of medians (order statistics)",
        "probability": "P(A < B) (Brunner–Munzel, logit)",
        "wasserstein": "Wasserstein-1 (bootstrap, 199 resamples)",
        "dominance": "both leads (DKW–Massart), together",
    }
    for key, name in names.items():
        for pair in PAIRS:
            for n in SIZES:

                def trial(
                    rng: np.random.Generator, key: str = key, pair: str = pair, n: int = n
                ) -> tuple[bool, float]:
                    a, b = (law.rvs(n, random_state=rng).astype(float) for law in PAIRS[pair])
                    return compared(key, a, b, truths(pair), rng)

                yield Case(key, name, pair, n, trial)


def compared(
    key: str, a: Any, b: Any, truth: dict[str, float], rng: np.random.Generator
) -> tuple[bool, float]:
    """One of the intervals of compare(), which makes all of them."""
    x, y = np.sort(a), np.sort(b)
    if key == "mean":
        interval = two_samples.mean_difference(Moments().add(a), Moments().add(b), NOMINAL)
    elif key == "median":
        interval = two_samples.median_difference(Density("loss", a), Density("loss", b), NOMINAL)
    elif key == "probability":
        interval = two_samples.probability_below(x, y, NOMINAL)
    elif key == "wasserstein":
        distance, seed = two_samples.gaps(x, y)[2], int(rng.integers(1 << 32))
        interval = two_samples.wasserstein_interval(x, y, distance, NOMINAL, resamples=199, seed=seed)
    else:
        lead, behind, _ = two_samples.gaps(x, y)
        margin = two_samples.band_margin(len(x), len(y), NOMINAL)
        off = max(abs(lead - truth["lead"]), abs(behind - truth["behind"]))
        return off <= margin, 2 * margin
    return contains(interval, truth[key])


def estimates() -> Iterator[Case]:
    """Antithetic pairs and strata of known functions of one uniform coefficient."""
    functions: dict[str, Callable[[Any], Any]] = {
        "exp(2u)": lambda u: np.exp(2 * u),
        "(u − 0.4)²": lambda u: (u - 0.4) ** 2,
        "u > 0.27": lambda u: (u > 0.27) * 1.0,
    }
    for name, f in functions.items():
        grid = (np.arange(1_000_000) + 0.5) / 1_000_000
        values = f(grid)
        mean, variance = values.mean(), values.var()
        halves = (values + values[::-1]) / 2
        strata = values.reshape(10, -1)
        truth = {
            "antithetic": (mean, variance / (2 * halves.var())),
            "stratified": (mean, variance / strata.var(1).mean()),
        }
        for method, (centre, ratio) in truth.items():
            for n in (20, 100, 1000, 10_000):

                def trial(
                    rng: np.random.Generator,
                    f: Callable[[Any], Any] = f,
                    method: str = method,
                    n: int = n,
                    answer: tuple[float, bool] = (float(centre), False),
                ) -> tuple[bool, float]:
                    if method == "antithetic":
                        u = rng.random(n // 2)
                        estimate = from_pairs(f(u), f(1 - u), confidence=NOMINAL)
                    else:
                        u = (np.arange(10)[:, None] + rng.random((10, n // 10))) / 10
                        estimate = from_strata(f(u), confidence=NOMINAL)
                    truth, of_ratio = answer
                    ratio = Interval(
                        estimate.variance_ratio, estimate.ratio_low, estimate.ratio_high, NOMINAL
                    )
                    return contains(ratio if of_ratio else estimate.interval, truth)

                yield Case(method, f"{method} mean (Student)", name, n, trial)
                of_ratio = functools.partial(trial, answer=(float(ratio), True))
                yield Case("ratio", f"variance ratio, {method} (delta method)", name, n, of_ratio)


def looks(least: int, most: int) -> Any:
    return np.unique(np.geomspace(least, most, 100).astype(int))


def sequences() -> Iterator[Case]:
    most = 10_000
    for p in (0.5, 0.05):
        cached = functools.cache(functools.partial(fraction_sequence, confidence=NOMINAL))
        for label, sequence in (
            ("fraction, confidence sequence, 100 looks", cached),
            ("fraction, Clopper–Pearson at 100 looks (not valid)", functools.cache(proportion)),
        ):

            def trial(rng: np.random.Generator, p: float = p, sequence: Any = sequence) -> tuple[bool, float]:
                counts = np.cumsum(rng.random(most) < p)
                intervals = [sequence(int(counts[t - 1]), int(t)) for t in looks(1, most)]
                return all(contains(each, p)[0] for each in intervals), intervals[-1].high - intervals[-1].low

            yield Case("sequence", label, f"p = {p}", most, trial)

    def stopped(rng: np.random.Generator) -> tuple[bool, float]:
        running = Running(Precision("fraction_below", 0.1, half_width=0.02, least=2))
        while not running.reached:
            running.update(rng.random(100).astype(np.float32))
        return contains(running.interval, 0.1)

    yield Case("sequence", "fraction, stopped at half-width 0.02", "p = 0.1", 0, stopped)
    for name, law in {**LAWS, "no variance": scipy.stats.pareto(1.5)}.items():
        for least in (100, 1000):

            def path(rng: np.random.Generator, law: Any = law, least: int = least) -> tuple[bool, float]:
                values = law.rvs(20 * least, random_state=rng)
                t = looks(least, 20 * least)
                sums, squares = np.cumsum(values)[t - 1], np.cumsum((values - law.mean()) ** 2)[t - 1]
                means = sums / t
                variances = np.maximum(squares - t * (means - law.mean()) ** 2, 0) / (t - 1)
                intervals = [
                    mean_sequence(m, v, int(k), NOMINAL, narrowest_at=8 * least)
                    for m, v, k in zip(means.tolist(), variances.tolist(), t, strict=True)
                ]
                truth = float(law.mean())
                return all(contains(f, truth)[0] for f in intervals), intervals[-1].high - intervals[-1].low

            label = f"mean, confidence sequence from {least} on, 100 looks"
            yield Case("sequence", label, name, 20 * least, path)


def main() -> None:
    makers = (fractions, quantiles, bands, comparisons, estimates, sequences)
    cases = [case for maker in makers for case in maker()]
    groups = list(dict.fromkeys(case.group for case in cases))
    parser = argparse.ArgumentParser(description="Coverage of every interval.")
    parser.add_argument("--only", nargs="+", choices=groups, default=groups)
    parser.add_argument("--repetitions", type=int, default=2000)
    options = parser.parse_args()
    chosen = [case for case in cases if case.group in options.only]
    print(
        f"{datetime.date.today()}, {options.repetitions} repetitions, fastcomb {fc.__version__}, "
        f"numpy {np.__version__}, scipy {scipy.__version__}, python {sys.version.split()[0]}\n"
    )
    print("| interval | law | n | nominal | coverage | mean width |")
    print("|---|---|---:|---:|---:|---:|")
    for case in tqdm(chosen, disable=None):
        print(case.measure(options.repetitions), flush=True)


if __name__ == "__main__":
    main()
