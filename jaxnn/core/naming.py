"""Names and paths of layers: checks, the random keys that follow from them, and the notes that errors carry."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from jaxnn.core.text import array_text

ITSELF = "(itself)"  # the path under which a report lists what a model computes outside its layers

_RESERVED = {  # a character that no layer's name may contain, and what it means
    "/": "separates the names in a path",
    **dict.fromkeys("*?", "is a wildcard in patterns of paths"),
    **dict.fromkeys("[]", "marks the form of a kernel in a program, as in 'max_pool[taps]'"),
    "·": "marks the inputs, outputs and operations between layers in a model's wiring",
}


def name_hash(name: str) -> int:
    """The 32 bits that are folded into a key for the child of that name."""
    return zlib.crc32(name.encode())


def child_key(key: jax.Array, name: str) -> jax.Array:
    """The key of a child: a function of its parent's key and its own name, never of its position among its siblings."""
    return jax.random.fold_in(key, np.uint32(name_hash(name)))


def check_name(name: str) -> str:
    """Return the name of a layer, one step of a path such as `"encoder/dense/kernel"`.

    Args:
        name: The name.

    Returns:
        `name` itself.

    Raises:
        ValueError: If it is not a non-empty string, or is reserved: paths, patterns and reports of a model use
            `/ * ? [ ] ·` and `(itself)`.

    Example:
        >>> check_name("encoder")
        'encoder'
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"a layer's name must be a non-empty string, got {name!r}")
    reserved = next((character for character in name if character in _RESERVED), ITSELF if name == ITSELF else None)
    if reserved is not None:
        meaning = _RESERVED.get(reserved, "is a model's own row in a summary")
        raise ValueError(
            f"a layer cannot be called {name!r}: {reserved!r} {meaning}; use letters, digits and underscores instead"
        )
    return name


class PathNote(str):
    """The note on an error that says in which layer it was raised; each parent adds its name to the front of the path."""

    def __new__(cls, path: tuple[str, ...], own: str, details: str) -> PathNote:
        """The note for the layer at `path`; for the whole model, whose path is empty, its name `own` is shown."""
        note = super().__new__(cls, f"in layer '{'/'.join(path) or own}': {details}")
        note.path, note.own, note.details = path, own, details
        return note

    path: tuple[str, ...]
    own: str
    details: str


@contextmanager
def explained(name: str, params: Any, x: Any) -> Iterator[None]:
    """Add a layer's name and the shapes of its input and parameters to an error, unless a layer inside has done so.

    A layer that reads `x.ndim` takes one array. If it is given several, such as a padded sequence, the error says so.
    """
    try:
        try:
            yield
        except AttributeError as error:
            if not isinstance(x, (tuple, list, dict)) or not isinstance(error.obj, type(x)):
                raise
            raise TypeError(
                f"{name} takes one array, got {array_text(x)}: pass the values alone, or, to a layer that takes padded "
                "sequences, a tuple (x, mask) with a boolean mask"
            ) from error
    except Exception as error:
        if not any(isinstance(note, PathNote) for note in getattr(error, "__notes__", ())):
            leaves = params.items() if isinstance(params, dict) else ()
            parts = [f"input {array_text(x)}"] + [f"{k} {array_text(v)}" for k, v in leaves if not isinstance(v, dict)]
            error.add_note(PathNote((), name, ", ".join(parts)))
        raise


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Add a child's name to the front of the path in an error that it raises, and to the names in a profile."""
    try:
        with jax.named_scope(name):
            yield
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        for i, note in enumerate(notes):
            if isinstance(note, PathNote):
                notes[i] = PathNote((name, *note.path), note.own, note.details)
        raise
