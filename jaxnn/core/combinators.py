"""Combinators: common ways to compose layers into a layer.

The parameters of a composed layer are a dict by child name; a child's key is derived from its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.block import compose
from jaxnn.core.dtypes import cast_floating, promote
from jaxnn.core.initialize import is_undrawn
from jaxnn.core.layer import Layer, Spec, as_layer, from_setup
from jaxnn.core.masks import split_mask, with_mask, zero_padding
from jaxnn.core.naming import check_name, name_hash
from jaxnn.core.text import array_text
from jaxnn.core.trees import abstract


def serial(*layers: Any, **named: Any) -> Layer:
    """Apply layers one after another: y = fₙ(… f₂(f₁(x))).

    Args:
        *layers: Layers or plain functions of `x`. Each is named after its kind, and numbered: `dense`, `dense_2`, `relu`.
        **named: Further layers, by name.

    Returns:
        A `Layer`; its parameters are a dict by layer name.

    Raises:
        ValueError: If two layers have the same name.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.serial(nn.dense(8), nn.relu, nn.dense(3))
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> jax.tree.map(jnp.shape, params)
        {'dense': {'bias': (8,), 'kernel': (4, 8)}, 'dense_2': {'bias': (3,), 'kernel': (8, 3)}}
    """
    children = _named(layers, named)
    return compose("serial", children, _chain(children), traced=False)


def residual(*layers: Any, shortcut: Any = None, **named: Any) -> Layer:
    """Add a shortcut to a stack: y = shortcut(x) + serial(*layers)(x), with the identity by default (He et al. 2016).

    Args:
        *layers: As for `serial`.
        shortcut: A layer for the other branch, such as a 1×1 convolution where shapes change.
        **named: As for `serial`.

    Returns:
        A `Layer`; the name of the shortcut among its children is `"shortcut"`.

    Raises:
        ValueError: If the two branches differ in structure or shape, since nothing is broadcast, or another layer is called
            `shortcut`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.residual(nn.dense(4), nn.tanh)
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> model(params, jnp.ones((2, 4))).shape
        (2, 4)
    """
    children = _named(layers, named)
    if "shortcut" in children:
        raise ValueError("residual calls its other branch 'shortcut': choose another name for this layer of the stack")
    chain = _chain(children)
    if shortcut is not None:
        children = {**children, "shortcut": as_layer(shortcut)}

    def forward(run, x):
        y = chain(run, x)
        x = x if shortcut is None else run("shortcut", x)
        given: Any = jax.tree.structure(x)
        if given != jax.tree.structure(y):
            raise ValueError(
                f"residual adds its output to its input, which must have the same structure: expected {array_text(x)}, got "
                f"{array_text(y)}"
            )
        return jax.tree.map(_added, x, y)

    return compose("residual", children, forward, traced=True)


def branch(*layers: Any, **named: Any) -> Layer:
    """Apply several layers to the same input: y = (f₁(x), f₂(x), …).

    Args:
        *layers: As for `serial`.
        **named: As for `serial`.

    Returns:
        A `Layer` whose output is the tuple of the layers' outputs.

    Raises:
        ValueError: If there is no layer, or two have the same name.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> both = nn.branch(nn.dense(2), nn.dense(3))
        >>> model = nn.serial(both, lambda ys: jnp.concatenate(ys, axis=-1))
        >>> params, state = model.init(jax.random.key(0), jnp.ones((4, 5)))
        >>> model(params, jnp.ones((4, 5))).shape
        (4, 5)
    """
    children = _named(layers, named)
    return compose("branch", children, lambda run, x: tuple(run(name, x) for name in children), traced=False)


def parallel(*layers: Any, **named: Any) -> Layer:
    """Apply each of several layers to its own input: y = (f₁(x₁), f₂(x₂), …).

    Args:
        *layers: As for `serial`.
        **named: As for `serial`.

    Returns:
        A `Layer` from a tuple of inputs to a tuple of outputs.

    Raises:
        ValueError: If the number of inputs is not the number of layers.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.serial(nn.parallel(nn.dense(3), nn.identity), lambda ys: ys[0] + ys[1])
        >>> x = (jnp.ones((2, 4)), jnp.ones((2, 3)))
        >>> params, state = model.init(jax.random.key(0), x)
        >>> model(params, x).shape
        (2, 3)
    """
    children = _named(layers, named)

    def forward(run, x):
        if not isinstance(x, (tuple, list)) or len(x) != len(children):
            got = len(x) if isinstance(x, (tuple, list)) else f"one {type(x).__name__}"
            raise ValueError(f"parallel with {len(children)} layers takes a tuple of as many inputs, got {got}")
        return tuple(run(name, part) for name, part in zip(children, x, strict=True))

    return compose("parallel", children, forward, traced=False)


def repeat(layer: Any, n: int) -> Layer:
    """Apply `n` copies of a layer one after another in one `scan`, so that compile time does not grow with `n`.

    Its values and its initial weights equal those of `serial(**{"0": layer, "1": layer, …})`.

    Args:
        layer: A layer whose output has the shape and dtype of its input.
        n: The number of copies, at least 1.

    Returns:
        A `Layer`; its parameters are those of one copy, stacked along a leading axis of length `n`.

    Raises:
        ValueError: If `n` < 1, or if the output's shape or dtype differs from the input's.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.repeat(nn.residual(nn.dense(4), nn.relu), 12)
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> params["dense"]["kernel"].shape
        (12, 4, 4)
    """
    layer = as_layer(layer)
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"repeat takes n as a whole number, at least 1, got {n!r}")
    hashes = np.array([name_hash(str(i)) for i in range(n)], np.uint32)

    def setup(x):
        one = layer.setup(x)
        if jax.tree.flatten(one.output) != jax.tree.flatten(x):
            raise ValueError(
                f"repeat needs a layer whose output has the shape and dtype of its input, got one from {array_text(x)} to "
                f"{array_text(one.output)}"
            )

        def stacked(path, leaf):
            return leaf.repeated(n, levels=len(path))

        params, state = (
            jax.tree_util.tree_map_with_path(stacked, tree, is_leaf=is_undrawn) for tree in (one.params, one.state)
        )
        return Spec("repeat", one.output, params, state, one.children)

    def apply(params, state, x, *, key, training):
        for leaf in jax.tree.leaves((params, state)):
            if leaf.shape[:1] != (n,):
                raise ValueError(
                    f"repeat with {n} copies takes leaves with a leading axis of {n}, got one of shape {list(leaf.shape)}"
                )

        def one(x, copy):
            params, state, number = copy
            key_of_copy = None if key is None else jax.random.fold_in(key, number)
            return layer.apply(params, state, x, key=key_of_copy, training=training)

        return jax.lax.scan(one, x, (params, state, jnp.asarray(hashes)), length=n)

    return from_setup(setup, apply, "repeat", layer.children)


def remat(layer: Any) -> Layer:
    """Recompute a layer's intermediate values in the backward pass instead of storing them (Chen et al. 2016).

    Args:
        layer: Any layer.

    Returns:
        A `Layer` with the same parameters, values and derivatives that needs less memory and more time in training.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.repeat(nn.remat(nn.residual(nn.dense(4), nn.relu)), 12)
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> jax.grad(lambda p: model(p, jnp.ones((2, 4))).sum())(params)["dense"]["bias"].shape
        (12, 4)
    """
    layer = as_layer(layer)

    def apply(params, state, x, *, key, training):
        def run(params, state, x, key):
            return layer.apply(params, state, x, key=key, training=training)

        return jax.checkpoint(run)(params, state, x, key)

    return from_setup(layer.setup, apply, layer.name, layer.children)


def dtype_policy(layer: Any, *, dtype: Any = jnp.float32, param_dtype: Any = jnp.float32) -> Layer:
    """Set the dtypes of a whole model: parameters are stored in `param_dtype`, and it computes in `dtype`.

    Floating-point inputs and parameters are cast to `dtype` first. Statistics, normalization, softmax and losses still
    accumulate in at least float32, and the state keeps its own dtype.

    Args:
        layer: The model.
        dtype: The dtype of the computation and of the output, such as `jnp.bfloat16`.
        param_dtype: The dtype in which the parameters are drawn and stored.

    Returns:
        A `Layer` with the same parameter names.

    Raises:
        TypeError: If one of the two is not a floating dtype.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.dtype_policy(nn.dense(3), dtype=jnp.bfloat16)
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> params["kernel"].dtype, model(params, jnp.ones((2, 4))).dtype
        (dtype('float32'), dtype(bfloat16))
    """
    layer = as_layer(layer)
    for given in (dtype, param_dtype):
        if not jnp.issubdtype(given, jnp.floating):
            raise TypeError(f"dtype_policy takes floating dtypes such as jnp.bfloat16, got {given!r}")

    def setup(x):
        # Parameters are described in float32, so shapes are inferred in it; only the output is then cast to `dtype`.
        spec = layer.setup(abstract(jax.eval_shape(lambda x: cast_floating(x, jnp.float32), x)))
        stored = jax.tree.map(
            lambda leaf: leaf.astype(param_dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
            spec.params,
            is_leaf=is_undrawn,
        )
        output = jax.eval_shape(lambda y: cast_floating(y, dtype), spec.output)
        return Spec(spec.kind, output, stored, spec.state, spec.children)

    def apply(params, state, x, *, key, training):
        params, x = cast_floating((params, x), dtype)
        y, state = layer.apply(params, state, x, key=key, training=training)
        return cast_floating(y, dtype), state

    return from_setup(setup, apply, layer.name, layer.children)


def positionwise(layer: Any) -> Layer:
    """Apply a layer to the values of a padded sequence: (x, mask) ↦ (f(x), mask); any other input is x ↦ f(x).

    `dense`, `embedding`, `dropout`, `layer_norm` and the activations do so already; use it for other functions. The values at
    padded positions are replaced by zeros first, so that whatever they are reaches no other position and no gradient.

    Args:
        layer: A layer that treats all positions alike.

    Returns:
        A `Layer` with the same parameters.

    Raises:
        TypeError: If the mask is not boolean.
        ValueError: If the mask's shape is not that of the leading axes of `x`, or the output has others.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.serial(nn.dense(3), nn.positionwise(lambda x: x**2), nn.lstm(4, return_sequences=False))
        >>> x, mask = jnp.ones((2, 5, 3)), jnp.arange(5)[None, :] < jnp.array([3, 5])[:, None]
        >>> params, state = model.init(jax.random.key(0), (x, mask))
        >>> model(params, (x, mask)).shape
        (2, 4)
    """
    layer = as_layer(layer)

    def setup(x):
        x, mask = split_mask(x)
        spec = layer.setup(x)
        return replace(spec, output=with_mask(spec.output, mask))

    def apply(params, state, x, *, key, training):
        x, mask = split_mask(x)
        y, state = layer.apply(params, state, zero_padding(x, mask), key=key, training=training)
        return with_mask(y, mask), state

    return from_setup(setup, apply, layer.name, layer.children)


def _named(layers: tuple, named: dict[str, Any]) -> dict[str, Layer]:
    """Name the children by kind and number, so that adding a layer of another kind renames none of them."""
    children: dict[str, Layer] = {}
    counts: dict[str, int] = {}
    for layer in map(as_layer, layers):
        counts[layer.name] = counts.get(layer.name, 0) + 1
        number = counts[layer.name]
        _add(children, layer.name if number == 1 else f"{layer.name}_{number}", layer)
    for name, layer in named.items():
        _add(children, name, as_layer(layer))
    if not children:
        raise ValueError("expected at least one layer, got none; use identity for a layer that does nothing")
    return children


def _add(children: dict[str, Layer], name: str, layer: Layer) -> None:
    if check_name(name) in children:
        raise ValueError(
            f"two layers are called '{name}': a layer is named by keyword (serial(first=..., second=...)) or else after its "
            f"kind; choose another name than '{name}' for one of them"
        )
    children[name] = layer


def _chain(children: dict[str, Layer]) -> Callable[..., Any]:
    def forward(run, x):
        for name in children:
            x = run(name, x)
        return x

    return forward


def _added(x: jax.Array, y: jax.Array) -> jax.Array:
    if x.shape != y.shape:
        raise ValueError(
            f"residual adds its input {list(x.shape)} to its output {list(y.shape)}, which must have the same shape: "
            "pass `shortcut=` a layer that changes the input's shape in the same way"
        )
    x, y = (x, y) if x.dtype == y.dtype else promote(x, y)
    return x + y
