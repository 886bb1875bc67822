"""Pooling over windows and over everything: layers without parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import kernels
from jaxnn.core.dtypes import at_least_float32, promote
from jaxnn.core.layer import Layer, stateless
from jaxnn.layers.convolution import Size, spatial

Padding = str | Sequence[tuple[int, int]]


def max_pool(
    window: Size,
    *,
    strides: Size | None = None,
    padding: Padding = "VALID",
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Layer:
    """The largest value in each window: y[p, c] = maxₖ x[s·p + d·k − pad, c], as in PyTorch and Keras.

    Of equal values the first, in row-major order, takes the gradient.

    Args:
        window: 2 for 2, 2×2 or 2×2×2 by the input's number of spatial axes.
        strides: the window's own size by default.
        padding: `"VALID"`, `"SAME"` or `((low, high), ...)`, `((p, p), ...)` for PyTorch's p; what is padded never wins.
        dilation: the distance between the window's positions.
        ceil_mode: whether a last window that overhangs the input is taken too, as in PyTorch.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        ValueError: if the input is not (batch, *space, channels) with one to three spatial axes, or an option has another
            number of values than it has spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.max_pool(2)({}, jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    return _pool("max_pool", kernels.max_pool, window, strides, padding, dilation, ceil_mode=ceil_mode)


def min_pool(
    window: Size,
    *,
    strides: Size | None = None,
    padding: Padding = "VALID",
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Layer:
    """The smallest value in each window: y[p, c] = minₖ x[s·p + d·k − pad, c] = −maxₖ(−x[…]), with the windows of PyTorch.

    Of equal values the first, in row-major order, takes the gradient.

    Args:
        window: 2 for 2, 2×2 or 2×2×2 by the input's number of spatial axes.
        strides: the window's own size by default.
        padding: `"VALID"`, `"SAME"` or `((low, high), ...)`, `((p, p), ...)` for PyTorch's p; what is padded never wins.
        dilation: the distance between the window's positions.
        ceil_mode: whether a last window that overhangs the input is taken too, as in PyTorch.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        TypeError: if the input is not of floating-point numbers.
        ValueError: if the input is not (batch, *space, channels) with one to three spatial axes, or an option has another
            number of values than it has spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.min_pool(2)({}, jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[0.0, 2.0], [8.0, 10.0]]
    """

    def smallest(x, window, **options):
        return -kernels.max_pool(-_floating("min_pool", x), window, **options)

    return _pool("min_pool", smallest, window, strides, padding, dilation, ceil_mode=ceil_mode)


def avg_pool(
    window: Size,
    *,
    strides: Size | None = None,
    padding: Padding = "VALID",
    dilation: Size = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Layer:
    """The mean of each window: y[p, c] = (1/n) Σₖ x[s·p + d·k − pad, c], as in PyTorch and Keras.

    n counts the places inside the input only: what is padded is left out, unless it is asked for.

    Args:
        window: 2 for 2, 2×2 or 2×2×2 by the input's number of spatial axes.
        strides: the window's own size by default.
        padding: `"VALID"`, `"SAME"` or `((low, high), ...)`, `((p, p), ...)` for PyTorch's p.
        dilation: the distance between the window's positions.
        ceil_mode: whether a last window that overhangs the input is taken too, as in PyTorch; the overhang never counts.
        count_include_pad: whether what is padded counts, as zeros: PyTorch's default, and not that of Keras or here.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        ValueError: if the input is not (batch, *space, channels) with one to three spatial axes, or an option has another
            number of values than it has spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.avg_pool(2)({}, jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[2.5, 4.5], [10.5, 12.5]]
    """
    options = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    return _pool("avg_pool", kernels.avg_pool, window, strides, padding, dilation, **options)


def lp_pool(
    window: Size,
    *,
    p: float = 2.0,
    strides: Size | None = None,
    padding: Padding = "VALID",
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Layer:
    """The p-norm of each window: y = (Σ |x|ᵖ)^(1/p), computed in at least float32. Its gradient at 0 is 0.

    PyTorch sums xᵖ with its sign for odd p, scales what overhangs in `ceil_mode` up, and at 0 has no gradient (NaN).

    Args:
        window: 2 for 2, 2×2 or 2×2×2 by the input's number of spatial axes.
        p: the norm's order, at least 1.
        strides: the window's own size by default.
        padding: `"VALID"`, `"SAME"` or `((low, high), ...)`, with zeros.
        dilation: the distance between the window's positions.
        ceil_mode: whether a last window that overhangs the input is taken too.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        ValueError: if p < 1.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.lp_pool(2)({}, jnp.array([3.0, 4.0]).reshape(1, 2, 1)).item()
        5.0
    """
    if not p >= 1:
        raise ValueError(f"lp_pool takes p of at least 1, got {p}")

    def norm(x, window, **options):
        wide = at_least_float32(_floating("lp_pool", x))
        zero = wide == 0  # where |x|ᵖ has a derivative of 0, whatever p
        powers = jnp.where(zero, 0, jnp.abs(jnp.where(zero, 1, wide)) ** p)
        total = kernels.sum_pool(powers, window, **options)
        nothing = total == 0
        return jnp.where(nothing, 0, jnp.where(nothing, 1, total) ** (1 / p)).astype(x.dtype)

    return _pool("lp_pool", norm, window, strides, padding, dilation, ceil_mode=ceil_mode)


def global_avg_pool() -> Layer:
    """The mean over all spatial axes: (batch, *space, channels) → (batch, channels).

    y[c] = (1/n) Σₚ x[p, c], summed in at least float32 (Lin et al. 2014, Network in Network).

    Returns:
        The `Layer`.

    Raises:
        ValueError: if the input is not (batch, *space, channels) with one to three spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.global_avg_pool()({}, jnp.arange(8.0).reshape(1, 2, 2, 2)).tolist()
        [[3.0, 4.0]]
    """

    def apply(params, x):
        spatial("global_avg_pool", "window", 1, x)
        return jnp.mean(at_least_float32(x), axis=tuple(range(1, x.ndim - 1))).astype(x.dtype)

    return stateless(_no_params, apply)


def global_max_pool() -> Layer:
    """The largest value over all spatial axes: (batch, *space, channels) → (batch, channels).

    y[c] = maxₚ x[p, c], as Keras's `GlobalMaxPooling2D`. Of equal values the first, in row-major order, takes the gradient.

    Returns:
        The `Layer`.

    Raises:
        ValueError: if the input is not (batch, *space, channels) with one to three spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.global_max_pool()({}, jnp.arange(8.0).reshape(1, 2, 2, 2)).tolist()
        [[6.0, 7.0]]
    """

    def apply(params, x):
        spatial("global_max_pool", "window", 1, x)
        return _first_largest(x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]), 1)

    return stateless(_no_params, apply)


def adaptive_avg_pool(size: Size) -> Layer:
    """The means of as many windows as asked for: y[i] = mean of x[⌊i·n/m⌋ : ⌈(i+1)·n/m⌉] along an axis of n values.

    The m windows, as in PyTorch, cover the input and may overlap by one; where m divides n they are `avg_pool(n / m)`'s.
    Computed in at least float32, as one product with a matrix an axis.

    Args:
        size: m, one number or one a spatial axis.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *size, channels).

    Raises:
        ValueError: if the input is not (batch, *space, channels) with one to three spatial axes, or an option has another
            number of values than it has spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.adaptive_avg_pool(2)({}, jnp.arange(3.0).reshape(1, 3, 1))[0, :, 0].tolist()
        [0.5, 1.5]
    """

    def along(x, axis, m):
        first, stop = _windows(x.shape[axis], m)
        place = np.arange(x.shape[axis])
        inside = (first[:, None] <= place[None, :]) & (place[None, :] < stop[:, None])
        means = jnp.asarray(inside / (stop - first)[:, None], x.dtype)
        return jnp.moveaxis(jnp.tensordot(x, means, (axis, 1), precision="highest"), -1, axis)

    return _adaptive("adaptive_avg_pool", along, size)


def adaptive_max_pool(size: Size) -> Layer:
    """The largest values of as many windows as asked for, which are those of `adaptive_avg_pool`.

    y[i] = max x[⌊i·n/m⌋ : ⌈(i+1)·n/m⌉] along each axis, as in PyTorch. Of equal values the first, in row-major order, takes
    the gradient.

    Args:
        size: m, one number or one a spatial axis.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *size, channels).

    Raises:
        ValueError: if the input is not (batch, *space, channels) with one to three spatial axes, or an option has another
            number of values than it has spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.adaptive_max_pool(2)({}, jnp.arange(3.0).reshape(1, 3, 1))[0, :, 0].tolist()
        [1.0, 2.0]
    """

    def along(x, axis, m):
        first, stop = _windows(x.shape[axis], m)
        places = first[:, None] + np.arange(max(stop - first))[None, :]
        seen = np.minimum(places, stop[:, None] - 1)  # a shorter window sees its last value twice
        return _first_largest(jnp.take(x, jnp.asarray(seen), axis=axis), axis + 1)

    return _adaptive("adaptive_max_pool", along, size)


def _pool(name: str, pool: Callable, window: Size, strides: Size | None, padding: Padding, dilation: Size, **options) -> Layer:
    def apply(params, x):
        size = spatial(name, "window", window, x)
        step = size if strides is None else spatial(name, "strides", strides, x)
        return pool(x, size, strides=step, padding=padding, dilation=spatial(name, "dilation", dilation, x), **options)

    return stateless(_no_params, apply, name)


def _adaptive(name: str, along: Callable, size: Size) -> Layer:
    """`along(x, axis, m)` for each spatial axis, the last first: so the first of equal values is so in row-major order."""

    def apply(params, x):
        sizes = spatial(name, "size", size, x)
        y = at_least_float32(promote(x)[0])
        for axis in range(len(sizes), 0, -1):
            y = along(y, axis, sizes[axis - 1])
        return y.astype(promote(x)[0].dtype)

    return stateless(_no_params, apply, name)


def _windows(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the m windows over n values begin and where they stop."""
    i = np.arange(m)
    return i * n // m, -(-(i + 1) * n // m)


def _first_largest(x: jax.Array, axis: int) -> jax.Array:
    """The maximum along an axis; its gradient goes to the first of equal values."""
    return jnp.take_along_axis(x, jnp.argmax(x, axis, keepdims=True), axis).squeeze(axis)


def _floating(layer: str, x: jax.Array) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{layer} takes floating-point numbers, got {x.dtype}; cast with .astype")
    return jnp.asarray(x)


def _no_params(key, x):
    return {}
