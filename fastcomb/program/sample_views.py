"""Where samples are after an operation that moves, joins, repeats or picks entries."""

from __future__ import annotations

import math

import torch
from torch.utils._pytree import tree_leaves

from fastcomb.program.ir import Node, Value, Weight
from fastcomb.program.sample_states import Mixed, Operands, Samples, State, by_shape, factor, rule


@rule("cat")
def _cat(node: Node, operands: Operands) -> State:
    states = {state for _, state in operands.samples}
    if len(states) != 1 or len(operands.samples) != len(tree_leaves(node.arguments["tensors"])):
        raise operands.mixed()
    (state,) = states
    if node.arguments["dim"] % len(node.shape) == state.dim:
        raise operands.mixed()
    return state


@rule("stack")
def _stack(node: Node, operands: Operands) -> State:
    states = {state for _, state in operands.samples}
    if len(states) != 1 or len(operands.samples) != len(tree_leaves(node.arguments["tensors"])):
        raise operands.mixed()
    (state,) = states
    at = node.arguments["dim"] % len(node.shape)
    return state._replace(dim=state.dim + (at <= state.dim))


@rule("split", "chunk", "unbind", "split_with_sizes", "tensor_split")
def _pieces(node: Node, operands: Operands) -> State:
    state, shape = operands.only("self")
    dim = node.arguments["dim"] % len(shape)
    if dim == state.dim:
        raise operands.mixed()
    if node.op == "unbind" and dim < state.dim:
        state = state._replace(dim=state.dim - 1)
    return [state] * int(shape[dim])


@rule("select", "slice", "narrow")
def _picked(node: Node, operands: Operands) -> State:
    state, shape = operands.only("self")
    dim = node.arguments["dim"] % len(shape)
    if node.op != "select":
        if dim == state.dim and node.shape[dim] != shape[dim]:
            raise operands.mixed()
        return state
    if dim == state.dim:
        raise operands.mixed()
    return state._replace(dim=state.dim - (dim < state.dim))


@rule("flatten", "unflatten", "reshape", "squeeze", "unsqueeze", "view_as", "reshape_as")
def _reshape(node: Node, operands: Operands) -> State:
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
    if not now or before % now or factor(node.shape[dim]) % (before // now):
        raise operands.mixed()
    return Samples(dim, before // now)


@rule("permute")
def _permute(node: Node, operands: Operands) -> State:
    state, shape = operands.only("self")
    return state._replace(dim=[d % len(shape) for d in node.arguments["dims"]].index(state.dim))


@rule("transpose")
def _transpose(node: Node, operands: Operands) -> State:
    state, shape = operands.only("self")
    one, other = (
        node.arguments.get(f"dim{i}", node.arguments.get(f"axis{i}", i)) % len(shape) for i in (0, 1)
    )
    return state._replace(dim={one: other, other: one}.get(state.dim, state.dim))


@rule("movedim", "numpy_T", "mT", "diagonal")
def _moved(node: Node, operands: Operands) -> State:
    """Views of other dimensions: those of the samples are found again by their number of entries."""
    state, shape = operands.only("self")
    mark, others = 7, 2
    sizes = [mark if d == state.dim else others for d in range(len(shape))]
    result = node.target(**{**node.arguments, "self": torch.empty(sizes, device="meta")}).shape
    if tuple(result).count(mark) != 1 or len(result) != len(node.shape):
        raise operands.mixed()
    return state._replace(dim=tuple(result).index(mark))


@rule("roll", "flip")
def _turned(node: Node, operands: Operands) -> State:
    state, shape = operands.only("self")
    dims = node.arguments["dims"]
    dims = [dims] if isinstance(dims, int) else dims
    if not dims or state.dim in {d % len(shape) for d in dims}:
        raise operands.mixed()
    return state


@rule("repeat_interleave", "index_select")
def _along(node: Node, operands: Operands) -> State:
    state, shape = operands.only("self")
    dim = node.arguments.get("dim")
    each = isinstance(node.arguments.get("repeats"), int)  # of every entry one after another
    if dim is None or (dim % len(shape) == state.dim and not each):
        raise operands.mixed()
    return state


@rule("index")
def _index(node: Node, operands: Operands) -> State:
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


@rule("pad", "constant_pad_nd")
def _padded(node: Node, operands: Operands) -> State:
    state, shape = operands.only("self")
    if state.dim >= len(shape) - len(node.arguments["pad"]) // 2:
        raise operands.mixed()
    return state


@rule("expand", "repeat", "tile", "expand_as")
def _expand(node: Node, operands: Operands) -> State:
    if node.op == "expand_as" and operands.of("self")[0] is None:
        return by_shape(node.shape)
    state, shape = operands.first()
    if node.op != "expand_as" and len(operands.samples) > 1:
        raise operands.mixed()
    state = state._replace(dim=state.dim + len(node.shape) - len(shape))
    if node.shape[state.dim] != shape[state.dim - len(node.shape) + len(shape)]:
        raise operands.mixed()
    if sum(isinstance(size, str) for size in node.shape) > 1:
        raise operands.mixed()
    return state


@rule("gather", "scatter", "scatter_add")
def _by_number(node: Node, operands: Operands) -> State:
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


@rule("index_samples")
def _index_samples(node: Node, operands: Operands) -> State:
    if any(state != Samples(0) for _, state in operands.samples):
        raise operands.mixed()
    return Samples(0)


@rule("embedding")
def _embedding(node: Node, operands: Operands) -> State:
    state, _ = operands.only("indices")
    return state
