"""How a member of the family of convolutions in `jaxnn.kernels.convolution.primitive` is computed on a CPU."""

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
from jaxnn.kernels.convolution.dilated_input import at_once, by_phases, common_windows
from jaxnn.kernels.convolution.geometry import LABELS, Member, by_xla, merge, output_shape, padded, split
from jaxnn.kernels.forms import widen
from jaxnn.kernels.windows import MOST_TAPS, Pairs, dilated

# From this number of products with all taps on, examples are gone through in blocks.
MOST_PRODUCTS = 2**21
FEW_CHANNELS = (1, 2, 3, 4)  # listed, since a symbolic size can be compared for equality only
# Up to so many groups are unrolled, which spares the copies of a loop; more would take long to compile.
FEW_GROUPS = 8


def choose_way(x: Any, kernel: Any, member: Member) -> str:
    """The one rule that picks how a member of the family is computed on a CPU, from shapes alone.

    - "depthwise": each channel on its own, up to nine taps (sixteen under strides), as XLA's grouped convolution with its
      kernel labelled the other way, (*taps, C_out, C_in), which alone has a fast path, and only for small windows.
    - "phases": other dilated inputs (a transposed convolution, the input gradient of a strided one), phase by phase.
    - "subpixel": those whose phases need about the same input points, as windows side by side do, all phases at once.
    - "taps": up to four input channels a group and few taps, as a sum over taps: larger depthwise windows, a first
      layer's grey or coloured images, small networks of a population.
    - "products": up to four output channels, as a product for all taps, then a sum over taps: a first layer's input
      gradient.
    - "columns": one example with few places, in groups, as a sum over columns: the kernel gradient of a depthwise one.
    - "groups": other groups, one by one.
    - "tiles": windows of 3×3 over images of many channels and places, by fewer multiplications.
    - "exchanged": a kernel larger than the input changes places with it.
    - "canonical": all else, as a convolution in canonical labels.

    Args:
        x: The input, or anything with its shape.
        kernel: The kernel, or anything with its shape.
        member: Strides, padding, dilations and groups.

    Returns:
        The way's name.

    Example:
        >>> image, kernel = jax.ShapeDtypeStruct((1, 8, 8, 3), "float32"), jax.ShapeDtypeStruct((3, 3, 3, 16), "float32")
        >>> choose_way(image, kernel, Member((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1))
        'taps'
    """
    places = output_shape(x, kernel, member)[1:-1]
    if _small_and_depthwise(kernel, member):
        return "depthwise"
    if max(member.lhs_dilation) > 1 == max(*member.strides, *member.rhs_dilation):
        return "subpixel" if _much_in_common(kernel, member) else "phases"
    if _few_terms(kernel, member.groups):
        return "taps"
    if _few_products(kernel, member.groups) and _mostly_used(x, member, places):
        return "products"
    if member.groups > 1:
        return "columns" if x.shape[0] == 1 and math.prod(places) <= MOST_TAPS else "groups"
    if winograd.by_tiles(x, kernel, member):
        return "tiles"
    return "exchanged" if math.prod(kernel.shape[:-2]) > math.prod(x.shape[1:-1]) else "canonical"


def evaluate(x: jax.Array, kernel: jax.Array, *, member: Member) -> jax.Array:
    """Compute a member of the family in the way that is fast on a CPU, in a loop or out of it."""
    way = _WAYS[choose_way(x, kernel, member)]
    return way(widen(x), widen(kernel), member).astype(x.dtype)


