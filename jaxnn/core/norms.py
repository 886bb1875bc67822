"""Norms of vectors whose squares would overflow or underflow."""

import math

import jax
import jax.numpy as jnp
from jax import lax


def power_of_two(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """A power of two close to the largest |x| over some axes, which keep size 1; 1 if that is 0 or infinite. A constant.

    Powers of x divided by it do not overflow, and do not underflow where it matters; the division itself is exact.

    Example:
        >>> power_of_two(jnp.array([[3.0, -5.0], [0.0, 0.0]]), (1,)).tolist()
        [[4.0], [1.0]]
    """
    largest = lax.stop_gradient(jnp.abs(x)).max(axes, keepdims=True, initial=0)
    power = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)
    return jnp.where((largest > 0) & (largest < jnp.inf), power, 1)


def power_norm(x: jax.Array, axes: tuple[int, ...], p: float = 2.0) -> jax.Array:
    """The norm (Σ |x|ᵖ)^(1/p) over some axes, which keep size 1; for p = ∞ the largest |x|. Its derivative at 0 is 0.

    Example:
        >>> [f"{norm:.3g}" for norm in power_norm(jnp.array([[3e25, 4e25], [0.0, 0.0]]), (1,)).ravel().tolist()]
        ['5e+25', '0']
    """
    scale, zero = power_of_two(x, axes), x == 0
    sizes = jnp.abs(jnp.where(zero, 1, x / scale))
    if p == math.inf:
        return scale * jnp.where(zero, 0, sizes).max(axes, keepdims=True, initial=0)
    if p > 32:  # the largest must then be 1 itself
        largest = lax.stop_gradient(sizes).max(axes, keepdims=True, initial=0)
        largest = jnp.where((largest > 0) & (largest < jnp.inf), largest, 1)
        scale, sizes = scale * largest, sizes / largest
    power = int(p) if p in (1, 2, 3, 4) else p  # products and a square root are more precise than exp and log
    total = jnp.where(zero, 0, sizes**power).sum(axes, keepdims=True)
    empty = total == 0
    total = jnp.where(empty, 1, total)
    return jnp.where(empty, 0, scale * (jnp.sqrt(total) if p == 2 else total ** (1 / p)))
