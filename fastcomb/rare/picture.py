"""The picture of a rare fraction; needs matplotlib (``pip install fastcomb[plots]``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastcomb.statistics.proportion import proportion
from fastcomb.utils.plotting import log_axis, new_figure, save

if TYPE_CHECKING:
    from fastcomb.rare.result import RareFraction


def plot_rare(found: RareFraction, path: str | Path) -> Path:
    """The distribution function down to the level, and plain sampling's where it has counted anything."""
    figure, axes = new_figure(1)
    axis = axes[0, 0]
    fraction, low, high = found.curve.T
    seen = fraction > 0
    axis.plot(found.curve_at[seen], fraction[seen], label="subset simulation")
    bottom = fraction[seen].min(initial=1.0) / 10  # 0 has no place on the axis
    axis.fill_between(found.curve_at, low.clip(bottom), high.clip(bottom), alpha=0.25, linewidth=0)
    draws = found.n * found.repeats
    counted = found.plain > 0
    exact = [proportion(int(count), draws, found.confidence) for count in found.plain[counted]]
    if exact:
        value, ends = found.plain[counted] / draws, np.array([[p.low, p.high] for p in exact]).T
        errors = [value - ends[0], ends[1] - value]
        axis.errorbar(
            found.curve_at[counted],
            value,
            errors,
            fmt=".",
            color="black",
            linewidth=1,
            label=f"{draws:,} plain draws",
        )
    axis.axvline(found.level, color="tab:red", linestyle=":", label=f"level {found.level:.4g}")
    axis.set_yscale("log")
    axis.set_xlabel(found.metric)
    if 0 < 3 * found.curve_at.min() < found.curve_at.max():
        log_axis(axis)
    axis.set_ylabel(f"fraction of combinations {'above' if found.above else 'below'}")
    axis.legend(frameon=False)
    figure.suptitle(
        f"{found.event} in {found.value:.2g} [{found.low:.2g}, {found.high:.2g}]\n{found.sampler}",
        fontsize="medium",
    )
    return save(figure, path)
