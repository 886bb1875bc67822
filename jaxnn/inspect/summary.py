"""The table of a model: layer, output shape, parameters; from abstract evaluation only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from jaxnn.core.draw import is_undrawn
from jaxnn.core.layer import Layer, Spec, as_layer
from jaxnn.core.scope import abstract


@dataclass(frozen=True)
class Row:
    """One line of a `Summary`: a layer without layers inside, or parameters that a block holds itself.

    Attributes:
        path: where it stands, such as `"encoder/dense"`.
        kind: what it is, such as `"dense"`.
        output: the output's shape, the batch as `B`.
        formula: how its parameters are counted, such as `"64·32 + 32"`; empty without parameters.
        parameters: how many there are.
    """

    path: str
    kind: str
    output: str
    formula: str
    parameters: int


@dataclass(frozen=True)
class Summary:
    """What `summary` returns; its text is the table.

    Attributes:
        rows: one a layer, in the order in which they run.
        parameters: the total number.
        size: the parameters' size in bytes.
    """

    rows: tuple[Row, ...]
    parameters: int
    size: int

    def __str__(self) -> str:
        width = max(len(f"{row.parameters:,}") for row in self.rows)
        counts = [f"{row.formula} = {row.parameters:>{width},}" if row.formula else f"{row.parameters:,}" for row in self.rows]
        lines = [("layer", "output", "parameters"), *((r.path, r.output, n) for r, n in zip(self.rows, counts, strict=True))]
        name, output, number = (max(map(len, column)) for column in zip(*lines, strict=True))
        rule = "─" * (name + output + number + 4)
        head, *body = (f"{a:<{name}}  {b:<{output}}  {c:>{number}}" for a, b, c in lines)
        total = f"total: {self.parameters:,} parameters, {_bytes(self.size)}"
        return "\n".join([head, rule, *body, rule, total])

    __repr__ = __str__


def summary(model: Layer, x: Any) -> Summary:
    """The layers of a model with their output shapes and parameters, found without computing anything.

    A dense layer's parameters are n_in · n_out + n_out; other layers' formulas are the sizes of their leaves likewise.

    Args:
        model: the model.
        x: a batch, or its `jax.ShapeDtypeStruct`; the batch's size is shown as `B`.

    Returns:
        A `Summary`, whose text is the table.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.summary(nn.serial(nn.dense(32), nn.relu, nn.dense(10)), jnp.ones((1, 64))))
        layer    output           parameters
        ────────────────────────────────────
        dense    (B, 32)  64·32 + 32 = 2,080
        relu     (B, 32)                   0
        dense_2  (B, 10)  32·10 + 10 =   330
        ────────────────────────────────────
        total: 2,410 parameters, 9.6 kB
    """
    spec = as_layer(model).setup(abstract(x))
    leaves = jax.tree.leaves(spec.params, is_leaf=is_undrawn)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return Summary(tuple(_rows(spec, spec.params, ())), sum(leaf.size for leaf in leaves), size)


def _rows(spec: Spec, params: dict, path: tuple[str, ...]) -> Iterator[Row]:
    # The root's parameters are looked up by path, not taken from each spec: a `repeat` above stacks them.
    own = {k: v for k, v in params.items() if k not in spec.children} if spec.children else params
    if own or not spec.children:
        shapes = [leaf.shape for leaf in sorted(jax.tree.leaves(own, is_leaf=is_undrawn), key=lambda leaf: -len(leaf.shape))]
        formula = " + ".join("·".join(map(str, shape)) or "1" for shape in shapes)
        total = sum(math.prod(shape) for shape in shapes)
        yield Row("/".join(path) or spec.kind, spec.kind, _shape(spec.output), formula, total)
    for name, child in spec.children.items():
        yield from _rows(child, params.get(name, {}), (*path, name))


def _shape(output: Any) -> str:
    if hasattr(output, "shape"):
        return f"(B{''.join(f', {n}' for n in output.shape[1:])})"
    return ", ".join(_shape(leaf) for leaf in jax.tree.leaves(output))


def _bytes(n: int) -> str:
    power = min(max(len(str(n)) - 1, 0) // 3, 3)
    return f"{n} bytes" if power == 0 else f"{n / 1000**power:,.1f} {'kMG'[power - 1]}B"
