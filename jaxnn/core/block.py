"""`block`, which wires layers by any function, and `compose`, on which all combinators with named children are built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.checks import function
from jaxnn.core.layer import Layer, Params, Spec, State, as_layer, from_setup
from jaxnn.core.naming import check_name, child_key, explained, inside
from jaxnn.core.trees import abstract


def block(forward: Callable[..., Any], /, **children: Any) -> Layer:
    """Wire layers by a function: `forward(run, x)` calls `run("child", x)` where a child is needed.

    Running the same child twice shares its weights; each run draws its own random numbers, and the state passes from one
    run to the next. `run.params("child")` returns a child's parameters, for other uses of its weights such as a tied output.

    Args:
        forward: `forward(run, x) -> y`, traced like any JAX function; its name is the default name of the block.
        **children: The layers, or plain functions, by name.

    Returns:
        A `Layer` whose parameters are a dict by child name.

    Raises:
        TypeError: If `forward` is not a function, or a child not a layer.
        ValueError: If `run` is called with an unknown name, or a child is never run (both at `init`).

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> def gated(run, x):
        ...     return run("value", x) * nn.sigmoid(run("gate", x))
        >>> model = nn.block(gated, value=nn.dense(3), gate=nn.dense(3))
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> sorted(params), model(params, jnp.ones((2, 4))).shape
        (['gate', 'value'], (2, 3))
    """
    function("block", "forward", forward, "forward(run, x)")
    layers = {check_name(name): as_layer(child) for name, child in children.items()}
    return compose(getattr(forward, "__name__", "block").strip("<>_"), layers, forward, traced=True)


def compose(name: str, children: dict[str, Layer], forward: Callable[..., Any], *, traced: bool) -> Layer:
    """The layer that runs `children` as `forward(run, x)` says.

    `traced` must be true if `forward` computes anything itself: shapes are then inferred by tracing it. A function that only
    calls `run` is called with shapes directly.
    """

    def setup(x):
        run = _SetUp(children, traced)
        with explained(name, {}, x):
            output = jax.eval_shape(lambda x: forward(run, x), x) if traced else forward(run, x)
            idle = [child for child in children if child not in run.specs]
            if idle:
                raise ValueError(f"{name} never runs its children {idle}: call run({idle[0]!r}, x), or remove the child")
        return Spec(name, output, run.trees("params"), run.trees("state"), run.specs)

    def apply(params, state, x, *, key, training):
        unknown = params.keys() - children.keys() if isinstance(params, dict) else {type(params).__name__}
        if unknown:
            raise ValueError(f"{name} has the children {list(children)}, and got parameters for {sorted(unknown)}")
        run = _Run(children, params, state, key, training)
        return forward(run, x), {**state, **run.after}

    return from_setup(setup, apply, name, children)


class _Run:
    """`run(name, x)` in one call of a composed layer: each child gets its part of params, state and key."""

    def __init__(self, children: dict[str, Layer], params: Params, state: State, key: Any, training: bool):
        self._children, self._params, self._state, self._key, self._training = children, params, state, key, training
        self._runs: dict[str, int] = {}
        self.after: State = {}

    def __call__(self, name: str, x: Any) -> Any:
        child = _child(self._children, name)
        earlier = self._runs.get(name, 0)  # runs of this child
        self._runs[name] = earlier + 1
        key = None if self._key is None else child_key(self._key, name)
        if key is not None and earlier:  # the second run of a shared dropout draws another mask
            key = jax.random.fold_in(key, earlier)
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


class _SetUp:
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
        """Zeros in the shapes of the parameters of the child `name`, which must have run before."""
        _child(self._children, name)
        if name not in self.specs:
            raise ValueError(f"run.params({name!r}) comes before run({name!r}, x): call run first, so that shapes are known")
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract(self.specs[name].params))

    def trees(self, part: str) -> dict:
        """The params or the state of the children that have any, by name."""
        return {name: tree for name, spec in self.specs.items() if (tree := getattr(spec, part))}


def _child(children: dict[str, Layer], name: str) -> Layer:
    if name not in children:
        raise ValueError(f"run({name!r}, x): there is no such child; the children are {list(children)}")
    return children[name]
