"""Convolution of a dilated input without its zeros, by polyphase decomposition."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

Convolve = Callable[[jax.Array, jax.Array, tuple[tuple[int, int], ...]], jax.Array]


def polyphase(
    x: jax.Array,
    kernel: jax.Array,
    features: int,
    dilation: Sequence[int],
    padding: Sequence[tuple[int, int]],
    out_sizes: Sequence[int],
    convolve: Convolve,
) -> jax.Array:
    """Convolve a dilated input with stride 1 by one convolution of the undilated input per phase of the output.

    With input dilation d and low padding p, along one axis, y[j] = Σ x[i] w[t] over all i·d + p = j + t. Write j = J·d + r
    with phase r < d, and c = (p − r) mod d. Only the taps t = T·d + c meet input elements, so each phase is:

        y[J·d + r] = Σ_T x[J + T + f] w[T·d + c]        with f = (r + c − p) / d

    Args:
        x: The input, (batch, *space, C_in).
        kernel: The kernel, (*kernel_size, C_in / groups, C_out), or any array whose first axes are the kernel's size.
        features: C_out.
        dilation: d, one per spatial axis.
        padding: (low, high) pairs around the dilated input; only the low ones are read, since `out_sizes` fixes the others.
        out_sizes: The output's spatial sizes.
        convolve: Convolves x with a part of the kernel under a given padding, with stride 1 and no dilation.

    Returns:
        (batch, *out_space, C_out).

    Example:
        >>> convolve = lambda x, kernel, padding: lax.conv_general_dilated(
        ...     x, kernel, (1,), padding, dimension_numbers=("NWC", "WIO", "NWC"))
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> polyphase(x, jnp.ones((3, 1, 1)), 1, (2,), ((2, 2),), (5,), convolve).ravel()
        Array([1., 1., 3., 2., 2.], dtype=float32)
    """
    phase_sizes = [-(-n // d) for n, d in zip(out_sizes, dilation, strict=True)]  # the last outputs may be cropped below

    def output_phase(*phases: tuple[int, int, int]) -> jax.Array:
        c, first, taps = zip(*phases, strict=True)
        if 0 in taps:
            return jnp.zeros((x.shape[0], *phase_sizes, features), x.dtype)
        part = kernel[tuple(slice(a, None, d) for a, d in zip(c, dilation, strict=True))]
        ends = zip(first, phase_sizes, taps, x.shape[1:-1], strict=True)
        return convolve(x, part, tuple((-f, n - 1 + count + f - size) for f, n, count, size in ends))

    phases = [_phases(n, d, low) for n, d, (low, _) in zip(kernel.shape, dilation, padding, strict=False)]
    y = jnp.stack([output_phase(*combination) for combination in itertools.product(*phases)], -2)
    return _interleave(y, dilation, out_sizes)


def subpixel(
    x: jax.Array,
    kernel: jax.Array,
    dilation: Sequence[int],
    padding: Sequence[tuple[int, int]],
    out_sizes: Sequence[int],
    convolve: Convolve,
) -> jax.Array:
    """Compute all phases as features of one convolution, a sub-pixel convolution (Shi et al. 2016).

    The part of the kernel that belongs to a phase is padded with zeros to the window that all phases have in common. The
    arguments and the result are those of `polyphase`.

    Example:
        >>> convolve = lambda x, kernel, padding: lax.conv_general_dilated(
        ...     x, kernel, (1,), padding, dimension_numbers=("NWC", "WIO", "NWC"))
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> subpixel(x, jnp.ones((3, 1, 1)), (2,), ((2, 2),), (5,), convolve).ravel()
        Array([1., 1., 3., 2., 2.], dtype=float32)
    """
    windows = common_windows(kernel.shape, dilation, padding)
    for axis, ((begin, end), d, (low, _)) in enumerate(zip(windows, dilation, padding, strict=True)):
        parts = []
        for c, first, count in _phases(kernel.shape[axis], d, low):
            edges = (first - begin, end - first - count) if count else (end - begin, 0)
            config = [(*edges, 0) if i == axis else (0, 0, 0) for i in range(kernel.ndim)]
            part = lax.slice_in_dim(kernel, min(c, kernel.shape[axis]), None, d, axis)
            parts.append(lax.pad(part, jnp.zeros((), x.dtype), config))
        kernel = jnp.stack(parts, -2)  # (*kernel_size, C_in, *dilation so far, C_out)
    axes = zip(windows, out_sizes, dilation, x.shape[1:-1], strict=True)
    inner_padding = tuple((-begin, -(-n // d) - 1 + end - size) for (begin, end), n, d, size in axes)
    y = convolve(x, lax.collapse(kernel, len(out_sizes) + 1), inner_padding)
    return _interleave(y.reshape(*y.shape[:-1], math.prod(dilation), -1), dilation, out_sizes)


def common_windows(
    kernel_size: Sequence[int], dilation: Sequence[int], padding: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The window of input elements, from and to, that covers those of all phases, along each axis.

    Example:
        >>> common_windows((4,), (2,), ((2, 2),)), common_windows((2,), (2,), ((1, 1),))
        ([(-1, 2)], [(0, 1)])
    """
    windows = []
    for n, d, (low, _) in zip(kernel_size, dilation, padding, strict=False):
        ends = [(first, first + count) for _, first, count in _phases(n, d, low) if count]
        windows.append((min(begin for begin, _ in ends), max(end for _, end in ends)))
    return windows


def _phases(taps: int, d: int, low: int) -> list[tuple[int, int, int]]:
    """c, f and the number of taps of each phase along one axis."""
    starts = [(r, (low - r) % d) for r in range(d)]
    return [(c, (r + c - low) // d, len(range(c, taps, d))) for r, c in starts]


def _interleave(y: jax.Array, dilation: Sequence[int], out_sizes: Sequence[int]) -> jax.Array:
    """Reorder (batch, *phase_sizes, phases, C_out) to (batch, *out_sizes, C_out); the last outputs may be cropped."""
    axes = len(out_sizes)
    y = y.reshape(*y.shape[:-2], *dilation, y.shape[-1])
    y = y.transpose(0, *(axis for pair in ((1 + a, 1 + axes + a) for a in range(axes)) for axis in pair), 1 + 2 * axes)
    y = y.reshape(y.shape[0], *(n * d for n, d in zip(y.shape[1:-1:2], dilation, strict=True)), y.shape[-1])
    return lax.slice(y, (0,) * y.ndim, (y.shape[0], *out_sizes, y.shape[-1]))
