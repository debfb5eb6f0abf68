"""What a Program computes from sizes and known tensors alone, such as masks and positions, computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fastcomb.program.ir import Node, Program, Value, Weight, multiple
from fastcomb.program.ops import index_samples
from fastcomb.program.rewrite import bags

#: Operations that look at nothing of their first argument but its shape and dtype.
_ALIKE = {name for kind in ("zeros", "ones", "full", "empty") for name in (f"{kind}_like", f"new_{kind}")}
#: Numbers of samples for which results are compared.
_COUNTS = (5, 4)


def folded_constants(program: Program, known: Mapping[str, Tensor] | None = None) -> Program:
    """The same function without operations whose result is the same for all inputs and weights.

    Their results become constants; what has a dimension of samples and is the same for each of them becomes
    a constant of one sample, expanded. Casts that change nothing go, and what nobody reads (assertions), and
    nothing that is put in front of something (caches of keys and values). Entries that every sample takes
    from itself, which torch spells with the samples' numbers, are named so (:func:`index_samples`).

    Args:
        program: the network.
        known: buffers that count as constants, by name.
    """
    program = _without_idle(program)
    known = dict(known or {})
    fixed = _fixed(program, known)
    several, fewer = (_values(program, known, count, fixed) for count in _COUNTS)
    program = _own_entries(program, several, fewer)

    def starts(name: str, each: int) -> bool:
        return name in several and all(
            torch.equal(values[name], torch.arange(0, each * count, each))
            for values, count in zip((several, fewer), _COUNTS, strict=True)
        )

    program = bags(program, starts)
    read = {name for node in program if node.name not in fixed for name in node.values}
    read.update(program.returned)
    constants: dict[str, Tensor] = {}
    literals: dict[str, Any] = {}
    replaced: dict[str, list[Node]] = {}
    for node in reversed(program.nodes):
        if node.name not in fixed or node.name not in read:
            continue
        one, other = several[node.name], fewer[node.name]
        if isinstance(one, (int, float, bool)) and type(one) is type(other) and one == other:
            literals[node.name] = one
            continue
        tensors = isinstance(one, Tensor) and isinstance(other, Tensor)
        nodes = _constant(program, node, one, other, constants) if tensors else None
        if nodes is None:  # it stays, and reads what it read
            read.update(node.values)
        else:
            replaced[node.name] = nodes
    kept_nodes = []
    for node in program:
        kept_nodes += replaced.get(node.name, [node] if node.name not in literals else [])
    nodes = [_substituted(node, literals) for node in kept_nodes]
    shapes = {**program.shapes, **{name: tuple(value.shape) for name, value in constants.items()}}
    kept = {**program.constants, **constants}
    program = dataclasses.replace(program, nodes=tuple(nodes), shapes=shapes, constants=kept)
    return _pruned(_without_nothing(program))


def _own_entries(program: Program, several: Mapping[str, Any], fewer: Mapping[str, Any]) -> Program:
    """With indices of samples by their own numbers, x[arange(N), i], as an operation of its own."""

    def counts(index: Any) -> bool:
        if not isinstance(index, Value) or index.name not in several:
            return False
        values = (several[index.name], fewer[index.name])
        return all(
            isinstance(value, Tensor) and torch.equal(value, torch.arange(count))
            for value, count in zip(values, _COUNTS, strict=True)
        )

    shapes = program.value_shapes
    nodes = []
    for node in program:
        if node.op == "index" and isinstance(node.arguments["self"], Value):
            first, *others = node.arguments["indices"]
            one_each = all(isinstance(i, Value) and shapes[i.name] == ("N",) for i in others)
            if others and one_each and counts(first) and shapes[node.arguments["self"].name][0] == "N":
                arguments = {str(i): v for i, v in enumerate([node.arguments["self"], *others])}
                node = dataclasses.replace(
                    node, op="index_samples", target=index_samples, arguments=arguments
                )
        nodes.append(node)
    return dataclasses.replace(program, nodes=tuple(nodes))


def _without_nothing(program: Program) -> Program:
    """Without empty operands of concatenations, and without concatenations of one operand."""
    shapes = program.value_shapes
    nodes = []
    for node in program:
        if node.op == "cat" and isinstance(node.arguments["tensors"], (list, tuple)):
            tensors = node.arguments["tensors"]
            some = [t for t in tensors if not isinstance(t, Value) or shapes[t.name] != (0,)]
            if len(some) == 1 and len(tensors) > 1 and isinstance(some[0], Value):
                arguments = {
                    "self": some[0],
                    "memory_format": torch.contiguous_format,
                }  # as cat's results are
                clone = torch.ops.aten.clone.default
                node = dataclasses.replace(node, op="identity", target=clone, arguments=arguments)
            elif some:
                node = dataclasses.replace(node, arguments={**node.arguments, "tensors": some})
        nodes.append(node)
    return dataclasses.replace(program, nodes=tuple(nodes))


def _fixed(program: Program, known: Mapping[str, Tensor]) -> set[str]:
    """Names of the values that no input's entries and no unknown weight have a part in."""
    fixed: set[str] = set()
    shapes = program.value_shapes
    for node in program:
        if node.op == "size":
            size = shapes[node.arguments["self"].name][node.arguments["dim"]]
            settled = isinstance(size, int) or multiple(size) is not None
        else:
            weights = all(w.kind == "constant" or w.name in known for w in node.weights)
            settled = weights and not node.random and all(name in fixed for name in node.values)
            source = _alike(node)
            if source is not None:
                sizes = shapes[source.name] if isinstance(source, Value) else ()
                others = [name for name in node.values if name != source.name]
                settled = all(name in fixed for name in others) and all(
                    isinstance(size, int) or multiple(size) is not None for size in sizes
                )
        if settled:
            fixed.add(node.name)
    return fixed


