"""Permutation symmetries of a network, read off its Program.

Every axis of every tensor starts as something that could be permuted. Operations tie axes together (a
linear layer's input axis to its weight's second dimension), and what an operation does not commute with
is pinned. What remains are groups of axes that can be permuted together without changing the function.
Anything that is not understood pins all it touches, so a group is never wrong, at worst missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcomb.program import Node, Program, Value, Weight
from fastcomb.program.ir import Dimension


@dataclass(frozen=True)
class Member:
    """A dimension of a tensor that a group permutes.

    A dimension of size ``group.size * inner`` is made of blocks of ``inner`` successive entries, which
    move together (a flattened feature map has one block per channel).
    """

    name: str
    dim: int
    inner: int

    def __str__(self) -> str:
        return f"{self.name}[{self.dim}]" + (f" in blocks of {self.inner}" if self.inner > 1 else "")


@dataclass(frozen=True)
class Group:
    """Axes that one permutation of ``size`` units moves together."""

    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Symmetries:
    """The permutation groups of a network.

    Attributes:
        groups: in order of execution.
        pinned: (tensor, dimension) that cannot be permuted → why; inputs and outputs of the network and
            what unsupported operations touch.
    """

    groups: tuple[Group, ...]
    pinned: Mapping[tuple[str, int], str]

    def permute(self, state: Mapping[str, Tensor], permutations: Iterable[Tensor]) -> dict[str, Tensor]:
        """State dict in which unit ``j`` of each group is the given one's unit ``permutation[j]``.

        Args:
            state: parameters and buffers by name; names that no group has are passed through.
            permutations: one int64 tensor [group.size] per group.
        """
        permuted = dict(state)
        for group, permutation in zip(self.groups, permutations, strict=True):
            for member in group.members:
                permuted[member.name] = permute_dim(permuted[member.name], member, permutation)
        return permuted

    def __str__(self) -> str:
        lines = []
        for number, group in enumerate(self.groups):
            lines.append(f"group {number}: {group.size} units: {', '.join(map(str, group.members))}")
        reasons: dict[str, list[str]] = {}
        for (name, dim), reason in self.pinned.items():
            reasons.setdefault(reason, []).append(f"{name}[{dim}]")
        lines += [f"pinned, {reason}: {', '.join(places)}" for reason, places in reasons.items()]
        return "\n".join(lines)


def permute_dim(tensor: Tensor, member: Member, permutation: Tensor) -> Tensor:
    """Apply a group's permutation to one of its members."""
    index = permutation.to(tensor.device)
    if member.inner > 1:
        index = (index[:, None] * member.inner + torch.arange(member.inner, device=index.device)).flatten()
    return tensor.index_select(member.dim, index)


def symmetries(program: Program) -> Symmetries:
    """Read the permutation groups off a Program."""
    return _Reader(program).read()


#: Axis of a value: (group variable, inner block size), or None where nothing can be permuted.
Axis = tuple[int, int] | None
Axes = tuple[Axis, ...]

_OUTPUT = "output of the network"
_INPUT = "input of the network"


