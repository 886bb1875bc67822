"""Layers that rearrange values: reshaping, padding, cropping, resizing."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.checks import axes_of, number, whole
from jaxnn.core.dtypes import at_least_float32
from jaxnn.core.layer import Layer, stateless
from jaxnn.kernels.resampling import resample
from jaxnn.layers.convolution import PerAxis, check_per_axis, spatial

_FLOOR, _CLAMPED = "pytorch_nearest", "pytorch_cubic"  # methods that jax.image does not have
Margins = int | Sequence[tuple[int, int]]


def flatten() -> Layer:
    """Flatten all axes but the first: (batch, n₁, n₂, …) → (batch, n₁ · n₂ · …), in row-major order.

    As Keras's `Flatten`, and as PyTorch's, where the order differs since channels come first.

    Returns:
        The `Layer`.

    Raises:
        ValueError: If the input is a scalar.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.flatten()({}, jnp.ones((2, 4, 4, 3))).shape
        (2, 48)
    """

    def apply(params, x):
        if x.ndim < 1:
            raise ValueError("flatten takes an input of shape (batch, ...), got a scalar")
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    return stateless(_no_params, apply)


def reshape(*shape: int) -> Layer:
    """Reshape every sample: (batch, ...) → (batch, *shape), in row-major order, as Keras's `Reshape`.

    Args:
        *shape: The new shape of a sample, without the batch axis; one size may be −1, to be inferred.

    Returns:
        The `Layer`.

    Raises:
        ValueError: If a sample has a different number of values.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.reshape(4, -1)({}, jnp.ones((2, 12))).shape
        (2, 4, 3)
    """
    shape = tuple(whole("reshape", "a size", n, minimum=-1) for n in shape)
    known = math.prod(n for n in shape if n != -1)
    if shape.count(-1) > 1:
        raise ValueError(f"reshape can infer only one size, marked −1, got {shape}")

    def apply(params, x):
        size = math.prod(x.shape[1:])
        if x.ndim < 1 or (size != known if -1 not in shape else not known or size % known):
            raise ValueError(f"reshape makes samples of shape {shape}, and an input of shape {list(x.shape)} does not fit")
        return x.reshape(x.shape[0], *(size // known if n == -1 else n for n in shape))

    return stateless(_no_params, apply)


def permute(*axes: int) -> Layer:
    """Permute the axes of every sample: (batch, n₁, …, nₖ) → (batch, n_{a₁}, …, n_{aₖ}), as Keras's `Permute`.

    Axis `axes[i]` becomes axis i + 1; the batch axis 0 stays first.

    Args:
        *axes: The axes 1, 2, … in their new order.

    Returns:
        The `Layer`.

    Raises:
        ValueError: If they are not the axes of the input, without the batch axis.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.permute(2, 1)({}, jnp.ones((8, 3, 5))).shape
        (8, 5, 3)
    """
    axes = axes_of("permute", "an axis", axes)
    if sorted(axes) != list(range(1, len(axes) + 1)):
        raise ValueError(f"permute takes the axes 1 to n in a new order, without the batch axis 0, got {axes}")

    def apply(params, x):
        if x.ndim != len(axes) + 1:
            raise ValueError(f"permute{axes} takes an input with {len(axes) + 1} axes, got {list(x.shape)}")
        return jnp.transpose(x, (0, *axes))

    return stateless(_no_params, apply)


def pad(padding: Margins, *, mode: str = "constant", value: float = 0.0) -> Layer:
    """Pad the spatial axes, n → low + n + high, by `jax.numpy.pad`.

    Args:
        padding: The number of values to add on every side, or one pair `(low, high)` per spatial axis. With
            `mode="constant"`, a negative number crops, as in PyTorch.
        mode: The mode of `jnp.pad`: `"constant"`, `"reflect"`, `"symmetric"`, `"edge"` (PyTorch's 'replicate') or
            `"wrap"` (PyTorch's 'circular').
        value: The constant for `mode="constant"`.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        ValueError: If `mode` is unknown, the number of pairs is not the number of spatial axes, or nothing is left.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.pad(((2, 1),))({}, jnp.ones((1, 3, 1)))[0, :, 0].tolist()
        [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    """
    modes = ("constant", "reflect", "symmetric", "edge", "wrap")
    if mode not in modes:
        raise ValueError(f"pad takes one of the modes {', '.join(modes)}, got {mode!r}")

    def apply(params, x):
        edges = [(0, 0), *_margins("pad", "padding", padding, x, minimum=-sys.maxsize * (mode == "constant")), (0, 0)]
        if mode == "constant":
            if any(low + n + high < 1 <= n for n, (low, high) in zip(x.shape[1:-1], edges[1:-1], strict=True)):
                raise ValueError(f"pad removes {edges[1:-1]} from an input of shape {list(x.shape)}, which leaves nothing")
            if jnp.issubdtype(x.dtype, jnp.integer) and value != int(value):
                raise TypeError(f"pad takes a whole number as value for an input of {x.dtype}, got {value}")
            return jax.lax.pad(x, jnp.asarray(value, x.dtype), [(low, high, 0) for low, high in edges])
        wide = x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x  # the gradient sums over the copies
        return jnp.pad(wide, edges, mode=mode).astype(x.dtype)

    return stateless(_no_params, apply)


def crop(cropping: Margins) -> Layer:
    """Crop the spatial axes: y = x[low : n − high] along each, the inverse of `pad`; Keras's `Cropping2D`.

    Args:
        cropping: The number of values to remove on every side, or one pair `(low, high)` per spatial axis.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        ValueError: If nothing is left, or the number of pairs is not the number of spatial axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.crop(((1, 0),))({}, jnp.arange(3.0).reshape(1, 3, 1))[0, :, 0].tolist()
        [1.0, 2.0]
    """

    def apply(params, x):
        margins = _margins("crop", "cropping", cropping, x)
        if any(low + high >= n for n, (low, high) in zip(x.shape[1:-1], margins, strict=True)):
            raise ValueError(f"crop removes {margins} from an input of shape {list(x.shape)}, which leaves nothing")
        return x[(slice(None), *(slice(low, n - high) for n, (low, high) in zip(x.shape[1:-1], margins, strict=True)))]

    return stateless(_no_params, apply)


def upsample(scale: float | Sequence[float], *, method: str = "nearest", align_corners: bool = False) -> Layer:
    """Upsample the spatial axes, n → ⌊scale · n⌋, with the weights of `jax.image.resize`.

    A pixel of the output is 1 / scale as long as one of the input, also where scale · n is not whole, as with PyTorch's
    `scale_factor`.

    Args:
        scale: A positive number, or one per spatial axis. Below 1, pixels are left out without smoothing.
        method: As for `resize`, whose methods `"pytorch_nearest"` and `"pytorch_cubic"` are PyTorch's "nearest" and "bicubic".
        align_corners: As for `resize`.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        ValueError: If `method` is unknown, or takes the nearest pixel with `align_corners`; if nothing is left.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> x = jnp.array([0.0, 4.0]).reshape(1, 2, 1)
        >>> nn.upsample(2)({}, x)[0, :, 0].tolist(), nn.upsample(2, method="linear")({}, x)[0, :, 0].tolist()
        ([0.0, 0.0, 4.0, 4.0], [0.0, 1.0, 3.0, 4.0])
    """
    for s in scale if isinstance(scale, Sequence) else (scale,):
        number("upsample", "scale", s, 0, above=True)

    def longer(x):
        axes = len(spatial("upsample", "scale", 1, x))
        scales = tuple(scale) if isinstance(scale, Sequence) else (scale,) * axes
        sizes = [math.floor(n * s) for n, s in zip(x.shape[1:-1], scales, strict=False)]
        if len(scales) != axes or 0 in sizes:
            raise ValueError(
                f"upsample takes one scale per spatial axis, of at least one pixel, for an input {list(x.shape)}, got {scale}"
            )
        return [(m, Fraction(s).limit_denominator(10**6)) for m, s in zip(sizes, scales, strict=True)]  # 1.1 is 11/10

    return _resized("upsample", longer, method, align_corners, antialias=False)


def resize(size: PerAxis, *, method: str = "linear", align_corners: bool = False, antialias: bool = True) -> Layer:
    """Resize the spatial axes, n → m, with the weights of `jax.image.resize`.

    Each new pixel is a weighted mean of the old ones around it, and depends on no others.
    The old and the new pixels cover the same area (PyTorch's `align_corners=False`), or the centers of their corner pixels
    coincide (`align_corners=True`).

    Args:
        size: The output size m, one number for all spatial axes or one per axis.
        method: `"nearest"` (the old pixel at the center of the new one, PyTorch's "nearest-exact"), `"linear"` (also
            `"bilinear"`, `"trilinear"`), `"cubic"` (Keys's, with a = −1/2, PyTorch's "bicubic" with `antialias=True`),
            `"lanczos3"`, `"lanczos5"`; `"pytorch_nearest"` (the old pixel at the start of the new one, ⌊i · n / m⌋) or
            `"pytorch_cubic"` (a = −3/4, and pixels beyond the border are equal to it; PyTorch's "bicubic", OpenCV's too).
        align_corners: Whether the centers of the corner pixels coincide, rather than the areas.
        antialias: Whether to smooth an axis that becomes shorter, so that every pixel contributes, which PyTorch does not
            by default. It has no effect for the nearest pixel and for "pytorch_cubic".

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *size, channels).

    Raises:
        ValueError: If `method` is unknown, or takes the nearest pixel with `align_corners`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> x = jnp.array([0.0, 4.0]).reshape(1, 2, 1)
        >>> nn.resize(3)({}, x)[0, :, 0].tolist(), nn.resize(5, align_corners=True)({}, x)[0, :, 0].tolist()
        ([0.0, 2.0, 4.0], [0.0, 1.0, 2.0, 3.0, 4.0])
    """
    check_per_axis("resize", size=size)

    def sizes(x):
        return [(m, Fraction(m, max(n, 1))) for n, m in zip(x.shape[1:-1], spatial("resize", "size", size, x), strict=True)]

    return _resized("resize", sizes, method, align_corners, antialias)


def _resized(name: str, sizes_of: Callable, method: str, align_corners: bool, antialias: bool) -> Layer:
    """The layer that resizes the spatial axes of x to `sizes_of(x)`, a size and a scale for each."""
    known = method if method in (_FLOOR, _CLAMPED) else jax.image.ResizeMethod.from_string(method)  # or raises an error
    nearest = known in (_FLOOR, jax.image.ResizeMethod.NEAREST)
    if align_corners and nearest:
        raise ValueError(f'{name} takes align_corners only with a method that interpolates, got method="{method}"')

    def apply(params, x):
        is_whole = not jnp.issubdtype(x.dtype, jnp.inexact)
        y = x if nearest and is_whole else at_least_float32(x, linear=True)
        for axis, (n, (m, scale)) in enumerate(zip(x.shape[1:-1], sizes_of(x), strict=True), 1):
            if n == m and (scale == 1 or align_corners or known not in (_CLAMPED, jax.image.ResizeMethod.NEAREST)):
                continue  # PyTorch as well ignores a scale that does not change the size, except with these methods
            if nearest:
                scale = Fraction(2) if known == _FLOOR and m == 2 * n else scale  # PyTorch's
                half = 0 if known == _FLOOR else 1
                old = [(2 * i + half) * scale.denominator // (2 * scale.numerator) for i in range(m)]
                y = jnp.take(y, np.minimum(np.array(old, np.int32), n - 1), axis)
            else:
                y = resample(y, _resize_weights(n, m, float(scale), known, align_corners, antialias), axis)
        return y if is_whole else y.astype(x.dtype)

    return stateless(_no_params, apply, name)


def _resize_weights(n: int, m: int, scale: float, method: Any, align_corners: bool, antialias: bool) -> np.ndarray:
    """The weight of each of n pixels in each of m new ones, (m, n), as `jax.image.resize` computes them, in float64."""
    scale = (m - 1) / (n - 1) if align_corners and min(n, m) > 1 else m if align_corners else scale
    at = np.arange(m) / scale if align_corners and min(n, m) > 1 else (np.arange(m) + 0.5) / scale - 0.5
    if method == _CLAMPED:
        weights = _cubic(np.abs(at[:, None] - np.arange(-2, n + 2)), -0.75)
        inside = weights[:, 2:-2]
        inside[:, 0] += weights[:, :2].sum(1)
        inside[:, -1] += weights[:, -2:].sum(1)
        return inside
    distance = np.abs(at[:, None] - np.arange(n)) / (max(1 / scale, 1) if antialias else 1)
    weights = _INTERPOLATION[method](distance)
    total = weights.sum(1, keepdims=True)
    weights = np.where(np.abs(total) > 1e-4, weights / np.where(total == 0, 1, total), 0)
    return np.where(((at >= -0.5) & (at <= n - 0.5))[:, None], weights, 0)


def _cubic(d: np.ndarray, a: float = -0.5) -> np.ndarray:
    """The kernel of Keys (1981), eq. 4 with any a."""
    outer = np.where(d < 2, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a, 0)
    return np.where(d < 1, ((a + 2) * d - (a + 3)) * d * d + 1, outer)


def _lanczos(radius: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda d: np.where(d < radius, np.sinc(d) * np.sinc(d / radius), 0)


_INTERPOLATION: dict[Any, Callable[[np.ndarray], np.ndarray]] = {
    jax.image.ResizeMethod.LINEAR: lambda d: np.maximum(0, 1 - d),
    jax.image.ResizeMethod.CUBIC: _cubic,
    jax.image.ResizeMethod.LANCZOS3: _lanczos(3),
    jax.image.ResizeMethod.LANCZOS5: _lanczos(5),
}


def pixel_shuffle(scale: int) -> Layer:
    """Rearrange r × r neighboring channels into one r × r block of pixels (Shi et al. 2016).

    y[b, r·h + i, r·w + j, c] = x[b, h, w, (c·r + i)·r + j], and likewise in one and three dimensions. The order of the
    channels is PyTorch's; in TensorFlow's `depth_to_space`, c is last.

    Args:
        scale: The factor r.

    Returns:
        A `Layer` from (batch, *space, rⁿ · channels) to (batch, *(r · space), channels), n the number of spatial axes.

    Raises:
        ValueError: If the number of channels is not a multiple of rⁿ.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.pixel_shuffle(2)({}, jnp.arange(4.0).reshape(1, 1, 1, 4))[0, :, :, 0].tolist()
        [[0.0, 1.0], [2.0, 3.0]]
    """
    r = whole("pixel_shuffle", "scale", scale)

    def apply(params, x):
        n = len(spatial("pixel_shuffle", "scale", r, x))
        batch, *space, channels = x.shape
        if channels % r**n:
            raise ValueError(f"pixel_shuffle({r}) takes a multiple of {r**n} channels, got an input of shape {list(x.shape)}")
        x = x.reshape(batch, *space, channels // r**n, *(r,) * n)
        order = [axis for i in range(1, n + 1) for axis in (i, n + 1 + i)]  # (batch, h, i, w, j, c)
        return jnp.transpose(x, (0, *order, n + 1)).reshape(batch, *(r * s for s in space), channels // r**n)

    return stateless(_no_params, apply)


def pixel_unshuffle(scale: int) -> Layer:
    """Rearrange r × r blocks of pixels into channels, the inverse of `pixel_shuffle`: downsampling without loss.

    y[b, h, w, (c·r + i)·r + j] = x[b, r·h + i, r·w + j, c], and likewise in one and three dimensions; PyTorch's order.

    Args:
        scale: The factor r, a divisor of every spatial size.

    Returns:
        A `Layer` from (batch, *(r · space), channels) to (batch, *space, rⁿ · channels), n the number of spatial axes.

    Raises:
        ValueError: If a spatial size is not a multiple of r.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.pixel_unshuffle(2)({}, jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
        [[[[0.0, 1.0, 2.0, 3.0]]]]
    """
    r = whole("pixel_unshuffle", "scale", scale)

    def apply(params, x):
        n = len(spatial("pixel_unshuffle", "scale", r, x))
        batch, *space, channels = x.shape
        if any(s % r for s in space):
            raise ValueError(f"pixel_unshuffle({r}) takes spatial sizes divisible by {r}, got {list(x.shape)}: pad first")
        x = x.reshape(batch, *(size for s in space for size in (s // r, r)), channels)
        order = (0, *range(1, 2 * n, 2), 2 * n + 1, *range(2, 2 * n + 1, 2))  # (batch, h, w, c, i, j)
        return jnp.transpose(x, order).reshape(batch, *(s // r for s in space), channels * r**n)

    return stateless(_no_params, apply)


def channel_shuffle(groups: int) -> Layer:
    """Interleave the channels of g groups, so that the next grouped convolution sees all of them (Zhang et al. 2018).

    y[..., j·g + i] = x[..., i·n + j], where n = channels / g; PyTorch's `ChannelShuffle`.

    Args:
        groups: The number of groups g, a divisor of the number of channels.

    Returns:
        A `Layer` from (..., channels) to the same shape.

    Raises:
        ValueError: If the number of channels is not a multiple of g.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.channel_shuffle(2)({}, jnp.arange(6.0)[None]).tolist()
        [[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]]
    """
    groups = whole("channel_shuffle", "groups", groups)

    def apply(params, x):
        if not x.ndim or x.shape[-1] % groups:
            raise ValueError(f"channel_shuffle takes a multiple of {groups} channels, got an input of shape {list(x.shape)}")
        return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups).swapaxes(-1, -2).reshape(x.shape)

    return stateless(_no_params, apply)


def _margins(layer: str, option: str, value: Margins, x, minimum: int = 0) -> tuple[tuple[int, int], ...]:
    """`value` as one (low, high) pair per spatial axis of `x`."""
    axes = len(spatial(layer, option, 1, x))
    if not isinstance(value, Sequence):
        return ((whole(layer, option, value, minimum=minimum),) * 2,) * axes
    if len(value) != axes or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in value):
        raise ValueError(f"{layer} takes {option} as a number or {axes} (low, high) pairs for {list(x.shape)}, got {value!r}")
    checked = partial(whole, layer, option, minimum=minimum)
    return tuple((checked(low), checked(high)) for low, high in value)


def _no_params(key, x):
    return {}
