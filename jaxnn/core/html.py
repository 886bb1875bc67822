"""The HTML of a model without an input: its layers by name."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

# Text has the color of the page, light or dark.
_STYLE = """<style>
.jaxnn-tree{font-size:13px;line-height:1.5}
.jaxnn-tree summary{cursor:pointer}
.jaxnn-tree details>div{margin-left:1.9em}
.jaxnn-tree details>details{margin-left:1.1em}
.jaxnn-tree .quiet{opacity:.65}
</style>"""


def layer_html(layer: Any) -> str:
    """The layers of a model as HTML, with foldable blocks; `nn.summary(model, x)` adds sizes, which need an input."""
    hint = "<code>nn.summary(model, x)</code> shows shapes, parameters and operations for an input x"
    tree = _tree(layer.name, layer.name, layer.children)
    return f'{_STYLE}<div class="jaxnn-tree">{tree}<div class="quiet">{hint}</div></div>'


def _tree(name: str, kind: str, children: Mapping[str, Any]) -> str:
    title = escape(name)
    if kind not in (name, name.rpartition("_")[0]):
        title += f' <span class="quiet">{escape(kind)}</span>'
    if not children:
        return f"<div>{title}</div>"
    inside = "".join(_tree(child, layer.name, layer.children) for child, layer in children.items())
    opened = " open" if len(children) <= 30 else ""
    count = f"{len(children)} layer" + ("s" if len(children) > 1 else "")
    return f'<details{opened}><summary><b>{title}</b> <span class="quiet">{count}</span></summary>{inside}</details>'
