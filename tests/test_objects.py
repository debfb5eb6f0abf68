"""Objects are made once for what they are made of: with a compiler that counts its calls."""

import sys

import pytest

from csrc import objects

COMPILER = """
import pathlib, sys
log = pathlib.Path(__file__).with_name("log")
if "--version" in sys.argv:
    print(pathlib.Path(__file__).with_name("version").read_text())
elif "broken" in pathlib.Path(sys.argv[-3]).read_text():
    sys.exit("x.cpp: In function f:\\nx.cpp:1:1: error: broken")
else:
    log.write_text(log.read_text() + "called ")
    pathlib.Path(sys.argv[-1]).write_text("object")
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A tree with one source, which includes a header through another."""
    (tmp_path / "csrc" / "deep").mkdir(parents=True)
    for name, text in {
        "csrc/deep/x.cpp": '#include "near.h"\n#include <vector>\n',
        "csrc/deep/near.h": '#  include "far.h"\n',
        "csrc/far.h": "int f();\n",
        "csrc/other.h": "int g();\n",
        "compiler.py": COMPILER,
        "version": "1",
        "log": "",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(objects, "ROOT", tmp_path)
    monkeypatch.delenv("FASTCOMB_OBJECTS", raising=False)
    objects._version.cache_clear()
    yield tmp_path
    objects._version.cache_clear()


def made(tree, *flags, source="csrc/deep/x.cpp", includes=(), versions=""):
    before = (tree / "log").read_text()
    command = [sys.executable, str(tree / "compiler.py"), *flags]
    path = objects.compiled(command, source, includes, versions)
    assert path.read_text() == "object"
    return path, (tree / "log").read_text() != before


def test_nothing_is_compiled_twice(tree):
    first, compiled = made(tree)
    assert compiled
    (tree / "csrc/other.h").write_text("int changed();\n")
    # folders of headers may lie elsewhere; nothing of pybind11 is included
    assert made(tree, includes=["/elsewhere"], versions="2") == (first, False)
    assert [path.name for path in first.parent.iterdir()] == [first.name]


@pytest.mark.parametrize("name", ["csrc/deep/x.cpp", "csrc/deep/near.h", "csrc/far.h"])
def test_a_change_of_a_source_or_of_a_header_compiles_anew_and_back_again_does_not(tree, name):
    first, _ = made(tree)
    text = (tree / name).read_text()
    (tree / name).write_text(text + "// changed\n")
    other, compiled = made(tree)
    assert compiled
    assert other != first
    (tree / name).write_text(text)
    assert made(tree) == (first, False)


def test_flags_and_versions_count(tree, monkeypatch):
    (tree / "csrc/far.h").write_text("#include <pybind11/pybind11.h>\n")
    paths = {made(tree)[0], made(tree, "-O2")[0], made(tree, versions="pybind11 4")[0]}
    monkeypatch.setenv("CPATH", "/more/headers")
    paths.add(made(tree)[0])
    monkeypatch.delenv("CPATH")
    (tree / "version").write_text("2")
    objects._version.cache_clear()
    paths.add(made(tree)[0])
    assert len(paths) == 5


def test_a_failure_is_said_in_the_compilers_words_and_leaves_nothing(tree):
    (tree / "csrc/deep/x.cpp").write_text("broken")
    with pytest.raises(objects.NotCompiled, match=r"^x\.cpp:1:1: error: broken$"):
        made(tree)
    assert list((tree / "build/objects").iterdir()) == []
    with pytest.raises(objects.NotCompiled, match=r"^nowhere: No such file or directory$"):
        objects.compiled(["nowhere"], "csrc/deep/x.cpp")


def test_the_order_of_objects_is_that_of_the_names(tree):
    for name in "abc":
        (tree / f"csrc/{name}.cpp").write_text(f"// {name}")
    command = [sys.executable, str(tree / "compiler.py")]
    found = objects.native("cab", command, [], "")
    assert [path.name[0] for path in found] == ["c", "a", "b"]
