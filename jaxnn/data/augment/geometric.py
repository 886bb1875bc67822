"""Augmentations of single images: flips, crops and cutout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn._jax import is_tracer
from jaxnn.data.augment._shared import (
    Augment,
    box_mask,
    check_images,
    check_integer,
    gather_pixels,
    index_range,
    random_positions,
    spell,
)

MODES = ("zeros", "edge", "reflect", "symmetric", "wrap")


def random_flip(axis: str = "horizontal", *, probability: float = 0.5) -> Augment:
    """Mirror each image with the given probability: x'[i, j] = x[i, W − 1 − j], or x[H − 1 − i, j].

    Args:
        axis: "horizontal" swaps left and right, "vertical" top and bottom; for both, `chain` two flips.
        probability: Probability of a flip, in [0, 1].

    Returns:
        `augment(key, (x, y)) -> (x, y)` for images of any dtype; y is returned unchanged.

    Raises:
        ValueError: If the axis is neither, the probability is out of range, or x is not a batch of images.

    Example:
        >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
        >>> x, y = random_flip(probability=1)(jax.random.key(0), (x, None))
        >>> x.ravel().tolist()
        [2.0, 1.0, 0.0]
    """
    if axis not in ("horizontal", "vertical"):
        raise ValueError(f'random_flip: axis is {axis!r}, expected "horizontal" or "vertical"; for both, chain two flips')
    if not is_tracer(probability) and not 0 <= probability <= 1:
        raise ValueError(f"random_flip: probability is {probability}, expected a number from 0 to 1")

    def augment(key, batch):
        x, y = check_images("random_flip", batch)
        n, height, width, _ = x.shape
        flipped = jax.random.bernoulli(key, jnp.asarray(probability, jnp.float32), (n, 1))
        rows, columns = index_range(height)[None], index_range(width)[None]
        if axis == "horizontal":
            columns = jnp.where(flipped, width - 1 - columns, columns)
        else:
            rows = jnp.where(flipped, height - 1 - rows, rows)
        return gather_pixels(x, rows, columns), y

    return augment


def random_crop(padding: int = 4, *, size: int | tuple[int, int] | None = None, mode: str = "zeros") -> Augment:
    """Pad each image on all sides and crop a window at a uniformly random position (He et al. 2016, § 4.2).

    With padding p and windows of the image's size, this is one of (2p + 1)² shifts by −p to p pixels along each axis.

    Args:
        padding: Number of pixels on each side, from 0 to below the image's size.
        size: Size of the window, `(height, width)` or one number for both; that of the image by default.
        mode: Content of the border: "zeros", or pixels of the image as in `numpy.pad`: "edge", "reflect", "symmetric" or
            "wrap".

    Returns:
        `augment(key, (x, y)) -> (x, y)` for images of any dtype; y is returned unchanged.

    Raises:
        TypeError: If the padding or the size is not an integer.
        ValueError: If padding or size do not fit the image, the mode is unknown, or x is not a batch of images.

    Example:
        >>> key, x = jax.random.key(0), jnp.ones((8, 32, 32, 3))
        >>> random_crop(4)(key, (x, None))[0].shape
        (8, 32, 32, 3)
        >>> jax.eval_shape(random_crop(0, size=28), key, (x, None))[0].shape
        (8, 28, 28, 3)
    """
    padding = check_integer("random_crop", "padding", padding, 0)
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if size is not None and len(sides) != 2:
        raise ValueError(f"random_crop: size is {size}, expected one number, or (height, width)")
    window = None if size is None else tuple(check_integer("random_crop", "size", side, 1) for side in sides)
    if mode not in MODES:
        raise ValueError(f"random_crop: mode is {mode!r}, expected one of {', '.join(MODES)}")

    def augment(key, batch):
        x, y = check_images("random_crop", batch)
        n, *image, _ = x.shape
        if padding >= min(image):
            raise ValueError(
                f"random_crop: padding is {padding}, expected less than the size of the images {spell(x)}; larger shifts "
                "leave nothing of an image"
            )
        crop = image if window is None else window
        positions = [full + 2 * padding - side + 1 for full, side in zip(image, crop, strict=True)]
        if min(positions) < 1:
            raise ValueError(f"random_crop: a window of {crop} is larger than images of {spell(x)} with a padding of {padding}")
        start = random_positions(key, n, positions)
        rows, columns = (_source(*of_axis, padding, mode) for of_axis in zip(start, image, crop, strict=True))
        inside = (rows >= 0)[:, :, None, None] & (columns >= 0)[:, None, :, None]
        moved = gather_pixels(x, jnp.maximum(rows, 0), jnp.maximum(columns, 0))
        return (jnp.where(inside, moved, jnp.zeros((), x.dtype)) if mode == "zeros" else moved), y

    return augment


def _source(start: jax.Array, length: int, crop: int, padding: int, mode: str) -> jax.Array:
    """Return the source index of each of `crop` pixels along a padded axis, for windows at `start`: (n, crop), −1 for zeros."""
    zeros = mode == "zeros"
    table = np.pad(np.arange(length), padding, **({"constant_values": -1} if zeros else {"mode": mode}))
    index = start[:, None] + index_range(crop)[None]
    return jnp.asarray(table, jnp.int32).at[index].get(mode="promise_in_bounds")


def cutout(size: int) -> Augment:
    """Set one square of each image to 0 (DeVries & Taylor 2017).

    The center of the square is a uniformly random pixel of the image, so the square may extend beyond the border, where it is
    clipped: it covers at least a quarter of size² pixels, up to rounding, and at most size². It starts `size // 2` pixels
    before the center and is `size` long, for even and odd sizes. For standardized images 0 is the mean; for other images,
    apply `cutout` after centering.

    Args:
        size: Side of the square in pixels, at most that of the image.

    Returns:
        `augment(key, (x, y)) -> (x, y)` for images of any dtype; y is returned unchanged.

    Raises:
        TypeError: If the size is not an integer.
        ValueError: If the size is below 1 or larger than the image, or x is not a batch of images.

    Example:
        >>> x, y = cutout(1)(jax.random.key(0), (jnp.ones((1, 4, 4, 1)), None))
        >>> int(x.sum())
        15
    """
    size = check_integer("cutout", "size", size, 1)

    def augment(key, batch):
        x, y = check_images("cutout", batch)
        n, height, width, _ = x.shape
        if size > min(height, width):
            raise ValueError(f"cutout: a square of {size} × {size} is larger than images of {spell(x)}; take a smaller size")
        center = random_positions(key, n, (height, width))
        rows, columns = box_mask(center[0], size, height), box_mask(center[1], size, width)
        return jnp.where((rows[:, :, None] & columns[:, None])[..., None], jnp.zeros((), x.dtype), x), y

    return augment
