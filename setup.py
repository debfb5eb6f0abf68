"""Builds the compiled parts; everything else about the package is in pyproject.toml.

``_native`` holds the CPU kernels of all instruction levels and chooses among them at run time; ``_cuda``
holds the kernels in CUDA C++ and is built where there are a device and an nvcc. Where one cannot be built,
the package installs without it and runs on what is left; the reason is kept as ``_native.missing``, since pip
shows nothing of a build that succeeds, and is part of the notice at its first use.

FASTCOMB_CUDA=1 builds the kernels in CUDA C++ without a device too, FASTCOMB_CUDA=0 never.
FASTCOMB_SANITIZE=1 builds with AddressSanitizer and UndefinedBehaviorSanitizer.
FASTCOMB_OBJECTS is where objects are kept (build/objects), see csrc/objects.py.
"""

import os
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))

import objects  # noqa: E402

NAMES = ("_native", "_cuda")


class Build(build_ext):
    """Links the extensions from objects; a failure leaves a note of the reason in place of one."""

    def run(self) -> None:
        # what is there is of earlier sources, and must not stay if it cannot be made anew
        for name in NAMES:
            for path in (self._extension(name), self._note(name)):
                path.unlink(missing_ok=True)
        notes = {name: self._note(name) for name in NAMES}
        self._reasons: dict[str, str] = {}
        super().run()
        for name, reason in self._reasons.items():
            print(f"warning: fastcomb.{name} was not built: {reason}")
            notes[name].parent.mkdir(parents=True, exist_ok=True)
            notes[name].write_text(reason + "\n", "utf-8")

    def build_extension(self, ext: Extension) -> None:
        name = ext.name.rpartition(".")[2]
        target = self._extension(name)
        target.unlink(missing_ok=True)
        try:
            made = self._cuda() if name == "_cuda" else self._native(objects.NATIVE)
            self._link(made, target, objects.nvcc() if name == "_cuda" else None)
        except Exception as error:
            self._reasons[name] = " ".join(str(error).split()) or type(error).__name__

    def _extension(self, name: str) -> Path:
        return Path(self.get_ext_fullpath(f"fastcomb.{name}"))

    def _note(self, name: str) -> Path:
        return self._extension(name).with_name(f"{name}.missing")

    def _native(self, names: list[str]) -> list[Path]:
        includes = [*self.include_dirs, pybind11.get_include()]
        versions = f"{sys.version} pybind11 {pybind11.__version__}"
        return objects.native(names, self.compiler.compiler_so_cxx, includes, versions, _sanitize())

    def _cuda(self) -> list[Path]:
        compiler = objects.nvcc()
        if compiler is None:
            raise RuntimeError("FASTCOMB_CUDA=1, but there is no nvcc, neither on the path nor in CUDA_HOME")
        return [*self._native(["cuda/bind", "cuda/module", "schema"]), *objects.cuda(compiler)]

    def _link(self, made: list[Path], target: Path, nvcc: str | None) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name("." + target.name)
        if nvcc:
            self.spawn([nvcc, "-shared", "-o", str(beside), *map(str, made)])
        else:
            options = ["-pthread", *(objects.SANITIZE if _sanitize() else [])]
            given = {"extra_postargs": options, "target_lang": "c++"}
            self.compiler.link_shared_object([str(path) for path in made], str(beside), **given)
        beside.replace(target)


def _sanitize() -> bool:
    return bool(os.environ.get("FASTCOMB_SANITIZE"))


def _cuda_wanted() -> bool:
    asked = os.environ.get("FASTCOMB_CUDA")
    if asked in ("0", "1"):
        return asked == "1"
    return objects.nvcc() is not None and objects.device()


def extension(name: str, sources: list[str]) -> Extension:
    # the sources are for lists of files; which objects it is linked from is Build's
    return Extension(f"fastcomb.{name}", sources=sources, optional=True)


extensions = [extension("_native", [f"csrc/{name}.cpp" for name in objects.NATIVE])]
if _cuda_wanted():
    extensions.append(extension("_cuda", ["csrc/cuda/bind.cpp", "csrc/cuda/module.cpp", "csrc/schema.cpp"]))
setup(cmdclass={"build_ext": Build}, ext_modules=extensions)
