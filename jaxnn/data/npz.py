"""The `.npz` format of NumPy, read with a bound on the memory that it takes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.data.unpacking import check_unpacked

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those of np.savez; zipfile unpacks others without a bound
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: Path, names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Read those of the named arrays that the file has.

    Args:
        path: The file.
        names: The names of the arrays.

    Returns:
        The arrays by name, and the names of all arrays in the file.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is not an .npz file, is damaged, contains Python objects, or unpacks to more than 64 MiB and more than
            100 times its size; the message names it.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is not an .npz file; create one with np.savez({path.name!r}, x=x, y=y)")
        with _damage(path):
            archive = zipfile.ZipFile(file)
            found = [member.filename.removesuffix(".npy") for member in archive.infolist()]
            members = {name: archive.getinfo(f"{name}.npy") for name in names if name in found}
            dtypes = [_dtype(archive, member) for member in members.values()]
            if repeated := [name for name in members if found.count(name) > 1]:
                raise ValueError(f"it has two arrays {repeated[0]}")
        if any(dtype.hasobject for dtype in dtypes):
            raise ValueError(f"{path} contains Python objects, which are not loaded; save numeric arrays")
        check_unpacked(path, sum(member.file_size for member in members.values()))
        with _damage(path):
            return {name: _array(archive, member) for name, member in members.items()}, found


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn every error into one kind: what damage leads to in zipfile, zlib and NumPy is not documented."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} is damaged: {error or type(error).__name__}") from error


def _dtype(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.dtype:
    """Read the dtype of an array; raise an error unless its header and its size agree, by which memory is reserved."""
    if member.compress_type not in _METHODS:
        raise ValueError(f"{member.filename} is compressed by another method than those of np.savez")
    with archive.open(member) as stream:
        version: Any = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"{member.filename} has the format version {version}, which arrays of numbers do not need")
        shape, _, dtype = _HEADERS[version](stream)
        expected = stream.tell() + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (expected != member.file_size or min(shape, default=0) < 0):
        raise ValueError(f"{member.filename} has {member.file_size} bytes, expected {expected} for {dtype}{list(shape)}")
    return dtype


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
