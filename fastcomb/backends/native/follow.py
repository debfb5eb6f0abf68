"""Which nodes the instruction of another one takes in."""

from __future__ import annotations

from fastcomb.backends.native.lower import Lowering
from fastcomb.backends.native.memory import Value
from fastcomb.program import Node
from fastcomb.program import Value as Ref
from fastcomb.program.fold import channels_second


def follow(
    low: Lowering, node: Node, *, norms: bool
) -> tuple[Node | None, Node | None, Value | None, Node | None]:
    """What the instruction of ``node`` can do as well: (batch norm, addition, its operand, ReLU)."""
    norm = addition = relu = None
    residual: Value | None = None
    shape = tuple(low.shapes[node.name].shape)
    last = node
    for reader in low.program.followers(node):
        if reader.op == "batch_norm" and last is node and norms and channels_second(node):
            norm = reader
        elif reader.op == "add" and residual is None and reader.arguments.get("alpha", 1) == 1:
            other = _other_operand(low, reader, last)
            if not isinstance(other, Value) or other.shape != shape or other.meta.dtype != low.dtype:
                break
            if other.strides[1 if len(shape) == 4 else -1] != 1:
                break
            addition, residual = reader, other
        elif reader.op == "relu":
            relu = reader
        else:
            break
        last = reader
        if relu:
            break
    return norm, addition, residual, relu


def _other_operand(low: Lowering, addition: Node, node: Node) -> Value | None:
    """What is added to the result of ``node``, if it is there already."""
    operands = [addition.arguments[k] for k in ("self", "other")]
    for operand in operands:
        if isinstance(operand, Ref) and operand.name != node.name:
            found = low.values.get(operand.name)
            return found if isinstance(found, Value) else None
    return None
