"""Batch normalization as one operation whose gradient needs two sums over the batch."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.kernels.linear import column_sum, spread, spread_tangent


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
    centered = x - spread(mean, x)
    var = column_sum(centered**2) / n
    factor = lax.rsqrt(var + jnp.asarray(epsilon, x.dtype))
    return mean, var, factor, centered * spread(factor, x)


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
