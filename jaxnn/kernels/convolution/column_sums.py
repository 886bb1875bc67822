"""A convolution as a sum over columns: the kernel's gradient where the convolution is a sum over taps."""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.kernels.convolution.geometry import Member, output_shape, padded, split
from jaxnn.kernels.windows import MOST_TAPS, dilated

# From this size on images are gone through one by one, so that each stays in the cache.
LARGE_IMAGE = 2**17
# Up to so many columns of places are unrolled by the compiler, which then knows where a term meets padding and where not.
UNROLLED_PLACES = 3


def sum_over_columns(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    """One example, few places and many taps: the kernel's gradient where the convolution is a sum over taps.

    For each row of places, a sum over the columns of taps is fused into one pass, in which the same rows of x and of
    the kernel meet at all columns of places and so stay in the cache; what would meet padding is left out. A product
    with ones then sums over the rest.

    Args:
        x: The input, (1, *space, groups · C_in).
        kernel: The kernel, (*window, C_in, groups · C_out), of x's dtype.
        member: Strides, padding, dilations and groups.

    Returns:
        (1, *places, groups · C_out), in x's dtype.

    Example:
        >>> x, kernel = jnp.arange(4.0).reshape(1, 4, 1), jnp.ones((3, 1, 1))
        >>> sum_over_columns(x, kernel, Member((1,), ((0, 0),), (1,), (1,), 1)).ravel()
        Array([3., 6.], dtype=float32)
    """
    places = output_shape(x, kernel, member)[1:-1]
    *rows, width = places
    step, dilation = member.strides[-1], member.rhs_dilation[-1]
    x = split(x, member.groups).swapaxes(0, -1)[..., 0]  # (C_in, *space, groups)
    kernel = jnp.moveaxis(kernel, -2, 0)  # (C_in, *taps, groups · C_out)
    many = kernel.shape[-2] > 2 * MOST_TAPS  # too many columns to unroll
    if many or width > UNROLLED_PLACES or max(member.lhs_dilation) > 1:
        x, member = padded(x, member), member._replace(padding=((0, 0),) * len(places))
    x = jnp.repeat(x, kernel.shape[-1] // member.groups, -1)

    def row(place: tuple[int, ...], x: jax.Array, kernel: jax.Array) -> jax.Array:
        for axis, p in enumerate(place):
            first = p * member.strides[axis] - member.padding[axis][0]
            x, met = _met(x, 1 + axis, first, member.rhs_dilation[axis], kernel.shape[1 + axis])
            kernel = lax.slice_in_dim(kernel, *met, axis=1 + axis)

        def term(column: int) -> jax.Array:
            inside, (start, stop) = _met(x, -2, column * dilation - member.padding[-1][0], step, width)
            edges = [(0, 0, 0)] * (x.ndim - 2) + [(start, width - stop, 0), (0, 0, 0)]
            return lax.pad(inside, jnp.zeros((), x.dtype), edges) * lax.slice_in_dim(kernel, column, column + 1, axis=-2)

        total = functools.reduce(operator.add, map(term, range(kernel.shape[-2])))
        total = lax.collapse(total, 0, total.ndim - 1)  # (C_in · taps · width, groups · C_out)
        ones = lax.broadcast_in_dim(jnp.eye(width, dtype=x.dtype), (width, total.shape[0] // width, width), (0, 2))
        return lax.collapse(ones, 1) @ total

    def one_pass(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.stack([row(place, x, kernel) for place in np.ndindex(*rows)])

    if many:
        blocks = _in_blocks(x, kernel, dilation, dilated(width, step) - 1)
        y = lax.map(lambda block: one_pass(*block), blocks).sum(0)
    elif math.prod(kernel.shape[1:]) >= LARGE_IMAGE:
        y = lax.map(lambda image: one_pass(image[0][None], image[1][None]), (x, kernel)).sum(0)
    else:
        y = one_pass(x, kernel)
    return y.reshape(1, *places, -1)


def _met(x: jax.Array, axis: int, first: int, step: int, count: int) -> tuple[jax.Array, tuple[int, int]]:
    """Of `count` indices from `first` on those that are in x, as a slice of it, and which these are, from and to."""
    size = x.shape[axis]
    start = min(max(-(first // step), 0), count)
    stop = max(min(-((first - size) // step), count), start)
    begin = first + start * step if stop > start else 0
    return lax.slice_in_dim(x, begin, begin + dilated(stop - start, step), step, axis), (start, stop)


def _in_blocks(x: jax.Array, kernel: jax.Array, dilation: int, overlap: int) -> tuple[jax.Array, jax.Array]:
    """Cut long rows, (..., columns, C), into blocks, (blocks, ..., columns, C).

    Each block of x goes on for `overlap` columns into the next one; the kernel's last block is filled up with zeros.
    """
    columns = kernel.shape[-2]
    size = max(MOST_TAPS, -(-overlap // dilation))
    blocks = -(-columns // size)
    around = [(0, 0, 0)] * (x.ndim - 2)
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, [*around, (0, (blocks + 1) * size * dilation - x.shape[-2], 0), (0, 0, 0)])
    kernel = lax.pad(kernel, zero, [*around, (0, blocks * size - columns, 0), (0, 0, 0)])
    x = x.reshape(*x.shape[:-2], blocks + 1, size * dilation, x.shape[-1])
    x = jnp.concatenate([x[..., :-1, :, :], x[..., 1:, :overlap, :]], -2)
    kernel = kernel.reshape(*kernel.shape[:-2], blocks, size, kernel.shape[-1])
    return jnp.moveaxis(x, -3, 0), jnp.moveaxis(kernel, -3, 0)
