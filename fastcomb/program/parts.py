"""A Program in stretches that run in different ways, one after another."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fastcomb.program.ir import Dimension, Node, Program, Value, multiple
from fastcomb.program.samples import outermost

#: After the names of values that are handed over with their samples moved to the front.
MOVED = "_samples_first"


class Stretch(NamedTuple):
    """Successive operations that run in one way.

    Attributes:
        program: its inputs are network inputs or results of earlier stretches, samples first; it returns a
            list of values, the last stretch the network's own result.
        apart: whether these are the operations that were set apart.
    """

    program: Program
    apart: bool


class Uncut(ValueError):
    """A value that cannot be handed from one stretch to the next; the message says which."""


def stretches(program: Program, apart: Collection[str]) -> list[Stretch]:
    """The Program in as few stretches as its order allows, those of some nodes by themselves.

    Args:
        program: the network, whose inputs have their samples first.
        apart: names of nodes to be run in another way.

    Raises:
        Uncut: a value between two stretches mixes samples with another dimension.
    """
    levels = _levels(program, apart)
    shapes, rows = program.value_shapes, outermost(program)
    last = max((levels.get(name, 0) for name in program.returned), default=0)
    result = []
    for level in range(last + 1):
        own = {node.name: node for node in program if levels.get(node.name) == level}
        read = {value for node in own.values() for value in node.values if value in levels}
        given = [name for name in shapes if name in read - own.keys()]
        later = {value for node in program if levels.get(node.name, 0) > level for value in node.values}
        wanted = [name for name in own if name in later or name in program.returned]
        if not wanted:
            continue
        output: Any = program.output if level == last else [Value(name) for name in wanted]
        given = given or list(program.inputs)[:1]  # whose samples are counted
        made = part(program, wanted, {name: shapes[name] for name in given}, output)
        result.append(Stretch(_samples_first(made, level == last, set(program.inputs), rows), level % 2 == 1))
    return result


def _levels(program: Program, apart: Collection[str]) -> dict[str, int]:
    """Number of the stretch that each value with samples is in; those set apart have odd numbers.

    What is made of weights and constants alone has none: every stretch that reads it makes it.
    """
    levels = dict.fromkeys(program.inputs, 0)
    drawn: set[str] = set()  # what is set apart of weights alone, and lists; who reads them is apart too
    for node in program:
        odd = node.name in apart or bool(drawn.intersection(node.values))
        before = [levels[name] for name in node.values if name in levels]
        if node.dtype == "int64":  # views of whole numbers stay with what computed them
            odd = odd or any(level % 2 for level in before)
        if node.sizes or not before:
            drawn.update([node.name] if odd else [])
            continue
        levels[node.name] = max(before) + (max(before) % 2 != odd)
        if odd and not node.dtype:
            drawn.add(node.name)
    return levels


def _samples_first(program: Program, last: bool, inputs: Collection[str], rows: Collection[str]) -> Program:
    """With values handed over that have samples first, under another name where they had not."""
    before, after, renamed = [], [], {}
    given: dict[str, tuple[Dimension, ...]] = {}
    for name, shape in program.inputs.items():
        moved = None if name in inputs else _moved(name, shape, rows)
        given[_first(name) if moved else name] = moved.shape if moved else shape
        if moved:
            before.append(_view(name, _first(name), moved.back, shape))
    shapes = program.value_shapes
    for name in () if last else program.returned:
        moved = _moved(name, shapes[name], rows)
        if moved:
            after.append(_view(_first(name), name, moved.forth, moved.shape))
            renamed[name] = Value(_first(name))
    output = program.output
    if renamed:
        output = [renamed.get(name, Value(name)) for name in program.returned]
    if not before and not after:
        return program
    source = next(iter(given))
    nodes = [counting(node, source) if node.op == "size" else node for node in program.nodes]
    return dataclasses.replace(program, inputs=given, nodes=(*before, *nodes, *after), output=output)


def _first(name: str) -> str:
    return f"{name}{MOVED}"


class _Moved(NamedTuple):
    """How a value is handed over: its shape then, and the arguments of permute or reshape there and back."""

    shape: tuple[Dimension, ...]
    forth: dict[str, list[int]]
    back: dict[str, list[int]]


def _moved(name: str, shape: Sequence[Dimension], rows: Collection[str]) -> _Moved | None:
    """How a value gets its samples first; None where it has them there."""
    places = [d for d, size in enumerate(shape) if isinstance(size, str)]
    each = multiple(shape[places[0]]) if len(places) == 1 else None
    if each == 1:
        dim = places[0]
        order = [dim, *(d for d in range(len(shape)) if d != dim)]
        back = [order.index(d) for d in range(len(shape))]
        return _Moved(tuple(shape[d] for d in order), {"dims": order}, {"dims": back}) if dim else None
    if each is not None and places[0] == 0 and name in rows:
        others = [int(size) for size in shape[1:]]
        return _Moved(("N", each, *others), {"shape": [-1, each, *others]}, {"shape": [-1, *others]})
    raise Uncut(f"the value {name!r} of shape {'×'.join(map(str, shape))} between two stretches")


def _view(name: str, source: str, how: dict[str, list[int]], shape: tuple[Dimension, ...]) -> Node:
    op = "permute" if "dims" in how else "reshape"
    target = torch.ops.aten.permute.default if "dims" in how else torch.ops.aten.reshape.default
    return Node(name, op, target, {"self": Value(source), **how}, shape, "")


def part(
    program: Program, names: Sequence[str], inputs: Mapping[str, tuple[Dimension, ...]], output: Any
) -> Program:
    """What computes some values from others; numbers of samples are read off the first of those.

    Args:
        program: the network.
        names: of the values.
        inputs: names and shapes of what the part is given, samples first.
        output: what it returns, a tree of :class:`Value`.
    """
    source, shapes = next(iter(inputs)), program.value_shapes
    needed, kept = set(names), list[Node]()
    for node in reversed(program.nodes):
        if node.name not in needed or node.name in inputs:
            continue
        if node.op == "size":
            kept += reversed(_size(node, source, shapes))
        else:
            kept.append(node)
            needed.update(node.values)
    used = {weight.name for node in kept for weight in node.weights}
    constants = {name: value for name, value in program.constants.items() if name in used}
    return dataclasses.replace(
        program, inputs=dict(inputs), nodes=tuple(reversed(kept)), output=output, constants=constants
    )


def _size(node: Node, source: str, shapes: Mapping[str, tuple[Dimension, ...]]) -> list[Node]:
    """A size as a multiple of the number of samples of ``source``."""
    size = shapes[node.arguments["self"].name][node.arguments["dim"]]
    each = multiple(size)
    if each is None:
        raise Uncut(f"a dimension of {size} entries")
    count = counting(node, source)
    if each == 1:
        return [count]
    name = f"{node.name}_samples"
    factor = dataclasses.replace(
        node, op="size_arithmetic", target=operator.mul, arguments={"0": Value(name), "1": each}
    )
    return [dataclasses.replace(count, name=name), factor]


def counting(node: Node, source: str) -> Node:
    """A node that yields the number of samples of ``source``."""
    return dataclasses.replace(node, arguments={"self": Value(source), "dim": 0})
