"""The C++ tests of csrc/tests, which call kernels without Python: built from kept objects, and run."""

import subprocess
from pathlib import Path

import pytest

setuptools = pytest.importorskip("setuptools")

from setuptools._distutils.ccompiler import new_compiler  # noqa: E402
from setuptools._distutils.sysconfig import customize_compiler  # noqa: E402

from csrc import objects  # noqa: E402

#: What the program is linked with: all but what Python calls.
LINKED = [name for name in objects.NATIVE if name.startswith("cpu/")] + ["schema"]


@pytest.mark.slow
def test_kernels_that_are_called_directly(tmp_path: Path) -> None:
    compiler = new_compiler()
    customize_compiler(compiler)
    command = compiler.compiler_so_cxx  # as setup.py compiles, so that its objects serve
    try:
        made = objects.native(["tests/test_kernels", *LINKED], command, [], "")
    except objects.NotCompiled as error:
        pytest.skip(f"no C++ compiler: {error}")
    program = tmp_path / "test_kernels"
    linked = subprocess.run(
        [command[0], "-pthread", "-o", program, *made], capture_output=True, text=True, check=False
    )
    assert linked.returncode == 0, linked.stderr
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[:4000]
    assert done.stdout == "0 checks failed\n"
