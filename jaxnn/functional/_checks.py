"""Checks shared by losses, metrics and initializers; an error states what was passed, what was expected and how to fix it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnn._jax import is_tracer


def spell(x: jax.Array) -> str:
    """Format dtype and shape for error messages: `float32[4, 1]`."""
    return f"{x.dtype}[{', '.join(map(str, x.shape))}]"


def known(x: Any) -> np.ndarray | None:
    """Return the value of `x`, or None if it is not known here: traced, or sharded over several hosts."""
    if is_tracer(x) or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return None
    return np.asarray(x)


def seen(targets: ArrayLike, where: ArrayLike | None) -> np.ndarray:
    """Return the unmasked values of `targets`, or an empty array if they are not known."""
    values = known(targets)
    if values is None:
        return np.empty(0)
    if where is None:
        return values
    mask = known(where)
    return np.empty(0) if mask is None else values[mask]


def check_number(caller: str, name: str, value: Any, allowed: Callable[[Any], bool], expected: str) -> None:
    """Raise an error unless `value` is a finite number that is allowed; the value of a tracer is not checked."""
    number = known(value)
    if number is not None and not np.issubdtype(number.dtype, np.number):
        raise TypeError(f"{caller}: {name} is {value!r}, expected a single {expected}")
    if jnp.ndim(value) or (number is not None and not (allowed(number) and representable(number, allowed))):
        raise ValueError(f"{caller}: {name} is {value}, expected a single {expected}")


def representable(number: np.ndarray, allowed: Callable[[Any], bool]) -> bool:
    """Return whether a number is finite and allowed as the default float, in which it may be rounded to 0, 1 or infinity."""
    if not np.issubdtype(number.dtype, np.number):
        return True
    dtype = jax.dtypes.canonicalize_dtype(float)
    with np.errstate(over="ignore"):
        rounded = np.asarray(number.astype(dtype))
    flushed = np.where(np.abs(rounded) < np.finfo(dtype).tiny, 0, rounded)  # XLA flushes subnormal numbers to 0
    return bool(np.isfinite(rounded)) and bool(allowed(flushed))


def check_real(caller: str, name: str, x: jax.Array) -> None:
    """Raise a TypeError if `x` is complex: its imaginary part would be lost."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(
            f"{caller}: {name} is {spell(x)}, expected real numbers; pass its real and imaginary parts, or its modulus"
        )


def check_predictions(caller: str, predictions: ArrayLike) -> jax.Array:
    """Return `predictions` as an array of real floating-point numbers, or raise a TypeError."""
    array = jnp.asarray(predictions)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{caller}: predictions are {spell(array)}, expected floating-point numbers; "
            "check that predictions come first and targets second, or pass predictions.astype(float)"
        )
    return array


def check_same_shape(caller: str, predictions: jax.Array, targets: jax.Array) -> None:
    """Raise a ValueError if the shapes differ, as nothing is broadcast, or a TypeError if the targets are complex."""
    check_real(caller, "targets", targets)
    if predictions.shape == targets.shape:
        return
    axes = ":" if 1 in (predictions.ndim, targets.ndim) else "..."
    hint = "nothing is broadcast, so make them equal first"
    if predictions.shape == (*targets.shape, 1):
        hint = f"pass predictions[{axes}, 0] or targets[{axes}, None]"
    elif targets.shape == (*predictions.shape, 1):
        hint = f"pass targets[{axes}, 0] or predictions[{axes}, None]"
    raise ValueError(f"{caller}: predictions {spell(predictions)} and targets {spell(targets)} differ in shape; {hint}")


def check_class_axis(caller: str, predictions: jax.Array) -> None:
    """Raise a ValueError if `predictions` have no last axis of classes, or an empty one."""
    if predictions.ndim == 0 or predictions.shape[-1] == 0:
        raise ValueError(f"{caller}: predictions {spell(predictions)} have no classes, expected shape (..., classes)")


def check_labels(caller: str, predictions: jax.Array, targets: ArrayLike) -> jax.Array:
    """Return class labels for `predictions` (…, C) as an integer array (…,), or raise; their values are not checked."""
    labels, expected = jnp.asarray(targets), predictions.shape[:-1]
    one_hot = labels.shape == predictions.shape
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        hint = "targets.argmax(-1)" if one_hot else "targets.astype(int)"
        raise TypeError(f"{caller}: targets are {spell(labels)}, expected integer class labels; pass {hint}")
    if labels.shape != expected:
        hint = "; if they are one-hot, pass targets.argmax(-1)" if one_hot else ""
        if labels.shape == (*expected, 1):
            hint = f"; pass targets[{':' if len(expected) == 1 else '...'}, 0]"
        raise ValueError(
            f"{caller}: targets are {spell(labels)}, but predictions {spell(predictions)} require integer labels of "
            f"shape {expected}{hint}"
        )
    return labels


def check_label_range(caller: str, predictions: jax.Array, targets: ArrayLike, where: ArrayLike | None) -> None:
    """Raise a ValueError if a label whose value is known is not one of the classes of `predictions` (…, C)."""
    labels, classes = seen(targets, where), predictions.shape[-1]
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        hint = "; labels count from 0: pass targets - 1" if labels.min() > 0 and labels.max() == classes else ""
        raise ValueError(
            f"{caller}: labels run from {labels.min()} to {labels.max()}, but predictions {spell(predictions)} have "
            f"{classes} classes, 0 to {classes - 1}{hint}"
        )


def check_mask(caller: str, where: ArrayLike | None, shape: tuple[int, ...]) -> None:
    """Raise unless the mask is a boolean array of exactly `shape`."""
    if where is None:
        return
    mask = jnp.asarray(where)
    if mask.dtype != bool:
        raise TypeError(f"{caller}: where is {spell(mask)}, expected booleans; pass where != 0")
    if mask.shape != shape:
        missing = len(shape) - mask.ndim
        hint = ""
        if missing > 0 and mask.shape == shape[: mask.ndim]:
            hint = f"; pass jnp.broadcast_to(where[...{', None' * missing}], {shape})"
        raise ValueError(f"{caller}: where is {spell(mask)}, expected the shape of the unreduced loss, {shape}{hint}")


def check_weights(caller: str, weights: ArrayLike | None, where: ArrayLike | None, shape: tuple[int, ...]) -> None:
    """Raise unless the weights are nonnegative real numbers of exactly `shape`; masked weights may have any value."""
    if weights is None:
        return
    array = jnp.asarray(weights)
    if not jnp.issubdtype(array.dtype, jnp.integer) and not jnp.issubdtype(array.dtype, jnp.floating):
        hint = "; pass a mask as where=" if array.dtype == bool else ""
        raise TypeError(f"{caller}: weights are {spell(array)}, expected real numbers{hint}")
    if array.shape != shape:
        missing = len(shape) - array.ndim
        hint = ""
        if missing > 0 and array.shape == shape[: array.ndim]:
            hint = f"; pass jnp.broadcast_to(weights[...{', None' * missing}], {shape})"
        raise ValueError(f"{caller}: weights are {spell(array)}, expected the shape of the unreduced loss, {shape}{hint}")
    values = seen(weights, where)
    if values.size and not (values >= 0).all():
        raise ValueError(f"{caller}: weights run from {values.min()} to {values.max()}, expected nonnegative numbers")
