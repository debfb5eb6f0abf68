"""A network as an ordered list of operations over named values and weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves, tree_map

UNKNOWN = "unknown"

#: An integer, or the name of a symbol (the batch is "N") or expression for dimensions that vary.
Dimension = int | str

_MULTIPLE = re.compile(r"(?:(\d+)\*)?N")


def multiple(size: Dimension) -> int | None:
    """c of a dimension of c · N entries for N samples; None for other dimensions."""
    match = _MULTIPLE.fullmatch(str(size))
    return int(match[1] or 1) if match else None


@dataclass(frozen=True)
class Value:
    """What an input or a node yields, by name."""

    name: str


@dataclass(frozen=True)
class Weight:
    """A tensor that belongs to the network, by its name in the state dict.

    ``kind`` tells parameters, buffers, buffers that state dicts leave out ("transient"), and constants
    (tensors made in ``forward``).
    """

    name: str
    kind: Literal["parameter", "buffer", "transient", "constant"]


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: of the value it yields.
        op: canonical name, such as "linear" or "relu" (in-place and overloaded forms share one), or
            "unknown".
        target: the torch operator or Python function behind it.
        arguments: by the operator's own argument names, defaults filled in, with :class:`Value` and
            :class:`Weight` in the place of tensors.
        shape: of the result; () where it is not a single tensor.
        dtype: of the result, "" where it is not a single tensor.
        calls: the submodules that called it, outermost first: dotted name and number of the call (0 for the
            first); empty for the network itself.
    """

    name: str
    op: str
    target: Any
    arguments: Mapping[str, Any]
    shape: tuple[Dimension, ...]
    dtype: str
    calls: tuple[tuple[str, int], ...] = ()

    @property
    def module(self) -> str:
        """Dotted name of the submodule that called it, "" for the network itself."""
        return self.calls[-1][0] if self.calls else ""

    def call(self, arguments: dict[str, Any]) -> Any:
        """Result for arguments by name, in their order; none of their tensors changes."""
        if not hasattr(self.target, "_schema"):
            return self.target(*arguments.values())
        written = {a.name for a in self.target._schema.arguments if a.alias_info and a.alias_info.is_write}
        return self.target(
            **{name: value.clone() if name in written else value for name, value in arguments.items()}
        )

    def __getstate__(self) -> dict[str, Any]:
        """With an operator by its name, since torch's operators cannot be pickled."""
        if isinstance(self.target, OpOverload):
            return {**self.__dict__, "target": (*self.target.name().split("::"), self.target._overloadname)}
        return self.__dict__

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.target, tuple):
            namespace, name, overload = self.target
            packet = getattr(getattr(torch.ops, namespace), name.partition(".")[0])
            self.__dict__["target"] = getattr(packet, overload)

    @property
    def known(self) -> bool:
        """Whether the operation is among those that have a canonical name."""
        return self.op != UNKNOWN

    @property
    def label(self) -> str:
        """What it does, for people: the canonical name, or torch's own of what has none."""
        return self.op if self.known else str(self.target)

    @property
    def sizes(self) -> bool:
        """Whether it yields a dimension, or a number made of such, instead of entries."""
        return self.op in ("size", "size_arithmetic")

    @property
    def random(self) -> bool:
        """Whether it draws random numbers."""
        return torch.Tag.nondeterministic_seeded in getattr(self.target, "tags", ())

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values it reads."""
        return tuple(leaf.name for leaf in tree_leaves(self.arguments) if isinstance(leaf, Value))

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The weights it reads."""
        return tuple(leaf for leaf in tree_leaves(self.arguments) if isinstance(leaf, Weight))


