"""Parameters in one file, in the safetensors format, which other libraries read, too."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.io.leaves import HostLeaf, check_forms, form, forms, from_host, to_host

_DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("bfloat16", "float16", "float32", "float64", "complex64"),
)


def save(path: str | PathLike, tree: Any) -> None:
    """Write a tree of arrays, usually parameters, to a safetensors file, one tensor a leaf under its path.

    The file is there whole or not at all: it is written under another name first.

    Args:
        path: of the file; one that exists is replaced.
        tree: any pytree of arrays. Typed random keys belong into a checkpoint.

    Raises:
        ImportError: safetensors is not installed.
        TypeError: a leaf is no array, or of a dtype that such a file does not hold.
        OSError: the file could not be written; one that was there is as it was.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from jaxnn.io import load, save
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/model.safetensors", {"dense": {"bias": jnp.ones(3)}})
        ...     load(f"{folder}/model.safetensors")
        {'dense': {'bias': Array([1., 1., 1.], dtype=float32)}}
    """
    numpy, error_type = _safetensors()
    leaves = to_host(tree)
    for name, leaf in leaves.items():
        if leaf.generator is not None:
            raise TypeError(f"leaf {name!r} is a random key, {leaf.form}: jax.random.key_data makes an array of it")
        if leaf.array.dtype.name not in _DTYPES:
            raise TypeError(f"leaf {name!r} is {leaf.form}; a safetensors file holds {', '.join(_DTYPES)}")
    target = Path(path).expanduser()
    partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        numpy.save_file({name: leaf.array for name, leaf in leaves.items()}, partial)
        partial.replace(target)
    except error_type as error:
        raise OSError(f"{target} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | PathLike, like: Any = None) -> Any:
    """Read a tree of arrays from a safetensors file.

    Args:
        path: of the file.
        like: a tree of arrays, or of `jax.ShapeDtypeStruct`, as the one expected: `jax.eval_shape(model.init, key, x)[0]`
            for the parameters of a model. Without it, paths are split at slashes and become nested dicts.

    Returns:
        The tree; as `like`, if that is given.

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or of another format, or does not fit `like`, and where.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp
        >>> from jaxnn.io import load, save
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/model.safetensors", [jnp.ones(3), jnp.zeros(2)])
        ...     load(f"{folder}/model.safetensors", like=[jax.ShapeDtypeStruct((n,), jnp.float32) for n in (3, 2)])
        [Array([1., 1., 1.], dtype=float32), Array([0., 0.], dtype=float32)]
    """
    arrays = _read(Path(path).expanduser())
    if like is None:
        return _nested(arrays, path)
    leaves = {name: HostLeaf(form(array), array, None) for name, array in arrays.items()}
    check_forms({name: leaf.form for name, leaf in leaves.items()}, forms(like), f"the file {path}")
    return from_host(leaves, like)


def _read(path: Path) -> dict[str, np.ndarray]:
    numpy, error_type = _safetensors()
    try:
        return numpy.load_file(path)
    except error_type as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    except (AttributeError, KeyError) as error:
        raise ValueError(f"{path} has arrays of a dtype that NumPy does not have: {error}") from error


def _nested(arrays: dict[str, np.ndarray], path: str | PathLike) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        node: Any = tree
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict) or last in node:
            raise ValueError(f"{path} has a tensor {name!r} and another above or below it; load(path, like) can read it")
        node[last] = _on_device(array)
    return tree


def _on_device(array: np.ndarray) -> Any:
    """As an array of JAX's, unless that would change it: 64 bits stay with NumPy where JAX has 32."""
    return jnp.array(array) if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype else array


def _safetensors() -> tuple[Any, type[Exception]]:
    try:
        from safetensors import SafetensorError, numpy
    except ImportError as error:
        raise ImportError('saving and loading parameters needs safetensors: pip install "jaxnn[checkpoint]"') from error
    return numpy, SafetensorError
