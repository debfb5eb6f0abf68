"""The examples in docstrings run, and whatever is public has one.

An example may use ``fc``, ``torch``, ``np`` and ``nn``, and what :func:`shared` makes. It runs in a folder of
its own, and prints what is the same on every processor: shapes, counts, comparisons, numbers that are known.
"""

import doctest
import inspect
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

import fastcomb as fc

#: Public classes without an example: what functions return, and base classes. ``Ray`` needs a cluster.
WITHOUT = {
    "fastcomb": (
        "BackendNotice Barrier Comparison Decided Diversity Interval MeanEstimate Program Proportion "
        "RareFraction Ray Robustness Sampler ScalarSampler Sweep Transitivity"
    ),
    "fastcomb.rebasin": "Alignment Group Member Method Symmetries",
    "fastcomb.similarity": "Layerwise",
    "fastcomb.stitching": "Cut Direct Gathered Scores Stitched StitchingLayer Trained",
}

#: Methods that have one too.
METHODS = {
    "fastcomb.Density": "band kde quantile",
    "fastcomb.Mixture": "coefficients functional_call",
    "fastcomb.Sweep": "best density fraction_below rebuild summary",
}


def public() -> dict[str, object]:
    """Public functions and classes by their dotted names."""
    found = {}
    for place in (fc, fc.rebasin, fc.similarity, fc.stitching):
        named = ((f"{place.__name__}.{name}", getattr(place, name)) for name in place.__all__)
        found |= {name: value for name, value in named if inspect.isroutine(value) or inspect.isclass(value)}
    return found


def members(cls: type, others: set[type]) -> Iterator[tuple[str, object]]:
    """Methods and properties that a class defines, or inherits from classes that are not public."""
    for base in cls.__mro__:
        if base is cls or (base.__module__.startswith("fastcomb.") and base not in others):
            for name, value in vars(base).items():
                if not name.startswith("_") and (inspect.isroutine(value) or inspect.isdatadescriptor(value)):
                    yield name, value


def examples() -> dict[str, doctest.DocTest]:
    """The examples of what is public, and of public classes' methods, by their dotted names."""
    objects = public()
    classes = {name: value for name, value in objects.items() if inspect.isclass(value)}
    for name, cls in classes.items():
        for member, value in members(cls, set(classes.values())):
            objects.setdefault(f"{name}.{member}", value)
    finder = doctest.DocTestFinder(recurse=False, exclude_empty=True)
    documented = {name: value for name, value in objects.items() if ">>>" in (value.__doc__ or "")}
    return {name: test for name, value in documented.items() for test in finder.find(value, name)}


def shared() -> dict[str, object]:
    """Two networks ``a`` and ``b``, inputs ``x`` [100, 4], and ``y`` [100], the classes that a predicts."""
    torch.manual_seed(1)
    a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval() for _ in range(2))
    with torch.no_grad():
        for weight in (*a.parameters(), *b.parameters()):
            weight *= 3  # surer of the classes than new networks are
    x = torch.rand(100, 4) * 2 - 1
    return {"a": a, "b": b, "x": x, "y": a(x).argmax(1)}


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = EXAMPLES[name]
    test.globs = {"fc": fc, "torch": torch, "np": np, "nn": nn} | shared()
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not result.failed, "".join(said)


def test_whatever_is_public_has_an_example():
    wanted = public().keys() | {f"{cls}.{name}" for cls, names in METHODS.items() for name in names.split()}
    excused = {f"{place}.{name}" for place, names in WITHOUT.items() for name in names.split()}
    assert sorted(wanted - excused - EXAMPLES.keys()) == []
    assert sorted(excused & EXAMPLES.keys()) == []
    assert excused <= wanted
