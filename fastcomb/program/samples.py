"""Does a Program treat every sample by itself, whatever their number?

Backends divide samples into blocks, so a value of one sample may depend on no other sample, nor on how many
there are. The dimension of the samples is followed from the input through every operation; what is not known
to keep samples apart is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcomb.program.ir import Dimension, Node, Program, Value, Weight, multiple
from fastcomb.utils import inputs

#: Samples that tell whether they influence one another, and how much results may then differ, of the largest.
_FEW, _APART = 4, 1e-4

_POINTWISE = """
    relu leaky_relu gelu silu tanh sigmoid elu softplus hardtanh relu6 hardswish hardsigmoid mish selu
    add sub mul div neg exp sqrt rsqrt pow abs identity dropout cast
    rsub reciprocal square sin cos log log1p expm1 erf sign floor ceil maximum minimum clamp clamp_min
    tan asin acos atan sinh cosh exp2 log2 log10 erfc round trunc
    clamp_max threshold celu hardshrink softshrink log_sigmoid prelu isnan
    eq ne lt le gt ge logical_not logical_and logical_or logical_xor where masked_fill
    bitwise_not bitwise_and bitwise_or bitwise_xor
""".split()
_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3, "conv_transpose1d": 1, "conv_transpose2d": 2}
_RESIZED = {
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"), 2),
    **dict.fromkeys(("_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"), 2),
    **dict.fromkeys(("upsample_nearest1d", "upsample_linear1d", "_upsample_nearest_exact1d"), 1),
}
#: Operations on the last dimensions of images.
_SHUFFLES = {"pixel_shuffle": 3, "pixel_unshuffle": 3, "channel_shuffle": 3}
_POOLS = (
    _RESIZED
    | _SHUFFLES
    | {
        f"{kind}_pool{spatial}d": spatial
        for kind in ("max", "avg", "adaptive_avg", "adaptive_max")
        for spatial in (1, 2, 3)
    }
)
#: Arguments that say a shape, in which the number of samples may stand.
_SHAPES = {
    "reshape": "size shape", "expand": "size", "unflatten": "sizes", "repeat": "repeats", "tile": "dims"
}  # fmt: skip


class Dependence(NamedTuple):
    """What is known of how samples depend on one another.

    Attributes:
        reason: why they may, or may depend on their number; "" where they certainly do not, provided that
            the operations of ``unproven`` keep them apart.
        unproven: names of nodes whose operation has no rule, which has to be tried.
        meeting: whether they certainly meet.
    """

    reason: str
    unproven: tuple[str, ...] = ()
    meeting: bool = False


class Samples(NamedTuple):
    """Where the samples of a value are: its dimension ``dim`` has ``before`` · N · (any) entries."""

    dim: int
    before: int = 1


class Mixed(Exception):
    """Samples may meet; the message says where."""


class Meeting(Mixed):
    """Samples meet."""


class Several(NamedTuple):
    """A list of values of which nothing but ``before`` is known, as in :class:`Samples`; 0: nor that."""

    before: int


_COUNT = "count"  # the state of a number that depends on how many samples there are
State = Samples | list[Samples] | Several | str | None


def dependence(program: Program) -> Dependence:
    """Whether samples may depend on one another or on their number."""
    if program.bound:
        return Dependence(program.bound)
    try:
        states, unproven = _followed(program)
    except Mixed as error:
        return Dependence(str(error), meeting=isinstance(error, Meeting))
    shapes = program.value_shapes
    for name in program.returned:
        state, shape = states[name], shapes[name]
        if state != Samples(0) or shape[0] != "N":
            return Dependence("a result without the samples as its first dimension")
    return Dependence("", unproven)


def outermost(program: Program) -> set[str]:
    """Names of the values whose first dimension is the samples, or for each of them some entries in a row.

    Raises:
        Mixed: samples may depend on one another.
    """
    return {name for name, state in _followed(program)[0].items() if state == Samples(0)}


def _followed(program: Program) -> tuple[dict[str, State], tuple[str, ...]]:
    """Where the samples are in every value, and the nodes of which nothing proves that they keep them apart.

    Raises:
        Mixed: samples may depend on one another.
    """
    states: dict[str, State] = {}
    unproven = []
    for name, shape in program.inputs.items():
        initial = _by_shape(shape)
        if initial is None or initial != Samples(0):
            raise Mixed(f"a result that is computed for {shape[0] if shape else 'no'} samples only")
        states[name] = initial
    shapes = program.value_shapes
    for node in program:
        states[node.name] = _state(node, states, shapes, program.shapes)
        if node.op not in _RULES and _samples_read(node, states):
            unproven.append(node.name)
    return states, tuple(unproven)


def _samples_read(node: Node, states: Mapping[str, State]) -> bool:
    """Whether a node computes with values that have samples."""
    if node.sizes or node.op == "item":
        return False
    return any(isinstance(states[name], (Samples, Several)) for name in node.values)


def _unproven(node: Node, states: Mapping[str, State]) -> Samples:
    """Where samples are in the result of an operation without a rule, if it keeps them apart."""
    places = [d for d, size in enumerate(node.shape) if isinstance(size, str)]
    before = _before(node, states)
    if before and len(places) == 1 and multiple(node.shape[places[0]]) is not None:
        return Samples(places[0], before)
    state = _by_shape(node.shape)
    if state is None:
        raise Mixed(f"the operation {node.label}, which may bring samples together")
    return state


def _before(node: Node, states: Mapping[str, State]) -> int:
    """What all that a node reads has before its samples; 0 where that differs."""
    found = {state.before for name in node.values if isinstance(state := states[name], (Samples, Several))}
    return found.pop() if len(found) == 1 else 0


def _by_shape(shape: Sequence[Dimension]) -> Samples | None:
    """Where the samples are in a value that has not mixed them, going by its shape."""
    places = [d for d, size in enumerate(shape) if isinstance(size, str)]
    if not places:
        return None
    if len(places) > 1 or shape[places[0]] != "N":
        raise Mixed(f"a value of shape {'×'.join(map(str, shape))}")
    return Samples(places[0])


def _factor(size: Dimension) -> int:
    """c of a dimension of c · N entries."""
    factor = multiple(size)
    if factor is None:
        raise Mixed(f"a dimension of {size} entries")
    return factor


def _state(
    node: Node,
    states: Mapping[str, State],
    shapes: Mapping[str, tuple[Dimension, ...]],
    weights: Mapping[str, tuple[int, ...]],
) -> State:
    """Where the samples are in a node's result, by the rule of its operation.

    Raises:
        Mixed: it may bring samples together, or there is no rule for it.
    """
    read = [states[name] for name in node.values]
    if node.op == "size":
        size = shapes[node.arguments["self"].name][node.arguments["dim"]]
        return _COUNT if isinstance(size, str) else None
    if node.op == "size_arithmetic":
        return _COUNT if _COUNT in read else None
    if node.op == "item":
        container, at = node.arguments.values()
        several = states[container.name]
        if isinstance(several, Several):
            return _unproven(node, states)
        return several[at] if isinstance(several, list) else several
    allowed = _SHAPES.get(node.op, "").split()
    for key, argument in node.arguments.items():
        counts = any(isinstance(v, Value) and states[v.name] == _COUNT for v in tree_leaves(argument))
        if counts and key not in allowed:
            raise Mixed(f"the operation {node.label} with the number of samples")
    if node.op not in _RULES and _samples_read(node, states):
        single = node.shape or node.dtype
        return _unproven(node, states) if single else Several(_before(node, states))
    operands = _Operands(node, states, shapes)
    if not operands.samples:
        return _made(node, shapes, weights)
    return _RULES[node.op](node, operands)


def _made(
    node: Node, shapes: Mapping[str, tuple[Dimension, ...]], weights: Mapping[str, tuple[int, ...]]
) -> Samples | None:
    """Where the samples are in what is made for each of them of something that has none.

    Such as a token that is expanded to all of them, or entries [c, ...] repeated to [N · c, ...].
    """
    source = node.arguments.get("self")
    places = [d for d, size in enumerate(node.shape) if isinstance(size, str)]
    if node.op in ("repeat", "tile", "expand") and len(places) == 1 and isinstance(source, (Value, Weight)):
        sizes = shapes[source.name] if isinstance(source, Value) else weights[source.name]
        sizes = (*[1] * (len(node.shape) - len(sizes)), *sizes)
        factor = _factor(node.shape[places[0]])
        if node.op == "expand" or factor == sizes[places[0]]:
            return Samples(places[0])
    return _by_shape(node.shape)


class _Operands:
    """The tensors among a node's arguments that have samples, with where those are."""

    def __init__(
        self, node: Node, states: Mapping[str, State], shapes: Mapping[str, tuple[Dimension, ...]]
    ) -> None:
        self.node = node
        self.shapes = shapes
        self.samples: list[tuple[str, Samples]] = []
        for key, argument in node.arguments.items():
            for leaf in tree_leaves(argument):
                state = states[leaf.name] if isinstance(leaf, Value) else None
                if isinstance(state, Samples):
                    self.samples.append((key, state))
                elif isinstance(state, list):
                    raise self.mixed()
        self._names = {
            key: argument.name for key, argument in node.arguments.items() if isinstance(argument, Value)
        }

    def mixed(self) -> Meeting:
        return Meeting(f"the operation {self.node.label} across samples")

    def only(self, *keys: str) -> tuple[Samples, tuple[Dimension, ...]]:
        """The one operand with samples, which must be the argument of one of these names (or the first)."""
        key = next((k for k in keys if k in self.node.arguments), next(iter(self.node.arguments)))
        if len(self.samples) != 1 or self.samples[0][0] != key:
            raise self.mixed()
        return self.samples[0][1], self.shapes[self._names[key]]

    def first(self) -> tuple[Samples, tuple[Dimension, ...]]:
        """The first operand, which must have samples, as others may."""
        key = next(iter(self.node.arguments))
        state = next((s for k, s in self.samples if k == key), None)
        if state is None:
            raise self.mixed()
        return state, self.shapes[self._names[key]]

    def of(self, key: str) -> tuple[Samples | None, int]:
        """Where the samples of an argument are, and its number of dimensions."""
        state = next((s for k, s in self.samples if k == key), None)
        argument = self.node.arguments[key]
        rank = len(self.shapes[argument.name]) if isinstance(argument, Value) else 0
        return state, rank


