"""Programs as StableHLO, which JAX alone runs, on CPUs, GPUs and TPUs, where jaxnn is not installed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax

from jaxnn.core.files import replacing
from jaxnn.core.primitives import definitions

PLATFORMS = ("cpu", "cuda", "tpu")


def write(path: str | os.PathLike, function: Callable[[Any], Any], shape: tuple[int, ...], dtype: Any) -> None:
    """Write a function of a batch to a file, for any number of samples.

    `jax.export.deserialize(bytearray(Path(path).read_bytes())).call(x)` computes it. The file appears at `path` once it is
    complete.

    Args:
        path: The path of the file. An existing file is replaced.
        function: The function; arrays that it closes over become part of the file.
        shape: The shape of a sample.
        dtype: The dtype of the batch.

    Raises:
        ImportError: flatbuffers is not installed.
        OSError: The file could not be written.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
        ...     write(f"{folder}/double.stablehlo", lambda x: 2 * x, (3,), jnp.float32)
    """
    from jax import export

    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ImportError("exporting a program requires flatbuffers: pip install flatbuffers") from error
    batch = export.symbolic_shape(", ".join(("n", *map(str, shape))))
    with definitions():
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(jax.ShapeDtypeStruct(batch, dtype))
    with replacing(path) as temporary:
        temporary.write_bytes(exported.serialize())
