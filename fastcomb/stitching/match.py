"""``match``: one call for every direct method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastcomb.stitching.cut import Cut, places
from fastcomb.stitching.direct import (
    DiagonalMatching,
    Direct,
    IdentityMatching,
    LeastSquares,
    PermutationMatching,
    Procrustes,
    RandomMatching,
    ReducedRank,
    ScaledPermutationMatching,
    WeightedLeastSquares,
)
from fastcomb.stitching.gather import Gathered, Pair, gather
from fastcomb.stitching.lasso import Lasso
from fastcomb.stitching.stitched import Stitched
from fastcomb.utils.registry import Registry

#: The methods that ``method=`` names.
METHODS = Registry(
    Direct,  # type: ignore[type-abstract]
    (
        LeastSquares,
        WeightedLeastSquares,
        Procrustes,
        ReducedRank,
        Lasso,
        PermutationMatching,
        ScaledPermutationMatching,
        DiagonalMatching,
        IdentityMatching,
        RandomMatching,
    ),
)


def match(
    a: Cut,
    b: Cut,
    data: Any,
    method: str | Direct = "least_squares",
    *,
    resize: str | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Stitched:
    """Stitch two networks with a layer computed from their activations.

    Args:
        a: the network that gives the bottom, cut.
        b: the network that gives the top, cut.
        data: inputs [N, ...], ``(x, y)``, a Dataset of pairs or a DataLoader; targets are not used. It is
            read once, batch by batch; activations are not kept.
        method: a name of :data:`METHODS` with its options as keywords, or a method.
        resize: "pool" (adaptive average pooling) or "interpolate" (linear): how A's positions become B's
            where they differ.
        progress: show a progress bar; if None, when standard error is a terminal.

    Returns:
        the stitched network; ``.layer`` is the stitching layer.

    Raises:
        ValueError, TypeError: an unknown method or option, layers that do not fit together, or activations
            that are NaN or infinite.

    Source: Csiszárik et al., "Similarity and Matching of Neural Network Representations" (NeurIPS 2021).

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> stitch = fc.stitching.match(one, other, x, progress=False)
        >>> stitch.layer.matrix().shape
        torch.Size([8, 8])
        >>> torch.allclose(stitch(x), b(x), atol=1e-2)  # exact where both layers are linear in x
        True
    """
    chosen = METHODS.resolve(method, options)
    return match_all([(a, b)], data, [chosen], resize=resize, progress=progress)[0][str(chosen)]


def match_all(
    pairs: Sequence[Pair],
    data: Any,
    methods: Sequence[str | Direct],
    *,
    resize: str | None = None,
    progress: bool | None = None,
) -> list[dict[str, Stitched]]:
    """:func:`match` for many pairs of layers and methods, in one pass over the data.

    Args:
        pairs: cuts (a, b); :func:`~fastcomb.stitching.cuts` makes several that share the pass of one network.
        data, resize, progress: as for :func:`match`.
        methods: names or methods.

    Returns:
        for each pair, stitched networks by method (``str(method)``, such as "reduced_rank(rank=4)").

    Raises:
        ValueError, TypeError: as :func:`match`.

    Example:
        >>> pairs = list(zip(fc.stitching.cuts(a, ["0", "1"]), fc.stitching.cuts(b, ["0", "1"])))
        >>> methods = ["procrustes", fc.stitching.ReducedRank(2)]
        >>> found = fc.stitching.match_all(pairs, x, methods, progress=False)
        >>> [list(stitches) for stitches in found]
        [['procrustes', 'reduced_rank(rank=2)'], ['procrustes', 'reduced_rank(rank=2)']]
    """
    if isinstance(methods, str):
        raise TypeError(f"methods={methods!r} is one name; pass a list of methods")
    chosen = [METHODS.resolve(method, {}) for method in methods]
    third = any(method.third for method in chosen)
    gathered = gather(pairs, data, resize=resize, third=third, progress=progress)
    return [
        {str(method): _stitched(a, b, method, of_pair, resize) for method in chosen}
        for (a, b), of_pair in zip(pairs, gathered, strict=True)
    ]


def _stitched(a: Cut, b: Cut, method: Direct, gathered: Gathered, resize: str | None) -> Stitched:
    layer = method.solve(gathered, **places(a, b, resize))
    return Stitched(a, b, layer)
