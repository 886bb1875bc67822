"""Activations that act along an axis."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_real, spell
from jaxnn.functional.activations._floating import check_axes, floating, option, wide, widened

Axis = int | tuple[int, ...]


@partial(jax.jit, static_argnames="axis")
def softmax(x: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None) -> jax.Array:
    """Turn scores into probabilities: f(x)ᵢ = exp(xᵢ)/Σⱼ exp(xⱼ). Bridle (1990).

    Summed in at least float32; large scores do not overflow, and scores of −∞ have probability 0.

    Args:
        x: Scores.
        axis: Axis or axes over which the probabilities sum to 1.
        where: Boolean mask that broadcasts to `x`; masked elements count as −∞.

    Returns:
        Probabilities, with the shape of `x`.

    Raises:
        TypeError: If `x` is complex.
        ValueError: If `x` is a scalar, which has no axis.

    Example:
        >>> [round(p, 4) for p in softmax(jnp.array([0.0, 1.0, 2.0])).tolist()]
        [0.09, 0.2447, 0.6652]
    """
    x = _scores("softmax", x, axis)
    return jax.nn.softmax(wide(x), axis=axis, where=where).astype(x.dtype)


@partial(jax.jit, static_argnames="axis")
def log_softmax(x: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None) -> jax.Array:
    """The logarithm of the softmax, computed without underflow: f(x)ᵢ = xᵢ − log Σⱼ exp(xⱼ).

    `jax.nn.log_softmax`, summed in at least float32.

    Args:
        x: Scores.
        axis: Axis or axes over which the probabilities sum to 1.
        where: Boolean mask that broadcasts to `x`; masked elements count as −∞.

    Returns:
        Logarithms of probabilities, with the shape of `x`.

    Raises:
        TypeError: If `x` is complex.
        ValueError: If `x` is a scalar, which has no axis.

    Example:
        >>> log_softmax(jnp.array([0.0, -200.0])).tolist()
        [0.0, -200.0]
    """
    x = _scores("log_softmax", x, axis)
    return jax.nn.log_softmax(wide(x), axis=axis, where=where).astype(x.dtype)


@partial(jax.jit, static_argnames="axis")
def softmin(x: ArrayLike, axis: Axis = -1) -> jax.Array:
    """Turn costs into probabilities: f(x)ᵢ = exp(−xᵢ)/Σⱼ exp(−xⱼ), the softmax of −x, as in PyTorch.

    Args:
        x: Costs.
        axis: Axis or axes over which the probabilities sum to 1.

    Returns:
        Probabilities, with the shape of `x`.

    Raises:
        TypeError: If `x` is complex.
        ValueError: If `x` is a scalar, which has no axis.

    Example:
        >>> [round(p, 4) for p in softmin(jnp.array([0.0, 1.0, 2.0])).tolist()]
        [0.6652, 0.2447, 0.09]
    """
    return softmax(-_scores("softmin", x, axis), axis=axis)


@partial(jax.jit, static_argnames="axis")
def sparsemax(x: ArrayLike, axis: int = -1) -> jax.Array:
    """Turn scores into probabilities, many of them exactly 0: f(x)ᵢ = max(0, xᵢ − τ), with τ such that they sum to 1.

    The projection onto the simplex: Martins and Astudillo (2016), Alg. 1. On the support S, where x > τ, the threshold is
    τ = (Σ_S x − 1)/∣S∣, and the derivative is that of x minus its mean over S; elsewhere it is 0. Its loss is
    `losses.sparsemax`.

    Args:
        x: Scores.
        axis: Axis or axes over which the probabilities sum to 1.

    Returns:
        Probabilities, with the shape of `x`.

    Raises:
        TypeError: If `x` is complex.
        ValueError: If `x` is a scalar, which has no axis.

    Example:
        >>> sparsemax(jnp.array([0.0, 1.0, 1.5])).tolist()
        [0.0, 0.25, 0.75]
    """
    x = _scores("sparsemax", x, axis)
    z = wide(x)
    z = z - jax.lax.stop_gradient(jnp.max(z, axis=axis, keepdims=True))  # far from 0, τ would lose its digits
    descending = -jnp.sort(-jax.lax.stop_gradient(z), axis=axis)
    shape = [1] * z.ndim
    shape[axis] = z.shape[axis]
    rank = jnp.arange(1, z.shape[axis] + 1, dtype=z.dtype).reshape(shape)
    thresholds = (jnp.cumsum(descending, axis=axis) - 1) / rank
    support_size = jnp.sum(descending > thresholds, axis=axis, keepdims=True)
    lowest = jnp.take_along_axis(thresholds, jnp.maximum(support_size - 1, 0), axis=axis)
    support = ~(jax.lax.stop_gradient(z) <= lowest)  # includes NaN, which thus propagates to all
    count = jnp.maximum(jnp.sum(support, axis=axis, keepdims=True), 1).astype(z.dtype)
    threshold = (jnp.sum(jnp.where(support, z, 0), axis=axis, keepdims=True) - 1) / count
    return jnp.where(support, z - threshold, 0 * -threshold).astype(x.dtype)  # τ < 0; NaN propagates


@partial(jax.jit, static_argnames="axis")
def glu(x: ArrayLike, axis: int = -1) -> jax.Array:
    """Gate one half of x by the other: f(a, b) = a σ(b) with the halves a and b. Dauphin et al. (2017).

    Args:
        x: An array whose `axis` has an even length.
        axis: Axis that is split in half.

    Returns:
        An array with half the length along `axis`.

    Raises:
        ValueError: If `x` is a scalar, which has no axis.

    Example:
        >>> glu(jnp.array([3.0, 0.0])).tolist()
        [1.5]
    """
    x = floating(x)
    check_axes("glu", x, axis)
    if x.shape[axis] % 2:
        raise ValueError(f"glu: x is {spell(x)}, expected an even size of axis {axis}, which is split in half")
    return jax.nn.glu(wide(x), axis=axis).astype(x.dtype)


@partial(jax.jit, static_argnames=("axis", "keepdims", "return_sign"))
def logsumexp(
    a: ArrayLike,
    axis: Axis | None = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """A smooth maximum, log Σᵢ bᵢ exp(aᵢ), computed without overflow: `jax.nn.logsumexp`.

    Args:
        a: Any array.
        axis: Axis or axes that are summed; None for all.
        b: Factors that broadcast to `a`; None for 1.
        keepdims: Whether to keep the reduced axes with length 1.
        return_sign: Whether to return the sign of the sum too; otherwise the logarithm of a negative sum is NaN.
        where: Boolean mask that broadcasts to `a`; masked elements are left out.

    Returns:
        The logarithm of the sum, and its sign if `return_sign`.

    Example:
        >>> round(logsumexp(jnp.array([1000.0, 1000.0])).item(), 2)
        1000.69
    """
    a = floating(a)
    b = b if b is None else wide(floating(b))
    result = jax.nn.logsumexp(wide(a), axis=axis, b=b, keepdims=keepdims, return_sign=return_sign, where=where)
    return jax.tree.map(lambda part: part.astype(a.dtype), result)


@partial(jax.jit, static_argnames=("axis", "keepdims"))
def logmeanexp(x: ArrayLike, axis: Axis | None = None, where: ArrayLike | None = None, keepdims: bool = False) -> jax.Array:
    """A smooth maximum, log((1/n) Σᵢ exp(xᵢ)), which preserves constants: `jax.nn.logmeanexp`.

    Args:
        x: Any array.
        axis: Axis or axes that are averaged; None for all.
        where: Boolean mask that broadcasts to `x`; masked elements are left out.
        keepdims: Whether to keep the reduced axes with length 1.

    Returns:
        The logarithm of the mean.

    Raises:
        TypeError: If `x` is complex.

    Example:
        >>> logmeanexp(jnp.array([1000.0, 1000.0])).item()
        1000.0
    """
    x = floating(x)
    check_real("logmeanexp", "x", x)
    return jax.nn.logmeanexp(wide(x), axis=axis, where=where, keepdims=keepdims).astype(x.dtype)


@jax.jit
@widened
def log1mexp(x: ArrayLike) -> jax.Array:
    """The logarithm of a complement, f(x) = log(1 − e⁻ˣ) for x > 0, accurate for small and large x. Mächler (2012).

    Args:
        x: Any array of positive numbers, such as −log p.

    Returns:
        log(1 − e⁻ˣ), with the shape of `x`.

    Example:
        >>> round(log1mexp(jnp.log(2.0)).item(), 4)
        -0.6931
    """
    return jax.nn.log1mexp(x)


@option("epsilon", lambda epsilon: epsilon >= 0, "nonnegative number")
@partial(jax.jit, static_argnames="axis")
def standardize(
    x: ArrayLike,
    axis: Axis = -1,
    mean: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    epsilon: ArrayLike = 1e-5,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Shift to mean 0 and scale to variance 1, (x − mean)/√(variance + ε).

    As `jax.nn.standardize`, but with the variance as the mean of (x − mean)², which is accurate far from 0 too.

    Args:
        x: Any array.
        axis: Axis or axes over which mean and variance are computed.
        mean: Mean to subtract; that of `x` by default.
        variance: Variance to divide by; that of `x` by default.
        epsilon: Small constant ε added to the variance.
        where: Boolean mask that broadcasts to `x`; masked elements do not count in mean and variance.

    Returns:
        An array with the shape of `x`.

    Raises:
        TypeError: If `x` is complex.
        ValueError: If ε is not a nonnegative number, or `x` is a scalar.

    Example:
        >>> [round(z, 4) for z in standardize(jnp.array([1.0, 3.0]), epsilon=0.0).tolist()]
        [-1.0, 1.0]
    """
    x = _scores("standardize", x, axis)
    z = wide(x)
    if where is not None:  # a masked infinity or NaN must not reach the gradient either
        z = jnp.where(where | jnp.isfinite(z), z, jnp.zeros((), z.dtype))

    def mean_of(values: jax.Array) -> jax.Array:
        return jnp.mean(values, axis=axis, keepdims=True, where=where)

    rough = mean_of(z)
    own_mean = rough + mean_of(z - rough)  # the mean of equal numbers may be rounded; this one is exact
    center = own_mean if mean is None else jnp.asarray(mean).astype(z.dtype)
    spread = mean_of(jnp.square(z - own_mean)) if variance is None else jnp.asarray(variance).astype(z.dtype)
    return ((z - center) * jax.lax.rsqrt(spread + jnp.asarray(epsilon).astype(z.dtype))).astype(x.dtype)


def _scores(caller: str, x: ArrayLike, axis: Axis) -> jax.Array:
    """Return real scores that have the axis, or raise."""
    x = floating(x)
    check_real(caller, "x", x)
    check_axes(caller, x, axis)
    return x
