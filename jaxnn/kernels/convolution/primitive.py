"""Convolution as one bilinear primitive, in a family of windows that is closed under transposition.

XLA writes the gradients of a convolution with permuted dimension labels. At the top level of a program its CPU
compiler turns them into canonical ones, but inside a loop body (`scan`) it does not, and they fall to naive code,
tens of times slower. Here every derivative is a member of the same family in canonical labels (batch, *space,
features), so nothing is left to be turned, at any order of differentiation.

With input x, kernel w, stride s, low padding p, input dilation l and kernel dilation r, along one axis and with
features left out, a member of the family is:

    y[j] = Σ_{i,t} x[i] w[t]        over all i, t with  i·l + p = j·s + t·r

The condition is symmetric enough that solving it for x or for w gives the same sum with the roles exchanged:

- given y and w:  strides ↔ input dilation, kernel flipped, its input and output features exchanged;
- given x and y:  y acts as the kernel, strides ↔ kernel dilation, and batch and input features are exchanged.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn._jax import bilinear_primitive, vary_alike
from jaxnn.core.primitives import describe
from jaxnn.kernels.convolution import winograd
from jaxnn.kernels.convolution.cpu import choose_way, evaluate
from jaxnn.kernels.convolution.geometry import Member, by_xla, flops, flops_of_kernel_gradient, merge, output_shape, split
from jaxnn.kernels.forms import widen
from jaxnn.kernels.windows import dilated

# From this size on an image is worth the steps of a loop over its rows.
LOOPED_IMAGE = 2**12


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
    x, kernel = vary_alike((x, kernel))
    return convolution_p.bind(x, kernel, member=member)


# Its derivatives


def _input_cotangent(g: jax.Array, x: Any, kernel: jax.Array, *, member: Member) -> jax.Array:
    sizes, groups = x.aval.shape[1:-1], member.groups
    rows = zip(sizes, kernel.shape[:-2], g.shape[1:-1], *member[:4], strict=True)
    padding = tuple(
        (dilated(k, r) - 1 - low, dilated(n, d) - dilated(places, s) + low) for n, k, places, s, (low, _), d, r in rows
    )
    flipped = split(jnp.flip(kernel, range(len(sizes))), groups)  # (*window, C_in, groups, C_out)
    flipped = merge(flipped.swapaxes(-1, -3))
    return convolve(g, flipped, Member(member.lhs_dilation, padding, member.strides, member.rhs_dilation, groups))


def _kernel_cotangent(g: jax.Array, x: jax.Array, kernel: Any, *, member: Member) -> jax.Array:
    *window, channels, _ = kernel.aval.shape
    pointwise = math.prod(window) == 1 == max(member.lhs_dilation) and not any(map(any, member.padding))
    if pointwise and (channels != 1 or member.groups == 1):
        x = x[(slice(None), *(slice(None, None, s) for s in member.strides))]
        # (groups, batch · places, C)
        x, wide = (jnp.moveaxis(split(lax.collapse(widen(v), 0, v.ndim - 1), member.groups), 1, 0) for v in (x, g))
        product = x.mT @ wide if member.groups > 1 else (x[0].T @ wide[0])[None]
        return jnp.moveaxis(product, 0, 1).reshape(kernel.aval.shape).astype(g.dtype)
    if winograd.by_tiles(x, kernel.aval, member, gradient=True):
        return tiled_gradient_p.bind(g, x, member=member)
    return _swapped(g, x, tuple(window), member)


def _swapped(g: jax.Array, x: jax.Array, window: tuple[int, ...], member: Member) -> jax.Array:
    """The kernel's gradient as a member of the family."""
    rows = zip(x.shape[1:-1], window, g.shape[1:-1], *member[:4], strict=True)
    # The high padding leaves off the tail of x that no window reached, so exactly the kernel's size comes out.
    padding = tuple(
        (low, dilated(k, r) - 1 + dilated(places, s) - dilated(n, d) - low) for n, k, places, s, (low, _), d, r in rows
    )
    x = _features_first(split(x, member.groups))  # (C_in, *space, groups, batch)
    swapped = Member(member.rhs_dilation, padding, member.lhs_dilation, member.strides, member.groups)
    return jnp.moveaxis(convolve(merge(x), jnp.moveaxis(g, 0, -2), swapped), 0, -2)


