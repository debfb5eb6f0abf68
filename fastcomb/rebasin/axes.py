"""Axes of values as products of factors: how views rearrange the entries of a tensor.

An axis is a row-major product of factors. A factor is either plain (batch, tokens, pixels: nothing to
permute) or one dimension of a *block*, an array of atoms. A linear layer's output is a block with one
dimension; seen as heads × features it becomes a block with two, of which either may be selected, moved
to another axis or merged with the batch, and still every entry is known by its atom.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from fastcomb.program.ir import Dimension
from fastcomb.rebasin.bundles import Ids

#: A number, and the symbols that it is multiplied with (the batch is "N").
Size = tuple[int, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Block:
    """Atoms [..] of which one or more axes of a value are made."""

    ids: Ids


class Factor(NamedTuple):
    """Part of an axis: dimension ``dim`` of ``block``, or plain.

    A plain one may be ``repeated``: nothing varies along it, so that what it meets may have any order.
    """

    size: Size
    block: Block | None = None
    dim: int = 0
    repeated: bool = False


Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]


class ViewError(Exception):
    """A view that factors cannot express."""


def size_of(dimension: Dimension) -> Size:
    """A dimension of a value as a size; an expression that is no product is a symbol of its own."""
    if isinstance(dimension, int):
        return dimension, ()
    number = 1
    symbols: list[str] = []
    for part in dimension.split("*"):
        if part.isdigit():
            number *= int(part)
        else:
            symbols.append(part)
    if dimension.count("*") and not all(part.isidentifier() or part.isdigit() for part in symbols):
        return 1, (dimension,)
    return number, tuple(sorted(symbols))


def times(sizes: Iterable[Size]) -> Size:
    """The product of sizes: numbers are multiplied, symbols put together."""
    number = 1
    symbols: tuple[str, ...] = ()
    for n, s in sizes:
        number *= n
        symbols += s
    return number, tuple(sorted(symbols))


def over(size: Size, part: Size) -> Size | None:
    """The quotient of two sizes, None where one does not divide the other."""
    rest = list(size[1])
    for symbol in part[1]:
        if symbol not in rest:
            return None
        rest.remove(symbol)
    if not part[0] or size[0] % part[0]:
        return None
    return size[0] // part[0], tuple(rest)


def plain(shape: Sequence[Dimension]) -> Axes:
    """Axes with nothing to permute."""
    return tuple(() if dimension == 1 else (Factor(size_of(dimension)),) for dimension in shape)


def repeats(size: Dimension) -> Axis:
    """An axis along which nothing varies."""
    return () if size == 1 else (Factor(size_of(size), repeated=True),)


def as_if_varied(axes: Axes) -> Axes:
    """Axes of which no factor counts as repeated."""
    return tuple(tuple(factor._replace(repeated=False) for factor in axis) for axis in axes)


def is_plain(axis: Axis) -> bool:
    """Whether nothing in an axis could be permuted."""
    return all(factor.block is None for factor in axis)


def blocks(axes: Iterable[Axis]) -> list[Block]:
    """The blocks that axes are made of, each once."""
    by_id: dict[int, Block] = {}
    for axis in axes:
        for factor in axis:
            if factor.block is not None:
                by_id.setdefault(id(factor.block), factor.block)
    return list(by_id.values())


def replace(axes: Axes, old: Block, new: Block | None, dims: dict[int, int]) -> Axes:
    """Axes with one block exchanged for another; old dimension d is the new one's ``dims[d]``, or gone."""

    def exchange(factor: Factor) -> Axis:
        if factor.block is not old:
            return (factor,)
        return (Factor(factor.size, new, dims[factor.dim]),) if factor.dim in dims else ()

    return tuple(tuple(new_one for factor in axis for new_one in exchange(factor)) for axis in axes)


def split_factor(axes: Axes, axis: int, position: int, lead: Size) -> Axes:
    """Split a factor in two, of which the first has size ``lead``."""
    factor = axes[axis][position]
    rest = over(factor.size, lead)
    if rest is None:
        raise ViewError
    if factor.block is None:
        two: Axis = (factor._replace(size=lead), factor._replace(size=rest))
        return (*axes[:axis], axes[axis][:position] + two + axes[axis][position + 1 :], *axes[axis + 1 :])
    shape = factor.block.ids.shape
    new = Block(factor.block.ids.reshape(*shape[: factor.dim], lead[0], rest[0], *shape[factor.dim + 1 :]))
    out = []
    for old in axes:
        parts: list[Factor] = []
        for one in old:
            if one.block is not factor.block:
                parts.append(one)
            elif one.dim == factor.dim:
                parts += [Factor(lead, new, one.dim), Factor(rest, new, one.dim + 1)]
            else:
                parts.append(Factor(one.size, new, one.dim + (one.dim > factor.dim)))
        out.append(tuple(parts))
    return tuple(out)


def reshape(axes: Axes, shape: Sequence[Dimension]) -> Axes:
    """The axes of a row-major view of another shape.

    Raises:
        ViewError: sizes that do not divide each other.
    """
    row: list[Factor] = []
    for factor in (factor for axis in axes for factor in axis):
        if row and factor[1:] == row[-1][1:] and factor.block is None:
            row[-1] = factor._replace(size=times((row[-1].size, factor.size)))  # which can be cut anywhere
        else:
            row.append(factor)
    flat: Axes = (tuple(row),)
    cuts = [0]
    for dimension in shape:
        size, end = size_of(dimension), cuts[-1]
        while size != (1, ()):
            if end == len(flat[0]):
                raise ViewError
            rest = over(size, flat[0][end].size)
            if rest is None:
                flat = split_factor(flat, 0, end, size)
                rest = (1, ())
            size, end = rest, end + 1
        cuts.append(end)
    if cuts[-1] != len(flat[0]):
        raise ViewError
    return tuple(flat[0][low:high] for low, high in pairwise(cuts))


def refine(one: Axes, i: int, other: Axes, j: int) -> tuple[Axes, Axes]:
    """Split the factors of two axes of equal size until they correspond one to one.

    Raises:
        ViewError: sizes that do not divide each other.
    """
    position = 0
    while position < max(len(one[i]), len(other[j])):
        if position >= min(len(one[i]), len(other[j])):
            raise ViewError
        a, b = one[i][position].size, other[j][position].size
        if a != b:
            if over(a, b) is not None:
                one = split_factor(one, i, position, b)
            else:
                other = split_factor(other, j, position, a)
        position += 1
    return one, other
