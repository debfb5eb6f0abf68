"""What this installation runs on."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from fastcomb.kernels import cuda as kernels
from fastcomb.kernels import native
from fastcomb.sampling.stream import STREAM_VERSION


def configuration() -> dict[str, str]:
    """What matters when results or speeds are compared, by name.

    fastcomb's version, the instruction level of the compiled engine (and those that could be forced with the
    environment variable FASTCOMB_LEVEL), threads, torch, CUDA, Triton, and whether the
    kernels in CUDA C++ were built.
    """
    extension = native.extension()
    levels = f" of {', '.join(extension.levels())}" if extension else ": not built"
    cuda = (
        f"{torch.version.cuda}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no device"
    )
    return {
        "fastcomb": f"{importlib.metadata.version('fastcomb')}, stream version {STREAM_VERSION}",
        "compiled engine": native.cpu_capability() + levels,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA": cuda,
        "Triton": _version("triton"),
        "CUDA kernels": "built for sm_80 and sm_90a" if kernels.built() else "not built",
    }


def show_config() -> str:
    """Print and return :func:`configuration`, one line each.

    Example:
        >>> config = fc.show_config()
        fastcomb ...
        compiled engine ...
        >>> "threads" in config
        True
    """
    text = "\n".join(f"{name:16} {value}" for name, value in configuration().items())
    print(text)
    return text


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
