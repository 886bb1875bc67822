"""The table of a model: shapes, parameters, operations and memory by layer; from abstract evaluation only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.initialize import is_undrawn
from jaxnn.core.layer import Layer, Spec, as_layer
from jaxnn.core.trees import abstract
from jaxnn.kernels.forms import definitions
from jaxnn.programs.costs import Scope, forms, kept, operations

COLUMNS = ("layer", "output", "dtype", "parameters", "share", "forward", "backward", "share", "kept")


@dataclass(frozen=True)
class Row:
    """One line of a `Summary`: a layer without layers inside, or what a block holds or computes itself.

    Attributes:
        path: where it stands, such as `"encoder/dense"`; `"(itself)"` for the whole model.
        kind: what it is, such as `"dense"`.
        output: the output's shape, the batch as `B`.
        formula: how its parameters are counted, such as `"64·32 + 32"`; empty without parameters.
        parameters: how many there are.
        dtype: that of the parameters, then, if it is another, that of the computation: `"float32 → bfloat16"`.
        forward: floating-point operations of inference, for the whole batch.
        backward: those that a training step adds for the gradient of the parameters.
        kept: bytes that the forward pass keeps for the backward pass, without input and parameters.
        forms: those that `nn.kernels` chose, if they were asked for: `"conv taps | conv columns"`, the gradients' after
            the bar.

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
    """What `summary` returns; its text is the table, and a notebook shows it with blocks that fold.

    Attributes:
        rows: one a layer, in the order in which they run.
        parameters: the total number.
        size: the parameters' size in bytes.
        batch: how many samples the operations and the memory are for.
        forward: floating-point operations of inference on the batch.
        backward: those that a training step adds; also gradients added up between the layers, which stand in no row.
        kept: bytes of activations kept for the backward pass.
        blocks: the output's shape of each layer with layers inside, by path.
        kernels: whether the forms that `nn.kernels` chose are shown.

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
        width = max(len(f"{row.parameters:,}") for row in self.rows)
        columns = list(zip(self.columns(), *(self.cells(row, width) for row in self.rows), strict=True))
        justified = [_justified(column, right=3 <= i < len(COLUMNS)) for i, column in enumerate(columns)]
        head, *body = ("  ".join(line) for line in zip(*justified, strict=True))
        rule = "─" * len(head)
        return "\n".join([head.rstrip(), rule, *(line.rstrip() for line in body), rule, *self.totals()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from jaxnn.inspect.html import summary_html

        return summary_html(self)

    def columns(self) -> tuple[str, ...]:
        """The heads of the table's columns.

        Returns:
            Their texts, from the left.
        """
        return (*COLUMNS, "forms") if self.kernels else COLUMNS

    def totals(self) -> list[str]:
        """The lines below the table.

        Returns:
            The lines as texts.
        """
        forward, backward = scaled(self.forward, "FLOP"), scaled(self.backward, "FLOP")
        return [
            f"total: {self.parameters:,} parameters, {in_bytes(self.size)}",
            f"a batch of B = {self.batch}: {forward} forward, {backward} backward, {in_bytes(self.kept)} kept in between",
        ]

    def shares(self, *rows: Row) -> tuple[str, str]:
        """The rows' part of all parameters, and of all operations.

        Args:
            *rows: some of the table's.

        Returns:
            The two as percentages, such as `"12.5%"`.
        """
        parameters, work = sum(row.parameters for row in rows), sum(row.forward + row.backward for row in rows)
        return _share(parameters, self.parameters), _share(work, self.forward + self.backward)

    def cells(self, row: Row, width: int = 0) -> tuple[str, ...]:
        """The row as text, with counts of parameters at least `width` wide.

        Args:
            row: one of the table's.
            width: of the counts of parameters, in characters.

        Returns:
            A text for each column.
        """
        count = f"{row.formula} = {row.parameters:>{width},}" if row.formula else f"{row.parameters:,}"
        of_parameters, of_work = self.shares(row)
        numbers = (scaled(row.forward), scaled(row.backward), of_work, in_bytes(row.kept) if row.kept else "")
        forms = (row.forms,) if self.kernels else ()
        return (row.path, row.output, row.dtype, count, of_parameters, *numbers, *forms)


def summary(model: Layer, x: Any, *, kernels: bool = False) -> Summary:
    """The layers of a model with shapes, parameters, operations and memory, found without computing anything.

    A dense layer's parameters are n_in · n_out + n_out; other layers' formulas are the sizes of their leaves likewise.
    Operations are those of the definitions, whatever form `nn.kernels` chooses for speed: two for each multiplication and
    addition of a product or convolution, one for each element of other arithmetic. XLA's own count of the same program
    (`jax.jit(f).lower(...).cost_analysis()`, its flops and transcendentals) agrees, but counts a loop's body once.

    Args:
        model: the model.
        x: a batch, or its `jax.ShapeDtypeStruct`; the batch's size is shown as `B`.
        kernels: whether to show the forms that `nn.kernels` chooses here, for the platform that a program traced now runs
            on: those of inference and, after a bar, those of the gradients. "xla" is XLA's own form.

    Returns:
        A `Summary`, whose text is the table: the layers' output shapes; the dtype; the parameters and their share of all;
        the operations of inference, those that a training step adds to them, and their share; the memory that activations
        take from the forward to the backward pass. Operations and memory are for the batch. What a block computes between
        its layers stands in a row of its own.

    Raises:
        ValueError: if the model does not take the input.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.summary(nn.serial(nn.dense(32), nn.relu, nn.dense(10)), jnp.ones((1, 64))))
        layer    output   dtype            parameters  share  forward  backward  share       kept
        ─────────────────────────────────────────────────────────────────────────────────────────
        dense    (B, 32)  float32  64·32 + 32 = 2,080  86.3%   4.13 k    4.10 k  80.5%
        relu     (B, 32)  float32                   0              32        32   0.6%  160 bytes
        dense_2  (B, 10)  float32  32·10 + 10 =   330  13.7%      650    1.28 k  18.9%
        ─────────────────────────────────────────────────────────────────────────────────────────
        total: 2,410 parameters, 9.64 kB
        a batch of B = 1: 4.81 kFLOP forward, 5.41 kFLOP backward, 160 bytes kept in between
    """
    model, x = as_layer(model), abstract(x)
    with definitions():  # they are traced sooner than the forms for speed
        spec = model.setup(x)
    leaves = jax.tree.leaves(spec.params, is_leaf=is_undrawn)
    costs = _costs(model, spec, x)
    if kernels:
        costs.forms = _forms(model, spec, x)
    batch = next((leaf.shape[0] for leaf in jax.tree.leaves(x) if leaf.shape), 1)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    rows, count = tuple(_rows(spec, spec.params, (), costs)), sum(leaf.size for leaf in leaves)
    forward, training = costs.forward.total(), costs.training.total()
    work = forward, max(training - forward, 0), costs.kept.total()
    return Summary(rows, count, size, batch, *work, dict(_blocks(spec, ())), kernels)


def scaled(n: int, unit: str = "") -> str:
    """`"1.23 MFLOP"` for 1234567 and the unit FLOP."""
    power = min((len(str(n)) - 1) // 3, 5)
    number = n / 1000**power
    digits = 0 if power == 0 else max(3 - len(str(int(number))), 0)
    return f"{number:.{digits}f} {' kMGTP'[power].strip()}{unit}".rstrip()


@dataclass
class _Costs:
    """What the layers of a model cost, by path."""

    forward: Counter
    training: Counter
    kept: Counter
    dtypes: dict[Scope, Counter]
    forms: dict[Scope, str]


def _programs(model: Layer, spec: Spec, x: Any) -> tuple[Any, Any, Any, Any]:
    """Inference, the forward and the backward pass of a training step; and the output's type."""
    params, state = abstract((spec.params, spec.state))
    key = jax.eval_shape(lambda: jax.random.key(0))

    def pulled(training: bool) -> Any:
        def forward(params, state, x, key):
            return jax.vjp(lambda p: model.apply(p, state, x, key=key, training=training)[0], params)

        return jax.make_jaxpr(forward, return_shape=True)(params, state, x, key)

    forward = jax.make_jaxpr(lambda p, s, x: model.apply(p, s, x))(params, state, x)
    try:
        there, (y, pull) = pulled(training=True)
    except ValueError:  # statistics of a batch of one: what a layer refuses in training
        there, (y, pull) = pulled(training=False)
    slopes = jax.tree.map(_cotangent, y)
    return forward, there, jax.make_jaxpr(lambda pull, slopes: pull(slopes))(pull, slopes), y


