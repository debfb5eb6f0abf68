"""Losses that are known by name, with their settings: the compiled engine computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Losses of class numbers, or for the first also of class probabilities.
OF_CLASSES = ("cross_entropy", "nll")

#: Losses of the entries of an output, averaged over a sample's.
OF_ENTRIES = ("mse", "l1", "huber", "smooth_l1", "bce_with_logits")


@dataclass(frozen=True)
class Criterion:
    """A loss.

    As a user asks for it:

    Attributes:
        kind: of :data:`OF_CLASSES` or :data:`OF_ENTRIES`.
        dimension: of the classes in outputs: 1, as torch has it where both can be meant; -1, the last one, as
            token models have it; None where shapes alone are to say.
        ignore_index: class number whose targets are left out; None where there are no class numbers.
        label_smoothing: share of the target that all classes have evenly.
        threshold: |output − target| where squares end: delta of huber, beta of smooth_l1.
        weight: of each class, or None; the engine leaves it to torch.

    And once outputs and targets are known (:func:`fastcomb.sweep.losses.scores`), with the dimension:

    Attributes:
        probabilities: whether targets are probabilities of classes instead of class numbers.
        factor: with class numbers, what turns the sum over a sample's targets into its loss: samples by
            counted targets (or their weights) of the whole data, so that the mean over samples is the mean
            over targets; None where no target is left out, and a sample's loss is its mean.
    """

    kind: str
    dimension: int | None = None
    ignore_index: int | None = None
    label_smoothing: float = 0.0
    threshold: float = 1.0
    weight: tuple[float, ...] | None = None
    probabilities: bool = False
    factor: float | None = None

    @property
    def numbers(self) -> bool:
        """Whether targets are class numbers."""
        return self.kind in OF_CLASSES and not self.probabilities

    @property
    def plain(self) -> bool:
        """Whether there is nothing to it but its kind, as kernels for GPUs have it."""
        settings = (self.factor, self.weight, self.label_smoothing or None, self.probabilities or None)
        return all(setting is None for setting in settings)

    @property
    def kernel(self) -> str:
        """As csrc/ops.def calls it."""
        return "soft_cross_entropy" if self.probabilities else self.kind

    def targets(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the targets of outputs of this shape, once the dimension is known."""
        whole = tuple(shape)
        if not self.numbers:
            return whole
        return whole[:-1] if self.dimension == -1 else (*whole[:1], *whole[2:])

    def __str__(self) -> str:
        """As ``loss=`` takes it: a name, and settings other than torch's own in brackets."""
        settings = {
            "ignore_index": None if self.ignore_index == -100 else self.ignore_index,
            "label_smoothing": self.label_smoothing or None,
            "weight": self.weight and list(self.weight),
            "delta": self.threshold if self.kind == "huber" and self.threshold != 1 else None,
            "beta": self.threshold if self.kind == "smooth_l1" and self.threshold != 1 else None,
        }
        given = ", ".join(f"{name}={value!r}" for name, value in settings.items() if value is not None)
        name = "token_" * (self.dimension == -1) + self.kind
        return f"{name}({given})" if given else name
