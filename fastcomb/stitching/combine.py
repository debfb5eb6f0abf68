"""Combinations of stitches: mixtures over stitching layers, evaluated on the fast path."""

from __future__ import annotations

from typing import Any

from fastcomb.data.samples import Data
from fastcomb.sampling.samplers import Sampler
from fastcomb.stitching.affine import Affine
from fastcomb.stitching.cache import MEMORY_BUDGET, Cache
from fastcomb.stitching.stitched import Stitched
from fastcomb.sweep import Sweep, evaluate


def combine(
    one: Stitched,
    other: Stitched,
    sampler: Sampler,
    *,
    data: Any,
    progress: bool | None = None,
    **options: Any,
) -> Sweep:
    """Evaluate combinations M(Λ) = M_1 + Λ ⊙ (M_2 − M_1) of two stitches of one pair of layers.

    Biases are combined likewise. The bottom runs once; combinations are those of
    :class:`~fastcomb.Mixture` between the two heads (``Stitched.head``: stitching layer and top). The tops
    are equal and stay as they are. Layers of other kinds than affine are taken as the affine maps that
    they are.

    Args:
        one, other: stitches between the same two cuts.
        sampler: the law of Λ: ``Uniform(per="model")`` is the line between the two.
        data: ``(x, y)``, a Dataset of such pairs or a DataLoader that is not shuffled.
        progress: show progress bars; if None, when standard error is a terminal.
        **options: of :func:`fastcomb.evaluate`, such as ``n``, ``seed`` and ``loss``.

    Returns:
        a sweep; ``one.replaced(sweep.rebuild(i).layer)`` is combination i as a stitched network.

    Raises:
        ValueError, TypeError: the stitches are of different cuts, or as :func:`fastcomb.evaluate`.

    Example:
        >>> one, other = fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0")
        >>> first = fc.stitching.match(one, other, x, "procrustes", progress=False)
        >>> second = fc.stitching.match(one, other, x, "random", progress=False)
        >>> sweep = fc.stitching.combine(first, second, fc.Uniform(), data=(x, y), n=100, progress=False)
        >>> len(sweep)
        100
        >>> first.replaced(sweep.rebuild(17).layer)(x).shape
        torch.Size([100, 3])
    """
    (a, b), ends = one.ends, other.ends
    if (a.bottom, b.top) != (ends[0].bottom, ends[1].top):
        raise ValueError(
            "the two stitches are not of the same two cuts; make both from the same objects of cut(), or "
            "the second by one.replaced(layer)"
        )
    cache = Cache({a.network: [a]}, [], Data(data), MEMORY_BUDGET, progress)
    h = cache.activations(a).movedim(-1, a.layer.channels).contiguous()
    heads = [
        stitch.replaced(
            Affine(*stitch.layer.map(), channels=stitch.layer.channels, resize=stitch.layer.resize)
        ).head
        for stitch in (one, other)
    ]
    return evaluate(heads[0], heads[1], sampler, data=(h, cache.y), progress=progress, **options)
