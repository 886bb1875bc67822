"""The share of the samples that a run holds out for validation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.naming import child_key
from jaxnn.problem.batches import leading_size
from jaxnn.problem.checks import as_data


def held_out(data: Any, validation: Any, key: jax.Array, *, objective: bool = False) -> tuple[Any, Any]:
    """The data and the validation data, of which the latter may be given as a share of the former.

    Labels are spread evenly: each class is held out in the same share, up to one sample.

    Args:
        data: The data.
        validation: The validation data, None, or a number between 0 and 1.
        key: The key of the run, from which the choice follows.
        objective: Whether the loss is an `Objective`, which takes any pytree.

    Raises:
        TypeError: If a share is given of data that are not arrays in memory.
        ValueError: If the share is not between 0 and 1, or is not at least one sample and not all of them.
    """
    if isinstance(validation, bool) or not isinstance(validation, (int, float, np.integer, np.floating)):
        return data, validation
    if not 0 < validation < 1:
        raise ValueError(f"validation is data, or a share of the data above 0 and below 1, got {validation!r}")
    data = getattr(data, "pair", data)
    is_arrays = isinstance(data, (tuple, list, dict)) or hasattr(data, "shape")
    if not is_arrays or any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(data)):
        raise TypeError("a share of the data is held out of arrays in memory only: give validation=(x, y)")
    data = as_data(data, objective=objective)
    n = leading_size(data)
    count = round(n * validation)
    if not 0 < count < n:
        raise ValueError(f"validation={validation!r} of {n} samples is {count}: expected at least one, and one to train on")
    order = np.random.default_rng(np.asarray(jax.random.bits(child_key(key, "validation"), (4,)))).permutation(n)
    y: Any = data[1] if isinstance(data, tuple) and len(data) > 1 else None
    if hasattr(y, "dtype") and y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer):
        order = order[np.argsort(np.asarray(y)[order], kind="stable")]
    chosen = np.zeros(n, bool)
    chosen[order] = np.arange(1, n + 1) * count // n > np.arange(n) * count // n
    kept, out = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    return jax.tree.map(lambda a: a[kept], data), jax.tree.map(lambda a: a[out], data)
