"""Convolution as one bilinear primitive, in a family of windows that is closed under transposition.

XLA writes the gradients of a convolution with permuted dimension labels. At the top level of a program its CPU
compiler turns them into canonical ones, but inside a loop body (``scan``) it does not, and they fall to naive code,
tens of times slower. Here every derivative is a member of the same family in canonical labels (batch, *space,
features), so nothing is left to be turned, at any order of differentiation.

With input x, kernel w, stride s, low padding p, input dilation l and kernel dilation r, along one axis and with
features left out, a member of the family is::

    y[j] = Σ_{i,t} x[i] w[t]        over all i, t with  i·l + p = j·s + t·r

The condition is symmetric enough that solving it for x or for w gives the same sum with the roles exchanged:

- given y and w:  strides ↔ input dilation, kernel flipped, its input and output features exchanged;
- given x and y:  y acts as the kernel, strides ↔ kernel dilation, and batch and input features are exchanged.
"""

import functools
import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxnn.kernels.forms import widen
from jaxnn.kernels.phases import by_phases
from jaxnn.kernels.windows import MOST_TAPS, Pairs, dilated, output_sizes

LABELS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
# From this size on images are gone through one by one, so that each stays in the cache.
LARGE_IMAGE = 2**17


class Member(NamedTuple):
    """One member of the family: a tuple entry per spatial axis; padding may be negative, which crops."""

    strides: tuple[int, ...]
    padding: Pairs
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int


