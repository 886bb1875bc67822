"""Checks of data before a run, so that invalid data is reported before anything is compiled or trained.

The checks are the same for arrays, memory maps and batches. Arrays are checked as a whole before the run. Of a memory map or
a stream, each batch is checked when it is read; only whether its values are finite is not, since that decides on the step in
which they are used (`on_nonfinite` of `fit`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _jax
from jaxnn.core.arrays import as_arrays
from jaxnn.core.layer import Layer
from jaxnn.core.text import listed
from jaxnn.problem.labels import Labels, loss_shape, output_of

_NAMES = ("x", "y", "weights")


def as_data(data: Any, what: str = "data", *, objective: bool = False, memory_maps: bool = False) -> Any:
    """Convert the leaves of data to arrays, and check everything but their values.

    Args:
        data: `(x, y)` or `(x, y, weights)`; a list is taken as a tuple. An object with a `pair`, as a `Dataset`, is that pair.
        what: The name of the data, for error messages.
        objective: Whether the loss is an `Objective`, which takes any pytree.
        memory_maps: Whether memory maps are kept.

    Raises:
        TypeError: If the data is not such a tuple, or has entries that are not numbers.
        ValueError: If lengths differ, there are no samples, numbers do not fit into 32 bits, or the weights are not one number
            per sample.
    """
    data = getattr(data, "pair", data)
    if objective:
        return _as_samples(data, what, memory_maps)
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise TypeError(f"{what} is expected as a pair (x, y) or as (x, y, weights), got {_kind(data)}")
    parts = tuple(_as_samples(part, name, memory_maps) for name, part in _named(data, what, False))
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(parts)}
    if len(lengths) > 1:
        shapes = [f"{name} {_shapes(part)}" for name, part in zip(_NAMES, parts, strict=False)]
        raise ValueError(
            f"x and y of the {what} need one entry per sample each, got {', '.join(shapes)}: "
            "check whether one of them was truncated or is transposed"
        )
    if len(parts) == 3 and getattr(parts[2], "ndim", 0) != 1:
        raise ValueError(f"weights of the {what} need one number per sample, shape (N,), got {_shapes(parts[2])}")
    return parts


def checked_data(data: Any, what: str = "data", *, objective: bool = False) -> Any:
    """Move data to the device, after the checks of `as_data`, and check their values.

    Raises:
        TypeError: As `as_data`.
        ValueError: As `as_data`, or if values are NaN or infinite, or weights negative or all 0.
    """
    data = as_data(data, what, objective=objective)
    for name, part in _named(data, what, objective):
        if fault := _nonfinite(part):
            raise ValueError(f"{name} has {fault}: drop these samples or replace the values")
    if not objective:
        _check_weights(data, what)
        check_some_weight(data, what)
    return jax.tree.map(_on_device, data)


def checked_inputs(x: Any, what: str) -> Any:
    """Move the leaves of a pytree to the device, and check that they are finite, of one length and not empty.

    The inputs of an object with a `pair`, as a `Dataset`, are the first of the two.
    """
    return checked_data(getattr(x, "pair", (x,))[0], what, objective=True)


def checked_batch(batch: Any, *, objective: bool = False, labels: Labels | None = None) -> Any:
    """A batch as NumPy arrays, after the checks of data that do not depend on the training; see the module's docstring.

    Raises:
        TypeError: As `as_data`.
        ValueError: As `as_data`, or if weights are negative or labels out of range.
    """
    if objective:  # which may take leaves of different lengths, such as the nodes and edges of graphs
        batch = as_arrays(tuple(batch) if isinstance(batch, list) else batch, "the batch")
        _check_leaves(jax.tree.leaves(batch)[:1], "the batch")
    else:
        batch = as_data(batch, "batch")
    batch = jax.tree.map(np.asarray, batch)
    if not objective:
        _check_weights(batch, "batch")
    if labels is not None:
        labels.check(batch[1])
    return batch


def fault_of(
    batch: Any, samples: np.ndarray | None, objective: bool, loss: Callable | None, model: Layer, params: Any, state: Any
) -> str:
    """What is wrong with the values of a batch whose loss is not finite; empty if nothing is known to be.

    Args:
        batch: The batch.
        samples: The indices of its samples in the data, None if they are not known.
        objective: Whether the loss is an `Objective`.
        loss: The loss, with its hyperparameters bound; None if it does not compare the model's output with `y`.
        model: The model.
        params: The model's parameters.
        state: The model's state.
    """
    for name, part in _named(batch, "batch", objective):
        if fault := _nonfinite(part, samples):
            return f"{name} has {fault}"
    if loss is None:
        return ""
    y = jax.tree.map(np.asarray, batch[1])
    output = output_of(model, batch, params, state)
    try:
        loss_shape(loss, output, y)
    except ValueError as error:
        return str(error)
    except Exception:  # a custom loss need not take NumPy arrays
        return ""
    return ""


def _named(data: Any, what: str, objective: bool) -> Iterator[tuple[str, Any]]:
    """The parts of data with their names in messages."""
    if objective:
        return iter([(what, data)])
    return ((f"{name} of the {what}", part) for name, part in zip(_NAMES, data, strict=False))


def _kind(data: Any) -> str:
    """The type of data that are no pair, and what to do about it."""
    if isinstance(data, Mapping):
        first, second = [*map(repr, data), "'x'", "'y'"][:2]
        return (
            f"a dict with {listed(map(repr, data))}: pass a tuple of its entries, such as (d[{first}], d[{second}]), or use an "
            "Objective, which takes any structure"
        )
    entries = f" of {len(data)} entries" if isinstance(data, (tuple, list)) else ""
    batches = isinstance(data, (tuple, list)) and data and isinstance(data[0], (tuple, list))
    return f"{type(data).__name__}{entries}" + (": pass a list of batches as lambda epoch: batches" if batches else "")


def _as_samples(x: Any, what: str, memory_maps: bool = False) -> Any:
    """Convert the leaves of a pytree to arrays, and check that they are of one length and not empty."""
    x = as_arrays(x, what, memory_maps=memory_maps)
    leaves = jax.tree.leaves(x)
    _check_leaves(leaves, what)
    if len({leaf.shape[0] for leaf in leaves}) > 1:
        raise ValueError(
            f"the arrays of {what} need one entry per sample each, got shapes {_shapes(x)}; a list of arrays is taken as a "
            "tuple of inputs, np.stack makes one array of it"
        )
    return x


def _check_leaves(leaves: list, what: str) -> None:
    if not leaves:
        raise ValueError(f"{what} contains no array")
    for leaf in leaves:
        if leaf.ndim == 0:
            raise ValueError(f"{what} needs a leading axis of samples, got a single number")
        if leaf.shape[0] == 0:
            raise ValueError(f"{what} has no samples: its shape is {list(leaf.shape)}")


def _check_weights(data: Any, what: str) -> None:
    if len(data) == 3 and not bool((data[2] >= 0).all()):
        raise ValueError(f"weights of the {what} must be at least 0, got {data[2].min()} at index {int(data[2].argmin())}")


def check_some_weight(data: Any, what: str) -> None:
    """Raise an error if all samples have the weight 0, as those of a single batch may."""
    if len(data) == 3 and not data[2].any():
        raise ValueError(f"weights of the {what} are all 0, and there is no mean: at least one must be positive")


def _nonfinite(tree: Any, samples: np.ndarray | None = None) -> str:
    """Say in which samples values are not finite; empty if all are."""
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not _all_finite(leaf):
            values = np.isfinite(np.asarray(leaf))
            bad = np.flatnonzero(~values.reshape(leaf.shape[0] if leaf.ndim else 1, -1).all(axis=1))
            first = bad[0] if samples is None else samples[bad[0]]
            return f"NaN or infinite values in {len(bad)} of {len(leaf)} samples, first at index {first}"
    return ""


def _all_finite(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array) and leaf.is_fully_addressable and _jax.platforms_of(leaf) == {"cpu"}:
        leaf = np.asarray(leaf)  # a view if it is on one device; NumPy compiles nothing
    module = np if isinstance(leaf, np.ndarray) else jnp
    with np.errstate(all="ignore"):
        # A finite sum has finite terms and is five times faster to check; a non-finite sum may have overflowed.
        return bool(module.isfinite(leaf.sum())) or bool(module.isfinite(leaf).all())


def _on_device(leaf: Any) -> jax.Array:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf, leaf.dtype)  # given the dtype, nothing is compiled


def _shapes(tree: Any) -> str:
    return ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(tree))