class _Groups:
    """Union-find over group variables, each of which may consist of blocks of another's units."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.parents: list[tuple[int, int]] = []
        self.reasons: dict[int, str] = {}

    def new(self, size: int) -> int:
        self.sizes.append(size)
        self.parents.append((len(self.parents), 1))
        return len(self.sizes) - 1

    def find(self, axis: tuple[int, int]) -> tuple[int, int]:
        variable, inner = axis
        while self.parents[variable][0] != variable:
            variable, factor = self.parents[variable]
            inner *= factor
        return variable, inner

    def pin(self, axis: Axis, reason: str) -> None:
        if axis is not None:
            self.reasons.setdefault(self.find(axis)[0], reason)

    def tie(self, one: Axis, other: Axis, reason: str) -> Axis:
        """Make two axes of one size the same; an axis that cannot be permuted pins the other."""
        if one is None or other is None:
            self.pin(one, reason)
            self.pin(other, reason)
            return None
        (a, inner_a), (b, inner_b) = self.find(one), self.find(other)
        if a == b:
            if inner_a != inner_b:
                self.pin(one, "the same units in blocks of different sizes")
            return one
        if inner_a < inner_b:
            a, inner_a, b, inner_b = b, inner_b, a, inner_a
        if inner_a % inner_b:
            self.pin(one, "blocks that do not fit each other")
            self.pin(other, "blocks that do not fit each other")
            return None
        self.parents[b] = (a, inner_a // inner_b)
        if b in self.reasons:
            self.reasons.setdefault(a, self.reasons[b])
        return one


class _Reader:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.groups = _Groups()
        self.weights: dict[str, Axes] = {}
        self.values: dict[str, Axes] = {name: (None,) * len(s) for name, s in program.inputs.items()}
        self.shapes: dict[str, tuple[Dimension, ...]] = dict(program.inputs)

    def read(self) -> Symmetries:
        for node in self.program:
            self.shapes[node.name] = node.shape
            rule = _RULES.get(node.op)
            axes = rule(self, node) if rule else None
            if axes is None:
                self._pin_inputs(node, f"operation {node.target} of {node.name} is not understood")
                axes = (None,) * len(node.shape)
            self.values[node.name] = axes
        for leaf in tree_leaves(self.program.output):
            for axis in self.axes(leaf) or ():
                self.groups.pin(axis, _OUTPUT)
        return self._collect()

    def axes(self, leaf: object) -> Axes | None:
        """Axes of an argument, None where it is no tensor."""
        if isinstance(leaf, Weight):
            if leaf.name not in self.weights:
                shape = self.program.shapes[leaf.name]
                axes = tuple((self.groups.new(size), 1) if size > 1 else None for size in shape)
                self.weights[leaf.name] = axes
                if leaf.kind == "constant":
                    for axis in axes:
                        self.groups.pin(axis, f"meets the constant {leaf.name}")
            return self.weights[leaf.name]
        return self.values[leaf.name] if isinstance(leaf, Value) else None

    def shape(self, leaf: object) -> tuple[Dimension, ...]:
        if isinstance(leaf, Weight):
            return self.program.shapes[leaf.name]
        assert isinstance(leaf, Value)
        return self.shapes[leaf.name]

    def tie_all(self, axis: Axis, leaves: Iterable[object], dim: int, reason: str) -> Axis:
        for leaf in leaves:
            axes = self.axes(leaf)
            if axes is not None:
                axis = self.groups.tie(axis, axes[dim], reason)
        return axis

    def _pin_inputs(self, node: Node, reason: str) -> None:
        for leaf in tree_leaves(node.arguments):
            for axis in self.axes(leaf) or ():
                self.groups.pin(axis, reason)

    def _collect(self) -> Symmetries:
        members: dict[int, list[Member]] = {}
        pinned: dict[tuple[str, int], str] = {}
        for name, axes in self.weights.items():
            for dim, axis in enumerate(axes):
                if axis is None or name in self.program.constants:
                    continue
                root, inner = self.groups.find(axis)
                if root in self.groups.reasons:
                    pinned[name, dim] = self.groups.reasons[root]
                else:
                    members.setdefault(root, []).append(Member(name, dim, inner))
        groups = tuple(Group(self.groups.sizes[root], tuple(found)) for root, found in members.items())
        return Symmetries(groups, pinned)


def _first(node: Node) -> object:
    return next(iter(node.arguments.values()))


def _same(reader: _Reader, node: Node) -> Axes | None:
    return reader.axes(_first(node))


def _linear(reader: _Reader, node: Node) -> Axes | None:
    source, weight = reader.axes(node.arguments["input"]), reader.axes(node.arguments["weight"])
    assert source is not None
    assert weight is not None
    reader.groups.tie(source[-1], weight[1], _INPUT)
    return (*source[:-1], reader.tie_all(weight[0], [node.arguments["bias"]], 0, "meets a fixed bias"))


def _conv(reader: _Reader, node: Node) -> Axes | None:
    source, weight = reader.axes(node.arguments["input"]), reader.axes(node.arguments["weight"])
    assert source is not None
    assert weight is not None
    spatial = (None,) * (len(weight) - 2)
    if len(source) != len(weight):
        return None
    if node.arguments["groups"] != 1:
        if node.arguments["groups"] != reader.shape(node.arguments["input"])[1]:
            return None
        out = weight[0]  # depthwise: the outputs of a channel are a block that moves with it
        channel = source[1]
        multiplier = reader.program.shapes[node.arguments["weight"].name][0] // node.arguments["groups"]
        out = reader.groups.tie(
            None if channel is None else (channel[0], channel[1] * multiplier), out, _INPUT
        )
    else:
        reader.groups.tie(source[1], weight[1], _INPUT)
        out = weight[0]
    for axis in weight[2:]:
        reader.groups.pin(axis, "spatial")
    out = reader.tie_all(out, [node.arguments["bias"]], 0, "meets a fixed bias")
    return (source[0], out, *spatial)


def _batch_norm(reader: _Reader, node: Node) -> Axes | None:
    source = reader.axes(node.arguments["input"])
    assert source is not None
    tensors = [node.arguments[name] for name in ("weight", "bias", "running_mean", "running_var")]
    return (source[0], reader.tie_all(source[1], tensors, 0, _INPUT), *source[2:])


def _layer_norm(reader: _Reader, node: Node) -> Axes | None:
    source = reader.axes(node.arguments["input"])
    assert source is not None
    count = len(node.arguments["normalized_shape"])
    out = list(source)
    for dim in range(-count, 0):
        leaves = [node.arguments["weight"], node.arguments["bias"]]
        out[dim] = reader.tie_all(out[dim], leaves, dim, _INPUT)
    return tuple(out)


def _pool(reader: _Reader, node: Node) -> Axes | None:
    source = reader.axes(_first(node))
    assert source is not None
    spatial = 1 if "1d" in str(node.target) else 2
    return (*source[:-spatial], *(None,) * spatial)


def _elementwise(reader: _Reader, node: Node) -> Axes | None:
    """Operations on two tensors that broadcast: axes that meet are tied."""
    leaves = [leaf for leaf in tree_leaves(node.arguments) if reader.axes(leaf) is not None]
    out: list[Axis] = []
    for dim in range(1, len(node.shape) + 1):
        meeting: list[Axis] = []
        for leaf in leaves:
            axes, shape = reader.axes(leaf), reader.shape(leaf)
            assert axes is not None
            if dim <= len(axes) and shape[-dim] != 1:
                meeting.append(axes[-dim])
        axis = meeting[0] if meeting else None
        for other in meeting[1:]:
            axis = reader.groups.tie(axis, other, _INPUT)
        out.insert(0, axis)
    return tuple(out)


def _mean(reader: _Reader, node: Node) -> Axes | None:
    source = reader.axes(_first(node))
    assert source is not None
    dims = node.arguments.get("dim")
    if dims is None or not isinstance(dims, (list, tuple)):
        return (None,) * len(node.shape)  # everything is summed, or dims=[] which means the same
    reduced = {dim % len(source) for dim in dims} if dims else set(range(len(source)))
    if node.arguments.get("keepdim"):
        return tuple(None if i in reduced else axis for i, axis in enumerate(source))
    return tuple(axis for i, axis in enumerate(source) if i not in reduced)


def _softmax(reader: _Reader, node: Node) -> Axes | None:
    return reader.axes(_first(node))


def _permute(reader: _Reader, node: Node) -> Axes | None:
    source = reader.axes(_first(node))
    assert source is not None
    return tuple(source[dim] for dim in node.arguments["dims"])


def _transpose(reader: _Reader, node: Node) -> Axes | None:
    source = reader.axes(_first(node))
    assert source is not None
    out = list(source)
    one, other = node.arguments.get("dim0", 0), node.arguments.get("dim1", -1)
    if len(out) > 1:
        out[one], out[other] = out[other], out[one]
    return tuple(out)


def _reshape(reader: _Reader, node: Node) -> Axes | None:
    """Split both shapes into runs of equal size; a run keeps its axis where blocks can express it."""
    leaf = _first(node)
    source, shape, target = reader.axes(leaf), reader.shape(leaf), node.shape
    assert source is not None
    out: list[Axis] = []
    i = j = 0
    while i < len(shape) or j < len(target):
        low, high = i, j
        size_in: tuple[int, tuple[str, ...]] = (1, ())
        size_out: tuple[int, tuple[str, ...]] = (1, ())
        while i == low or j == high or size_in != size_out:
            grow_in = i < len(shape) and (i == low or _before(size_in, size_out) or j == len(target))
            if grow_in:
                size_in = _times(size_in, shape[i])
                i += 1
            elif j < len(target):
                size_out = _times(size_out, target[j])
                j += 1
            else:
                break
        if size_in != size_out:
            return None
        run = _reshape_run(reader, source[low:i], shape[low:i], target[high:j])
        if run is None:
            return None
        out += run
    return tuple(out)


def _reshape_run(
    reader: _Reader, axes: Axes, shape: tuple[Dimension, ...], target: tuple[Dimension, ...]
) -> list[Axis] | None:
    if all(axis is None for axis in axes):
        return [None] * len(target)
    kept = [(axis, size) for axis, size in zip(axes, shape, strict=True) if size != 1]
    axis, rest = kept[0][0], kept[1:]
    if axis is None or any(other is not None for other, _ in rest):
        return None
    if not all(isinstance(size, int) for size in (*shape, *target)):
        return None
    variable, inner = reader.groups.find(axis)
    inner *= math.prod(size for _, size in rest if isinstance(size, int))
    sizes = [size for size in target if isinstance(size, int)]
    out: list[Axis] = [None] * len(target)
    lead = next((i for i, size in enumerate(sizes) if size != 1), 0)
    behind = math.prod(sizes[lead + 1 :])
    if inner % behind:
        return None
    out[lead] = (variable, inner // behind)
    return out


def _times(size: tuple[int, tuple[str, ...]], dimension: Dimension) -> tuple[int, tuple[str, ...]]:
    number, symbols = size
    if isinstance(dimension, int):
        return number * dimension, symbols
    return number, tuple(sorted((*symbols, dimension)))


def _before(one: tuple[int, tuple[str, ...]], other: tuple[int, tuple[str, ...]]) -> bool:
    return len(one[1]) < len(other[1]) or (one[1] == other[1] and one[0] < other[0])


def _unsqueeze(reader: _Reader, node: Node) -> Axes | None:
    source = reader.axes(_first(node))
    assert source is not None
    out = list(source)
    out.insert(node.arguments["dim"] % (len(source) + 1), None)
    return tuple(out)


def _embedding(reader: _Reader, node: Node) -> Axes | None:
    weight, indices = reader.axes(node.arguments["weight"]), reader.axes(node.arguments["indices"])
    assert weight is not None
    assert indices is not None
    reader.groups.pin(weight[0], "indexed by the input")
    return (*indices, weight[1])


def _size(reader: _Reader, node: Node) -> Axes | None:
    return ()


Rule = Callable[[_Reader, Node], Axes | None]

_RULES: dict[str, Rule] = {
    "linear": _linear,
    "conv1d": _conv,
    "conv2d": _conv,
    "conv3d": _conv,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "mean": _mean,
    "sum": _mean,
    "softmax": _softmax,
    "permute": _permute,
    "transpose": _transpose,
    "flatten": _reshape,
    "unflatten": _reshape,
    "reshape": _reshape,
    "squeeze": _reshape,
    "unsqueeze": _unsqueeze,
    "embedding": _embedding,
    "size": _size,
    "size_arithmetic": _size,
}
_RULES |= dict.fromkeys(
    """relu leaky_relu gelu silu tanh sigmoid elu softplus hardtanh relu6 hardswish hardsigmoid mish selu
    neg exp sqrt rsqrt abs dropout identity log_softmax""".split(),
    _same,
)
_RULES |= dict.fromkeys("add sub mul div".split(), _elementwise)
_RULES |= dict.fromkeys(
    """max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_max_pool2d""".split(),
    _pool,
)
