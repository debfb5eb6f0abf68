"""Where the samples of a value are, and what an operation makes of that: the vocabulary of its rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch.utils._pytree import tree_leaves

from fastcomb.program.ir import Dimension, Node, Value, multiple
from fastcomb.utils.rule_table import registering


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


COUNT = "count"  # the state of a number that depends on how many samples there are
State = Samples | list[Samples] | Several | str | None


def by_shape(shape: Sequence[Dimension]) -> Samples | None:
    """Where the samples are in a value that has not mixed them, going by its shape."""
    places = [d for d, size in enumerate(shape) if isinstance(size, str)]
    if not places:
        return None
    if len(places) > 1 or shape[places[0]] != "N":
        raise Mixed(f"a value of shape {'×'.join(map(str, shape))}")
    return Samples(places[0])


def factor(size: Dimension) -> int:
    """c of a dimension of c · N entries."""
    factor = multiple(size)
    if factor is None:
        raise Mixed(f"a dimension of {size} entries")
    return factor


class Operands:
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
        """That the operation brings samples together, to be raised."""
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


Rule = Callable[[Node, Operands], State]
RULES: dict[str, Rule] = {}
#: Registers where the samples are after some operations.
rule = registering(RULES)
