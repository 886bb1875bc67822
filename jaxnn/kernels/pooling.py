"""Pooling of channels-last arrays in one, two or three spatial dimensions."""

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxnn.kernels.forms import chosen, widen
from jaxnn.kernels.windows import MOST_TAPS, Pairs, dilated, output_sizes, per_axis, resolve_padding


class Geometry(NamedTuple):
    """Where the windows lie: a tuple entry per spatial axis. The padding includes what the last window overhangs."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    places: tuple[int, ...]
    overhang: tuple[int, ...]


def max_pool(
    x: ArrayLike,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    form: str | None = None,
) -> jax.Array:
    """The largest element of every window.

    With stride s, dilation d and low padding p, along one axis:

        y[b, j, c] = max_t x[b, j·s + t·d − p, c]        over the t that fall inside x

    The derivative goes to the element that is the maximum, on ties to the first one in row-major order (XLA's and
    PyTorch's rule; ReLU makes ties common). NaN is larger than any number. On a CPU the gradient is written without
    XLA's `select_and_scatter`, which is slow there.

    Args:
        x: The input, (batch, *space, C), real numbers, with one to three spatial axes.
        window: Size of the window, one integer or one per spatial axis.
        strides: Step of the window; None steps by the window's own size.
        padding: "VALID" (none), "SAME" (⌈size / stride⌉ outputs), or a (low, high) pair per spatial axis, each
            smaller than the window. Padded positions never win.
        dilation: Distance between the window's positions, one integer or one per spatial axis.
        ceil_mode: Whether a last window that overhangs the padded input is taken too, if it begins inside the input or
            its low padding (PyTorch's rule).
        form: None lets the backend and the window's size decide, "taps" or "xla" forces a form; "xla" has no dilation.

    Returns:
        (batch, *places, C), in x's dtype.

    Raises:
        ValueError: If the input, window, strides and padding do not fit each other.
        TypeError: If x does not hold integers or real floating-point numbers.

    Example:
        >>> import jax
        >>> x = jax.numpy.array([1.0, 3.0, 3.0, 2.0]).reshape(1, 4, 1)
        >>> max_pool(x, 2).ravel()
        Array([3., 3.], dtype=float32)
        >>> jax.grad(lambda x: max_pool(x, 4).sum())(x).ravel()
        Array([0., 1., 0., 0.], dtype=float32)
    """
    x = jnp.asarray(x)
    geometry = _geometry(x, window, strides, padding, dilation, ceil_mode)
    integral = jnp.issubdtype(x.dtype, jnp.integer)
    if not integral and not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"max_pool takes integers or real floating-point numbers, got {x.dtype}; cast with .astype")
    apart = max(geometry.dilation) > 1  # XLA's maximum over such windows has no gradient
    if form == "xla" and apart:
        raise ValueError('max_pool has no form="xla" for windows with dilation; leave form out')
    large = form is None and math.prod(geometry.window) > MOST_TAPS
    if large and apart:
        return _by_axis(x, geometry)
    if large or (form is None and apart):
        form = "xla" if large else "taps"
    with chosen("max_pool", form, "taps", x) as form:
        if form == "xla":
            return _reduce_window(x, _lowest(x.dtype), lax.max, geometry)
        return _largest(x, geometry) if integral else _max_pool(x, geometry)


def avg_pool(
    x: ArrayLike,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> jax.Array:
    """The mean of every window, over the positions that lie inside the input (padded ones do not count by default).

    With stride s, dilation d and low padding p, along one axis:

        y[b, j, c] = mean_t x[b, j·s + t·d − p, c]        over the t that fall inside x

    Args:
        x: The input, (batch, *space, C), floating-point, with one to three spatial axes.
        window: Size of the window, one integer or one per spatial axis.
        strides: Step of the window; None steps by the window's own size.
        padding: "VALID" (none), "SAME" (⌈size / stride⌉ outputs), or a (low, high) pair per spatial axis, each
            smaller than the window.
        dilation: Distance between the window's positions, one integer or one per spatial axis.
        ceil_mode: Whether a last window that overhangs the padded input is taken too, if it begins inside the input or
            its low padding (PyTorch's rule). What overhangs never counts.
        count_include_pad: Whether padded positions count, as zeros.

    Returns:
        (batch, *places, C), in x's dtype; half precision is summed in float32.

    Raises:
        ValueError: If the input, window, strides and padding do not fit each other.
        TypeError: If x is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 3.0, 5.0]).reshape(1, 3, 1)
        >>> avg_pool(x, 2, padding="SAME").ravel()
        Array([2., 5.], dtype=float32)
    """
    x = jnp.asarray(x)
    geometry = _geometry(x, window, strides, padding, dilation, ceil_mode)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"avg_pool takes floating-point numbers, got {x.dtype}; cast with .astype")
    total = _reduce_window(widen(x), 0, lax.add, geometry)
    return (total / jnp.asarray(_count(x.shape[1:-1], geometry, count_include_pad), total.dtype)).astype(x.dtype)


def sum_pool(
    x: ArrayLike,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """The sum of every window, over the positions that lie inside the input.

    Args:
        x: The input, (batch, *space, C), floating-point, with one to three spatial axes.
        window: Size of the window, one integer or one per spatial axis.
        strides: Step of the window; None steps by the window's own size.
        padding: As for `avg_pool`.
        dilation: As for `avg_pool`.
        ceil_mode: As for `avg_pool`.

    Returns:
        (batch, *places, C), in x's dtype; half precision is summed in float32.

    Raises:
        ValueError: If the input, window, strides and padding do not fit each other.
        TypeError: If x is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> sum_pool(jnp.array([1.0, 3.0, 5.0]).reshape(1, 3, 1), 2, padding="SAME").ravel()
        Array([4., 5.], dtype=float32)
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"sum_pool takes floating-point numbers, got {x.dtype}; cast with .astype")
    geometry = _geometry(x, window, strides, padding, dilation, ceil_mode)
    return _reduce_window(widen(x), 0, lax.add, geometry).astype(x.dtype)


