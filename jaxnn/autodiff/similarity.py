"""How similar two representations of the same examples are."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnn.core.dtypes import at_least_float32 as wide
from jaxnn.core.text import array_text


def cka(x: jax.Array, y: jax.Array) -> jax.Array:
    """Linear centered kernel alignment, ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), with the mean over examples taken from X and Y.

    It is between 0 and 1, and 1 for representations that differ by a rotation, a shift and a scale (Kornblith et al. 2019,
    arXiv:1905.00414). With fewer examples than features, it is large for unrelated representations, too.

    Args:
        x: Features, such as the output of a layer, (examples, ...).
        y: Other features of the same examples, (examples, ...).

    Returns:
        A scalar, in at least float32; NaN if the features do not vary.

    Raises:
        TypeError: If the features are not arrays of real numbers.
        ValueError: If the examples differ in number, or are fewer than 2.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
        >>> nn.autodiff.cka(x, 5 * x[:, ::-1] + 1).round(4).item()
        1.0
    """
    for a in (x, y):
        if not (hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.floating)):
            raise TypeError(f"cka takes features as arrays of real numbers, got {array_text(a)}")
    if not (x.ndim and y.ndim and x.shape[0] == y.shape[0] >= 2):
        raise ValueError(f"cka takes features of the same examples, at least 2, got {array_text(x)} and {array_text(y)}")
    n = x.shape[0]
    x, y = (wide(jnp.asarray(a)).reshape(n, -1) for a in (x, y))
    dtype = jnp.promote_types(x.dtype, y.dtype)
    x, y = ((a - a.mean(0, keepdims=True)).astype(dtype) for a in (x, y))
    x, y = (a / jnp.max(jnp.abs(a)) for a in (x, y))  # their squares stay in the range
    x, y = (a / jnp.linalg.norm(a) for a in (x, y))
    if x.shape[1] * y.shape[1] > n * n:
        x, y = x @ x.T, y @ y.T
        return jnp.sum(x * y) / (jnp.linalg.norm(x) * jnp.linalg.norm(y))
    return jnp.sum((x.T @ y) ** 2) / (jnp.linalg.norm(x.T @ x) * jnp.linalg.norm(y.T @ y))
