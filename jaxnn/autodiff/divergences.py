"""Traces of the Jacobian of a vector field, as equations of physics and continuous flows have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.autodiff.estimates import Estimate, estimate_of
from jaxnn.core.checks import check_key, function, whole
from jaxnn.core.text import array_text


def divergence(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """The divergence of a vector field at one point, ∇·f(x) = Σᵢ ∂fᵢ/∂xᵢ, the trace of its Jacobian, by forward mode.

    Only one entry of each of the n derivatives is kept, so that no Jacobian is stored (Baydin et al. 2018, arXiv:1502.05767).

    Args:
        f: `f(x) -> y`, with y of x's shape; `jax.vmap` maps over points.
        x: The point, an array of any shape.

    Returns:
        A scalar.

    Raises:
        TypeError: If `f` is not a function, or x is not an array of real numbers.
        ValueError: If y has another shape than x.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.divergence(lambda x: x**2, jnp.array([1.0, 2.0])).item()
        6.0
    """
    slope, x = _slope("divergence", f, x)

    def one(i: jax.Array) -> jax.Array:
        unit = jnp.zeros(x.size, x.dtype).at[i].set(1).reshape(x.shape)
        return slope(unit).reshape(-1)[i]

    return jax.vmap(one)(jnp.arange(x.size)).sum()


def jacobian_trace(f: Callable[[jax.Array], jax.Array], x: jax.Array, key: jax.Array, *, samples: int = 1) -> Estimate:
    """An estimate of the trace of the Jacobian at one point, tr ∂f/∂x = E vᵀ (∂f/∂x) v over vectors of random signs.

    It takes one derivative per sample, whatever the size of x (Hutchinson 1990; for densities of continuous flows, Grathwohl
    et al. 2019, arXiv:1810.01367).

    Args:
        f: `f(x) -> y`, with y of x's shape; `jax.vmap` maps over points.
        x: The point, an array of any shape.
        key: A random key.
        samples: The number of random vectors.

    Returns:
        An `Estimate`: the trace, and its standard error, NaN for one sample.

    Raises:
        TypeError: If `f` is not a function, x is not an array of real numbers, or `samples` not a whole number.
        ValueError: If y has another shape than x, or `samples` is less than 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.jacobian_trace(lambda x: x**2, jnp.array([1.0, 2.0]), jax.random.key(0)).value.item()
        6.0
    """
    slope, x = _slope("jacobian_trace", f, x)

    def one(key: jax.Array) -> jax.Array:
        v = jax.random.rademacher(key, x.shape, x.dtype)
        return jnp.sum(v * slope(v))

    return estimate_of(jax.vmap(one)(jax.random.split(check_key(key), whole("jacobian_trace", "samples", samples))))


def _point(caller: str, f: Any, x: Any) -> jax.Array:
    function(caller, "f", f, "f(x) -> y")
    if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)):
        raise TypeError(f"{caller} takes x as an array of real numbers, got {array_text(x)}")
    return jnp.asarray(x)


def _slope(caller: str, f: Any, x: Any) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    x = _point(caller, f, x)
    y, slope = jax.linearize(f, x)
    if jnp.shape(y) != x.shape:
        raise ValueError(f"{caller} takes f(x) -> y of x's shape {list(x.shape)}, and f returned {array_text(y)}")
    return slope, x
