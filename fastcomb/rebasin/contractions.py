"""The rule of sums of products: matrix products, attention and einsum."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from fastcomb.program.ir import Dimension
from fastcomb.rebasin.axes import (
    Axes,
    Axis,
    Block,
    Factor,
    as_if_varied,
    blocks,
    is_plain,
    plain,
    replace,
)
from fastcomb.rebasin.reader import Reader

#: The axes of a tensor, and its shape.
Operand = tuple[Axes, Sequence[Dimension]]


def contraction(
    reader: Reader,
    operands: Sequence[Operand],
    labels: Sequence[str],
    result: str,
    shape: Sequence[Dimension],
) -> Axes:
    """A sum of products of tensors over the labels that the result lacks.

    Args:
        operands: axes and shapes.
        labels: one letter for each axis of each operand; entries along axes of one letter meet.
        result: the letters of the result.
        shape: of the result.
    """
    _meet(reader, operands, labels)
    left = [
        (reader.contract(axes, [d for d, label in enumerate(term) if label not in result]), sizes)
        for (axes, sizes), term in zip(operands, labels, strict=True)
    ]
    kept = ["".join(label if label in result else " " for label in term) for term in labels]
    _meet(reader, left, kept)
    out: list[Axis] = list(plain(shape))
    closest = [-1] * len(result)
    for (axes, _), term in zip(left, labels, strict=True):
        unshared = [axis for axis, label in zip(axes, term, strict=True) if "".join(labels).count(label) == 1]
        for axis, label in zip(axes, term, strict=True):
            # a shared axis is the operand's whose own entries lie behind it: its blocks remain whole
            behind = sum(block in blocks(unshared) for block in blocks((axis,)))
            at = result.find(label)
            if at >= 0 and not is_plain(axis) and behind > closest[at]:
                out[at], closest[at] = axis, behind
    return reader.whole(_varied(reader, tuple(out), left, labels, result))


def _meet(reader: Reader, operands: Sequence[Operand], labels: Sequence[str]) -> None:
    """Axes of one letter meet, unless they are broadcast."""
    pairs = itertools.combinations(zip(operands, labels, strict=True), 2)
    for ((one, sizes), term), ((other, others), further) in pairs:
        shared = [(term.index(c), further.index(c)) for c in term if c in further and c != " "]
        reader.meet(one, other, [(a, b) for a, b in shared if 1 not in (sizes[a], others[b])])


def _varied(
    reader: Reader, out: Axes, operands: Sequence[Operand], labels: Sequence[str], result: str
) -> Axes:
    """Axes of a result where an operand is repeated that others vary along: entries of its own."""
    for at, label in enumerate(result):
        others = [
            (axes, term.index(label))
            for (axes, sizes), term in zip(operands, labels, strict=True)
            if label in term and sizes[term.index(label)] != 1
        ]
        if len(others) < 2:
            continue
        for place, factor in enumerate(out[at]):
            if factor.repeated and not factor.size[1] and not is_plain(out[at]):
                out = _copies(reader, out, at, place)
        out = (*out[:at], *as_if_varied(out[at : at + 1]), *out[at + 1 :])
        for axes, dim in others:
            reader.meet(out, axes, [(at, dim)])
    return out


def _copies(reader: Reader, axes: Axes, at: int, place: int) -> Axes:
    """A repeated factor as another dimension of the block beside it, whose entries carry their copies."""
    (count, _), *_ = axes[at][place]
    block = blocks(axes[at : at + 1])[-1]
    last = block.ids.ndim
    copies = Block(reader.atoms.new(block.ids.size * count).reshape(*block.ids.shape, count))
    reader.atoms.union(reader.carriers(copies, list(range(last)), False), block.ids)
    axes = replace(axes, block, copies, {d: d for d in range(last)})
    axis = (*axes[at][:place], Factor((count, ()), copies, last), *axes[at][place + 1 :])
    return (*axes[:at], axis, *axes[at + 1 :])
