"""Taps: the output of every layer, recorded while the program that a model traces to is evaluated again.

Each value carries the path of the layer that computed it. Where an equation of another layer reads the value, it leaves its
layer, and a tap records it there. So no layer has to cooperate, and the evaluation can be traced, compiled and differentiated
as any other function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn._jax import bind, is_literal, scan_counts, scope_names, subprograms
from jaxnn.core.layer import Layer, Spec, as_layer
from jaxnn.core.trees import abstract
from jaxnn.programs.equations import CALLS, Scope, layer_path, spec_at

_INPUT = ("·input",)  # no layer has this path


def layer_outputs(
    model: Layer, params: Any, state: Any, x: Any, *, key: jax.Array | None = None, training: bool = False
) -> dict[Scope, jax.Array]:
    """The output of every layer, by path.

    Args:
        model: The model.
        params: Its parameters.
        state: Its state.
        x: A batch.
        key: As for `model.apply`.
        training: As for `model.apply`.

    Returns:
        A dict from paths such as `("encoder", "dense")` to arrays; `()` is the model itself. The outputs of a layer inside
        a `repeat` are stacked along a leading axis, one entry per copy. A block is in the dict if it computes something
        itself after its layers, as `residual` does. A layer that does nothing, such as dropout in inference, is left out.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.serial(nn.dense(8), nn.relu)
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> outputs = layer_outputs(model, params, state, jnp.ones((2, 4)))
        >>> {path: y.shape for path, y in outputs.items()}
        {('dense',): (2, 8), ('relu',): (2, 8)}
    """
    model = as_layer(model)

    def apply(params, state, x):
        return model.apply(params, state, x, key=key, training=training)[0]

    program = jax.make_jaxpr(apply)(params, state, x)
    values = [Value(jnp.asarray(leaf), None) for leaf in jax.tree.leaves((params, state))]
    values += [Value(jnp.asarray(leaf), _INPUT) for leaf in jax.tree.leaves(x)]
    taps = Taps(model.setup(abstract(x)))
    taps.finish(taps.run(program.jaxpr, program.consts, values, ()))
    return taps.outputs


def layer_paths(spec: Spec, path: Scope = ()) -> Iterator[Scope]:
    """The paths of all layers of a model, those inside a block before the block.

    Args:
        spec: The spec of the model.
        path: The path of the model itself.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> list(layer_paths(nn.serial(nn.dense(2), nn.relu).setup(jax.ShapeDtypeStruct((1, 3), jnp.float32))))
        [('dense',), ('relu',), ()]
    """
    for name, child in spec.children.items():
        yield from layer_paths(child, (*path, name))
    yield path


class Value(NamedTuple):
    """An array and the layer that computed it.

    Attributes:
        array: The array.
        maker: The path of the layer; a reserved path for the model's input; None for what does not depend on the input,
            such as parameters cast to another dtype.
    """

    array: Any
    maker: Scope | None


class Taps:
    """An evaluator of programs that records the values that leave layers.

    A subclass that overrides `read` can record other values at the same boundaries.

    Attributes:
        spec: The spec of the model, which tells names of layers from other names.
        outputs: The values recorded so far, by the path of the layer that computed them.
    """

    def __init__(self, spec: Spec):
        self.spec = spec
        self.outputs: dict[Scope, jax.Array] = {}

    def read(self, value: Value, reader: Scope | None) -> None:
        """Note that an equation of the layer `reader`, or the caller of the program if that is None, reads a value."""
        if value.maker not in (None, _INPUT, reader):
            self.outputs[value.maker] = value.array

    def finish(self, values: Sequence[Value]) -> None:
        """Note that a program returns values."""
        for value in values:
            self.read(value, None)

    def run(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[Value], scope: Scope) -> list[Value]:
        """Evaluate a program.

        Args:
            jaxpr: The program.
            consts: Its constants.
            values: Its inputs.
            scope: The names around it.

        Returns:
            Its outputs.
        """
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), [*(Value(c, None) for c in consts), *values], strict=True))

        def lookup(v: Any) -> Value:
            return Value(v.val, None) if is_literal(v) else env[v]

        for eqn in jaxpr.eqns:
            inputs = [lookup(v) for v in eqn.invars]
            env |= zip(eqn.outvars, self._equation(eqn, inputs, scope + scope_names(eqn)), strict=True)
        return [lookup(v) for v in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[Value], scope: Scope) -> list[Value]:
        path, programs = layer_path(scope, self.spec), subprograms(eqn)
        for value in inputs:
            self.read(value, path)
        is_block = bool(spec_at(self.spec, path).children)
        if is_block and len(programs) == 1 and eqn.primitive.name in CALLS:
            return self.run(*programs[0], inputs, scope)
        if is_block and len(programs) == 1 and eqn.primitive.name == "scan":
            return [Value(array, path) for array in self._scan(eqn, *programs[0], inputs, scope)]
        maker = path if any(value.maker is not None for value in inputs) else None
        if is_block and eqn.primitive.name == "convert_element_type":
            maker = inputs[0].maker  # the cast of a dtype policy is not an output of the block
        return [Value(array, maker) for array in bind(eqn, [value.array for value in inputs])]

    def _scan(self, eqn: Any, body: Any, consts: Sequence[Any], values: list[Value], scope: Scope) -> list[Any]:
        """Evaluate a `scan` and stack what is recorded in its iterations."""
        n_consts, n_carry = scan_counts(eqn)
        carried = range(n_consts, n_consts + n_carry)
        makers = [None if value.maker is None and i not in carried else _INPUT for i, value in enumerate(values)]
        arrays = [value.array for value in values]

        def step(carry, slices):
            taps = type(self)(self.spec)
            inputs = zip((*arrays[:n_consts], *carry, *slices), makers, strict=True)
            outputs = taps.run(body, consts, [Value(*pair) for pair in inputs], scope)
            taps.finish(outputs)
            results = [value.array for value in outputs]
            return results[:n_carry], (results[n_carry:], taps.outputs)

        carry, stacked = arrays[n_consts:][:n_carry], arrays[n_consts + n_carry :]
        carry, (results, recorded) = jax.lax.scan(step, carry, stacked, eqn.params["length"], eqn.params["reverse"])
        self.outputs |= recorded
        return [*carry, *results]
