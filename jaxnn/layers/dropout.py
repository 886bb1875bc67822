"""Variants of dropout, and noise: layers that draw random numbers in training and are the identity at inference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.checks import axes_of, fraction, number, require_key
from jaxnn.core.combinators import positionwise
from jaxnn.core.dtypes import at_least_float32
from jaxnn.core.layer import Layer

SELU_FLOOR = -1.7580993408473766  # −λα, the limit of selu for x → −∞


def dropout(rate: float, *, broadcast_axes: tuple[int, ...] = ()) -> Layer:
    """Dropout: in training each unit is 0 with probability `rate` and x / (1 − rate) otherwise; at inference y = x.

    The expected value is the same in both ("inverted" dropout, Srivastava et al. 2014).

    Args:
        rate: The fraction of units that are dropped, in [0, 1); common values are 0.2 and 0.5. It may be traced.
        broadcast_axes: Axes along which units are dropped together: for (batch, time, features), `(1,)` drops the same
            features at all times, as in recurrent networks (Gal & Ghahramani 2016).

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If `rate` is not in [0, 1), if the input lacks one of the axes, or in training without a key.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, x = nn.dropout(0.5), jnp.ones((2, 4))
        >>> y, state = layer.apply({}, {}, x, key=jax.random.key(0), training=True)
        >>> sorted(set(y.ravel().tolist())), (layer({}, x) == x).all().item()
        ([0.0, 2.0], True)
    """
    broadcast_axes = axes_of("dropout", "broadcast_axes", broadcast_axes)
    return _shared_dropout("dropout", rate, lambda x: broadcast_axes)


def spatial_dropout(rate: float) -> Layer:
    """Dropout of whole channels: y[b, p, c] = m[b, c] x[b, p, c] for all positions p (Tompson et al. 2015).

    m is 0 with probability `rate` and 1/(1 − rate) otherwise; at inference y = x. Neighboring pixels or times are strongly
    correlated, so that dropping single ones regularizes little.

    Args:
        rate: The fraction of channels that are dropped in each sample, in [0, 1). It may be traced.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If `rate` is not in [0, 1), or in training without a key.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> y, _ = nn.spatial_dropout(0.5).apply({}, {}, jnp.ones((1, 3, 4)), key=jax.random.key(0), training=True)
        >>> bool((y == y[:, :1]).all())
        True
    """
    return _shared_dropout("spatial_dropout", rate, lambda x: range(1, x.ndim - 1))


def drop_path(rate: float) -> Layer:
    """Stochastic depth: drop the whole branch of a sample, y[b] = m[b] x[b] (Huang et al. 2016; Larsson et al. 2017).

    m is 0 with probability `rate` and 1/(1 − rate) otherwise; at inference y = x. It is the last layer of a residual
    branch, `nn.residual(..., nn.drop_path(0.1))`; the rate usually grows linearly with depth.

    Args:
        rate: The fraction of samples for which the branch is dropped, in [0, 1). It may be traced.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If `rate` is not in [0, 1), or in training without a key.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> block = nn.residual(nn.dense(3, kernel_init=nn.initializers.ones), nn.drop_path(0.5))
        >>> x = jnp.ones((8, 3))
        >>> params, state = block.init(jax.random.key(0), x)
        >>> y, _ = block.apply(params, state, x, key=jax.random.key(0), training=True)
        >>> sorted(set(y.ravel().tolist()))
        [1.0, 7.0]
    """
    return _shared_dropout("drop_path", rate, lambda x: range(1, x.ndim))


def alpha_dropout(rate: float) -> Layer:
    """Dropout that keeps mean 0 and variance 1, for `selu` networks (Klambauer et al. 2017).

    y = a · (x where kept, α' where dropped) + b, with p = 1 − rate, the lower limit α' = −λα of selu,
    a = (p · (1 + rate · α'²))^(−1/2) and b = −a · rate · α'; at inference y = x.

    Args:
        rate: The fraction of units that are dropped, in [0, 1). It may be traced.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If `rate` is not in [0, 1), or in training without a key.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> x = jax.random.normal(jax.random.key(0), (1000, 100))
        >>> y, _ = nn.alpha_dropout(0.3).apply({}, {}, x, key=jax.random.key(1), training=True)
        >>> abs(round(float(y.mean()), 1)), round(float(y.std()), 1)
        (0.0, 1.0)
    """
    rate = fraction("alpha_dropout", "rate", rate)

    def noisy(x, key):
        wide = at_least_float32(x)
        q = jnp.asarray(rate, wide.dtype)
        a = ((1 - q) * (1 + q * SELU_FLOOR**2)) ** -0.5
        kept = kernels.dropout(jnp.ones_like(wide), rate, key) > 0
        return (a * jnp.where(kept, wide, SELU_FLOOR) - a * q * SELU_FLOOR).astype(x.dtype)

    return _in_training("alpha_dropout", noisy, rate)


def gaussian_dropout(rate: float) -> Layer:
    """Gaussian dropout: in training y = x · z with z ~ N(1, rate / (1 − rate)) (Srivastava et al. 2014).

    z has the mean and variance of dropout's factor; at inference y = x.

    Args:
        rate: The rate of the `dropout` with the same variance, in [0, 1). It may be traced.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If `rate` is not in [0, 1), or in training without a key.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> y, _ = nn.gaussian_dropout(0.5).apply({}, {}, jnp.ones((1000, 100)), key=jax.random.key(0), training=True)
        >>> round(float(y.mean()), 1), round(float(y.var()), 1)
        (1.0, 1.0)
    """
    rate = fraction("gaussian_dropout", "rate", rate)

    def noisy(x, key):
        wide = at_least_float32(x)
        q = jnp.asarray(rate, wide.dtype)
        return (wide * (1 + jnp.sqrt(q / (1 - q)) * jax.random.normal(key, x.shape, wide.dtype))).astype(x.dtype)

    return _in_training("gaussian_dropout", noisy, rate)


def gaussian_noise(stddev: float) -> Layer:
    """Gaussian noise: in training y = x + σ z with z ~ N(0, 1); at inference y = x. Keras's `GaussianNoise`.

    For small σ it is equivalent to a penalty on the gradient of the network (Bishop 1995).

    Args:
        stddev: The standard deviation σ ≥ 0. It may be traced.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If `stddev` is negative, or in training without a key.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> y, _ = nn.gaussian_noise(0.5).apply({}, {}, jnp.ones((1000, 100)), key=jax.random.key(0), training=True)
        >>> round(float(y.mean()), 1), round(float(y.std()), 1)
        (1.0, 0.5)
    """
    stddev = number("gaussian_noise", "stddev", stddev, 0)

    def noisy(x, key):
        wide = at_least_float32(x)
        return (wide + jnp.asarray(stddev, wide.dtype) * jax.random.normal(key, x.shape, wide.dtype)).astype(x.dtype)

    return _in_training("gaussian_noise", noisy, stddev)


def _shared_dropout(name: str, rate: Any, shared_axes: Callable[[Any], Iterable[int]]) -> Layer:
    """Dropout in which all units along the axes `shared_axes(x)` are dropped or kept together."""
    rate = fraction(name, "rate", rate)

    def noisy(x, key):
        axes = set(shared_axes(x))
        wrong = [axis for axis in axes if not -x.ndim <= axis < x.ndim]
        if wrong:
            raise ValueError(f"{name} has broadcast_axes {sorted(axes)}, and the input {list(x.shape)} has no axes {wrong}")
        if not axes:
            return kernels.dropout(x, rate, key)
        wide = at_least_float32(x)
        shared = [1 if axis in axes or axis - x.ndim in axes else n for axis, n in enumerate(x.shape)]
        factor = kernels.dropout(jnp.ones(shared, wide.dtype), rate, key)
        return jnp.where(factor > 0, wide * factor, 0).astype(x.dtype)  # not a product, since dropped values may be infinite

    return _in_training(name, noisy, rate)


def _in_training(name: str, noisy: Callable[[jax.Array, jax.Array], jax.Array], strength: Any) -> Layer:
    """The layer `noisy(x, key)` in training, and x at inference or if `strength` is known to be zero."""

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, training=False):
        if not training or (not isinstance(strength, jax.Array) and strength == 0):
            return x, state
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.inexact):  # the result would be cut off
            raise TypeError(f"{name} takes floating-point numbers, got {x.dtype}; cast with .astype")
        return noisy(x, require_key(key)), state

    return positionwise(Layer(init, apply, name))
