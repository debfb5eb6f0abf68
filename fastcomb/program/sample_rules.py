"""Where samples are after an operation that computes."""

from __future__ import annotations

from fastcomb.program.ir import Node, Value
from fastcomb.program.sample_states import Operands, Samples, State, rule

_POINTWISE = """
    relu leaky_relu gelu silu tanh sigmoid elu softplus hardtanh relu6 hardswish hardsigmoid mish selu
    add sub mul div neg exp sqrt rsqrt pow abs identity dropout cast
    rsub reciprocal square sin cos log log1p expm1 erf sign floor ceil maximum minimum clamp clamp_min
    tan asin acos atan sinh cosh exp2 log2 log10 erfc round trunc
    clamp_max threshold celu hardshrink softshrink log_sigmoid prelu isnan
    eq ne lt le gt ge logical_not logical_and logical_or logical_xor where masked_fill
    bitwise_not bitwise_and bitwise_or bitwise_xor
""".split()
#: Along some dimensions, or all of them where none is named.
_REDUCTIONS = """
    mean sum amax amin prod any all var std logsumexp linalg_vector_norm norm argmax argmin
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


@rule(*_POINTWISE)
def _pointwise(node: Node, operands: Operands) -> State:
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


@rule("linear")
def _linear(node: Node, operands: Operands) -> State:
    state, shape = operands.only("input")
    if state.dim == len(shape) - 1:
        raise operands.mixed()
    return state


@rule(*_CONVOLUTIONS)
def _convolution(node: Node, operands: Operands) -> State:
    state, shape = operands.only("input")
    if state.dim or len(shape) != _CONVOLUTIONS[node.op] + 2:
        raise operands.mixed()
    return state


@rule("batch_norm", "group_norm", "instance_norm")
def _channel_norm(node: Node, operands: Operands) -> State:
    state, shape = operands.only("input")
    independent = node.op != "batch_norm" or (
        not node.arguments["training"] and node.arguments["running_mean"] is not None
    )
    if state.dim or len(shape) < 2 or not independent:
        raise operands.mixed()
    return state


@rule("layer_norm", "rms_norm")
def _layer_norm(node: Node, operands: Operands) -> State:
    state, shape = operands.only("input")
    if state.dim >= len(shape) - len(node.arguments["normalized_shape"]):
        raise operands.mixed()
    return state


@rule(*_POOLS)
def _pool(node: Node, operands: Operands) -> State:
    state, shape = operands.only()
    if state.dim >= len(shape) - _POOLS[node.op]:
        raise operands.mixed()
    return state if node.shape else [state, state]


@rule("addmm", "baddbmm")
def _added_product(node: Node, operands: Operands) -> State:
    """What is added has samples where the product has them, or none."""
    added, first, second = list(node.arguments)[:3]
    state = _product(node, operands, first, second)
    own, rank = operands.of(added)
    if not isinstance(state, Samples):
        raise operands.mixed()
    if own is not None and (rank - own.dim, own.before) != (len(node.shape) - state.dim, state.before):
        raise operands.mixed()
    return state


@rule("matmul", "bmm", "mm")
def _matmul(node: Node, operands: Operands) -> State:
    first, second = list(node.arguments)[:2]
    return _product(node, operands, first, second)


def _product(node: Node, operands: Operands, first: str, second: str) -> State:
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


@rule("max", "min")
def _extreme(node: Node, operands: Operands) -> State:
    """Of two tensors, or of one along a dimension, with the places where they were."""
    if "other" in node.arguments:
        return _pointwise(node, operands)
    state = _reduced(node, operands)
    return [state, state] if isinstance(state, Samples) else state


@rule(*_REDUCTIONS)
def _reduced(node: Node, operands: Operands) -> State:
    state, shape = operands.only("self")
    dims = node.arguments.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    gone = {d % len(shape) for d in dims} if dims else set(range(len(shape)))
    if state.dim in gone:
        raise operands.mixed()
    if node.arguments.get("keepdim"):
        return state
    return state._replace(dim=state.dim - sum(d < state.dim for d in gone))


@rule("topk", "sort", "argsort")
def _ordered(node: Node, operands: Operands) -> State:
    """Along a dimension, the last one unless it is named."""
    state, shape = operands.only("self")
    if node.arguments.get("dim", -1) % max(1, len(shape)) == state.dim:
        raise operands.mixed()
    return state if node.op == "argsort" else [state, state]


@rule("softmax", "log_softmax", "cumsum", "glu")
def _normalised(node: Node, operands: Operands) -> State:
    state, shape = operands.only("self")
    if node.arguments["dim"] % len(shape) == state.dim:
        raise operands.mixed()
    return state


@rule("scaled_dot_product_attention")
def _attention(node: Node, operands: Operands) -> State:
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
