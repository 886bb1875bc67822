"""Explicit dtypes: the common dtype of arrays, the dtype of sums, casts of whole trees."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@lru_cache
def _common(*dtypes: np.dtype) -> np.dtype:
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)] or [np.dtype(np.float32)]
    with jax.numpy_dtype_promotion("standard"):
        return np.dtype(jnp.result_type(*floating))


def promote(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays in their common floating dtype; integers and booleans are cast to that of the others, or to float32.

    Example:
        >>> import jax.numpy as jnp
        >>> x, kernel = promote(jnp.ones(2, jnp.uint8), jnp.ones(2, jnp.bfloat16))
        >>> x.dtype, kernel.dtype
        (dtype(bfloat16), dtype(bfloat16))
    """
    dtype = _common(*(np.dtype(a.dtype) for a in arrays))
    return tuple(jnp.asarray(a, dtype) for a in arrays)


def at_least_float32(x: jax.Array, *, linear: bool = False) -> jax.Array:
    """`x` in the dtype in which sums are accumulated: float64 if `x` has it, else float32.

    Args:
        x: An array.
        linear: Whether the caller computes a linear function, which means the same for complex numbers.

    Returns:
        The array; a complex one is returned unchanged.

    Raises:
        TypeError: If `x` is complex, unless `linear`: a cast would drop the imaginary part.
    """
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        if not linear:
            raise TypeError(f"expected real numbers, got {x.dtype}: pass real and imaginary parts as features of their own")
        return x
    return x if x.dtype in (jnp.float32, jnp.float64) else x.astype(jnp.float32)


def as_index(x: jax.Array) -> jax.Array:
    """Integers in a dtype that holds every index: a narrow one, such as int8, would wrap around."""
    return x if x.dtype.itemsize >= 4 else x.astype(jnp.int32)


def cast_floating(tree: Any, dtype: Any) -> Any:
    """The tree with its floating leaves in `dtype`; labels, masks and keys are unchanged."""

    def cast(leaf):
        return jnp.asarray(leaf, dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)