_Rule = Callable[[Node, _Operands], State]
_RULES: dict[str, _Rule] = {}


def _rule(*operations: str) -> Callable[[_Rule], _Rule]:
    def register(function: _Rule) -> _Rule:
        _RULES.update(dict.fromkeys(operations, function))
        return function

    return register


@_rule(*_POINTWISE)
def _pointwise(node: Node, operands: _Operands) -> State:
    if node.op == "dropout" and node.arguments["train"]:
        raise operands.mixed()
    ends = set()
    for key, argument in node.arguments.items():
        state, rank = operands.of(key) if isinstance(argument, Value) else (None, 0)
        if state is not None:
            ends.add((rank - state.dim, state.before))
    if len(ends) != 1:
        raise operands.mixed()
    ((end, before),) = ends
    return Samples(len(node.shape) - end, before)


@_rule("linear")
def _linear(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("input")
    if state.dim == len(shape) - 1:
        raise operands.mixed()
    return state


@_rule(*_CONVOLUTIONS)
def _convolution(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("input")
    if state.dim or len(shape) != _CONVOLUTIONS[node.op] + 2:
        raise operands.mixed()
    return state


@_rule("batch_norm", "group_norm", "instance_norm")
def _channel_norm(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("input")
    independent = node.op != "batch_norm" or (
        not node.arguments["training"] and node.arguments["running_mean"] is not None
    )
    if state.dim or len(shape) < 2 or not independent:
        raise operands.mixed()
    return state


@_rule("layer_norm", "rms_norm")
def _layer_norm(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("input")
    if state.dim >= len(shape) - len(node.arguments["normalized_shape"]):
        raise operands.mixed()
    return state


@_rule(*_POOLS)
def _pool(node: Node, operands: _Operands) -> State:
    state, shape = operands.only()
    if state.dim >= len(shape) - _POOLS[node.op]:
        raise operands.mixed()
    return state if node.shape else [state, state]


@_rule("addmm", "baddbmm")
def _added_product(node: Node, operands: _Operands) -> State:
    """What is added has samples where the product has them, or none."""
    added, first, second = list(node.arguments)[:3]
    state = _product(node, operands, first, second)
    own, rank = operands.of(added)
    if not isinstance(state, Samples):
        raise operands.mixed()
    if own is not None and (rank - own.dim, own.before) != (len(node.shape) - state.dim, state.before):
        raise operands.mixed()
    return state


@_rule("matmul", "bmm", "mm")
def _matmul(node: Node, operands: _Operands) -> State:
    first, second = list(node.arguments)[:2]
    return _product(node, operands, first, second)


def _product(node: Node, operands: _Operands, first: str, second: str) -> State:
    """Samples are a batch of both operands, or of one alone, whose rows or columns they may be too."""
    if all(key not in (first, second) for key, _ in operands.samples):
        raise operands.mixed()
    (a, a_rank), (b, b_rank) = operands.of(first), operands.of(second)
    if min(r for s, r in ((a, a_rank), (b, b_rank)) if s is not None) < 2:
        raise operands.mixed()
    rank = len(node.shape)
    if a is not None and b is not None:
        ends = {(a_rank - a.dim, a.before), (b_rank - b.dim, b.before)}
        if len(ends) != 1 or a_rank - a.dim <= 2:
            raise operands.mixed()
        return Samples(rank - (a_rank - a.dim), a.before)
    if a is not None:
        if a.dim == a_rank - 1:
            raise operands.mixed()
        lost = rank == a_rank - 1  # a vector on the other side takes the last dimension away
        return Samples(rank + lost - (a_rank - a.dim), a.before)
    assert b is not None
    if b.dim == b_rank - 2:
        raise operands.mixed()
    if rank < b_rank:  # a vector in front, which takes the second last dimension away
        return Samples(b.dim - (b.dim == b_rank - 1), b.before)
    return Samples(rank - (b_rank - b.dim), b.before)


@_rule("cat")
def _cat(node: Node, operands: _Operands) -> State:
    states = {state for _, state in operands.samples}
    if len(states) != 1 or len(operands.samples) != len(tree_leaves(node.arguments["tensors"])):
        raise operands.mixed()
    (state,) = states
    if node.arguments["dim"] % len(node.shape) == state.dim:
        raise operands.mixed()
    return state


@_rule("stack")
def _stack(node: Node, operands: _Operands) -> State:
    states = {state for _, state in operands.samples}
    if len(states) != 1 or len(operands.samples) != len(tree_leaves(node.arguments["tensors"])):
        raise operands.mixed()
    (state,) = states
    at = node.arguments["dim"] % len(node.shape)
    return state._replace(dim=state.dim + (at <= state.dim))


@_rule("split", "chunk", "unbind", "split_with_sizes", "tensor_split")
def _pieces(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("self")
    dim = node.arguments["dim"] % len(shape)
    if dim == state.dim:
        raise operands.mixed()
    if node.op == "unbind" and dim < state.dim:
        state = state._replace(dim=state.dim - 1)
    return [state] * int(shape[dim])


@_rule("select", "slice", "narrow")
def _picked(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("self")
    dim = node.arguments["dim"] % len(shape)
    if node.op != "select":
        if dim == state.dim and node.shape[dim] != shape[dim]:
            raise operands.mixed()
        return state
    if dim == state.dim:
        raise operands.mixed()
    return state._replace(dim=state.dim - (dim < state.dim))


@_rule("flatten", "unflatten", "reshape", "squeeze", "unsqueeze", "view_as", "reshape_as")
def _reshape(node: Node, operands: _Operands) -> State:
    """Views that keep the order of entries in memory order."""
    state, shape = operands.first() if node.op.endswith("_as") else operands.only("self")
    if node.op == "squeeze" and node.arguments.get("dim") is None:
        raise Mixed("squeeze without a dimension, which takes a single sample's away")
    places = [d for d, size in enumerate(node.shape) if isinstance(size, str)]
    if len(places) != 1:
        raise operands.mixed()
    (dim,) = places
    ahead = [*shape[: state.dim], *node.shape[:dim]]
    if not all(isinstance(size, int) for size in ahead):
        raise operands.mixed()
    before = math.prod(size for size in shape[: state.dim] if isinstance(size, int)) * state.before
    now = math.prod(size for size in node.shape[:dim] if isinstance(size, int))
    if not now or before % now or _factor(node.shape[dim]) % (before // now):
        raise operands.mixed()
    return Samples(dim, before // now)


@_rule("permute")
def _permute(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("self")
    return state._replace(dim=[d % len(shape) for d in node.arguments["dims"]].index(state.dim))


@_rule("transpose")
def _transpose(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("self")
    one, other = (
        node.arguments.get(f"dim{i}", node.arguments.get(f"axis{i}", i)) % len(shape) for i in (0, 1)
    )
    return state._replace(dim={one: other, other: one}.get(state.dim, state.dim))


@_rule("movedim", "numpy_T", "mT", "diagonal")
def _moved(node: Node, operands: _Operands) -> State:
    """Views of other dimensions: those of the samples are found again by their number of entries."""
    state, shape = operands.only("self")
    mark, others = 7, 2
    sizes = [mark if d == state.dim else others for d in range(len(shape))]
    result = node.target(**{**node.arguments, "self": torch.empty(sizes, device="meta")}).shape
    if tuple(result).count(mark) != 1 or len(result) != len(node.shape):
        raise operands.mixed()
    return state._replace(dim=tuple(result).index(mark))


@_rule("roll", "flip")
def _turned(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("self")
    dims = node.arguments["dims"]
    dims = [dims] if isinstance(dims, int) else dims
    if not dims or state.dim in {d % len(shape) for d in dims}:
        raise operands.mixed()
    return state


@_rule("repeat_interleave", "index_select")
def _along(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("self")
    dim = node.arguments.get("dim")
    each = isinstance(node.arguments.get("repeats"), int)  # of every entry one after another
    if dim is None or (dim % len(shape) == state.dim and not each):
        raise operands.mixed()
    return state


@_rule("index")
def _index(node: Node, operands: _Operands) -> State:
    """Constant numbers along dimensions that follow one another take the place of these dimensions.

    So do numbers of the samples' own, along one dimension of something that all samples share.
    """
    given = [d for d, index in enumerate(node.arguments["indices"]) if index is not None]
    if len(given) == 1 and [key for key, _ in operands.samples] == ["indices"]:
        ((_, state),) = operands.samples
        return state._replace(dim=given[0] + state.dim)
    state, shape = operands.only("self")
    if not given or given != list(range(given[0], given[-1] + 1)) or state.dim in given:
        raise operands.mixed()
    moved = len(node.shape) - len(shape) if state.dim > given[0] else 0
    return state._replace(dim=state.dim + moved)


@_rule("pad", "constant_pad_nd")
def _padded(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("self")
    if state.dim >= len(shape) - len(node.arguments["pad"]) // 2:
        raise operands.mixed()
    return state


@_rule("expand", "repeat", "tile", "expand_as")
def _expand(node: Node, operands: _Operands) -> State:
    if node.op == "expand_as" and operands.of("self")[0] is None:
        return _by_shape(node.shape)
    state, shape = operands.first()
    if node.op != "expand_as" and len(operands.samples) > 1:
        raise operands.mixed()
    state = state._replace(dim=state.dim + len(node.shape) - len(shape))
    if node.shape[state.dim] != shape[state.dim - len(node.shape) + len(shape)]:
        raise operands.mixed()
    if sum(isinstance(size, str) for size in node.shape) > 1:
        raise operands.mixed()
    return state


@_rule("max", "min")
def _extreme(node: Node, operands: _Operands) -> State:
    """Of two tensors, or of one along a dimension, with the places where they were."""
    if "other" in node.arguments:
        return _pointwise(node, operands)
    state = _reduced(node, operands)
    return [state, state] if isinstance(state, Samples) else state


@_rule(
    "mean",
    "sum",
    "amax",
    "amin",
    "prod",
    "any",
    "all",
    "var",
    "std",
    "logsumexp",
    "linalg_vector_norm",
    "norm",
)
def _reduced(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("self")
    dims = node.arguments.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    gone = {d % len(shape) for d in dims} if dims else set(range(len(shape)))
    if state.dim in gone:
        raise operands.mixed()
    if node.arguments.get("keepdim"):
        return state
    return state._replace(dim=state.dim - sum(d < state.dim for d in gone))


@_rule("argmax", "argmin")
def _extreme_place(node: Node, operands: _Operands) -> State:
    if node.arguments.get("dim") is None:
        raise operands.mixed()
    return _reduced(node, operands)


@_rule("topk", "sort", "argsort")
def _ordered(node: Node, operands: _Operands) -> State:
    """Along a dimension, the last one unless it is named."""
    state, shape = operands.only("self")
    if node.arguments.get("dim", -1) % max(1, len(shape)) == state.dim:
        raise operands.mixed()
    return state if node.op == "argsort" else [state, state]


@_rule("gather", "scatter", "scatter_add")
def _by_number(node: Node, operands: _Operands) -> State:
    """All tensors have their samples in the same place, which is not along the dimension of the numbers."""
    states = {state for _, state in operands.samples}
    tensors = [v for v in node.arguments.values() if isinstance(v, (Value, Weight))]
    dim = node.arguments["dim"] % max(1, len(node.shape))
    if len(states) != 1 or len(operands.samples) != len(tensors):
        raise operands.mixed()
    (state,) = states
    shapes = {operands.shapes[v.name][state.dim] for v in tensors if isinstance(v, Value)}
    if state.dim == dim or len(shapes) != 1:
        raise operands.mixed()
    return state


@_rule("softmax", "log_softmax", "cumsum", "glu")
def _normalised(node: Node, operands: _Operands) -> State:
    state, shape = operands.only("self")
    if node.arguments["dim"] % len(shape) == state.dim:
        raise operands.mixed()
    return state


@_rule("scaled_dot_product_attention")
def _attention(node: Node, operands: _Operands) -> State:
    ends = set()
    for key in ("query", "key", "value"):
        state, rank = operands.of(key)
        if state is not None:
            if rank - state.dim <= 2:
                raise operands.mixed()
            ends.add((rank - state.dim, state.before))
    mask, rank = operands.of("attn_mask")
    if mask is not None and rank - mask.dim <= 2:
        raise operands.mixed()
    if mask is not None:
        ends.add((rank - mask.dim, mask.before))
    if len(ends) != 1:
        raise operands.mixed()
    ((end, before),) = ends
    return Samples(len(node.shape) - end, before)


@_rule("index_samples")
def _index_samples(node: Node, operands: _Operands) -> State:
    if any(state != Samples(0) for _, state in operands.samples):
        raise operands.mixed()
    return Samples(0)


@_rule("embedding")
def _embedding(node: Node, operands: _Operands) -> State:
    state, _ = operands.only("indices")
    return state


def check_apart(program: Program, state: Mapping[str, Tensor], x: inputs.Samples, label: str) -> None:
    """Raise ValueError where a Program's results depend on which samples it is given together.

    For what runs a Program in batches, and needs results of single samples.

    Args:
        program, state: the network.
        x: a few samples.
        label: what the error calls the network.
    """
    cause = program.bound
    if not cause and len(x) > 1:
        x, half = x[:_FEW], len(x[:_FEW]) // 2
        with torch.no_grad():
            whole, first, rest = (
                program.run(state, *inputs.leaves(part)) for part in (x, x[:half], x[half:])
            )
        for a, b, c in zip(*(tree_leaves(output) for output in (whole, first, rest)), strict=True):
            if isinstance(a, Tensor) and not _alike(a, b, c):
                cause = "samples that influence one another"
    if cause:
        raise ValueError(
            f"{label} cannot be taken apart sample by sample: {cause}. Results would depend on how "
            "samples are "
            "put into batches"
        )


def _alike(whole: Tensor, first: Tensor, rest: Tensor) -> bool:
    if not whole.ndim or first.shape[1:] != whole.shape[1:] or rest.shape[1:] != whole.shape[1:]:
        return False
    parts = torch.cat([first, rest])
    known = whole[torch.isfinite(whole)] if whole.is_floating_point() else whole[:0]
    limit = _APART * float(known.abs().max()) if known.numel() else 0.0
    return parts.shape == whole.shape and torch.allclose(parts, whole, 0.0, limit, equal_nan=True)
