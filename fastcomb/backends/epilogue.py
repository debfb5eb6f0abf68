"""Which operations after a layer its kernel does as well: on CPUs, in Triton and in CUDA C++."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from fastcomb.program import Node, Program, Value, Weight
from fastcomb.program.fold import channels_second


class Epilogue(NamedTuple):
    """activation(norm(layer) + residual): a layer with what follows it.

    Attributes:
        node: the layer.
        norm: the normalisation of its result, or None.
        residual: name of the value that is added then, or None.
        activation: "relu", "gelu", "gelu tanh" (approximated) or "silu"; "" for none.
        nodes: all of these nodes; the last one's result is the whole's.
    """

    node: Node
    norm: Node | None
    residual: str | None
    activation: str
    nodes: tuple[Node, ...]

    @property
    def last(self) -> Node:
        """The node whose result is that of the layer with all that follows it."""
        return self.nodes[-1]


def match_epilogue(
    program: Program,
    node: Node,
    *,
    norms: Collection[str],
    residual: Callable[[str], bool],
    activations: Collection[str],
    through: bool = False,
) -> Epilogue:
    """What follows a layer as far as a kernel can do it.

    Args:
        program: the network.
        node: the layer.
        norms: operations that may be taken in as its normalisation: "batch_norm" with running statistics,
            "layer_norm" over the outputs.
        residual: whether the kernel can add the value of this name: it is there by then, and lies as needed.
        activations: those that the kernel has.
        through: whether nodes that hand on what they are given may lie between; without, a result is rounded
            before each of them.
    """
    norm, added, activation = None, None, ""
    nodes = [node]
    for reader in program.followers(node):
        if through and is_nothing(reader):
            pass
        elif reader.op in norms and norm is None and added is None and _normalises(reader, node):
            norm = reader
        elif added is None and (addend := _addend(reader, nodes[-1])) and residual(addend):
            added = addend
        elif activation_of(reader) in activations:
            activation = activation_of(reader)
        else:
            break
        nodes.append(reader)
        if activation:
            break
    return Epilogue(node, norm, added, activation, tuple(nodes))


def is_nothing(node: Node) -> bool:
    """Whether a node hands on what it is given."""
    return node.op == "identity" or (node.op == "dropout" and not node.arguments["train"])


def _normalises(norm: Node, layer: Node) -> bool:
    """Whether a normalisation is over the layer's outputs, with statistics that are known beforehand."""
    if norm.op == "batch_norm":
        return channels_second(layer) and not norm.arguments["training"]
    return tuple(norm.arguments["normalized_shape"]) == tuple(layer.shape[1:])


def _addend(addition: Node, last: Node) -> str:
    """Name of what an addition adds to the result of ``last``, unscaled; "" for what is none."""
    if addition.op != "add" or addition.arguments.get("alpha", 1) != 1:
        return ""
    operands = (addition.arguments["self"], addition.arguments["other"])
    return next((o.name for o in operands if isinstance(o, Value) and o.name != last.name), "")


def activation_of(node: Node) -> str:
    """The activation that a node is, by the kernels' names; "" for other nodes."""
    if node.op == "gelu":
        return "gelu tanh" if node.arguments["approximate"] == "tanh" else "gelu"
    return node.op if node.op in ("relu", "silu") else ""


def is_mixed(layer: Node) -> bool:
    """Whether a layer's weight, and bias if it has one, are parameters themselves."""
    weights = (layer.arguments["weight"], layer.arguments["bias"])
    return all(isinstance(w, Weight) and w.kind == "parameter" for w in weights if w is not None)
