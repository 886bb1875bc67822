"""Activations over an axis: what an element becomes depends on its neighbours."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional.activations._floating import floating

Axis = int | tuple[int, ...]


@partial(jax.jit, static_argnames="axis")
def softmax(x: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None) -> jax.Array:
    """Turn scores into probabilities: f(x)ᵢ = exp(xᵢ)/Σⱼ exp(xⱼ). Bridle (1990).

    Summed in at least float32; large scores do not overflow, and those of −∞ get 0.

    Args:
        x: scores.
        axis: over which the probabilities sum to 1.
        where: boolean mask that broadcasts to `x`; what is False counts as −∞.

    Returns:
        Probabilities, of `x`'s shape.

    Example:
        >>> [round(p, 4) for p in softmax(jnp.array([0.0, 1.0, 2.0])).tolist()]
        [0.09, 0.2447, 0.6652]
    """
    x = floating(x)
    return jax.nn.softmax(_wide(x), axis=axis, where=where).astype(x.dtype)


@partial(jax.jit, static_argnames="axis")
def log_softmax(x: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None) -> jax.Array:
    """The logarithm of the softmax, which does not underflow: f(x)ᵢ = xᵢ − log Σⱼ exp(xⱼ).

    `jax.nn.log_softmax`, summed in at least float32.

    Args:
        x: scores.
        axis: over which the probabilities sum to 1.
        where: boolean mask that broadcasts to `x`; what is False counts as −∞.

    Returns:
        Logarithms of probabilities, of `x`'s shape.

    Example:
        >>> log_softmax(jnp.array([0.0, -200.0])).tolist()
        [0.0, -200.0]
    """
    x = floating(x)
    return jax.nn.log_softmax(_wide(x), axis=axis, where=where).astype(x.dtype)


@partial(jax.jit, static_argnames="axis")
def softmin(x: ArrayLike, axis: Axis = -1) -> jax.Array:
    """Turn costs into probabilities: f(x)ᵢ = exp(−xᵢ)/Σⱼ exp(−xⱼ), the softmax of −x. PyTorch's.

    Args:
        x: costs.
        axis: over which the probabilities sum to 1.

    Returns:
        Probabilities, of `x`'s shape.

    Example:
        >>> [round(p, 4) for p in softmin(jnp.array([0.0, 1.0, 2.0])).tolist()]
        [0.6652, 0.2447, 0.09]
    """
    return softmax(-floating(x), axis=axis)


@partial(jax.jit, static_argnames="axis")
def sparsemax(x: ArrayLike, axis: int = -1) -> jax.Array:
    """Turn scores into probabilities of which many are exactly 0: f(x)ᵢ = max(0, xᵢ − τ), τ such that they sum to 1.

    The nearest point of the simplex: Martins and Astudillo (2016), Alg. 1. On the support S, those above τ,
    τ = (Σ_S x − 1)/∣S∣, and the derivative is that of x less its mean over S; elsewhere it is 0. `losses.sparsemax` trains it.

    Args:
        x: scores.
        axis: over which the probabilities sum to 1.

    Returns:
        Probabilities, of `x`'s shape.

    Example:
        >>> sparsemax(jnp.array([0.0, 1.0, 1.5])).tolist()
        [0.0, 0.25, 0.75]
    """
    x = floating(x)
    z = _wide(x)
    descending = -jnp.sort(-jax.lax.stop_gradient(z), axis=axis)
    shape = [1] * z.ndim
    shape[axis] = z.shape[axis]
    rank = jnp.arange(1, z.shape[axis] + 1, dtype=z.dtype).reshape(shape)
    thresholds = (jnp.cumsum(descending, axis=axis) - 1) / rank
    size = jnp.sum(descending > thresholds, axis=axis, keepdims=True)
    least = jnp.take_along_axis(thresholds, jnp.maximum(size - 1, 0), axis=axis)
    support = ~(jax.lax.stop_gradient(z) <= least)  # a NaN belongs to it, so that it spoils all
    count = jnp.maximum(jnp.sum(support, axis=axis, keepdims=True), 1).astype(z.dtype)
    threshold = (jnp.sum(jnp.where(support, z, 0), axis=axis, keepdims=True) - 1) / count
    return jnp.where(support, z - threshold, 0 * threshold).astype(x.dtype)


@partial(jax.jit, static_argnames="axis")
def glu(x: ArrayLike, axis: int = -1) -> jax.Array:
    """Gate one half by the other: f(a, b) = a σ(b), a and b the halves of x. Dauphin et al. (2017).

    Args:
        x: an array whose `axis` has an even length.
        axis: that is halved.

    Returns:
        An array with half the length along `axis`.

    Example:
        >>> glu(jnp.array([3.0, 0.0])).tolist()
        [1.5]
    """
    return jax.nn.glu(floating(x), axis=axis)


@partial(jax.jit, static_argnames=("axis", "keepdims", "return_sign"))
def logsumexp(
    a: ArrayLike,
    axis: Axis | None = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """A smooth maximum: log Σᵢ bᵢ exp(aᵢ), which does not overflow: `jax.nn.logsumexp`.

    Args:
        a: any array.
        axis: that is summed over; None for all.
        b: factors that broadcast to `a`; None for 1.
        keepdims: whether the axis stays, with length 1.
        return_sign: whether the sign of the sum is returned too; otherwise the logarithm of a negative one is NaN.
        where: boolean mask that broadcasts to `a`; what is False is left out.

    Returns:
        The logarithm of the sum, and its sign if asked for.

    Example:
        >>> round(logsumexp(jnp.array([1000.0, 1000.0])).item(), 2)
        1000.69
    """
    return jax.nn.logsumexp(a, axis=axis, b=b, keepdims=keepdims, return_sign=return_sign, where=where)


@partial(jax.jit, static_argnames=("axis", "keepdims"))
def logmeanexp(x: ArrayLike, axis: Axis | None = None, where: ArrayLike | None = None, keepdims: bool = False) -> jax.Array:
    """A smooth maximum that of equal numbers is that number: log((1/n) Σᵢ exp(xᵢ)): `jax.nn.logmeanexp`.

    Args:
        x: any array.
        axis: that is averaged over; None for all.
        where: boolean mask that broadcasts to `x`; what is False is left out.
        keepdims: whether the axis stays, with length 1.

    Returns:
        The logarithm of the mean.

    Example:
        >>> logmeanexp(jnp.array([1000.0, 1000.0])).item()
        1000.0
    """
    return jax.nn.logmeanexp(x, axis=axis, where=where, keepdims=keepdims)


@jax.jit
def log1mexp(x: ArrayLike) -> jax.Array:
    """The logarithm of a complement: f(x) = log(1 − e⁻ˣ) for x > 0, accurate near 0 and far out. Mächler (2012).

    Args:
        x: any array of numbers above 0, such as −log p.

    Returns:
        log(1 − e⁻ˣ), of `x`'s shape.

    Example:
        >>> round(log1mexp(jnp.log(2.0)).item(), 4)
        -0.6931
    """
    return jax.nn.log1mexp(x)


@partial(jax.jit, static_argnames="axis")
def standardize(
    x: ArrayLike,
    axis: Axis = -1,
    mean: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    epsilon: ArrayLike = 1e-5,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Shift to mean 0 and scale to variance 1: (x − mean)/√(variance + ε): `jax.nn.standardize`.

    Args:
        x: any array.
        axis: over which mean and variance are taken.
        mean: that of `x` by default.
        variance: that of `x` by default.
        epsilon: ε.
        where: boolean mask that broadcasts to `x`; what is False does not count in mean and variance.

    Returns:
        An array of `x`'s shape.

    Example:
        >>> [round(z, 4) for z in standardize(jnp.array([1.0, 3.0]), epsilon=0.0).tolist()]
        [-1.0, 1.0]
    """
    return jax.nn.standardize(x, axis=axis, mean=mean, variance=variance, epsilon=epsilon, where=where)


def _wide(x: jax.Array) -> jax.Array:
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)
