"""Pooling of channels-last arrays in one, two or three spatial dimensions."""

import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxnn.core.checks import number
from jaxnn.core.norms import power_norm
from jaxnn.kernels.forms import form_scope, widen
from jaxnn.kernels.windows import MAX_TAPS, Padding, dilated_size, output_sizes, per_axis, resolve_padding


class Geometry(NamedTuple):
    """The positions of the windows: a tuple entry per spatial axis. The padding includes the overhang of the last window."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    out_sizes: tuple[int, ...]
    overhang: tuple[int, ...]


def max_pool(
    x: ArrayLike,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    form: str | None = None,
) -> jax.Array:
    """Take the largest element of each window.

    With stride s, dilation d and low padding p, along one axis:

        y[b, j, c] = max_t x[b, j·s + t·d − p, c]        over the t that fall inside x

    The gradient goes to the element that is the maximum, on ties to the first one in row-major order (XLA's and
    PyTorch's rule; ReLU makes ties common). NaN is larger than any number. On a CPU the gradient avoids XLA's
    `select_and_scatter`, which is slow there.

    Args:
        x: The input, (batch, *space, C), real numbers, with one to three spatial axes.
        kernel_size: Size of the window, one integer or one per spatial axis.
        strides: Strides of the window, one integer or one per spatial axis; None takes the window's size.
        padding: "VALID" (none), "SAME" (⌈size / stride⌉ outputs), or a (low, high) pair per spatial axis, each
            smaller than the window. Padding is never the maximum.
        dilation: Distance between the window's elements, one integer or one per spatial axis.
        ceil_mode: Whether to include a last window that overhangs the padded input, if it begins inside the input or
            its low padding (PyTorch's rule).
        form: None lets the backend and the window's size decide, "taps" or "xla" forces a form; "xla" has no dilation.

    Returns:
        (batch, *out_space, C), in x's dtype.

    Raises:
        ValueError: If the input, kernel_size, strides and padding do not match.
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
    geometry = _geometry(x, kernel_size, strides, padding, dilation, ceil_mode)
    integral = jnp.issubdtype(x.dtype, jnp.integer)
    if not integral and not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"max_pool takes integers or real floating-point numbers, got {x.dtype}; cast with .astype")
    dilated = max(geometry.dilation) > 1  # XLA's maximum over such windows has no gradient
    if form == "xla" and dilated:
        raise ValueError('max_pool does not support dilation with form="xla"; omit form')
    large = form is None and math.prod(geometry.kernel_size) > MAX_TAPS
    if large and dilated:
        return _by_axis(x, geometry, _largest)
    if large or (form is None and dilated):
        form = "xla" if large else "taps"
    with form_scope("max_pool", form, "taps", x) as form:
        if form == "xla":
            return _reduce_window(x, _lowest(x.dtype), lax.max, geometry)
        return _max_by_taps(x, geometry) if integral else _max_pool(x, geometry)


def avg_pool(
    x: ArrayLike,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    divisor: float | None = None,
) -> jax.Array:
    """Take the mean of each window, over the elements that lie inside the input (padding does not count by default).

    With stride s, dilation d and low padding p, along one axis:

        y[b, j, c] = mean_t x[b, j·s + t·d − p, c]        over the t that fall inside x

    Args:
        x: The input, (batch, *space, C), floating-point, with one to three spatial axes.
        kernel_size: Size of the window, one integer or one per spatial axis.
        strides: Strides of the window, one integer or one per spatial axis; None takes the window's size.
        padding: "VALID" (none), "SAME" (⌈size / stride⌉ outputs), or a (low, high) pair per spatial axis, each
            smaller than the window.
        dilation: Distance between the window's elements, one integer or one per spatial axis.
        ceil_mode: Whether to include a last window that overhangs the padded input, if it begins inside the input or
            its low padding (PyTorch's rule). The overhang never counts.
        count_include_pad: Whether padding counts, as zeros.
        divisor: What every sum is divided by, a number other than 0, in place of the number of elements.

    Returns:
        (batch, *out_space, C), in x's dtype; half precision is summed in float32.

    Raises:
        ValueError: If the input, kernel_size, strides and padding do not match, or the divisor is 0.
        TypeError: If x is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 3.0, 5.0]).reshape(1, 3, 1)
        >>> avg_pool(x, 2, padding="SAME").ravel()
        Array([2., 5.], dtype=float32)
    """
    x = jnp.asarray(x)
    geometry = _geometry(x, kernel_size, strides, padding, dilation, ceil_mode)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"avg_pool takes floating-point numbers, got {x.dtype}; cast with .astype")
    check_divisor(divisor)
    total = _reduce_window(widen(x), 0, lax.add, geometry)
    count = _count(x.shape[1:-1], geometry, count_include_pad) if divisor is None else divisor
    return (total / jnp.asarray(count, total.dtype)).astype(x.dtype)


