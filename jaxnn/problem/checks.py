"""Data checked before a run: a mistake found here has cost nothing yet."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.layer import Layer
from jaxnn.core.trees import abstract


def checked_data(data: Any, what: str = "data") -> tuple:
    """`(x, y)` or `(x, y, weights)` as arrays on the device, of one length, finite and not empty.

    Raises:
        TypeError: if it is no such tuple, or holds something that is no number.
        ValueError: on lengths that differ, no samples, NaN or infinite values, numbers that 32 bits cannot hold, or weights
            that are not one number a sample, at least 0.
    """
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise TypeError(f"{what} is a pair (x, y), or (x, y, weights); got {type(data).__name__}")
    names = ("x", "y", "weights")
    parts = tuple(checked_inputs(part, f"{name} of the {what}") for part, name in zip(data, names, strict=False))
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(parts)}
    if len(lengths) > 1:
        shapes = [f"{name} {_lengths(part)}" for name, part in zip(names, parts, strict=False)]
        raise ValueError(
            f"x and y of the {what} have one entry a sample each, got {', '.join(shapes)}: "
            "one of them was cut, or is transposed"
        )
    if len(parts) == 3:
        _check_weights(parts[2], what)
    return parts


def _check_weights(weights: Any, what: str) -> None:
    if not isinstance(weights, jax.Array) or weights.ndim != 1:
        raise ValueError(f"weights of the {what} are one number a sample, of shape (N,); got {_lengths(weights)}")
    if bool((weights < 0).any()):
        raise ValueError(f"weights of the {what} are at least 0, got {weights.min()} at index {int(weights.argmin())}")


def checked_inputs(x: Any, what: str) -> Any:
    """The tree's leaves as arrays on the device, of one length, finite and not empty."""
    x = jax.tree.map(lambda leaf: _on_device(leaf, what), x, is_leaf=lambda leaf: isinstance(leaf, list))
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise ValueError(f"{what} holds no array")
    for leaf in leaves:
        if leaf.ndim == 0:
            raise ValueError(f"{what} has a leading axis of samples, got a single number")
        if leaf.shape[0] == 0:
            raise ValueError(f"{what} has no samples: its shape is {list(leaf.shape)}")
    if len({leaf.shape[0] for leaf in leaves}) > 1:
        raise ValueError(f"the parts of {what} have one entry a sample each, got {_lengths(x)}")
    return x


def checked_labels(model: Layer, data: tuple, params: Any, state: Any) -> None:
    """Integer labels name one of the model's outputs.

    Raises:
        ValueError: if a label is negative or beyond the last class.
    """
    x, y, *_ = data
    if not isinstance(y, jax.Array) or not jnp.issubdtype(y.dtype, jnp.integer):
        return
    output = jax.eval_shape(lambda p, s, x: model.apply(p, s, x)[0], *map(abstract, (params, state, x)))
    if not hasattr(output, "shape") or output.shape[:-1] != y.shape or output.shape[-1] == 1:
        return  # not one label for each vector of outputs: the loss has its own say
    labels = np.asarray(y) if y.is_fully_addressable else y  # NumPy has nothing to compile
    low, high, classes = int(labels.min()), int(labels.max()), output.shape[-1]
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels are classes from 0 to {classes - 1}, one for each of the model's {classes} outputs; "
            f"y has labels from {low} to {high}: renumber them, or give the last layer {high + 1} features"
        )


def _on_device(leaf: Any, what: str) -> jax.Array:
    if isinstance(leaf, list):  # Python's own numbers have no dtype to lose
        leaf = np.asarray(leaf)
        leaf = leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype)) if leaf.dtype == np.float64 else leaf
    if not isinstance(leaf, jax.Array):
        leaf = _without_loss(np.asarray(leaf), what)
    if jnp.issubdtype(leaf.dtype, jnp.inexact) and not _all_finite(leaf):
        bad = np.flatnonzero(~np.isfinite(np.asarray(leaf)).reshape(leaf.shape[0] if leaf.ndim else 1, -1).all(axis=1))
        raise ValueError(
            f"{what} has NaN or infinite values, in {len(bad)} of {len(leaf)} samples, the first at index {bad[0]}: "
            "drop these samples or fill the values in"
        )
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf, leaf.dtype)  # with its dtype nothing is compiled


def _all_finite(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array) and leaf.is_fully_addressable and {d.platform for d in leaf.devices()} == {"cpu"}:
        leaf = np.asarray(leaf)  # a view, unless it lies on several devices; and NumPy has nothing to compile
    module = np if isinstance(leaf, np.ndarray) else jnp
    with np.errstate(all="ignore"):
        # A finite sum has finite terms and is five times faster; one that is not may have overflown.
        return bool(module.isfinite(leaf.sum())) or bool(module.isfinite(leaf).all())


def as_host_array(leaf: Any, what: str) -> np.ndarray:
    """A batch's leaf, of whatever kind, in a dtype that JAX has; its values are not looked at."""
    return _without_loss(np.asarray(leaf), what)


def _without_loss(array: np.ndarray, what: str) -> np.ndarray:
    """The array in a dtype that JAX has under its present settings, or an error if that would change its values."""
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool or jnp.issubdtype(array.dtype, jnp.floating)):
        raise TypeError(f"{what} holds numbers, got dtype {array.dtype}: encode strings and objects as numbers first")
    narrow = jax.dtypes.canonicalize_dtype(array.dtype)
    if narrow == array.dtype:
        return array
    if np.issubdtype(array.dtype, np.integer):
        if array.size and (array.min() < np.iinfo(narrow).min or array.max() > np.iinfo(narrow).max):
            raise ValueError(
                f"{what} is {array.dtype} with values that {narrow} cannot hold, and JAX has 64-bit numbers off: "
                'jax.config.update("jax_enable_x64", True)'
            )
        return array.astype(narrow)
    raise ValueError(
        f"{what} is {array.dtype} and JAX has 64-bit numbers off, so it would be rounded to {narrow}: say so with "
        f'.astype("{narrow}"), or keep it with jax.config.update("jax_enable_x64", True)'
    )


def _lengths(tree: Any) -> str:
    return ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(tree))
