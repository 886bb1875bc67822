"""`block`: layers wired in any way, and the machinery that every wiring by name stands on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.layer import Layer, Params, Spec, State, as_layer, from_setup
from jaxnn.core.naming import abstract, check_name, child_key, explained, inside


def block(forward: Callable[..., Any], **children: Any) -> Layer:
    """Any wiring: `forward(run, x)` calls `run("child", x)` for each child where it is needed.

    The same name run twice shares its weights; each run draws its own random numbers, and the state passes from one run
    to the next. `run.params("child")` gives a child's parameters, for weights used in another way (a tied output).

    Args:
        forward: `forward(run, x) -> y`, traced like any JAX function; the block's default name is its name.
        **children: the layers, or plain functions, by name.

    Returns:
        A `Layer` whose parameters are a dict by child name.

    Raises:
        ValueError: on `run` with a name that is no child, or a child that is never run (at `init`).

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> def gated(run, x):
        ...     return run("value", x) * nn.sigmoid(run("gate", x))
        >>> model = nn.block(gated, value=nn.dense(3), gate=nn.dense(3))
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> sorted(params), model(params, jnp.ones((2, 4))).shape
        (['gate', 'value'], (2, 3))
    """
    layers = {check_name(name): as_layer(child) for name, child in children.items()}
    return compose(forward.__name__.strip("<>_"), layers, forward, traced=True)


def compose(name: str, children: dict[str, Layer], forward: Callable[..., Any], *, traced: bool) -> Layer:
    """The layer that runs `children` as `forward(run, x)` says.

    `forward` must be `traced` to find shapes if it computes anything itself; one that only calls `run` is given the
    shapes as they are.
    """

    def setup(x):
        run = _Describe(children, traced)
        with explained(name, {}, x):
            output = jax.eval_shape(lambda x: forward(run, x), x) if traced else forward(run, x)
            idle = [child for child in children if child not in run.specs]
            if idle:
                raise ValueError(f"{name} never runs its children {idle}: call run({idle[0]!r}, x), or leave it out")
        return Spec(name, output, run.params_of("params"), run.params_of("state"), run.specs)

    def apply(params, state, x, *, key, training):
        unknown = params.keys() - children.keys() if isinstance(params, dict) else {type(params).__name__}
        if unknown:
            raise ValueError(f"{name} has the children {list(children)}, the parameters are for {sorted(unknown)}")
        run = _Run(children, params, state, key, training)
        return forward(run, x), {**state, **run.after}

    return from_setup(setup, apply, name, children)


class _Run:
    """`run(name, x)` inside one call of a composition: each child gets its part of params, state and key."""

    def __init__(self, children: dict[str, Layer], params: Params, state: State, key: Any, training: bool):
        self._children, self._params, self._state, self._key, self._training = children, params, state, key, training
        self._runs: dict[str, int] = {}
        self.after: State = {}

    def __call__(self, name: str, x: Any) -> Any:
        child = _child(self._children, name)
        times = self._runs[name] = self._runs.get(name, -1) + 1
        key = None if self._key is None else child_key(self._key, name)
        if key is not None and times:  # the second run of a shared dropout draws another mask
            key = jax.random.fold_in(key, times)
        state = self.after.get(name, self._state.get(name, {}))
        with inside(name):
            y, state = child.apply(self.params(name), state, x, key=key, training=self._training)
        if state:
            self.after[name] = state
        return y

    def params(self, name: str) -> Params:
        """The parameters of the child `name`."""
        _child(self._children, name)
        return self._params.get(name, {})


class _Describe:
    """`run(name, x)` while shapes are inferred: each child is set up where it is first run."""

    def __init__(self, children: dict[str, Layer], traced: bool):
        self._children, self._traced = children, traced
        self.specs: dict[str, Spec] = {}

    def __call__(self, name: str, x: Any) -> Any:
        child = _child(self._children, name)
        with inside(name):
            if name in self.specs:  # shared weights: the shapes must fit these parameters
                spec = self.specs[name]
                output = jax.eval_shape(lambda p, s, x: child.apply(p, s, x)[0], *map(abstract, (spec.params, spec.state, x)))
            else:
                self.specs[name] = child.setup(abstract(x))
                output = self.specs[name].output
        return jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), output) if self._traced else output

    def params(self, name: str) -> Params:
        """Stand-ins for the parameters of the child `name`, which must have run before."""
        _child(self._children, name)
        if name not in self.specs:
            raise ValueError(f"run.params({name!r}) comes before run({name!r}, x): its shapes are not known yet")
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract(self.specs[name].params))

    def params_of(self, part: str) -> dict:
        return {name: tree for name, spec in self.specs.items() if (tree := getattr(spec, part))}


def _child(children: dict[str, Layer], name: str) -> Layer:
    if name not in children:
        raise ValueError(f"run({name!r}, x): there is no such child; the children are {list(children)}")
    return children[name]
