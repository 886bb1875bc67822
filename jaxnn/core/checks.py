"""Checks of options and keys that layers and training share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.text import array_text


def whole(layer: str, option: str, value: Any, minimum: int = 1) -> int:
    """Return a whole number as an int.

    Args:
        layer: The name of the layer or function, for the error message.
        option: The name of the option, for the error message.
        value: The number.
        minimum: The smallest value that is allowed.

    Returns:
        `value` as a Python int.

    Raises:
        TypeError: If `value` is not a whole number.
        ValueError: If it is below `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{layer} takes {option} as a whole number, got {value!r}")
    if value < minimum:
        raise ValueError(f"{layer} takes {option} of at least {minimum}, got {value}")
    return int(value)


def fraction(layer: str, option: str, value: Any) -> Any:
    """Return a number in [0, 1); a traced number is returned unchecked.

    Args:
        layer: The name of the layer or function, for the error message.
        option: The name of the option, for the error message.
        value: The number.

    Returns:
        `value` itself.

    Raises:
        ValueError: If `value` lies outside [0, 1).
    """
    if not isinstance(value, jax.Array) and not 0 <= value < 1:
        raise ValueError(f"{layer} takes {option} in [0, 1), got {value}")
    return value


def check_key(key: Any) -> jax.Array:
    """Return one typed random key; an old `uint32[2]` key is converted.

    Args:
        key: The key.

    Returns:
        A typed key of shape ().

    Raises:
        TypeError: If `key` is not a random key.
        ValueError: If it is an array of several keys.
    """
    if isinstance(key, (jax.Array, np.ndarray)):
        if key.dtype == jnp.uint32:
            key = jax.random.wrap_key_data(jnp.asarray(key))
        if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
            if key.shape:
                raise ValueError(
                    f"expected one random key, got an array of keys of shape {key.shape}; to initialize many networks at "
                    "once, use jax.vmap(model.init, (0, None))(keys, x)"
                )
            return key
    raise TypeError(f"expected a random key, such as jax.random.key(0), got {array_text(key)}")


def require_key(key: jax.Array | None) -> jax.Array:
    """Return the key that a layer draws from in training.

    Args:
        key: The key, or None.

    Returns:
        `key` itself.

    Raises:
        ValueError: If `key` is None. The layer's path is added by `explained`.
    """
    if key is None:
        raise ValueError(
            "this layer draws random numbers in training and got no key: pass one, as in "
            "model.apply(params, state, x, key=jax.random.key(0), training=True)"
        )
    return key