def convolve(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    """Convolve within the family; every transformation of JAX applies.

    Args:
        x: The input, (batch, *space, groups · C_in).
        kernel: The kernel, (*window, C_in, groups · C_out), of x's dtype.
        member: Strides, padding, dilations and groups.

    Returns:
        (batch, *places, groups · C_out), in x's dtype; half precision is accumulated in float32.

    Example:
        >>> import jax.numpy as jnp
        >>> differences = jnp.array([1.0, -1.0]).reshape(2, 1, 1)
        >>> x = jnp.array([1.0, 4.0, 9.0]).reshape(1, 3, 1)
        >>> convolve(x, differences, Member((1,), ((0, 0),), (1,), (1,), 1)).ravel()
        Array([-3., -5.], dtype=float32)
    """
    axes = _varying(x) | _varying(kernel)  # inside shard_map both operands must vary over the same mesh axes
    x, kernel = (lax.pcast(v, tuple(sorted(axes - _varying(v))), to="varying") for v in (x, kernel))
    return convolution_p.bind(x, kernel, member=member)


def _varying(x: jax.Array) -> frozenset:
    kind: Any = jax.typeof(x)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma  # as jax spells it


def _output_shape(x: Any, kernel: Any, member: Member) -> tuple[int, ...]:
    sizes = [dilated(n, d) for n, d in zip(x.shape[1:-1], member.lhs_dilation, strict=True)]
    window = [dilated(k, d) for k, d in zip(kernel.shape[:-2], member.rhs_dilation, strict=True)]
    return (x.shape[0], *output_sizes(sizes, window, member.strides, member.padding), kernel.shape[-1])


# How a member is computed


def evaluate(x: jax.Array, kernel: jax.Array, *, member: Member) -> jax.Array:
    """Compute a member of the family in the form that is fast on a CPU, in a loop or out of it.

    - A dilated input (a transposed convolution, the input gradient of a strided one) is taken phase by phase.
    - Up to four input channels a group and few taps are a sum over taps: depthwise, a first layer's grey or coloured
      images, small networks of a population.
    - One example with few places, in groups, is a sum over columns: the kernel gradient of a depthwise convolution.
    - Other groups are a loop over them.
    - A kernel larger than the input changes places with it.
    - All else is a convolution in canonical labels.
    """
    dtype = x.dtype
    x, kernel = widen(x), widen(kernel)
    places = _output_shape(x, kernel, member)[1:-1]
    *taps, channels, _ = kernel.shape
    if max(member.lhs_dilation) > 1 == max(*member.strides, *member.rhs_dilation):
        undilated = member._replace(lhs_dilation=(1,) * len(taps))
        part = lambda x, kernel, padding: evaluate(x, kernel, member=undilated._replace(padding=padding))  # noqa: E731
        y = by_phases(x, kernel, member.lhs_dilation, member.padding, places, part)
    elif channels in (1, 2, 3, 4) and channels * math.prod(taps) <= MOST_TAPS:
        y = _sum_over_taps(x, kernel, member, places)
    elif member.groups > 1 and x.shape[0] == 1 and math.prod(places) <= MOST_TAPS:
        y = _sum_over_columns(x, kernel, member, places)
    elif member.groups > 1:
        y = _one_group_at_a_time(x, kernel, member)
    elif math.prod(taps) > math.prod(x.shape[1:-1]):
        y = _exchanged(x, kernel, member)
    else:
        y = _canonical(x, kernel, member)
    return y.astype(dtype)


def _canonical(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        member.strides,
        member.padding,
        lhs_dilation=member.lhs_dilation,
        rhs_dilation=member.rhs_dilation,
        dimension_numbers=LABELS[x.ndim - 2],
    )


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
    return jnp.swapaxes(_canonical(kernel, x, flipped), 0, -1)


def _sum_over_taps(x: jax.Array, kernel: jax.Array, member: Member, places: tuple[int, ...]) -> jax.Array:
    """Few taps and channels: shifted copies of each channel, times its tap, fused by the compiler into one pass."""
    taps = kernel.shape[:-2]
    x = _split(_padded(x, member), member.groups)  # (batch, *space, groups, C_in)
    kernel = _split(kernel, member.groups)  # (*taps, C_in, groups, C_out)

    def term(place: tuple[int, ...]) -> jax.Array:
        *tap, channel = place
        rows = zip(tap, member.rhs_dilation, places, member.strides, strict=True)
        window = tuple(slice(t * r, t * r + dilated(n, s), s) for t, r, n, s in rows)
        factor = lax.expand_dims(kernel[place], range(len(tap) + 1))
        return x[(slice(None), *window, slice(None), slice(channel, channel + 1))] * factor

    return _merge(functools.reduce(operator.add, map(term, np.ndindex(*taps, kernel.shape[-3]))))


def _padded(x: jax.Array, member: Member) -> jax.Array:
    edges = [(low, high, d - 1) for (low, high), d in zip(member.padding, member.lhs_dilation, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _sum_over_columns(x: jax.Array, kernel: jax.Array, member: Member, places: tuple[int, ...]) -> jax.Array:
    """One example, few places and many taps: the kernel's gradient where the convolution is a sum over taps.

    For each row of places, a sum over the columns of taps is fused into one pass, in which the same rows of x and of
    the kernel meet at all columns of places and so stay in the cache. A product with ones then sums over the rest.
    """
    *rows, width = places
    step, dilation = member.strides[-1], member.rhs_dilation[-1]

    def row(place: tuple[int, ...], x: jax.Array, kernel: jax.Array) -> jax.Array:
        window = zip(place, member.strides, kernel.shape[1:], member.rhs_dilation, strict=False)
        x = x[(slice(None), *(slice(p * s, p * s + dilated(n, r), r) for p, s, n, r in window))]

        def term(column: int) -> jax.Array:
            first = column * dilation
            shifted = lax.slice_in_dim(x, first, first + dilated(width, step), step, axis=-2)
            return shifted * lax.slice_in_dim(kernel, column, column + 1, axis=-2)

        total = functools.reduce(operator.add, map(term, range(kernel.shape[-2])))
        total = lax.collapse(total, 0, total.ndim - 1)  # (C_in · taps · width, groups · C_out)
        ones = lax.broadcast_in_dim(jnp.eye(width, dtype=x.dtype), (width, total.shape[0] // width, width), (0, 2))
        return lax.collapse(ones, 1) @ total

    def one_pass(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.stack([row(place, x, kernel) for place in np.ndindex(*rows)])

    x = _padded(_split(x, member.groups).swapaxes(0, -1)[..., 0], member)  # (C_in, *space, groups)
    kernel = jnp.moveaxis(kernel, -2, 0)  # (C_in, *taps, groups · C_out)
    x = jnp.repeat(x, kernel.shape[-1] // member.groups, -1)
    if kernel.shape[-2] > 2 * MOST_TAPS:  # too many to unroll
        blocks = _in_blocks(x, kernel, dilation, dilated(width, step) - 1)
        y = lax.map(lambda block: one_pass(*block), blocks).sum(0)
    elif math.prod(kernel.shape[1:]) >= LARGE_IMAGE:
        y = lax.map(lambda image: one_pass(image[0][None], image[1][None]), (x, kernel)).sum(0)
    else:
        y = one_pass(x, kernel)
    return y.reshape(1, *places, -1)


def _in_blocks(x: jax.Array, kernel: jax.Array, dilation: int, overlap: int) -> tuple[jax.Array, jax.Array]:
    """Cut long rows, (..., columns, C), into blocks, (blocks, ..., columns, C).

    Each block of x goes on for ``overlap`` columns into the next one; the kernel's last block is filled up with zeros.
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


def _one_group_at_a_time(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    """A loop over the groups: each is a canonical convolution, where XLA's grouped one has no fast path at all."""
    single = member._replace(groups=1)
    x, kernel = (jnp.moveaxis(_split(v, member.groups), -2, 0) for v in (x, kernel))
    return _merge(jnp.moveaxis(lax.map(lambda group: evaluate(*group, member=single), (x, kernel)), 0, -2))


def _split(v: jax.Array, groups: int) -> jax.Array:
    """(..., groups · C) to (..., groups, C)."""
    return v.reshape(*v.shape[:-1], groups, v.shape[-1] // groups)


def _merge(v: jax.Array) -> jax.Array:
    """(..., groups, C) to (..., groups · C)."""
    return lax.collapse(v, v.ndim - 2)


# Its derivatives


def _input_cotangent(g: jax.Array, x: Any, kernel: jax.Array, *, member: Member) -> jax.Array:
    sizes, groups = x.aval.shape[1:-1], member.groups
    rows = zip(sizes, kernel.shape[:-2], g.shape[1:-1], *member[:4], strict=True)
    padding = tuple(
        (dilated(k, r) - 1 - low, dilated(n, d) - dilated(places, s) + low) for n, k, places, s, (low, _), d, r in rows
    )
    flipped = _split(jnp.flip(kernel, range(len(sizes))), groups)  # (*window, C_in, groups, C_out)
    flipped = _merge(flipped.swapaxes(-1, -3))
    return convolve(g, flipped, Member(member.lhs_dilation, padding, member.strides, member.rhs_dilation, groups))


def _kernel_cotangent(g: jax.Array, x: jax.Array, kernel: Any, *, member: Member) -> jax.Array:
    window = kernel.aval.shape[:-2]
    rows = zip(x.shape[1:-1], window, g.shape[1:-1], *member[:4], strict=True)
    # The high padding leaves off the tail of x that no window reached, so exactly the kernel's size comes out.
    padding = tuple(
        (low, dilated(k, r) - 1 + dilated(places, s) - dilated(n, d) - low) for n, k, places, s, (low, _), d, r in rows
    )
    x = _split(x, member.groups).swapaxes(0, -1)  # (C_in, *space, groups, batch)
    swapped = Member(member.rhs_dilation, padding, member.lhs_dilation, member.strides, member.groups)
    return jnp.moveaxis(convolve(_merge(x), jnp.moveaxis(g, 0, -2), swapped), 0, -2)


# Its batching


def _batched(operands: tuple, axes: tuple, *, member: Member) -> tuple[jax.Array, int]:
    """Mapped inputs are a larger batch, mapped kernels more output features, and both together more groups."""
    (x, kernel), (x_axis, kernel_axis), groups = operands, axes, member.groups
    if kernel_axis is None:
        x = jnp.moveaxis(x, x_axis, 0)
        y = convolve(lax.collapse(x, 0, 2), kernel, member)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    mapped = kernel.shape[kernel_axis]
    if x_axis is None:
        kernel = jnp.moveaxis(kernel, kernel_axis, -1)  # (*window, C_in, groups · C_out, mapped)
        y = convolve(x, _merge(kernel), member)
        return y.reshape(*y.shape[:-1], y.shape[-1] // mapped, mapped), y.ndim
    x, kernel = jnp.moveaxis(x, x_axis, -2), jnp.moveaxis(kernel, kernel_axis, -2)
    y = convolve(_merge(x), _merge(kernel), member._replace(groups=mapped * groups))
    return _split(y, mapped), y.ndim - 1


def _abstract(x: Any, kernel: Any, *, member: Member) -> Any:
    return x.update(shape=_output_shape(x, kernel, member), weak_type=False)


convolution_p = Primitive("canonical_convolution")
convolution_p.def_impl(jax.jit(evaluate, static_argnames="member"))
convolution_p.def_abstract_eval(_abstract)
mlir.register_lowering(convolution_p, mlir.lower_fun(evaluate, multiple_results=False))
ad.defbilinear(convolution_p, _input_cotangent, _kernel_cotangent)
batching.primitive_batchers[convolution_p] = _batched
