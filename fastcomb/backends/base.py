"""What every way to run combinations offers to a sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from fastcomb.mixture import Mixture

#: A score of K combinations on S samples: (outputs [K, S, ...], y [S, ...]) -> [K, S].
Score = Callable[[Any, Tensor], Tensor]


class BackendNotice(UserWarning):
    """Something runs another way than asked or expected; says why. Results are not affected."""


class Scores(NamedTuple):
    """What is measured on every sample."""

    loss: Score
    accuracy: Score


class Sums(NamedTuple):
    """Totals over samples for each of K combinations.

    Attributes:
        loss: float64 [K], sum of the per-sample losses.
        accuracy: float64 [K], number of samples classified correctly (NaN where that has no meaning).
    """

    loss: Tensor
    accuracy: Tensor


class Backend(Protocol):
    """Evaluates combinations of one mixture through one model.

    A backend's results for a combination depend on nothing but the combination, the samples handed over
    together, and the slot (``index % slots``) among ``slots`` successive combinations; sweeps hand over
    whole, aligned runs of slots.
    """

    name: str
    mixture: Mixture
    #: Combinations that pass through the network together, a power of two. Set by :meth:`plan`.
    slots: int
    #: Most combinations to hand over at a time, a multiple of ``slots``. Set by :meth:`plan`.
    block: int

    def plan(self, x: Tensor, samples: int) -> tuple[Any, int]:
        """Choose slots and block for a data set, from sizes only (never from free memory or threads).

        Args:
            x: the first few of its samples.
            samples: how many there are.

        Returns:
            the model's output on ``x`` for one combination, and the samples to hand over at a time.
        """

    def prepare(self, index: Tensor) -> Any:
        """What is computed once for a block of combinations (int64 [K]) before any sample."""

    def sums(self, prepared: Any, x: Tensor, y: Tensor, scores: Scores) -> Sums:
        """Totals of one prepared block over samples x [S, ...] with targets y [S, ...]."""

    def statistics(self, index: int) -> dict[str, Tensor]:
        """Running statistics that combination ``index`` is evaluated with, where they are not θ_A's."""
