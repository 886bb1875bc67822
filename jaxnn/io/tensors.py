"""Save and load parameters in the safetensors format, which other libraries read as well."""

from __future__ import annotations

import json
from collections import Counter
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.files import replacing
from jaxnn.io.leaves import HostLeaf, check_forms, form, forms, from_host, to_host

_DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("bfloat16", "float16", "float32", "float64", "complex64"),
)


def save(path: str | PathLike, tree: Any) -> None:
    """Write a tree of arrays, usually parameters, to a safetensors file: one tensor per leaf, named by its path.

    The file is written under a temporary name first, so that an incomplete file never appears at `path`.

    Args:
        path: The path of the file. An existing file is replaced.
        tree: Any pytree of arrays. Typed random keys are not supported; save them in a checkpoint.

    Raises:
        ImportError: safetensors is not installed.
        TypeError: A leaf is not an array, or has a dtype that the format does not support.
        OSError: The file could not be written; an existing file is unchanged.

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
            raise TypeError(
                f"leaf {name!r} is a random key, {leaf.form}; expected an array, which jax.random.key_data makes of it"
            )
        if leaf.array.dtype.name not in _DTYPES:
            raise TypeError(f"leaf {name!r} is {leaf.form}; a safetensors file supports {', '.join(_DTYPES)}")
    try:
        with replacing(path) as temporary:
            numpy.save_file({name: leaf.array for name, leaf in leaves.items()}, temporary)
    except error_type as error:
        raise OSError(f"{path} could not be written: {error}") from error


def load(path: str | PathLike, like: Any = None) -> Any:
    """Read a tree of arrays from a safetensors file.

    Args:
        path: The path of the file.
        like: A tree of arrays or of `jax.ShapeDtypeStruct` with the expected structure, shapes and dtypes, such as
            `jax.eval_shape(model.init, key, x)[0]` for the parameters of a model. Without it, the paths are split at
            slashes into nested dicts.

    Returns:
        The tree, with the structure of `like` if that is given.

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, has another format or two tensors of one name, or its tensors do not match `like`; the
            message lists the tensors that differ.

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
        arrays = numpy.load_file(path)
    except error_type as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    except (AttributeError, KeyError) as error:
        raise ValueError(f"{path} contains a dtype that NumPy does not support: {error}") from error
    with open(path, "rb") as file:  # the library keeps one of several tensors of a name
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")), object_pairs_hook=list)
    if repeated := [name for name, count in Counter(name for name, _ in header).items() if count > 1]:
        raise ValueError(f"{path} is damaged: it has more than one tensor {', '.join(map(repr, repeated))}")
    return arrays


def _nested(arrays: dict[str, np.ndarray], path: str | PathLike) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        node: Any = tree
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict) or last in node:
            raise ValueError(f"{path} has a tensor {name!r} and another one inside that path; give like= to load both")
        node[last] = _on_device(array)
    return tree


def _on_device(array: np.ndarray) -> Any:
    """Return a JAX array, unless that would change the values: 64-bit arrays stay in NumPy where JAX has x64 disabled."""
    return jnp.array(array) if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype else array


def _safetensors() -> tuple[Any, type[Exception]]:
    try:
        from safetensors import SafetensorError, numpy
    except ImportError as error:
        raise ImportError("saving and loading parameters requires safetensors: pip install safetensors") from error
    return numpy, SafetensorError
