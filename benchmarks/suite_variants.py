"""The test suite under other processors, libraries, orders and loads: the table of docs/reliability.md.

    python -m benchmarks.suite_variants [--list] [--only WORD …] [--all] [-- pytest's arguments]

A processor without AVX-512 is stood in for by what fastcomb, torch, MKL, oneDNN and OpenBLAS can be told.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from fastcomb.kernels import native

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Variant:
    """One way to run the suite.

    Attributes:
        name: what the table says.
        environment: variables set for it.
        arguments: pytest's.
        busy: processes that do nothing but keep a core busy, per core.
    """

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    busy: int = 0


AVX2 = {
    "FASTCOMB_LEVEL": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
PORTABLE = {
    "FASTCOMB_LEVEL": "portable",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
}
VARIANTS = (
    Variant("as it is"),
    Variant("two threads", {"OMP_NUM_THREADS": "2"}),
    Variant("an AVX2 processor: all of the next", AVX2),
    *(Variant(f"{name}={value}", {name: value}) for name, value in AVX2.items()),
    Variant("no vectors wider than SSE: all of the next", PORTABLE),
    *(Variant(f"{name}={value}", {name: value}) for name, value in PORTABLE.items()),
    Variant("ATEN_CPU_CAPABILITY=avx512", {"ATEN_CPU_CAPABILITY": "avx512"}),
    Variant("OPENBLAS_CORETYPE=SkylakeX", {"OPENBLAS_CORETYPE": "SkylakeX"}),
    Variant("OPENBLAS_CORETYPE=Zen", {"OPENBLAS_CORETYPE": "Zen"}),
    Variant("hashes in another order", {"PYTHONHASHSEED": "1"}),
    Variant("-p no:randomly", arguments=("-p", "no:randomly")),
    Variant("tests shuffled, other random numbers", arguments=("--seed", "1")),
    Variant("shuffled again", arguments=("--seed", "2")),
    Variant("hypothesis draws other examples", arguments=("--hypothesis-profile", "others")),
    # glibc fills what it hands out with the complement of this byte: 3.4e38 in float32
    Variant("garbage in new memory", {"MALLOC_PERTURB_": "128"}),
    Variant("one process", arguments=("--numprocesses", "0")),
    Variant("all cores kept busy by others", busy=1),
)


@contextlib.contextmanager
def kept_busy(processes: int) -> Iterator[None]:
    """Processes that do nothing, as fast as they can."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def run(variant: Variant, arguments: list[str], report: Path) -> tuple[str, list[str]]:
    """One row of the table, and which tests failed."""
    level = variant.environment.get("FASTCOMB_LEVEL")
    extension = native.extension()
    if level and (extension is None or level not in extension.levels()):
        return f"| {variant.name} | not on this processor | | | |", []
    command = [sys.executable, "-m", "pytest", "--numprocesses", "auto", "--maxprocesses", "8"]
    command += ["--dist", "worksteal", "--show-capture", "no", "--junitxml", str(report)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variant.environment}
    began = time.perf_counter()
    with kept_busy(variant.busy * (os.cpu_count() or 1)):
        done = subprocess.run(
            [*command, *variant.arguments, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    seconds = time.perf_counter() - began
    if not report.exists():
        return f"| {variant.name} | no report | | | {seconds:.0f} |", done.stdout.splitlines()[-20:]
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failed) - skipped
    return f"| {variant.name} | {passed} | {len(failed)} | {skipped} | {seconds:.0f} |", failed


def main() -> int:
    parser = argparse.ArgumentParser(description="The test suite under other circumstances.")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="variants whose name has one of these")
    parser.add_argument("--all", action="store_true", help="slow tests too")
    parser.add_argument("--list", action="store_true", help="name the variants and stop")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    options = parser.parse_args()
    chosen = [v for v in VARIANTS if not options.only or any(word in v.name for word in options.only)]
    if options.list:
        print("\n".join(variant.name for variant in chosen))
        return 0
    arguments = options.arguments + ([] if options.all else ["-m", "not slow"])
    print("| variant | passed | failed | skipped | seconds |\n|---|---|---|---|---|")
    bad: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, variant in enumerate(chosen):
            row, failed = run(variant, arguments, Path(folder) / f"{number}.xml")
            print(row, flush=True)
            if failed:
                bad[variant.name] = failed
    for name, failed in bad.items():
        print(f"\n{name}:")
        print("\n".join(f"  {test}" for test in failed))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
