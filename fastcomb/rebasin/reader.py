"""Following axes through a Program: which entries an operation equates, bundles or pins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from fastcomb.program import Node, Program, Value, Weight
from fastcomb.program.ir import Dimension
from fastcomb.rebasin.atoms import Atoms, Found, Ids, Place, Seen
from fastcomb.rebasin.axes import (
    Axes,
    Axis,
    Block,
    Factor,
    ViewError,
    blocks,
    is_plain,
    plain,
    refine,
    replace,
    size_of,
    times,
)

Result = Axes | list[Axes] | None
Rule = Callable[["Reader", Node], Result]

#: Operations whose inputs and results count as activations.
LAYERS = frozenset("linear conv1d conv2d conv3d matmul bmm einsum scaled_dot_product_attention".split())

#: Tensors that a permuted state dict cannot change.
_FIXED = {"constant": "constant", "transient": "buffer, which state dicts leave out,"}

OUTPUT = "output of the network"
INPUT = "input of the network"


class Reader:
    """Walks a Program; ``rules`` say per operation what it does to the axes of its arguments."""

    def __init__(self, program: Program, rules: dict[str, Rule]) -> None:
        self.program = program
        self.rules = rules
        self.atoms = Atoms()
        self._weights: dict[str, Axes] = {}
        self._pieces: dict[str, list[Ids]] = {}
        self._values: dict[str, Axes | list[Axes]] = {n: plain(s) for n, s in program.inputs.items()}
        self._shapes: dict[str, tuple[Dimension, ...]] = dict(program.inputs)

    def read(self) -> tuple[list[Found], dict[tuple[str, int], str]]:
        for node in self.program:
            self._shapes[node.name] = node.shape
            self._values[node.name] = self._follow(node)
        for leaf in tree_leaves(self.program.output):
            self.pin(self.axes(leaf) or (), OUTPUT)
        layers = [node for node in self.program if node.op in LAYERS]
        for name in dict.fromkeys(name for node in layers for name in (*node.values, node.name)):
            self._see(name)
        return self.atoms.groups()

    def _see(self, name: str) -> None:
        """Note where a value holds the activations of a block."""
        axes = self.axes(Value(name)) or ()
        for block in blocks(axes):
            dims = tuple(d for d, axis in enumerate(axes) if any(f.block is block for f in axis))
            factors = [factor for d in dims for factor in axes[d]]
            order = [factor.dim for factor in factors if factor.block is block]
            if len(order) == block.ids.ndim and not any(factor.size[1] for factor in factors):
                shape = [factor.size[0] for factor in factors]
                own = [size if f.block is block else 1 for size, f in zip(shape, factors, strict=True)]
                columns = np.broadcast_to(block.ids.transpose(order).reshape(own), shape)
                self.atoms.see(Seen(name, dims), columns.reshape(-1))

    def _follow(self, node: Node) -> Axes | list[Axes]:
        rule = self.rules.get(node.op) or self.rules.get(base_name(node.target))
        if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
            rule = self.rules["pointwise"]
        try:
            result = rule(self, node) if rule else None
        except ViewError:
            result = None
        if isinstance(result, tuple) and not _fits(result, node.shape):
            result = None
        if result is None:
            for leaf in tree_leaves(node.arguments):
                self.pin(self.axes(leaf) or (), f"operation {node.target} of {node.name} is not understood")
            return plain(node.shape)
        return result

    def axes(self, leaf: object) -> Axes | None:
        """Axes of an argument, None where it is no tensor."""
        if isinstance(leaf, Value):
            found = self._values[leaf.name]
            return found if isinstance(found, tuple) else None
        if not isinstance(leaf, Weight):
            return None
        if leaf.name not in self._weights:
            axes = []
            for dim, size in enumerate(self.program.shapes[leaf.name]):
                ids = self.atoms.new(size)
                axes.append((Factor((size, ()), Block(ids)),) if size != 1 else ())
                if size > 1 and leaf.kind in ("parameter", "buffer"):
                    self.atoms.place(Place(leaf.name, dim, None), ids)
                elif size > 1:
                    self.atoms.pin(ids, f"meets the {_FIXED[leaf.kind]} {leaf.name}")
            self._weights[leaf.name] = tuple(axes)
        return self._weights[leaf.name]

    def several(self, leaf: object) -> list[Axes] | None:
        """Axes of each result of an operation with several."""
        found = self._values[leaf.name] if isinstance(leaf, Value) else None
        return found if isinstance(found, list) else None

    def of(self, node: Node, name: str) -> Axes:
        """Axes of an argument that is a tensor."""
        axes = self.axes(node.arguments[name])
        if axes is None:
            raise ViewError
        return axes

    def first(self, node: Node) -> Axes:
        """Axes of the first argument."""
        return self.of(node, next(iter(node.arguments)))

    def shape(self, leaf: object) -> tuple[Dimension, ...]:
        if isinstance(leaf, Weight):
            return self.program.shapes[leaf.name]
        assert isinstance(leaf, Value)
        return self._shapes[leaf.name]

    def pin(self, axes: Iterable[Axis], reason: str) -> None:
        for block in blocks(axes):
            self.atoms.pin(block.ids, reason)

    def in_rows(self, leaf: Weight, count: int) -> list[Ids]:
        """Atoms of dimension 1 of a weight, different ones for each of ``count`` blocks of its rows."""
        if leaf.name not in self._pieces:
            rows, columns = self.program.shapes[leaf.name][:2]
            self.pin((self.axes(leaf) or ())[1:2], "used in groups and otherwise")
            self.atoms.forget(Place(leaf.name, 1, None))
            pieces = [self.atoms.new(columns) for _ in range(count)]
            for i, ids in enumerate(pieces if columns > 1 else ()):
                low, high = i * rows // count, (i + 1) * rows // count
                self.atoms.place(Place(leaf.name, 1, (low, high)), ids)
            self._pieces[leaf.name] = pieces
        return self._pieces[leaf.name]

    def meet(self, one: Axes, other: Axes, pairs: Sequence[tuple[int, int]], reason: str = INPUT) -> None:
        """Equate axes of two values entry by entry, as in a sum or a contraction.

        All axes that meet in an operation go into one call: a block that meets another as a whole is
        equated as a whole, one of which only some dimensions meet is bundled along them.
        """
        for i, j in pairs:
            if not (is_plain(one[i]) and is_plain(other[j])):
                try:
                    one, other = refine(one, i, other, j)
                except ViewError:
                    self.pin((one[i], other[j]), "sizes that do not fit each other")
        matched = [
            pair
            for i, j in pairs
            if len(one[i]) == len(other[j])
            for pair in zip(one[i], other[j], strict=True)
        ]
        self._equate(matched, reason)

    def _equate(self, matched: list[tuple[Factor, Factor]], reason: str) -> None:
        partners: dict[int, dict[int, Factor]] = {}
        owned: dict[int, Block] = {}
        for a, b in matched:
            for one, other in ((a, b), (b, a)):
                if one.block is not None:
                    owned[id(one.block)] = one.block
                    partners.setdefault(id(one.block), {})[one.dim] = other
        done: set[int] = set()
        for key, block in owned.items():
            if key in done:
                continue
            others = partners[key]
            target = next(iter(others.values())).block
            if (
                target is not None
                and len(others) == block.ids.ndim == target.ids.ndim
                and all(other.block is target for other in others.values())
            ):
                order = [others[d].dim for d in range(block.ids.ndim)]
                self._union(block.ids, target.ids.transpose(order))
                done |= {key, id(target)}
        for a, b in matched:
            if a.block is None and b.block is None:
                continue
            if {id(x.block) for x in (a, b) if x.block is not None} <= done:
                continue
            both = [(f.block, f.dim) for f in (a, b) if f.block is not None]
            if len(both) == 2:
                self._union(
                    *(self.carriers(block, [dim], len(partners[id(block)]) > 1) for block, dim in both)
                )
            else:
                lone = a if a.block is not None else b
                assert lone.block is not None
                free = [d for d in range(lone.block.ids.ndim) if d not in partners[id(lone.block)]]
                others_tied = any(f.block is not None for f in partners[id(lone.block)].values())
                if free:
                    self.carriers(lone.block, free, True)
                elif not others_tied:
                    self.atoms.pin(lone.block.ids, reason)

    def _union(self, one: Ids, other: Ids) -> None:
        if one.size != other.size:
            raise ViewError
        self.atoms.union(one, other)

    def carriers(self, block: Block, keep: list[int], frozen: bool) -> Ids:
        """Atoms [..] along the kept dimensions of a block, each carrying what lies behind it."""
        if len(keep) == block.ids.ndim:
            return block.ids.transpose(keep).reshape(-1) if len(keep) == 1 else block.ids.transpose(keep)
        rest = [d for d in range(block.ids.ndim) if d not in keep]
        shape = tuple(block.ids.shape[d] for d in keep)
        rows = block.ids.transpose(keep + rest).reshape(int(np.prod(shape)), -1)
        return self.atoms.bundle(rows, frozen=frozen).reshape(shape)

    def contract(self, axes: Axes, dims: Iterable[int]) -> Axes:
        """Axes left when some are summed over; what was summed stays bundled in what is left."""
        gone = [dim % len(axes) for dim in dims]
        left = tuple(() if i in gone else axis for i, axis in enumerate(axes))
        for block in blocks(axes[i] for i in gone):
            keep = sorted(f.dim for axis in left for f in axis if f.block is block)
            new = Block(self.carriers(block, keep, False)) if keep else None
            left = replace(left, block, new, {d: i for i, d in enumerate(keep)})
        return left

    def whole(self, axes: Axes) -> Axes:
        """Blocks of which some dimensions are not in the value stand for their carriers."""
        for block in blocks(axes):
            dims = sorted({f.dim for axis in axes for f in axis if f.block is block})
            if len(dims) < block.ids.ndim:
                carriers = Block(self.carriers(block, dims, False))
                axes = replace(axes, block, carriers, {d: i for i, d in enumerate(dims)})
        return axes

    def flat(self, axes: Axes, dim: int) -> Ids | None:
        """Atoms of an axis in order, None where it is plain."""
        axis = axes[dim]
        if is_plain(axis):
            return None
        number, symbols = times(factor.size for factor in axis)
        if symbols:
            raise ViewError
        if len(blocks((axis,))) == 1 and all(f.block is not None for f in axis):
            block = blocks((axis,))[0]
            if len(axis) == block.ids.ndim:
                return block.ids.transpose([f.dim for f in axis]).reshape(-1)
        fresh = self.atoms.new(number)
        self.meet(((Factor((number, ()), Block(fresh)),),), axes, [(0, dim)])
        return fresh


def base_name(target: Any) -> str:
    """Name of a torch operator without namespace, overload and in-place underscore."""
    schema = getattr(target, "_schema", None)
    return schema.name.partition("::")[2].removesuffix("_") if schema is not None else ""


def _fits(axes: Axes, shape: tuple[Dimension, ...]) -> bool:
    return len(axes) == len(shape) and all(
        times(factor.size for factor in axis) == size_of(size) for axis, size in zip(axes, shape, strict=True)
    )
