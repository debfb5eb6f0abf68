"""Load and faults of runs on disk, for real: what docs/reliability.md says.

    python -m benchmarks.reliability [--combinations 10000000] [--kills 50] [--folder FOLDER]

Needs Linux; filling a disk and a read-only folder need root, for they mount file systems in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import fastcomb as fc
from benchmarks.workloads import WORKLOADS
from fastcomb.sweep import parts

_CHILD = """
import sys, torch
from benchmarks.reliability import problem
import fastcomb as fc
a, b, data = problem()
print("ready", flush=True)
n, out = int(sys.argv[2]), sys.argv[1]
fc.evaluate(a, b, fc.Uniform(), data=data, n=n, out=out, save_every=0.1, progress=False)
print("complete", flush=True)
"""


def problem() -> tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]:
    """The smallest workload of the benchmarks."""
    return *WORKLOADS["W0"].pair(), WORKLOADS["W0"].data()


def memory() -> float:
    """Resident memory of this process now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@contextlib.contextmanager
def watched(readings: list[float]) -> Iterator[None]:
    """Note the memory twice a second."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.5):
            readings.append(memory())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def load(folder: Path, combinations: int) -> Iterator[str]:
    """Millions of combinations into parts, and questions to them."""
    a, b, data = problem()
    fc.evaluate(
        a, b, fc.Uniform(), data=data, n=200_000, out=folder / "first", progress=False
    )  # all is loaded
    written: list[float] = []
    began = time.perf_counter()
    with watched(written):
        sweep = fc.evaluate(a, b, fc.Uniform(), data=data, n=combinations, out=folder / "run")
    wall = time.perf_counter() - began
    early, late = np.median(written[4 : len(written) // 3]), np.median(written[-len(written) // 3 :])
    written_parts = parts.listed(folder / "run/parts")
    size = sum(path.stat().st_size for path in written_parts)
    yield f"| combinations | {len(sweep):,} in {len(written_parts)} parts |"
    yield f"| seconds, per second | {wall:.0f}, {combinations / wall:,.0f} |"
    yield f"| share of the time that evaluating took | {sweep.seconds / wall:.1%} |"
    yield f"| bytes per combination on disk | {size / combinations:.2f} |"
    yield f"| memory in the first and last third of writing, MiB | {early:.0f}, {late:.0f} |"
    began, before = time.perf_counter(), memory()
    opened = fc.open_sweep(folder / "run")
    yield f"| to open it: seconds | {time.perf_counter() - began:.3f} |"
    began = time.perf_counter()
    asked: list[float] = []
    with watched(asked):
        level = float(np.median(next(opened.rows.pieces("loss"))[1]["loss"]))
        share, best = opened.fraction_below("loss", level), opened.best(5)
    peak = max([*asked, memory()]) - before
    took = time.perf_counter() - began
    yield f"| fraction below a level and the best five: seconds, further MiB | {took:.1f}, {peak:.0f} |"
    began = time.perf_counter()
    column = opened.loss
    assert int((column < np.float32(level)).sum()) == share.count
    assert column.argmin() == best[0] - opened.index[0]
    took = time.perf_counter() - began
    yield f"| the whole column of losses: seconds, MiB | {took:.1f}, {column.nbytes / 2**20:.0f} |"


def killed(folder: Path, kills: int) -> Iterator[str]:
    """Kill −9 at random moments until the run is complete."""
    random.seed(0)
    n = 250_000 * max(kills, 4) // 4
    run = folder / "killed"
    done = count = 0
    complete = False
    while not complete:
        command = [sys.executable, "-c", _CHILD, str(run), str(n)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        if count < kills:
            time.sleep(random.uniform(0, 0.9))
            process.send_signal(signal.SIGKILL)
            count += 1
        complete = process.communicate()[0] == "complete\n"
        if not (run / "manifest.json").exists():
            continue
        sweep = fc.open_sweep(run)
        assert len(sweep) >= done, "what was written has gone"
        index = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(*s) for s in sweep.rows.spans)])
        assert len(np.unique(index)) == len(sweep), "something is there twice"
        done = len(sweep)
    a, b, data = problem()
    whole = fc.evaluate(a, b, fc.Uniform(), data=data, n=n, progress=False)
    sweep = fc.open_sweep(run)
    same = all((sweep.rows.column(name) == whole.rows.column(name)).all() for name in ("loss", "accuracy"))
    left = list((run / "parts").glob(".*"))
    written = len(parts.listed(run / "parts"))
    yield f"| {count} kills, {n:,} combinations in {written} parts | bits as uninterrupted: {same} |"
    assert same
    assert not left


def said(call: Callable[[], object]) -> str:
    """What a call says when it fails, or that it does not."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            call()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "continues" + "".join(f" ({note.message})" for note in notes)


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def faults(folder: Path) -> Iterator[str]:
    """Each fault, what is said, and that the numbers are right in the end."""
    a, b, data = problem()

    def run(path: Path, n: int = 400_000) -> fc.Sweep:
        return fc.evaluate(a, b, fc.Uniform(), data=data, n=n, out=path, progress=False, save_every=0.2)

    whole = fc.evaluate(a, b, fc.Uniform(), data=data, n=400_000, progress=False)

    def right(path: Path) -> bool:
        return bool((run(path).loss == whole.loss).all())

    def row(fault: str, message: str, path: Path) -> str:
        message = message.replace(str(folder), "…").replace("|", "/")
        return f"| {fault} | {message} | {right(path)} |"

    full = folder / "full"
    with mounted(full, "size=1200k"):
        message = said(lambda: run(full / "run"))
        kept = len(fc.open_sweep(full / "run"))
        shutil.copytree(full / "run", folder / "moved")
    yield row(f"a full disk ({kept:,} kept, moved, continued)", message, folder / "moved")

    frozen = folder / "frozen"
    with mounted(frozen, "size=8m"):
        run(frozen / "run", 100_000)
        subprocess.run(["mount", "-o", "remount,ro", str(frozen)], check=True)
        message = said(lambda: run(frozen / "run"))
        shutil.copytree(frozen / "run", folder / "thawed")
    yield row("a read-only folder", message, folder / "thawed")

    command = [sys.executable, "-c", _CHILD, str(folder / "two"), "40000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    while not (folder / "two/manifest.json").exists():
        time.sleep(0.05)
    message = said(lambda: run(folder / "two"))
    process.kill()
    process.communicate()
    yield row("two processes, one run", message, folder / "two")

    path = folder / "cut"
    run(path)
    victim = parts.listed(path / "parts")[0]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    yield row("a truncated part, opened", said(lambda: fc.open_sweep(path)), path)
    victim = parts.listed(path / "parts")[0]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    yield row("a truncated part, continued", said(lambda: run(path)), path)

    path = folder / "flipped"
    run(path)
    victim = parts.listed(path / "parts")[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    message = said(lambda: fc.open_sweep(path).loss if fc.open_sweep(path).accuracy is not None else None)
    victim.unlink()
    yield row("a flipped bit, read", message, path)

    path = folder / "edited"
    run(path)
    manifest = json.loads((path / "manifest.json").read_text())
    kept_text = (path / "manifest.json").read_text()
    manifest["experiment"]["seed"] = 5
    (path / "manifest.json").write_text(json.dumps(manifest))
    message = said(lambda: run(path))
    (path / "manifest.json").write_text(kept_text)
    yield row("a manifest edited by hand", message, path)

    path = folder / "other"
    run(path)
    message = said(lambda: fc.evaluate(a, b, fc.Bernoulli(0.3), data=data, n=10, out=path))
    yield row("another experiment into the same folder", message, path)


def ray_killed(kills: int) -> Iterator[str]:
    """A Ray cluster of two processes, of which some are killed from outside while they work."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)
    a, b, data = problem()
    torch.set_num_threads(1)
    n, count = 3_000_000, 0
    stop = threading.Event()

    def killer() -> None:
        nonlocal count
        while not stop.wait(random.uniform(1.5, 3)) and count < kills:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if path.read_bytes().startswith(b"ray::_evaluate"):
                        os.kill(int(path.parent.name), signal.SIGKILL)
                        count += 1
                        break

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        there = fc.evaluate(a, b, fc.Uniform(), data=data, n=n, engine=fc.Ray(retries=100), progress=False)
    finally:
        stop.set()
        thread.join()
        ray.shutdown()
    here = fc.evaluate(a, b, fc.Uniform(), data=data, n=n, progress=False)
    same = bool((there.loss == here.loss).all() and (there.accuracy == here.accuracy).all())
    yield f"| Ray, {count} workers killed, {n:,} combinations | bits as in one process: {same} |"
    assert same


def main() -> None:
    parser = argparse.ArgumentParser(description="Load and faults of runs on disk.")
    parser.add_argument("--combinations", type=int, default=10_000_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for title, header, rows in (
            ("Load", "| what | found |", load(folder, options.combinations)),
            ("Kills", "| what | found |", killed(folder, options.kills)),
            ("Workers", "| what | found |", ray_killed(4)),
            ("Faults", "| fault | what is said | results right in the end |", faults(folder)),
        ):
            print(f"\n## {title}\n\n{header}\n|{'---|' * (header.count('|') - 1)}")
            for row in rows:
                print(row, flush=True)


if __name__ == "__main__":
    main()
