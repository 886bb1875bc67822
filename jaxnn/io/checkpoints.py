"""Checkpoints of a run: written in the background, whole or not at all, and checked bit by bit when they are read."""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from jaxnn.io import storage
from jaxnn.io.leaves import HostLeaf, LeavesDiffer, forms, from_host, to_host

_NAME = re.compile(r"(\d+)-step-(\d+)")
_DELETED = ".deleted"


class _Entry(NamedTuple):
    number: int  # counts the saves, so that the newest is the last written, whatever its step
    step: int
    path: Path


class Checkpoints:
    """A folder of checkpoints, for one run at a time.

    A checkpoint is a tree of arrays and a JSON description. It is written by Orbax in a thread of its own, under another
    name until it is complete: whatever ends the process, and however full the disk is, there are only whole ones, and
    the earlier are untouched. Each carries a checksum of every leaf and of the description, so that damage done later is
    noticed. Nothing is pickled. Without jaxnn, Orbax reads the arrays of a checkpoint from the folder `tree` in it, as
    a dict by path; `manifest.json` beside it is the description.

    Use it as a context manager, or call `close`: the interpreter's end does not wait for a save.

    Args:
        folder: where they are; made if it is not there.
        keep: how many to keep, the newest ones.
        best: `(name, "min" or "max")`: the one with the best metric of that name is kept besides.
        every: how many seconds lie between two saves for `due` to hold. `save` itself always saves.

    Raises:
        ImportError: Orbax is not installed.
        ValueError: `keep` is below 1, or `best` is not as above.

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
        self, folder: str | PathLike, *, keep: int = 3, best: tuple[str, str] | None = None, every: float = 0.0
    ) -> None:
        if not storage.is_installed():
            raise ImportError('checkpoints need Orbax: pip install "jaxnn[checkpoint]"')
        if keep < 1:
            raise ValueError(f"keep says how many checkpoints stay, at least 1; got {keep}")
        if best is not None and (not isinstance(best, tuple) or len(best) != 2 or best[1] not in ("min", "max")):
            raise ValueError(f'best takes the name of a metric and "min" or "max", as ("val_loss", "min"); got {best!r}')
        self.folder = Path(folder).expanduser().absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keep, self._best, self.every = keep, best, every
        self._begun = -math.inf
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._metrics: dict[str, dict] = {}

    def within(self, name: str) -> Checkpoints:
        """A store of the same kind in a folder of this one, for one of several runs.

        Args:
            name: of the folder.

        Returns:
            The store.
        """
        return Checkpoints(self.folder / name, keep=self._keep, best=self._best, every=self.every)

    def due(self) -> bool:
        """Whether `every` seconds have passed since the last save began.

        Returns:
            Whether it is time.
        """
        return time.monotonic() - self._begun >= self.every

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

        When this returns, the tree's buffers may be donated. The save before this one is waited for. One that fails, as
        for want of space, does not end the run: it is reported by a warning, at the next call of `save`, `restore`,
        `wait` or `close`, and leaves the earlier checkpoints as they were; the next save tries again.

        Args:
            step: how far the run is. A checkpoint of the same step is replaced once the new one is complete.
            tree: any pytree of arrays: bits, dtypes and typed random keys come back as they are.
            info: what belongs to it, as JSON can hold it; NumPy's and JAX's numbers are taken, too.
            metrics: what is known of this step by name, for `best`.
            wait: return when it is written.

        Raises:
            TypeError: a leaf is no array, or `info` holds what JSON cannot.
            ValueError: `metrics` lacks the one that `best` names.

        Warns:
            RuntimeWarning: a save failed.
        """
        if self._best is not None and metrics is not None and self._best[0] not in metrics:
            raise ValueError(f"best={self._best!r} names none of the metrics, which are {', '.join(metrics) or 'none'}")
        self._finish()
        self._begun = time.monotonic()
        described = json.dumps({"info": info or {}, "metrics": metrics or {}}, default=_as_number)
        work = (int(step), to_host(tree), described)
        self._thread = threading.Thread(target=self._write, args=work, name=f"checkpoint of step {step}")
        self._thread.start()
        if wait:
            self._finish()

    def restore(self, like: Any, *, step: int | None = None) -> tuple[Any, dict[str, Any]] | None:
        """Read the newest checkpoint that is sound.

        Args:
            like: a tree of arrays, or of `jax.ShapeDtypeStruct`, as the one that was saved. Leaves come to the devices
                where its leaves are, and into NumPy's memory where it has NumPy arrays.
            step: read the checkpoint of this step only.

        Returns:
            `(tree, info)`, or `None` if there is no sound checkpoint.

        Raises:
            ValueError: the checkpoint is of another model or optimizer, whose leaves have other paths, shapes or dtypes;
                or there is none of the step that was asked for.

        Warns:
            RuntimeWarning: a damaged checkpoint was passed over.
        """
        expected = forms(like)
        self._finish()
        entries = self._entries()
        if step is not None:
            entries = [entry for entry in entries if entry.step == step]
            if not entries:
                raise ValueError(f"{self.folder} has no checkpoint of step {step}; there are {self.steps() or 'none'}")
        for entry in entries:
            try:
                arrays, info = storage.read(entry.path, expected)
            except LeavesDiffer:
                raise
            except Exception as error:  # whatever Orbax and what it stands on make of a damaged file
                warnings.warn(f"passed over a damaged checkpoint, {entry.path}: {_said(error)}", RuntimeWarning, stacklevel=2)
            else:
                return from_host(arrays, like), info
        return None

    def steps(self) -> list[int]:
        """The steps there are checkpoints of, in the order they were written.

        Returns:
            The steps, the oldest checkpoint's first.
        """
        return [entry.step for entry in reversed(self._entries())]

    def best(self) -> int | None:
        """The step with the best metric, or `None` if no checkpoint has it.

        Returns:
            The step, or `None`.

        Raises:
            ValueError: the store was made without `best`.
        """
        if self._best is None:
            raise ValueError('which step is the best needs a metric: Checkpoints(folder, best=("val_loss", "min"))')
        entry = self._best_of(self._entries())
        return None if entry is None else entry.step

    def wait(self) -> None:
        """Wait until what was to be saved is.

        Warns:
            RuntimeWarning: the save failed.
        """
        self._finish()

    def close(self) -> None:
        """The same as `wait`, for the end."""
        self._finish()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()

    def _finish(self) -> None:
        """Wait, and say to the caller's caller what failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            warnings.warn(failure, RuntimeWarning, stacklevel=3)

    def _entries(self) -> list[_Entry]:
        """The checkpoints, newest first; of those of one step the newest only."""
        matches = [(_NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        newest: dict[int, _Entry] = {}
        for entry in sorted((_Entry(int(m[1]), int(m[2]), path) for m, path in matches if m), reverse=True):
            newest.setdefault(entry.step, entry)
        return list(newest.values())

    def _best_of(self, entries: list[_Entry]) -> _Entry | None:
        name, mode = self._best or ("", "")
        scores = {entry: self._metrics_of(entry).get(name, math.nan) for entry in entries}
        known = [entry for entry, score in scores.items() if isinstance(score, int | float) and not math.isnan(score)]
        return (min if mode == "min" else max)(known, key=scores.__getitem__, default=None)

    def _metrics_of(self, entry: _Entry) -> dict[str, float]:
        if entry.path.name not in self._metrics:
            try:
                self._metrics[entry.path.name] = storage.read_manifest(entry.path)["metrics"]
            except Exception:  # a damaged one has none; `restore` says so
                self._metrics[entry.path.name] = {}
        return self._metrics[entry.path.name]

    def _write(self, step: int, leaves: dict[str, HostLeaf], described: str) -> None:
        """What the thread does; a failure is left for `_finish` to report."""
        what = f"the checkpoint of step {step} could not be written to {self.folder}; the next save tries again"
        try:
            self._remove_left_over()
            number = 1 + max((entry.number for entry in self._entries()), default=0)
            name, content = f"{number:06d}-step-{step}", json.loads(described)
            storage.write(self.folder / name, leaves, content)
            self._metrics[name] = content["metrics"]
            what = f"checkpoints that are no longer to be kept could not be removed from {self.folder}"
            self._tidy()
        except Exception as error:
            self._failure = f"{what}. {_said(error)}"
            with suppress(OSError):
                self._remove_left_over()

    def _tidy(self) -> None:
        entries = self._entries()
        best = self._best_of(entries) if self._best else None
        stay = {entry.path for entry in [*entries[: self._keep], best] if entry is not None}
        for path in self.folder.iterdir():
            if _NAME.fullmatch(path.name) and path not in stay:
                path.rename(path.with_name(path.name + _DELETED))  # so that none is ever there in part
        self._remove_left_over()

    def _remove_left_over(self) -> None:
        for path in self.folder.iterdir():
            if path.name.endswith((storage.PARTIAL, _DELETED)) and _NAME.match(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _as_number(value: Any) -> Any:
    """What JSON does not know: a number of NumPy's or JAX's, or an array of them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a checkpoint's info and metrics must be what JSON can hold, got {value!r}")


def _said(error: BaseException) -> str:
    """The error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
