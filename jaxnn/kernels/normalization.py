"""Mean, variance and norms without loss of precision, and batch normalization whose gradient needs two sums over the batch."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.kernels.linear import column_sum, spread, spread_tangent


def centered(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """x − μ and the variance, mean (x − μ)², over some axes, which keep size 1.

    The mean of values far from 0 is rounded by more than their spread. So the mean of the differences, which is 0 but for
    this rounding, is subtracted too; its derivative is 0.

    Example:
        >>> difference, var = centered(jnp.full((1, 3), 12345.678), (1,))
        >>> difference.tolist(), var.tolist()
        ([[0.0, 0.0, 0.0]], [[0.0]])
    """
    x = x - x.mean(axes, keepdims=True)
    x = x - lax.stop_gradient(x.mean(axes, keepdims=True))
    return x, (x**2).mean(axes, keepdims=True)


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


@jax.custom_jvp
def batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalize each channel over all other axes (Ioffe & Szegedy 2015).

        μ = mean x,   v = mean (x − μ)²,   y = γ (x − μ) / √(v + ε) + β

    Automatic differentiation would sum over the batch for each use of μ and v. In closed form, with w = γ / √(v + ε) and
    x̂ = (x − μ) / √(v + ε), the input's gradient is w (g − mean g − x̂ mean(x̂ g)), and both sums are also the gradients of
    β and γ.

    Args:
        x: (..., channels), with at least two elements per channel.
        scale: γ, (channels,), of x's dtype.
        bias: β, (channels,), of x's dtype.
        epsilon: ε, which bounds the factor for channels of little variance.

    Returns:
        y, of x's shape, and μ and v, (channels,).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> y, mean, var = nn.kernels.batch_norm(jnp.array([[1.0], [3.0]]), jnp.ones(1), jnp.zeros(1), 0.0)
        >>> y.ravel().tolist(), mean.tolist(), var.tolist()
        ([-1.0, 1.0], [2.0], [1.0])
    """
    mean, var, _, normal = _normal(x, epsilon)
    return normal * spread(scale, x) + spread(bias, x), mean, var


def _normal(x: jax.Array, epsilon) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    n = x.size // x.shape[-1]
    mean = column_sum(x) / n
    difference = x - spread(mean, x)
    rounding = column_sum(difference) / n  # of the mean, as in `centered`
    difference = difference - spread(rounding, x)
    var = column_sum(difference**2) / n
    factor = lax.rsqrt(var + jnp.asarray(epsilon, x.dtype))
    return mean + rounding, var, factor, difference * spread(factor, x)


@batch_norm.defjvp
def _batch_norm_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (x, scale, bias, epsilon), (dx, dscale, dbias, _) = primals, tangents
    mean, var, factor, normal = _normal(x, epsilon)
    n, weight = x.size // x.shape[-1], scale * factor
    dmean, slope = column_sum(dx) / n, column_sum(normal * dx) / n
    y = normal * spread(scale, x) + spread(bias, x)
    dy = spread(weight, x) * dx + spread_tangent(dbias - weight * dmean, x)
    dy += normal * spread_tangent(dscale - weight * slope, x)
    return (y, mean, var), (dy, dmean, 2 * slope / factor)
