"""The HTML of a summary: its table, with foldable blocks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape
from typing import Any

from jaxnn.inspect.formatting import in_bytes, scaled

# Text has the color of the page, light or dark; the bar behind a share is translucent.
_STYLE = """<style>
.jaxnn{font-size:13px;line-height:1.5;overflow-x:auto}
.jaxnn .row{display:grid;grid-template-columns:minmax(10em,1.6fr) minmax(7em,1fr) minmax(6em,.9fr) minmax(13em,1.8fr) 4.5em
 5em 5em 4.5em 5em;column-gap:.7em;padding:1px 4px;min-width:66em;white-space:nowrap;text-align:right}
.jaxnn.kernels .row{grid-template-columns:minmax(10em,1.6fr) minmax(7em,1fr) minmax(6em,.9fr) minmax(13em,1.8fr) 4.5em
 5em 5em 4.5em 5em minmax(16em,2fr);min-width:82em}
.jaxnn .row>:nth-child(10),.jaxnn .row>:nth-child(-n+3){text-align:left}
.jaxnn .row>:nth-child(4){white-space:normal}
.jaxnn .head{font-weight:600;border-bottom:1px solid currentColor}
.jaxnn .total{border-top:1px solid currentColor;padding:4px}
.jaxnn summary{cursor:pointer;list-style:none}
.jaxnn summary::-webkit-details-marker{display:none}
.jaxnn summary .name::before{content:"▸ "}
.jaxnn details[open]>summary .name::before{content:"▾ "}
.jaxnn summary>.row,.jaxnn .block{font-weight:600}
.jaxnn summary:hover,.jaxnn .row:hover{background:rgba(128,128,128,.12)}
</style>"""


def summary_html(table: Any) -> str:
    """The table of a `Summary` as HTML; a block is one line until it is opened."""
    head = _line(table.columns(), "head")
    body = _group(table, table.rows, 0)
    total = "".join(f'<div class="total">{escape(line)}</div>' if i == 0 else f"<div>&nbsp;{escape(line)}</div>"
                    for i, line in enumerate(table.totals()))  # fmt: skip
    return f'{_STYLE}<div class="jaxnn{" kernels" * table.kernels}">{head}{body}{total}</div>'


def _group(table: Any, rows: Sequence[Any], depth: int) -> str:
    """The rows of one block; those with the same next name in their paths form a block in it."""
    parts = []
    for name, group in itertools.groupby(rows, key=lambda row: row.path.split("/")[depth : depth + 1]):
        block = list(group)
        if not name or all(len(row.path.split("/")) == depth + 1 for row in block):
            cells = (_line(("(itself)" if not name else name[0], *table.cells(row)[1:]), depth=depth) for row in block)
            parts.append("".join(cells))
        else:
            line = _line(_block_cells(table, block, block[0].path.split("/")[: depth + 1]), "block", depth)
            opened = " open" if depth == 0 and len(table.rows) <= 30 else ""
            inside = _group(table, block, depth + 1)
            parts.append(f"<details{opened}><summary>{line}</summary>{inside}</details>")
    return "".join(parts)


def _block_cells(table: Any, rows: Sequence[Any], path: Sequence[str]) -> tuple[str, ...]:
    of_parameters, of_flops = table.shares(*rows)
    forward, backward, kept = (sum(getattr(row, what) for row in rows) for what in ("forward", "backward", "kept"))
    parameters = f"{sum(row.parameters for row in rows):,}"
    numbers = (scaled(forward), scaled(backward), of_flops, in_bytes(kept) if kept else "")
    return (path[-1], table.blocks["/".join(path)], "", parameters, of_parameters, *numbers)


def _line(cells: Sequence[str], kind: str = "", depth: int = 0) -> str:
    """One line of the grid, with a bar behind each share."""
    name, *others = map(escape, cells)
    spans = [f'<span class="name" style="padding-left:{1.2 * depth:g}em" title="{name}">{name}</span>']
    for cell in others:
        bar = ""
        if cell.endswith("%"):
            bar = f' style="background:linear-gradient(to left,rgba(70,130,200,.35) {cell},transparent {cell})"'
        spans.append(f"<span{bar}>{cell}</span>")
    return f'<div class="{f"row {kind}".strip()}">{"".join(spans)}</div>'
