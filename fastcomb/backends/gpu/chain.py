"""Networks that one kernel runs as a whole: chains of linear layers with what follows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastcomb.backends.base import Unsupported
from fastcomb.backends.gpu.stages import activation_of, is_mixed
from fastcomb.program import Node, Program, Value

#: Widest layer's outputs.
WIDEST = 128
ACTIVATIONS = {"": 0, "relu": 1, "gelu": 2, "gelu tanh": 3, "silu": 4}
NORMS = {"": 0, "batch_norm": 1, "layer_norm": 2}


@dataclass
class Link:
    """activation(norm(linear(x)) + an earlier result).

    Attributes:
        node: the linear layer.
        norm: the norm, or None.
        activation: of :data:`ACTIVATIONS`.
        save: whether the result is kept, to be added later.
        add: the link whose result is added, or None.
    """

    node: Node
    norm: Node | None = None
    activation: str = ""
    save: bool = False
    add: int | None = None


@dataclass
class Chain:
    """A network as a chain.

    Attributes:
        prefix: operations on the samples before any weight.
        start: the value that the first layer reads.
        links: the layers.
    """

    prefix: list[Node] = field(default_factory=list)
    start: str = ""
    links: list[Link] = field(default_factory=list)


def chain(program: Program, most: int) -> Chain:
    """The chain of a Program.

    Args:
        most: links that the kernel takes.

    Raises:
        Unsupported: it is none, or too wide; says what is in the way.
    """
    found = Chain()
    shared = set(program.inputs)
    current = ""  # the result of the last link so far
    results: dict[str, int] = {}  # links by the names of their results
    for node in program:
        if not found.links and not node.weights and set(node.values) <= shared:
            found.prefix.append(node)
            shared.add(node.name)
            continue
        if node.op == "linear":
            source = node.arguments["input"].name
            if source != current if found.links else source not in shared:
                raise Unsupported(f"the layer {node.name!r}, which does not follow the last, in one kernel")
            if found.links:
                results[current] = len(found.links) - 1
            else:
                found.start = source
            found.links.append(_link(program, node))
        elif not found.links or current not in node.values:
            raise Unsupported(f"the operation {node.op} in one kernel")
        elif node.op not in ("identity", "dropout"):
            _extend(program, found.links, node, current, results)
        current = node.name
    if not found.links or program.returned != (current,):
        raise Unsupported("a network that does not end with its last layer in one kernel")
    if len(found.links) > most:
        raise Unsupported(f"more than {most} layers in one kernel")
    for at, link in enumerate(found.links):
        if link.add is not None and any(one.save for one in found.links[link.add + 1 : at]):
            raise Unsupported("additions that overlap in one kernel")
    return found


def _link(program: Program, node: Node) -> Link:
    if not is_mixed(node):
        raise Unsupported("a linear layer whose weight is computed in one kernel")
    if program.shapes[node.arguments["weight"].name][0] > WIDEST:
        raise Unsupported(f"layers of more than {WIDEST} outputs in one kernel")
    if len(node.shape) != 2:
        raise Unsupported("layers over more than one dimension in one kernel")
    return Link(node)


def _extend(program: Program, links: list[Link], node: Node, current: str, results: dict[str, int]) -> None:
    """Put an operation on the result of the last link into it."""
    link = links[-1]
    plain = not link.activation and link.add is None
    activation = activation_of(node)
    if node.op in NORMS and plain and link.norm is None and _normalises(program, node, link.node):
        link.norm = node
    elif node.op == "add" and plain and node.arguments.get("alpha", 1) == 1:
        operands: list[Any] = [node.arguments["self"], node.arguments["other"]]
        other = [o.name for o in operands if isinstance(o, Value) and o.name != current]
        if len(other) != 1 or other[0] not in results:
            raise Unsupported("the addition of anything but an earlier layer's result in one kernel")
        link.add = results[other[0]]
        if links[link.add].node.shape != link.node.shape:
            raise Unsupported("an addition that broadcasts in one kernel")
        links[link.add].save = True
    elif activation and not link.activation:
        link.activation = activation
    else:
        raise Unsupported(f"the operation {node.op} there in one kernel")


def _normalises(program: Program, norm: Node, layer: Node) -> bool:
    """Whether a norm is over the layer's outputs."""
    if norm.op == "batch_norm":
        return True
    return tuple(norm.arguments["normalized_shape"]) == tuple(layer.shape[1:])