def _geometry(x: jax.Array, window, strides, padding, dilation, ceil_mode: bool) -> Geometry:
    axes, sizes = x.ndim - 2, x.shape[1:-1]
    if axes not in (1, 2, 3):
        raise ValueError(
            f"pooling takes (batch, *space, C) with one to three spatial axes, got {x.dtype}{list(x.shape)}; a single "
            "example needs a batch axis, x[None]"
        )
    window, dilation = per_axis(window, axes, "window"), per_axis(dilation, axes, "dilation")
    strides = window if strides is None else per_axis(strides, axes, "strides")
    span = tuple(map(dilated, window, dilation))
    padding = resolve_padding(padding, sizes, span, strides)
    if any(not 0 <= p < w for pair, w in zip(padding, span, strict=True) for p in pair):
        raise ValueError(f"padding {padding} must not be negative and must be smaller than the window {span}")
    overhang = (0,) * axes
    if ceil_mode:
        overhang = tuple(map(_overhang, sizes, span, strides, padding))
        padding = tuple((low, high + over) for (low, high), over in zip(padding, overhang, strict=True))
    places = output_sizes(sizes, span, strides, padding)
    if 0 in places or 0 in sizes:
        raise ValueError(f"the window {span} does not fit into the input's {sizes} with padding {padding}")
    geometry = Geometry(window, strides, padding, dilation, places, overhang)
    if 0 in _count(sizes, geometry):
        raise ValueError(
            f"a window {window} with dilation {dilation} and padding {padding} sees nothing of the input's {sizes}: use "
            "less padding or less dilation"
        )
    return geometry


