"""A Program in two: what depends on the inputs alone, computed once for all combinations, and the rest."""

from __future__ import annotations

from collections.abc import Mapping

from fastcomb.program.ir import Dimension, Node, Program, Value
from fastcomb.program.parts import part

#: Operations whose result is part of the rest although it reads no mixed weight: its statistics may be mixed.
_MIXED = {"batch_norm"}


class Undivided(ValueError):
    """An input without the samples as its first dimension; the message says which."""


def divided(program: Program) -> tuple[Program, Program]:
    """What depends on inputs and buffers alone, and the rest, whose inputs are the first one's results.

    Every result of the first part has the samples as its first dimension. Views that repeat entries, and
    what depends on no input's entries, belong to the rest.

    Args:
        program: the network.

    Returns:
        the Program of the inputs, which returns a list of values, and the Program from those to the result.

    Raises:
        Undivided: an input that the rest reads has not the samples as its first dimension.
    """
    shapes = program.value_shapes
    nodes = {node.name: node for node in program}
    sizes = {node.name for node in program if node.sizes}
    banned: set[str] = set()
    while True:
        free = _free(program, banned)
        rest = [node for node in program if node.name not in free]
        read = [n for node in rest if node.name not in sizes for n in node.values]
        read += program.returned
        border = [name for name in shapes if name in free and name in read]
        faults = [name for name in border if not _divisible(name, nodes, shapes)]
        if not faults:
            break
        for name in faults:
            if name in program.inputs:
                raise Undivided(f"the input {name!r}, of shape {'×'.join(map(str, shapes[name]))}")
        banned.update(faults)
    before = part(program, border, dict(program.inputs), [Value(name) for name in border])
    inputs = {name: shapes[name] for name in border} or dict(program.inputs)
    return before, part(program, list(program.returned), inputs, program.output)


def _free(program: Program, banned: set[str]) -> set[str]:
    """Values that depend on inputs' entries, and on no parameter."""
    free = set(program.inputs)
    sizes = {node.name for node in program if node.sizes}
    settled: set[str] = set()  # what depends on no input either
    for node in program:
        weights = any(w.kind == "parameter" for w in node.weights)
        reads = [name for name in node.values if name not in sizes]
        if node.name in sizes or weights or node.random or node.op in _MIXED or node.name in banned:
            continue
        if not reads or all(name in settled for name in reads):
            settled.add(node.name)
        elif all(name in free or name in settled for name in reads):
            free.add(node.name)
    return free


def _divisible(name: str, nodes: Mapping[str, Node], shapes: Mapping[str, tuple[Dimension, ...]]) -> bool:
    """Whether a value can be handed over in blocks of samples."""
    shape = shapes[name]
    if not shape or shape[0] != "N" or sum(isinstance(size, str) for size in shape) != 1:
        return False
    return name not in nodes or nodes[name].op != "expand"
