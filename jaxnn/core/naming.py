"""Names, keys and places: what every layer needs to know of where it stands, and nothing that outlives a call."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def name_hash(name: str) -> int:
    """The 32 bits folded into a key for a child of that name."""
    return zlib.crc32(name.encode())


def child_key(key: jax.Array, name: str) -> jax.Array:
    """A child's key depends on its parent's key and its own name, never on its position among its siblings."""
    return jax.random.fold_in(key, np.uint32(name_hash(name)))


def check_name(name: str) -> str:
    """A name is one step of a path such as `"encoder/dense/kernel"`."""
    if not isinstance(name, str) or not name or any(c in "/*?[]" for c in name):
        raise ValueError(f"a layer's name is a non-empty string without any of / * ? [ ], got {name!r}")
    return name


def check_key(key: Any) -> jax.Array:
    """One typed key; an old `uint32[2]` key is taken too.

    Raises:
        TypeError: if `key` is no key.
        ValueError: if it is an array of several keys.
    """
    if isinstance(key, (jax.Array, np.ndarray)):
        if key.dtype == jnp.uint32:
            key = jax.random.wrap_key_data(jnp.asarray(key))
        if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
            if key.shape:
                raise ValueError(
                    f"one key is needed, got an array of keys of shape {key.shape}; for many networks at once: "
                    "jax.vmap(model.init, (0, None))(keys, x)"
                )
            return key
    raise TypeError(f"a key is needed, as jax.random.key(0) makes one; got {_shown(key)}")


def require_key(key: jax.Array | None) -> jax.Array:
    """The key a layer draws from in training.

    Raises:
        ValueError: if there is none. The layer's name is added by `explained`.
    """
    if key is None:
        raise ValueError(
            "this layer draws random numbers in training and got no key: "
            "model.apply(params, state, x, key=jax.random.key(0), training=True)"
        )
    return key


def abstract(tree: Any) -> Any:
    """The tree's shapes and dtypes, as `jax.ShapeDtypeStruct`s."""

    def struct(leaf):
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            leaf = np.asarray(leaf)
            if leaf.dtype == object:
                raise TypeError(f"an input is an array or a pytree of arrays, got {leaf.item()!r} in it")
        return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))

    return jax.tree.map(struct, tree, is_leaf=lambda leaf: hasattr(leaf, "initializer"))


class PathNote(str):
    """The note on an error that says in which layer it was raised; parents put their own name in front of its path."""

    def __new__(cls, path: tuple[str, ...], own: str, details: str) -> PathNote:
        """The note for a layer called `own` that stands at `path`, or is the model itself."""
        note = super().__new__(cls, f"in layer '{'/'.join(path) or own}': {details}")
        note.path, note.own, note.details = path, own, details
        return note

    path: tuple[str, ...]
    own: str
    details: str


@contextmanager
def explained(name: str, params: Any, x: Any) -> Iterator[None]:
    """Add the layer's name and the shapes it was given to an error that no layer inside has explained yet."""
    try:
        yield
    except Exception as error:
        if not any(isinstance(note, PathNote) for note in getattr(error, "__notes__", ())):
            own = params.items() if isinstance(params, dict) else ()
            parts = [f"input {_shown(x)}"] + [f"{k} {_shown(v)}" for k, v in own if not isinstance(v, dict)]
            error.add_note(PathNote((), name, ", ".join(parts)))
        raise


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Put a child's name in front of the path of an error that it raises, and of the names in a profile."""
    try:
        with jax.named_scope(name):
            yield
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        for i, note in enumerate(notes):
            if isinstance(note, PathNote):
                notes[i] = PathNote((name, *note.path), note.own, note.details)
        raise


def _shown(tree: Any) -> str:
    """`float32[4, 9]` for an array, the same inside its containers for a pytree."""
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}{list(tree.shape)}"
    if isinstance(tree, (tuple, list)):
        return f"({', '.join(map(_shown, tree))})"
    if isinstance(tree, dict):
        return f"{{{', '.join(f'{k}: {_shown(v)}' for k, v in tree.items())}}}"
    return f"{type(tree).__name__} {tree!r}"
