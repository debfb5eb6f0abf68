"""Networks that one kernel runs as a whole: chains of linear layers with their epilogues."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastcomb.backends.base import Unsupported
from fastcomb.backends.epilogue import Epilogue, is_mixed, is_nothing, match_epilogue
from fastcomb.program import Node, Program

#: Widest layer's outputs.
WIDEST = 128
_ACTIVATIONS = ("relu", "gelu", "gelu tanh", "silu")
_NORMS = ("batch_norm", "layer_norm")


@dataclass
class Link:
    """A linear layer of the chain.

    Attributes:
        epilogue: the layer, and what follows it.
        save: whether the result is kept, to be added later.
        add: the link whose result is added, or None.
    """

    epilogue: Epilogue
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


def match_mlp(program: Program, most: int) -> Chain:
    """The chain of a Program.

    Args:
        most: links that the kernel takes.

    Raises:
        Unsupported: it is none, or too wide; says what is in the way.
    """
    chain = Chain()
    shared = set(program.inputs)
    current = ""  # the result of the last link
    results: dict[str, int] = {}  # links by the names of their results
    taken: set[str] = set()  # nodes in the epilogue of a link
    for node in program:
        if not chain.links and not node.weights and set(node.values) <= shared:
            chain.prefix.append(node)
            shared.add(node.name)
        elif node.op == "linear":
            source = node.arguments["input"].name
            if source != current if chain.links else source not in shared:
                raise Unsupported(f"the layer {node.name!r}, which does not follow the last, in one kernel")
            chain.start = chain.start or source
            link = _link(program, node, chain.links, results)
            taken.update(one.name for one in link.epilogue.nodes)
            current = link.epilogue.last.name
            results[current] = len(chain.links)
            chain.links.append(link)
        elif node.name not in taken and is_nothing(node) and current in node.values:
            results[node.name] = results[current]
            current = node.name
        elif node.name not in taken:
            raise Unsupported(f"the operation {node.op} there in one kernel")
    if not chain.links or program.returned != (current,):
        raise Unsupported("a network that does not end with its last layer in one kernel")
    if len(chain.links) > most:
        raise Unsupported(f"more than {most} layers in one kernel")
    for at, link in enumerate(chain.links):
        if link.add is not None and any(one.save for one in chain.links[link.add + 1 : at]):
            raise Unsupported("additions that overlap in one kernel")
    return chain


def _link(program: Program, node: Node, links: list[Link], results: dict[str, int]) -> Link:
    """A linear layer with its epilogue as the next link; marks the link whose result it adds.

    Raises:
        Unsupported: the kernel cannot run the layer; the message says why.
    """
    if not is_mixed(node):
        raise Unsupported("a linear layer whose weight is computed in one kernel")
    if program.shapes[node.arguments["weight"].name][0] > WIDEST:
        raise Unsupported(f"layers of more than {WIDEST} outputs in one kernel")
    if len(node.shape) != 2:
        raise Unsupported("layers over more than one dimension in one kernel")

    def kept(name: str) -> bool:
        return name in results and links[results[name]].epilogue.node.shape == node.shape

    matched = match_epilogue(
        program, node, norms=_NORMS, residual=kept, activations=_ACTIVATIONS, through=True
    )
    link = Link(matched)
    if link.epilogue.residual is not None:
        link.add = results[link.epilogue.residual]
        links[link.add].save = True
    return link
