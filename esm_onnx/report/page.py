"""One page of HTML with everything in it: no script, no font, no request; light and dark, narrow and printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from esm_onnx import __version__
from esm_onnx.errors import InputError
from esm_onnx.files import replacing
from esm_onnx.report.chart import Cell, Chart, Table
from esm_onnx.report.drawing import inline_svg
from esm_onnx.report.material import Material
from esm_onnx.report.sections import KINDS, SECTIONS, charts_of

SHOWN_ROWS = 100
"""Rows of a table in the page; `plot` writes all of them."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1b1b; --faint: #6b6b6c; --grid: #d0d0d1; --card: #f6f7f9;
  --blue: #0072b2; --vermillion: #d55e00; --green: #009e73; --purple: #cc79a7; --orange: #e69f00; --sky: #56b4e9; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --ink: #ececec; --faint: #a3a6ab; --grid: #3c4047;
  --card: #1d2026; --blue: #4ba3dd; --vermillion: #f08a45; --green: #35c49a; --purple: #dd9cc0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2rem 0 0.5rem; border-top: 1px solid var(--grid); padding-top: 1rem; }
h3 { font-size: 1rem; margin: 0; }
a { color: inherit; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; list-style: none; padding: 0; }
nav a { display: inline-block; padding: 0.25rem 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: 0; padding: 1rem; background: var(--card); border-radius: 0.5rem; min-width: 0; }
figure > svg { display: block; width: 100%; max-width: 40rem; height: auto; margin: 0.5rem 0; }
figcaption p { margin: 0.25rem 0 0; }
.of { color: var(--faint); font-size: 0.875rem; }
summary { cursor: pointer; padding: 0.25rem 0; }
.scroll { overflow: auto; max-height: 24rem; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0.5rem 0; font-weight: 600; }
th, td { text-align: left; padding: 0.125rem 0.75rem 0.125rem 0; border-bottom: 1px solid var(--grid);
  overflow-wrap: normal; vertical-align: top; }
td.number, th.number { text-align: right; }
@page { margin: 1.5cm; }
@media print { :root { color-scheme: light; } nav, details { display: none; } body { padding: 0; font-size: 0.8rem; }
  .charts { grid-template-columns: 1fr 1fr; } figure { break-inside: avoid; padding: 0.5rem; }
  h2 { break-after: avoid; } }
"""


def write_page(material: Material, path: Path | str, *, title: str, now: datetime) -> int:
    """Writes the page; gives the number of its charts.

    Raises:
        InputError: there is nothing to draw.
    """
    sections = {name: list(_charts(kinds, material)) for name, kinds in SECTIONS.items()}
    count = sum(map(len, sections.values()))
    if not count:
        raise InputError("nothing to draw: measure with `esm-onnx profile`, or `data import`")
    text = "\n".join(_page(sections, title, now)) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return count


def _charts(kinds: Sequence[str], material: Material) -> Iterator[tuple[str, Chart]]:
    for kind in kinds:
        for number, chart in enumerate(charts_of(kind, material), 1):
            yield f"{kind}-{number}", chart


def _page(sections: dict[str, list[tuple[str, Chart]]], title: str, now: datetime) -> Iterator[str]:
    there = {name: charts for name, charts in sections.items() if charts}
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<link rel="icon" href="data:,">'  # else a browser asks for one
    yield f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>"
    yield f"<header><h1>{escape(title)}</h1>"
    yield f'<p class="of">esm-onnx {escape(__version__)}, {escape(now.strftime("%Y-%m-%d %H:%M %Z").strip())}</p>'
    links = "".join(f'<li><a href="#{_anchor(name)}">{escape(name)}</a></li>' for name in there)
    yield f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n<main>'
    for name, charts in there.items():
        yield f'<section aria-labelledby="{_anchor(name)}"><h2 id="{_anchor(name)}">{escape(name)}</h2>'
        yield '<div class="charts">'
        for identity, chart in charts:
            yield from _figure(identity, chart)
        yield "</div></section>"
    yield "</main>\n</body>\n</html>"


def _anchor(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def _figure(identity: str, chart: Chart) -> Iterator[str]:
    yield f'<figure id="{identity}" aria-labelledby="{identity}-title">'
    yield f'<figcaption><h3 id="{identity}-title">{escape(KINDS[chart.kind].title)}</h3>'
    yield f'<p class="of">{escape(chart.of)}</p><p id="{identity}-says">{escape(chart.sentence)}</p></figcaption>'
    yield inline_svg(chart, identity)
    for table in (chart.numbers, *chart.beside):
        yield from _table(table, chart)
    yield "</figure>"


def _table(table: Table, chart: Chart) -> Iterator[str]:
    name = escape(table.caption)
    numeric = [all(not isinstance(row[i], str) for row in table.rows) for i in range(len(table.columns))]
    yield f"<details><summary>{name}</summary>"
    yield f'<div class="scroll" role="region" tabindex="0" aria-label="{name}: {escape(chart.of)}"><table>'
    left = len(table.rows) - SHOWN_ROWS
    more = f" (the first {SHOWN_ROWS} of {len(table.rows):,}: `esm-onnx plot {chart.kind}` writes all as CSV)"
    yield f"<caption>{name}{escape(more) if left > 0 else ''}</caption>"
    heads = (f'<th scope="col"{_class(n)}>{escape(head)}</th>' for head, n in zip(table.columns, numeric, strict=True))
    yield f"<thead><tr>{''.join(heads)}</tr></thead><tbody>"
    for row in table.rows[:SHOWN_ROWS]:
        cells = (f"<td{_class(n)}>{escape(_shown(cell))}</td>" for cell, n in zip(row, numeric, strict=True))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div></details>"


def _class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _shown(cell: Cell) -> str:
    if cell is None:
        return "—"
    return f"{cell:.4g}" if isinstance(cell, float) and abs(cell) < 1e4 else f"{cell}"
