"""Convolution as one bilinear primitive that is closed under transposition.

XLA writes the gradients of a convolution with permuted dimension labels. At the top level of a program its CPU
compiler turns them into canonical ones, but inside a loop body (`scan`) it does not, and they fall back to naive code,
tens of times slower. Here every derivative is a convolution of the same kind in canonical labels (batch, *space,
features), at any order of differentiation, so the compiler has nothing to rewrite.

With input x, kernel w, stride s, low padding p, input dilation l and kernel dilation r, along one axis and without
features, the convolution is:

    y[j] = Σ_{i,t} x[i] w[t]        over all i, t with  i·l + p = j·s + t·r

The condition is so symmetric that the gradients in x and in w are the same sum with the roles exchanged:

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
from jaxnn.kernels.convolution.cpu import choose_form, cpu_convolution
from jaxnn.kernels.convolution.geometry import (
    Geometry,
    flops,
    flops_of_kernel_gradient,
    merge,
    output_shape,
    split,
    xla_convolution,
)
from jaxnn.kernels.forms import widen
from jaxnn.kernels.windows import dilated_size

# Images of at least this many numbers are transposed in a loop over their first spatial axis.
LOOPED_IMAGE = 2**12


def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Convolve by the primitive; every transformation of JAX applies.

    Args:
        x: The input, (batch, *space, groups · C_in).
        kernel: The kernel, (*kernel_size, C_in, groups · C_out), of x's dtype.
        geometry: Strides, padding, dilations and groups.

    Returns:
        (batch, *out_space, groups · C_out), in x's dtype; half precision is accumulated in float32.

    Example:
        >>> import jax.numpy as jnp
        >>> differences = jnp.array([1.0, -1.0]).reshape(2, 1, 1)
        >>> x = jnp.array([1.0, 4.0, 9.0]).reshape(1, 3, 1)
        >>> convolve(x, differences, Geometry((1,), ((0, 0),), (1,), (1,), 1)).ravel()
        Array([-3., -5.], dtype=float32)
    """
    x, kernel = vary_alike((x, kernel))
    return convolution_p.bind(x, kernel, geometry=geometry)


# Derivatives


