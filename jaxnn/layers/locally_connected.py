"""Convolutions whose weights are not shared over space."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnn.core.checks import whole
from jaxnn.core.dtypes import at_least_float32, promote
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, stateless
from jaxnn.functional.initializers import he_normal, zeros
from jaxnn.kernels.pooling import window_positions
from jaxnn.layers.convolution import PerAxis, check_per_axis, spatial
from jaxnn.layers.pooling import Padding, flat_space


def locally_connected(
    features: int,
    kernel_size: PerAxis,
    *,
    strides: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    use_bias: bool = True,
    kernel_init=he_normal(),
    bias_init=zeros,
) -> Layer:
    """A convolution with other weights at every position: y[p, o] = b[p, o] + Σ_{k, c} x[s·p + d·k − pad, c] w[p, k, c, o].

    For inputs whose positions differ, such as aligned faces (Taigman et al. 2014); Keras's `LocallyConnected2D`. PyTorch has
    no such layer. Parameters: `kernel` (*space', *kernel_size, channels, features) and `bias` (*space', features), so that
    the size of the input is that of `init`.

    Args:
        features: The number of output channels.
        kernel_size: The size of the window, one number for all spatial axes or one per axis.
        strides: The distance between windows.
        padding: `"VALID"`, `"SAME"` or one `(low, high)` pair per axis, smaller than the window; padding is zero.
        dilation: The distance between the elements of a window.
        use_bias: Whether to add the bias b.
        kernel_init: Initializer of the kernel of each position, (*kernel_size, channels, features); He's by default.
        bias_init: Initializer of the bias.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', features).

    Raises:
        ValueError: If the input is not (batch, *space, channels) with one to three spatial axes, its size is not that of
            `init`, or the number of values of an option is not the number of spatial axes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> params, state = nn.locally_connected(4, 3).init(jax.random.key(0), jnp.ones((1, 8, 8, 2)))
        >>> params["kernel"].shape, params["bias"].shape
        ((6, 6, 3, 3, 2, 4), (6, 6, 4))
    """
    features = whole("locally_connected", "features", features)
    check_per_axis("locally_connected", kernel_size=kernel_size, strides=strides, dilation=dilation)

    def windows(x):
        named = {"kernel_size": kernel_size, "strides": strides, "dilation": dilation}
        named = {name: spatial("locally_connected", name, value, x) for name, value in named.items()}
        at, inside = window_positions(x, **named, padding=padding, ceil_mode=False)
        return named["kernel_size"], at, inside

    def init(key, x):
        window, at, _ = windows(x)
        out = at.shape[:-1]
        params = {"kernel": param(_PerPosition(kernel_init, len(out)), (*out, *window, x.shape[-1], features))}
        return params | ({"bias": param(bias_init, (*out, features))} if use_bias else {})

    def apply(params, x):
        window, at, inside = windows(x)
        out, kernel = at.shape[:-1], params["kernel"]
        if kernel.shape != (*out, *window, x.shape[-1], features):
            raise ValueError(
                f"locally_connected takes inputs of the size that it was initialized for: its kernel is {list(kernel.shape)}, "
                f"and an input of shape {list(x.shape)} requires {[*out, *window, x.shape[-1], features]}"
            )
        x, kernel = promote(x, kernel)
        wide, weights = (at_least_float32(a, linear=True) for a in (x, kernel))  # gradients are sums
        positions, elements = math.prod(out), math.prod(window)
        taken = jnp.take(flat_space(wide), at.reshape(positions, elements), axis=1)
        taken = jnp.where(inside.reshape(1, positions, elements, 1), taken, 0)
        y = jnp.einsum("bpkc,pkcf->bpf", taken, weights.reshape(positions, elements, x.shape[-1], features))
        y = y.reshape(x.shape[0], *out, features)
        return (y + params["bias"].astype(y.dtype)[None] if use_bias else y).astype(x.dtype)

    return stateless(init, apply, "locally_connected")


class _PerPosition:
    """The initializer of kernels that are drawn for each position, whose axes come first."""

    def __init__(self, initializer: Callable, axes: int):
        self._initializer, self._axes = initializer, axes
        if hasattr(initializer, "describe"):
            self.describe = lambda shape: initializer.describe(shape[axes:])

    def __call__(self, key, shape, dtype):
        positions, own = shape[: self._axes], shape[self._axes :]
        keys = jax.random.split(key, math.prod(positions))
        return jax.vmap(lambda key: self._initializer(key, own, dtype))(keys).reshape(shape)
