"""HTML from Python values; whatever is not markup already is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

#: What no document may contain, however written.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

_VOID = {"meta", "br"}


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def clean(text: str) -> str:
    """A text without the characters that no document may contain."""
    return _FORBIDDEN.sub("\ufffd", text)


def escaped(text: str) -> Markup:
    """Text as HTML; markup as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(clean(text)))


def join(*children: str) -> Markup:
    """Children one after the other, each escaped unless it is markup."""
    return Markup("".join(map(escaped, children)))


def tag(name: str, /, *children: str, **attributes: str) -> Markup:
    """An element. Attributes go by name, ``class_`` for class and ``aria_label`` for aria-label."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{text}>" if name in _VOID else f"<{name}{text}>{join(*children)}</{name}>")


def data(value: float | int, text: str) -> Markup:
    """A number as it is shown, with its exact value for programs that read the page."""
    return tag("data", text, value=repr(value))


def code(text: str, full: str = "") -> Markup:
    """Text as code, with all of it as its title where ``text`` is only a part."""
    return tag("code", text, title=full) if full else tag("code", text)


def digest(sha256: str) -> Markup:
    """The beginning of a hash; all of it as its title."""
    return code(sha256[:12], sha256)


def table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "numbers", texts: int = 0
) -> Markup:
    """A table that scrolls in its own box where it is wider than the page.

    Args:
        caption: of the table.
        header: of the columns; the first names the rows.
        rows: their cells.
        kind: "numbers", to the right; with "stacked" after it intervals are below their values. Or "words".
        texts: columns after the first that are words among numbers.
    """

    def cells(row: Sequence[str], name: str, **scope: str) -> list[Markup]:
        text = {"class_": "text"}
        return [tag(name, cell, **scope, **(text if 0 < i <= texts else {})) for i, cell in enumerate(row)]

    corner = [] if header[0] else [tag("td")]  # a header without words would be announced as one
    head = tag("tr", *corner, *cells(header, "th", scope="col")[len(corner) :])
    body = [tag("tr", tag("th", row[0], scope="row"), *cells(row, "td")[1:]) for row in rows]
    words = tag("caption", tag("span", caption))
    inner = tag("table", words, tag("thead", head), tag("tbody", *body), class_=kind)
    return tag("div", inner, class_="scroll", role="region", aria_label=caption, tabindex="0")


def page(title: str, style: str, body: Markup) -> Markup:
    """A whole document without references to anything outside it."""
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    document = tag("html", tag("head", head), tag("body", body), lang="en")
    return Markup(f"<!DOCTYPE html>\n{document}\n")
