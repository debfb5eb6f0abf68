"""Parts of a network: the Program between one value and others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils._pytree import tree_leaves

from fastcomb.program.ir import Dimension, Node, Program, Value
from fastcomb.program.parts import counting


class SeveredError(ValueError):
    """A part needs values that its input does not determine, such as the other end of a skip connection.

    Attributes:
        values: their names in the Program.
    """

    def __init__(self, message: str, values: tuple[str, ...]) -> None:
        super().__init__(message)
        self.values = values


def between(program: Program, start: str | None, output: Any) -> Program:
    """The part of a network that computes some of its values from another.

    Args:
        program: the network.
        start: name of the value that the part takes, or None for the network's own inputs.
        output: a tree of :class:`Value`: what the part returns.

    Returns:
        a Program with the nodes that this takes, in order, and the weights that these read. The number of
        samples, where nodes read it off an earlier value, is read off ``start`` instead.

    Raises:
        SeveredError: the output depends on the network's input in other ways than through ``start``.
    """
    nodes = {node.name: node for node in program}
    shapes = program.value_shapes
    starts = set(program.inputs) if start is None else {start}
    fed = _reached(program, set(program.inputs))
    needed: set[str] = set()
    severed: list[str] = []
    pending = [leaf.name for leaf in tree_leaves(output) if isinstance(leaf, Value)]
    after = _reached(program, starts)
    while pending:
        name = pending.pop()
        if name in starts or name in needed:
            continue
        if name not in nodes or (name in fed and name not in after):
            severed.append(name)
            continue
        needed.add(name)
        if not _counts(nodes[name], shapes):
            pending += nodes[name].values
    if severed:
        order = [name for name in shapes if name in severed]
        raise SeveredError(
            f"what follows {start!r} also reads {', '.join(map(repr, order))}, which do not depend on it",
            tuple(order),
        )
    counted = next(iter(program.inputs)) if start is None else start
    kept = [
        counting(node, counted) if _counts(node, shapes) else node for node in program if node.name in needed
    ]
    used = {weight.name for node in kept for weight in node.weights}
    return Program(
        inputs=program.inputs if start is None else {start: shapes[start]},
        nodes=tuple(kept),
        output=output,
        shapes={name: shape for name, shape in program.shapes.items() if name in used},
        constants={name: value for name, value in program.constants.items() if name in used},
        aliases={alias: name for alias, name in program.aliases.items() if name in used},
        bound=program.bound,
    )


def _reached(program: Program, starts: set[str]) -> set[str]:
    """Values whose entries depend on those of ``starts``; the number of samples alone does not count."""
    shapes = program.value_shapes
    reached = set(starts)
    for node in program:
        if not _counts(node, shapes) and reached.intersection(node.values):
            reached.add(node.name)
    return reached


def _counts(node: Node, shapes: Mapping[str, tuple[Dimension, ...]]) -> bool:
    """Whether a node yields nothing but the number of samples."""
    return (
        node.op == "size" and node.arguments["dim"] == 0 and shapes[node.arguments["self"].name][:1] == ("N",)
    )
