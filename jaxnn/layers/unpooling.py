"""The inverse of max pooling, and the windows of an input as vectors."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxnn.core.dtypes import as_index, at_least_float32
from jaxnn.core.layer import Layer, stateless
from jaxnn.core.text import array_text
from jaxnn.kernels.pooling import window_positions
from jaxnn.layers.convolution import PerAxis, check_per_axis, spatial
from jaxnn.layers.pooling import Padding, flat_space, windowed


def max_unpool(
    kernel_size: PerAxis, *, strides: PerAxis | None = None, padding: Padding = "VALID", size: PerAxis | None = None
) -> Layer:
    """Put the values of `max_pool(..., return_indices=True)` back to their places, zeros elsewhere.

    PyTorch's `MaxUnpool2d`: x[indices[p, c], c] = y[p, c] (Zeiler & Fergus 2014). Where windows share a largest value, it
    is put there once.

    Args:
        kernel_size: The size of the window of the pooling, one number for all spatial axes or one per axis.
        strides: The distance between windows; the size of the window by default.
        padding: `"VALID"` or one `(low, high)` pair per axis.
        size: The size of the output, by default (n − 1) · stride + window − padding, which is that of the pooling's input if
            its windows cover it exactly.

    Returns:
        A `Layer` from a pair of arrays (batch, *space', channels), values and indices, to (batch, *space, channels). An index
        beyond the output makes the values of its sample and channel NaN.

    Raises:
        TypeError: If the indices are not integers.
        ValueError: If the two arrays differ in shape, or have no one to three spatial axes; if the padding is "SAME".

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> x = jnp.array([1.0, 4.0, 3.0, 2.0]).reshape(1, 4, 1)
        >>> pooled = nn.max_pool(2, return_indices=True)({}, x)
        >>> nn.max_unpool(2)({}, pooled)[0, :, 0].tolist()
        [0.0, 4.0, 3.0, 0.0]
    """
    check_per_axis("max_unpool", kernel_size=kernel_size, strides=1 if strides is None else strides)
    check_per_axis("max_unpool", size=1 if size is None else size)
    if isinstance(padding, str) and padding != "VALID":
        raise ValueError(f'max_unpool takes padding "VALID" or one (low, high) pair per axis, got {padding!r}; or pass size')

    def apply(params, x):
        if not isinstance(x, tuple) or len(x) != 2 or x[0].shape != x[1].shape:
            raise ValueError(f"max_unpool takes values and indices of one shape, as max_pool returns them, got {array_text(x)}")
        y, indices = x
        if not jnp.issubdtype(indices.dtype, jnp.integer):
            raise TypeError(f"max_unpool takes integer indices, got {indices.dtype}")
        window = spatial("max_unpool", "kernel_size", kernel_size, y)
        step = window if strides is None else spatial("max_unpool", "strides", strides, y)
        pairs = ((0, 0),) * len(window) if padding == "VALID" else padding
        whole_size = tuple(
            (n - 1) * s + w - low - high for n, s, w, (low, high) in zip(y.shape[1:-1], step, window, pairs, strict=True)
        )
        out = whole_size if size is None else spatial("max_unpool", "size", size, y)
        flat, at = (flat_space(a) for a in (y, as_index(indices)))
        inside = (at >= 0) & (at < math.prod(out))
        samples, channels = (jnp.arange(flat.shape[i], dtype=at.dtype) for i in (0, 2))
        empty = jnp.zeros((flat.shape[0], math.prod(out), flat.shape[-1]), y.dtype)
        placed = empty.at[samples[:, None, None], jnp.where(inside, at, math.prod(out)), channels[None, None]].set(
            flat, mode="drop"
        )
        if jnp.issubdtype(y.dtype, jnp.inexact):
            placed = jnp.where(inside.all(1, keepdims=True), placed, jnp.asarray(jnp.nan, y.dtype))
        return placed.reshape(y.shape[0], *out, y.shape[-1])

    return stateless(lambda key, x: {}, apply)


def unfold(kernel_size: PerAxis, *, strides: PerAxis = 1, padding: Padding = "VALID", dilation: PerAxis = 1) -> Layer:
    """The windows of an input as vectors, "im2col": y[p, c · K + k] = x[s·p + d·k − pad, c] for the K elements k of a window.

    The order within a vector, channels first, is that of PyTorch's `Unfold`, whose output is (batch, channels · K, windows).

    Args:
        kernel_size: The size of the window, one number for all spatial axes or one per axis.
        strides: The distance between windows.
        padding: `"VALID"`, `"SAME"` or one `(low, high)` pair per axis, smaller than the window; padding is zero.
        dilation: The distance between the elements of a window.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels · K).

    Raises:
        ValueError: If the input is not (batch, *space, channels) with one to three spatial axes, or the number of values of
            an option is not the number of spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.unfold(2)({}, jnp.arange(3.0).reshape(1, 3, 1)).tolist()
        [[[0.0, 1.0], [1.0, 2.0]]]
    """

    def vectors(x, window, **options):
        at, inside = window_positions(x, window, **options)
        wide = at_least_float32(x, linear=True) if jnp.issubdtype(x.dtype, jnp.inexact) else x  # the gradient is a sum
        elements = jnp.take(flat_space(wide), at, axis=1)
        elements = jnp.where(inside[None, ..., None], elements, jnp.zeros((), wide.dtype)).swapaxes(-1, -2)
        return elements.reshape(*elements.shape[:-2], math.prod(elements.shape[-2:])).astype(x.dtype)

    return windowed("unfold", vectors, kernel_size, strides, padding, dilation, ceil_mode=False)
