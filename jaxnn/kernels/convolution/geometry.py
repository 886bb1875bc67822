"""The geometry of a convolution: its options, the shapes that follow from them, and its operation count."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.core.primitives import convolution_products, describe
from jaxnn.kernels.windows import Padding, dilated_size, output_sizes

LABELS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}

describe("conv_general_dilated", form=lambda eqn: "conv xla")


class Geometry(NamedTuple):
    """The options of a convolution, named as in `lax.conv_general_dilated`.

    Attributes:
        strides: One stride per spatial axis.
        padding: A (low, high) pair per spatial axis; a negative number crops.
        lhs_dilation: The dilation of the input, one per spatial axis.
        rhs_dilation: The dilation of the kernel, one per spatial axis.
        groups: The number of feature groups.
    """

    strides: tuple[int, ...]
    padding: Padding
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int


def output_shape(x: Any, kernel: Any, geometry: Geometry) -> tuple[int, ...]:
    """The output's shape, (batch, *out_space, groups · C_out)."""
    sizes = [dilated_size(n, d) for n, d in zip(x.shape[1:-1], geometry.lhs_dilation, strict=True)]
    window = [dilated_size(k, d) for k, d in zip(kernel.shape[:-2], geometry.rhs_dilation, strict=True)]
    return (x.shape[0], *output_sizes(sizes, window, geometry.strides, geometry.padding), kernel.shape[-1])


def xla_convolution(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Convolve by `lax.conv_general_dilated`: the reference, and the form on all platforms but the CPU.

    Args:
        x: The input, (batch, *space, groups · C_in).
        kernel: The kernel, (*kernel_size, C_in, groups · C_out), of x's dtype.
        geometry: Strides, padding, dilations and groups.

    Returns:
        (batch, *out_space, groups · C_out), in x's dtype.

    Example:
        >>> x, kernel = jnp.ones((1, 3, 1)), jnp.ones((2, 1, 1))
        >>> xla_convolution(x, kernel, Geometry((1,), ((0, 0),), (1,), (1,), 1)).ravel()
        Array([2., 2.], dtype=float32)
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        lhs_dilation=geometry.lhs_dilation,
        rhs_dilation=geometry.rhs_dilation,
        dimension_numbers=LABELS[x.ndim - 2],
        feature_group_count=geometry.groups,
    )


def flops(eqn: Any) -> int:
    """Two operations per product of an input and a kernel element, for an equation of `canonical_convolution`."""
    (x, kernel), y, geometry = (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval.shape, eqn.params["geometry"]
    products = convolution_products(zip(x[1:-1], kernel[:-2], y[1:-1], strict=True), *geometry[:4])
    return 2 * products * x[0] * kernel[-2] * y[-1]


def flops_of_kernel_gradient(eqn: Any) -> int:
    """The operations of the convolution itself, for an equation of `tiled_kernel_gradient`."""
    g, x, geometry = *(v.aval.shape for v in eqn.invars), eqn.params["geometry"]
    products = convolution_products(zip(x[1:-1], (3, 3), g[1:-1], strict=True), *geometry[:4])
    return 2 * products * x[0] * x[-1] * g[-1]


def padded(x: jax.Array, geometry: Geometry) -> jax.Array:
    """Pad the input with zeros, around it and between dilated elements; negative padding crops.

    Args:
        x: The input, (batch, *space, features).
        geometry: Only its padding and input dilation are used.

    Returns:
        (batch, *padded_space, features).

    Example:
        >>> padded(jnp.ones((1, 2, 1)), Geometry((1,), ((1, 0),), (2,), (1,), 1)).ravel()
        Array([0., 1., 0., 1.], dtype=float32)
    """
    edges = [(low, high, d - 1) for (low, high), d in zip(geometry.padding, geometry.lhs_dilation, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def split(v: jax.Array, groups: int) -> jax.Array:
    """Reshape (..., groups · C) to (..., groups, C)."""
    return v.reshape(*v.shape[:-1], groups, v.shape[-1] // groups)


def merge(v: jax.Array) -> jax.Array:
    """Reshape (..., groups, C) to (..., groups · C)."""
    return lax.collapse(v, v.ndim - 2)
