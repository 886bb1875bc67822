"""Convert a tree to host arrays by path, and back to the structure and devices of another tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.trees import path_of

_MAX_SHOWN = 6  # leaves that an error message lists


class MismatchError(ValueError):
    """Stored arrays are intact, but belong to another model, optimizer or run than the one they are loaded into."""


class HostLeaf(NamedTuple):
    """A leaf in host memory."""

    form: str  # dtype and shape of the leaf, as `form` writes them
    array: np.ndarray  # for a typed key, its key data
    generator: str | None  # for a typed key, the name of its implementation


def by_path(tree: Any) -> dict[str, Any]:
    """Return the leaves by path, each path exactly once.

    Raises:
        TypeError: A leaf is not an array.
        ValueError: Two leaves have the same path, because a name contains a slash.
    """
    leaves: dict[str, Any] = {}
    for steps, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = path_of(steps)
        if path in leaves:
            raise ValueError(f"two leaves have the path {path!r}: names in a stored tree must not contain a slash")
        if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")) or not _is_storable(leaf.dtype):
            raise TypeError(f"leaf {path!r} is {leaf!r}; expected an array of numbers, such as jnp.asarray makes")
        if np.ma.is_masked(leaf):
            raise TypeError(f"leaf {path!r} is a masked array, whose mask would be lost; store .filled(value) and the mask")
        leaves[path] = leaf
    return leaves


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_storable(dtype: Any) -> bool:
    return any(jax.dtypes.issubdtype(dtype, kind) for kind in (np.number, np.bool_, jax.dtypes.prng_key))


def form(leaf: Any) -> str:
    """Return dtype and shape as text, such as `float32[3, 4]`."""
    return f"{leaf.dtype.name}[{', '.join(map(str, leaf.shape))}]"


def forms(tree: Any) -> dict[str, str]:
    """Return the form of every leaf by path."""
    return {path: form(leaf) for path, leaf in by_path(tree).items()}


def to_host(tree: Any) -> dict[str, HostLeaf]:
    """Copy the leaves to host memory and return them by path.

    The copies share no memory with the tree, whose buffers may be donated as soon as this returns.
    """
    leaves = by_path(tree)
    numbers = {path: jax.random.key_data(leaf) if _is_key(leaf) else leaf for path, leaf in leaves.items()}
    fetched = jax.device_get(numbers)  # all at once: it starts every transfer before it waits for the first
    return {
        path: HostLeaf(
            form(leaf),
            np.array(fetched[path], dtype=fetched[path].dtype.newbyteorder("="), order="C"),
            str(jax.random.key_impl(leaf)) if _is_key(leaf) else None,
        )
        for path, leaf in leaves.items()
    }


def from_host(leaves: Mapping[str, HostLeaf], like: Any) -> Any:
    """Build a tree of the structure of `like`, each leaf on the devices of the leaf of `like`, or in NumPy."""

    def place(path: str, leaf: Any) -> Any:
        _, array, generator = leaves[path]
        if isinstance(leaf, np.ndarray | np.generic):
            return array
        sharding = getattr(leaf, "sharding", None) if getattr(leaf, "committed", True) else None
        if generator is not None:
            key = jax.random.wrap_key_data(jnp.array(array), impl=generator)
            return key if sharding is None else jax.device_put(key, sharding)
        return jnp.array(array) if sharding is None else jax.device_put(array, sharding, may_alias=False)

    return jax.tree.unflatten(jax.tree.structure(like), [place(path, leaf) for path, leaf in by_path(like).items()])


def check_forms(found: Mapping[str, str], expected: Mapping[str, str], what: str) -> None:
    """Compare the forms of the stored leaves with the expected ones; `what` names the file or folder.

    Raises:
        MismatchError: They differ. The message lists the paths with the form found and the form expected.
    """
    differing = [path for path in {**expected, **found} if found.get(path) != expected.get(path)]
    if not differing:
        return
    lines = [
        f"  {path or '(the leaf)'}: found {found.get(path, 'nothing')}, expected {expected.get(path, 'nothing')}"
        for path in differing[:_MAX_SHOWN]
    ]
    more = [f"  + {len(differing) - _MAX_SHOWN} more"] if len(differing) > _MAX_SHOWN else []
    heading = f"{what} does not match; of the {len(expected)} expected leaves, these differ:"
    raise MismatchError("\n".join([heading, *lines, *more]))
