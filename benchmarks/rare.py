"""Rare fractions beside plain sampling, and the coverage of their intervals.

    python -m benchmarks.rare [--plain 200000] [--n 1000] [--repeats 10]
    python -m benchmarks.rare --coverage 1000 [--problems ...]
    python -m benchmarks.rare --coverage 100 --networks --plain 4000000 --n 200

The first asks for fractions of the vicinity of the cube between two MLPs that are trained on scikit-learn's
real digits: at a level that plain sampling sees about once in a thousand, and at one it does not see. The
second repeats the whole procedure on problems with known answers and counts how often the interval holds
the answer; the third does so for the networks, whose answer comes from many plain draws.
"""

from __future__ import annotations

import argparse
import datetime
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import fastcomb as fc
from benchmarks.table import cpu
from fastcomb.models import MLP
from fastcomb.rare import RareFraction, rare_fraction
from fastcomb.rare.simulation import simulate
from fastcomb.rare.subset import Size
from fastcomb.statistics.density import Array
from fastcomb.statistics.proportion import proportion
from fastcomb.utils.progress import bar

Samples = tuple[Tensor, Tensor]


class Normal:
    """A score on standard normal space; plain draws are the rows of a table."""

    device = torch.device("cpu")

    def __init__(self, score: Callable[[Tensor], Array], width: int, draws: int, seed: int) -> None:
        self.score, self.width = score, width
        self._table = torch.randn(draws, width, generator=torch.Generator().manual_seed(seed))

    def plain(self, first: int, count: int) -> Array:
        return self.score(self._table[first : first + count])

    def draw(self, numbers: list[int], generator: torch.Generator) -> Tensor:
        return self._table[numbers]


def linear(z: Tensor) -> Array:
    """Standard normal in any dimension."""
    return np.asarray(-(z.sum(1) / math.sqrt(z.shape[1])).double().numpy())


def stairs(z: Tensor) -> Array:
    """The same in steps of ¼: every level is a plateau."""
    return np.asarray(np.ceil(4 * linear(z)) / 4)


def radius(z: Tensor) -> Array:
    """Minus a chi-square."""
    return np.asarray(-(z * z).sum(1).double().numpy())


def two_sided(z: Tensor) -> Array:
    """Two regions that do not touch, one eleven times less likely than the other at a level of −3.5."""
    x = z[:, 0].double().numpy()
    return np.asarray(np.minimum(-x, x + 0.6))


@dataclass(frozen=True)
class Known:
    """A problem with its answer: P(score < level)."""

    score: Callable[[Tensor], Array]
    width: int
    level: float
    answer: float


def _linear(width: int, beta: float) -> Known:
    return Known(linear, width, -beta, float(scipy.stats.norm.cdf(-beta)))


def _radius(width: int, answer: float) -> Known:
    return Known(radius, width, -float(scipy.stats.chi2.isf(answer, width)), answer)


_CDF = scipy.stats.norm.cdf
KNOWN = {
    "linear, d = 1, β = 2": _linear(1, 2),
    "linear, d = 1, β = 3": _linear(1, 3),
    "linear, d = 1, β = 5": _linear(1, 5),
    "linear, d = 10, β = 4": _linear(10, 4),
    "linear, d = 10, β = 5": _linear(10, 5),
    "linear, d = 1000, β = 4": _linear(1000, 4),
    "radius, d = 2": _radius(2, 1e-5),
    "radius, d = 10": _radius(10, 1e-5),
    "radius, d = 100": _radius(100, 1e-6),
    "stairs, d = 10": Known(stairs, 10, -3.5, float(_CDF(-3.75))),
    "two regions": Known(two_sided, 2, -3.5, float(_CDF(-3.5) + _CDF(-4.1))),
    "not rare, p = 0.1": Known(linear, 2, float(scipy.stats.norm.ppf(0.1)), 0.1),
}


def solve(
    known: Known, n: int, repeats: int, seed: int, p0: float = 0.1, confidence: float = 0.95
) -> tuple[Array, Array]:
    """Value and interval [3] of a known problem, and the estimates [repeats] of the runs."""
    size = Size.of(n, p0)
    problem = Normal(known.score, known.width, (repeats + 1) * size.points, seed)
    with bar(0, "point", progress=False) as shown:
        simulation = simulate(problem, known.level, size, repeats=repeats, most=50, seed=seed, shown=shown)
    return simulation.curve(confidence)[-1], np.array([run.curve[-1] for run in simulation.runs])


def coverage(name: str, n: int, repeats: int, times: int) -> str:
    """A row: how often the interval of a known problem holds the answer, and how it misses."""
    known = KNOWN[name]
    solved = [solve(known, n, repeats, seed) for seed in tqdm(range(times), desc=name, disable=None)]
    value, low, high = np.array([end for end, _ in solved]).T
    runs = np.array([estimates for _, estimates in solved])
    under, over = (high < known.answer).mean(), (low > known.answer).mean()
    exact = proportion(times - round(times * (under + over)), times)
    bias, error = value.mean() / known.answer - 1, value.std(ddof=1) / known.answer / math.sqrt(times)
    scatter = runs.std(axis=1, ddof=1).mean() / known.answer
    dead = (runs == 0).any(axis=1).mean()
    return (
        f"| {name} | {known.answer:.3g} | {n} × {repeats} | {100 * bias:+.1f} ± {100 * error:.1f} % | "
        f"{scatter:.2f} | {np.median(high / np.maximum(low, 1e-300)):.2f} | {exact.value:.3f} "
        f"[{exact.low:.3f}, {exact.high:.3f}] | {under:.3f} | {over:.3f} | {dead:.3f} |"
    )