def _overhang(size: int, span: int, stride: int, padding: tuple[int, int]) -> int:
    """How far beyond the high padding a last window reaches that begins inside the input or its low padding."""
    low, high = padding
    places = -(-max(size + low + high - span, 0) // stride) + 1
    places -= (places - 1) * stride >= size + low
    return max((places - 1) * stride + span - size - low - high, 0)


def _reduce_window(x: jax.Array, initial, operation, geometry: Geometry) -> jax.Array:
    window, strides, padding, dilation = ((1, *option, 1) for option in geometry[:4])
    initial = np.asarray(initial, x.dtype)[()]
    padding = ((0, 0), *padding[1:-1], (0, 0))
    return lax.reduce_window(x, initial, operation, window, strides, padding, window_dilation=dilation)


def _count(sizes: tuple[int, ...], geometry: Geometry, padded: bool = False) -> np.ndarray:
    """How many positions each window covers, (1, *places, 1), or one number where they all cover the same.

    Positions inside the input, or also the `padded` ones; those of the overhang never.
    """
    if not any(map(any, geometry.padding)):
        return np.array(math.prod(geometry.window))
    counts = []
    for n, w, s, (low, high), d, places, over in zip(sizes, *geometry, strict=True):
        seen = np.arange(places)[:, None] * s - low + np.arange(w)[None, :] * d
        start, stop = (-low, n + high - over) if padded else (0, n)
        counts.append(((seen >= start) & (seen < stop)).sum(1))
    return functools.reduce(np.multiply.outer, counts)[None, ..., None]


def _lowest(dtype):
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


# The maximum by taps. A tap is one position in the window, and its code is its number in row-major order. What a tap sees
# of the input is a strided slice, and the places where it looks outside are padded afterwards, so that the compiler fuses
# the padding with the rest instead of writing a padded copy of the input.


def _views(x: jax.Array, geometry: Geometry) -> Iterator[tuple[tuple, tuple, list]]:
    """For each tap: the part of x it sees, the places from which it sees it, and the padding from these to all places."""
    for tap in np.ndindex(*geometry.window):
        seen, places, edges = [], [], []
        for n, t, s, (low, _), d, m in zip(x.shape[1:-1], tap, *geometry[1:5], strict=True):
            t = t * d
            first, stop = (min(max(-((t - low - end) // s), 0), m) for end in (0, n))  # 0 ≤ place · s + t − low < n
            seen.append(slice(first * s + t - low, stop * s + t - low, s))
            places.append(slice(first, stop))
            edges.append((first, m - stop, 0))
        yield (slice(None), *seen), (slice(None), *places), [(0, 0, 0), *edges, (0, 0, 0)]


def _largest(x: jax.Array, geometry: Geometry) -> jax.Array:
    lowest = np.asarray(_lowest(x.dtype), x.dtype)[()]
    return functools.reduce(jnp.maximum, [lax.pad(x[seen], lowest, edges) for seen, _, edges in _views(x, geometry)])


def _by_axis(x: jax.Array, geometry: Geometry) -> jax.Array:
    """One axis after the other, the last first: of equal elements the first in row-major order is still the one."""
    rows = zip(*geometry[:-1], strict=True)  # the padding includes the overhang
    for axis, (window, stride, (low, _), dilation, places) in reversed(list(enumerate(rows, 1))):
        taps = (np.arange(places) * stride - low)[:, None] + (np.arange(window) * dilation)[None]
        inside = (taps >= 0) & (taps < x.shape[axis])
        there = np.any(inside, axis=1)
        taps = np.where(inside, taps, np.take_along_axis(taps, inside.argmax(1)[:, None], 1))  # an element more than once
        seen = jnp.take(x, jnp.asarray(np.where(there[:, None], taps, 0)), axis)
        x = jnp.take_along_axis(seen, jnp.argmax(seen, axis + 1, keepdims=True), axis + 1).squeeze(axis + 1)
        if not there.all():
            some = jnp.asarray(there).reshape(-1, *[1] * (x.ndim - axis - 1))
            x = jnp.where(jnp.expand_dims(some, range(axis)), x, jnp.asarray(_lowest(x.dtype), x.dtype))
    return x


def _winner(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The code of the first tap of each window that holds its maximum y."""
    y = jnp.where(jnp.isnan(y), jnp.asarray(jnp.inf, y.dtype), y)  # then only a NaN, and infinity, is not less than it
    winner = jnp.zeros(y.shape, jnp.float32)
    for code, (seen, places, edges) in reversed(list(enumerate(_views(x, geometry)))):
        loses = lax.pad(x[seen] < y[places], np.True_, edges)
        winner = jnp.where(loses, winner, np.float32(code**2))
    # XLA repeats cheap operations in each of their consumers, which would search anew for every element of the gradient.
    # A square root it takes for dear, so the winners are stored, in few bytes.
    return lax.sqrt(winner).astype(_code_type(geometry))


def _code_type(geometry: Geometry) -> np.dtype:
    return np.min_scalar_type(-math.prod(geometry.window) - 1)


def _pick(v: jax.Array, winner: jax.Array, geometry: Geometry) -> jax.Array:
    """The element of v that won in each window: linear in v.

    The obvious form, a sum of strided slices of v, has a slow transpose: strided slices become dilated paddings, one
    for each tap. Here v is cut into cells of one stride: with strides (2, 2) it is (batch, rows, 2, columns, 2, C). A
    window of w positions begins in a cell of its own and reaches (w − 1)·d // s cells further. The cells' winners move and
    v stays, so that in the transpose the gradient is padded once and then only sliced and compared.
    """
    window, strides, padding, dilation, places, _ = geometry
    axes = len(strides)
    reach = tuple((w - 1) * d // s for w, d, s in zip(window, dilation, strides, strict=True))
    cells = tuple(n + r for n, r in zip(places, reach, strict=True))
    edges = zip(v.shape[1:-1], cells, strides, padding, strict=True)
    config = [(0, 0, 0), *((low, m * s - n - low, 0) for n, m, s, (low, _) in edges), (0, 0, 0)]
    v = lax.pad(v, jnp.zeros((), v.dtype), config)
    v = v.reshape(v.shape[0], *(size for pair in zip(cells, strides, strict=True) for size in pair), v.shape[-1])
    within = tuple(range(2, 2 * axes + 1, 2))  # the axes of v that run inside a cell
    codes = np.full([(r + 1) * s for r, s in zip(reach, strides, strict=True)], -1, winner.dtype)
    codes[tuple(slice(0, dilated(w, d), d) for w, d in zip(window, dilation, strict=True))] = np.arange(
        math.prod(window)
    ).reshape(window)
    winner = lax.pad(winner, winner.dtype.type(-2), [(0, 0, 0), *((r, r, 0) for r in reach), (0, 0, 0)])

    def part(shift: tuple[int, ...]) -> jax.Array:
        rows = list(zip(shift, reach, cells, strict=True))
        holder = winner[(slice(None), *(slice(r - a, r - a + m) for a, r, m in rows))]
        cell = codes[tuple(slice(a * s, (a + 1) * s) for a, s in zip(shift, strides, strict=True))]
        won = lax.expand_dims(holder, within) == np.expand_dims(cell, (0, *range(1, 2 * axes, 2), 2 * axes + 1))
        picked = jnp.where(won, v, jnp.zeros((), v.dtype)).sum(within)
        return lax.pad(picked, jnp.zeros((), v.dtype), [(0, 0, 0), *((r - a, a, 0) for a, r, _ in rows), (0, 0, 0)])

    total = functools.reduce(operator.add, map(part, np.ndindex(*(r + 1 for r in reach))))
    return total[(slice(None), *(slice(r, r + n) for r, n in zip(reach, places, strict=True)))]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_pool(x: jax.Array, geometry: Geometry) -> jax.Array:
    return _largest(x, geometry)


@_max_pool.defjvp
def _max_pool_jvp(geometry: Geometry, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = _max_pool(primals[0], geometry)
    return y, _pick(tangents[0], _winner(primals[0], y, geometry), geometry)
