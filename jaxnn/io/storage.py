"""One checkpoint on disk: the leaves as Orbax writes them, and a manifest that says what each leaf and file must be.

Checksums of the files show damage before Orbax meets it; those of the leaves, that the arrays are what was given.
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

PARTIAL = ".partial"  # what the name of an incomplete checkpoint ends with
_ONE_AT_A_TIME = threading.Lock()


def is_installed() -> bool:
    """Whether Orbax is, which is not imported to see it."""
    try:
        return importlib.util.find_spec("orbax.checkpoint") is not None
    except ModuleNotFoundError:  # nor is the package it lies in
        return False


def write(path: Path, leaves: Mapping[str, HostLeaf], described: Mapping[str, Any]) -> None:
    """Write a checkpoint, which is at `path` when it is complete; `described` is what its manifest holds besides."""
    _check_space(path.parent, sum(leaf.array.nbytes for leaf in leaves.values()))
    partial = path.with_name(path.name + PARTIAL)
    partial.mkdir()
    if arrays := {name: _storable(leaf.array) for name, leaf in leaves.items() if leaf.array.size}:  # Orbax refuses empty ones
        with _orbax() as (checkpointer, args):
            checkpointer.save(partial / "tree", args=args.PyTreeSave(arrays))
    files = {str(file.relative_to(partial)): file for file in partial.rglob("*") if file.is_file()}
    content = {
        **described,
        "leaves": {name: _description(leaf) for name, leaf in leaves.items()},
        "files": {name: zlib.crc32(file.read_bytes()) for name, file in files.items()},
    }
    with open(partial / "manifest.json", "w") as manifest:
        json.dump({"checksum": _checksum_of_text(content), "content": content}, manifest)
        manifest.flush()
        os.fsync(manifest.fileno())
    partial.rename(path)


def read_manifest(path: Path) -> dict[str, Any]:
    """What `write` was told, and what it says of the leaves and files.

    Raises:
        Exception: of any kind, if it is damaged.
    """
    manifest = json.loads((path / "manifest.json").read_bytes())
    if manifest["checksum"] != _checksum_of_text(manifest["content"]):
        raise ValueError("manifest.json is not what was written, as its checksum shows")
    return manifest["content"]


def read(path: Path, expected: Mapping[str, str]) -> tuple[dict[str, HostLeaf], dict[str, Any]]:
    """The leaves and the `info` of a checkpoint.

    Raises:
        LeavesDiffer: it is sound as far as its manifest goes, but its leaves have not the forms that are expected.
        Exception: of any kind, if it is damaged.
    """
    manifest = read_manifest(path)
    leaves = manifest["leaves"]
    check_forms({name: leaf["form"] for name, leaf in leaves.items()}, expected, f"the checkpoint {path}")
    for name, checksum in manifest["files"].items():
        if zlib.crc32((path / name).read_bytes()) != checksum:
            raise ValueError(f"{name} is not what was written, as its checksum shows")
    stored: dict[str, np.ndarray] = {}
    if manifest["files"]:
        with _orbax() as (checkpointer, args):
            stored = checkpointer.restore(path / "tree", args=args.PyTreeRestore())
    arrays = {name: _array(name, leaf, stored) for name, leaf in leaves.items()}
    return {name: HostLeaf(leaf["form"], arrays[name], leaf["generator"]) for name, leaf in leaves.items()}, manifest["info"]


def _check_space(folder: Path, needed: int) -> None:
    """Most full disks are met here, in words, and not in the middle of a file."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:,.1f} MB are needed, and {free / 1e6:,.1f} MB are free")


@contextmanager
def _orbax() -> Iterator[tuple[Any, Any]]:
    """A checkpointer of Orbax's and the kinds of its arguments.

    Imported here, since that takes a quarter of a second. Silent: what fails is said by a warning of ours.
    """
    with _ONE_AT_A_TIME:
        import orbax.checkpoint as ocp

        log = logging.getLogger("absl")
        level = log.level
        log.setLevel(logging.CRITICAL + 1)
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                yield checkpointer, ocp.args
        finally:
            log.setLevel(level)


def _description(leaf: HostLeaf) -> dict[str, Any]:
    array = leaf.array
    kind = {"form": leaf.form, "generator": leaf.generator}
    return kind | {"dtype": array.dtype.name, "shape": array.shape, "checksum": _checksum(array)}


def _array(name: str, leaf: dict[str, Any], stored: dict[str, np.ndarray]) -> np.ndarray:
    """The leaf as it was before `_storable`, if it is what its description says."""
    dtype, shape = np.dtype(leaf["dtype"]), tuple(leaf["shape"])
    array = np.zeros(shape, dtype) if 0 in shape else np.asarray(stored[name]).view(dtype).reshape(shape)
    if _checksum(array) != leaf["checksum"]:
        raise ValueError(f"leaf {name!r} is not what was written, as its checksum shows")
    return array


def _storable(array: np.ndarray) -> np.ndarray:
    """The array itself, or its bytes if it has one of the short dtypes, of which TensorStore knows only some."""
    is_short = array.dtype.isbuiltin != 1 and array.dtype != ml_dtypes.bfloat16
    return array.reshape(-1).view(np.uint8) if is_short else array


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data) if array.size else 0


def _checksum_of_text(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
