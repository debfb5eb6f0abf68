"""The picture of layers beside layers; needs matplotlib (``pip install fastcomb[plots]``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastcomb.utils.plotting import new_figure, save

if TYPE_CHECKING:
    from fastcomb.similarity.layerwise import Layerwise

#: Inches of one layer, and of all of them at least and at most; of what is beside the map and above it.
_LAYER, _LEAST, _MOST = 0.24, 2.8, 14.0
_BESIDE, _ABOVE = 1.6, 1.0

#: Width of a letter as a fraction of the font's size.
_LETTER = 0.6


def plot_layerwise(found: Layerwise, path: str | Path) -> Path:
    """Layers of a upwards, layers of b to the right, and a dot at each row's best."""
    figure, axes = new_figure(1)
    axis = axes[0, 0]
    rows, columns = found.values.shape
    side = min(max(_LAYER, _LEAST / min(rows, columns)), _MOST / max(rows, columns))  # of a square
    font = float(np.clip(72 * side * 0.7, 3, 9))
    label_a, label_b = (
        max(map(len, names)) * font * _LETTER / 72 for names in (found.layers_a, found.layers_b)
    )
    figure.set_size_inches(columns * side + label_a + _BESIDE, rows * side + label_b + _ABOVE)
    from_zero = not found.distance and np.nanmin(found.values) >= 0
    image = axis.imshow(
        found.values,
        origin="lower",
        interpolation="nearest",
        cmap="viridis_r" if found.distance else "viridis",
        vmin=0 if from_zero else None,
    )
    axis.set_facecolor("lightgrey")  # where layers cannot be compared
    upright = label_b > side
    axis.set_xticks(range(columns), found.layers_b, rotation=90 if upright else 0, fontsize=font)
    axis.set_yticks(range(rows), found.layers_a, fontsize=font)
    axis.tick_params(length=0)
    best = np.array([(column, row) for row, column in enumerate(found.best) if column >= 0])
    axis.scatter(*best.T, s=2 * font, color="white", edgecolors="black", linewidths=0.6)
    axis.set_xlabel("layers of b")
    axis.set_ylabel("layers of a")
    axis.set_title(
        f"{found.samples:,} samples, {found.flattening} as rows\ndots: most alike in b", fontsize="medium"
    )
    kind = "distance" if found.distance else "score"
    figure.colorbar(image, ax=axis, label=f"{found.measure} ({kind})", fraction=0.05, pad=0.02)
    return save(figure, path)
