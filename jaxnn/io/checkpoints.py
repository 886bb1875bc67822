"""Checkpoints of a run: written in the background, complete or not at all, and verified bit by bit when they are read."""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from jaxnn.core.direction import better
from jaxnn.io import storage
from jaxnn.io.leaves import HostLeaf, MismatchError, forms, from_host, to_host
from jaxnn.io.locks import locked

_NAME = re.compile(r"(\d+)-step-(\d+)")
_DELETED = ".deleted"


class _Entry(NamedTuple):
    number: int  # counts the saves: the newest checkpoint is the one written last, whatever its step
    step: int
    path: Path
    metrics: dict[str, Any]


class Checkpoints:
    """A folder of checkpoints, for one run at a time.

    A checkpoint consists of a tree of arrays and a JSON description. Orbax writes it in a separate thread, under a
    temporary name until it is complete: a killed process or a full disk leaves neither an incomplete checkpoint nor
    damage to earlier ones. A checkpoint contains checksums of every leaf and of the description, so that later damage
    is detected, and it knows its own step, whatever name its folder is given. Nothing is pickled. Orbax can read a
    checkpoint without jaxnn: the folder `tree` contains the arrays, as a dict by path, and `manifest.json` the description.

    Use it as a context manager or call `close`: the interpreter does not wait for a save when it exits.

    Args:
        folder: The folder of the checkpoints, created if it does not exist.
        keep: The number of checkpoints to keep; the newest ones are kept.
        best: The name of a metric, such as `"val_accuracy"`, or `(name, "min" or "max")` where the name does not say which
            way is better. The checkpoint with the best metric of that name is kept in addition; of equal ones, the first.
        every: The least time in seconds between two saves, for `due`. `save` itself always saves.

    Raises:
        ImportError: Orbax is not installed.
        ValueError: If `keep` is below 1, `best` is neither a name nor such a pair, or its name does not say which way is
            better.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from jaxnn.io import Checkpoints
        >>> params = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
        >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, keep=2) as store:
        ...     for step in (10, 20, 30):
        ...         store.save(step, params, {"epoch": step // 10})
        ...     restored, info = store.restore(params)
        ...     print(store.steps(), info, restored["dense"]["bias"])
        [20, 30] {'epoch': 3} [0. 0.]
    """

    def __init__(
        self, folder: str | PathLike, *, keep: int = 3, best: str | tuple[str, str] | None = None, every: float = 0.0
    ) -> None:
        if not storage.is_installed():
            raise ImportError('checkpoints require Orbax: pip install "jaxnn[checkpoint]"')
        if keep < 1:
            raise ValueError(f"keep is the number of checkpoints to keep, at least 1; got {keep}")
        if isinstance(best, str):
            best = best, better(best)
        if best is not None and (not isinstance(best, tuple) or len(best) != 2 or best[1] not in ("min", "max")):
            raise ValueError(
                'best is the name of a metric, such as "val_loss", or a name and "min" or "max", such as ("speed", "max"); '
                f"got {best!r}"
            )
        self.folder = Path(folder).expanduser().absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keep, self._best, self.every = keep, best, every
        self._last_begun = -math.inf
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._failing = False  # the last save failed, and was reported
        self._known: dict[tuple, tuple[int, int, dict]] = {}  # number, step and metrics by manifest
        self._best_score: float | None = None  # of all saves so far; None if it must be looked up
        self._lock: Any = None

    def within(self, name: str) -> Checkpoints:
        """Return a store with the same options in a subfolder, for one of several runs.

        Args:
            name: The name of the subfolder.

        Returns:
            The store.
        """
        return Checkpoints(self.folder / name, keep=self._keep, best=self._best, every=self.every)

    @property
    def keeps_best(self) -> bool:
        """Whether the store was created with `best`."""
        return self._best is not None

    def claim(self) -> None:
        """Reserve the folder for the caller until `release`; `fit` and `sweep` do so while they run.

        The operating system releases it if the process ends in any way. Without support for locks, as on Windows and some
        network drives, nothing is reserved.

        Raises:
            BlockingIOError: If another run, of this process or another one, has reserved it.
        """
        if self._lock is None:
            self._lock = locked(self.folder)

    def release(self) -> None:
        """Undo `claim`."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check_metrics(self, names: Iterable[str]) -> None:
        """Check that `best` is one of the metrics of a run.

        Args:
            names: The names of the metrics.

        Raises:
            ValueError: If it is not.
        """
        if self._best is not None and self._best[0] not in names:
            raise ValueError(
                f"best={self._best!r} names a metric that was not given; the metrics are {', '.join(names) or 'none'}"
            )

    def due(self, metrics: Mapping[str, float] | None = None) -> bool:
        """Return whether a save is due: at least `every` seconds since the last one began, or a new best metric.

        Args:
            metrics: The metrics of the step, for `best`.

        Returns:
            Whether a save is due.
        """
        return time.monotonic() - self._last_begun >= self.every or self._improves(metrics)

    def save(
        self,
        step: int,
        tree: Any,
        info: Mapping[str, Any] | None = None,
        *,
        metrics: Mapping[str, float] | None = None,
        wait: bool = False,
    ) -> None:
        """Copy the tree to the host and write it in the background.

        The tree's buffers may be donated once this returns. The call waits for the previous save. A save that fails,
        for example because the disk is full, does not end the run: the next call of `save`, `restore`, `wait` or `close`
        reports it by a warning, the earlier checkpoints are unchanged, and the next save tries again. If that fails as
        well, there is no other warning, until a save has succeeded.

        Args:
            step: The step of the run. A checkpoint of the same step is replaced once the new one is complete.
            tree: Any pytree of arrays. Bits, dtypes and typed random keys are restored exactly.
            info: Additional information that JSON can represent; NumPy and JAX numbers and arrays are converted.
            metrics: Metrics of this step by name, for `best`.
            wait: Whether to return only after the checkpoint is written.

        Raises:
            TypeError: A leaf is not an array, or `info` contains a value that JSON cannot represent.
            ValueError: `metrics` lacks the metric that `best` names.

        Warns:
            RuntimeWarning: The previous save failed.
        """
        if metrics is not None:
            self.check_metrics(metrics)
        self._finish()
        if self._improves(metrics):
            self._best_score = self._score(metrics)
        self._last_begun = time.monotonic()
        description = json.dumps({"info": info or {}, "metrics": metrics or {}}, default=_to_json)
        arguments = (int(step), to_host(tree), description)
        self._thread = threading.Thread(target=self._write, args=arguments, name=f"checkpoint of step {step}")
        self._thread.start()
        if wait:
            self._finish()

    def restore(self, like: Any, *, step: int | None = None) -> tuple[Any, dict[str, Any]] | None:
        """Read the newest intact checkpoint.

        Args:
            like: A tree of arrays or of `jax.ShapeDtypeStruct` with the structure of the saved tree. Each leaf is placed
                on the devices of the corresponding leaf, or becomes a NumPy array if that leaf is one.
            step: Read only the checkpoint of this step.

        Returns:
            `(tree, info)`, or `None` if there is no intact checkpoint.

        Raises:
            ValueError: The checkpoint belongs to another model or optimizer, whose leaves have other paths, shapes or
                dtypes; or there is no checkpoint of the requested step.

        Warns:
            RuntimeWarning: A damaged checkpoint was skipped.
        """
        expected = forms(like)
        self._finish()
        entries = self._entries()
        if step is not None:
            entries = [entry for entry in entries if entry.step == step]
            if not entries:
                raise ValueError(f"{self.folder} has no checkpoint of step {step}; available steps: {self.steps() or 'none'}")
        for entry in entries:
            try:
                arrays, info = storage.read(entry.path, expected)
            except MismatchError:
                raise
            except Exception as error:  # Orbax and its libraries raise many types on a damaged file
                warnings.warn(f"skipped a damaged checkpoint, {entry.path}: {_one_line(error)}", RuntimeWarning, stacklevel=2)
            else:
                return from_host(arrays, like), info
        return None

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints, in the order in which they were written.

        Returns:
            The steps, that of the oldest checkpoint first.
        """
        return [entry.step for entry in reversed(self._entries())]

    def best(self) -> int | None:
        """Return the step with the best metric, or `None` if no checkpoint has that metric.

        Returns:
            The step, or `None`.

        Raises:
            ValueError: The store was created without `best`.
        """
        if self._best is None:
            raise ValueError('the best step requires a metric to compare: Checkpoints(folder, best="val_loss")')
        entry = self._best_of(self._entries())
        return None if entry is None else entry.step

    def wait(self) -> None:
        """Wait until the last save is complete.

        Warns:
            RuntimeWarning: The save failed.
        """
        self._finish()

    def close(self) -> None:
        """Wait for the last save, as `wait` does; to be called at the end."""
        self._finish()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()

    def _finish(self) -> None:
        """Wait for the save; if it failed, warn at the line that called the public method."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            self._best_score = None
            if not self._failing:
                self._failing = True
                warnings.warn(failure, RuntimeWarning, stacklevel=3)

    def _entries(self) -> list[_Entry]:
        """Return the checkpoints, newest first; only the newest one of each step."""
        newest: dict[int, _Entry] = {}
        paths = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        for entry in sorted(map(self._entry, paths), key=lambda entry: entry.number, reverse=True):
            newest.setdefault(entry.step, entry)
        return list(newest.values())

    def _entry(self, path: Path) -> _Entry:
        """Number, step and metrics as in the manifest; those of the name if the manifest is damaged or has none."""
        try:
            status = (path / "manifest.json").stat()
            key = path.name, status.st_ino, status.st_mtime_ns
            if key not in self._known:
                content = storage.read_manifest(path)
                self._known[key] = content["number"], content["step"], content["metrics"]
            return _Entry(*self._known[key][:2], path, self._known[key][2])
        except Exception:  # `restore` reports it
            match = _NAME.fullmatch(path.name)
            assert match is not None
            return _Entry(int(match[1]), int(match[2]), path, {})

    def _best_of(self, entries: list[_Entry]) -> _Entry | None:
        """The entry with the best metric; of equal ones, the oldest."""
        known = [entry for entry in reversed(entries) if not math.isnan(self._score(entry.metrics))]
        return min(known, key=lambda entry: self._score(entry.metrics), default=None)

    def _score(self, metrics: Mapping[str, Any] | None) -> float:
        """The metric of `best`, smaller for better ones; NaN if there is none."""
        name, mode = self._best or ("", "")
        value = (metrics or {}).get(name)
        return math.nan if not isinstance(value, int | float) else -value if mode == "max" else value

    def _improves(self, metrics: Mapping[str, float] | None) -> bool:
        score = self._score(metrics)
        if math.isnan(score):
            return False
        if self._best_score is None:
            best = None
            with suppress(OSError):  # the folder is gone: the save says so
                best = self._best_of(self._entries())
            self._best_score = math.inf if best is None else self._score(best.metrics)
        return score < self._best_score

    def _write(self, step: int, leaves: dict[str, HostLeaf], description: str) -> None:
        """Write a checkpoint and remove old ones, in the thread; `_finish` reports a failure."""
        failed = f"the checkpoint of step {step} could not be written to {self.folder}; the next save tries again"
        try:
            self._remove_leftovers()
            named = (int(match[1]) for path in self.folder.iterdir() if (match := _NAME.match(path.name)))
            number = 1 + max([0, *named, *(entry.number for entry in self._entries())])
            content = json.loads(description) | {"number": number, "step": step}
            storage.write(self.folder / f"{number:06d}-step-{step}", leaves, content)
            self._failing = False
            failed = f"old checkpoints could not be removed from {self.folder}"
            self._remove_old()
        except Exception as error:
            self._failure = f"{failed}. {_one_line(error)}"
            with suppress(OSError):
                self._remove_leftovers()

    def _remove_old(self) -> None:
        entries = self._entries()
        best = self._best_of(entries) if self._best else None
        kept = {entry.path for entry in [*entries[: self._keep], best] if entry is not None}
        for path in self.folder.iterdir():
            if _NAME.fullmatch(path.name) and path not in kept:
                path.rename(path.with_name(path.name + _DELETED))  # never visible with files missing
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        for path in self.folder.iterdir():
            if path.name.endswith((storage.PARTIAL, _DELETED)) and _NAME.match(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _to_json(value: Any) -> Any:
    """Convert NumPy and JAX numbers and arrays, which `json` does not support."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"the info and metrics of a checkpoint must be values that JSON can represent, got {value!r}")


def _one_line(error: BaseException) -> str:
    """Return type and message of the error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
