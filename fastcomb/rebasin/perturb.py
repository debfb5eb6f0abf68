"""Perturbed matchings: how much of an alignment is needed?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from fastcomb.rebasin.alignment import Alignment

Units = NDArray[np.int64]
#: (present permutation [units], units in random order [units], how many, generator) -> step [units].
Kind = Callable[[Units, Units, int, np.random.Generator], Units]


def perturb(alignment: Alignment, *, fraction: float, kind: str, seed: int = 0) -> Alignment:
    """An alignment with a fraction of each group's units matched otherwise.

    The result is still network B with its units in another order, so it computes B's function. With one
    seed, a larger fraction disturbs the same units and more. Of ``k = round(fraction · units)`` units in
    a group,

    - ``"swap"``: disjoint pairs exchange their places (an odd unit is left out), so exactly
      ``2 · (k // 2)`` units move;
    - ``"shuffle"``: all k are permuted uniformly at random among themselves, so about one stays;
    - ``"partial"``: each place in turn gets back the unit that it has in the unaligned network, in
      exchange with the one there; fraction 1 is network B as it was given.

    Groups inside the units of another (the features of attention heads) move along with these first, and
    then are perturbed themselves.

    Args:
        alignment: from :func:`fastcomb.rebasin.align`; unchanged.
        fraction: of the units of each group, in [0, 1].
        kind: "swap", "shuffle" or "partial".
        seed: of the random choices.

    Returns:
        an :class:`Alignment` whose options name the perturbation; its ``objective`` is the search's, from
        before.

    Raises:
        TypeError: ``alignment`` is none.
        ValueError: ``fraction`` is outside [0, 1], or ``kind`` is unknown.

    Example:
        >>> alignment = fc.rebasin.align(a, b)
        >>> disturbed = fc.rebasin.perturb(alignment, fraction=0.5, kind="swap")
        >>> int((disturbed.permutations[0] != alignment.permutations[0]).sum())  # of eight units
        4
        >>> torch.allclose(disturbed.model(x), b(x), atol=1e-5)
        True
    """
    check(kind, fraction)
    if not isinstance(alignment, Alignment):
        raise TypeError(f"alignment is a {type(alignment).__name__}; pass what rebasin.align returned")
    groups = alignment.symmetries
    present = alignment.permutations
    steps = groups.identity()
    for number, group in enumerate(groups.groups):
        generator = np.random.default_rng([seed, number])
        order = generator.permutation(group.size)
        step = KINDS[kind](present[number].numpy(), order, round(fraction * group.size), generator)
        alone = groups.identity()
        steps[number] = alone[number] = torch.from_numpy(step)
        present = groups.compose(present, alone)  # what lies inside has moved before its turn comes
    options = {**alignment.options, "perturbation": {"kind": kind, "fraction": fraction, "seed": seed}}
    return dataclasses.replace(alignment.followed_by(steps), options=options)


def check(kind: str, fraction: float) -> None:
    """Raise ValueError unless kind and fraction are among those :func:`perturb` takes."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is none of {', '.join(map(repr, KINDS))}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction} is outside [0, 1]")


def _swap(present: Units, order: Units, count: int, generator: np.random.Generator) -> Units:
    step = np.arange(len(order))
    one, other = order[: count // 2 * 2].reshape(-1, 2).T
    step[one], step[other] = other, one
    return step


def _shuffle(present: Units, order: Units, count: int, generator: np.random.Generator) -> Units:
    step = np.arange(len(order))
    step[order[:count]] = generator.permutation(order[:count])
    return step


def _partial(present: Units, order: Units, count: int, generator: np.random.Generator) -> Units:
    step = np.arange(len(order))
    for home in order[:count]:
        there = np.flatnonzero(present[step] == home)[0]
        step[home], step[there] = step[there], step[home]
    return step


KINDS: dict[str, Kind] = {"swap": _swap, "shuffle": _shuffle, "partial": _partial}