def check_divisor(divisor: float | None) -> None:
    """Check the divisor of `avg_pool`.

    Raises:
        TypeError: If it is neither None nor a number.
        ValueError: If it is 0 or not finite.

    Example:
        >>> check_divisor(4)
    """
    if divisor is not None and not isinstance(number("avg_pool", "divisor", divisor), jax.Array) and divisor == 0:
        raise ValueError("avg_pool takes a divisor other than 0, got 0: None divides by the number of elements")


def sum_pool(
    x: ArrayLike,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """Take the sum of each window, over the elements that lie inside the input.

    Args:
        x: The input, (batch, *space, C), floating-point, with one to three spatial axes.
        kernel_size: Size of the window, one integer or one per spatial axis.
        strides: Strides of the window, one integer or one per spatial axis; None takes the window's size.
        padding: As for `avg_pool`.
        dilation: As for `avg_pool`.
        ceil_mode: As for `avg_pool`.

    Returns:
        (batch, *out_space, C), in x's dtype; half precision is summed in float32.

    Raises:
        ValueError: If the input, kernel_size, strides and padding do not match.
        TypeError: If x is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> sum_pool(jnp.array([1.0, 3.0, 5.0]).reshape(1, 3, 1), 2, padding="SAME").ravel()
        Array([4., 5.], dtype=float32)
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"sum_pool takes floating-point numbers, got {x.dtype}; cast with .astype")
    geometry = _geometry(x, kernel_size, strides, padding, dilation, ceil_mode)
    return _reduce_window(widen(x), 0, lax.add, geometry).astype(x.dtype)


def lp_pool(
    x: ArrayLike,
    kernel_size: int | Sequence[int],
    *,
    p: float = 2.0,
    strides: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """Take the p-norm of each window, (Σ |x|ᵖ)^(1/p), over the elements that lie inside the input.

    It is computed one axis after the other, without overflow or underflow of the powers.

    Args:
        x: The input, (batch, *space, C), floating-point, with one to three spatial axes.
        kernel_size: Size of the window, one integer or one per spatial axis.
        p: The order of the norm, at least 1; `math.inf` for the largest absolute value.
        strides: Strides of the window, one integer or one per spatial axis; None takes the window's size.
        padding: As for `avg_pool`.
        dilation: As for `avg_pool`.
        ceil_mode: As for `avg_pool`.

    Returns:
        (batch, *out_space, C), in x's dtype; half precision is computed in float32.

    Raises:
        ValueError: If the input, kernel_size, strides and padding do not match, or p < 1.
        TypeError: If x is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> f"{lp_pool(jnp.array([3e25, 4e25]).reshape(1, 2, 1), 2).item():.3g}"
        '5e+25'
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"lp_pool takes floating-point numbers, got {x.dtype}; cast with .astype")
    if not p >= 1:
        raise ValueError(f"lp_pool takes p of at least 1, the order of a norm, got {p}")
    geometry = _geometry(x, kernel_size, strides, padding, dilation, ceil_mode)

    def norm(elements: jax.Array, inside: np.ndarray, axis: int) -> jax.Array:
        inside = np.expand_dims(inside, (*range(axis - 1), *range(axis + 1, elements.ndim)))
        return power_norm(jnp.where(inside, elements, jnp.zeros((), elements.dtype)), (axis,), p).squeeze(axis)

    return _by_axis(widen(x), geometry, norm).astype(x.dtype)


