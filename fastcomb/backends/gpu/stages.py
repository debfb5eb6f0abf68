"""Which nodes the kernel of a layer takes in."""

from __future__ import annotations

from typing import NamedTuple

from fastcomb.program import Node, Program, Value, Weight
from fastcomb.program.fold import channels_second


class Stage(NamedTuple):
    """A linear layer or convolution, with what follows it.

    Attributes:
        node: the layer.
        norm: batch norm on its result.
        residual: name of the value that is added then, or None.
        activation: one of the kernels' (``fastcomb.kernels.triton.epilogue``), "" for none.
        nodes: all of these nodes; the last one's result is the stage's.
    """

    node: Node
    norm: Node | None
    residual: str | None
    activation: str
    nodes: tuple[Node, ...]

    @property
    def last(self) -> Node:
        return self.nodes[-1]


def stages(program: Program, *, norms: bool) -> dict[str, Stage]:
    """Stages by the name of their layer, in the Program's order.

    Args:
        norms: whether batch norms may be taken in; not while their statistics are collected.
    """
    order = {name: at for at, name in enumerate(program.value_shapes)}
    return {node.name: _stage(program, node, order, norms) for node in program if _is_layer(node)}


def _is_layer(node: Node) -> bool:
    """Whether the kernels run it: mixed weights, one group of channels, padding in numbers."""
    if node.op not in ("linear", "conv2d"):
        return False
    plain = node.op == "linear" or (
        node.arguments["groups"] == 1 and not isinstance(node.arguments["padding"], str)
    )
    return is_mixed(node) and plain


def is_mixed(layer: Node) -> bool:
    """Whether a layer's weight, and bias if it has one, are parameters themselves."""
    weights = (layer.arguments["weight"], layer.arguments["bias"])
    return all(isinstance(w, Weight) and w.kind == "parameter" for w in weights if w is not None)


def _stage(program: Program, node: Node, order: dict[str, int], norms: bool) -> Stage:
    norm, residual, activation = None, None, ""
    nodes = [node]
    for reader in program.followers(node):
        fits = len(nodes) == 1 and channels_second(node)
        if reader.op == "batch_norm" and norms and fits and not reader.arguments["training"]:
            norm = reader
        elif residual is None and (addend := _addend(program, reader, nodes[-1], node, order)):
            residual = addend
        elif not (activation := activation_of(reader)):
            break
        nodes.append(reader)
        if activation:
            break
    return Stage(node, norm, residual, activation, tuple(nodes))


def _addend(program: Program, addition: Node, last: Node, node: Node, order: dict[str, int]) -> str:
    """What an addition adds to ``last``, if the layer ``node`` can: it is there by then; else ""."""
    if addition.op != "add":
        return ""
    other = next(
        (
            argument
            for argument in (addition.arguments["self"], addition.arguments["other"])
            if isinstance(argument, Value) and argument.name != last.name
        ),
        None,
    )
    if other is None or addition.arguments.get("alpha", 1) != 1 or order[other.name] > order[node.name]:
        return ""
    return other.name if program.value_shapes[other.name] == node.shape else ""


def activation_of(node: Node) -> str:
    """The activation that a node is, by the kernels' names; "" for other nodes."""
    if node.op == "gelu":
        return "gelu tanh" if node.arguments["approximate"] == "tanh" else "gelu"
    return node.op if node.op in ("relu", "silu") else ""