def _forms(model: Layer, spec: Spec, x: Any) -> dict[Scope, str]:
    """The forms chosen in each layer, each named once: of inference, then of the gradients if those are others."""
    inference, _, back, _ = _programs(model, spec, x)
    found: dict[Scope, tuple[dict[str, None], dict[str, None]]] = {}
    for i, program in enumerate((inference, back)):
        for scope, form in forms(program.jaxpr):
            found.setdefault(layer_path(scope, spec), ({}, {}))[i][form] = None
    return {path: " | ".join(", ".join(names) for names in dict.fromkeys(map(tuple, both)) if names)
            for path, both in found.items()}  # fmt: skip


def _costs(model: Layer, spec: Spec, x: Any) -> _Costs:
    costs = _Costs(Counter(), Counter(), Counter(), {}, {})
    with definitions():
        forward, there, back, y = _programs(model, spec, x)
    for operation in operations(forward.jaxpr):
        path = layer_path(operation.scope, spec)
        costs.forward[path] += operation.flops
        if jnp.issubdtype(operation.dtype, jnp.inexact):
            costs.dtypes.setdefault(path, Counter())[operation.dtype] += operation.flops
    for program in (there, back):
        for operation in operations(program.jaxpr):
            costs.training[layer_path(operation.scope, spec)] += operation.flops
    for scope, size in kept(there.jaxpr, len(jax.tree.leaves(y))):
        costs.kept[layer_path(scope, spec)] += size
    return costs


