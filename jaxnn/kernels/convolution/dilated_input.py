"""Convolution of a dilated input without its zeros."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax


def by_phases(
    x: jax.Array,
    kernel: jax.Array,
    features: int,
    dilation: Sequence[int],
    padding: Sequence[tuple[int, int]],
    places: Sequence[int],
    convolve: Callable[[jax.Array, jax.Array, tuple[tuple[int, int], ...]], jax.Array],
) -> jax.Array:
    """Convolve a dilated input with stride 1 as one convolution of the undilated input for each phase of the output.

    With input dilation d and low padding p, along one axis, y[j] = Σ x[i] w[t] over all i·d + p = j + t. Write j = J·d + r
    with phase r < d, and c = (p − r) mod d. Only the taps t = T·d + c meet input points, so that each phase is:

        y[J·d + r] = Σ_T x[J + T + f] w[T·d + c]        with f = (r + c − p) / d

    Args:
        x: The input, (batch, *space, C_in).
        kernel: The kernel, (*window, C_in / groups, C_out), or anything that starts with the window.
        features: C_out.
        dilation: d, one per spatial axis.
        padding: (low, high) pairs around the dilated input; only the low ones are read, `places` fixes the others.
        places: The output's spatial sizes.
        convolve: Convolves x with a part of the kernel under a given padding, stride 1, no dilation.

    Returns:
        (batch, *places, C_out).

    Example:
        >>> convolve = lambda x, kernel, padding: lax.conv_general_dilated(
        ...     x, kernel, (1,), padding, dimension_numbers=("NWC", "WIO", "NWC"))
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> by_phases(x, jnp.ones((3, 1, 1)), 1, (2,), ((2, 2),), (5,), convolve).ravel()
        Array([1., 1., 3., 2., 2.], dtype=float32)
    """
    most = [-(-n // d) for n, d in zip(places, dilation, strict=True)]  # places of a phase; the last ones may be cropped

    def phase(*rows: tuple[int, int, int]) -> jax.Array:
        c, first, taps = zip(*rows, strict=True)
        if 0 in taps:
            return jnp.zeros((x.shape[0], *most, features), x.dtype)
        part = kernel[tuple(slice(a, None, d) for a, d in zip(c, dilation, strict=True))]
        ends = zip(first, most, taps, x.shape[1:-1], strict=True)
        return convolve(x, part, tuple((-f, n - 1 + count + f - size) for f, n, count, size in ends))

    rows = [_phases(n, d, low) for n, d, (low, _) in zip(kernel.shape, dilation, padding, strict=False)]
    return _interleaved(jnp.stack([phase(*r) for r in itertools.product(*rows)], -2), dilation, places)


def at_once(
    x: jax.Array,
    kernel: jax.Array,
    dilation: Sequence[int],
    padding: Sequence[tuple[int, int]],
    places: Sequence[int],
    convolve: Callable[[jax.Array, jax.Array, tuple[tuple[int, int], ...]], jax.Array],
) -> jax.Array:
    """All phases as features of one convolution, a sub-pixel convolution (Shi et al. 2016); arguments as in `by_phases`.

    Each phase's part of the kernel is filled up with zeros to the window that they have in common.

    Example:
        >>> convolve = lambda x, kernel, padding: lax.conv_general_dilated(
        ...     x, kernel, (1,), padding, dimension_numbers=("NWC", "WIO", "NWC"))
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> at_once(x, jnp.ones((3, 1, 1)), (2,), ((2, 2),), (5,), convolve).ravel()
        Array([1., 1., 3., 2., 2.], dtype=float32)
    """
    windows = common_windows(kernel.shape, dilation, padding)
    for axis, ((begin, end), d, (low, _)) in enumerate(zip(windows, dilation, padding, strict=True)):
        parts = []
        for c, first, count in _phases(kernel.shape[axis], d, low):
            edges = (first - begin, end - first - count) if count else (end - begin, 0)
            around = [(*edges, 0) if i == axis else (0, 0, 0) for i in range(kernel.ndim)]
            part = lax.slice_in_dim(kernel, min(c, kernel.shape[axis]), None, d, axis)
            parts.append(lax.pad(part, jnp.zeros((), x.dtype), around))
        kernel = jnp.stack(parts, -2)  # (*window, C_in, *dilation so far, C_out)
    rows = zip(windows, places, dilation, x.shape[1:-1], strict=True)
    sides = tuple((-begin, -(-n // d) - 1 + end - size) for (begin, end), n, d, size in rows)
    y = convolve(x, lax.collapse(kernel, len(places) + 1), sides)
    return _interleaved(y.reshape(*y.shape[:-1], math.prod(dilation), -1), dilation, places)


def common_windows(taps: Sequence[int], dilation: Sequence[int], padding: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Along each axis the window of input points, from and to, that all phases have in common.

    Example:
        >>> common_windows((4,), (2,), ((2, 2),)), common_windows((2,), (2,), ((1, 1),))
        ([(-1, 2)], [(0, 1)])
    """
    windows = []
    for n, d, (low, _) in zip(taps, dilation, padding, strict=False):
        ends = [(first, first + count) for _, first, count in _phases(n, d, low) if count]
        windows.append((min(begin for begin, _ in ends), max(end for _, end in ends)))
    return windows


def _phases(taps: int, d: int, low: int) -> list[tuple[int, int, int]]:
    """Along one axis, for each phase: c, f, and how many taps it has."""
    starts = [(r, (low - r) % d) for r in range(d)]
    return [(c, (r + c - low) // d, len(range(c, taps, d))) for r, c in starts]


def _interleaved(y: jax.Array, dilation: Sequence[int], places: Sequence[int]) -> jax.Array:
    """(batch, *places of a phase, phases, C_out) to (batch, *places, C_out); the last places may be cropped."""
    axes = len(places)
    y = y.reshape(*y.shape[:-2], *dilation, y.shape[-1])
    y = y.transpose(0, *(axis for pair in ((1 + a, 1 + axes + a) for a in range(axes)) for axis in pair), 1 + 2 * axes)
    y = y.reshape(y.shape[0], *(n * d for n, d in zip(y.shape[1:-1:2], dilation, strict=True)), y.shape[-1])
    return lax.slice(y, (0,) * y.ndim, (y.shape[0], *places, y.shape[-1]))
