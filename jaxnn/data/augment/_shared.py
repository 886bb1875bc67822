"""Shared by the augmentations: gathers, random positions and checks.

Each sample has its own draw. Masks and indices are per axis of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Augment = Callable[[jax.Array, tuple[Any, Any]], tuple[Any, Any]]


def index_range(n: int) -> jax.Array:
    """Return 0, …, n − 1 in int32."""
    return jnp.arange(n, dtype=jnp.int32)


def gather_pixels(x: jax.Array, rows: jax.Array, columns: jax.Array, images: jax.Array | None = None) -> jax.Array:
    """Return x[images, rows, columns] for indices in bounds.

    Args:
        x: Images (n, height, width, channels).
        rows: Row indices (1 or n, height').
        columns: Column indices (1 or n, width').
        images: Image indices (n, height', width'); each image itself by default.

    Returns:
        The pixels, (n, height', width', channels).
    """
    images = index_range(len(x))[:, None, None] if images is None else images
    return x.at[images, rows[:, :, None], columns[:, None]].get(mode="promise_in_bounds")


def random_positions(key: jax.Array, n: int, limits: Any) -> jax.Array:
    """Return n integers from 0 to below each limit, uniform up to 2⁻²³: (limits, n)."""
    share = jax.random.uniform(key, (len(limits), n), jnp.float32)  # below 1, so that the product is below the limit
    return jnp.floor(share * jnp.asarray(limits, jnp.float32)[:, None]).astype(jnp.int32)


def box_mask(center: jax.Array, size: Any, length: int) -> jax.Array:
    """Return which pixels of an axis a box of this size covers, clipped at the border: boolean (n, length)."""
    distance = index_range(length)[None] - (center[:, None] - size // 2)
    return (distance >= 0) & (distance < size)


def check_images(caller: str, batch: tuple[Any, Any]) -> tuple[jax.Array, Any]:
    """Return (x, y) with x as an array, or raise a ValueError unless x is a batch of images."""
    x, y = batch
    x = jnp.asarray(x)
    if x.ndim != 4:
        hint = "; add the channel axis with x[..., None]" if x.ndim == 3 else ""
        raise ValueError(f"{caller}: x is {spell(x)}, expected images of shape (batch, height, width, channels){hint}")
    return x, y


def check_integer(caller: str, option: str, value: Any, minimum: int) -> int:
    """Return an integer of at least `minimum`, or raise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{caller}: {option} is {value!r}, expected an integer")
    if value < minimum:
        raise ValueError(f"{caller}: {option} is {value}, expected at least {minimum}")
    return int(value)


def spell(x: jax.Array) -> str:
    """Format dtype and shape for error messages: `float32[4, 1]`."""
    return f"{x.dtype}[{', '.join(map(str, x.shape))}]"