def _features_first(x: jax.Array) -> jax.Array:
    """(batch, *space, groups, C_in) with its first and last axes exchanged; images of some size row by row.

    Left whole, the transposition is fused with what made x. That is then computed again, all the way back through the
    network's elementwise operations, in an order that jumps about in memory. A loop takes x as it is.
    """
    size = math.prod(x.shape[1:])  # which may be symbolic in a second derivative, where the batch is a feature
    if x.ndim < 5 or x.shape[-1] == 1 or not isinstance(size, int) or size < LOOPED_IMAGE:
        return x.swapaxes(0, -1)

    def row(i: jax.Array, y: jax.Array) -> jax.Array:
        part = lax.dynamic_index_in_dim(x, i, 1, keepdims=False)
        return lax.dynamic_update_index_in_dim(y, part.swapaxes(0, -1), i, 1)

    return lax.fori_loop(0, x.shape[1], row, jnp.zeros_like(x, shape=(x.shape[-1], *x.shape[1:-1], x.shape[0])))


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
        y = convolve(x, merge(kernel), member)
        return y.reshape(*y.shape[:-1], y.shape[-1] // mapped, mapped), y.ndim
    x, kernel = jnp.moveaxis(x, x_axis, -2), jnp.moveaxis(kernel, kernel_axis, -2)
    y = convolve(merge(x), merge(kernel), member._replace(groups=mapped * groups))
    return split(y, mapped), y.ndim - 1


def _form(eqn: Any) -> str:
    x, kernel = (v.aval for v in eqn.invars)
    return f"conv {choose_way(x, kernel, eqn.params['member'])}"


def _abstract(x: Any, kernel: Any, *, member: Member) -> Any:
    return x.update(shape=output_shape(x, kernel, member), weak_type=False)


convolution_p = bilinear_primitive(
    "canonical_convolution",
    cpu=evaluate,
    default=by_xla,
    result=_abstract,
    transposes=(_input_cotangent, _kernel_cotangent),
    batch=_batched,
    static="member",
)
describe("canonical_convolution", flops=flops, form=_form)


# The kernel's gradient by tiles: ⟨gradient(g, x), w⟩ = ⟨convolve(x, w), g⟩, so its transposes are the family's members


def _tiled_gradient(g: jax.Array, x: jax.Array, *, member: Member) -> jax.Array:
    return winograd.kernel_gradient(widen(x), widen(g), member.padding).astype(g.dtype)


def _abstract_gradient(g: Any, x: Any, *, member: Member) -> Any:
    return g.update(shape=(3, 3, x.shape[-1], g.shape[-1]), weak_type=False)


def _batched_gradient(operands: tuple, axes: tuple, *, member: Member) -> tuple[jax.Array, int]:
    return jax.vmap(lambda g, x: _swapped(g, x, (3, 3), member), axes)(*operands), 0


def _xlas_gradient(g: jax.Array, x: jax.Array, *, member: Member) -> jax.Array:
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), g.dtype)
    return jax.linear_transpose(lambda kernel: by_xla(x, kernel, member), kernel)(g)[0]


tiled_gradient_p = bilinear_primitive(
    "tiled_kernel_gradient",
    cpu=_tiled_gradient,
    default=_xlas_gradient,
    result=_abstract_gradient,
    transposes=(
        lambda kernel, g, x, *, member: convolve(x, kernel, member),
        lambda kernel, g, x, *, member: _input_cotangent(g, x, kernel, member=member),
    ),
    batch=_batched_gradient,
    static="member",
)
describe("tiled_kernel_gradient", flops=flops_of_kernel_gradient, form=lambda eqn: "conv tiles")
