"""A tree as arrays by path, on the host, and back into the form of another tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.trees import path_of

_SHOWN = 6


class LeavesDiffer(ValueError):
    """What was stored is sound, but of another model, optimizer or kind of tree."""


class HostLeaf(NamedTuple):
    """A leaf in the host's memory."""

    form: str  # of the leaf itself
    array: np.ndarray  # of a typed key, its numbers
    generator: str | None  # of a typed key


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves by path, of which there must be one for each.

    Raises:
        TypeError: a leaf is no array.
        ValueError: two leaves have the same path, since a name holds a slash.
    """
    leaves: dict[str, Any] = {}
    for steps, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = path_of(steps)
        if path in leaves:
            raise ValueError(f"two leaves have the path {path!r}: names in a tree that is stored must not hold a slash")
        if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")) or not _is_storable(leaf.dtype):
            raise TypeError(f"leaf {path!r} is {leaf!r}; what is stored are arrays of numbers, as jnp.asarray makes them")
        leaves[path] = leaf
    return leaves


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_storable(dtype: Any) -> bool:
    return any(jax.dtypes.issubdtype(dtype, kind) for kind in (np.number, np.bool_, jax.dtypes.prng_key))


def form(leaf: Any) -> str:
    """Dtype and shape as text: `float32[3, 4]`."""
    return f"{leaf.dtype.name}[{', '.join(map(str, leaf.shape))}]"


def forms(tree: Any) -> dict[str, str]:
    """The form of every leaf, by path."""
    return {path: form(leaf) for path, leaf in by_path(tree).items()}


def to_host(tree: Any) -> dict[str, HostLeaf]:
    """Copies of the leaves in the host's memory, by path.

    Nothing of them is shared with the tree, whose buffers may be donated as soon as this returns.
    """
    leaves = by_path(tree)
    numbers = {path: jax.random.key_data(leaf) if _is_key(leaf) else leaf for path, leaf in leaves.items()}
    fetched = jax.device_get(numbers)  # starts every transfer before it waits for the first
    return {
        path: HostLeaf(
            form(leaf),
            np.array(fetched[path], dtype=fetched[path].dtype.newbyteorder("="), order="C"),
            str(jax.random.key_impl(leaf)) if _is_key(leaf) else None,
        )
        for path, leaf in leaves.items()
    }


def from_host(leaves: Mapping[str, HostLeaf], like: Any) -> Any:
    """A tree like `like` of the leaves, each where the leaf of `like` is: in NumPy's memory, on a device or on several."""

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
    """Compare what is stored with what is asked for.

    Raises:
        LeavesDiffer: they differ; the message names the paths, and at each what was found and what was expected.
    """
    differing = [path for path in {**expected, **found} if found.get(path) != expected.get(path)]
    if not differing:
        return
    lines = [
        f"  {path or '(the leaf)'}: found {found.get(path, 'nothing')}, expected {expected.get(path, 'nothing')}"
        for path in differing[:_SHOWN]
    ]
    more = [f"  + {len(differing) - _SHOWN} more"] if len(differing) > _SHOWN else []
    raise LeavesDiffer("\n".join([f"{what} does not fit; of {len(expected)} leaves these differ:", *lines, *more]))
