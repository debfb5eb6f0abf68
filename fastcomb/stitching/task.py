"""What a stitching layer is trained for: task-loss matching, described."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastcomb.stitching.affine import Affine, Identity, LowRank, Sparse, check_rank
from fastcomb.stitching.cut import Cut
from fastcomb.stitching.direct import (
    DiagonalMatching,
    Direct,
    LeastSquares,
    PermutationMatching,
    Procrustes,
    ReducedRank,
    ScaledPermutationMatching,
    random_map,
)
from fastcomb.stitching.gather import Gathered
from fastcomb.stitching.layer import StitchingLayer
from fastcomb.stitching.permutation import Permutation
from fastcomb.stitching.stitched import KINDS
from fastcomb.utils.digest import of_tensors

TARGETS = ("b", "a", "mean", "labels")
INITS = ("least_squares", "permutation", "random", "identity", "ones")

#: Direct matching within a kind of layers.
_WITHIN: dict[str, type[Direct]] = {
    "affine": LeastSquares,
    "orthogonal": Procrustes,
    "diagonal": DiagonalMatching,
    "scaled_permutation": ScaledPermutationMatching,
    "soft_permutation": PermutationMatching,
}


@dataclass(frozen=True)
class TaskLoss:
    """Train only the stitching layer, so that the stitched network predicts well.

    The loss is the cross-entropy of its predictions to the targets. Defaults are those of Csiszárik et al.,
    "Similarity and Matching of Neural Network Representations" (NeurIPS 2021).

    Args:
        kind: of the layer: "affine", "linear" (without a bias), "low_rank", "orthogonal", "diagonal",
            "scaled_permutation" (the pairing is that of ``init`` and stays), "soft_permutation", "sparse"
            (with ``init`` a layer; its zeros stay).
        init: "least_squares" (the best layer of the kind by direct matching), "permutation" (the best pairing
            of channels), "random" (as ``torch.nn.Linear``), "identity", "ones" (weights 1, bias 0), or a
            stitching layer, which is projected on the kind.
        targets: "b", the predictions of network B, "a", those of A, "mean", of both on average, or "labels".
        temperature: divides all logits, of the stitched network and of the targets.
        rank: of a low-rank layer.
        l1: weight of the mean absolute entry of the matrix, by proximal steps, which make entries exactly 0;
            those below 1e-4 are set to 0 at the end.
        cka: weight of the linear CKA between stitched activations and network B's own, over a batch; positive
            to drive them apart.
        lr: learning rate of Adam.
        seed: of a random initialisation.

    Raises:
        ValueError: an option outside its range, or options that do not go together.

    Example:
        >>> task = fc.stitching.TaskLoss(rank=2, targets="labels")
        >>> task.kind
        'low_rank'
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> trained = fc.stitching.fit(one, other, (x, y), task, epochs=2, progress=False)
        >>> trained.networks[0].layer.right.shape
        torch.Size([2, 8])
    """

    kind: str = "affine"
    init: str | StitchingLayer = "least_squares"
    targets: str = "b"
    temperature: float = 1.0
    rank: int | None = None
    l1: float = 0.0
    cka: float = 0.0
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank is not None and self.kind == "affine":
            object.__setattr__(self, "kind", "low_rank")
        fixed = (Identity.kind, Permutation.kind)
        trainable = ["linear", *(kind for kind in KINDS if kind not in fixed)]
        if self.kind not in trainable:
            raise ValueError(f"kind={self.kind!r} is none of {', '.join(map(repr, trainable))}")
        if isinstance(self.init, str) and self.init not in INITS:
            raise ValueError(f"init={self.init!r} is none of {', '.join(map(repr, INITS))}, nor a layer")
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1")
        if self.targets not in TARGETS:
            raise ValueError(f"targets={self.targets!r} is none of {', '.join(map(repr, TARGETS))}")
        if (self.kind == LowRank.kind) != (self.rank is not None):
            raise ValueError(
                f"kind={self.kind!r}, rank={self.rank}: low-rank layers, and only they, have a rank"
            )
        if not (self.temperature > 0 and self.lr > 0 and self.l1 >= 0):
            raise ValueError(
                f"temperature={self.temperature} and lr={self.lr} must be positive, l1={self.l1} not negative"
            )
        if self.l1 and self.kind not in ("affine", "linear", "sparse"):
            raise ValueError(
                f"l1={self.l1} makes a matrix sparse, which a layer of kind {self.kind!r} is not"
            )
        if self.kind == Sparse.kind and not isinstance(self.init, StitchingLayer):
            raise ValueError("kind='sparse' needs init=, a layer whose zeros stay; to find zeros, use l1=")

    @property
    def gathers(self) -> bool:
        """Whether the initialisation takes moments of the activations."""
        return self.init in ("least_squares", "permutation")

    def __str__(self) -> str:
        chosen = [
            f"{field.name}={value.kind if isinstance(value, StitchingLayer) else value}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return ", ".join(chosen) or "defaults"

    def identity(self) -> str:
        """A text that tells tasks apart, by the values of a layer to start from too."""
        init = self.init
        if isinstance(init, StitchingLayer):
            init = f"{init.kind} {of_tensors(init.state_dict())}"
        return repr(dataclasses.replace(self, init="random")) + init

    def check(self, a: Cut, b: Cut) -> None:
        """Raise ValueError where the two cuts do not allow such a layer."""
        if self.rank is not None:
            check_rank(self.rank, min(a.width, b.width))
        square = self.kind in ("diagonal", "soft_permutation") or self.init == "identity"
        if square and a.width != b.width:
            raise ValueError(f"{self} needs as many channels on both sides, not {a.width} and {b.width}")
        if a.width < b.width and (self.init == "permutation" or self.kind == "scaled_permutation"):
            raise ValueError(f"{self}: {a.width} channels cannot be paired with {b.width}, each used once")
        if isinstance(self.init, StitchingLayer) and self.init.matrix().shape != (b.width, a.width):
            raise ValueError(f"init={self.init!r} does not map {a.width} channels to {b.width}")

    def start(self, a: Cut, b: Cut, gathered: Gathered | None, **places: Any) -> StitchingLayer:
        """The layer before training."""
        options = {"rank": self.rank} if self.rank is not None else {}
        if self.init == "least_squares":
            assert gathered is not None
            within = (
                ReducedRank(self.rank) if self.rank is not None else _WITHIN.get(self.kind, LeastSquares)()
            )
            if self.kind == "linear":
                within = LeastSquares(bias=False)
            layer = within.solve(gathered, **places)
            if layer.kind == self.kind:
                return layer
            weight, bias = layer.map()
        else:
            weight, bias = self._map(a, b, gathered)
        if self.kind == "linear":
            return Affine(weight, None, **places)
        return KINDS[self.kind].nearest(weight, bias, **options, **places)

    def _map(self, a: Cut, b: Cut, gathered: Gathered | None) -> tuple[Tensor, Tensor]:
        """Matrix and bias of an initialisation that does not depend on the kind."""
        if isinstance(self.init, StitchingLayer):
            return self.init.map()
        if self.init == "permutation":
            assert gathered is not None
            return PermutationMatching().solve(gathered).map()
        if self.init == "random":
            return random_map(a.width, b.width, self.seed)
        weight = torch.ones(b.width, a.width) if self.init == "ones" else torch.eye(a.width)
        return weight, torch.zeros(b.width)
