"""Dtype conversion shared by the activations."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def floating(x: ArrayLike) -> jax.Array:
    """Return `x` unchanged if it is inexact, else converted to the default float."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)
