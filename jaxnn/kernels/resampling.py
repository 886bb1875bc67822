"""Weighted means of neighboring elements along an axis: resizing, and pooling to a given size."""

import jax
import jax.numpy as jnp
import numpy as np


def resample(x: jax.Array, weights: np.ndarray, axis: int) -> jax.Array:
    """Compute y[i] = Σ_j w[i, j] x[j] along an axis from the elements with w[i, j] ≠ 0 alone.

    As a product with the matrix w, an infinity or a NaN would reach every output, multiplied by 0. The derivative does not
    depend on x and is that product, since its transpose is much faster than that of a gather.

    Args:
        x: The input, real or complex floating-point.
        weights: w, (outputs, inputs); the nonzero weights of an output are neighbors.
        axis: The axis of x, counted from its first.

    Returns:
        x with the outputs along the axis.

    Example:
        >>> means = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
        >>> resample(jnp.array([1.0, 3.0, jnp.inf]), means, 0).tolist()
        [2.0, inf]
    """
    first = (weights != 0).argmax(1)
    taps = max((weights.shape[1] - (weights != 0)[:, ::-1].argmax(1) - first).max(), 1)
    positions = np.minimum(first[:, None] + np.arange(taps), weights.shape[1] - 1)
    inside = first[:, None] + np.arange(taps) < weights.shape[1]
    dtype, real = x.dtype, jnp.finfo(x.dtype).dtype
    of_taps = np.where(inside, np.take_along_axis(weights, positions, 1), 0)
    of_taps = np.expand_dims(of_taps, (*range(axis), *range(axis + 2, x.ndim + 1)))

    @jax.custom_jvp
    def weighted(x):
        elements = jnp.take(x, positions, axis)  # (..., outputs, taps, ...)
        products = elements * jnp.asarray(of_taps, real).astype(x.dtype)
        return jnp.where(of_taps == 0, jnp.zeros((), x.dtype), products).sum(axis + 1)

    @weighted.defjvp
    def product(primals, tangents):
        matrix = jnp.asarray(weights, real).astype(dtype)
        change = jnp.tensordot(tangents[0], matrix, (axis, 1), precision="highest")
        return weighted(*primals), jnp.moveaxis(change, -1, axis)

    return weighted(x)
