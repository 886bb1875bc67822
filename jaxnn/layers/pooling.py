"""Pooling over windows and over everything, and flattening: layers without parameters."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.dtypes import at_least_float32
from jaxnn.core.layer import Layer, stateless
from jaxnn.layers.convolution import Size, spatial


def max_pool(window: Size, *, strides: Size | None = None, padding: str | Sequence[tuple[int, int]] = "VALID") -> Layer:
    """The largest value in each window. Of equal values the first, in row-major order, takes the gradient.

    Args:
        window: 2 for 2, 2×2 or 2×2×2 by the input's number of spatial axes.
        strides: the window's own size by default.
        padding: `"VALID"`, `"SAME"` or `((low, high), ...)`; what is padded never wins.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.max_pool(2)({}, jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    return _pool("max_pool", kernels.max_pool, window, strides, padding)


def avg_pool(window: Size, *, strides: Size | None = None, padding: str | Sequence[tuple[int, int]] = "VALID") -> Layer:
    """The mean of each window; what is padded is not counted.

    Args:
        window: 2 for 2, 2×2 or 2×2×2 by the input's number of spatial axes.
        strides: the window's own size by default.
        padding: `"VALID"`, `"SAME"` or `((low, high), ...)`.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.avg_pool(2)({}, jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[2.5, 4.5], [10.5, 12.5]]
    """
    return _pool("avg_pool", kernels.avg_pool, window, strides, padding)


def global_avg_pool() -> Layer:
    """The mean over all spatial axes: (batch, *space, channels) to (batch, channels). Summed in at least float32.

    Returns:
        The `Layer`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.global_avg_pool()({}, jnp.arange(8.0).reshape(1, 2, 2, 2)).tolist()
        [[3.0, 4.0]]
    """

    def apply(params, x):
        spatial("global_avg_pool", "window", 1, x)
        return jnp.mean(at_least_float32(x), axis=tuple(range(1, x.ndim - 1))).astype(x.dtype)

    return stateless(_no_params, apply)


def flatten() -> Layer:
    """All axes but the first as one: (batch, ...) to (batch, features), in row-major order.

    Returns:
        The `Layer`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.flatten()({}, jnp.ones((2, 4, 4, 3))).shape
        (2, 48)
    """

    def apply(params, x):
        if x.ndim < 1:
            raise ValueError("flatten takes an input of shape (batch, ...), got a single number")
        features = 1
        for n in x.shape[1:]:
            features *= n
        return x.reshape(x.shape[0], features)

    return stateless(_no_params, apply)


def _pool(name: str, pool, window: Size, strides: Size | None, padding) -> Layer:
    def apply(params, x):
        size = spatial(name, "window", window, x)
        return pool(x, size, strides=size if strides is None else spatial(name, "strides", strides, x), padding=padding)

    return stateless(_no_params, apply, name)


def _no_params(key, x):
    return {}
