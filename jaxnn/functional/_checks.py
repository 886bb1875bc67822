"""The checks that losses, metrics and initializers share: each error says what came, what was expected and how to mend it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnn._jax import is_tracer


def spell(x: jax.Array) -> str:
    """Write dtype and shape as errors do: `float32[4, 1]`."""
    return f"{x.dtype}[{', '.join(map(str, x.shape))}]"


def known(x: Any) -> np.ndarray | None:
    """Return the value of `x`, or None where it cannot be looked at: traced, or spread over several hosts."""
    if is_tracer(x) or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return None
    return np.asarray(x)


def seen(targets: ArrayLike, where: ArrayLike | None) -> np.ndarray:
    """Return the values of `targets` that `where` leaves in: none of them where they cannot be looked at."""
    values = known(targets)
    if values is None:
        return np.empty(0)
    if where is None:
        return values
    mask = known(where)
    return np.empty(0) if mask is None else values[mask]


def check_number(caller: str, name: str, value: Any, allowed: Callable[[Any], bool], expected: str) -> None:
    """Raise a ValueError unless `value` is one number that is allowed; a traced one is not looked at."""
    number = known(value)
    if jnp.ndim(value) or (number is not None and not allowed(number)):
        raise ValueError(f"{caller}: {name} is {value}, expected one {expected}")


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
    """Raise a ValueError where the shapes differ: nothing is broadcast."""
    if predictions.shape == targets.shape:
        return
    axes = ":" if 1 in (predictions.ndim, targets.ndim) else "..."
    mend = "nothing is broadcast, so make them equal first"
    if predictions.shape == (*targets.shape, 1):
        mend = f"pass predictions[{axes}, 0] or targets[{axes}, None]"
    elif targets.shape == (*predictions.shape, 1):
        mend = f"pass targets[{axes}, 0] or predictions[{axes}, None]"
    raise ValueError(f"{caller}: predictions {spell(predictions)} and targets {spell(targets)} differ in shape; {mend}")


def check_class_axis(caller: str, predictions: jax.Array) -> None:
    """Raise a ValueError where `predictions` have no last axis of classes, or an empty one."""
    if predictions.ndim == 0 or predictions.shape[-1] == 0:
        raise ValueError(f"{caller}: predictions {spell(predictions)} have no classes, expected shape (..., classes)")


def check_labels(caller: str, predictions: jax.Array, targets: ArrayLike) -> jax.Array:
    """Return class labels for `predictions` (…, C) as an integer array (…,), or raise; not looking at their values."""
    labels, expected = jnp.asarray(targets), predictions.shape[:-1]
    one_hot = labels.shape == predictions.shape
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        mend = "targets.argmax(-1)" if one_hot else "targets.astype(int)"
        raise TypeError(f"{caller}: targets are {spell(labels)}, expected integer class labels; pass {mend}")
    if labels.shape != expected:
        mend = "; if they are one-hot, pass targets.argmax(-1)" if one_hot else ""
        if labels.shape == (*expected, 1):
            mend = f"; pass targets[{':' if len(expected) == 1 else '...'}, 0]"
        raise ValueError(
            f"{caller}: targets are {spell(labels)}, but predictions {spell(predictions)} call for integer labels of "
            f"shape {expected}{mend}"
        )
    return labels


def check_label_range(caller: str, predictions: jax.Array, targets: ArrayLike, where: ArrayLike | None) -> None:
    """Raise a ValueError where a label that can be looked at is not one of the classes of `predictions` (…, C)."""
    labels, classes = seen(targets, where), predictions.shape[-1]
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        mend = "; labels count from 0: pass targets - 1" if labels.min() > 0 and labels.max() == classes else ""
        raise ValueError(
            f"{caller}: labels run from {labels.min()} to {labels.max()}, but predictions {spell(predictions)} have "
            f"{classes} classes, 0 to {classes - 1}{mend}"
        )


def check_mask(caller: str, where: ArrayLike | None, shape: tuple[int, ...]) -> None:
    """Raise where the mask is not a boolean array of exactly `shape`."""
    if where is None:
        return
    mask = jnp.asarray(where)
    if mask.dtype != bool:
        raise TypeError(f"{caller}: where is {spell(mask)}, expected booleans; pass where != 0")
    if mask.shape != shape:
        missing = len(shape) - mask.ndim
        mend = ""
        if missing > 0 and mask.shape == shape[: mask.ndim]:
            mend = f"; pass jnp.broadcast_to(where[...{', None' * missing}], {shape})"
        raise ValueError(f"{caller}: where is {spell(mask)}, expected the shape of the unreduced loss, {shape}{mend}")


def check_weights(caller: str, weights: ArrayLike | None, where: ArrayLike | None, shape: tuple[int, ...]) -> None:
    """Raise where the weights are not real numbers from 0, of exactly `shape`; what `where` leaves out may be anything."""
    if weights is None:
        return
    array = jnp.asarray(weights)
    if not jnp.issubdtype(array.dtype, jnp.integer) and not jnp.issubdtype(array.dtype, jnp.floating):
        mend = "; pass a mask as where=" if array.dtype == bool else ""
        raise TypeError(f"{caller}: weights are {spell(array)}, expected real numbers{mend}")
    if array.shape != shape:
        missing = len(shape) - array.ndim
        mend = ""
        if missing > 0 and array.shape == shape[: array.ndim]:
            mend = f"; pass jnp.broadcast_to(weights[...{', None' * missing}], {shape})"
        raise ValueError(f"{caller}: weights are {spell(array)}, expected the shape of the unreduced loss, {shape}{mend}")
    values = seen(weights, where)
    if values.size and not (values >= 0).all():
        raise ValueError(f"{caller}: weights run from {values.min()} to {values.max()}, expected numbers from 0")