def _values(program: Program, state: Mapping[str, Tensor], samples: int, wanted: set[str]) -> dict[str, Any]:
    """Some values for a number of samples, by name."""
    shapes, found = program.value_shapes, dict[str, Any]()
    for node in program:
        if node.name in wanted and node.op == "size":
            size = shapes[node.arguments["self"].name][node.arguments["dim"]]
            each = multiple(size)
            found[node.name] = each * samples if each else size
        elif node.name in wanted:
            given, source = found, _alike(node)
            if source is not None:
                shape = shapes[source.name] if isinstance(source, Value) else program.shapes[source.name]
                sizes = [(multiple(n) or 1) * samples if isinstance(n, str) else n for n in shape]
                node = dataclasses.replace(node, arguments={**node.arguments, "self": Value("")})
                given = {**found, "": torch.empty(sizes, dtype=getattr(torch, node.dtype))}
            found[node.name] = program.apply(node, state, given)
    return found


def _alike(node: Node) -> Value | Weight | None:
    """What a node takes the shape of, where it takes nothing else."""
    schema = getattr(node.target, "_schema", None)
    source = node.arguments.get("self")
    known = schema is not None and schema.name.removeprefix("aten::") in _ALIKE
    return source if known and isinstance(source, (Value, Weight)) else None


def _constant(
    program: Program, node: Node, one: Tensor, other: Tensor, constants: dict[str, Tensor]
) -> list[Node] | None:
    """What a node that yields these for two numbers of samples is replaced by; None where it stays."""
    name = f"folded_{node.name}"
    if one.shape == other.shape and _same(one, other):
        constants[name] = one.clone()
        return [_reading(node, name)]
    places = [d for d, size in enumerate(node.shape) if isinstance(size, str)]
    if len(places) != 1 or node.shape[places[0]] != "N":
        return None
    (dim,) = places
    row = one.narrow(dim, 0, 1)
    if not _same(row.expand_as(one), one) or not _same(row.expand_as(other), other):
        return None
    constants[name] = row.clone()
    source = next(iter(program.inputs))
    count = f"{node.name}_samples"
    size = Node(
        count, "size", torch.ops.aten.sym_size.int, {"self": Value(source), "dim": 0}, (), "", node.calls
    )
    sizes = [Value(count) if d == dim else n for d, n in enumerate(node.shape)]
    arguments = {"self": Weight(name, "constant"), "size": sizes, "implicit": False}
    target = torch.ops.aten.expand.default
    return [size, dataclasses.replace(node, op="expand", target=target, arguments=arguments)]


def _reading(node: Node, name: str) -> Node:
    """A node that hands on a constant."""
    arguments = {"self": Weight(name, "constant")}
    return dataclasses.replace(node, op="identity", target=torch.ops.aten.alias.default, arguments=arguments)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(
        one.nan_to_num() if one.is_floating_point() else one,
        other.nan_to_num() if other.is_floating_point() else other,
    )


def _without_idle(program: Program) -> Program:
    """Without casts to the dtype that a value has already, and without what nobody reads."""
    kinds = {node.name: node.dtype for node in program}
    renamed: dict[str, Any] = {}
    nodes = []
    for node in program:
        node = _substituted(node, renamed)
        source = next(iter(node.arguments.values()), None)
        same = isinstance(source, Value) and kinds.get(source.name) == node.dtype
        if same and node.op == "cast" and node.name not in program.returned:
            renamed[node.name] = source
        else:
            nodes.append(node)
    return _pruned(dataclasses.replace(program, nodes=tuple(nodes)))


def _substituted(node: Node, others: Mapping[str, Any]) -> Node:
    """A node that reads others in the places of some values, by their names."""

    def one(leaf: Any) -> Any:
        return others.get(leaf.name, leaf) if isinstance(leaf, Value) else leaf

    return dataclasses.replace(node, arguments=tree_map(one, dict(node.arguments)))


def _pruned(program: Program) -> Program:
    """Without nodes whose result nobody reads."""
    needed = set(program.returned)
    kept = []
    for node in reversed(program.nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(node.values)
    nodes = tuple(reversed(kept))
    used = {weight.name for node in nodes for weight in node.weights}
    constants = {name: value for name, value in program.constants.items() if name in used}
    shapes = {n: s for n, s in program.shapes.items() if n in used or n not in program.constants}
    return dataclasses.replace(program, nodes=nodes, shapes=shapes, constants=constants)
