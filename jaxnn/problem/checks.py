"""Checks of data before a run, so that invalid data is reported before anything is compiled or trained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _jax
from jaxnn.core.layer import Layer
from jaxnn.core.trees import abstract


def checked_data(data: Any, what: str = "data") -> tuple:
    """Move `(x, y)` or `(x, y, weights)` to the device, and check that the arrays are finite, of one length and not empty.

    Raises:
        TypeError: If the data is not such a tuple, or has entries that are not numbers.
        ValueError: If lengths differ, there are no samples, values are NaN or infinite, numbers do not fit into 32 bits, or
            the weights are not one number per sample, at least 0.
    """
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise TypeError(f"{what} is expected as a pair (x, y) or as (x, y, weights), got {type(data).__name__}")
    names = ("x", "y", "weights")
    parts = tuple(checked_inputs(part, f"{name} of the {what}") for part, name in zip(data, names, strict=False))
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(parts)}
    if len(lengths) > 1:
        shapes = [f"{name} {_shapes(part)}" for name, part in zip(names, parts, strict=False)]
        raise ValueError(
            f"x and y of the {what} need one entry per sample each, got {', '.join(shapes)}: "
            "check whether one of them was truncated or is transposed"
        )
    if len(parts) == 3:
        _check_weights(parts[2], what)
    return parts


def _check_weights(weights: Any, what: str) -> None:
    if not isinstance(weights, jax.Array) or weights.ndim != 1:
        raise ValueError(f"weights of the {what} need one number per sample, shape (N,), got {_shapes(weights)}")
    if bool((weights < 0).any()):
        raise ValueError(f"weights of the {what} must be at least 0, got {weights.min()} at index {int(weights.argmin())}")


def checked_inputs(x: Any, what: str) -> Any:
    """Move the leaves of a pytree to the device, and check that they are finite, of one length and not empty."""
    x = jax.tree.map(lambda leaf: _on_device(leaf, what), x, is_leaf=lambda leaf: isinstance(leaf, list))
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise ValueError(f"{what} contains no array")
    for leaf in leaves:
        if leaf.ndim == 0:
            raise ValueError(f"{what} needs a leading axis of samples, got a single number")
        if leaf.shape[0] == 0:
            raise ValueError(f"{what} has no samples: its shape is {list(leaf.shape)}")
    if len({leaf.shape[0] for leaf in leaves}) > 1:
        raise ValueError(f"the arrays of {what} need one entry per sample each, got shapes {_shapes(x)}")
    return x


def checked_labels(model: Layer, data: tuple, params: Any, state: Any) -> None:
    """Check that integer labels are indices of the model's outputs.

    Raises:
        ValueError: If a label is negative or greater than the last class.
    """
    x, y, *_ = data
    if not isinstance(y, jax.Array) or not jnp.issubdtype(y.dtype, jnp.integer):
        return
    output = jax.eval_shape(lambda p, s, x: model.apply(p, s, x)[0], *map(abstract, (params, state, x)))
    if not hasattr(output, "shape") or output.shape[:-1] != y.shape or output.shape[-1] == 1:
        return  # not one label per vector of outputs, so only the loss knows what the integers mean
    labels = np.asarray(y) if y.is_fully_addressable else y  # NumPy compiles nothing
    low, high, classes = int(labels.min()), int(labels.max()), output.shape[-1]
    if low < 0 or high >= classes:
        raise ValueError(
            f"the model has {classes} outputs, so labels are expected from 0 to {classes - 1}; y has labels from {low} to "
            f"{high}: renumber them, or give the last layer {high + 1} features"
        )


def _on_device(leaf: Any, what: str) -> jax.Array:
    if isinstance(leaf, list):  # a list of Python numbers has no dtype to preserve
        leaf = np.asarray(leaf)
        leaf = leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype)) if leaf.dtype == np.float64 else leaf
    if not isinstance(leaf, jax.Array):
        leaf = _without_loss(np.asarray(leaf), what)
    if jnp.issubdtype(leaf.dtype, jnp.inexact) and not _all_finite(leaf):
        bad = np.flatnonzero(~np.isfinite(np.asarray(leaf)).reshape(leaf.shape[0] if leaf.ndim else 1, -1).all(axis=1))
        raise ValueError(
            f"{what} has NaN or infinite values in {len(bad)} of {len(leaf)} samples, first at index {bad[0]}: "
            "drop these samples or replace the values"
        )
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf, leaf.dtype)  # given the dtype, nothing is compiled


def _all_finite(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array) and leaf.is_fully_addressable and _jax.platforms_of(leaf) == {"cpu"}:
        leaf = np.asarray(leaf)  # a view if it is on one device; NumPy compiles nothing
    module = np if isinstance(leaf, np.ndarray) else jnp
    with np.errstate(all="ignore"):
        # A finite sum has finite terms and is five times faster to check; a non-finite sum may have overflowed.
        return bool(module.isfinite(leaf.sum())) or bool(module.isfinite(leaf).all())


def as_host_array(leaf: Any, what: str) -> np.ndarray:
    """Convert a leaf of a batch to a NumPy array with a dtype that JAX supports, without a check for non-finite values."""
    return _without_loss(np.asarray(leaf), what)


def _without_loss(array: np.ndarray, what: str) -> np.ndarray:
    """Convert an array to a dtype that JAX supports under its present settings; raise an error if that changes its values."""
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool or jnp.issubdtype(array.dtype, jnp.floating)):
        raise TypeError(f"{what} needs numbers, got dtype {array.dtype}: encode strings and objects as numbers first")
    narrow = jax.dtypes.canonicalize_dtype(array.dtype)
    if narrow == array.dtype:
        return array
    if np.issubdtype(array.dtype, np.integer):
        if array.size and (array.min() < np.iinfo(narrow).min or array.max() > np.iinfo(narrow).max):
            raise ValueError(
                f"{what} is {array.dtype} with values that {narrow} cannot represent, and 64-bit numbers are disabled in JAX: "
                'enable them with jax.config.update("jax_enable_x64", True)'
            )
        return array.astype(narrow)
    raise ValueError(
        f"{what} is {array.dtype}, and 64-bit numbers are disabled in JAX, so it would be rounded to {narrow}: round it "
        f'with .astype("{narrow}"), or enable 64-bit numbers with jax.config.update("jax_enable_x64", True)'
    )


def _shapes(tree: Any) -> str:
    return ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(tree))