def _input_cotangent(g: jax.Array, x: Any, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    sizes, groups = x.aval.shape[1:-1], geometry.groups
    axes = zip(sizes, kernel.shape[:-2], g.shape[1:-1], *geometry[:4], strict=True)
    padding = tuple(
        (dilated_size(k, r) - 1 - low, dilated_size(n, d) - dilated_size(m, s) + low) for n, k, m, s, (low, _), d, r in axes
    )
    flipped = split(jnp.flip(kernel, range(len(sizes))), groups)  # (*kernel_size, C_in, groups, C_out)
    flipped = merge(flipped.swapaxes(-1, -3))
    transposed = Geometry(geometry.lhs_dilation, padding, geometry.strides, geometry.rhs_dilation, groups)
    return convolve(g, flipped, transposed)


def _kernel_cotangent(g: jax.Array, x: jax.Array, kernel: Any, *, geometry: Geometry) -> jax.Array:
    *kernel_size, channels, _ = kernel.aval.shape
    pointwise = math.prod(kernel_size) == 1 == max(geometry.lhs_dilation) and not any(map(any, geometry.padding))
    if pointwise and (channels != 1 or geometry.groups == 1):
        x = x[(slice(None), *(slice(None, None, s) for s in geometry.strides))]
        # (groups, batch · out_space, C)
        x, wide = (jnp.moveaxis(split(lax.collapse(widen(v), 0, v.ndim - 1), geometry.groups), 1, 0) for v in (x, g))
        product = x.mT @ wide if geometry.groups > 1 else (x[0].T @ wide[0])[None]
        return jnp.moveaxis(product, 0, 1).reshape(kernel.aval.shape).astype(g.dtype)
    if winograd.applies(x, kernel.aval, geometry, gradient=True):
        return tiled_gradient_p.bind(g, x, geometry=geometry)
    return _kernel_gradient_as_convolution(g, x, tuple(kernel_size), geometry)


def _kernel_gradient_as_convolution(g: jax.Array, x: jax.Array, kernel_size: tuple[int, ...], geometry: Geometry) -> jax.Array:
    """The kernel's gradient as a convolution in which the output's gradient acts as the kernel."""
    axes = zip(x.shape[1:-1], kernel_size, g.shape[1:-1], *geometry[:4], strict=True)
    # The high padding crops the end of x that no window reached, so that the output has exactly the kernel's size.
    padding = tuple(
        (low, dilated_size(k, r) - 1 + dilated_size(m, s) - dilated_size(n, d) - low) for n, k, m, s, (low, _), d, r in axes
    )
    x = _features_first(split(x, geometry.groups))  # (C_in, *space, groups, batch)
    swapped = Geometry(geometry.rhs_dilation, padding, geometry.lhs_dilation, geometry.strides, geometry.groups)
    return jnp.moveaxis(convolve(merge(x), jnp.moveaxis(g, 0, -2), swapped), 0, -2)


def _features_first(x: jax.Array) -> jax.Array:
    """Exchange the first and last axes of (batch, *space, groups, C_in); of large images in a loop over the first spatial axis.

    As one operation, the transposition is fused with the operations that compute x. Those are then computed again, back
    through the network's elementwise operations, in an order that accesses memory at random. A loop takes x as it is.
    """
    size = math.prod(x.shape[1:])  # may be symbolic in a second derivative, where the batch is a feature
    if x.ndim < 5 or x.shape[-1] == 1 or not isinstance(size, int) or size < LOOPED_IMAGE:
        return x.swapaxes(0, -1)

    def step(i: jax.Array, y: jax.Array) -> jax.Array:
        part = lax.dynamic_index_in_dim(x, i, 1, keepdims=False)
        return lax.dynamic_update_index_in_dim(y, part.swapaxes(0, -1), i, 1)

    return lax.fori_loop(0, x.shape[1], step, jnp.zeros_like(x, shape=(x.shape[-1], *x.shape[1:-1], x.shape[0])))


# Batching, type and description


def _batched(operands: tuple, axes: tuple, *, geometry: Geometry) -> tuple[jax.Array, int]:
    """Mapped inputs become a larger batch, mapped kernels more output features, and both together more groups."""
    (x, kernel), (x_axis, kernel_axis), groups = operands, axes, geometry.groups
    if kernel_axis is None:
        x = jnp.moveaxis(x, x_axis, 0)
        y = convolve(lax.collapse(x, 0, 2), kernel, geometry)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    mapped = kernel.shape[kernel_axis]
    if x_axis is None:
        kernel = jnp.moveaxis(kernel, kernel_axis, -1)  # (*kernel_size, C_in, groups · C_out, mapped)
        y = convolve(x, merge(kernel), geometry)
        return y.reshape(*y.shape[:-1], y.shape[-1] // mapped, mapped), y.ndim
    x, kernel = jnp.moveaxis(x, x_axis, -2), jnp.moveaxis(kernel, kernel_axis, -2)
    y = convolve(merge(x), merge(kernel), geometry._replace(groups=mapped * groups))
    return split(y, mapped), y.ndim - 1


def _result(x: Any, kernel: Any, *, geometry: Geometry) -> Any:
    return x.update(shape=output_shape(x, kernel, geometry), weak_type=False)


def _form(eqn: Any) -> str:
    x, kernel = (v.aval for v in eqn.invars)
    return f"conv {choose_form(x, kernel, eqn.params['geometry'])}"


convolution_p = bilinear_primitive(
    "canonical_convolution",
    cpu=cpu_convolution,
    default=xla_convolution,
    result=_result,
    transposes=(_input_cotangent, _kernel_cotangent),
    batch=_batched,
    static="geometry",
)
describe("canonical_convolution", flops=flops, form=_form)


# The kernel's gradient by Winograd's tiles: ⟨gradient(g, x), w⟩ = ⟨convolve(x, w), g⟩, so its transposes are convolutions


def _tiled_gradient(g: jax.Array, x: jax.Array, *, geometry: Geometry) -> jax.Array:
    return winograd.kernel_gradient(widen(x), widen(g), geometry.padding).astype(g.dtype)


def _result_of_gradient(g: Any, x: Any, *, geometry: Geometry) -> Any:
    return g.update(shape=(3, 3, x.shape[-1], g.shape[-1]), weak_type=False)


def _batched_gradient(operands: tuple, axes: tuple, *, geometry: Geometry) -> tuple[jax.Array, int]:
    return jax.vmap(lambda g, x: _kernel_gradient_as_convolution(g, x, (3, 3), geometry), axes)(*operands), 0


def _xla_gradient(g: jax.Array, x: jax.Array, *, geometry: Geometry) -> jax.Array:
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), g.dtype)
    return jax.linear_transpose(lambda kernel: xla_convolution(x, kernel, geometry), kernel)(g)[0]


tiled_gradient_p = bilinear_primitive(
    "tiled_kernel_gradient",
    cpu=_tiled_gradient,
    default=_xla_gradient,
    result=_result_of_gradient,
    transposes=(
        lambda kernel, g, x, *, geometry: convolve(x, kernel, geometry),
        lambda kernel, g, x, *, geometry: _input_cotangent(g, x, kernel, geometry=geometry),
    ),
    batch=_batched_gradient,
    static="geometry",
)
describe("tiled_kernel_gradient", flops=flops_of_kernel_gradient, form=lambda eqn: "conv winograd")
