"""Mean and variance without loss of precision, and batch normalization whose gradient needs two sums over the batch."""

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
