"""Trees of arrays: leaves by path, such as `"encoder/dense/kernel"`, patterns over paths, shapes and counts."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np

from jaxnn.core.text import listed

__all__ = ["count", "map_with_path", "mask", "paths"]


def path_of(steps: tuple) -> str:
    """The path of a leaf as text, from its key path in `jax.tree_util`."""
    return "/".join(str(getattr(step, "key", getattr(step, "idx", getattr(step, "name", step)))) for step in steps)


def paths(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path.

    Args:
        tree: Any pytree, usually `params`.

    Returns:
        A dict from paths such as `"encoder/dense/kernel"` to leaves, in the tree's order.

    Example:
        >>> paths({"dense": {"bias": 1, "kernel": 2}})
        {'dense/bias': 1, 'dense/kernel': 2}
    """
    return {path_of(steps): leaf for steps, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def map_with_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Apply `function(path, leaf)` to every leaf of a tree.

    Args:
        function: A function of the path, as text, and the leaf.
        tree: Any pytree.

    Returns:
        The results, as a tree of the same structure.

    Example:
        >>> map_with_path(lambda path, leaf: f"{path}={leaf}", {"dense": {"bias": 1}})
        {'dense': {'bias': 'dense/bias=1'}}
    """
    return jax.tree_util.tree_map_with_path(lambda steps, leaf: function(path_of(steps), leaf), tree)


def mask(tree: Any, *patterns: str) -> Any:
    """Mark the leaves whose path matches a pattern, as `optax.masked` and similar functions take it.

    Args:
        tree: Any pytree, usually `params`.
        *patterns: Shell patterns for the whole path; `*` matches any text, including slashes. `"*/kernel"` also matches
            the path `"kernel"`.

    Returns:
        A tree of booleans of the same structure: `True` where a pattern matches.

    Raises:
        ValueError: If a pattern matches no path.

    Example:
        >>> mask({"dense": {"bias": 1, "kernel": 2}}, "*/kernel")
        {'dense': {'bias': False, 'kernel': True}}
    """
    known = paths(tree)

    def matches(path: str, pattern: str) -> bool:
        return fnmatchcase(path, pattern) or fnmatchcase("/" + path, pattern)

    for pattern in patterns:
        if not any(matches(path, pattern) for path in known):
            raise ValueError(f"the pattern {pattern!r} matches no path; the paths are {listed(known)}")
    return map_with_path(lambda path, leaf: any(matches(path, pattern) for pattern in patterns), tree)


def count(tree: Any) -> int:
    """The number of array elements in a tree: for a dense layer, n_in · n_out + n_out.

    Args:
        tree: A pytree of arrays, or of other objects with a shape.

    Returns:
        The number, as a Python int of any size.

    Example:
        >>> import numpy as np
        >>> count({"kernel": np.zeros((784, 10)), "bias": np.zeros(10)})
        7850
    """
    return sum(int(np.prod(np.shape(leaf), dtype=object)) for leaf in jax.tree.leaves(tree))


def abstract(tree: Any) -> Any:
    """The shapes and dtypes of a tree of arrays, without their values.

    Args:
        tree: A pytree of arrays, numbers, or leaves that `param` describes.

    Returns:
        A tree of `jax.ShapeDtypeStruct` of the same structure.

    Raises:
        TypeError: If a leaf cannot be an array.
    """

    def struct(leaf):
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            leaf = np.asarray(leaf)
            if leaf.dtype == object:
                raise TypeError(f"an input must be an array or a pytree of arrays, and one leaf is {leaf.item()!r}")
        return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True))

    return jax.tree.map(struct, tree, is_leaf=lambda leaf: hasattr(leaf, "initializer"))
