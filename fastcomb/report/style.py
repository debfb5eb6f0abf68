"""Colours and the style sheet of the page."""

from __future__ import annotations

from typing import Literal

#: name → (on light, on dark). Texts have a contrast of at least 4.5 to the background, lines of 3.
COLOURS = {
    "paper": ("#fcfcfa", "#17181b"),
    "panel": ("#f4f3ef", "#1f2125"),
    "ink": ("#1d1d20", "#e7e5e0"),
    "muted": ("#5f5f66", "#a5a39e"),
    "rule": ("#dad8d2", "#383a40"),
    "accent": ("#0b5c8f", "#7cbdf0"),
    "warn": ("#8f4300", "#ffb070"),
    "s0": ("#0062a3", "#58aeec"),
    "s1": ("#cf4d06", "#ff9450"),
    "s2": ("#007f5f", "#3ac79e"),
    "s3": ("#b34a8a", "#e79ac9"),
    "s4": ("#8c6a00", "#e0b23a"),
    "s5": ("#5b5fc7", "#a9b1ff"),
}

#: How many colours of series there are, after which they come again with dashes.
SERIES = sum(name[0] == "s" and name[1:].isdigit() for name in COLOURS)

Dashes = Literal["solid", "dashed", "dotted"]

#: Of lines beyond the first six, the next six, …
DASHES: tuple[Dashes, ...] = ("solid", "dashed", "dotted")


def colour(number: int) -> str:
    """Colour of a series on light, as pictures are drawn."""
    return COLOURS[f"s{number % SERIES}"][0]


