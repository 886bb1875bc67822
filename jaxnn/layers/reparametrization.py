"""Reparametrized kernels: weight normalization, spectral normalization, weight standardization.

Each function takes a layer, or a whole model, and returns one of the same name in which every `kernel` is replaced by a
function of itself; other parameters are unchanged. The last axis of a kernel is its output features, the others its fan-in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.core.checks import number
from jaxnn.core.dtypes import at_least_float32
from jaxnn.core.initialize import draw
from jaxnn.core.layer import Layer, as_layer
from jaxnn.core.naming import child_key
from jaxnn.core.norms import power_norm
from jaxnn.functional.initializers import normal
from jaxnn.kernels.normalization import centered

TINY = 1e-12  # a kernel or column with a smaller norm is not divided by it


def weight_norm(layer: Any) -> Layer:
    """Weight normalization: w = g · v / ‖v‖ for each output feature (Salimans & Kingma 2016).

    v keeps the name `kernel`, and g is a new parameter `scale`, (features,), initialized to ‖v‖, so that the initial output is
    unchanged. A column v = 0 is not divided by its norm: there w = g · v. It is PyTorch's `weight_norm(dim=0)`, or `dim=1` for
    transposed convolutions, whose weights begin with the input channels there.

    Args:
        layer: Any layer that contains a parameter `kernel`.

    Returns:
        A `Layer` of the same name with an additional `scale` for each kernel.

    Raises:
        ValueError: If there is no kernel, if one already has a `scale`, or if one is stacked by `repeat`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.weight_norm(nn.dense(3))
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> jax.tree.map(jnp.shape, params)
        {'bias': (3,), 'kernel': (4, 3), 'scale': (3,)}
    """

    def start(owner, key):
        return {"scale": power_norm(_columns(owner["kernel"]), (0,))[0]}, {}

    def use(owner, state, training):
        v = _columns(owner["kernel"])
        return v * (at_least_float32(owner["scale"])[None] / _divisor(power_norm(v, (0,)))), state

    return _reparametrized("weight_norm", as_layer(layer), ("scale",), start, use)


def spectral_norm(layer: Any) -> Layer:
    """Spectral normalization: w = v / σ(v), with the largest singular value σ of v as a matrix (Miyato et al. 2018).

    The layer then does not stretch its input, which stabilizes the critic of a GAN. v is the matrix (fan-in, features), and
    σ = rightᵀ v left is computed by power iteration, one step per call in training, from the vectors `left` (features,) and
    `right` (fan-in,) in the state, without gradients. At `init` fifteen steps are made, as in PyTorch. A kernel v = 0 stays 0,
    and the vectors stay what they were.

    Args:
        layer: Any layer that contains a parameter `kernel`.

    Returns:
        A `Layer` of the same name with state `left` and `right` for each kernel.

    Raises:
        ValueError: If there is no kernel, or one is stacked by `repeat`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.spectral_norm(nn.dense(3, use_bias=False))
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> y, state = layer.apply(params, state, jnp.eye(4), training=True)
        >>> round(float(jnp.linalg.norm(y, 2)), 2)
        1.0
    """

    def start(owner, key):
        matrix = _columns(owner["kernel"])
        right = normal(1.0)(child_key(key, "right"), matrix.shape[:1], matrix.dtype)
        left = jnp.zeros(matrix.shape[1:], matrix.dtype)
        left, right = _power_iterations(matrix, left, right / _divisor(power_norm(right, (0,))), 15)
        return {}, {"left": left, "right": right}

    def use(owner, state, training):
        if not {"left", "right"} <= state.keys():
            raise ValueError(
                "spectral_norm needs the singular vectors in its state and got none: call model.apply(params, state, x) "
                "with the state that init or fit returned"
            )
        matrix = _columns(owner["kernel"])
        left, right = (state[name].astype(matrix.dtype) for name in ("left", "right"))
        if training:
            left, right = _power_iterations(lax.stop_gradient(matrix), left, right, 1)
            state = {**state, "left": left.astype(state["left"].dtype), "right": right.astype(state["right"].dtype)}
        return matrix / _divisor(jnp.dot(right, jnp.dot(matrix, left))), state

    return _reparametrized("spectral_norm", as_layer(layer), ("left", "right"), start, use)


def weight_standardization(layer: Any, *, epsilon: float = 1e-5) -> Layer:
    """Weight standardization: w = (v − mean v) / √(var v + ε) for each output feature, over its fan-in (Qiao et al. 2019).

    Use it for convolutions before `group_norm`: together they train as well as batch
    normalization, also with small batches.

    Args:
        layer: Any layer that contains a parameter `kernel`.
        epsilon: The constant ε.

    Returns:
        A `Layer` with the same name and parameters.

    Raises:
        ValueError: If there is no kernel, or one is stacked by `repeat`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.weight_standardization(nn.conv(16, 3))
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 8, 8, 3)))
        >>> layer(params, jnp.ones((2, 8, 8, 3)))[0, 1, 1].round(3).any().item()
        False
    """

    epsilon = number("weight_standardization", "epsilon", epsilon, 0)

    def use(owner, state, training):
        difference, var = centered(_columns(owner["kernel"]), (0,))
        return difference * lax.rsqrt(var + epsilon), state

    return _reparametrized("weight_standardization", as_layer(layer), (), lambda owner, key: ({}, {}), use)


def _reparametrized(name: str, layer: Layer, added: tuple[str, ...], start: Callable, use: Callable) -> Layer:
    """The layer with each kernel computed by `use(owner, state, training) -> (matrix, state)`.

    `owner` is the dict that holds the kernel, and `state` the state at the same path. `start(owner, key)` returns the initial
    entries to add to the two; `added` names them.
    """

    def init(key, x):
        spec = layer.setup(x)
        _check_kernels(name, spec.params, added)
        drawn, _ = draw(key, spec.params, {})

        def extended(owner, state, path):
            owner_key = key
            for name in path:
                owner_key = child_key(owner_key, name)
            new, new_state = start(_at(drawn, path), owner_key)
            return {**owner, **new}, {**state, **new_state}

        return _each_owner(extended, spec.params, spec.state)

    def apply(params, state, x, *, key=None, training=False):
        def computed(owner, state, path):
            matrix, state = use(owner, state, training)
            kernel = matrix.reshape(owner["kernel"].shape).astype(owner["kernel"].dtype)
            return {**{k: v for k, v in owner.items() if k not in added}, "kernel": kernel}, state

        params, state = _each_owner(computed, params, state)
        return layer.apply(params, state, x, key=key, training=training)

    return Layer(init, apply, layer.name)


def _each_owner(function: Callable, params: dict, state: dict, path: tuple[str, ...] = ()) -> tuple[dict, dict]:
    """Apply `function(owner, state, path) -> (owner, state)` to every dict in the tree that holds a kernel."""
    for name, child in params.items():
        if isinstance(child, dict):
            child, child_state = _each_owner(function, child, state.get(name, {}), (*path, name))
            params = {**params, name: child}
            state = {**state, name: child_state} if child_state else state
    return (params, state) if isinstance(params.get("kernel", {}), dict) else function(params, state, path)


def _check_kernels(name: str, params: dict, added: tuple[str, ...]) -> None:
    found: list[dict] = []

    def collect(owner, state, path):
        found.append(owner)
        return owner, state

    _each_owner(collect, params, {})
    if not found:
        raise ValueError(f"{name} takes a layer with a parameter 'kernel', and this one has none")
    for owner in found:
        if owner["kernel"].copies:
            raise ValueError(
                f"{name} cannot be applied to the stacked kernels of repeat: write repeat({name}(layer), n) instead of "
                f"{name}(repeat(layer, n))"
            )
        taken = [entry for entry in added if entry in owner]
        if taken:
            raise ValueError(f"{name} adds {taken} to the parameters, and this layer already has such a parameter")


def _at(tree: dict, path: tuple[str, ...]) -> dict:
    for name in path:
        tree = tree[name]
    return tree


def _columns(kernel: jax.Array) -> jax.Array:
    """The kernel as a matrix (fan-in, features), in at least float32."""
    return at_least_float32(kernel).reshape(math.prod(kernel.shape[:-1]), kernel.shape[-1])


def _divisor(norm: jax.Array) -> jax.Array:
    """The norm, or 1 where it is 0: then the kernel stays 0, and its gradient is finite."""
    return jnp.where(jnp.abs(norm) > TINY, norm, 1)


@partial(jax.jit, static_argnums=3)
def _power_iterations(matrix: jax.Array, left: jax.Array, right: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """The vectors `left` (features,) and `right` (fan-in,) after a number of steps towards the first singular vectors.

    A vector that the matrix maps to 0 stays as it was, so that the next steps can continue from it.
    """

    def unit(v, before):
        norm = power_norm(v, (0,))
        return jnp.where(norm > TINY, v / _divisor(norm), before)

    def step(_, vectors):
        left = unit(jnp.dot(vectors[1], matrix), vectors[0])
        return left, unit(jnp.dot(matrix, left), vectors[1])

    return lax.fori_loop(0, steps, step, (left, right))
