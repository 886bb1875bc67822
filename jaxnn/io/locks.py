"""A lock on a folder, which the operating system releases however the process that holds it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def locked(folder: Path) -> Any:
    """Lock a folder; the returned file holds the lock until it is closed, and is None where there are no locks.

    Raises:
        BlockingIOError: If the lock is held already, by this process or another one.
    """
    try:
        file = open(folder / ".lock", "a")  # noqa: SIM115
    except OSError:  # a folder that can only be read
        return None
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BlockingIOError(
            f"another run is using the checkpoints in {folder}: wait until it has ended, or choose another folder"
        ) from None
    except OSError:  # a network drive without locks
        file.close()
        return None
    return file
