"""The HTML of a model: its layers by name, with the shapes of their parameters where these are known."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from jaxnn.core.trees import paths

# Text has the color of the page, light or dark.
_STYLE = """<style>
.jaxnn-tree{font-size:13px;line-height:1.5}
.jaxnn-tree summary{cursor:pointer}
.jaxnn-tree details>div{margin-left:1.9em}
.jaxnn-tree details>details{margin-left:1.1em}
.jaxnn-tree .quiet{opacity:.65}
</style>"""


def layer_html(layer: Any, params: Mapping[str, Any] | None = None) -> str:
    """The layers of a model as HTML, with foldable blocks.

    Args:
        layer: The model.
        params: Its parameters, whose shapes are shown; without them, a line says how to get shapes, which need an input.
    """
    hint = "<code>nn.summary(model, x)</code> shows shapes, parameters and operations for an input x"
    below = f'<div class="quiet">{hint}</div>' if params is None else ""
    return f'{_STYLE}<div class="jaxnn-tree">{_tree(layer.name, layer, params or {})}{below}</div>'


def _tree(name: str, layer: Any, params: Mapping[str, Any]) -> str:
    title, kind, children = escape(name), layer.name, layer.children
    if kind not in (name, name.rpartition("_")[0]):
        title += f' <span class="quiet">{escape(kind)}</span>'
    own = paths({k: v for k, v in params.items() if k not in children})
    shapes = escape(", ".join(f"{path} {tuple(leaf.shape)}" for path, leaf in own.items()))
    if not children:
        return f"<div>{title}" + (f' <span class="quiet">{shapes}</span>' if shapes else "") + "</div>"
    inside = "".join(_tree(child, layer, params.get(child, {})) for child, layer in children.items())
    opened = " open" if len(children) <= 30 else ""
    count = f"{len(children)} layer" + ("s" if len(children) > 1 else "") + (f", {shapes}" if shapes else "")
    return f'<details{opened}><summary><b>{title}</b> <span class="quiet">{count}</span></summary>{inside}</details>'
