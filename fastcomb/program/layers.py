"""Names for the places inside a network, so that they can be pointed at: its layers."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch.utils._pytree import tree_leaves

from fastcomb.program.ir import Dimension, Node, Program, Value

_NEAREST = 4

#: Operations that say where the channels of their result are.
_SECOND = {"conv1d", "conv2d", "conv3d", "batch_norm", "group_norm", "instance_norm"}
_LAST = {"linear", "layer_norm", "rms_norm", "embedding", "scaled_dot_product_attention"}
#: Operations that only look at a tensor differently.
VIEWS = {"reshape", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "expand"} | {
    "identity", "dropout", "select", "slice", "split", "chunk", "unbind", "item", "size", "size_arithmetic"
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """A place in a network: one value that it computes on the way.

    Attributes:
        name: of the innermost submodule whose output it is ("layer1.0.conv1", "layer1.0"), or else of the
            submodule that computes it and the operation ("layer1.0.add", the residual sum). Where a
            submodule is called, or an operation occurs, more than once, "@1", "@2", … tell them apart:
            "layer1.0.relu@1".
        aliases: its other names: of further submodules with the same output, of the operation, and of the
            value in the printed Program.
        value: its name in the Program.
        op: the operation that yields it.
        shape: the batch, "N", first.
        channels: the dimension of the units; a stitching layer acts along it, at every position alike.
    """

    name: str
    aliases: tuple[str, ...]
    value: str
    op: str
    shape: tuple[Dimension, ...]
    channels: int

    def __str__(self) -> str:
        return f"{self.name} {'×'.join(map(str, self.shape))}"


def layers(program: Program) -> tuple[Layer, ...]:
    """All layers of a captured network, in execution order.

    These are the tensors that it computes with the batch as their first dimension and at least one more.
    The dimension of channels is read off the operations (convolutions and batch norms have them second,
    linear layers and layer norms last) and carried along by those in between.
    """
    names: dict[str, list[str]] = {}
    modules = _module_names(program)
    for name, value in modules + _operation_names(program, {value for _, value in modules}):
        names.setdefault(value, []).append(name)
    channels = _channels(program)
    result = []
    for node in program:
        if len(node.shape) < 2 or node.shape[0] != "N":
            continue
        labels = list(dict.fromkeys([*names.get(node.name, ()), node.name]))
        result.append(
            Layer(labels[0], tuple(labels[1:]), node.name, node.op, node.shape, channels[node.name])
        )
    return tuple(result)


def find(program: Program, name: str) -> Layer:
    """The layer of this name.

    Raises:
        ValueError: there is none (near names are listed), or it is called several times.
    """
    known = {each: layer for layer in layers(program) for each in (layer.name, *layer.aliases)}
    calls = [each for each in known if each.rpartition("@")[0] == name]
    if calls:
        raise ValueError(f"layer {name!r} is called {len(calls)} times; choose one of {_listed(calls)}")
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, list(known), _NEAREST, cutoff=0.0)
    raise ValueError(f"the network has no layer {name!r}; the nearest are {_listed(near)}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _module_names(program: Program) -> list[tuple[str, str]]:
    """(name, value) of every call of a submodule that yields one tensor, inner ones first."""
    readers: dict[str, list[Node]] = {}
    for node in program:
        for value in node.values:
            readers.setdefault(value, []).append(node)
    returned = {leaf.name for leaf in tree_leaves(program.output) if isinstance(leaf, Value)}
    inside: dict[tuple[str, int], list[Node]] = {}
    for node in program:
        for call in node.calls:
            inside.setdefault(call, []).append(node)
    pairs = []
    count = Counter(name for name, _ in inside)
    for (name, number), nodes in inside.items():
        results = [
            node.name
            for node in nodes
            if node.shape
            and (
                node.name in returned
                or any((name, number) not in reader.calls for reader in readers.get(node.name, ()))
            )
        ]
        if len(results) == 1:
            pairs.append((f"{name}@{number + 1}" if count[name] > 1 else name, results[0]))
    return sorted(pairs, key=lambda pair: -pair[0].count("."))


def _operation_names(program: Program, results: set[str]) -> list[tuple[str, str]]:
    """(name, value) of operations: the submodule that they are in, and what they do.

    Operations that are all of a submodule have its name already, where they are among its ``results``.
    """

    def label(node: Node) -> str:
        if node.known:
            return node.op
        schema = getattr(node.target, "_schema", None)
        return str(schema.name).rpartition("::")[2] if schema else str(node.target)

    alone = Counter(node.calls for node in program)
    count = Counter((node.module, label(node)) for node in program)
    seen: Counter[tuple[str, str]] = Counter()
    pairs = []
    for node in program:
        key = (node.module, label(node))
        seen[key] += 1
        if alone[node.calls] == 1 and node.calls and node.name in results:
            continue
        name = ".".join(filter(None, key))
        pairs.append((f"{name}@{seen[key]}" if count[key] > 1 else name, node.name))
    return pairs


def _channels(program: Program) -> dict[str, int]:
    """Dimension of the channels of every value with two dimensions or more."""
    shapes = program.value_shapes
    axes = {name: _usual(len(shape)) for name, shape in program.inputs.items()}
    for node in program:
        rank = len(node.shape)
        source = next((v for v in node.values if len(shapes.get(v, ())) > 1), None)
        before = axes[source] if source else _usual(rank)
        if node.op in _SECOND:
            axis = 1
        elif node.op in _LAST:
            axis = rank - 1
        elif node.op == "permute":
            axis = [d % rank for d in node.arguments["dims"]].index(before)
        elif node.op == "transpose" and source:
            swap = _swapped(node, rank)
            axis = swap.get(before, before)
        elif source and before < rank and shapes[source][before] == node.shape[before]:
            axis = before
        else:
            axis = _usual(rank)
        axes[node.name] = axis
    return axes


def _swapped(node: Node, rank: int) -> dict[int, int]:
    pair = [node.arguments.get(f"dim{i}", node.arguments.get(f"axis{i}", i)) % rank for i in (0, 1)]
    return {pair[0]: pair[1], pair[1]: pair[0]}


def _usual(rank: int) -> int:
    return rank - 1 if rank == 3 else 1
