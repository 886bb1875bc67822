"""How the convolutions of `jaxnn.kernels.convolution.primitive` are computed on a CPU."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.kernels.convolution import winograd
from jaxnn.kernels.convolution.column_sums import sum_over_columns
from jaxnn.kernels.convolution.dilated_input import common_windows, polyphase, subpixel
from jaxnn.kernels.convolution.geometry import LABELS, Geometry, merge, output_shape, padded, split, xla_convolution
from jaxnn.kernels.forms import widen
from jaxnn.kernels.windows import MAX_TAPS, Padding, dilated_size

# A batch with more products of elements and taps than this is processed in blocks.
MAX_PRODUCTS = 2**21
FEW_CHANNELS = (1, 2, 3, 4)  # listed, since a symbolic size can be compared for equality only
# Up to this number, groups are unrolled, which saves the copies that a loop makes; more would take long to compile.
FEW_GROUPS = 8


def choose_form(x: Any, kernel: Any, geometry: Geometry) -> str:
    """Choose how a convolution is computed on a CPU, from shapes alone.

    - "depthwise": each channel separately, up to nine taps (sixteen if strided), as XLA's grouped convolution with its
      kernel labeled (*kernel_size, C_out, C_in): the only labels with a fast path, and for small windows only.
    - "polyphase": other dilated inputs (a transposed convolution, the input gradient of a strided one), one phase of the
      output after the other.
    - "subpixel": dilated inputs whose phases need nearly the same input elements, as windows that do not overlap do; all
      phases at once.
    - "taps": up to four input channels per group and few taps, as a sum over taps: larger depthwise windows, a first
      layer's gray or color images, small networks of a population.
    - "products": up to four output channels, as one product for all taps, then a sum over taps: a first layer's input
      gradient.
    - "column_sums": one example with few outputs, in groups, as a sum over columns: the kernel gradient of a depthwise
      convolution.
    - "groups": other groups, one by one.
    - "winograd": 3×3 windows over images with many channels and elements, with fewer multiplications.
    - "exchanged": a kernel larger than the input, with their roles exchanged.
    - "canonical": all others, as a convolution in canonical labels.

    Args:
        x: The input, or any object with its shape and dtype.
        kernel: The kernel, or any object with its shape.
        geometry: Strides, padding, dilations and groups.

    Returns:
        The name of the form.

    Example:
        >>> image, kernel = jax.ShapeDtypeStruct((1, 8, 8, 3), "float32"), jax.ShapeDtypeStruct((3, 3, 3, 16), "float32")
        >>> choose_form(image, kernel, Geometry((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1))
        'taps'
    """
    out_sizes = output_shape(x, kernel, geometry)[1:-1]
    if _is_small_depthwise(kernel, geometry):
        return "depthwise"
    if max(geometry.lhs_dilation) > 1 == max(*geometry.strides, *geometry.rhs_dilation):
        return "subpixel" if _phases_share_windows(kernel, geometry) else "polyphase"
    if _has_few_terms(kernel, geometry.groups):
        return "taps"
    if _has_few_products(kernel, geometry.groups) and _uses_most_products(x, geometry, out_sizes):
        return "products"
    if geometry.groups > 1:
        return "column_sums" if x.shape[0] == 1 and math.prod(out_sizes) <= MAX_TAPS else "groups"
    if winograd.applies(x, kernel, geometry):
        return "winograd"
    return "exchanged" if math.prod(kernel.shape[:-2]) > math.prod(x.shape[1:-1]) else "canonical"


def cpu_convolution(x: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Convolve in the form that is fast on a CPU, inside and outside of loops."""
    compute = _FORMS[choose_form(x, kernel, geometry)]
    return compute(widen(x), widen(kernel), geometry).astype(x.dtype)


def _depthwise(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    layout, kernel_layout, _ = LABELS[x.ndim - 2]
    return lax.conv_general_dilated(
        x,
        kernel.swapaxes(-1, -2),
        geometry.strides,
        geometry.padding,
        lhs_dilation=geometry.lhs_dilation,
        rhs_dilation=geometry.rhs_dilation,
        dimension_numbers=(layout, kernel_layout[:-2] + "OI", layout),
        feature_group_count=geometry.groups,
    )


def _is_small_depthwise(kernel: jax.Array, geometry: Geometry) -> bool:
    *kernel_size, channels, features = kernel.shape
    most = 16 if min(geometry.strides) > 1 else 9
    return channels == 1 and features == geometry.groups >= 16 and math.prod(kernel_size) <= most


def _exchanged(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The kernel as the input and the input as the kernel, both flipped in space.

    XLA exchanges the two itself where the kernel is larger than the input (deep in a network, and in the kernel gradient
    of a transposed convolution), by permuting the labels: fast at the top level, slow in a loop.
    """
    space = range(1, x.ndim - 1)
    axes = zip(x.shape[1:-1], kernel.shape[:-2], *geometry[1:4], strict=True)
    surplus = [(dilated_size(n, d) - dilated_size(k, r), pair) for n, k, pair, d, r in axes]
    padding = tuple((more + low, more + high) for more, (low, high) in surplus)
    flipped = Geometry(geometry.strides, padding, geometry.rhs_dilation, geometry.lhs_dilation, 1)
    kernel = jnp.flip(jnp.moveaxis(kernel, -1, 0), space)  # (C_out, *kernel_size, C_in)
    x = jnp.moveaxis(jnp.flip(x, space), 0, -1)  # (*space, C_in, batch)
    return jnp.swapaxes(xla_convolution(kernel, x, flipped), 0, -1)


def _sum_over_taps(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Shifted copies of each channel, times a tap of the kernel each, which the compiler fuses into one pass."""
    kernel_size, out_sizes = kernel.shape[:-2], output_shape(x, kernel, geometry)[1:-1]
    x = split(padded(x, geometry), geometry.groups)  # (batch, *space, groups, C_in)
    # The barrier keeps XLA from flipping or transposing the kernel anew for each output.
    kernel = split(lax.optimization_barrier(kernel), geometry.groups)  # (*kernel_size, C_in, groups, C_out)

    def term(index: tuple[int, ...]) -> jax.Array:
        *tap, channel = index
        axes = zip(tap, geometry.rhs_dilation, out_sizes, geometry.strides, strict=True)
        window = tuple(slice(t * r, t * r + dilated_size(n, s), s) for t, r, n, s in axes)
        factor = lax.expand_dims(kernel[index], range(len(tap) + 1))
        return x[(slice(None), *window, slice(None), slice(channel, channel + 1))] * factor

    return merge(functools.reduce(operator.add, map(term, np.ndindex(*kernel_size, kernel.shape[-3]))))


def _has_few_terms(kernel: jax.Array, groups: int) -> bool:
    """Whether a sum over taps and input channels is short enough to be the fastest form, as measured."""
    *kernel_size, channels, features = kernel.shape
    if math.prod(kernel_size) == groups == 1 != channels and features not in FEW_CHANNELS:
        return False  # a product of matrices
    most = MAX_TAPS if groups > 1 or channels == 1 else 40
    most = 2 * MAX_TAPS if features in FEW_CHANNELS else most  # too narrow for a convolution
    return channels in FEW_CHANNELS and channels * math.prod(kernel_size) <= most


def _has_few_products(kernel: jax.Array, groups: int) -> bool:
    """Whether the products of an input element with all taps are few: few output channels and not too many taps."""
    *kernel_size, _, features = kernel.shape
    return groups == 1 and features in FEW_CHANNELS and math.prod(kernel_size) <= MAX_TAPS


def _uses_most_products(x: jax.Array, geometry: Geometry, out_sizes: tuple[int, ...]) -> bool:
    """Whether most products of input elements with all taps are needed: no strides, and a small window."""
    return max(geometry.strides) == 1 and 2 * math.prod(out_sizes) >= math.prod(x.shape[1:-1])


def _sum_of_products(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    if math.prod(kernel.shape[:-2]) == 1 and not any(map(any, geometry.padding)):
        y = lax.collapse(x, 0, x.ndim - 1) @ kernel.reshape(kernel.shape[-2:])
        return y.reshape(*x.shape[:-1], kernel.shape[-1])
    return _in_blocks(lambda x: _shifted_sum(_products(x, kernel), geometry.rhs_dilation, geometry.padding), x, kernel)


def _in_blocks(convolve: Callable[[jax.Array], jax.Array], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve the batch in blocks whose products with all taps stay in the cache."""
    *kernel_size, _, features = kernel.shape
    size = max(1, MAX_PRODUCTS // math.prod((*x.shape[1:-1], *kernel_size, features)))
    if not isinstance(x.shape[0], int) or len(x) <= size:  # a symbolic batch is not split
        return convolve(x)
    whole = len(x) // size * size
    y = lax.collapse(lax.map(convolve, x[:whole].reshape(-1, size, *x.shape[1:])), 0, 2)
    return y if whole == len(x) else jnp.concatenate([y, convolve(x[whole:])])


def _products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The products of each input element with all taps, (*kernel_size, C_out, batch, *space): one product of matrices.

    Few output channels are too narrow for a convolution. They come first, so that sums run along the image's last axis.
    """
    *kernel_size, channels, features = kernel.shape
    matrix = kernel.swapaxes(-1, -2).reshape(-1, channels)
    products = lax.dot_general(matrix, lax.collapse(x, 0, x.ndim - 1), (((1,), (1,)), ((), ())))
    return products.reshape(*kernel_size, features, *x.shape[:-1])


def _shifted_sum(products: jax.Array, dilation: tuple[int, ...], padding: Padding) -> jax.Array:
    """Sum the products (*kernel_size, C_out, batch, *space) that belong to each output: (batch, *out_space, C_out)."""
    axes = len(padding)
    kernel_size = products.shape[:axes]
    edges = [(0, 0, 0)] * (axes + 2) + [(low, high, 0) for low, high in padding]
    products = lax.pad(products, jnp.zeros((), products.dtype), edges)
    out_sizes = [n - dilated_size(k, r) + 1 for n, k, r in zip(products.shape[-axes:], kernel_size, dilation, strict=True)]

    def term(tap: tuple[int, ...]) -> jax.Array:
        window = tuple(slice(t * r, t * r + n) for t, r, n in zip(tap, dilation, out_sizes, strict=True))
        return products[(*tap, slice(None), slice(None), *window)]

    return jnp.moveaxis(functools.reduce(operator.add, map(term, np.ndindex(*kernel_size))), 0, -1)


def _polyphase(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """A kernel of one tap is applied before the zeros are inserted; few output channels share one product of all phases."""
    *kernel_size, _, features = kernel.shape
    ones = (1,) * len(kernel_size)
    inner = Geometry(ones, ((0, 0),) * len(kernel_size), ones, ones, geometry.groups)
    if math.prod(kernel_size) == 1:
        return padded(cpu_convolution(x, kernel, geometry=inner), geometry)
    rest = features, geometry.lhs_dilation, geometry.padding, output_shape(x, kernel, geometry)[1:-1]
    if _has_few_products(kernel, geometry.groups):
        convolve = lambda x, products, padding: _shifted_sum(products, ones, padding)  # noqa: E731
        return _in_blocks(lambda x: polyphase(x, _products(x, kernel), *rest, convolve), x, kernel)
    return polyphase(x, kernel, *rest, lambda *v: cpu_convolution(*v[:2], geometry=inner._replace(padding=v[2])))


def _subpixel(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    ones = (1,) * (x.ndim - 2)

    def convolve(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
        return cpu_convolution(x, kernel, geometry=Geometry(ones, padding, ones, ones, 1))

    return subpixel(x, kernel, geometry.lhs_dilation, geometry.padding, output_shape(x, kernel, geometry)[1:-1], convolve)


def _phases_share_windows(kernel: jax.Array, geometry: Geometry) -> bool:
    """Whether few zeros are needed to pad the kernel's part of each phase to the window that all phases have in common."""
    *kernel_size, _, _ = kernel.shape
    windows = common_windows(kernel_size, geometry.lhs_dilation, geometry.padding)
    phases = math.prod(geometry.lhs_dilation)
    filled = phases * math.prod(end - begin for begin, end in windows) / math.prod(kernel_size)
    most = 1 if phases == 2 or _has_few_products(kernel, 1) else 1.5
    return geometry.groups == 1 and filled <= most


def _one_group_at_a_time(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Each group as a convolution of its own, or as a product if it has one tap; XLA's grouped one has no fast path."""
    single = geometry._replace(groups=1)
    pointwise = math.prod(kernel.shape[:-2]) == 1 == max(*geometry.strides, *geometry.lhs_dilation) and not any(
        map(any, geometry.padding)
    )
    if geometry.groups <= FEW_GROUPS and not pointwise:
        pairs = zip(jnp.split(x, geometry.groups, -1), jnp.split(kernel, geometry.groups, -1), strict=True)
        return jnp.concatenate([cpu_convolution(*pair, geometry=single) for pair in pairs], -1)
    x, kernel = (jnp.moveaxis(split(v, geometry.groups), -2, 0) for v in (x, kernel))
    if pointwise:
        y = lax.collapse(x, 1, x.ndim - 1) @ kernel.reshape(geometry.groups, *kernel.shape[-2:])
        y = y.reshape(*x.shape[:-1], y.shape[-1])
    else:
        y = lax.map(lambda group: cpu_convolution(*group, geometry=single), (x, kernel))
    return merge(jnp.moveaxis(y, 0, -2))


_FORMS = {
    "polyphase": _polyphase,
    "subpixel": _subpixel,
    "depthwise": _depthwise,
    "taps": _sum_over_taps,
    "products": _sum_of_products,
    "column_sums": sum_over_columns,
    "groups": _one_group_at_a_time,
    "winograd": lambda x, kernel, geometry: winograd.convolve(x, kernel, geometry.padding),
    "exchanged": _exchanged,
    "canonical": xla_convolution,
}
