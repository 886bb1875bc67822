"""A convolution of one example as sums over the columns of a large kernel: the kernel's gradient of a sum over taps."""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.kernels.convolution.geometry import Geometry, output_shape, padded, split
from jaxnn.kernels.windows import MAX_TAPS, dilated_size

# Images of at least this many numbers are processed one by one, so that each stays in the cache.
LARGE_IMAGE = 2**17
# Up to this output width the compiler unrolls a row, so that terms in the padding can be left out: the input is not padded.
MAX_UNPADDED_WIDTH = 3


def sum_over_columns(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Convolve one example with a large kernel, to few outputs.

    This is the kernel's gradient of a convolution that is computed as a sum over taps. For each row of the output, a sum
    over the kernel's columns is fused into one pass, which reads the same rows of x and of the kernel for all outputs of
    the row, so that they stay in the cache. Terms that would meet padding are left out. A product with ones then sums over
    the other axes.

    Args:
        x: The input, (1, *space, groups · C_in).
        kernel: The kernel, (*kernel_size, C_in, groups · C_out), of x's dtype.
        geometry: Strides, padding, dilations and groups.

    Returns:
        (1, *out_space, groups · C_out), in x's dtype.

    Example:
        >>> x, kernel = jnp.arange(4.0).reshape(1, 4, 1), jnp.ones((3, 1, 1))
        >>> sum_over_columns(x, kernel, Geometry((1,), ((0, 0),), (1,), (1,), 1)).ravel()
        Array([3., 6.], dtype=float32)
    """
    out_sizes = output_shape(x, kernel, geometry)[1:-1]
    *leading_sizes, width = out_sizes
    stride, dilation = geometry.strides[-1], geometry.rhs_dilation[-1]
    x = split(x, geometry.groups).swapaxes(0, -1)[..., 0]  # (C_in, *space, groups)
    kernel = jnp.moveaxis(kernel, -2, 0)  # (C_in, *kernel_size, groups · C_out)
    many_columns = kernel.shape[-2] > 2 * MAX_TAPS  # too many to unroll
    if many_columns or width > MAX_UNPADDED_WIDTH or max(geometry.lhs_dilation) > 1:
        x, geometry = padded(x, geometry), geometry._replace(padding=((0, 0),) * len(out_sizes))
    x = jnp.repeat(x, kernel.shape[-1] // geometry.groups, -1)

    def output_row(index: tuple[int, ...], x: jax.Array, kernel: jax.Array) -> jax.Array:
        for axis, i in enumerate(index):
            first = i * geometry.strides[axis] - geometry.padding[axis][0]
            x, used = _valid_slice(x, 1 + axis, first, geometry.rhs_dilation[axis], kernel.shape[1 + axis])
            kernel = lax.slice_in_dim(kernel, *used, axis=1 + axis)

        def term(column: int) -> jax.Array:
            inside, (start, stop) = _valid_slice(x, -2, column * dilation - geometry.padding[-1][0], stride, width)
            edges = [(0, 0, 0)] * (x.ndim - 2) + [(start, width - stop, 0), (0, 0, 0)]
            return lax.pad(inside, jnp.zeros((), x.dtype), edges) * lax.slice_in_dim(kernel, column, column + 1, axis=-2)

        total = functools.reduce(operator.add, map(term, range(kernel.shape[-2])))
        total = lax.collapse(total, 0, total.ndim - 1)  # (C_in · kernel rows · width, groups · C_out)
        ones = lax.broadcast_in_dim(jnp.eye(width, dtype=x.dtype), (width, total.shape[0] // width, width), (0, 2))
        return lax.collapse(ones, 1) @ total

    def all_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.stack([output_row(index, x, kernel) for index in np.ndindex(*leading_sizes)])

    if many_columns:
        blocks = _split_columns(x, kernel, dilation, dilated_size(width, stride) - 1)
        y = lax.map(lambda block: all_rows(*block), blocks).sum(0)
    elif math.prod(kernel.shape[1:]) >= LARGE_IMAGE:
        y = lax.map(lambda image: all_rows(image[0][None], image[1][None]), (x, kernel)).sum(0)
    else:
        y = all_rows(x, kernel)
    return y.reshape(1, *out_sizes, -1)


def _valid_slice(x: jax.Array, axis: int, first: int, step: int, count: int) -> tuple[jax.Array, tuple[int, int]]:
    """Slice x at those of the indices first, first + step, ..., `count` in all, that lie inside it.

    Returns the slice and the range, from and to, of the numbers 0 to count − 1 whose indices these are.
    """
    size = x.shape[axis]
    start = min(max(-(first // step), 0), count)
    stop = max(min(-((first - size) // step), count), start)
    begin = first + start * step if stop > start else 0
    return lax.slice_in_dim(x, begin, begin + dilated_size(stop - start, step), step, axis), (start, stop)


def _split_columns(x: jax.Array, kernel: jax.Array, dilation: int, overlap: int) -> tuple[jax.Array, jax.Array]:
    """Split the columns of (..., columns, C) into blocks, (blocks, ..., columns, C).

    Each block of x continues for `overlap` columns into the next one; the kernel's last block is padded with zeros.
    """
    columns = kernel.shape[-2]
    size = max(MAX_TAPS, -(-overlap // dilation))
    blocks = -(-columns // size)
    unpadded = [(0, 0, 0)] * (x.ndim - 2)
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, [*unpadded, (0, (blocks + 1) * size * dilation - x.shape[-2], 0), (0, 0, 0)])
    kernel = lax.pad(kernel, zero, [*unpadded, (0, blocks * size - columns, 0), (0, 0, 0)])
    x = x.reshape(*x.shape[:-2], blocks + 1, size * dilation, x.shape[-1])
    x = jnp.concatenate([x[..., :-1, :, :], x[..., 1:, :overlap, :]], -2)
    kernel = kernel.reshape(*kernel.shape[:-2], blocks, size, kernel.shape[-1])
    return jnp.moveaxis(x, -3, 0), jnp.moveaxis(kernel, -3, 0)
