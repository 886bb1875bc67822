"""Checks of options and keys that layers and training share."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Sequence
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


def function(caller: str, option: str, value: Any, signature: str) -> Any:
    """Return a function.

    Args:
        caller: The name of the layer or function that takes it, for the error message.
        option: The name of the option, for the error message.
        value: The function.
        signature: How it is called, for the error message, such as `"(key, shape, dtype)"`.

    Returns:
        `value` itself.

    Raises:
        TypeError: If `value` is not callable.
    """
    if not callable(value):
        raise TypeError(f"{caller} takes {option} as a function {signature}, got {value!r}")
    return value


def called(function: Callable, signature: str, *arguments: Any, **named: Any) -> Any:
    """Call a function of the user; an error says how it is called if its parameters are others.

    Args:
        function: The function.
        signature: Its name and how it is called, for the error message, such as `"init(key, x) -> params"`.
        *arguments: What it is given by position.
        **named: What it is given by name.

    Returns:
        What the function returns.

    Raises:
        TypeError: If its parameters do not take these arguments.
    """
    try:
        return function(*arguments, **named)
    except TypeError as error:
        try:
            inspect.signature(function).bind(*arguments, **named)
        except ValueError:  # it has no signature
            pass
        except TypeError as mismatch:
            raise TypeError(f"define it as {signature}: it was called so, and {mismatch}") from error
        raise


def number(layer: str, option: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Any:
    """Return a finite number in [low, high]; a traced number is returned unchecked.

    Args:
        layer: The name of the layer or function, for the error message.
        option: The name of the option, for the error message.
        value: The number.
        low: The smallest value that is allowed.
        high: The largest value that is allowed.
        above: Whether the value must be greater than `low`.

    Returns:
        `value` itself.

    Raises:
        TypeError: If `value` is not a real number.
        ValueError: If it is not finite, or lies outside of the range.
    """
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{layer} takes {option} as a number, got {value!r}")
    if not (math.isfinite(value) and low <= value <= high and not (above and value == low)):
        bounds = [f"{'above' if above else 'of at least'} {low:g}"] if math.isfinite(low) else []
        bounds += [f"of at most {high:g}"] if math.isfinite(high) else []
        raise ValueError(f"{layer} takes a finite {option} {' and '.join(bounds)}".rstrip() + f", got {value}")
    return value


def fraction(layer: str, option: str, value: Any) -> Any:
    """Return a number in [0, 1); a traced number is returned unchecked.

    Args:
        layer: The name of the layer or function, for the error message.
        option: The name of the option, for the error message.
        value: The number.

    Returns:
        `value` itself.

    Raises:
        TypeError: If `value` is not a number.
        ValueError: If it lies outside [0, 1).
    """
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{layer} takes {option} as a number in [0, 1), got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{layer} takes {option} in [0, 1), got {value}")
    return value


def axes_of(layer: str, option: str, axis: Any) -> tuple[int, ...]:
    """Return one axis or several as a tuple of ints.

    Raises:
        TypeError: If one of them is not a whole number.
    """
    axes = axis if isinstance(axis, (Sequence, range)) and not isinstance(axis, str) else (axis,)
    return tuple(whole(layer, option, a, minimum=-sys.maxsize) for a in axes)


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