def networks() -> tuple[nn.Module, nn.Module, Samples]:
    """Two aligned MLPs 64-32-10, trained on scikit-learn's real digits, and a test set."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.from_numpy(images[order].astype(np.float32) / 16)
    y = torch.from_numpy(labels[order].astype(np.int64))
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = MLP((64, 32, 10))
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(40):
            for batch in torch.randperm(1400).split(100):
                optimiser.zero_grad()
                F.cross_entropy(model(x[batch]), y[batch]).backward()
                optimiser.step()
        models.append(model.eval())
    a, b = models
    return a, fc.rebasin.align(a, b).model, (x[1400:], y[1400:])


def compare(sampler: fc.Sampler, draws: int, n: int, repeats: int) -> list[str]:
    """Rows of one law: a level that plain sampling sees, and one below all that it has seen, by two seeds."""
    a, b, data = networks()
    plain = fc.evaluate(a, b, sampler, data=data, n=draws, seed=2)
    few = fc.evaluate(
        a, b, sampler, data=data, n=draws // 10, seed=1
    )  # the level is not chosen on its own data
    rows = []
    for level in (float(np.quantile(few.loss, 0.001)), 0.9 * float(plain.loss.min())):
        counted = plain.fraction_below("loss", level)
        for seed in (3, 4):
            estimate: RareFraction = rare_fraction(
                fc.Mixture(a, b, sampler, seed=seed),
                "loss",
                level,
                model=a,
                data=data,
                n=n,
                repeats=repeats,
                seed=seed,
            )
            rows.append(
                f"| `{_short(sampler)}`, loss < {level:.3f} | {_fraction(counted)} | {_fraction(estimate)} | "
                f"{estimate.estimates.std(ddof=1) / estimate.value:.2f} | {estimate.evaluations:,} | "
                f"{estimate.plain_evaluations:.2g} |"
            )
    return rows


def coverage_of_networks(sampler: fc.Sampler, draws: int, n: int, repeats: int, times: int) -> str:
    """A row: how often intervals for these networks hold what many plain draws say, some 10⁻⁴."""
    a, b, data = networks()
    plain = fc.evaluate(a, b, sampler, data=data, n=draws, seed=2)
    level = float(np.quantile(plain.loss, 1e-4))
    truth = plain.fraction_below("loss", level)
    estimates = [
        rare_fraction(
            fc.Mixture(a, b, sampler, seed=seed),
            "loss",
            level,
            model=a,
            data=data,
            n=n,
            repeats=repeats,
            seed=seed,
        )
        for seed in tqdm(range(100, 100 + times), desc="networks", disable=None)
    ]
    widths = [one.high / max(one.low, 1e-300) for one in estimates]
    held = sum(one.low <= truth.value <= one.high for one in estimates)
    mean = np.mean([one.value for one in estimates])
    error = np.std([one.value for one in estimates], ddof=1) / math.sqrt(times)
    exact = proportion(held, times)
    return (
        f"| `{_short(sampler)}`, loss < {level:.3f} | {_fraction(truth)} | {n} × {repeats} "
        f"| {mean:.3g} ± {error:.2g} | {np.median(widths):.2f} | {held} of {times}: "
        f"{exact.value:.3f} [{exact.low:.3f}, {exact.high:.3f}] |"
    )


def _fraction(estimate: RareFraction | fc.Proportion) -> str:
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def _short(sampler: fc.Sampler) -> str:
    return f"{type(sampler).__name__}({sampler.low:g}, {sampler.high:g})"  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description="Rare fractions and the coverage of their intervals.")
    parser.add_argument("--plain", type=int, default=200_000, help="plain draws to compare with")
    parser.add_argument("--n", type=int, default=1000, help="points on each level")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--coverage", type=int, help="instead: repetitions of each known problem")
    parser.add_argument("--networks", action="store_true", help="with --coverage: of the networks' fractions")
    parser.add_argument("--problems", nargs="+", choices=KNOWN, default=list(KNOWN))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{datetime.date.today()}, {cpu()}, torch {torch.__version__}, fastcomb {fc.__version__}\n")
    if options.coverage and options.networks:
        print(
            "| event | plain sampling | n × repeats | mean | high / low | coverage |\n"
            "|---|---|---|---|---|---|"
        )
        law = fc.Uniform(-1, 2)
        print(coverage_of_networks(law, options.plain, options.n, options.repeats, options.coverage))
        return
    if options.coverage:
        print(
            "| problem | answer | n × repeats | bias | scatter of a run | high / low | coverage | too low "
            "| too high | with a dead run |\n|---|---|---|---|---|---|---|---|---|---|"
        )
        for name in options.problems:
            print(coverage(name, options.n, options.repeats, options.coverage), flush=True)
        return
    print(
        "| event | plain sampling | rare_fraction | scatter of a run | evaluations "
        "| plain draws for that width |\n|---|---|---|---|---|---|"
    )
    for sampler in (fc.Uniform(-0.25, 1.25), fc.Uniform(-1, 2)):
        print("\n".join(compare(sampler, options.plain, options.n, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