def dashes(number: int) -> Dashes:
    """Line style of a series, by the name that CSS and matplotlib share."""
    return DASHES[number // SERIES % len(DASHES)]


def sheet() -> str:
    """The style sheet."""
    light, dark = ("".join(f"--{name}:{pair[theme]};" for name, pair in COLOURS.items()) for theme in (0, 1))
    series = "".join(f".s{i}{{color:var(--s{i})}}" for i in range(SERIES))
    themes = f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return f"{themes}\n{series}\n{_SHEET}"


_SHEET = """
:root {
  color-scheme: light dark;
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", "Palatino Linotype", Palatino, Georgia,
    "Liberation Serif", serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial,
    sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; padding: 3rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 74rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.6 var(--serif); overflow-wrap: anywhere;
}
h1, h2, h3 { line-height: 1.2; font-weight: 600; text-wrap: balance; }
h1 { font-size: clamp(1.7rem, 4.5vw, 2.5rem); margin: .3rem 0 .6rem; letter-spacing: -.012em; }
h2 { font-size: 1.45rem; margin: 0 0 1rem; letter-spacing: -.006em; }
h3 { font: 600 .95rem/1.4 var(--sans); margin: 2rem 0 .6rem; }
p, ul { max-width: 42rem; margin: 0 0 1rem; }
li { margin-bottom: .4rem; }
a { color: var(--accent); text-underline-offset: .18em; text-decoration-thickness: .06em; }
.eyebrow, nav, .note, figcaption, caption, table, dl, .legend, .status, footer { font-family: var(--sans); }
.eyebrow { font-size: .8rem; color: var(--muted); letter-spacing: .02em; margin: 0; }
.under { font-family: var(--sans); font-size: .92rem; color: var(--muted); max-width: 52rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; list-style: none; padding: .8rem 0;
  max-width: none; margin: 1.6rem 0 0; border-block: 1px solid var(--rule); font-size: .88rem; }
nav li { margin: 0; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { margin-top: 3.2rem; }
.lede { font-size: 1.15rem; line-height: 1.6; max-width: 44rem; }
.note { font-size: .86rem; line-height: 1.55; color: var(--muted); }
.warn { font-family: var(--sans); font-size: .92rem; color: var(--warn); border-left: 3px solid currentColor;
  padding: .1rem 0 .1rem .8rem; }
.status { font-size: .85rem; color: var(--muted); white-space: nowrap; }
.status.part { color: var(--warn); font-weight: 600; }
data { font-variant-numeric: tabular-nums; white-space: nowrap; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: 1px;
  margin: 1.8rem 0 0; border: 1px solid var(--rule); border-radius: 6px;
  overflow: hidden; }
.tiles div { padding: .9rem 1.1rem 1rem; box-shadow: 0 0 0 1px var(--rule); }
.tiles dt { font-size: .82rem; color: var(--muted); }
.tiles dd { margin: 0; }
.tiles dd.value { font: 600 1.6rem/1.3 var(--sans); letter-spacing: -.015em; }
.tiles dd.range { font-size: .82rem; color: var(--muted); }
.runs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1.4rem 3rem; list-style: none; padding: 0; max-width: none; margin: 0 0 1.6rem; }
.runs li { margin: 0; }
.runs p { margin: 0; }
.key { display: inline-flex; align-items: baseline; font-family: var(--sans); font-weight: 600;
  font-size: .9rem; text-align: left; }
table .key { font-size: inherit; }
tbody .key, .legend .key { font-weight: 500; }
.swatch { display: inline-block; width: 1.5rem; border-top: 3px solid; vertical-align: .26em;
  margin-right: .5em; flex: none; }
.key .swatch { position: relative; top: -.27em; }
.swatch.dashed { border-top-style: dashed; }
.swatch.dotted { border-top-style: dotted; }
.legend { display: flex; flex-wrap: wrap; gap: .35rem 1.6rem; list-style: none; padding: 0; font-size: .88rem;
  max-width: none; margin: 0 0 .4rem; }
.legend li { margin: 0; display: flex; align-items: baseline; min-width: 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1.4rem 2.4rem; }
.pictures.one { max-width: 33rem; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figure svg { display: block; width: 100%; max-width: 33rem; height: auto; overflow: visible; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: var(--sans) !important; font-variant-numeric: tabular-nums; }
figcaption { font-size: .82rem; line-height: 1.5; color: var(--muted); margin-top: .5rem; max-width: 34rem; }
/* with a shade where there is more to the right */
.scroll { overflow-x: auto; margin: 1.6rem 0 0; max-width: 100%;
  background: linear-gradient(to left, var(--paper) 40%, transparent) 100% 0 / 2.4rem 100% no-repeat local,
    linear-gradient(to left, var(--rule), transparent) 100% 0 / .9rem 100% no-repeat scroll; }
.scroll:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .88rem; line-height: 1.45; overflow-wrap: normal;
  font-variant-numeric: tabular-nums lining-nums; }
caption { text-align: left; padding: 0 0 .55rem; color: var(--muted); font-size: .86rem; }
caption span { position: sticky; left: 0; display: inline-block;
  max-width: min(100%, 100vw - 2 * clamp(1rem, 4vw, 3rem)); }
th, td { padding: .42rem 1.3rem .42rem 0; text-align: left; vertical-align: baseline; }
th:last-child, td:last-child { padding-right: .2rem; }
thead th, thead td { font-weight: 600; border-bottom: 1px solid var(--ink); vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
tbody th { font-weight: 400; }
.numbers th + th, .numbers td { text-align: right; }
.numbers td { white-space: nowrap; }
.numbers thead th { max-width: 14rem; text-wrap: balance; }
.numbers .text.text { text-align: left; white-space: normal; min-width: 9rem; max-width: 15rem; }
.stacked .range { display: block; }
.words tr > :first-child { min-width: clamp(7rem, 22vw, 12rem); }
.words td { min-width: 9rem; max-width: 24rem; }
.range { color: var(--muted); }
.scroll tr > :first-child { position: sticky; left: 0; background: var(--paper); min-width: 6rem;
  max-width: clamp(8rem, 28vw, 16rem); }
code, pre { font-family: var(--mono); font-size: .86em; }
pre { background: var(--panel); border-radius: 5px; padding: .7rem .9rem; overflow-x: auto;
  margin: .9rem 0 0; font-size: .82rem; line-height: 1.5; white-space: pre; overflow-wrap: normal; }
.best { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 0 2.4rem; }
.best > div { min-width: 0; }
.best .scroll tr > :first-child { min-width: 3.5rem; }
details { margin-top: 1.6rem; }
summary { font: .88rem var(--sans); color: var(--accent); cursor: pointer; }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--rule); font-size: .82rem;
  color: var(--muted); }
@media print {
  @page { margin: 14mm; }
  html { font-size: 8pt; }
  body { padding: 0; max-width: none; background: none; font-size: 1.15rem; }
  nav { display: none; }
  section { margin-top: 1.6rem; }
  h2, h3 { break-after: avoid; }
  .scroll, pre { overflow: visible; background: none; }
  table { font-size: .86rem; }
  th, td { padding-right: .9rem; }
  .scroll tr > :first-child { position: static; background: none; }
  tr, figure, .tiles, li { break-inside: avoid; }
  pre { white-space: pre-wrap; }
  a { color: inherit; text-decoration: none; }
}
"""