@dataclass(frozen=True, eq=False)
class Program:
    """A network captured once: what backends execute, re-basin reads symmetries off and stitching cuts.

    Attributes:
        inputs: names of the input values, with their shapes.
        nodes: operations in execution order.
        output: the result, a tree of :class:`Value` (usually just one).
        shapes: shape of every weight by name.
        constants: values of the tensors made in ``forward``, by name.
        aliases: further names of tied parameters → the first, under which they appear in the nodes.
        bound: why it holds for some numbers of samples only; "" where the number is free.
    """

    inputs: Mapping[str, tuple[Dimension, ...]]
    nodes: tuple[Node, ...]
    output: Any
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Tensor] = field(repr=False)
    aliases: Mapping[str, str]
    bound: str = ""

    def __deepcopy__(self, memo: object) -> Program:
        return self

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def value_shapes(self) -> dict[str, tuple[Dimension, ...]]:
        """Shapes of the inputs and of every node's result by name."""
        return {**self.inputs, **{node.name: node.shape for node in self.nodes}}

    @property
    def unknown(self) -> tuple[Node, ...]:
        """Nodes that were captured but are not among the known operations."""
        return tuple(node for node in self.nodes if not node.known)

    def run(self, state: Mapping[str, Tensor], *inputs: Any) -> Any:
        """Execute with the weights of a state dict: the meaning of a Program.

        Args:
            state: parameters and buffers by name (tied ones under any of their names' first).
            *inputs: one tensor per input.

        Returns:
            what the captured module returns.
        """
        values: dict[str, Any] = dict(zip(self.inputs, inputs, strict=True))
        for node, done in zip(self.nodes, self._done, strict=True):
            values[node.name] = self.apply(node, state, values)
            for name in done:  # so that memory holds only what is still to be read
                del values[name]
        return tree_map(lambda leaf: values[leaf.name] if isinstance(leaf, Value) else leaf, self.output)

    @cached_property
    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each value, by its name."""
        readers: dict[str, list[Node]] = {name: [] for name in self.value_shapes}
        for node in self.nodes:
            for name in dict.fromkeys(node.values):
                readers[name].append(node)
        return readers

    @cached_property
    def returned(self) -> tuple[str, ...]:
        """Names of the values that the network returns."""
        return tuple(leaf.name for leaf in tree_leaves(self.output) if isinstance(leaf, Value))

    def followers(self, node: Node) -> Iterator[Node]:
        """The node that alone reads the result of ``node``, and only once; the one that does its; …"""
        while node.name not in self.returned and len(self.readers[node.name]) == 1:
            (reader,) = self.readers[node.name]
            if reader.values.count(node.name) != 1:
                return
            yield reader
            node = reader

    @cached_property
    def _done(self) -> list[list[str]]:
        """For each node, the values that nothing after it reads."""
        later = set(self.returned)
        done = []
        for node in reversed(self.nodes):
            done.append([name for name in dict.fromkeys((*node.values, node.name)) if name not in later])
            later.update(node.values)
        return done[::-1]

    def values(self, state: Mapping[str, Tensor], *inputs: Any) -> dict[str, Any]:
        """As :meth:`run`, returning the inputs and every node's result by name.

        Constants too are taken from ``state`` where it has them.
        """
        values: dict[str, Any] = dict(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            values[node.name] = self.apply(node, state, values)
        return values

    def apply(self, node: Node, state: Mapping[str, Tensor], values: Mapping[str, Any]) -> Any:
        """Result of one node, given the inputs and the results of those before it by name."""
        return node.call(self.resolved(node, state, values))

    def resolved(self, node: Node, state: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
        """What a node is called with, given the inputs and the results of those before it by name."""

        def resolve(leaf: Any) -> Any:
            if isinstance(leaf, Value):
                return values[leaf.name]
            if isinstance(leaf, Weight):
                return state[leaf.name] if leaf.name in state else self.constants[leaf.name]
            return leaf

        arguments: dict[str, Any] = tree_map(resolve, dict(node.arguments))
        return arguments

    def __str__(self) -> str:
        rows = [("value", "operation", "reads", "weights", "shape", "in module")]
        rows += [(name, "input", "", "", _shape(shape), "") for name, shape in self.inputs.items()]
        for node in self.nodes:
            op = node.op if node.known else f"? {node.target}"
            weights = ", ".join(weight.name for weight in node.weights)
            rows.append((node.name, op, ", ".join(node.values), weights, _shape(node.shape), node.module))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        lines.append(
            f"returns {', '.join(self.returned)}; {len(self)} operations, {len(self.unknown)} unknown"
        )
        return "\n".join(lines)


def _shape(shape: tuple[Dimension, ...]) -> str:
    return "×".join(str(size) for size in shape)
