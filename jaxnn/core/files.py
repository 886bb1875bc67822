"""Files that appear completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A context that yields a temporary path beside a file, which replaces the file at its end.

    A reader, or an interruption at any moment, finds the old file or the new one. After an error, the old file stays.

    Args:
        path: The path of the file; where it is a link, the file that it leads to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(f"{folder}/numbers.txt") as temporary:
        ...         _ = temporary.write_text("1 2 3")
        ...     Path(folder, "numbers.txt").read_text()
        '1 2 3'
    """
    target = Path(os.path.realpath(Path(path).expanduser()))
    temporary = temporary_path(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """The path to which a file is written before it replaces `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")
