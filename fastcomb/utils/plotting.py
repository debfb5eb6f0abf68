"""What all pictures are made with. Needs matplotlib (``pip install fastcomb[plots]``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def new_figure(columns: int, rows: int = 1) -> tuple[Any, Any]:
    """A figure that is drawn without a display, and its axes [rows, columns].

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install fastcomb[plots]") from error
    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Any, path: str | Path) -> Path:
    """Write the figure, creating its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def log_axis(axis: Any) -> None:
    """A logarithmic x axis with few, plain tick labels."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())


def metric_label(metric: str) -> str:
    """What an axis says about a metric."""
    return "accuracy (fraction of samples)" if metric == "accuracy" else metric
