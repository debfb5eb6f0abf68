"""Figures of matplotlib as pictures inside a page, whose colours follow its theme, and as files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastcomb.report.markup import Markup, clean, tag
from fastcomb.report.style import COLOURS, colour, dashes
from fastcomb.utils.files import write_atomically
from fastcomb.utils.plotting import new_figure

#: Inches of a picture; 72 units of its coordinates each.
_WIDTH, _HEIGHT = 4.5, 2.8

#: Letters of a label that fit above a picture.
_LABEL = 60

_INK, _MUTED, _RULE = (COLOURS[name][0] for name in ("ink", "muted", "rule"))

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.usetex": False,
    "savefig.bbox": None,
    "axes.facecolor": "white",
    "axes.titlesize": 9.5,
    "axes.titlecolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.linewidth": 0.7,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "ytick.major.size": 0,
    "text.color": _INK,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,
    "axes.formatter.useoffset": False,
}

#: (label, number of the series) of what a legend lists.
Legend = Sequence[tuple[str, int]]


@contextmanager
def drawing(fonts: str = "none") -> Iterator[None]:
    """The report's style, for drawing and for saving."""
    from matplotlib import rc_context

    settings = _STYLE | {"svg.fonttype": fonts, "svg.hashsalt": "fastcomb"}
    with rc_context(settings), warnings.catch_warnings():
        # of labels in scripts that the font lacks; files show boxes then, the page does not depend on it
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def blank() -> tuple[Any, Any]:
    """An empty figure of the report's size and its only axis."""
    figure, axes = new_figure(1)
    figure.set_size_inches(_WIDTH, _HEIGHT)
    return figure, axes[0, 0]


def inline(figure: Any, name: str, title: str, description: str) -> Markup:
    """The figure as an element of a page.

    Args:
        figure: drawn in the light theme's colours, which become variables of the page's style sheet.
        name: unique in the page; ids begin with it.
        title, description: for readers who do not see it.
    """
    written = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with drawing():
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    text = written.getvalue()
    start = text.index(">", text.index("<svg")) + 1
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    inner = text[start : text.rindex("</svg>")]
    inner = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", inner, flags=re.DOTALL)
    inner = re.sub(r'<g id="patch_\d+">\s*<path [^>]*style="fill: none; opacity: 0"/>\s*</g>', "", inner)
    inner = re.sub(r' d="[^"]*"', lambda match: re.sub(r"\d+\.\d+", _rounded, match[0]), inner)
    inner = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", inner)
    inner = inner.replace("xlink:href", "href").replace("\n", " ")
    for variable, (light, _) in COLOURS.items():
        inner = inner.replace(light, f"var(--{variable})")
    ids = f"{name}-title", f"{name}-description"
    labels = tag("title", title, id=ids[0]) + tag("desc", description, id=ids[1])
    attributes = f'viewBox="{box[1]}" role="img" aria-labelledby="{ids[0]}" aria-describedby="{ids[1]}"'
    return Markup(f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>{labels}{inner}</svg>')


def files(figure: Any, folder: Path, name: str, title: str, legend: Legend) -> list[Path]:
    """Write the figure with a title and a legend as PNG and SVG; returns their paths.

    Raises:
        OSError: they cannot be written.
    """
    from matplotlib.lines import Line2D

    paths = []
    with drawing("path"):
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        figure.axes[0].set_title(shortened(title), loc="left", pad=15)  # above the labels of levels
        if legend:
            lines = [Line2D([], [], color=colour(i), linestyle=dashes(i)) for _, i in legend]
            columns = 1 if max(len(label) for label, _ in legend) > 24 else 2
            drawn = figure.legend(
                lines, ["–"] * len(lines), loc="outside lower left", frameon=False, ncols=columns
            )
            for text, (label, _) in zip(drawn.get_texts(), legend, strict=True):
                text.set_text(shortened(label))
            figure.set_size_inches(_WIDTH, _HEIGHT + 0.5 + 0.19 * -(-len(lines) // columns))
        for suffix in ("png", "svg"):
            path = folder / f"{name}.{suffix}"
            write_atomically(path, partial(_save, figure, suffix))
            paths.append(path)
    return paths


def shortened(label: str) -> str:
    """A label that fits above a picture."""
    label = clean(" ".join(label.split()))
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"


def _save(figure: Any, suffix: str, path: Path) -> None:
    metadata = {"Date": None} if suffix == "svg" else None
    figure.savefig(path, format=suffix, dpi=200, facecolor="white", metadata=metadata)


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
