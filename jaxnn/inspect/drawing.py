"""A diagram of a network as SVG: boxes for layers, frames for blocks, arrows for the flow of values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import jax

from jaxnn.core.initialize import is_undrawn
from jaxnn.core.layer import Layer, Spec, as_layer
from jaxnn.core.trees import abstract
from jaxnn.inspect.formatting import scaled, shape_text
from jaxnn.programs.equations import Scope
from jaxnn.programs.wiring import INPUT, OUTPUT, Wiring, wirings

_BOX, _GAP, _LANE, _PAD, _TITLE = (164.0, 38.0), 26.0, 16.0, 14.0, 20.0  # pixels
_LETTER = 6.3  # the width of a letter of 11 pixels, in pixels
_HUES = {  # by the prefix of a layer's kind
    **dict.fromkeys(("dense", "linear", "embedding"), 215),
    **dict.fromkeys(("conv", "depthwise", "separable"), 150),
    **dict.fromkeys(("max_pool", "avg_pool", "global", "flatten", "reshape"), 45),
    **dict.fromkeys(("batch_norm", "layer_norm", "rms", "group", "instance"), 280),
    **dict.fromkeys(("rnn", "lstm", "gru", "attention", "bidirectional"), 340),
}


@dataclass(frozen=True)
class Diagram:
    """The result of `diagram`; a notebook shows it.

    Attributes:
        svg: The diagram, as the text of an SVG file.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.inspect.diagram(nn.relu, jnp.ones((1, 4))).svg[:4]
        '<svg'
    """

    svg: str = field(repr=False)

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x:auto">{self.svg}</div>'  # inside a page the text has the color of the page

    def save(self, path: str | Path) -> None:
        """Write the diagram to a file.

        Args:
            path: The name of the file, such as `"network.svg"`.
        """
        Path(path).write_text(self.svg, encoding="utf-8")


def diagram(model: Layer, x: Any) -> Diagram:
    """Draw a network: its layers with output shapes and numbers of parameters, blocks as frames, and their wiring.

    The wiring is taken from the program that the model traces to. So skip connections, gates and shared weights are shown
    whatever combinator made them. What a block computes itself is a small box with the names of its operations.

    Args:
        model: The model.
        x: A batch, or its `jax.ShapeDtypeStruct`; the size of the batch is shown as `B`.

    Returns:
        A `Diagram`.

    Raises:
        ValueError: If the model does not accept the input.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> drawing = nn.inspect.diagram(nn.serial(nn.dense(8), nn.relu, nn.residual(nn.dense(8))), jnp.ones((1, 4)))
        >>> drawing.svg[:4], drawing.svg.count("<rect"), "(B, 8)" in drawing.svg
        ('<svg', 7, True)
    """
    model, x = as_layer(model), abstract(x)
    spec = model.setup(x)
    blocks = wirings(model, spec, x)
    top, bottom = _box("input", shape_text(x), 0), _box("output", shape_text(spec.output), 0)
    if spec.children:
        whole = _block(spec, (), blocks, {INPUT: top, OUTPUT: bottom})
    else:
        whole = _stack([[top], [_leaf(spec.kind, spec)], [bottom]], [(0, 1), (1, 2)])
    width, height = whole.width + 2 * _PAD, whole.height + 2 * _PAD
    body = "\n".join(whole.draw(_PAD, _PAD))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, sans-serif" font-size="11" fill="currentColor">\n'
        '<defs><marker id="jaxnn-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.5 L8 4 L0 7.5 z" fill="#888"/></marker></defs>\n'
    )
    return Diagram(f"{head}{body}\n</svg>")


@dataclass
class _Part:
    """A rectangle of the diagram: its size, its own SVG lines, and the parts inside with their positions."""

    width: float
    height: float
    lines: list[str] = field(default_factory=list)  # drawn at (0, 0)
    parts: list[tuple[float, float, _Part]] = field(default_factory=list)

    def draw(self, x: float, y: float) -> Iterator[str]:
        yield f'<g transform="translate({x:.1f},{y:.1f})">'
        yield from self.lines
        for dx, dy, part in self.parts:
            yield from part.draw(dx, dy)
        yield "</g>"


def _block(spec: Spec, path: Scope, blocks: dict[Scope, Wiring], ends: dict[str, _Part] | None = None) -> _Part:
    """The inside of a block: between the `ends` of the network, or in a frame with points as ends."""
    wiring = blocks[path]
    parts = dict(ends or {INPUT: _Part(1.0, 1.0), OUTPUT: _Part(1.0, 1.0)})
    for name, label in wiring.nodes.items():
        if label is not None:
            parts[name] = _operation(label)
        elif spec.children[name].children:
            parts[name] = _block(spec.children[name], (*path, name), blocks)
        else:
            parts[name] = _leaf(name, spec.children[name])
    rows = _levels(wiring)
    order = [name for row in rows for name in row]
    edges = [(order.index(a), order.index(b)) for a, b in wiring.edges]
    whole = _stack([[parts[name] for name in row] for row in rows], edges)
    if ends:
        return whole
    kind = f"× {_copies(spec)}" if spec.kind == "repeat" else spec.kind
    name = path[-1]
    title = name if name == kind or name.rpartition("_")[0] == kind else f"{name} ({kind})"
    width = max(whole.width + 2 * _PAD, _LETTER * len(title) + 2 * _PAD)
    height = whole.height + _TITLE
    return _Part(width, height, _frame(width, height, title), [((width - whole.width) / 2, _TITLE, whole)])


def _levels(wiring: Wiring) -> list[list[str]]:
    """The nodes by the length of the longest path from the input to them, the input first and the output last."""
    level = {INPUT: 0} | dict.fromkeys(wiring.nodes, 1)
    for _ in range(len(level)):  # a bound, as shared weights can form a cycle; without one the levels settle
        changed = False
        for start, end in wiring.edges:
            if end != OUTPUT and level[end] <= level[start] < len(wiring.nodes):
                level[end], changed = level[start] + 1, True
        if not changed:
            break
    rows = [[name for name in level if level[name] == i] for i in range(max(level.values()) + 1)]
    return [*filter(None, rows), [OUTPUT]]


def _stack(rows: list[list[_Part]], edges: list[tuple[int, int]]) -> _Part:
    """Stack rows of parts, with arrows between parts by index; an arrow that skips a row runs in a lane on the right."""
    level = [i for i, row in enumerate(rows) for _ in row]
    around = [edge for edge in edges if level[edge[1]] != level[edge[0]] + 1]
    widths = [sum(part.width for part in row) + _GAP * (len(row) - 1) for row in rows]
    inner = max(widths)
    width = inner + 2 * _LANE * len(around)  # as much on the left, to keep the rows centered
    parts: list[tuple[float, float, _Part]] = []
    y = 0.0
    for row, w in zip(rows, widths, strict=True):
        x, tallest = (width - w) / 2, max(part.height for part in row)
        for part in row:
            parts.append((x, y + (tallest - part.height) / 2, part))
            x += part.width + _GAP
        y += tallest + _GAP
    whole = _Part(width, y - _GAP, [], parts)
    for start, end in edges:
        (x0, y0, a), (x1, y1, b) = parts[start], parts[end]
        if (start, end) not in around:
            x0, y0, x1 = x0 + a.width / 2, y0 + a.height, x1 + b.width / 2
            bend = (y1 - y0) / 2
            curve = f"M{x0:.1f} {y0:.1f} C{x0:.1f} {y0 + bend:.1f} {x1:.1f} {y1 - bend:.1f} {x1:.1f} {y1 - 1:.1f}"
        else:
            lane = (width + inner) / 2 + _LANE * (around.index((start, end)) + 0.5)
            curve = _around(x0 + a.width / 2, y0 + a.height, lane, x1 + b.width, y1 + b.height / 2, a.width <= 1, b.width <= 1)
        tip = "" if b.width <= 1 else ' marker-end="url(#jaxnn-tip)"'
        whole.lines.append(f'<path d="{curve}" fill="none" stroke="#888" stroke-width="1.3"{tip}/>')
    return whole


def _around(x0: float, y0: float, lane: float, x1: float, y1: float, from_point: bool, to_point: bool) -> str:
    """A path down from a part, along a lane and into the side of another part, or from above into the end of a block."""
    r = 8.0
    start = f"M{x0:.1f} {y0:.1f} v4 q0 {r} {r} {r}" if not from_point else f"M{x0:.1f} {y0:.1f} q0 {r} {r} {r}"
    down = f"H{lane - r:.1f} q{r} 0 {r} {r}"
    if to_point:
        return f"{start} {down} V{y1 - 2 * r:.1f} q0 {r} {-r} {r} H{x1 + r:.1f} q{-r} 0 {-r} {r}"
    return f"{start} {down} V{y1 - r:.1f} q0 {r} {-r} {r} H{x1 + 1:.1f}"


def _leaf(name: str, spec: Spec) -> _Part:
    count = sum(leaf.size for leaf in jax.tree.leaves(spec.params, is_leaf=is_undrawn))
    details = shape_text(spec.output) + (f" · {scaled(count)} params" if count else "")
    hue = next((hue for kind, hue in _HUES.items() if spec.kind.startswith(kind)), None)
    title = name if name == spec.kind or name.rpartition("_")[0] == spec.kind else f"{name} ({spec.kind})"
    return _box(title, details, hue)


def _box(title: str, details: str, hue: int | None) -> _Part:
    width = max(_BOX[0], _LETTER * max(len(title), len(details)) + 16)
    color = "#888" if hue is None or title in ("input", "output") else f"hsl({hue},55%,50%)"
    lines = [
        f'<rect width="{width:.1f}" height="{_BOX[1]}" rx="6" fill="{color}" fill-opacity="0.16" stroke="{color}"/>',
        f'<text x="{width / 2:.1f}" y="16" text-anchor="middle" font-weight="600">{escape(title)}</text>',
        f'<text x="{width / 2:.1f}" y="30" text-anchor="middle" opacity="0.75">{escape(details)}</text>',
    ]
    return _Part(width, _BOX[1], lines)


def _operation(label: str) -> _Part:
    width = max(24.0, _LETTER * len(label) + 18)
    rect = f'<rect width="{width:.1f}" height="24" rx="12" fill="#888" fill-opacity="0.1" stroke="#888"/>'
    return _Part(width, 24.0, [rect, f'<text x="{width / 2:.1f}" y="16" text-anchor="middle">{escape(label)}</text>'])


def _frame(width: float, height: float, title: str) -> list[str]:
    rect = f'<rect width="{width:.1f}" height="{height:.1f}" rx="8" fill="#888" fill-opacity="0.06" stroke="#888"'
    return [f'{rect} stroke-dasharray="4 3"/>', f'<text x="10" y="15" font-weight="600" opacity="0.8">{escape(title)}</text>']


def _copies(spec: Spec) -> int:
    leaves = jax.tree.leaves((spec.params, spec.state), is_leaf=is_undrawn)
    return leaves[0].shape[0] if leaves else 0
