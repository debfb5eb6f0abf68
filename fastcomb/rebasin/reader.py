"""Following axes through a Program: which entries an operation equates, bundles or pins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcomb.program import Node, Program, Value, Weight
from fastcomb.program.ir import Dimension
from fastcomb.rebasin.atoms import Atoms, Found, Place, Seen
from fastcomb.rebasin.axes import (
    Axes,
    Axis,
    Block,
    Factor,
    ViewError,
    as_if_varied,
    blocks,
    is_plain,
    plain,
    refine,
    replace,
    size_of,
    times,
)
from fastcomb.rebasin.bundles import Ids, ranks_among

Result = Axes | list[Axes] | None
Rule = Callable[["Reader", Node], Result]

#: Operations whose inputs and results count as activations.
LAYERS = frozenset("linear conv1d conv2d conv3d matmul bmm einsum scaled_dot_product_attention".split())

#: Tensors that a permuted state dict cannot change.
_FIXED = {"transient": "buffer, which state dicts leave out,"}

OUTPUT = "output of the network"
INPUT = "input of the network"
UNREACHED = "not reached by the example"
_CUT = "cut to the size of the input"

#: Operations that make a tensor of one value throughout, which is the same in every order.
_FILLED = frozenset(
    "zeros ones full new_zeros new_ones new_full zeros_like ones_like full_like fill zero".split()
)

#: Operations that only move, pick or join entries.
_VIEWS = frozenset(
    "permute transpose numpy_T mT reshape reshape_as view_as flatten unflatten squeeze unsqueeze expand "
    "expand_as select slice split chunk unbind split_with_sizes item cat stack identity cast roll flip "
    "repeat repeat_interleave".split()
)

#: Operations that know what nothing varies along, and hand it on.
_REPEATING = frozenset(
    "permute transpose numpy_T mT reshape reshape_as view_as flatten unflatten squeeze unsqueeze expand "
    "expand_as identity cast repeat repeat_interleave "
    "matmul bmm einsum scaled_dot_product_attention".split()
)


class Reader:
    """Walks Programs; ``rules`` say per operation what it does to the axes of its arguments.

    Several Programs of one network (on inputs of other sizes, in training mode) share the atoms of their
    weights, so that what is found are the symmetries that all of them have.
    """

    def __init__(self, programs: Sequence[Program], rules: dict[str, Rule]) -> None:
        self.programs = programs
        self.program = programs[0]
        self.rules = rules
        self.atoms = Atoms()
        self._weights: dict[str, Axes] = {}
        self._pieces: dict[str, list[Ids]] = {}
        self._values: dict[str, Axes | list[Axes]] = {}
        self._shapes: dict[str, tuple[Dimension, ...]] = {}
        self._static: set[str] = set()  # values that weights alone decide
        self._uniform: set[str] = set()  # values of one number throughout
        self._known: dict[str, Tensor] = {}  # constants that nodes hand on, of one entry where expanded
        self._varied: dict[tuple[str, int], Ids] = {}
        self._filled: dict[str, Axes] = {}
        self._cuts: dict[tuple[bytes, int], tuple[Ids, dict[int, set[object]]]] = {}
        self._repeating = False  # whether the present operation's rule knows repeated factors

    def read(self) -> tuple[list[Found], dict[tuple[str, int], str]]:
        """Walk all Programs: units that may be permuted, and per dimension of a tensor why others may not."""
        for program in self.programs:
            self._walk(program)
            if program is self.programs[0]:
                layers = [node for node in program if node.op in LAYERS]
                for name in dict.fromkeys(name for node in layers for name in (*node.values, node.name)):
                    self._see(name)
        self._look_for_unread()
        for ids, cuts in self._cuts.values():
            if len(set(map(frozenset, cuts.values()))) > 1:
                self.atoms.pin(ids, _CUT)
        self.atoms.pin_unreached(UNREACHED)
        return self.atoms.groups()

    def _walk(self, program: Program) -> None:
        """Give every value of one Program its axes; what the network returns is pinned."""
        self.program = program
        self._values = {name: plain(shape) for name, shape in program.inputs.items()}
        self._shapes = dict(program.inputs)
        self._static, self._uniform = set(), set()
        self._known, self._varied = {}, {}  # Programs number their constants, each its own
        for node in program:
            self._filled.clear()
            self._repeating = node.op in _REPEATING
            self._shapes[node.name] = node.shape
            if all(name in self._static for name in node.values):
                self._static.add(node.name)
            constant = self._constant(node)
            if constant is not None:
                self._known[node.name] = constant
                continue
            self._values[node.name] = self._follow(node)
            if self._fills(node):
                self._uniform.add(node.name)
            if node.name not in self._static:
                self._reach(node.arguments)
        self._filled.clear()
        self._reach(program.output)
        for leaf in tree_leaves(program.output):
            self.pin(self.axes(leaf) or (), OUTPUT)

    def _look_for_unread(self) -> None:
        """Give tensors that no operation reads their places too, so that they are named."""
        known = self._weights.keys() | {name for program in self.programs for name in program.constants}
        self.program = self.programs[0]
        for name in sorted(self.program.shapes.keys() - known):
            self.axes(Weight(name, "buffer"))

    def _reach(self, arguments: object) -> None:
        """What the result may depend on: all entries but those that were cut off from weights before."""
        for leaf in tree_leaves(arguments):
            for block in blocks(self.axes(leaf) or ()):
                self.atoms.reach(block.ids)

    def _fills(self, node: Node) -> bool:
        """Whether a node's result is one number throughout."""
        base = base_name(node.target)
        if base in _FILLED:
            return True
        tags = getattr(node.target, "tags", ())
        passes = {node.op, base} & _VIEWS or (
            torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
        )
        leaves = [leaf for leaf in tree_leaves(node.arguments) if isinstance(leaf, (Value, Weight))]
        tensors = [leaf for leaf in leaves if self.axes(leaf) or self.several(leaf)]
        joins = node.op in ("cat", "stack")
        return bool(passes) and bool(tensors) and not joins and all(map(self.uniform, tensors))

    def uniform(self, leaf: object) -> bool:
        """Whether a tensor is one number throughout, which no permutation changes."""
        known = self.known(leaf)
        if known is not None:
            return known.numel() > 0 and _alike(known.reshape(-1))
        return isinstance(leaf, Value) and leaf.name in self._uniform

    def known(self, leaf: object) -> Tensor | None:
        """The entries of a constant, of which dimensions that were expanded have one; None for others."""
        if isinstance(leaf, Value):
            return self._known.get(leaf.name)
        if isinstance(leaf, Weight) and leaf.kind == "constant":
            return self.program.constants[leaf.name]
        return None

    def _constant(self, node: Node) -> Tensor | None:
        """What a node hands on or expands, where that is a constant of as many dimensions."""
        source = next(iter(node.arguments.values()), None)
        tensor = self.known(source) if node.op in ("identity", "expand") else None
        return tensor if tensor is not None and tensor.ndim == len(node.shape) else None

    def _see(self, name: str) -> None:
        """Note where a value holds the activations of a block."""
        axes = self.axes(Value(name)) or ()
        for block in blocks(axes):
            dims = tuple(d for d, axis in enumerate(axes) if any(f.block is block for f in axis))
            factors = [factor for d in dims for factor in axes[d]]
            order = [factor.dim for factor in factors if factor.block is block]
            if len(order) == block.ids.ndim and not any(factor.size[1] for factor in factors):
                shape = [factor.size[0] for factor in factors]
                own_shape = [size if f.block is block else 1 for size, f in zip(shape, factors, strict=True)]
                columns = np.broadcast_to(block.ids.transpose(order).reshape(own_shape), shape)
                self.atoms.see(Seen(name, dims), columns.reshape(-1))

    def _follow(self, node: Node) -> Axes | list[Axes]:
        """Axes of a node's result by its operation's rule; without one, all that it reads is pinned."""
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
        known = self.known(leaf)
        if known is not None:
            assert isinstance(leaf, (Value, Weight))
            return self._of_constant(leaf, known)
        if isinstance(leaf, Value):
            value = self._values[leaf.name]
            if isinstance(value, tuple) and leaf.name in self._uniform:
                return self._any_order(leaf.name)
            if not isinstance(value, tuple):
                return None
            return value if self._repeating else as_if_varied(value)
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

    def _any_order(self, name: str) -> Axes:
        """Axes of a value of one number throughout: for every operation that reads it, atoms of its own."""
        if name not in self._filled:
            self._filled[name] = tuple(
                (Factor((size, ()), Block(self.atoms.new(size))),)
                if isinstance(size, int) and size > 1
                else plain([size])[0]
                for size in self._shapes[name]
            )
        return self._filled[name]

    def _of_constant(self, leaf: Value | Weight, tensor: Tensor) -> Axes:
        """Axes of a constant: only entries along a dimension that are alike may change places.

        A dimension along which nothing varies has atoms of its own for every operation that reads it.
        """
        name = leaf.name
        if name not in self._filled:
            axes = []
            for dim, size in enumerate(self.shape(leaf)):
                if not isinstance(size, int) or size < 2:
                    axes.append(plain([size])[0])
                    continue
                slices = tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1)
                if len(slices) == 1 or _alike(slices):
                    ids = self.atoms.new(size)
                elif (name, dim) in self._varied:
                    ids = self._varied[name, dim]
                else:
                    ids = self._varied[name, dim] = self.atoms.new(size)
                    self._tell_apart(ids, slices, leaf, dim)
                axes.append((Factor((size, ()), Block(ids)),))
            self._filled[name] = tuple(axes)
        return self._filled[name]

    def fixed(self, leaf: object) -> Tensor | None:
        """As :meth:`known`; of buffers that state dicts leave out, as if all their entries differed."""
        if isinstance(leaf, Weight) and leaf.kind == "transient":
            shape = self.program.shapes[leaf.name]
            return torch.arange(math.prod(shape)).reshape(shape)
        return self.known(leaf)

    def _tell_apart(self, ids: Ids, slices: Tensor, leaf: Value | Weight, dim: int) -> None:
        """Mark atoms [entries, …] by what the entries of a fixed tensor's dimension hold."""
        kinds: dict[bytes, list[int]] = {}
        slices = slices.detach().cpu()
        for entry, one in enumerate(slices.double() if slices.is_floating_point() else slices):
            kinds.setdefault(one.numpy().tobytes(), []).append(entry)
        earlier = ranks_among(ids.reshape(-1)).reshape(ids.shape)  # an atom may lie in several places
        for kind, entries in enumerate(kinds.values()):
            for time in np.unique(earlier[entries]):
                self.mark(ids[entries][earlier[entries] == time], f"{leaf.name} {dim} {kind} {time}")
            what = _FIXED.get(leaf.kind) if isinstance(leaf, Weight) else None
            reason = f"{what} {leaf.name}" if what else f"constant {leaf.name}, whose entries differ"
            self.atoms.tell(ids[entries], f"meets the {reason}")

    def told_apart(self, axes: Axes, shape: Sequence[Dimension], leaf: object) -> bool:
        """Mark what an operation entry by entry makes of a fixed tensor and a value.

        Args:
            axes, shape: of the value.
            leaf: any argument.

        Returns:
            whether that is all that the tensor does: it is fixed, and varies only where the value does.
        """
        known = self.fixed(leaf)
        if known is None or known.ndim > len(axes):
            return False
        assert isinstance(leaf, (Value, Weight))
        found: list[tuple[Ids, Tensor, int]] = []
        for dim, size in enumerate(known.shape):
            place = dim - known.ndim
            slices = known.movedim(dim, 0).reshape(size, -1)
            if size == 1 or _alike(slices):
                continue
            axis = axes[place]
            owners = blocks((axis,))
            if shape[place] == 1 or len(owners) > 1 or (owners and any(f.block is None for f in axis)):
                return False
            if owners:
                keep = [factor.dim for factor in axis]
                rest = [d for d in range(owners[0].ids.ndim) if d not in keep]
                found.append((owners[0].ids.transpose(keep + rest).reshape(size, -1), slices, dim))
        for ids, slices, dim in found:
            self._tell_apart(ids, slices, leaf, dim)
        return True

    def cut(self, block: Block, dim: int, which: int | slice) -> None:
        """Entries are taken from dimension ``dim`` of a block; other Programs may take others."""
        taken = which if isinstance(which, int) else range(block.ids.shape[dim])[which]
        _, cuts = self._cuts.setdefault((block.ids.tobytes(), dim), (block.ids, {}))
        cuts.setdefault(id(self.program), set()).add(taken)

    def mark(self, ids: Ids, tag: str) -> None:
        """Tell entries from others, by what happens to them in this Program."""
        number = next(i for i, program in enumerate(self.programs) if program is self.program)
        self.atoms.mark(ids, f"{number} {tag}")

    def several(self, leaf: object) -> list[Axes] | None:
        """Axes of each result of an operation with several."""
        value = self._values.get(leaf.name) if isinstance(leaf, Value) else None
        return value if isinstance(value, list) else None

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
        """Shape of a value or weight; dimensions that vary with the samples are symbols."""
        if isinstance(leaf, Weight):
            return self.program.shapes[leaf.name]
        assert isinstance(leaf, Value)
        return self._shapes[leaf.name]

    def pin(self, axes: Iterable[Axis], reason: str) -> None:
        """All entries along these axes stay where they are; what lies behind them may move."""
        axes = list(axes)
        for block in blocks(axes):
            dims = {factor.dim for axis in axes for factor in axis if factor.block is block}
            free = [d for d in range(block.ids.ndim) if d not in dims]
            if free:
                self.carriers(block, free, True)
            else:
                self.atoms.pin(block.ids, reason)

    def in_rows(self, leaf: Weight, count: int) -> list[Ids]:
        """Atoms of dimension 1 of a weight, different ones for each of ``count`` blocks of its rows."""
        if leaf.name not in self._pieces:
            rows, columns = self.program.shapes[leaf.name][:2]
            self.pin((self.axes(leaf) or ())[1:2], "used in groups and otherwise")
            self.atoms.forget(Place(leaf.name, 1, None))
            pieces = [self.atoms.new(columns) for _ in range(count)]
            self.atoms.reach(np.concatenate(pieces))
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
        """Equate factors that met: of two blocks, all dimensions that meet at once.

        What meets a plain factor keeps its order behind the others; alone, it is pinned for ``reason``.
        """
        partners: dict[int, dict[int, Block | None]] = {}
        shared: dict[tuple[int, int], tuple[Block, Block, list[tuple[int, int]]]] = {}
        lone: dict[int, Block] = {}
        for a, b in matched:
            if a.repeated or b.repeated:
                continue
            for one, other in ((a, b), (b, a)):
                if one.block is not None:
                    partners.setdefault(id(one.block), {})[one.dim] = other.block
                    if other.block is None:
                        lone[id(one.block)] = one.block
            if a.block is not None and b.block is not None:
                _, _, dims = shared.setdefault((id(a.block), id(b.block)), (a.block, b.block, []))
                if (a.dim, b.dim) not in dims:  # products of a value with itself hold a dimension twice
                    dims.append((a.dim, b.dim))
        for first, second, dims in shared.values():
            if any(len(set(side)) < len(dims) for side in zip(*dims, strict=True)):
                raise ViewError
            kept = zip((first, second), zip(*dims, strict=True), strict=True)
            self._union(*(self.carriers(block, list(keep), id(block) in lone) for block, keep in kept))
        for key, block in lone.items():
            free = [d for d in range(block.ids.ndim) if d not in partners[key]]
            if free:
                self.carriers(block, free, True)
            elif all(other is None for other in partners[key].values()):
                self.atoms.pin(block.ids, reason)

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
            if not keep:
                self.atoms.reach(block.ids)
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


def _alike(slices: Tensor) -> bool:
    """Whether all entries along dimension 0 are the same."""
    return torch.equal(slices, slices[:1].expand_as(slices))


def base_name(target: Any) -> str:
    """Name of a torch operator without namespace, overload and in-place underscore."""
    schema = getattr(target, "_schema", None)
    return schema.name.partition("::")[2].removesuffix("_") if schema is not None else ""


def _fits(axes: Axes, shape: tuple[Dimension, ...]) -> bool:
    return len(axes) == len(shape) and all(
        times(factor.size for factor in axis) == size_of(size) for axis, size in zip(axes, shape, strict=True)
    )
