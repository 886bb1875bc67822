"""The affine map of a dense layer over the last axis of an array, its bias, and their gradients."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxnn.kernels.forms import choose_form

# XLA's CPU compiler turns a sum over several axes into a loop of windows, three times slower than the same sum over one
# axis, and undoes a reshape before the sum. So `column_sum` uses a barrier; its custom rule keeps the barrier away from its
# transpose, a broadcast that need not be stored. The gradient of `spread`, usually that of a bias, is a product with ones:
# as fast as memory allows, and as precise as the kernel's gradient, which is a product too.


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, form: str | None = None) -> jax.Array:
    """Compute x W + b over the last axis of x, with any leading axes.

    Args:
        x: (..., n_in).
        kernel: W, (n_in, n_out), of x's dtype.
        bias: b, (n_out,), or None.
        form: None lets the backend decide, "matrix" or "xla" forces a form. They differ in rounding only. "matrix", the
            form on a CPU, collapses the leading axes, since XLA passes only products of matrices to its fast library in a
            gradient.

    Returns:
        (..., n_out), in x's dtype.

    Raises:
        ValueError: If the form is another, or the shapes do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> linear(jnp.ones((2, 3, 4)), jnp.ones((4, 5)), jnp.ones(5)).shape
        (2, 3, 5)
    """
    as_matrix = x.ndim > 1 and choose_form(form, "matrix", x, kernel) == "matrix"
    y = _product(lax.collapse(x, 0, x.ndim - 1), kernel) if as_matrix else jnp.dot(x, kernel)
    y = y.reshape(*x.shape[:-1], kernel.shape[-1])
    return y if bias is None else y + spread(bias.astype(y.dtype), y, form=form)


def spread(vector: jax.Array, like: jax.Array, *, form: str | None = None) -> jax.Array:
    """Broadcast a vector over all axes of `like` but the last; its gradient is a `column_sum`.

    Args:
        vector: (n,).
        like: (..., n); only its shape is used.
        form: None lets the backend decide, "matrix" or "xla" forces a form. They differ in the gradient's rounding only.

    Returns:
        An array of like's shape and vector's dtype.

    Raises:
        ValueError: If the last axis of `like` has another size.

    Example:
        >>> import jax.numpy as jnp
        >>> spread(jnp.array([1.0, 2.0]), jnp.zeros((2, 2))).tolist()
        [[1.0, 2.0], [1.0, 2.0]]
        >>> jax.grad(lambda v: spread(v, jnp.zeros((3, 4, 2))).sum())(jnp.array([1.0, 2.0])).tolist()
        [12.0, 12.0]
    """
    if vector.shape != like.shape[-1:]:
        raise ValueError(f"spread takes a vector as long as like's last axis, got {list(vector.shape)} and {list(like.shape)}")
    as_matrix = like.ndim > 1 and choose_form(form, "matrix", vector, like) == "matrix"
    return _spread(vector, like.shape) if as_matrix else _broadcast(vector, like.shape)


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
    as_matrix = like.ndim > 1 and choose_form(None, "matrix", vector, like) == "matrix"
    return _product_with_ones(vector, like.shape) if as_matrix else _broadcast(vector, like.shape)


def column_sum(x: jax.Array, *, form: str | None = None) -> jax.Array:
    """Sum over all axes but the last.

    Args:
        x: (..., n), with at least one axis.
        form: None lets the backend decide, "matrix" or "xla" forces a form. They differ in rounding only.

    Returns:
        (n,), in x's dtype.

    Raises:
        ValueError: If the form is another.

    Example:
        >>> import jax.numpy as jnp
        >>> column_sum(jnp.ones((2, 3, 4))).tolist()
        [6.0, 6.0, 6.0, 6.0]
    """
    as_matrix = x.ndim > 2 and choose_form(form, "matrix", x) == "matrix"
    return _column_sum(x) if as_matrix else _plain_sum(x)


@jax.custom_jvp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.dot(x, kernel)


@partial(_product.defjvp, symbolic_zeros=True)
def _product_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """The kernel's term is written so that its transpose is a product of a copied xᵀ, which is fast under `vmap` too."""
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
