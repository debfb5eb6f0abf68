"""Does a Program treat every sample by itself, whatever their number?

Backends divide samples into blocks, so a value of one sample may depend on no other sample, nor on how many
there are. The dimension of the samples is followed from the input through every operation; what is not known
to keep samples apart is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcomb.program import sample_rules, sample_views
from fastcomb.program.ir import Dimension, Node, Program, Value, Weight, multiple
from fastcomb.program.sample_states import (
    COUNT,
    RULES,
    Meeting,
    Mixed,
    Operands,
    Samples,
    Several,
    State,
    by_shape,
    factor,
)  # fmt: skip
from fastcomb.utils import inputs

#: Where operations have their rules, which these files register.
_REGISTERED = (sample_rules, sample_views)
#: Samples that tell whether they influence one another, and how much results may then differ, of the largest.
_FEW, _APART = 4, 1e-4

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
        initial = by_shape(shape)
        if initial is None or initial != Samples(0):
            raise Mixed(f"a result that is computed for {shape[0] if shape else 'no'} samples only")
        states[name] = initial
    shapes = program.value_shapes
    for node in program:
        states[node.name] = _state(node, states, shapes, program.shapes)
        if node.op not in RULES and _samples_read(node, states):
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
    state = by_shape(node.shape)
    if state is None:
        raise Mixed(f"the operation {node.label}, which may bring samples together")
    return state


def _before(node: Node, states: Mapping[str, State]) -> int:
    """What all that a node reads has before its samples; 0 where that differs."""
    found = {state.before for name in node.values if isinstance(state := states[name], (Samples, Several))}
    return found.pop() if len(found) == 1 else 0


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
        return COUNT if isinstance(size, str) else None
    if node.op == "size_arithmetic":
        return COUNT if COUNT in read else None
    if node.op == "item":
        container, at = node.arguments.values()
        several = states[container.name]
        if isinstance(several, Several):
            return _unproven(node, states)
        return several[at] if isinstance(several, list) else several
    allowed = _SHAPES.get(node.op, "").split()
    for key, argument in node.arguments.items():
        counts = any(isinstance(v, Value) and states[v.name] == COUNT for v in tree_leaves(argument))
        if counts and key not in allowed:
            raise Mixed(f"the operation {node.label} with the number of samples")
    if node.op not in RULES and _samples_read(node, states):
        single = node.shape or node.dtype
        return _unproven(node, states) if single else Several(_before(node, states))
    operands = Operands(node, states, shapes)
    if not operands.samples:
        return _made(node, shapes, weights)
    return RULES[node.op](node, operands)


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
        each = factor(node.shape[places[0]])
        if node.op == "expand" or each == sizes[places[0]]:
            return Samples(places[0])
    return by_shape(node.shape)


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
