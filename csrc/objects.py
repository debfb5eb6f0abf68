"""How sources become object files: with which flags, and each of them once.

An object is kept in build/objects (or the folder FASTCOMB_OBJECTS) under a digest of all that it is made of:
its source, our headers that this includes, the command and its flags, and the versions of the compiler and of
what it includes from elsewhere. setup.py links the extensions from these objects, and the tests of machine
code read the same ones, so a second installation, environment or copy of the tree compiles only what changed.

Run as a program, prints how long each source takes to compile, alone and anew:
``python csrc/objects.py INCLUDE…`` with the folders of Python.h and pybind11.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FLAGS = "-std=c++17 -fvisibility=hidden -ffp-contract=off -pthread -Wall -Wextra -Wno-psabi -g0".split()
# GCC 12 takes the undefined operand inside its own AVX-512 intrinsics for a mistake of ours
AVX512 = "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -Wno-maybe-uninitialized".split()
LEVELS = {
    "cpu/level_avx2": ["-mavx2", "-mfma"],
    "cpu/level_avx512": AVX512,
    "cpu/level_avx512_bf16": [*AVX512, "-mavx512bf16"],
}
SANITIZE = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined".split()
#: Those that take longest come first, so that no processor is left with one of them at the end.
NATIVE = """
    cpu/level_avx512_bf16 cpu/level_avx512 cpu/level_portable cpu/level_avx2 bindings cuda/bind cuda/host
    cpu/engine cpu/execute cpu/verify schema cpu/levels cpu/thread_pool cpu/decide
""".split()
#: They convert arguments, once per call: not worth the time that optimising them takes.
BINDINGS = ("bindings", "cuda/bind", "cuda/module")

CUDA = "network_float32 network_bfloat16 network_float16 mix".split()
# machine code for A100 and H100, and an intermediate form that later devices translate
DEVICES = [
    "-gencode=arch=compute_80,code=[sm_80,compute_80]",
    "-gencode=arch=compute_90a,code=sm_90a",
]
CUDA_FLAGS = ["-std=c++17", "-O3", "-Werror=all-warnings", "-Xcompiler=-fPIC,-fvisibility=hidden"]

#: Variables that compilers take further flags and folders from.
_VARIABLES = "CPATH CPLUS_INCLUDE_PATH NVCC_PREPEND_FLAGS NVCC_APPEND_FLAGS NVCC_CCBIN".split()


class NotCompiled(Exception):
    """A source that could not be compiled; the message is the compiler's first error."""


def flags(name: str, sanitize: bool = False) -> list[str]:
    """Flags of a C++ source by its name, such as "cpu/engine" or "cuda/bind"."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    optimised = SANITIZE if sanitize else ["-O1" if name in BINDINGS else "-O2"]
    return [*FLAGS, *optimised, *(LEVELS.get(name, []) if x86 else [])]


def native(
    names: Iterable[str],
    compiler: Sequence[str],
    includes: Sequence[str],
    versions: str,
    sanitize: bool = False,
) -> list[Path]:
    """Objects of C++ sources.

    Args:
        names: as in NATIVE.
        compiler: the command.
        includes: folders of Python.h and pybind11.
        versions: of Python and pybind11.
        sanitize: with AddressSanitizer and UndefinedBehaviorSanitizer.

    Raises:
        NotCompiled: one could not be compiled.
    """

    def one(name: str) -> Path:
        command = [*compiler, *flags(name, sanitize)]
        return compiled(command, f"csrc/{name}.cpp", includes, versions)

    return _side_by_side(one, names)


def cuda(compiler: str) -> list[Path]:
    """Objects of the CUDA C++ sources, by nvcc, with machine code of all DEVICES.

    Raises:
        NotCompiled: one could not be compiled.
    """
    command = [compiler, *CUDA_FLAGS, *DEVICES]
    return _side_by_side(lambda name: compiled(command, f"csrc/cuda/{name}.cu"), CUDA)


def nvcc() -> str | None:
    """The CUDA compiler: on the path, or of CUDA_HOME."""
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    return shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


def device() -> bool:
    """Whether this machine has an NVIDIA device."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU " in listed.stdout


def compiled(command: Sequence[str], source: str, includes: Sequence[str] = (), versions: str = "") -> Path:
    """The object of a source: the kept one, or made now.

    Args:
        command: compiler and flags.
        source: path below the root of the tree.
        includes: folders of headers that are not ours; they may lie elsewhere next time.
        versions: of what lies in them; counts where the source includes pybind11.

    Raises:
        NotCompiled: with the compiler's first error.
    """
    parts = _parts(ROOT / source)
    digest = hashlib.sha256()
    foreign = versions if any(b"<pybind11/" in text for _, text in parts) else ""
    given = [*command, *(f"{name}={os.environ.get(name)}" for name in _VARIABLES)]
    for item in (source, *given, _version(tuple(command)), foreign):
        digest.update(item.encode() + b"\0")
    for name, text in parts:
        digest.update(f"{name} {len(text)}\0".encode() + text)
    folder = Path(os.environ.get("FASTCOMB_OBJECTS") or ROOT / "build" / "objects")
    kept = folder / f"{Path(source).stem}-{digest.hexdigest()[:32]}.o"
    if kept.exists():
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{os.getpid()}-{kept.name}"  # an object is complete or not there
    where = [f"-I{path}" for path in ("csrc", *includes)]
    try:
        done = _run([*command, *where, "-c", source, "-o", str(beside)])
        if done.stdout.strip():
            print(done.stdout.rstrip())
        if done.returncode:
            raise NotCompiled(_first_error(done.stdout) or f"{command[0]} ended with {done.returncode}")
        beside.replace(kept)
    finally:
        beside.unlink(missing_ok=True)
    return kept


def _parts(source: Path) -> list[tuple[str, bytes]]:
    """A source and our headers that it includes, through others too: names and contents."""
    contents: dict[str, bytes] = {}
    todo = [source]
    while todo:
        path = todo.pop().resolve()
        name = path.relative_to(ROOT).as_posix()
        if name in contents:
            continue
        contents[name] = text = path.read_bytes()
        for included in re.findall(rb'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', text, re.MULTILINE):
            there = [folder / included.decode() for folder in (path.parent, ROOT / "csrc")]
            todo += [path for path in there if path.exists()][:1]
    return sorted(contents.items())


@functools.cache
def _version(command: tuple[str, ...]) -> str:
    """What a compiler says it is."""
    done = _run([*command, "--version"])
    if done.returncode:
        raise NotCompiled(_first_error(done.stdout) or f"{command[0]} does not run")
    host = "" if Path(command[0]).name != "nvcc" else _version((os.environ.get("NVCC_CCBIN") or "g++",))
    return done.stdout + host


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except OSError as error:
        raise NotCompiled(f"{command[0]}: {error.strerror}") from error


def _first_error(output: str) -> str | None:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else None)


def _side_by_side(make: Callable[[str], Path], names: Iterable[str]) -> list[Path]:
    # threads suffice: each waits for a compiler
    with ThreadPoolExecutor(processors()) as pool:
        return list(pool.map(make, names))


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measure(includes: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FASTCOMB_OBJECTS"] = folder
        for name in NATIVE:
            before, began = os.times(), time.perf_counter()
            native([name], [os.environ.get("CXX") or "c++", "-fPIC", "-DNDEBUG"], includes, "")
            spent = os.times()
            used = sum(spent[2:4]) - sum(before[2:4])
            print(f"{name:18} {time.perf_counter() - began:6.1f} s  {used:6.1f} s of processors", flush=True)


if __name__ == "__main__":
    _measure(sys.argv[1:])
