"""The contract: a model is a pair of pure functions over plain dicts of arrays.

    init(key, x)                                              -> (params, state)
    apply(params, state, x, *, key=None, training=False)      -> (y, state)

`params` is what is trained; `state` is what the forward pass updates, such as running statistics. Both are nested dicts with
readable names; a layer without parameters or state has no entry. `x` is batched, channels last, and may be any pytree.

Nothing is hidden: a `Layer` holds the two functions and a name, so every transformation of functions (`jit`, `grad`, `vmap`,
`scan`, `shard_map`) works on models. One more function, `setup`, is the abstract half of `init`: it returns the shapes of the
parameters, the state and the output without drawing or computing anything. Combinators compose these `Spec`s, so that a deep
model traces each leaf once, and the outermost `init` draws the whole tree in one small program (`core/initialize.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnn.core.checks import called, check_key, function
from jaxnn.core.foreign_names import no_method
from jaxnn.core.initialize import describe_init, draw
from jaxnn.core.masks import split_mask, with_mask, zero_padding
from jaxnn.core.naming import explained
from jaxnn.core.text import array_text, listed
from jaxnn.core.trees import abstract

LINE = 88  # characters of a line of a layer's text, at most
_APPLY = "apply(params, state, x, *, key=None, training=False) -> (y, state)"

Params = dict[str, Any]
State = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """The shapes and dtypes of a layer for one input; nothing is computed.

    Attributes:
        kind: The layer's own name, such as `"dense"`.
        output: The output, a pytree of `jax.ShapeDtypeStruct`.
        params: The parameters, not yet drawn.
        state: The state, not yet drawn.
        children: The specs of the layers inside, by name; empty for a leaf.
    """

    kind: str
    output: Any
    params: Params
    state: State
    children: dict[str, Spec] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Layer:
    """A pair of pure functions and a name. Compared by identity and not a pytree, safe in closures and caches.

    Attributes:
        init: `init(key, x) -> (params, state)`. `x` is a batch or its `jax.ShapeDtypeStruct`: only shapes and dtypes are
            used. Both are nested dicts, no lists or dataclasses; leaves are what `param` returns, drawn later with all others,
            or arrays drawn from `key`.
        apply: `apply(params, state, x, *, key=None, training=False) -> (y, state)`. `training` is a Python bool; `key` is
            needed only in training, by layers that draw random numbers.
        name: The default name among siblings, such as `"dense"`.
        setup: `setup(x) -> Spec` for an abstract `x`; derived from `init` and `apply`, except in combinators.
        children: The layers inside, by name, for inspection; empty for a leaf.

    Example:
        A custom layer, a learned scale:

        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> def scaled():
        ...     def init(key, x):
        ...         return {"scale": nn.param(nn.initializers.ones, (x.shape[-1],))}, {}
        ...     def apply(params, state, x, *, key=None, training=False):
        ...         return x * params["scale"][None, :], state
        ...     return nn.Layer(init, apply, "scaled")
        >>> model = nn.serial(nn.dense(3), scaled())
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> model(params, jnp.ones((2, 4))).shape
        (2, 3)
    """

    init: Callable[..., tuple[Params, State]] = field(repr=False)
    apply: Callable[..., tuple[Any, State]] = field(repr=False)
    name: str
    setup: Callable[[Any], Spec] = field(default=None, repr=False)  # type: ignore[assignment]
    children: Mapping[str, Layer] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        apply = _checked(self.name, self.apply)
        setup = _leaf_setup(self.name, self.init, apply) if self.setup is None else self.setup

        def init(key, x=None):
            if x is None:
                raise TypeError(
                    f"init takes a key and a batch, or its jax.ShapeDtypeStruct: {self.name}.init(key, x); x is missing"
                )
            spec = setup(abstract(x))
            return draw(check_key(key), spec.params, spec.state)

        for attribute, value in (("init", init), ("apply", apply), ("setup", setup)):
            object.__setattr__(self, attribute, value)

    def __call__(self, params: Params, x: Any) -> Any:
        """Inference with a model without state: `model(params, x)` is `model.apply(params, {}, x)[0]`."""
        try:
            y, state = self.apply(params, {}, x)
        except Exception as error:
            _refuse_state(self, x, error)
            raise
        if state:
            _refuse_state(self, x, None)
        return y

    if not TYPE_CHECKING:  # or every attribute would have a type

        def __getattr__(self, name):
            raise no_method(name)

    def __repr__(self) -> str:
        return f"<{_composition(self)}>"

    def _repr_html_(self) -> str:
        from jaxnn.core.html import layer_html

        return layer_html(self)

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        from treescope.repr_lib import render_object_constructor

        attributes = {"name": self.name} | ({"children": dict(self.children)} if self.children else {})
        return render_object_constructor(Layer, attributes, path, subtree_renderer)


def _composition(layer: Layer, indent: str = "") -> str:
    """The layer's name with the layers inside: on one line, or one line for each if that would be too long."""
    if not layer.children:
        return layer.name
    inner = indent + "    "
    shown = [(name, _composition(child, inner)) for name, child in layer.children.items()]
    parts = [text if text.partition("(")[0] == name.rstrip("_0123456789") else f"{name}={text}" for name, text in shown]
    line = f"{layer.name}({', '.join(parts)})"
    if len(indent) + len(line) <= LINE and "\n" not in line:
        return line
    return f"{layer.name}(\n" + "".join(f"{inner}{part},\n" for part in parts) + f"{indent})"


