"""What a notebook shows of a model alone: its layers by name."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

# Colours are the page's own, so that light and dark look alike.
_STYLE = """<style>
.jaxnn-tree{font-size:13px;line-height:1.5}
.jaxnn-tree summary{cursor:pointer}
.jaxnn-tree details>div{margin-left:1.9em}
.jaxnn-tree details>details{margin-left:1.1em}
.jaxnn-tree .quiet{opacity:.65}
</style>"""


def layer_html(layer: Any) -> str:
    """A model's layers, in blocks that fold; sizes need an input, as `nn.summary(model, x)` takes one."""
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
    number = f"{len(children)} layer" + ("s" if len(children) > 1 else "")
    return f'<details{opened}><summary><b>{title}</b> <span class="quiet">{number}</span></summary>{inside}</details>'
