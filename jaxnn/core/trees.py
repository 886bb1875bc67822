"""Parameters by path: `"encoder/dense/kernel"`, patterns over paths, and counts."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np

__all__ = ["count", "map_with_path", "mask", "paths"]


def path_of(steps: tuple) -> str:
    """The path of a leaf as `jax.tree_util` gives it, as text."""
    return "/".join(str(getattr(step, "key", getattr(step, "idx", getattr(step, "name", step)))) for step in steps)


def paths(tree: Any) -> dict[str, Any]:
    """The tree's leaves by path.

    Args:
        tree: any pytree, usually `params`.

    Returns:
        A dict from paths such as `"encoder/dense/kernel"` to leaves, in the tree's order.

    Example:
        >>> paths({"dense": {"bias": 1, "kernel": 2}})
        {'dense/bias': 1, 'dense/kernel': 2}
    """
    return {path_of(steps): leaf for steps, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def map_with_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """`function(path, leaf)` for every leaf, as a tree of the same structure.

    Args:
        function: takes the path as text and the leaf.
        tree: any pytree.

    Returns:
        The tree of results.

    Example:
        >>> map_with_path(lambda path, leaf: f"{path}={leaf}", {"dense": {"bias": 1}})
        {'dense': {'bias': 'dense/bias=1'}}
    """
    return jax.tree_util.tree_map_with_path(lambda steps, leaf: function(path_of(steps), leaf), tree)


def mask(tree: Any, *patterns: str) -> Any:
    """A tree of booleans: which leaves have a path that one of the patterns matches. Made for `optax.masked` and its like.

    Args:
        tree: any pytree, usually `params`.
        *patterns: as in a shell, over the whole path: `*` matches anything, slashes too. `"*/kernel"` matches `"kernel"`.

    Returns:
        A tree of the same structure with `True` where a pattern matches.

    Raises:
        ValueError: if a pattern matches nothing.

    Example:
        >>> mask({"dense": {"bias": 1, "kernel": 2}}, "*/kernel")
        {'dense': {'bias': False, 'kernel': True}}
    """
    known = paths(tree)

    def matches(path: str, pattern: str) -> bool:
        return fnmatchcase(path, pattern) or fnmatchcase("/" + path, pattern)

    for pattern in patterns:
        if not any(matches(path, pattern) for path in known):
            raise ValueError(f"the pattern {pattern!r} matches no path; there are {', '.join(known) or 'none'}")
    return map_with_path(lambda path, leaf: any(matches(path, pattern) for pattern in patterns), tree)


def count(tree: Any) -> int:
    """How many numbers the tree holds: for a dense layer, n_in · n_out + n_out.

    Args:
        tree: a pytree of arrays, or of anything with a shape.

    Returns:
        The number, as a Python int of any size.

    Example:
        >>> import numpy as np
        >>> count({"kernel": np.zeros((784, 10)), "bias": np.zeros(10)})
        7850
    """
    return sum(int(np.prod(np.shape(leaf), dtype=object)) for leaf in jax.tree.leaves(tree))