def _depthwise(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    layout, kernel_layout, _ = LABELS[x.ndim - 2]
    return lax.conv_general_dilated(
        x,
        kernel.swapaxes(-1, -2),
        member.strides,
        member.padding,
        lhs_dilation=member.lhs_dilation,
        rhs_dilation=member.rhs_dilation,
        dimension_numbers=(layout, kernel_layout[:-2] + "OI", layout),
        feature_group_count=member.groups,
    )


def _small_and_depthwise(kernel: jax.Array, member: Member) -> bool:
    *taps, channels, features = kernel.shape
    most = 16 if min(member.strides) > 1 else 9
    return channels == 1 and features == member.groups >= 16 and math.prod(taps) <= most


def _exchanged(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    """The kernel as the input and the input as the kernel, both flipped in space.

    XLA exchanges the two by itself where the kernel has more taps than the input has points (deep in a network, and in
    the kernel gradient of a transposed convolution), by permuting the labels: fast at the top level, slow in a loop.
    """
    space = range(1, x.ndim - 1)
    rows = zip(x.shape[1:-1], kernel.shape[:-2], *member[1:4], strict=True)
    surplus = [(dilated(n, d) - dilated(k, r), pair) for n, k, pair, d, r in rows]
    padding = tuple((more + low, more + high) for more, (low, high) in surplus)
    flipped = Member(member.strides, padding, member.rhs_dilation, member.lhs_dilation, 1)
    kernel = jnp.flip(jnp.moveaxis(kernel, -1, 0), space)  # (C_out, *window, C_in)
    x = jnp.moveaxis(jnp.flip(x, space), 0, -1)  # (*space, C_in, batch)
    return jnp.swapaxes(by_xla(kernel, x, flipped), 0, -1)


def _sum_over_taps(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    """Few taps and channels: shifted copies of each channel, times its tap, fused by the compiler into one pass."""
    taps, places = kernel.shape[:-2], output_shape(x, kernel, member)[1:-1]
    x = split(padded(x, member), member.groups)  # (batch, *space, groups, C_in)
    # Behind a barrier, lest a kernel that was flipped or transposed be so again for each output.
    kernel = split(lax.optimization_barrier(kernel), member.groups)  # (*taps, C_in, groups, C_out)

    def term(place: tuple[int, ...]) -> jax.Array:
        *tap, channel = place
        rows = zip(tap, member.rhs_dilation, places, member.strides, strict=True)
        window = tuple(slice(t * r, t * r + dilated(n, s), s) for t, r, n, s in rows)
        factor = lax.expand_dims(kernel[place], range(len(tap) + 1))
        return x[(slice(None), *window, slice(None), slice(channel, channel + 1))] * factor

    return merge(functools.reduce(operator.add, map(term, np.ndindex(*taps, kernel.shape[-3]))))


def _few_terms(kernel: jax.Array, groups: int) -> bool:
    """Whether a sum over taps and input channels is short, as far as it has been faster than what else there is."""
    *taps, channels, features = kernel.shape
    if math.prod(taps) == groups == 1 != channels and features not in FEW_CHANNELS:
        return False  # a product of matrices
    most = MOST_TAPS if groups > 1 or channels == 1 else 40
    most = 2 * MOST_TAPS if features in FEW_CHANNELS else most  # too narrow for a convolution
    return channels in FEW_CHANNELS and channels * math.prod(taps) <= most


def _few_products(kernel: jax.Array, groups: int) -> bool:
    """Whether the products of each point with all taps are few: few output channels, and not so many taps."""
    *taps, _, features = kernel.shape
    return groups == 1 and features in FEW_CHANNELS and math.prod(taps) <= MOST_TAPS


def _mostly_used(x: jax.Array, member: Member, places: tuple[int, ...]) -> bool:
    """Whether products at all points are mostly needed, as there are no strides and the window is small."""
    return max(member.strides) == 1 and 2 * math.prod(places) >= math.prod(x.shape[1:-1])


def _sum_of_products(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    if math.prod(kernel.shape[:-2]) == 1 and not any(map(any, member.padding)):
        y = lax.collapse(x, 0, x.ndim - 1) @ kernel.reshape(kernel.shape[-2:])
        return y.reshape(*x.shape[:-1], kernel.shape[-1])
    return _by_blocks(lambda x: _shifted_sum(_products(x, kernel), member.rhs_dilation, member.padding), x, kernel)


def _by_blocks(convolve: Callable[[jax.Array], jax.Array], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve so many examples at a time that their products with all taps stay in the cache."""
    *taps, _, features = kernel.shape
    size = max(1, MOST_PRODUCTS // math.prod((*x.shape[1:-1], *taps, features)))
    if not isinstance(x.shape[0], int) or len(x) <= size:  # a symbolic batch is not cut
        return convolve(x)
    whole = len(x) // size * size
    y = lax.collapse(lax.map(convolve, x[:whole].reshape(-1, size, *x.shape[1:])), 0, 2)
    return y if whole == len(x) else jnp.concatenate([y, convolve(x[whole:])])


def _products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each point's products with all taps, (*taps, C_out, batch, *space): one product of matrices.

    Few output channels are too narrow for a convolution. They come first, so that sums run along whole rows of the image.
    """
    *taps, channels, features = kernel.shape
    rows = kernel.swapaxes(-1, -2).reshape(-1, channels)
    products = lax.dot_general(rows, lax.collapse(x, 0, x.ndim - 1), (((1,), (1,)), ((), ())))
    return products.reshape(*taps, features, *x.shape[:-1])


def _shifted_sum(products: jax.Array, dilation: tuple[int, ...], padding: Pairs) -> jax.Array:
    """Sum the products, (*taps, C_out, batch, *space), that meet at each place, to (batch, *places, C_out)."""
    axes = len(padding)
    taps = products.shape[:axes]
    edges = [(0, 0, 0)] * (axes + 2) + [(low, high, 0) for low, high in padding]
    products = lax.pad(products, jnp.zeros((), products.dtype), edges)
    places = [n - dilated(k, r) + 1 for n, k, r in zip(products.shape[-axes:], taps, dilation, strict=True)]

    def term(tap: tuple[int, ...]) -> jax.Array:
        window = tuple(slice(t * r, t * r + n) for t, r, n in zip(tap, dilation, places, strict=True))
        return products[(*tap, slice(None), slice(None), *window)]

    return jnp.moveaxis(functools.reduce(operator.add, map(term, np.ndindex(*taps))), 0, -1)


def _phase_by_phase(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    """One tap is taken before the zeros come in; more go phase by phase, with few output channels from one product."""
    *taps, _, features = kernel.shape
    ones = (1,) * len(taps)
    inside = Member(ones, ((0, 0),) * len(taps), ones, ones, member.groups)
    if math.prod(taps) == 1:
        return padded(evaluate(x, kernel, member=inside), member)
    rest = features, member.lhs_dilation, member.padding, output_shape(x, kernel, member)[1:-1]
    if _few_products(kernel, member.groups):
        convolve = lambda x, products, padding: _shifted_sum(products, ones, padding)  # noqa: E731
        return _by_blocks(lambda x: by_phases(x, _products(x, kernel), *rest, convolve), x, kernel)
    return by_phases(x, kernel, *rest, lambda *v: evaluate(*v[:2], member=inside._replace(padding=v[2])))


def _all_phases_at_once(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    ones = (1,) * (x.ndim - 2)
    convolve = lambda x, kernel, padding: evaluate(x, kernel, member=Member(ones, padding, ones, ones, 1))  # noqa: E731
    return at_once(x, kernel, member.lhs_dilation, member.padding, output_shape(x, kernel, member)[1:-1], convolve)


def _much_in_common(kernel: jax.Array, member: Member) -> bool:
    """Whether few zeros are to fill up each phase's part of the kernel to the window that all of them need."""
    *taps, _, _ = kernel.shape
    windows = common_windows(taps, member.lhs_dilation, member.padding)
    phases = math.prod(member.lhs_dilation)
    filled = phases * math.prod(end - begin for begin, end in windows) / math.prod(taps)
    most = 1 if phases == 2 or _few_products(kernel, 1) else 1.5
    return member.groups == 1 and filled <= most


def _one_group_at_a_time(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    """Each group is a canonical convolution, where XLA's grouped one has no fast path at all; of one tap, a product."""
    single = member._replace(groups=1)
    pointwise = math.prod(kernel.shape[:-2]) == 1 == max(*member.strides, *member.lhs_dilation) and not any(
        map(any, member.padding)
    )
    if member.groups <= FEW_GROUPS and not pointwise:
        pairs = zip(jnp.split(x, member.groups, -1), jnp.split(kernel, member.groups, -1), strict=True)
        return jnp.concatenate([evaluate(*pair, member=single) for pair in pairs], -1)
    x, kernel = (jnp.moveaxis(split(v, member.groups), -2, 0) for v in (x, kernel))
    if pointwise:
        y = lax.collapse(x, 1, x.ndim - 1) @ kernel.reshape(member.groups, *kernel.shape[-2:])
        y = y.reshape(*x.shape[:-1], y.shape[-1])
    else:
        y = lax.map(lambda group: evaluate(*group, member=single), (x, kernel))
    return merge(jnp.moveaxis(y, 0, -2))


_WAYS = {
    "phases": _phase_by_phase,
    "subpixel": _all_phases_at_once,
    "depthwise": _depthwise,
    "taps": _sum_over_taps,
    "products": _sum_of_products,
    "columns": sum_over_columns,
    "groups": _one_group_at_a_time,
    "tiles": lambda x, kernel, member: winograd.convolve(x, kernel, member.padding),
    "exchanged": _exchanged,
    "canonical": by_xla,
}
