"""What every matching method is given, and gives back."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastcomb.program import Program
from fastcomb.rebasin.symmetries import Matching, Symmetries
from fastcomb.utils.inputs import Samples


@dataclass(frozen=True, eq=False)
class Problem:
    """Two networks to match.

    Attributes:
        model: a module of their architecture, in eval mode.
        program: its captured Program.
        example: inputs that it was captured on.
        symmetries: its permutation groups.
        a, b: parameters and buffers of the networks by name, on the CPU.
        counted: names of the parameters, which weight-space objectives sum over.
        data: batches (x, y), or None. y is None where only inputs were given.
        seed: of all random choices.
        progress: whether to show a progress bar; None for where standard error is a terminal.
    """

    model: nn.Module = field(repr=False)
    program: Program = field(repr=False)
    example: Samples = field(repr=False)
    symmetries: Symmetries
    a: Mapping[str, Tensor] = field(repr=False)
    b: Mapping[str, Tensor] = field(repr=False)
    counted: frozenset[str]
    data: tuple[tuple[Samples, Tensor | None], ...] | None
    seed: int
    progress: bool | None

    @functools.cached_property
    def owners(self) -> dict[str, set[int]]:
        """For each tensor that groups permute, their numbers."""
        owners: dict[str, set[int]] = {}
        for number, group in enumerate(self.symmetries.groups):
            for member in group.members:
                owners.setdefault(member.name, set()).add(number)
        return owners

    def numbers(self, side: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters that groups permute, of one network, in float32; complex ones as pairs [..., 2]."""
        return {name: _real(side[name].detach()).float() for name in self.members()}

    def members(self) -> list[str]:
        """Names of the parameters that groups permute, in their order."""
        names = (member.name for group in self.symmetries.groups for member in group.members)
        return [name for name in dict.fromkeys(names) if name in self.counted]

    def start(self, number: int) -> Matching:
        """Starting point of a search: the identity, then random ones."""
        return self.symmetries.random(self.seed + number) if number else self.symmetries.identity()

    def labelled(self, method: str) -> Iterator[tuple[Samples, Tensor]]:
        """The batches, which must have targets.

        Raises:
            ValueError: there are only inputs.
        """
        for x, y in self.data or ():
            if y is None:
                raise ValueError(f"method={method!r} needs data=(x, y) with targets, not inputs alone")
            yield x, y


@dataclass(frozen=True, eq=False)
class Match:
    """What a method found: a permutation per group, and its objective before and after each improvement."""

    permutations: Matching
    objective: list[float]


class Method(abc.ABC):
    """A matching method: a frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    needs_data: ClassVar[bool] = False

    @abc.abstractmethod
    def match(self, problem: Problem) -> Match:
        """Find permutations of network B that match it to network A."""


def inner_product(problem: Problem, matching: Sequence[Tensor]) -> float:
    """Σ ⟨θ_A, π(θ_B)⟩ over the parameters that groups permute: what weight matching maximises.

    Summed in float64. ‖θ_A − π(θ_B)‖² = const − 2·this, so maximising it minimises the distance.
    """
    names = problem.members()
    permuted = problem.symmetries.permute({name: problem.b[name] for name in names}, matching)
    pairs = ((_real(problem.a[name]), _real(permuted[name])) for name in names)
    return sum(float((one * other).sum(dtype=torch.float64)) for one, other in pairs)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise ValueError unless an option is an integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}")
