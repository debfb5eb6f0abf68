"""Builds the compiled parts; everything else about the package is in pyproject.toml.

``_native`` holds the CPU kernels of all instruction levels and chooses among them at run time; ``_cuda``
holds the kernels in CUDA C++ and is built where there is an nvcc (on the path, or of CUDA_HOME). Where one
cannot be built, the package installs without it and runs on what is left.

FASTCOMB_SANITIZE=1 builds with AddressSanitizer and UndefinedBehaviorSanitizer. FASTCOMB_CUDA=0 leaves the
kernels in CUDA C++ out.
"""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = "-std=c++17 -fvisibility=hidden -ffp-contract=off -pthread -Wall -Wextra -Wno-psabi".split()
# GCC 12 takes the undefined operand inside its own AVX-512 intrinsics for a mistake of ours
AVX512 = "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -Wno-maybe-uninitialized".split()
LEVELS = {
    "level_avx2": ["-mavx2", "-mfma"],
    "level_avx512": AVX512,
    "level_avx512_bf16": [*AVX512, "-mavx512bf16"],
}
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g"]
SOURCES = """
    bindings decide engine verify pool level_portable level_avx2 level_avx512 level_avx512_bf16
    cuda/host cuda/bind
""".split()

CUDA_SOURCES = "mix network_float32 network_bfloat16 network_float16".split()
# machine code for A100 and H100, and an intermediate form that later devices translate
DEVICES = [
    "-gencode=arch=compute_80,code=[sm_80,compute_80]",
    "-gencode=arch=compute_90a,code=sm_90a",
]
CUDA_FLAGS = ["-std=c++17", "-O3", "-Werror=all-warnings", "-Xcompiler=-fPIC,-fvisibility=hidden"]


def nvcc() -> str | None:
    """The CUDA compiler, if there is one and it is wanted."""
    if os.environ.get("FASTCOMB_CUDA") == "0":
        return None
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    return shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


class Build(build_ext):
    """Compiles the sources side by side, each with its own flags; a failure leaves the package pure."""

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build_cuda(ext) if ext.name.endswith("_cuda") else self._build(ext)
        except Exception as error:
            print(f"warning: {ext.name} was not built, and what is there will be used instead: {error}")

    def _build_cuda(self, ext: Extension) -> None:
        compiler, folder = nvcc(), Path(self.build_temp) / "cuda"
        assert compiler is not None
        folder.mkdir(parents=True, exist_ok=True)

        def compile_one(name: str) -> str:
            out = str(folder / f"{name}.o")
            source = f"csrc/cuda/{name}.cu"
            subprocess.run([compiler, *CUDA_FLAGS, *DEVICES, "-c", source, "-o", out], check=True)
            return out

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, CUDA_SOURCES))
        objects += self.compiler.compile(
            ext.sources,
            output_dir=str(folder),
            include_dirs=ext.include_dirs,
            extra_postargs=[*FLAGS, "-O2"],
            depends=ext.depends,
        )
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, "-shared", "-o", str(target), *objects], check=True)

    def _build(self, ext: Extension) -> None:
        sanitize = bool(os.environ.get("FASTCOMB_SANITIZE"))
        common = [*FLAGS, *(["-O1", *SANITIZE] if sanitize else ["-O2"])]
        x86 = platform.machine().lower() in ("x86_64", "amd64")

        def compile_one(source: str) -> list[str]:
            return self.compiler.compile(
                [source],
                output_dir=str(Path(self.build_temp) / ("sanitized" if sanitize else "plain")),
                include_dirs=ext.include_dirs,
                extra_postargs=common + (LEVELS.get(Path(source).stem, []) if x86 else []),
                depends=ext.depends,
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [name for names in pool.map(compile_one, ext.sources) for name in names]
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            objects,
            str(target),
            extra_postargs=["-pthread", *(SANITIZE if sanitize else [])],
            target_lang="c++",
        )


def extension(name: str, sources: list[str]) -> Extension:
    return Extension(
        f"fastcomb.{name}",
        sources=sources,
        depends=[str(path) for path in sorted(Path("csrc").rglob("*.[ch]*"))],
        include_dirs=["csrc", pybind11.get_include()],
        optional=True,
    )


native = extension("_native", [f"csrc/{name}.cpp" for name in SOURCES])
cuda = extension("_cuda", ["csrc/cuda/bind.cpp", "csrc/cuda/module.cpp"])
setup(cmdclass={"build_ext": Build}, ext_modules=[native, cuda] if nvcc() else [native])
