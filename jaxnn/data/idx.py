"""The IDX format of MNIST and similar data sets: http://yann.lecun.com/exdb/mnist, described in `read_idx`."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from pathlib import Path

import numpy as np

from jaxnn.data.unpacking import check_unpacked

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one IDX file, gzipped or plain.

    The file consists of two zero bytes, one byte for the dtype, one byte for the number of axes, the length of each axis as
    a big-endian uint32, and the values in C order, big-endian.

    Args:
        path: The file; its content, not its name, determines whether it is gzipped.

    Returns:
        The array, in native byte order.

    Raises:
        ValueError: If the file is not an IDX file, is truncated, is too long, or unpacks to more than 64 MiB and more than 100
            times its size; the message names it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "labels-idx1-ubyte")
        ...     _ = file.write_bytes(bytes([0, 0, 0x08, 1]) + (3).to_bytes(4, "big") + bytes([7, 8, 9]))
        ...     read_idx(file)
        array([7, 8, 9], dtype=uint8)
    """
    raw = _decompressed(path)
    if len(raw) < 4 or raw[:2] != b"\0\0":
        raise ValueError(f"{path} is not an IDX file: it begins with {raw[:4].hex(' ') or 'nothing'}, expected 00 00")
    code, rank = raw[2], raw[3]
    if code not in _DTYPES:
        known = ", ".join(f"0x{known:02x}" for known in _DTYPES)
        raise ValueError(f"{path} has the unknown dtype code 0x{code:02x}, expected one of {known}")
    header = 4 + 4 * rank
    if rank == 0 or len(raw) < header:
        raise ValueError(f"{path} ends inside its header: {len(raw)} bytes, {rank} axes")
    shape = tuple(int(length) for length in np.frombuffer(raw, ">u4", rank, offset=4))
    dtype = np.dtype(_DTYPES[code])
    expected = header + math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        fault = "truncated" if len(raw) < expected else "too long"
        raise ValueError(f"{path} is {fault}: {len(raw)} bytes, expected {expected} for shape {shape}")
    return np.frombuffer(raw, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))


def _decompressed(path: str | os.PathLike[str]) -> bytes:
    raw = Path(path).read_bytes()
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    unpacked = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            while chunk := file.read(2**20):
                unpacked += chunk
                check_unpacked(path, len(unpacked))
        return bytes(unpacked)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file: {error}") from error
