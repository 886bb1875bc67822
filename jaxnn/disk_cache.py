"""Compiled programs on disk: JAX's persistent compilation cache, in the user's cache folder and for small programs too."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import jax

from jaxnn import _jax

MOST_BYTES = 2**30  # kept from one process to the next; the oldest programs are removed first


def compilation_cache(folder: str | os.PathLike | None = None) -> Path | None:
    """Keep compiled programs on disk, where later processes find them instead of compiling.

    It concerns all programs that JAX compiles from now on, and numbers are the same bits with it and without it. JAX's own
    settings come first: a folder that is set by `JAX_COMPILATION_CACHE_DIR` or `jax_compilation_cache_dir` stays, and
    `JAX_ENABLE_COMPILATION_CACHE=false` switches it off. A damaged file is skipped with a warning, and its program is compiled.
    Beyond 1 GiB, the oldest files are removed.

    Args:
        folder: The folder; by default `jaxnn` in the user's cache folder, such as `$XDG_CACHE_HOME` or `~/.cache`. Each kind
            of processor has a folder of its own inside, as programs for one may not run on another.

    Returns:
        The folder that is used, or `None` if the cache is off.

    Warns:
        RuntimeWarning: The folder cannot be written; nothing is kept, and nothing else changes.

    Example:
        >>> import jaxnn as nn
        >>> folder = nn.compilation_cache()  # such as /home/me/.cache/jaxnn/x86_64-2f6c1a9d
    """
    if not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    known = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder is None and known:
        _keep_small_programs()
        return Path(known)
    try:
        path = (_user_folder() / "jaxnn" if folder is None else Path(folder).expanduser().absolute()) / _processor()
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        _prune(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        warnings.warn(f"compiled programs are not kept for the next process: {error}", RuntimeWarning, stacklevel=2)
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    _keep_small_programs()
    _jax.reset_compilation_cache()
    return path


def _keep_small_programs() -> None:
    """JAX keeps only programs that took a second to compile, unless the user has set other limits."""
    defaults = {"jax_persistent_cache_min_compile_time_secs": (1.0, 0.0), "jax_persistent_cache_min_entry_size_bytes": (0, -1)}
    for name, (default, ours) in defaults.items():
        if getattr(jax.config, name) == default and name.upper() not in os.environ:
            jax.config.update(name, ours)


def _user_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return given if given.is_absolute() else Path.home() / ".cache"  # other paths are to be ignored, says the XDG standard


def _processor() -> str:
    """The architecture, and a hash of the processor's features, for which XLA compiles."""
    features = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):  # not Linux, or a processor that lists none
        pass
    return f"{platform.machine()}-{hashlib.blake2b(features.encode(), digest_size=4).hexdigest()}"


def _prune(folder: Path) -> None:
    """Remove the oldest files, until what is left is not larger than `MOST_BYTES`."""
    files = []
    for file in filter(Path.is_file, folder.iterdir()):  # XLA has folders of its own inside
        with suppress(FileNotFoundError):  # another process has removed it
            files.append((file.stat(), file))
    size = 0
    for stat, file in sorted(files, key=lambda pair: -pair[0].st_mtime):
        size += stat.st_size
        if size > MOST_BYTES:
            file.unlink(missing_ok=True)
