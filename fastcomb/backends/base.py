"""What every way to run combinations offers to a sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from fastcomb.notice import BackendNotice

if TYPE_CHECKING:
    from fastcomb.mixture import Mixture

__all__ = ["Backend", "BackendNotice", "Score", "Scores", "Sums"]

#: A score of K combinations on S samples: (outputs [K, S, ...], y [S, ...]) -> [K, S].
Score = Callable[[Any, Tensor], Tensor]


class Scores(NamedTuple):
    """What is measured on every sample.

    Attributes:
        loss, accuracy: the two measures.
        name: "cross_entropy", "nll" or "mse" where the loss is that one, else "".
        classes: whether accuracy has a meaning (it is NaN otherwise).
    """

    loss: Score
    accuracy: Score
    name: str
    classes: bool


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
    #: Combinations that pass through the network together, a power of two.
    slots: int
    #: Most combinations to hand over at a time, a multiple of ``slots``.
    block: int

    def prepare(self, index: Tensor) -> Any:
        """What is computed once for a block of combinations (int64 [K]) before any sample."""

    def sums(self, prepared: Any, x: Tensor, y: Tensor, scores: Scores) -> Sums:
        """Totals of one prepared block over samples x [S, ...] with targets y [S, ...]."""

    def statistics(self, index: int) -> dict[str, Tensor]:
        """Running statistics that combination ``index`` is evaluated with, where they are not θ_A's."""