def _geometry(x: jax.Array, kernel_size, strides, padding, dilation, ceil_mode: bool) -> Geometry:
    axes, sizes = x.ndim - 2, x.shape[1:-1]
    if axes not in (1, 2, 3):
        raise ValueError(
            f"pooling takes an input (batch, *space, C) with one to three spatial axes, got {x.dtype}{list(x.shape)}; a single "
            "example needs a batch axis, x[None]"
        )
    kernel_size, dilation = per_axis(kernel_size, axes, "kernel_size"), per_axis(dilation, axes, "dilation")
    strides = kernel_size if strides is None else per_axis(strides, axes, "strides")
    window = tuple(map(dilated_size, kernel_size, dilation))
    padding = resolve_padding(padding, sizes, window, strides)
    if any(not 0 <= p < w for pair, w in zip(padding, window, strict=True) for p in pair):
        raise ValueError(f"padding {padding} must not be negative and must be smaller than the window {window}")
    overhang = (0,) * axes
    if ceil_mode:
        overhang = tuple(map(_overhang, sizes, window, strides, padding))
        padding = tuple((low, high + over) for (low, high), over in zip(padding, overhang, strict=True))
    out_sizes = output_sizes(sizes, window, strides, padding)
    if 0 in out_sizes or 0 in sizes:
        raise ValueError(f"the window {window} does not fit into the input's {sizes} with padding {padding}")
    geometry = Geometry(kernel_size, strides, padding, dilation, out_sizes, overhang)
    if 0 in _count(sizes, geometry):
        raise ValueError(
            f"kernel_size {kernel_size} with dilation {dilation} and padding {padding} gives a window that covers nothing of "
            f"the input's {sizes}; use less padding or less dilation"
        )
    return geometry


def window_positions(x: jax.Array, kernel_size, strides, padding, dilation, ceil_mode: bool) -> tuple[np.ndarray, np.ndarray]:
    """The elements of every window, in row-major order.

    Returns:
        The positions in the flattened space, (*out_space, elements), and whether they lie inside of the input; those outside
        are 0.

    Example:
        >>> at, inside = window_positions(jnp.ones((1, 3, 1)), 2, 2, ((1, 0),), 1, False)
        >>> at.tolist(), inside.tolist()
        ([[0, 0], [1, 2]], [[False, True], [True, True]])
    """
    geometry, sizes = _geometry(x, kernel_size, strides, padding, dilation, ceil_mode), x.shape[1:-1]
    axes = len(sizes)
    at, inside = np.zeros((1,) * (2 * axes), np.int32), np.ones((1,) * (2 * axes), bool)
    for i, (n, k, s, (low, _), d, m) in enumerate(zip(sizes, *geometry[:5], strict=True)):
        along = (np.arange(m)[:, None] * s + np.arange(k) * d - low).astype(np.int32)
        along = np.expand_dims(along, [j for j in range(2 * axes) if j not in (i, axes + i)])
        at, inside = at * n + along, inside & (along >= 0) & (along < n)
    shape = (*geometry.out_sizes, math.prod(geometry.kernel_size))
    at, inside = (np.broadcast_to(a, (*geometry.out_sizes, *geometry.kernel_size)).reshape(shape) for a in (at, inside))
    return np.where(inside, at, 0), inside


