"""Sampling an input at given positions."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp

from jaxnn.core.dtypes import at_least_float32, promote
from jaxnn.core.layer import Layer, stateless
from jaxnn.core.text import array_text

_METHODS, _PADDINGS = ("linear", "nearest"), ("zeros", "border", "reflection")


def grid_sample(*, method: str = "linear", padding: str = "zeros", align_corners: bool = False) -> Layer:
    """Sample an input at the positions of a grid, as spatial transformers do (Jaderberg et al. 2015).

    y[p, c] = Σ_q x[q, c] Πₐ max(0, 1 − ∣uₐ(p) − qₐ∣), where u(p) is the position p of the grid in pixels. PyTorch's
    `grid_sample`: the coordinates run from −1 to 1 along each axis, and as there, the last spatial axis comes first, (x, y)
    for images.

    Args:
        method: `"linear"` interpolates along each axis; `"nearest"` takes the nearest pixel, of two the even one.
        padding: What lies outside: `"zeros"`, `"border"` for the nearest pixel, `"reflection"` at the border.
        align_corners: Whether −1 and 1 are the centers of the first and last pixels, rather than their outer edges.

    Returns:
        A `Layer` from `(x, grid)`, x of shape (batch, *space, channels) with one to three spatial axes and the grid of shape
        (batch, *space', axes), to (batch, *space', channels). Where a coordinate is NaN, so is the output.

    Raises:
        ValueError: If `method` or `padding` is unknown, or the shapes do not match.
        TypeError: If the grid is not floating-point.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> x = jnp.array([0.0, 10.0, 20.0, 30.0]).reshape(1, 4, 1)
        >>> grid = jnp.array([-1.0, 0.0, 0.5]).reshape(1, 3, 1)
        >>> nn.grid_sample(align_corners=True)({}, (x, grid)).ravel().tolist()
        [0.0, 15.0, 22.5]
    """
    if method not in _METHODS or padding not in _PADDINGS:
        raise ValueError(f"grid_sample takes a method of {_METHODS} and a padding of {_PADDINGS}, got {method!r}, {padding!r}")

    def apply(params, inputs):
        x, grid = _checked(inputs)
        sizes, out = x.shape[1:-1], grid.shape[1:-1]
        values = at_least_float32(promote(x)[0], linear=True).reshape(x.shape[0], math.prod(sizes), x.shape[-1])
        wide = at_least_float32(grid).reshape(grid.shape[0], math.prod(out), len(sizes))
        corners = []  # of each axis the two pixels around, their weights, and whether they lie inside
        for axis, n in enumerate(sizes):
            u = wide[..., len(sizes) - 1 - axis]
            at = (u + 1) / 2 * (n - 1) if align_corners else ((u + 1) * n - 1) / 2
            at = _inside(at, n, padding, align_corners)
            below = jax.lax.stop_gradient(jnp.round(at) if method == "nearest" else jnp.floor(at))
            share = at - below if method == "linear" else 0 * at
            pixels = [(below, 1 - share)] if method == "nearest" else [(below, 1 - share), (below + 1, share)]
            corners.append([(p, weight, (p >= 0) & (p < n)) for p, weight in pixels])
        y = jnp.zeros((), values.dtype)
        for chosen in itertools.product(*corners):
            index, weight, inside = jnp.zeros((), jnp.int32), jnp.ones((), wide.dtype), jnp.ones((), bool)
            for (p, w, is_inside), n in zip(chosen, sizes, strict=True):
                index = index * n + jnp.clip(jnp.nan_to_num(p), 0, n - 1).astype(jnp.int32)
                weight, inside = weight * w, inside & is_inside
            taken = jnp.take_along_axis(values, index[..., None], axis=1, mode="promise_in_bounds")
            # a pixel that only touches, at weight 0, is not seen if it is infinite or NaN
            seen = inside[..., None] & ((weight != 0)[..., None] | jnp.isfinite(taken))
            y = y + weight[..., None].astype(taken.dtype) * jnp.where(seen, taken, 0)
        return y.astype(promote(x)[0].dtype).reshape(x.shape[0], *out, x.shape[-1])

    return stateless(lambda key, x: {}, apply)


def _checked(inputs) -> tuple[jax.Array, jax.Array]:
    if not isinstance(inputs, tuple) or len(inputs) != 2:
        raise ValueError(f"grid_sample takes a pair (x, grid), got {array_text(inputs)}")
    x, grid = inputs
    axes = x.ndim - 2
    if axes not in (1, 2, 3) or grid.ndim != x.ndim or grid.shape[-1] != axes or len(grid) != len(x) or 0 in x.shape[1:-1]:
        raise ValueError(
            "grid_sample takes x of shape (batch, *space, channels) with one to three spatial axes and a grid of shape "
            f"(batch, *space', axes), got {list(x.shape)} and {list(grid.shape)}"
        )
    if not jnp.issubdtype(grid.dtype, jnp.floating):
        raise TypeError(f"grid_sample takes a floating-point grid from -1 to 1, got {grid.dtype}")
    return x, grid


def _inside(at: jax.Array, n: int, padding: str, align_corners: bool) -> jax.Array:
    """Positions in pixels, moved inside of n pixels according to the padding."""
    if padding == "zeros":
        return jnp.where(at < -1, -1, jnp.where(at > n, n, at))
    if padding == "reflection":
        low, span = (0.0, n - 1.0) if align_corners else (-0.5, float(n))
        if not span:
            return jnp.zeros_like(at)
        distance = jnp.abs(at - low)
        turns = jax.lax.stop_gradient(jnp.floor(distance / span))
        rest = distance - turns * span
        at = low + jnp.where(turns % 2 == 0, rest, span - rest)
    return jnp.where(at < 0, 0, jnp.where(at > n - 1, n - 1, at))  # NaN stays
