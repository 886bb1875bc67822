"""One checkpoint on disk: the leaves as Orbax writes them, and a manifest with checksums of every leaf and file.

The checksums of the files show damage before Orbax reads them; those of the leaves show that the arrays read are the
arrays that were saved.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxnn.io.leaves import HostLeaf, check_forms

PARTIAL = ".partial"  # the suffix of an incomplete checkpoint's name
_ORBAX_LOCK = threading.Lock()


def is_installed() -> bool:
    """Return whether Orbax is installed, without importing it."""
    try:
        return importlib.util.find_spec("orbax.checkpoint") is not None
    except ModuleNotFoundError:  # the package `orbax` is missing as well
        return False


def write(path: Path, leaves: Mapping[str, HostLeaf], description: Mapping[str, Any]) -> None:
    """Write a checkpoint, which appears at `path` once it is complete; `description` is added to its manifest."""
    _check_space(path.parent, sum(leaf.array.nbytes for leaf in leaves.values()))
    partial = path.with_name(path.name + PARTIAL)
    partial.mkdir()
    if arrays := {name: _storable(leaf.array) for name, leaf in leaves.items() if leaf.array.size}:  # Orbax refuses empty ones
        with _orbax() as (checkpointer, args):
            checkpointer.save(partial / "tree", args=args.PyTreeSave(arrays))
    files = {str(file.relative_to(partial)): file for file in partial.rglob("*") if file.is_file()}
    content = {
        **description,
        "leaves": {name: _describe(leaf) for name, leaf in leaves.items()},
        "files": {name: zlib.crc32(file.read_bytes()) for name, file in files.items()},
    }
    text = _text(content)
    with open(partial / "manifest.json", "w") as manifest:
        manifest.write(f'{{"checksum": {_checksum_of_text(text)}, "content": {text}}}')
        manifest.flush()
        os.fsync(manifest.fileno())
    partial.rename(path)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the content of the manifest: the description given to `write`, and the checksums of leaves and files.

    Raises:
        Exception: The manifest is damaged. The type of the exception depends on the damage.
    """
    manifest = json.loads((path / "manifest.json").read_bytes())
    if manifest["checksum"] != _checksum_of_text(_text(manifest["content"])):
        raise ValueError("manifest.json has changed since it was written: its checksum differs")
    return manifest["content"]


def read(path: Path, expected: Mapping[str, str]) -> tuple[dict[str, HostLeaf], dict[str, Any]]:
    """Return the leaves and the `info` of a checkpoint.

    Raises:
        MismatchError: The manifest is intact, but the leaves do not have the expected forms.
        Exception: The checkpoint is damaged. The type of the exception depends on the damage.
    """
    manifest = read_manifest(path)
    leaves = manifest["leaves"]
    check_forms({name: leaf["form"] for name, leaf in leaves.items()}, expected, f"the checkpoint {path}")
    for name, checksum in manifest["files"].items():
        if zlib.crc32((path / name).read_bytes()) != checksum:
            raise ValueError(f"{name} has changed since it was written: its checksum differs")
    stored: dict[str, np.ndarray] = {}
    if manifest["files"]:
        with _orbax() as (checkpointer, args):
            stored = checkpointer.restore(path / "tree", args=args.PyTreeRestore())
    arrays = {name: _array(name, leaf, stored) for name, leaf in leaves.items()}
    return {name: HostLeaf(leaf["form"], arrays[name], leaf["generator"]) for name, leaf in leaves.items()}, manifest["info"]


def _check_space(folder: Path, needed: int) -> None:
    """Raise a clear error on a full disk before a file is begun, in most cases."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:,.1f} MB are needed, but only {free / 1e6:,.1f} MB are free")


@contextmanager
def _orbax() -> Iterator[tuple[Any, Any]]:
    """Yield an Orbax checkpointer and the module of its argument types.

    Orbax is imported here, since the import takes a quarter of a second. Its log is turned off: failures are reported by
    the warnings of `Checkpoints`.
    """
    with _ORBAX_LOCK:
        import orbax.checkpoint as ocp

        log = logging.getLogger("absl")
        level = log.level
        log.setLevel(logging.CRITICAL + 1)
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                yield checkpointer, ocp.args
        finally:
            log.setLevel(level)


def _describe(leaf: HostLeaf) -> dict[str, Any]:
    array = leaf.array
    kind = {"form": leaf.form, "generator": leaf.generator}
    return kind | {"dtype": array.dtype.name, "shape": array.shape, "checksum": _checksum(array)}


def _array(name: str, leaf: dict[str, Any], stored: dict[str, np.ndarray]) -> np.ndarray:
    """Undo `_storable`, and check the leaf against its description."""
    dtype, shape = np.dtype(leaf["dtype"]), tuple(leaf["shape"])
    array = np.zeros(shape, dtype) if 0 in shape else np.asarray(stored[name]).view(dtype).reshape(shape)
    if _checksum(array) != leaf["checksum"]:
        raise ValueError(f"leaf {name!r} has changed since it was written: its checksum differs")
    return array


def _storable(array: np.ndarray) -> np.ndarray:
    """Return the array itself, or its bytes for the short dtypes, only some of which TensorStore supports."""
    is_short = array.dtype.isbuiltin != 1 and array.dtype != ml_dtypes.bfloat16
    return array.reshape(-1).view(np.uint8) if is_short else array


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data) if array.size else 0


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True)


def _checksum_of_text(text: str) -> int:
    return zlib.crc32(text.encode())