def _cotangent(y: Any) -> Any:
    floating = jnp.issubdtype(y.dtype, jnp.inexact)
    return jax.ShapeDtypeStruct(y.shape, y.dtype if floating else jax.dtypes.float0)


def layer_path(scope: Scope, spec: Spec) -> Scope:
    """The layer in which a scope lies; names that are no layers' are passed over."""
    path: Scope = ()
    for name in scope:
        if name in spec.children:
            spec, path = spec.children[name], (*path, name)
    return path


def _rows(spec: Spec, params: dict, path: Scope, costs: _Costs) -> Iterator[Row]:
    # The root's parameters are looked up by path, not taken from each spec: a `repeat` above stacks them.
    own = {k: v for k, v in params.items() if k not in spec.children} if spec.children else params
    work = costs.forward[path], max(costs.training[path] - costs.forward[path], 0), costs.kept[path]
    if own or work[0] or work[2] or not spec.children:
        leaves = sorted(jax.tree.leaves(own, is_leaf=is_undrawn), key=lambda leaf: -len(leaf.shape))
        formula = " + ".join("·".join(map(str, leaf.shape)) or "1" for leaf in leaves)
        total = sum(math.prod(leaf.shape) for leaf in leaves)
        # a child may be called like the model's own kind
        name = "/".join(path) or ("(itself)" if spec.children else spec.kind)
        dtype = _dtypes([leaf.dtype for leaf in leaves], costs.dtypes.get(path))
        yield Row(name, spec.kind, shape_text(spec.output), formula, total, dtype, *work, costs.forms.get(path, ""))
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


def shape_text(output: Any) -> str:
    """`"(B, 10)"`; of several outputs one after the other."""
    if hasattr(output, "shape"):
        return f"(B{''.join(f', {n}' for n in output.shape[1:])})"
    return ", ".join(shape_text(leaf) for leaf in jax.tree.leaves(output))


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if part else ""


def in_bytes(n: int) -> str:
    """`"1.2 MB"` for 1234567."""
    return f"{n} bytes" if n < 1000 else scaled(n, "B")


def _justified(column: tuple[str, ...], right: bool) -> list[str]:
    width = max(map(len, column))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in column]