def _overhang(size: int, window: int, stride: int, padding: tuple[int, int]) -> int:
    """The length by which the last window that begins inside the input or its low padding exceeds the high padding."""
    low, high = padding
    outputs = -(-max(size + low + high - window, 0) // stride) + 1
    outputs -= (outputs - 1) * stride >= size + low
    return max((outputs - 1) * stride + window - size - low - high, 0)


def _reduce_window(x: jax.Array, initial, operation, geometry: Geometry) -> jax.Array:
    window, strides, padding, dilation = ((1, *option, 1) for option in geometry[:4])
    initial = np.asarray(initial, x.dtype)[()]
    padding = ((0, 0), *padding[1:-1], (0, 0))
    return lax.reduce_window(x, initial, operation, window, strides, padding, window_dilation=dilation)


def _count(sizes: tuple[int, ...], geometry: Geometry, padded: bool = False) -> np.ndarray:
    """The number of elements in each window, (1, *out_space, 1), or one number if it is the same for all.

    Elements of the input count, and if `padded` those of the padding; the overhang never does.
    """
    if not any(map(any, geometry.padding)):
        return np.array(math.prod(geometry.kernel_size))
    counts = []
    for n, k, s, (low, high), d, m, over in zip(sizes, *geometry, strict=True):
        positions = np.arange(m)[:, None] * s - low + np.arange(k)[None, :] * d
        start, stop = (-low, n + high - over) if padded else (0, n)
        counts.append(((positions >= start) & (positions < stop)).sum(1))
    return functools.reduce(np.multiply.outer, counts)[None, ..., None]


def _lowest(dtype):
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


# The maximum by taps. A tap is an element of the window, and its code is its number in row-major order. The elements of the
# input at one tap of all windows are a strided slice. The outputs whose window has this tap outside of the input are padded
# afterwards, so that the compiler fuses the padding with the rest instead of writing a padded copy of the input.


def _tap_slices(x: jax.Array, geometry: Geometry) -> Iterator[tuple[tuple, tuple, list]]:
    """For each tap: the slice of x, the slice of the outputs it belongs to, and the padding from these to all outputs."""
    for tap in np.ndindex(*geometry.kernel_size):
        inputs, outputs, edges = [], [], []
        for n, t, s, (low, _), d, m in zip(x.shape[1:-1], tap, *geometry[1:5], strict=True):
            t = t * d
            first, stop = (min(max(-((t - low - end) // s), 0), m) for end in (0, n))  # 0 ≤ output · s + t − low < n
            inputs.append(slice(first * s + t - low, stop * s + t - low, s))
            outputs.append(slice(first, stop))
            edges.append((first, m - stop, 0))
        yield (slice(None), *inputs), (slice(None), *outputs), [(0, 0, 0), *edges, (0, 0, 0)]


def _max_by_taps(x: jax.Array, geometry: Geometry) -> jax.Array:
    lowest = np.asarray(_lowest(x.dtype), x.dtype)[()]
    return functools.reduce(jnp.maximum, [lax.pad(x[part], lowest, edges) for part, _, edges in _tap_slices(x, geometry)])


def _by_axis(x: jax.Array, geometry: Geometry, reduce: Callable) -> jax.Array:
    """Reduce one axis after the other, the last first, so that on ties the first in row-major order is still the maximum.

    `reduce(elements, inside, axis)` reduces the elements of each window along `axis`; those that are not `inside`, (outputs,
    size), repeat an element of the window, or any if it is empty.
    """
    axes = zip(*geometry[:-1], strict=True)  # the padding includes the overhang
    for axis, (size, stride, (low, _), dilation, outputs) in reversed(list(enumerate(axes, 1))):
        positions = (np.arange(outputs) * stride - low)[:, None] + (np.arange(size) * dilation)[None]
        inside = (positions >= 0) & (positions < x.shape[axis])
        first_inside = np.take_along_axis(positions, inside.argmax(1)[:, None], 1)
        positions = np.where(inside, positions, np.where(inside.any(1, keepdims=True), first_inside, 0))
        x = reduce(jnp.take(x, jnp.asarray(positions), axis), inside, axis + 1)
    return x


def _largest(elements: jax.Array, inside: np.ndarray, axis: int) -> jax.Array:
    """The maximum along an axis, by index, so that its gradient goes to the first of equal values."""
    x = jnp.take_along_axis(elements, jnp.argmax(elements, axis, keepdims=True), axis).squeeze(axis)
    nonempty = inside.any(1)
    if nonempty.all():
        return x
    mask = np.expand_dims(nonempty, (*range(axis - 1), *range(axis, x.ndim)))
    return jnp.where(mask, x, jnp.asarray(_lowest(x.dtype), x.dtype))


def _winner(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The code of the first tap of each window that holds its maximum y."""
    y = jnp.where(jnp.isnan(y), jnp.asarray(jnp.inf, y.dtype), y)  # then only NaN and infinity are not less than it
    winner = jnp.zeros(y.shape, jnp.float32)
    for code, (part, outputs, edges) in reversed(list(enumerate(_tap_slices(x, geometry)))):
        loses = lax.pad(x[part] < y[outputs], np.True_, edges)
        winner = jnp.where(loses, winner, np.float32(code**2))
    # XLA repeats cheap operations in each of their consumers, which would search again for each element of the gradient.
    # It considers a square root expensive, so the winners are stored, in few bytes.
    return lax.sqrt(winner).astype(_code_type(geometry))


def _code_type(geometry: Geometry) -> np.dtype:
    return np.min_scalar_type(-math.prod(geometry.kernel_size) - 1)


def _pick(v: jax.Array, winner: jax.Array, geometry: Geometry) -> jax.Array:
    """Select the element of v at the winning tap of each window: linear in v.

    The obvious form, a sum of strided slices of v, has a slow transpose: strided slices become dilated paddings, one
    per tap. Here v is divided into cells as large as the strides: with strides (2, 2) it is (batch, rows, 2, columns, 2, C).
    The window of k taps of an output begins in the output's cell and extends over the next (k − 1)·d // s cells. The winners
    are shifted and v is not, so that in the transpose the gradient is padded once and then only sliced and compared.
    """
    kernel_size, strides, padding, dilation, out_sizes, _ = geometry
    axes = len(strides)
    reach = tuple((k - 1) * d // s for k, d, s in zip(kernel_size, dilation, strides, strict=True))
    cells = tuple(n + r for n, r in zip(out_sizes, reach, strict=True))
    edges = zip(v.shape[1:-1], cells, strides, padding, strict=True)
    config = [(0, 0, 0), *((low, m * s - n - low, 0) for n, m, s, (low, _) in edges), (0, 0, 0)]
    v = lax.pad(v, jnp.zeros((), v.dtype), config)
    v = v.reshape(v.shape[0], *(size for pair in zip(cells, strides, strict=True) for size in pair), v.shape[-1])
    inner_axes = tuple(range(2, 2 * axes + 1, 2))  # the axes of v inside a cell
    codes = np.full([(r + 1) * s for r, s in zip(reach, strides, strict=True)], -1, winner.dtype)
    taps = tuple(slice(0, dilated_size(k, d), d) for k, d in zip(kernel_size, dilation, strict=True))
    codes[taps] = np.arange(math.prod(kernel_size)).reshape(kernel_size)
    winner = lax.pad(winner, winner.dtype.type(-2), [(0, 0, 0), *((r, r, 0) for r in reach), (0, 0, 0)])

    def part(shift: tuple[int, ...]) -> jax.Array:
        spatial = list(zip(shift, reach, cells, strict=True))
        shifted = winner[(slice(None), *(slice(r - a, r - a + m) for a, r, m in spatial))]
        cell = codes[tuple(slice(a * s, (a + 1) * s) for a, s in zip(shift, strides, strict=True))]
        won = lax.expand_dims(shifted, inner_axes) == np.expand_dims(cell, (0, *range(1, 2 * axes, 2), 2 * axes + 1))
        picked = jnp.where(won, v, jnp.zeros((), v.dtype)).sum(inner_axes)
        return lax.pad(picked, jnp.zeros((), v.dtype), [(0, 0, 0), *((r - a, a, 0) for a, r, _ in spatial), (0, 0, 0)])

    total = functools.reduce(operator.add, map(part, np.ndindex(*(r + 1 for r in reach))))
    return total[(slice(None), *(slice(r, r + n) for r, n in zip(reach, out_sizes, strict=True)))]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_pool(x: jax.Array, geometry: Geometry) -> jax.Array:
    return _max_by_taps(x, geometry)


@_max_pool.defjvp
def _max_pool_jvp(geometry: Geometry, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = _max_pool(primals[0], geometry)
    picked = _pick(widen(tangents[0]), _winner(primals[0], y, geometry), geometry)  # its transpose sums over windows
    return y, picked.astype(y.dtype)
