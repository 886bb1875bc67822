"""Convolution of a dilated input without its zeros."""

import itertools
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

    def phase(r: tuple[int, ...]) -> jax.Array:
        c = tuple((low - a) % d for a, d, (low, _) in zip(r, dilation, padding, strict=True))
        part = kernel[tuple(slice(a, None, d) for a, d in zip(c, dilation, strict=True))]
        if 0 in part.shape:
            return jnp.zeros((x.shape[0], *most, features), x.dtype)
        first = [(a + b - low) // d for a, b, d, (low, _) in zip(r, c, dilation, padding, strict=True)]
        rows = zip(first, most, part.shape, x.shape[1:-1], strict=False)
        return convolve(x, part, tuple((-f, n - 1 + taps + f - size) for f, n, taps, size in rows))

    axes = len(places)
    y = jnp.stack([phase(r) for r in itertools.product(*map(range, dilation))], axis=-2)
    y = y.reshape(*y.shape[:-2], *dilation, y.shape[-1])  # (batch, *most, *dilation, C_out)
    y = y.transpose(0, *(axis for pair in ((1 + a, 1 + axes + a) for a in range(axes)) for axis in pair), 1 + 2 * axes)
    y = y.reshape(x.shape[0], *(n * d for n, d in zip(most, dilation, strict=True)), y.shape[-1])
    return lax.slice(y, (0,) * y.ndim, (x.shape[0], *places, y.shape[-1]))
