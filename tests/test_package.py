"""What ``python -m build`` makes works elsewhere: the wheel without a compiler, the sdist with or without.

A fresh environment sees this one's packages (torch and the rest), but not this tree.
"""

import ast
import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastcomb as fc
from fastcomb.kernels import native

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
SWEEP = """
import json, warnings
import torch
import fastcomb as fc
from fastcomb.models import MLP

torch.manual_seed(0)
a, b = MLP((7, 20, 5)), MLP((7, 20, 5))
data = torch.randn(30, 7), torch.randint(0, 5, (30,))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    sweeps = [fc.evaluate(a, b, fc.Uniform(), data=data, n=9) for _ in range(2)]
print(json.dumps({
    "file": fc.__file__,
    "backend": sweeps[0].backend,
    "loss": sweeps[0].loss.tolist(),
    "notices": [str(one.message) for one in told],
}))
"""


def called(*command, cwd=ROOT, **variables):
    """Output of a command that has this environment's variables but for what leads to this tree."""
    ours = ("PYTHON", "FASTCOMB_")
    given = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(command, cwd=cwd, env={**given, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel built from it."""
    if native.extension() is None:
        pytest.skip("no compiler here")
    folder = tmp_path_factory.mktemp("dist")
    objects = str(ROOT / "build" / "objects")  # those of this installation
    called(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, FASTCOMB_OBJECTS=objects
    )
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture
def no_compiler(tmp_path):
    """Variables of a machine without any compiler."""
    nowhere = str(tmp_path / "nowhere")
    return {"CC": nowhere, "CXX": nowhere, "CUDA_HOME": nowhere, "PATH": nowhere}


def swept(wheel, folder, variables):
    """What a sweep gives in a fresh environment that the wheel was installed into."""
    venv.create(folder, with_pip=False, symlinks=True)
    (python,) = folder.glob("bin/python")
    called(*PIP, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    packages = called(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # after the environment's own; .pth files there, such as that of an editable fastcomb, are not read
    others = [path for path in sys.path if path.endswith("-packages")]
    (Path(packages) / "others.pth").write_text("\n".join(others) + "\n")
    found = json.loads(called(python, "-c", SWEEP, cwd=folder, **variables))
    assert Path(found["file"]).is_relative_to(packages)
    return found


def test_the_wheel_holds_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(built[1]).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"fastcomb"}
    assert "fastcomb/py.typed" in names
    assert [name for name in names if name.startswith("fastcomb/_native.")]
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("fastcomb/**/*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_the_sdist_holds_what_the_build_needs(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("csrc/**/*.*") if path.suffix != ".pyc"
    }
    assert sources | {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert not [
        name for name in names if name.startswith(("tests", "benchmarks", "csrc/__pycache__", "build"))
    ]


def test_without_a_compiler_the_wheel_has_the_engine_and_the_sdist_is_pure(built, no_compiler, tmp_path):
    sdist, wheel = built
    fast = swept(wheel, tmp_path / "fast", no_compiler)
    assert fast["backend"] == "native"
    assert fast["notices"] == []
    build = [*PIP, "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    called(*build, "--wheel-dir", tmp_path, sdist, cwd=tmp_path, **no_compiler)
    (pure,) = tmp_path.glob("*.whl")
    assert not [name for name in zipfile.ZipFile(pure).namelist() if name.endswith(".so")]
    plain = swept(pure, tmp_path / "plain", no_compiler)
    assert plain["backend"] == "torch_reference"
    (notice,) = plain["notices"]
    assert f"compiled engine is missing ({no_compiler['CXX']}: No such file or directory)" in notice
    assert "reinstall where there is a C++17 compiler" in notice
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)


def test_public_names_are_where_type_checkers_find_them():
    """The two lists of the package's own file, and its __all__, agree."""
    tree = ast.parse(Path(fc.__file__).read_text("utf-8"))
    (choice,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: (node.module or "").removeprefix("fastcomb").removeprefix(".") or alias.name
        for node in choice.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == fc._HOME_OF
    assert sorted(typed) == sorted(fc.__all__)
