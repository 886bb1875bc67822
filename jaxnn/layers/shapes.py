"""Layers that move values about and compute next to nothing: reshaping, padding, cropping, upsampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxnn.core.checks import whole
from jaxnn.core.dtypes import at_least_float32
from jaxnn.core.layer import Layer, stateless
from jaxnn.layers.convolution import Size, spatial

Margins = int | Sequence[tuple[int, int]]


def flatten() -> Layer:
    """All axes but the first as one: (batch, n₁, n₂, …) → (batch, n₁ · n₂ · …), in row-major order.

    As Keras's `Flatten`, and PyTorch's, whose channels come first: (channels, height, width).

    Returns:
        The `Layer`.

    Raises:
        ValueError: If the input has no axis.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.flatten()({}, jnp.ones((2, 4, 4, 3))).shape
        (2, 48)
    """

    def apply(params, x):
        if x.ndim < 1:
            raise ValueError("flatten takes an input of shape (batch, ...), got a single number")
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    return stateless(_no_params, apply)


def reshape(*shape: int) -> Layer:
    """Every sample in another shape: (batch, ...) → (batch, *shape), in row-major order, as Keras's `Reshape`.

    Args:
        *shape: The sample's new shape, without the batch axis; one of the numbers may be −1, for what is left.

    Returns:
        The `Layer`.

    Raises:
        ValueError: If a sample has another number of values.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.reshape(4, -1)({}, jnp.ones((2, 12))).shape
        (2, 4, 3)
    """
    shape = tuple(whole("reshape", "a size", n, minimum=-1) for n in shape)
    known = math.prod(n for n in shape if n != -1)
    if shape.count(-1) > 1:
        raise ValueError(f"reshape can find one size, marked −1, got {shape}")

    def apply(params, x):
        size = math.prod(x.shape[1:])
        if x.ndim < 1 or (size != known if -1 not in shape else not known or size % known):
            raise ValueError(f"reshape makes samples of shape {shape}, which an input of shape {list(x.shape)} does not fill")
        return x.reshape(x.shape[0], *(size // known if n == -1 else n for n in shape))

    return stateless(_no_params, apply)


def permute(*axes: int) -> Layer:
    """The axes of every sample in another order: (batch, n₁, …, nₖ) → (batch, n_{a₁}, …, n_{aₖ}), as Keras's `Permute`.

    Axis `axes[i]` becomes axis i + 1; the batch axis, 0, stays first.

    Args:
        *axes: The numbers 1, 2, … in their new order, as in Keras.

    Returns:
        The `Layer`.

    Raises:
        ValueError: If they are not these numbers, or not as many as the input has axes besides the first.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.permute(2, 1)({}, jnp.ones((8, 3, 5))).shape
        (8, 5, 3)
    """
    if sorted(axes) != list(range(1, len(axes) + 1)):
        raise ValueError(f"permute takes the axes 1 to n in a new order (the batch axis 0 stays first), got {axes}")

    def apply(params, x):
        if x.ndim != len(axes) + 1:
            raise ValueError(f"permute{axes} takes an input with {len(axes) + 1} axes, got {list(x.shape)}")
        return jnp.transpose(x, (0, *axes))

    return stateless(_no_params, apply)


def pad(padding: Margins, *, mode: str = "constant", value: float = 0.0) -> Layer:
    """More values around the spatial axes, each n → low + n + high, by `jax.numpy.pad`.

    Args:
        padding: How many on every side, or `((low, high), ...)`, one pair a spatial axis.
        mode: What they are, as `jnp.pad` calls it: `"constant"`, `"reflect"`, `"symmetric"`, `"edge"` (PyTorch's
            'replicate') or `"wrap"` (PyTorch's 'circular').
        value: The constant.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        ValueError: If `mode` is another, or the pairs are not one a spatial axis.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.pad(((2, 1),))({}, jnp.ones((1, 3, 1)))[0, :, 0].tolist()
        [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    """
    modes = ("constant", "reflect", "symmetric", "edge", "wrap")
    if mode not in modes:
        raise ValueError(f"pad takes one of the modes {', '.join(modes)}, got {mode!r}")

    def apply(params, x):
        constant = {"constant_values": jnp.asarray(value, x.dtype)} if mode == "constant" else {}
        return jnp.pad(x, [(0, 0), *_margins("pad", "padding", padding, x), (0, 0)], mode=mode, **constant)

    return stateless(_no_params, apply)


def crop(cropping: Margins) -> Layer:
    """Fewer values around the spatial axes: y = x[low : n − high] along each, the inverse of `pad`; Keras's `Cropping2D`.

    Args:
        cropping: How many on every side, or `((low, high), ...)`, one pair a spatial axis.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        ValueError: If nothing would be left, or the pairs are not one a spatial axis.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.crop(((1, 0),))({}, jnp.arange(3.0).reshape(1, 3, 1))[0, :, 0].tolist()
        [1.0, 2.0]
    """

    def apply(params, x):
        margins = _margins("crop", "cropping", cropping, x)
        if any(low + high >= n for n, (low, high) in zip(x.shape[1:-1], margins, strict=True)):
            raise ValueError(f"crop takes {margins} off an input of shape {list(x.shape)}, which leaves nothing")
        return x[(slice(None), *(slice(low, n - high) for n, (low, high) in zip(x.shape[1:-1], margins, strict=True)))]

    return stateless(_no_params, apply)


def upsample(scale: Size, *, method: str = "nearest", align_corners: bool = False) -> Layer:
    """Every spatial axis longer, n → scale · n, by `jax.image` as `resize` does it.

    Args:
        scale: a whole number, or one a spatial axis.
        method: As for `resize`; PyTorch's bicubic has another a, and repeats the border unless `antialias=True`.
        align_corners: As for `resize`.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', channels).

    Raises:
        ValueError: If `method` is another, or "nearest" with `align_corners`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> x = jnp.array([0.0, 4.0]).reshape(1, 2, 1)
        >>> nn.upsample(2)({}, x)[0, :, 0].tolist(), nn.upsample(2, method="linear")({}, x)[0, :, 0].tolist()
        ([0.0, 0.0, 4.0, 4.0], [0.0, 1.0, 3.0, 4.0])
    """

    def longer(x):
        return tuple(n * s for n, s in zip(x.shape[1:-1], spatial("upsample", "scale", scale, x), strict=True))

    return _resized("upsample", longer, method, align_corners, antialias=False)


def resize(size: Size, *, method: str = "linear", align_corners: bool = False, antialias: bool = True) -> Layer:
    """The spatial axes in another size, n → m, by `jax.image`.

    The centres of the old and of the new pixels cover the same area (PyTorch's `align_corners=False`), or the first and the
    last ones lie on each other (`align_corners=True`).

    Args:
        size: The new one, one number or one a spatial axis.
        method: `"nearest"`, `"linear"` (also `"bilinear"`, `"trilinear"`), `"cubic"` (Keys's, a = −1/2, where PyTorch has
            −3/4), `"lanczos3"` or `"lanczos5"`.
        align_corners: Whether the corners, or the areas, are the same.
        antialias: Whether an axis that becomes shorter is smoothed, so that no pixel is left out; PyTorch does not by
            default. Not for "nearest".

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *size, channels).

    Raises:
        ValueError: If `method` is another, or "nearest" with `align_corners`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> x = jnp.array([0.0, 4.0]).reshape(1, 2, 1)
        >>> nn.resize(3)({}, x)[0, :, 0].tolist(), nn.resize(5, align_corners=True)({}, x)[0, :, 0].tolist()
        ([0.0, 2.0, 4.0], [0.0, 1.0, 2.0, 3.0, 4.0])
    """
    return _resized("resize", lambda x: spatial("resize", "size", size, x), method, align_corners, antialias)


def _resized(name: str, size_of: Callable, method: str, align_corners: bool, antialias: bool) -> Layer:
    """Every spatial axis in the length `size_of(x)` says."""
    known = jax.image.ResizeMethod.from_string(method)  # an unknown method is an error here, not at the first batch
    if align_corners and known is jax.image.ResizeMethod.NEAREST:
        raise ValueError(f'{name} with method="nearest" has no pixels between which corners could be aligned')

    def apply(params, x):
        size, wide = size_of(x), at_least_float32(x)
        shape = (x.shape[0], *size, x.shape[-1])
        if not align_corners:
            return jax.image.resize(wide, shape, known, antialias).astype(x.dtype)
        # new pixel i is old pixel i / s, and jax.image finds it at (i + ½ − shift) / s − ½
        pairs = [((m - 1) / (n - 1), True) if min(m, n) > 1 else (m, False) for m, n in zip(size, x.shape[1:-1], strict=True)]
        scale, shift = (jnp.asarray(v, wide.dtype) for v in zip(*((s, (1 - s) / 2 * two) for s, two in pairs), strict=True))
        axes = tuple(range(1, x.ndim - 1))
        return jax.image.scale_and_translate(wide, shape, axes, scale, shift, known, antialias).astype(x.dtype)

    return stateless(_no_params, apply, name)


def pixel_shuffle(scale: int) -> Layer:
    """Channels become pixels (Shi et al. 2016): r × r channels, neighbours in memory, one r × r block of pixels.

    y[b, r·h + i, r·w + j, c] = x[b, h, w, (c·r + i)·r + j], and alike in one and three dimensions. PyTorch's order of the
    channels; TensorFlow's `depth_to_space` has c last.

    Args:
        scale: r.

    Returns:
        A `Layer` from (batch, *space, rⁿ · channels) to (batch, *(r · space), channels), n the number of spatial axes.

    Raises:
        ValueError: If the channels cannot be divided so.

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
    """Pixels become channels: the inverse of `pixel_shuffle`, without loss where a strided convolution would drop some.

    y[b, h, w, (c·r + i)·r + j] = x[b, r·h + i, r·w + j, c], and alike in one and three dimensions: PyTorch's order.

    Args:
        scale: r, which divides every spatial size.

    Returns:
        A `Layer` from (batch, *(r · space), channels) to (batch, *space, rⁿ · channels), n the number of spatial axes.

    Raises:
        ValueError: If a spatial size is no multiple of r.

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
            raise ValueError(f"pixel_unshuffle({r}) takes spatial sizes that {r} divides, got {list(x.shape)}: pad first")
        x = x.reshape(batch, *(size for s in space for size in (s // r, r)), channels)
        order = (0, *range(1, 2 * n, 2), 2 * n + 1, *range(2, 2 * n + 1, 2))  # (batch, h, w, c, i, j)
        return jnp.transpose(x, order).reshape(batch, *(s // r for s in space), channels * r**n)

    return stateless(_no_params, apply)


def _margins(layer: str, option: str, value: Margins, x) -> tuple[tuple[int, int], ...]:
    """`value` as a (low, high) pair for each spatial axis of `x`."""
    axes = len(spatial(layer, option, 1, x))
    if not isinstance(value, Sequence):
        return ((whole(layer, option, value, minimum=0),) * 2,) * axes
    if len(value) != axes or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in value):
        raise ValueError(f"{layer} takes {option} as a number or {axes} (low, high) pairs for {list(x.shape)}, got {value!r}")
    return tuple((whole(layer, option, low, minimum=0), whole(layer, option, high, minimum=0)) for low, high in value)


def _no_params(key, x):
    return {}
