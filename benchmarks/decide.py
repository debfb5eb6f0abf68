"""Deciding instead of measuring, on the demo's question: samples and time saved, and answers that were wrong.

    python -m benchmarks.decide [--combinations 125000] [--out out/demo]

Compares the demo's eight sweeps in full with ``decide=Below("loss", level)``. Networks and full sweeps are
those that ``fastcomb demo`` left; what is missing of them is evaluated.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import fastcomb as fc
from fastcomb.demo import LAWS, PAIRS, folder, networks
from fastcomb.utils.result import markdown


def main() -> None:
    parser = argparse.ArgumentParser(description="Deciding instead of measuring, on the demo's question.")
    parser.add_argument("--combinations", type=int, default=125_000, help="per pair and law")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder of the demo")
    options = parser.parse_args()
    n = options.combinations
    test, (a, b, aligned) = networks(options.out)
    with torch.no_grad():
        level = 2 * max(F.cross_entropy(model(test[0]), test[1]).item() for model in (a, b))
    ask = fc.Below("loss", level)
    rows: list[list[str | float]] = []
    evaluated = wrong = 0
    times = np.zeros(2)
    for pair, other in zip(PAIRS, (aligned, b), strict=True):
        for law, sampler in LAWS.items():
            full = fc.evaluate(a, other, sampler, data=test, n=n, out=folder(options.out, pair, law))
            began = time.perf_counter()
            decided = fc.evaluate(a, other, sampler, data=test, n=n, decide=ask)
            took = full.seconds, time.perf_counter() - began  # the pilot's time counts
            assert isinstance(decided, fc.Decided)
            mistakes = int((decided.holds != (full.loss < np.float32(level))).sum())
            evaluated += int(decided.samples_taken.sum(dtype=np.int64)) + ask.pilot * decided.samples
            wrong += mistakes
            times += took
            rows.append(
                [
                    f"{pair}, {law}",
                    f"{full.fraction_below('loss', level)}",
                    f"{decided.fraction}",
                    f"{decided.samples_taken.mean():.1f} of {decided.samples}",
                    f"{decided.saving:.2f}",
                    f"{took[0] / took[1]:.2f}",
                    f"{mistakes / n:.5f}",
                ]
            )
            print(*rows[-1], flush=True)
    total = len(rows) * n * len(test[0])
    rows.append(
        [
            "all",
            "",
            "",
            "",
            f"{total / evaluated:.2f}",
            f"{times[0] / times[1]:.2f}",
            f"{wrong / len(rows) / n:.5f}",
        ]
    )
    header = [
        "sweep",
        "fraction, in full",
        "fraction, decided",
        "samples",
        "times fewer",
        "times faster",
        "wrong",
    ]
    print(f"\n{n:,} combinations each, loss below {level:.3f}, error {ask.error:g}, pilot {ask.pilot}\n")
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
