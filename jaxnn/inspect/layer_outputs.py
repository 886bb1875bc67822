"""The output of every layer of a model, as a pure function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxnn.core.layer import Layer, Spec, as_layer
from jaxnn.core.trees import abstract
from jaxnn.inspect.summary import layer_path
from jaxnn.programs.costs import Scope, names_of
from jaxnn.programs.evaluation import CALLS, bodies, bound


def activations(
    model: Layer, params: Any, state: Any, x: Any, *, key: jax.Array | None = None, training: bool = False
) -> dict[str, jax.Array]:
    """The output of every layer, by path.

    The program that the model traces to is run again, and what leaves a layer is written down.

    Args:
        model: the model.
        params: its parameters.
        state: its state.
        x: a batch.
        key: as for `model.apply`.
        training: as for `model.apply`.

    Returns:
        A dict from paths such as `"encoder/dense"` to arrays, in the order in which layers end. Inside a `repeat` they are
        stacked along a leading axis, one entry a copy. A block stands there if it computes something itself after its
        layers, as `residual` does. A layer that does nothing, such as dropout outside of training, is left out.

    Raises:
        ValueError: if the model does not take the input.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.serial(nn.dense(8), nn.relu, body=nn.repeat(nn.residual(nn.dense(8)), 3))
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> jax.tree.map(jnp.shape, activations(model, params, state, jnp.ones((2, 4))))
        {'body': (2, 8), 'body/dense': (3, 2, 8), 'dense': (2, 8), 'relu': (2, 8)}
    """
    model = as_layer(model)
    spec = model.setup(abstract(x))

    @jax.jit
    def run(params, state, x, key):
        def apply(params, state, x):
            return model.apply(params, state, x, key=key, training=training)[0]

        program = jax.make_jaxpr(apply)(params, state, x)
        given: list = [(jnp.asarray(v), None) for v in jax.tree.leaves((params, state))]
        given += [(jnp.asarray(v), _INPUT) for v in jax.tree.leaves(x)]
        tap = _Tap(spec)
        outputs = tap.run(program.jaxpr, program.consts, given, ())
        for value in outputs:
            tap.leaves(value, None)
        return tap.seen

    seen = run(params, state, x, key)
    return {name: seen[path] for path, name in _ends(spec, ()) if path in seen}


_INPUT = ("·input",)  # no layer's path


class _Tap:
    """Evaluates programs; a value carries the layer that made it, and is written down where something else reads it.

    What does not depend on the input, such as parameters in another dtype, carries None.
    """

    def __init__(self, spec: Spec):
        self._spec = spec
        self.seen: dict[Scope, jax.Array] = {}

    def leaves(self, value: tuple[Any, Scope | None], reader: Scope | None) -> None:
        array, maker = value
        if maker not in (None, _INPUT, reader):
            self.seen[maker] = array

    def run(self, jaxpr: Any, consts: Any, values: list, scope: Scope) -> list:
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), [*((c, None) for c in consts), *values], strict=True))

        def read(v: Any) -> tuple[Any, Scope | None]:
            return (v.val, None) if isinstance(v, Literal) else env[v]

        for eqn in jaxpr.eqns:
            inside, inputs, programs = scope + names_of(eqn), [read(v) for v in eqn.invars], bodies(eqn)
            path = layer_path(inside, self._spec)
            for value in inputs:
                self.leaves(value, path)
            has_layers = bool(self._at(path).children) and len(programs) == 1
            if has_layers and eqn.primitive.name in CALLS:
                outputs = self.run(*programs[0], inputs, inside)
            elif has_layers and eqn.primitive.name == "scan":
                outputs = [(v, path) for v in self._scan(eqn, *programs[0], inputs, inside)]
            else:
                maker: Scope | None = path if any(of is not None for _, of in inputs) else None
                if eqn.primitive.name == "convert_element_type" and self._at(path).children:
                    maker = inputs[0][1]  # a policy's cast is no output of its own
                outputs = [(v, maker) for v in bound(eqn, [v for v, _ in inputs])]
            env |= zip(eqn.outvars, outputs, strict=True)
        return [read(v) for v in jaxpr.outvars]

    def _scan(self, eqn: Any, body: Any, consts: Any, values: list, scope: Scope) -> list:
        fixed, n_carry = eqn.params["num_consts"], eqn.params["num_carry"]
        makers = [None if maker is None and not fixed <= i < fixed + n_carry else _INPUT for i, (_, maker) in enumerate(values)]
        arrays = [v for v, _ in values]

        def step(carry, now):
            tap = _Tap(self._spec)
            inside = zip((*arrays[:fixed], *carry, *now), makers, strict=True)
            outputs = tap.run(body, consts, list(inside), scope)
            for value in outputs:
                tap.leaves(value, None)
            return [v for v, _ in outputs[:n_carry]], ([v for v, _ in outputs[n_carry:]], tap.seen)

        carry, stacks = arrays[fixed:][:n_carry], arrays[fixed + n_carry :]
        carry, (rows, seen) = jax.lax.scan(step, carry, stacks, eqn.params["length"], eqn.params["reverse"])
        self.seen |= seen
        return [*carry, *rows]

    def _at(self, path: Scope) -> Spec:
        spec = self._spec
        for name in path:
            spec = spec.children[name]
        return spec


def _ends(spec: Spec, path: Scope) -> Iterator[tuple[Scope, str]]:
    """All paths and their names, what is inside before what is around it."""
    for name, child in spec.children.items():
        yield from _ends(child, (*path, name))
    yield path, "/".join(path) or spec.kind
