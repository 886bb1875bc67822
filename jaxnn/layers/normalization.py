"""Normalization: over the batch, with running statistics for inference, and over the features of each sample."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.combinators import positionwise
from jaxnn.core.draw import param
from jaxnn.core.dtypes import at_least_float32
from jaxnn.core.layer import Layer, stateless
from jaxnn.functional.initializers import ones, zeros


def batch_norm(*, momentum: float = 0.9, epsilon: float = 1e-5, use_scale: bool = True, use_bias: bool = True) -> Layer:
    """y = scale · (x − mean) / √(var + ε) + bias, over every axis but the last (Ioffe & Szegedy 2015).

    In training, mean and var are the batch's, and the running ones move by running ← m · running + (1 − m) · batch, with
    the unbiased variance, as in the paper and PyTorch (whose `momentum` is 1 − m). At inference they are the running ones.
    Statistics are computed and kept in at least float32.

    Args:
        momentum: m, the share of the running statistics that is kept.
        epsilon: ε.
        use_scale: whether there is a learned scale, initially 1.
        use_bias: whether there is a learned bias, initially 0.

    Returns:
        A `Layer` with state `mean` and `var`, both (channels,).

    Raises:
        ValueError: in training on a batch with one value a channel, which has no variance.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, x = nn.batch_norm(), jnp.array([[1.0], [3.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> y, state = layer.apply(params, state, x, training=True)
        >>> y.round(3).tolist(), state["mean"].round(3).tolist()
        ([[-1.0], [1.0]], [0.20000000298023224])
    """

    def init(key, x):
        channels = x.shape[-1:]
        return _affine(channels, use_scale, use_bias), {"mean": param(zeros, channels), "var": param(ones, channels)}

    def apply(params, state, x, *, key=None, training=False):
        if state.keys() != {"mean", "var"}:
            raise ValueError(
                "batch_norm has running statistics and got none: call model.apply(params, state, x) with the state that "
                "init or fit returned"
            )
        wide = at_least_float32(x)
        if not training:
            return _normalized(wide, state["mean"], state["var"], epsilon, params).astype(x.dtype), state
        n = x.size // max(x.shape[-1], 1)
        if n < 2:
            raise ValueError(
                f"batch_norm cannot find a variance from one value a channel (input {list(x.shape)}) in training: "
                "use larger batches, or a batch size that leaves no last batch of one"
            )
        scale, bias = params.get("scale", jnp.ones(x.shape[-1:])), params.get("bias", jnp.zeros(x.shape[-1:]))
        y, mean, var = kernels.batch_norm(wide, scale.astype(wide.dtype), bias.astype(wide.dtype), epsilon)
        running = {"mean": mean, "var": var * (n / (n - 1))}
        after = {k: momentum * state[k] + (1 - momentum) * running[k].astype(state[k].dtype) for k in running}
        return y.astype(x.dtype), after

    return Layer(init, apply, "batch_norm")


def layer_norm(*, epsilon: float = 1e-5, use_scale: bool = True, use_bias: bool = True) -> Layer:
    """y = scale · (x − mean) / √(var + ε) + bias, over the last axis of each sample (Ba, Kiros & Hinton 2016).

    Computed in at least float32.

    Args:
        epsilon: ε.
        use_scale: whether there is a learned scale, initially 1.
        use_bias: whether there is a learned bias, initially 0.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, x = nn.layer_norm(), jnp.array([[1.0, 3.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(3).tolist()
        [[-1.0, 1.0]]
    """

    def init(key, x):
        return _affine(x.shape[-1:], use_scale, use_bias)

    def apply(params, x):
        wide = at_least_float32(x)
        mean, var = jnp.mean(wide, -1, keepdims=True), jnp.var(wide, -1, keepdims=True)
        return _normalized(wide, mean, var, epsilon, params).astype(x.dtype)

    return positionwise(stateless(init, apply))


def _affine(channels: tuple[int, ...], use_scale: bool, use_bias: bool) -> dict:
    if not channels:
        raise ValueError("normalization takes an input of shape (batch, ..., features), got a single number")
    return ({"scale": param(ones, channels)} if use_scale else {}) | ({"bias": param(zeros, channels)} if use_bias else {})


def _normalized(x: jax.Array, mean: jax.Array, var: jax.Array, epsilon: float, params: dict) -> jax.Array:
    def along(v):
        return v.astype(x.dtype) if v.ndim == x.ndim else kernels.spread(v.astype(x.dtype), x)

    factor = jax.lax.rsqrt(along(var) + epsilon)
    if "scale" in params:
        factor = factor * along(params["scale"])
    y = (x - along(mean)) * factor
    return y + along(params["bias"]) if "bias" in params else y
