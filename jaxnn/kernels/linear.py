"""What a dense layer does with an array of many rows: a product over the last axis, a bias, and their gradients."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxnn.kernels.forms import choose_form

# XLA's CPU compiler makes a sum over several axes a loop of windows, three times slower than the same sum over one axis,
# and takes a reshape before the sum apart again. So `column_sum` stands behind a barrier; its custom rule keeps the barrier
# away from the broadcast that is its transpose and never to be in memory. The gradient of `spread`, mostly a bias's, is a
# product with ones, as fast as memory allows and as precise as the product beside it, the kernel's gradient.


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, form: str | None = None) -> jax.Array:
    """x W + b over the last axis, whatever the axes before it.

    Args:
        x: (..., n_in).
        kernel: W, (n_in, n_out), of x's dtype.
        bias: b, (n_out,), or None.
        form: None lets the backend decide, "rows" or "xla" forces a form. They differ in rounding only: on a CPU the
            leading axes are joined, since in a gradient XLA gives only products of matrices to its fast library.

    Returns:
        (..., n_out), in x's dtype.

    Raises:
        ValueError: if `form` is another, or shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> linear(jnp.ones((2, 3, 4)), jnp.ones((4, 5)), jnp.ones(5)).shape
        (2, 3, 5)
    """
    rows = x.ndim > 1 and choose_form(form, "rows", x, kernel) == "rows"
    y = _product(lax.collapse(x, 0, x.ndim - 1), kernel) if rows else jnp.dot(x, kernel)
    y = y.reshape(*x.shape[:-1], kernel.shape[-1])
    return y if bias is None else y + spread(bias.astype(y.dtype), y, form=form)


def spread(vector: jax.Array, like: jax.Array, *, form: str | None = None) -> jax.Array:
    """A vector over the last axis of `like`, repeated over all the others; its gradient is a `column_sum`.

    Args:
        vector: (n,).
        like: (..., n); only its shape is used.
        form: None lets the backend decide, "rows" or "xla" forces a form. They differ in the gradient's rounding only.

    Returns:
        An array of like's shape and vector's dtype.

    Raises:
        ValueError: if `like` ends in another size.

    Example:
        >>> import jax.numpy as jnp
        >>> spread(jnp.array([1.0, 2.0]), jnp.zeros((2, 2))).tolist()
        [[1.0, 2.0], [1.0, 2.0]]
        >>> jax.grad(lambda v: spread(v, jnp.zeros((3, 4, 2))).sum())(jnp.array([1.0, 2.0])).tolist()
        [12.0, 12.0]
    """
    if vector.shape != like.shape[-1:]:
        raise ValueError(f"spread takes a vector of like's last size, got shapes {list(vector.shape)} and {list(like.shape)}")
    rows = like.ndim > 1 and choose_form(form, "rows", vector, like) == "rows"
    return _spread(vector, like.shape) if rows else _broadcast(vector, like.shape)


def spread_tangent(vector: jax.Array, like: jax.Array) -> jax.Array:
    """`spread` inside a rule for tangents, where JAX transposes what is written and skips the custom rule of `spread`.

    Args:
        vector: A tangent, (n,).
        like: (..., n); only its shape is used.

    Returns:
        An array of like's shape, by a product with ones on a CPU, so that its transpose is one, too.

    Example:
        >>> import jax.numpy as jnp
        >>> spread_tangent(jnp.array([1.0, 2.0]), jnp.zeros((2, 2))).tolist()
        [[1.0, 2.0], [1.0, 2.0]]
    """
    rows = like.ndim > 1 and choose_form(None, "rows", vector, like) == "rows"
    return _product_with_ones(vector, like.shape) if rows else _broadcast(vector, like.shape)


def column_sum(x: jax.Array, *, form: str | None = None) -> jax.Array:
    """The sum over all axes but the last.

    Args:
        x: (..., n), at least one axis.
        form: None lets the backend decide, "rows" or "xla" forces a form. They differ in rounding only.

    Returns:
        (n,), in x's dtype.

    Raises:
        ValueError: if `form` is another.

    Example:
        >>> import jax.numpy as jnp
        >>> column_sum(jnp.ones((2, 3, 4))).tolist()
        [6.0, 6.0, 6.0, 6.0]
    """
    rows = x.ndim > 2 and choose_form(form, "rows", x) == "rows"
    return _column_sum(x) if rows else _plain_sum(x)


@jax.custom_jvp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.dot(x, kernel)


@partial(_product.defjvp, symbolic_zeros=True)
def _product_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """The kernel's part as it is written transposes to a product of xᵀ, copied, which `vmap` leaves to the fast library."""
    (x, kernel), (dx, dkernel) = primals, tangents
    parts = [] if isinstance(dx, SymbolicZero) else [jnp.dot(dx, kernel)]
    if not isinstance(dkernel, SymbolicZero):
        parts += [lax.dot_general(x.T, dkernel, (((0,), (0,)), ((), ())))]
    y = jnp.dot(x, kernel)
    return y, sum(parts[1:], parts[0]) if parts else jnp.zeros_like(y)


def _broadcast(vector: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(lax.expand_dims(vector, range(len(shape) - 1)), shape)


def _plain_sum(x: jax.Array) -> jax.Array:
    return x.sum(tuple(range(x.ndim - 1)))


@jax.custom_jvp
def _column_sum(x: jax.Array) -> jax.Array:
    return lax.optimization_barrier(lax.collapse(x, 0, x.ndim - 1)).sum(0)


@_column_sum.defjvp
def _column_sum_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    return _column_sum(*primals), _plain_sum(*tangents)


def _spread(vector: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    @jax.custom_jvp
    def repeated(vector):
        return _broadcast(vector, shape)

    @repeated.defjvp
    def tangent(primals, tangents):
        return _broadcast(primals[0], shape), _product_with_ones(tangents[0], shape)

    return repeated(vector)


def _product_with_ones(vector: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return (jnp.ones((math.prod(shape[:-1]), 1), vector.dtype) @ vector[None]).reshape(shape)
