"""The family of convolutions in `primitive`: what identifies a member, and XLA's way to compute it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.core.primitives import convolution_products, describe
from jaxnn.kernels.windows import Pairs, dilated, output_sizes

describe("conv_general_dilated", form=lambda eqn: "conv xla")

LABELS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


class Member(NamedTuple):
    """One member of the family: a tuple entry per spatial axis; padding may be negative, which crops."""

    strides: tuple[int, ...]
    padding: Pairs
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int


def output_shape(x: Any, kernel: Any, member: Member) -> tuple[int, ...]:
    """(batch, *places, groups · C_out)."""
    sizes = [dilated(n, d) for n, d in zip(x.shape[1:-1], member.lhs_dilation, strict=True)]
    window = [dilated(k, d) for k, d in zip(kernel.shape[:-2], member.rhs_dilation, strict=True)]
    return (x.shape[0], *output_sizes(sizes, window, member.strides, member.padding), kernel.shape[-1])


def by_xla(x: jax.Array, kernel: jax.Array, member: Member) -> jax.Array:
    """Compute a member of the family as XLA does: the reference, and what other platforms than a CPU take.

    Args:
        x: The input, (batch, *space, groups · C_in).
        kernel: The kernel, (*window, C_in, groups · C_out), of x's dtype.
        member: Strides, padding, dilations and groups.

    Returns:
        (batch, *places, groups · C_out), in x's dtype.

    Example:
        >>> x, kernel = jnp.ones((1, 3, 1)), jnp.ones((2, 1, 1))
        >>> by_xla(x, kernel, Member((1,), ((0, 0),), (1,), (1,), 1)).ravel()
        Array([2., 2.], dtype=float32)
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        member.strides,
        member.padding,
        lhs_dilation=member.lhs_dilation,
        rhs_dilation=member.rhs_dilation,
        dimension_numbers=LABELS[x.ndim - 2],
        feature_group_count=member.groups,
    )


def flops(eqn: Any) -> int:
    """Two operations for each product of an input and a kernel element, in an equation of `canonical_convolution`."""
    (x, kernel), y, member = (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval.shape, eqn.params["member"]
    products = convolution_products(zip(x[1:-1], kernel[:-2], y[1:-1], strict=True), *member[:4])
    return 2 * products * x[0] * kernel[-2] * y[-1]


def flops_of_kernel_gradient(eqn: Any) -> int:
    """As many as the convolution has, in an equation of `tiled_kernel_gradient`."""
    g, x, member = *(v.aval.shape for v in eqn.invars), eqn.params["member"]
    products = convolution_products(zip(x[1:-1], (3, 3), g[1:-1], strict=True), *member[:4])
    return 2 * products * x[0] * x[-1] * g[-1]


def padded(x: jax.Array, member: Member) -> jax.Array:
    """The input with zeros around it and in the holes of its dilation, or cropped where padding is negative.

    Args:
        x: The input, (batch, *space, features).
        member: Its padding and input dilation are used.

    Returns:
        (batch, *padded space, features).

    Example:
        >>> padded(jnp.ones((1, 2, 1)), Member((1,), ((1, 0),), (2,), (1,), 1)).ravel()
        Array([0., 1., 0., 1.], dtype=float32)
    """
    edges = [(low, high, d - 1) for (low, high), d in zip(member.padding, member.lhs_dilation, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def split(v: jax.Array, groups: int) -> jax.Array:
    """(..., groups · C) to (..., groups, C)."""
    return v.reshape(*v.shape[:-1], groups, v.shape[-1] // groups)


def merge(v: jax.Array) -> jax.Array:
    """(..., groups, C) to (..., groups · C)."""
    return lax.collapse(v, v.ndim - 2)
