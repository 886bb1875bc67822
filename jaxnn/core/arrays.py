"""Conversion to arrays: the first step for all data, so that nothing after it depends on how they were given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def as_arrays(tree: Any, what: str, *, memory_maps: bool = False) -> Any:
    """Convert every leaf of a pytree to an array with a dtype that JAX supports under its present settings.

    JAX arrays are returned as they are. A list that holds arrays becomes a tuple; a list of numbers, nested or not, is one
    array.

    Args:
        tree: Any pytree of arrays, lists of numbers, and whatever NumPy converts, such as pandas and PyTorch objects.
        what: The name of the tree, for error messages.
        memory_maps: Whether memory maps are kept, with only their dtype checked, and not converted like other arrays.

    Raises:
        TypeError: If a leaf is not an array of numbers.
        ValueError: If a value would change: masked entries, numbers that do not fit into 32 bits.
    """

    def converted(leaf: Any) -> Any:
        if isinstance(leaf, list) and _holds_arrays(leaf):
            return tuple(as_arrays(item, what, memory_maps=memory_maps) for item in leaf)
        if isinstance(leaf, jax.Array):
            return leaf
        if memory_maps and isinstance(leaf, np.memmap):
            _check_dtype(leaf.dtype, what)
            return leaf
        return _in_supported_dtype(host_array(leaf, what), what)

    return jax.tree.map(converted, tree, is_leaf=lambda node: isinstance(node, (list, Iterator)))  # JAX refuses iterators


def host_array(value: Any, what: str) -> np.ndarray:
    """Convert a value to a NumPy array of native byte order, by position; a list of Python floats gets JAX's default dtype.

    Raises:
        TypeError: If NumPy cannot convert it.
        ValueError: If it is a masked array with masked entries, or a list of lists of different lengths.
    """
    if np.ma.is_masked(value):
        raise ValueError(
            f"{what} is a NumPy masked array with {np.ma.count_masked(value)} masked values, and a mask would be lost: "
            "replace them with .filled(value), and pass the mask as a part of x or as weights"
        )
    try:
        array = np.asarray(value)
    except Exception as error:
        if isinstance(value, (list, tuple)):
            raise ValueError(f"{what} is a list that is not one array of numbers; make all entries the same length") from error
        raise TypeError(f"{what} is a {type(value).__name__} that NumPy cannot convert to an array: {error}") from error
    if isinstance(value, list) and array.dtype == np.float64:
        array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))  # Python numbers have no dtype to preserve
    if array.dtype == object:
        got = "dtype object" if array.ndim or isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{what} needs an array of numbers, got {got}: encode strings and objects as numbers first")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_arrays, value))
    if isinstance(value, dict):
        return any(map(_holds_arrays, value.values()))
    return len(getattr(value, "shape", ())) > 0


def _check_dtype(dtype: np.dtype, what: str) -> None:
    """Raise an error for a dtype whose values JAX cannot represent under its present settings, whatever they are."""
    if dtype.kind == "m" or not (dtype.kind == "b" or jnp.issubdtype(dtype, np.number)):  # time differences count as numbers
        raise TypeError(f"{what} needs numbers, got dtype {dtype}: encode strings and objects as numbers first")
    narrow = jax.dtypes.canonicalize_dtype(dtype.newbyteorder("="))
    if narrow.kind in "fc" and narrow.itemsize > (8 if narrow.kind == "f" else 16):
        raise TypeError(f'{what} is {dtype}, which JAX does not support: convert it with .astype("float32")')
    if narrow.kind in "fc" and narrow.itemsize < dtype.itemsize:
        raise ValueError(
            f"{what} is {dtype}, and 64-bit numbers are disabled in JAX, so it would be rounded to {narrow}: round it "
            f'with .astype("{narrow}"), or enable 64-bit numbers with jax.config.update("jax_enable_x64", True)'
        )


def _in_supported_dtype(array: np.ndarray, what: str) -> np.ndarray:
    """Convert an array to a dtype that JAX supports under its present settings; raise an error if that changes its values."""
    _check_dtype(array.dtype, what)
    narrow = jax.dtypes.canonicalize_dtype(array.dtype)
    if narrow == array.dtype:
        return array
    if array.size and (array.min() < np.iinfo(narrow).min or array.max() > np.iinfo(narrow).max):
        raise ValueError(
            f"{what} is {array.dtype} with values that {narrow} cannot represent, and 64-bit numbers are disabled in JAX: "
            'enable them with jax.config.update("jax_enable_x64", True)'
        )
    return array.astype(narrow)
