"""The table of a model: shapes, parameters, operations and memory by layer, without computing anything."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.initialize import is_undrawn
from jaxnn.core.layer import Layer, Spec, as_layer
from jaxnn.core.primitives import definitions
from jaxnn.core.text import terminal_width
from jaxnn.core.trees import abstract
from jaxnn.inspect.formatting import in_bytes, percentage, scaled, shape_text
from jaxnn.inspect.html import summary_html
from jaxnn.programs.costs import forms, kept, operations
from jaxnn.programs.equations import Scope, layer_path

COLUMNS = ("layer", "output", "dtype", "parameters", "share", "forward", "backward", "share", "kept")
_DROPPED = (2, 8, 7, 4, -1, 6, 5)  # the columns that a narrow table leaves out, the first one first; −1: the sums of sizes


@dataclass(frozen=True)
class Row:
    """A row of a `Summary`: a layer without layers inside, or the own parameters and operations of a block.

    Attributes:
        path: The layer's path, such as `"encoder/dense"`; `"(itself)"` for the whole model.
        kind: The layer's kind, such as `"dense"`.
        output: The shape of the output, with the batch size as `B`.
        formula: The number of parameters as a sum of sizes, such as `"64·32 + 32"`; empty without parameters.
        parameters: The number of parameters.
        dtype: The dtype of the parameters and, if it differs, of the computation: `"float32 → bfloat16"`.
        forward: The floating-point operations of inference, for the whole batch.
        backward: The operations that a training step adds for the gradient with respect to the parameters.
        kept: The bytes that the forward pass keeps for the backward pass, without input and parameters.
        forms: The forms that `nn.kernels` chose, if requested: `"conv taps | conv columns"`, with those of the gradients
            after the bar.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> [row] = nn.summary(nn.dense(2), jnp.ones((1, 3))).rows
        >>> row.formula, row.parameters, row.output
        ('3·2 + 2', 8, '(B, 2)')
    """

    path: str
    kind: str
    output: str
    formula: str
    parameters: int
    dtype: str = ""
    forward: int = 0
    backward: int = 0
    kept: int = 0
    forms: str = ""


@dataclass(frozen=True)
class Summary:
    """The result of `summary`; its text is the table, and a notebook shows it with foldable blocks.

    Attributes:
        rows: The rows, one per layer, in the order in which the layers run.
        parameters: The number of parameters.
        size: The size of the parameters in bytes.
        batch: The number of samples that the operations and the memory are for.
        forward: The floating-point operations of inference on the batch.
        backward: The operations that a training step adds; this includes sums of gradients between layers, which are in no
            row.
        kept: The bytes of activations kept for the backward pass.
        blocks: The shape of the output of each layer with layers inside, by path.
        kernels: Whether the forms that `nn.kernels` chose are shown.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> table = nn.summary(nn.dense(2), jnp.ones((5, 3)))
        >>> table.parameters, table.batch, table.forward  # 2 · 5 · 3 · 2 of the product, 5 · 2 of the bias
        (8, 5, 70)
    """

    rows: tuple[Row, ...]
    parameters: int
    size: int
    batch: int
    forward: int
    backward: int
    kept: int
    blocks: dict[str, str]
    kernels: bool = False

    def __str__(self) -> str:
        return self.text(terminal_width(80))

    __repr__ = __str__

    def text(self, width: int | None = None) -> str:
        """The table as text; its `str` is as wide as the terminal, or 80 characters where there is none.

        Args:
            width: The number of characters per line. As far as needed, the dtypes, the memory, the shares, the sums that the
                numbers of parameters are of, and the operations are left out, in this order, long paths are shortened at
                their beginning, and the totals are broken into lines. By default nothing is.

        Returns:
            The lines of the table, and of the totals below it.
        """
        lines, totals = self._lines(()), self.totals()
        if width is None:
            return "\n".join([*lines, *totals])
        for dropped in range(1, len(_DROPPED) + 1):
            if len(lines[1]) <= width:
                break
            lines = self._lines(_DROPPED[:dropped])
        if (excess := len(lines[1]) - width) > 0:
            longest = max(len(row.path) for row in self.rows)
            lines = self._lines(_DROPPED, max(longest - excess, len(COLUMNS[0])))
        broken = (textwrap.wrap(line, max(width, 20), subsequent_indent="    ") for line in totals)
        return "\n".join([*lines, *itertools.chain(*broken)])

    def _lines(self, dropped: Sequence[int], longest: int | None = None) -> list[str]:
        """The table without some columns, by their numbers; −1 stands for the sums. `longest` is the longest path."""
        widest = max(len(f"{row.parameters:,}") for row in self.rows)
        rows = [replace(row, formula="") if -1 in dropped else row for row in self.rows]
        if longest is not None:
            rows = [replace(row, path=f"…{row.path[1 - longest :]}") if len(row.path) > longest else row for row in rows]
        columns = list(zip(self.columns(), *(self.cells(row, widest) for row in rows), strict=True))
        shown = [(i, column) for i, column in enumerate(columns) if i not in dropped]
        justified = [_justified(column, right=3 <= i < len(COLUMNS)) for i, column in shown]
        head, *body = ("  ".join(line) for line in zip(*justified, strict=True))
        rule = "─" * len(head)
        return [head.rstrip(), rule, *(line.rstrip() for line in body), rule]

    def _repr_html_(self) -> str:
        return summary_html(self)

    def columns(self) -> tuple[str, ...]:
        """The titles of the columns.

        Returns:
            Their texts, from the left.
        """
        return (*COLUMNS, "forms") if self.kernels else COLUMNS

    def totals(self) -> list[str]:
        """The lines below the table.

        Returns:
            Their texts.
        """
        forward, backward = scaled(self.forward, "FLOP"), scaled(self.backward, "FLOP")
        return [
            f"total: {self.parameters:,} parameters, {in_bytes(self.size)}",
            f"B = {self.batch}: {forward} forward, {backward} backward, {in_bytes(self.kept)} kept in between",
        ]

    def shares(self, *rows: Row) -> tuple[str, str]:
        """The rows' share of all parameters and of all operations.

        Args:
            *rows: Rows of the table.

        Returns:
            The two shares as percentages, such as `"12.5%"`.
        """
        parameters, flops = sum(row.parameters for row in rows), sum(row.forward + row.backward for row in rows)
        return percentage(parameters, self.parameters), percentage(flops, self.forward + self.backward)

    def cells(self, row: Row, width: int = 0) -> tuple[str, ...]:
        """The texts of a row.

        Args:
            row: A row of the table.
            width: The least width of the number of parameters, in characters.

        Returns:
            One text per column.
        """
        count = f"{row.formula} = {row.parameters:>{width},}" if row.formula else f"{row.parameters:,}"
        of_parameters, of_flops = self.shares(row)
        numbers = (scaled(row.forward), scaled(row.backward), of_flops, in_bytes(row.kept) if row.kept else "")
        forms = (row.forms,) if self.kernels else ()
        return (row.path, row.output, row.dtype, count, of_parameters, *numbers, *forms)


def summary(model: Layer, x: Any, *, kernels: bool = False) -> Summary:
    """The layers of a model with shapes, parameters, operations and memory, without computing anything.

    A dense layer has n_in · n_out + n_out parameters; the formulas of other layers are the sizes of their leaves in the same
    way. Operations are those of the definitions, whatever form `nn.kernels` chooses for speed: two per multiplication and
    addition of a product or convolution, one per element of other arithmetic. XLA's own count of the same program
    (`jax.jit(f).lower(...).cost_analysis()`, its flops and transcendentals) agrees, but counts the body of a loop once.

    Args:
        model: The model.
        x: A batch, or its `jax.ShapeDtypeStruct`; the size of the batch is shown as `B`.
        kernels: Whether to show the forms that `nn.kernels` chooses on the platform for which a program is traced now:
            those of inference and, after a bar, those of the gradients. "xla" is XLA's own form.

    Returns:
        A `Summary`, whose text is the table: the shapes of the layers' outputs; the dtype; the parameters and their share;
        the operations of inference, those that a training step adds to them, and their share; the memory of activations
        that are kept from the forward to the backward pass. Operations and memory are for the batch. What a block computes
        between its layers is a row of its own.

    Raises:
        ValueError: If the model does not accept the input.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.summary(nn.serial(nn.dense(32), nn.relu, nn.dense(10)), jnp.ones((1, 64))).text())
        layer    output   dtype            parameters  share  forward  backward  share       kept
        ─────────────────────────────────────────────────────────────────────────────────────────
        dense    (B, 32)  float32  64·32 + 32 = 2,080  86.3%   4.13 k    4.10 k  80.5%
        relu     (B, 32)  float32                   0              32        32   0.6%  160 bytes
        dense_2  (B, 10)  float32  32·10 + 10 =   330  13.7%      650    1.28 k  18.9%
        ─────────────────────────────────────────────────────────────────────────────────────────
        total: 2,410 parameters, 9.64 kB
        B = 1: 4.81 kFLOP forward, 5.41 kFLOP backward, 160 bytes kept in between
    """
    model, x = as_layer(model), abstract(x)
    with definitions():  # they are traced faster than the fast forms
        spec = model.setup(x)
    leaves = jax.tree.leaves(spec.params, is_leaf=is_undrawn)
    costs = _costs(model, spec, x)
    if kernels:
        costs.forms = _forms(model, spec, x)
    batch = next((leaf.shape[0] for leaf in jax.tree.leaves(x) if leaf.shape), 1)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    rows, count = tuple(_rows(spec, spec.params, (), costs)), sum(leaf.size for leaf in leaves)
    forward, training = costs.forward.total(), costs.training.total()
    totals = forward, max(training - forward, 0), costs.kept.total()
    return Summary(rows, count, size, batch, *totals, dict(_blocks(spec, ())), kernels)


@dataclass
class _Costs:
    """The costs of the layers of a model, by path."""

    forward: Counter
    training: Counter
    kept: Counter
    dtypes: dict[Scope, Counter]
    forms: dict[Scope, str]


def _programs(model: Layer, spec: Spec, x: Any) -> tuple[Any, Any, Any, Any]:
    """The programs of inference, and of the forward and the backward pass of training; and the type of the output."""
    params, state = abstract((spec.params, spec.state))
    key = jax.eval_shape(lambda: jax.random.key(0))

    def trace_vjp(training: bool) -> Any:
        def forward(params, state, x, key):
            return jax.vjp(lambda p: model.apply(p, state, x, key=key, training=training)[0], params)

        return jax.make_jaxpr(forward, return_shape=True)(params, state, x, key)

    inference = jax.make_jaxpr(lambda p, s, x: model.apply(p, s, x))(params, state, x)
    try:
        forward, (y, pullback) = trace_vjp(training=True)
    except ValueError:  # a layer refuses to train on this batch, as batch_norm does on a single sample
        forward, (y, pullback) = trace_vjp(training=False)
    cotangents = jax.tree.map(_cotangent, y)
    backward = jax.make_jaxpr(lambda pullback, cotangents: pullback(cotangents))(pullback, cotangents)
    return inference, forward, backward, y


def _forms(model: Layer, spec: Spec, x: Any) -> dict[Scope, str]:
    """The forms chosen in each layer, each named once: those of inference, then those of the gradients if they differ."""
    inference, _, backward, _ = _programs(model, spec, x)
    found: dict[Scope, tuple[dict[str, None], dict[str, None]]] = {}
    for i, program in enumerate((inference, backward)):
        for scope, form in forms(program.jaxpr):
            found.setdefault(layer_path(scope, spec), ({}, {}))[i][form] = None
    return {path: " | ".join(", ".join(names) for names in dict.fromkeys(map(tuple, both)) if names)
            for path, both in found.items()}  # fmt: skip


def _costs(model: Layer, spec: Spec, x: Any) -> _Costs:
    costs = _Costs(Counter(), Counter(), Counter(), {}, {})
    with definitions():
        inference, forward, backward, y = _programs(model, spec, x)
    for operation in operations(inference.jaxpr):
        path = layer_path(operation.scope, spec)
        costs.forward[path] += operation.flops
        if jnp.issubdtype(operation.dtype, jnp.inexact):
            costs.dtypes.setdefault(path, Counter())[operation.dtype] += operation.flops
    for program in (forward, backward):
        for operation in operations(program.jaxpr):
            costs.training[layer_path(operation.scope, spec)] += operation.flops
    for scope, size in kept(forward.jaxpr, len(jax.tree.leaves(y))):
        costs.kept[layer_path(scope, spec)] += size
    return costs


def _cotangent(y: Any) -> Any:
    is_floating = jnp.issubdtype(y.dtype, jnp.inexact)
    return jax.ShapeDtypeStruct(y.shape, y.dtype if is_floating else jax.dtypes.float0)


def _rows(spec: Spec, params: dict, path: Scope, costs: _Costs) -> Iterator[Row]:
    # Parameters come from the root's tree and not from each spec, since a `repeat` above a layer stacks them.
    own = {k: v for k, v in params.items() if k not in spec.children} if spec.children else params
    forward, kept = costs.forward[path], costs.kept[path]
    if own or forward or kept or not spec.children:
        leaves = sorted(jax.tree.leaves(own, is_leaf=is_undrawn), key=lambda leaf: -len(leaf.shape))
        formula = " + ".join("·".join(map(str, leaf.shape)) or "1" for leaf in leaves)
        total = sum(math.prod(leaf.shape) for leaf in leaves)
        # The kind of the model itself could also be the name of a child.
        name = "/".join(path) or ("(itself)" if spec.children else spec.kind)
        dtype = _dtypes([leaf.dtype for leaf in leaves], costs.dtypes.get(path))
        flops = forward, max(costs.training[path] - forward, 0)
        yield Row(name, spec.kind, shape_text(spec.output), formula, total, dtype, *flops, kept, costs.forms.get(path, ""))
    for name, child in spec.children.items():
        yield from _rows(child, params.get(name, {}), (*path, name), costs)


def _blocks(spec: Spec, path: Scope) -> Iterator[tuple[str, str]]:
    if spec.children:
        yield "/".join(path), shape_text(spec.output)
    for name, child in spec.children.items():
        yield from _blocks(child, (*path, name))


def _dtypes(stored: list, computed: Counter | None) -> str:
    names = [str(np.dtype(stored[0]))] if stored else []
    names += [str(computed.most_common(1)[0][0])] if computed else []
    return " → ".join(dict.fromkeys(names))


def _justified(column: tuple[str, ...], right: bool) -> list[str]:
    width = max(map(len, column))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in column]
