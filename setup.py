"""Builds the compiled engine; everything else about the package is in pyproject.toml.

One extension holds the kernels of all instruction levels and chooses among them at run time. Where it
cannot be built, the package installs without it and runs on torch alone.

FASTCOMB_SANITIZE=1 builds with AddressSanitizer and UndefinedBehaviorSanitizer.
"""

import os
import platform
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
SOURCES = "bindings decide engine pool level_portable level_avx2 level_avx512 level_avx512_bf16".split()


class Build(build_ext):
    """Compiles the sources side by side, each with its own flags; a failure leaves the package pure."""

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(ext)
        except Exception as error:
            print(
                f"warning: fastcomb's compiled engine was not built and torch will be used instead: {error}"
            )

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


setup(
    cmdclass={"build_ext": Build},
    ext_modules=[
        Extension(
            "fastcomb._native",
            sources=[f"csrc/{name}.cpp" for name in SOURCES],
            depends=[str(path) for path in sorted(Path("csrc").glob("*.h"))],
            include_dirs=["csrc", pybind11.get_include()],
            optional=True,
        )
    ],
)