def stateless(init: Callable[..., Params], apply: Callable[..., Any], name: str | None = None) -> Layer:
    """A layer of two short functions, without state, randomness, or a difference between training and inference.

    Args:
        init: `init(key, x) -> params`.
        apply: `apply(params, x) -> y`.
        name: The default name among siblings; by default the name of the function in which `apply` is defined.

    Returns:
        The `Layer`.

    Raises:
        TypeError: If one of the two is not a function.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> def shift():
        ...     def init(key, x): return {"bias": nn.param(nn.initializers.zeros, x.shape[1:])}
        ...     def apply(params, x): return x + params["bias"][None]
        ...     return nn.stateless(init, apply)
        >>> shift()
        <shift>
    """
    function("stateless", "init", init, "init(key, x) -> params")
    function("stateless", "apply", apply, "apply(params, x) -> y")

    def init_both(key, x):
        return called(init, "init(key, x) -> params", key, x), {}

    def apply_both(params, state, x, *, key=None, training=False):
        return called(apply, "apply(params, x) -> y", params, x), state

    return Layer(init_both, apply_both, name or _factory_name(apply))


def from_setup(
    setup: Callable[[Any], Spec],
    apply: Callable[..., tuple[Any, State]],
    name: str,
    children: Mapping[str, Layer] = MappingProxyType({}),
) -> Layer:
    """A layer whose `init` is derived from its `setup`, as in combinators."""
    return Layer(None, apply, name, setup, children)  # type: ignore[arg-type]


def as_layer(value: Any) -> Layer:
    """Convert a function of `x` to a layer without parameters; a `Layer` is returned unchanged.

    Args:
        value: A `Layer`, or a function of x such as `nn.relu` or a `functools.partial`.

    Returns:
        The `Layer`.

    Raises:
        TypeError: If `value` is not callable, or is a factory of layers that was not called.

    Example:
        >>> import jaxnn as nn
        >>> nn.as_layer(nn.relu).name
        'relu'
    """
    if isinstance(value, Layer):
        return value
    if not callable(value):
        raise TypeError(
            f"a layer must be a jaxnn Layer or a function of x, got {value!r}; write `lambda x: ...` for a fixed value and "
            "`serial(...)` for several layers"
        )
    function = getattr(value, "func", value)  # functools.partial
    name = getattr(function, "__name__", type(value).__name__).strip("<>_") or "function"
    uncalled = f"'{name}' makes a layer and is not a layer itself: call it, {name}(...)"
    if getattr(value, "__annotations__", {}).get("return") in (Layer, "Layer"):
        raise TypeError(uncalled)

    # an activation treats all positions alike, so it applies to the values of a padded sequence
    positionwise = (getattr(value, "__module__", None) or "").startswith("jaxnn.functional.activations")

    def init(key, x):
        return {}

    def apply(params, x):
        padded = isinstance(x, tuple) and len(x) == 2 and getattr(x[1], "dtype", None) == np.bool_
        x, mask = split_mask(x) if padded and positionwise else (x, None)
        try:
            y = value(zero_padding(x, mask))
        except (AttributeError, TypeError) as error:
            if positionwise:
                split_mask(x)  # raises an error for a mask that is not boolean
            elif padded:
                error.add_note(f"the input is a padded sequence (x, mask): nn.positionwise({name}) applies {name} to x alone")
            raise
        if isinstance(y, Layer):
            raise TypeError(uncalled)
        return with_mask(y, mask)

    return stateless(init, apply, name)


def _checked(name: str, apply: Callable) -> Callable:
    def checked(params, state, x, *positional, key=None, training=False):
        if positional:
            raise TypeError("apply takes params, state and x by position; pass the rest by name, as key=key, training=True")
        if not isinstance(training, bool):
            raise TypeError(
                f"training must be a static Python bool, got {type(training).__name__}: under jit use "
                'jax.jit(model.apply, static_argnames="training"); under vmap or grad close over it, as in '
                "lambda p: model.apply(p, state, x, key=key, training=True)"
            )
        with explained(name, params, x):
            returned = called(apply, _APPLY, params, state, x, key=key, training=training)
            if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], dict):
                raise TypeError(f"apply must return (y, state), got {array_text(returned)}: end it with `return y, state`")
            if training and (state or returned[1]):
                _check_state(state, returned[1])
            return returned

    return checked


def _leaf_setup(name: str, init: Callable, apply: Callable) -> Callable[[Any], Spec]:
    def setup(x):
        with explained(name, {}, x):
            params, state = describe_init(init, x)
            given = abstract(state)
            y, after = jax.eval_shape(lambda p, s, x: apply(p, s, x), abstract(params), given, x)
            _check_state(given, after)
        return Spec(name, y, params, state)

    return setup


def _check_state(given: State, returned: State) -> None:
    """Raise an error unless the two states have the same entries: the next step is the same program."""
    if jax.tree.flatten(abstract(returned)) != jax.tree.flatten(abstract(given)):
        raise ValueError(
            f"apply was given the state {array_text(given)} and returned {array_text(returned)}: the state it returns must "
            "have the same entries, shapes and dtypes as that of init; cast one that differs with .astype"
        )


def _factory_name(function: Callable) -> str:
    """`"dense"` for a function defined inside `dense`."""
    *factories, own = function.__qualname__.split(".<locals>.")
    return (factories[-1].rpartition(".")[2] if factories else own).strip("<>_") or "layer"


def _refuse_state(layer: Layer, x: Any, cause: Exception | None) -> None:
    """Raise an error if `layer` has state, which `model(params, x)` cannot pass."""
    try:
        state = layer.setup(abstract(x)).state
    except Exception:
        return  # `cause` says more than this error would
    if state:
        raise ValueError(
            f"this model has state ({listed(map(repr, state))}): call `y, state = model.apply(params, state, x)` with the "
            "state that init or fit returned"
        ) from cause
