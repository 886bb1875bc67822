"""Pooling over windows and over all spatial axes; none of these layers has parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import kernels
from jaxnn.core.dtypes import at_least_float32, promote
from jaxnn.core.layer import Layer, stateless
from jaxnn.core.masks import split_mask, zero_padding
from jaxnn.kernels.pooling import check_divisor, window_positions
from jaxnn.kernels.resampling import resample
from jaxnn.layers.convolution import PerAxis, check_per_axis, spatial
from jaxnn.layers.normalization import norm_order

Padding = str | Sequence[tuple[int, int]]


def max_pool(
    kernel_size: PerAxis,
    *,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Layer:
    """Max pooling, the largest value in each window: y[p, c] = maxₖ x[s·p + d·k − pad, c], as in PyTorch and Keras.

    The gradient goes to the first of equal values, in row-major order.

    Args:
        kernel_size: The size of the window, one number for all spatial axes or one per axis.
        strides: The distance between windows; the size of the window by default.
        padding: `"VALID"`, `"SAME"` or one `(low, high)` pair per axis, `((p, p), ...)` for PyTorch's p; padding is never the
            result.
        dilation: The distance between the positions of a window.
        ceil_mode: Whether a last window that extends beyond the input is included, as in PyTorch.
        return_indices: Whether to return `(y, indices)` for `max_unpool`, where the indices, int32, are the positions of the
            largest values in the flattened space of x.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels), or to a pair of such arrays.

    Raises:
        ValueError: If the input is not (batch, *space, channels) with one to three spatial axes, or the number of values of
            an option is not the number of spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.max_pool(2)({}, jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """

    def with_indices(x, window, **options):
        y = kernels.max_pool(x, window, **options)
        at, inside = window_positions(x, window, **options)
        elements = jnp.take(flat_space(x), at, axis=1)  # (batch, *space', elements, channels)
        largest = (elements == y[..., None, :]) | (elements != elements)  # or NaN, which is then the largest
        first = jnp.argmax(largest & inside[None, ..., None], axis=-2, keepdims=True)
        indices = jnp.take_along_axis(jnp.asarray(at)[None, ..., None], first, axis=-2)
        return y, indices.squeeze(-2)

    pool = with_indices if return_indices else kernels.max_pool
    return windowed("max_pool", pool, kernel_size, strides, padding, dilation, ceil_mode=ceil_mode)


def min_pool(
    kernel_size: PerAxis,
    *,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> Layer:
    """Min pooling, the smallest value in each window: y[p, c] = minₖ x[s·p + d·k − pad, c], with the windows of PyTorch.

    The gradient goes to the first of equal values, in row-major order.

    Args:
        kernel_size: The size of the window, one number for all spatial axes or one per axis.
        strides: The distance between windows; the size of the window by default.
        padding: `"VALID"`, `"SAME"` or one `(low, high)` pair per axis, `((p, p), ...)` for PyTorch's p; padding is never the
            result.
        dilation: The distance between the positions of a window.
        ceil_mode: Whether a last window that extends beyond the input is included, as in PyTorch.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        TypeError: If the input is not floating-point.
        ValueError: If the input is not (batch, *space, channels) with one to three spatial axes, or the number of values of
            an option is not the number of spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.min_pool(2)({}, jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[0.0, 2.0], [8.0, 10.0]]
    """

    def smallest(x, window, **options):
        return -kernels.max_pool(-_floating("min_pool", x), window, **options)

    return windowed("min_pool", smallest, kernel_size, strides, padding, dilation, ceil_mode=ceil_mode)


def avg_pool(
    kernel_size: PerAxis,
    *,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    divisor: float | None = None,
) -> Layer:
    """Average pooling, the mean of each window: y[p, c] = (1/n) Σₖ x[s·p + d·k − pad, c], as in PyTorch and Keras.

    n is the number of positions inside the input: padding is not counted, unless `count_include_pad=True`.

    Args:
        kernel_size: The size of the window, one number for all spatial axes or one per axis.
        strides: The distance between windows; the size of the window by default.
        padding: `"VALID"`, `"SAME"` or one `(low, high)` pair per axis, `((p, p), ...)` for PyTorch's p.
        dilation: The distance between the positions of a window.
        ceil_mode: Whether a last window that extends beyond the input is included, as in PyTorch; what lies beyond is not
            counted.
        count_include_pad: Whether padding is counted, as zeros, which is PyTorch's default and not Keras's.
        divisor: What the sum of a window is divided by in place of n, a number other than 0; PyTorch's `divisor_override`.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        ValueError: If the input is not (batch, *space, channels) with one to three spatial axes, or the number of values of
            an option is not the number of spatial axes; or if the divisor is 0.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.avg_pool(2)({}, jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[2.5, 4.5], [10.5, 12.5]]
    """
    check_divisor(divisor)
    options = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad, "divisor": divisor}
    return windowed("avg_pool", kernels.avg_pool, kernel_size, strides, padding, dilation, **options)


def lp_pool(
    kernel_size: PerAxis,
    *,
    p: float = 2.0,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> Layer:
    """Power pooling, the p-norm of each window: y = (Σ |x|ᵖ)^(1/p). Computed in at least float32; the gradient at 0 is 0.

    PyTorch sums signed powers for odd p, rescales windows that extend beyond the input, and has a NaN gradient at 0.

    Args:
        kernel_size: The size of the window, one number for all spatial axes or one per axis.
        p: The order of the norm, at least 1; `math.inf` for the largest absolute value.
        strides: The distance between windows; the size of the window by default.
        padding: `"VALID"`, `"SAME"` or one `(low, high)` pair per axis; padding is zero.
        dilation: The distance between the positions of a window.
        ceil_mode: Whether a last window that extends beyond the input is included.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        ValueError: If `p` < 1.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.lp_pool(2)({}, jnp.array([3.0, 4.0]).reshape(1, 2, 1)).item()
        5.0
    """
    p = norm_order("lp_pool", p)
    return windowed("lp_pool", kernels.lp_pool, kernel_size, strides, padding, dilation, ceil_mode=ceil_mode, p=p)


def global_avg_pool() -> Layer:
    """The mean over all spatial axes: (batch, *space, channels) → (batch, channels).

    y[c] = (1/n) Σₚ x[p, c], summed in at least float32 (Lin et al. 2014, Network in Network). For a padded sequence
    `(x, mask)` it is the mean over the positions where the mask is true, and 0 where there are none.

    Returns:
        The `Layer`; the mean of integers is float32.

    Raises:
        ValueError: If the input is not (batch, *space, channels) with one to three spatial axes, or the mask not
            (batch, *space).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.global_avg_pool()({}, jnp.arange(8.0).reshape(1, 2, 2, 2)).tolist()
        [[3.0, 4.0]]
    """

    def apply(params, x):
        x, mask = _values("global_avg_pool", x)
        wide, space = zero_padding(at_least_float32(x, linear=True), mask), tuple(range(1, x.ndim - 1))
        dtype = promote(x)[0].dtype
        if mask is None:
            return jnp.mean(wide, space).astype(dtype)
        n = jnp.maximum(mask.sum(space, dtype=jnp.int32), 1).astype(wide.dtype)
        return (wide.sum(space) / n[:, None]).astype(dtype)

    return stateless(_no_params, apply)


def global_max_pool() -> Layer:
    """The largest value over all spatial axes: (batch, *space, channels) → (batch, channels).

    y[c] = maxₚ x[p, c], as Keras's `GlobalMaxPooling2D`. The gradient goes to the first of equal values, in row-major order.
    For a padded sequence `(x, mask)` it is the maximum over the positions where the mask is true, and 0 where there are none.

    Returns:
        The `Layer`.

    Raises:
        ValueError: If the input is not (batch, *space, channels) with one to three spatial axes, or the mask not
            (batch, *space).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.global_max_pool()({}, jnp.arange(8.0).reshape(1, 2, 2, 2)).tolist()
        [[6.0, 7.0]]
    """

    def apply(params, x):
        x, mask = _values("global_max_pool", x)
        x = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
        if mask is None:
            return _first_largest(x, 1)
        mask = mask.reshape(x.shape[:2])
        lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
        y = _first_largest(jnp.where(mask[..., None], x, jnp.asarray(lowest, x.dtype)), 1)
        return zero_padding(y, mask.any(1))

    return stateless(_no_params, apply)


def adaptive_avg_pool(size: PerAxis) -> Layer:
    """Average pooling to a given output size: y[i] = mean of x[⌊i·n/m⌋ : ⌈(i+1)·n/m⌉] along an axis of n values.

    The m windows are PyTorch's: they cover the input and may overlap by one; if m divides n they are those of
    `avg_pool(n / m)`. Computed in at least float32, one axis after the other.

    Args:
        size: The output size m, one number for all spatial axes or one per axis.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *size, channels).

    Raises:
        ValueError: If the input is not (batch, *space, channels) with one to three spatial axes, or the number of values of
            an option is not the number of spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.adaptive_avg_pool(2)({}, jnp.arange(3.0).reshape(1, 3, 1))[0, :, 0].tolist()
        [0.5, 1.5]
    """

    def mean(x, axis, m):
        first, stop = _windows(x.shape[axis], m)
        position = np.arange(x.shape[axis])[None, :]
        inside = (first[:, None] <= position) & (position < stop[:, None])
        return resample(x, inside / (stop - first)[:, None], axis)

    return _adaptive("adaptive_avg_pool", mean, size, linear=True)


def adaptive_max_pool(size: PerAxis) -> Layer:
    """Max pooling to a given output size, over the windows of `adaptive_avg_pool`.

    y[i] = max x[⌊i·n/m⌋ : ⌈(i+1)·n/m⌉] along each axis, as in PyTorch. The gradient goes to the first of equal values, in
    row-major order.

    Args:
        size: The output size m, one number for all spatial axes or one per axis.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *size, channels).

    Raises:
        ValueError: If the input is not (batch, *space, channels) with one to three spatial axes, or the number of values of
            an option is not the number of spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.adaptive_max_pool(2)({}, jnp.arange(3.0).reshape(1, 3, 1))[0, :, 0].tolist()
        [1.0, 2.0]
    """

    def along(x, axis, m):
        first, stop = _windows(x.shape[axis], m)
        positions = first[:, None] + np.arange(max(stop - first))[None, :]
        positions = np.minimum(positions, stop[:, None] - 1)  # a shorter window contains its last value twice
        return _first_largest(jnp.take(x, jnp.asarray(positions), axis=axis), axis + 1)

    return _adaptive("adaptive_max_pool", along, size)


def windowed(
    name: str, pool: Callable, kernel_size: PerAxis, strides: PerAxis | None, padding: Padding, dilation: PerAxis, **options
) -> Layer:
    """The layer of a function `pool(x, kernel_size, strides=, padding=, dilation=, **options)`, without parameters."""
    check_per_axis(name, kernel_size=kernel_size, strides=1 if strides is None else strides, dilation=dilation)

    def apply(params, x):
        window = spatial(name, "kernel_size", kernel_size, x)
        step = window if strides is None else spatial(name, "strides", strides, x)
        return pool(x, window, strides=step, padding=padding, dilation=spatial(name, "dilation", dilation, x), **options)

    return stateless(_no_params, apply, name)


def _adaptive(name: str, along: Callable, size: PerAxis, linear: bool = False) -> Layer:
    """Apply `along(x, axis, m)` to each spatial axis, the last one first, so that ties are resolved in row-major order."""
    check_per_axis(name, size=size)

    def apply(params, x):
        sizes = spatial(name, "size", size, x)
        y = at_least_float32(promote(x)[0], linear=linear)
        for axis in range(len(sizes), 0, -1):
            y = along(y, axis, sizes[axis - 1])
        return y.astype(promote(x)[0].dtype)

    return stateless(_no_params, apply, name)


def _values(name: str, x) -> tuple[jax.Array, jax.Array | None]:
    """The input of a global pooling layer and its mask, (batch, *space), or None."""
    x, mask = split_mask(x)
    spatial(name, "kernel_size", 1, x)
    if mask is not None and mask.ndim != x.ndim - 1:
        raise ValueError(f"{name} takes a mask of shape {list(x.shape[:-1])}, one boolean per position, got {list(mask.shape)}")
    return x, mask


def _windows(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last position, exclusive, of each of m windows over n values."""
    i = np.arange(m)
    return i * n // m, -(-(i + 1) * n // m)


def flat_space(x: jax.Array) -> jax.Array:
    """(batch, *space, channels) → (batch, positions, channels)."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


def _first_largest(x: jax.Array, axis: int) -> jax.Array:
    """The maximum along an axis, whose gradient goes to the first of equal values."""
    return jnp.take_along_axis(x, jnp.argmax(x, axis, keepdims=True), axis).squeeze(axis)


def _floating(layer: str, x: jax.Array) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{layer} takes floating-point numbers, got {x.dtype}; cast with .astype")
    return jnp.asarray(x)


def _no_params(key, x):
    return {}
