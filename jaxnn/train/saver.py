"""The checkpoints of `fit`: when they are written, what they contain, and whether a run may continue from them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax
import numpy as np

from jaxnn.train.history import History
from jaxnn.train.identity import difference
from jaxnn.train.rows import TIMES, packed, unpacked
from jaxnn.train.state import TrainState

SECONDS = 60.0  # between two saves if only a folder is given
EPOCHS = 1024  # of the history that are packed at a time, and only once


class Saver:
    """Saves and restores a run of `fit`.

    Args:
        checkpoints: An `nn.io.Checkpoints`, or the path of a folder.
        epochs: The number of epochs of the run.
        identity: `identity(epochs)`, what the run of a number of epochs depends on.
        numbers: The names of the numbers in the history, for the store's `best`.

    Raises:
        ValueError: If the store's `best` names none of the numbers.
    """

    def __init__(self, checkpoints: Any, epochs: int, identity: Callable[[int], dict[str, Any]], numbers: list[str]):
        self._store = stored(checkpoints, SECONDS)
        self._store.check_metrics(numbers)
        self._within_epochs = checkpoints is not self._store or self._store.every > 0
        self._epochs, self._identity = epochs, identity
        self._saved: tuple[int, int] | None = None
        self._packed: list[dict[str, Any]] = []  # the history so far, `EPOCHS` rows per entry

    @property
    def each_epoch(self) -> bool:
        """Whether each epoch may be saved, so that no call of the program may go beyond the end of one."""
        return self._store.keeps_best or not self._store.every

    def restored(self, start: TrainState) -> tuple[TrainState, History]:
        """Restore the last intact checkpoint; without one, return `start` and an empty history.

        Raises:
            BlockingIOError: If another run uses the folder.
            ValueError: If the checkpoint is from another run.
        """
        self._store.claim()
        try:
            return self._restored(start)
        except BaseException:
            self._store.release()
            raise

    def _restored(self, start: TrainState) -> tuple[TrainState, History]:
        found = read(self._store, start)
        if found is None:
            return start, History()
        train_state, info = found
        epochs = info.get("epochs", self._epochs)
        if not np.array_equal(jax.random.key_data(train_state.key), jax.random.key_data(start.key)):
            raise of_another_run(self._store.folder, "a run with another key")
        if differing := difference(info["run"], self._identity(epochs)):
            error = of_another_run(self._store.folder, f"another run: {differing}")
            raise type(error)(f"{error}; to go on from its weights on purpose, pass them as initial= with another folder")
        self._saved = self._step_and_epoch(train_state)
        rows = info["history"] if "history" in info else [row for part in info["rows"] for row in unpacked(part)]
        return train_state, History(rows)

    def save_if_due(self, train_state: TrainState, history: History, epoch_ended: bool) -> None:
        """Save in the background if a save is due."""
        if (epoch_ended or self._within_epochs) and self._store.due(self._metrics(train_state, history)):
            self._save(train_state, history, wait=False)

    def save_last(self, train_state: TrainState, history: History) -> None:
        """Save unless the last checkpoint is up to date, and wait until it is written."""
        self._store.wait()
        if not self._is_saved(train_state):
            self._save(train_state, history, wait=True)

    def release(self) -> None:
        """Let other runs use the folder."""
        self._store.release()

    def _is_saved(self, train_state: TrainState) -> bool:
        with suppress(OSError):  # the folder is gone: the save says so
            return self._saved == self._step_and_epoch(train_state) and self._store.steps()[-1:] == [int(train_state.step)]
        return False

    def _save(self, train_state: TrainState, history: History, *, wait: bool) -> None:
        while len(history._rows) >= (len(self._packed) + 1) * EPOCHS:
            self._packed.append(packed(history._rows[len(self._packed) * EPOCHS :][:EPOCHS]))
        rows = [*self._packed, packed(history._rows[len(self._packed) * EPOCHS :])]
        info = {"run": self._identity(self._epochs), "epochs": self._epochs, "rows": rows}
        self._store.save(int(train_state.step), train_state, info, metrics=self._metrics(train_state, history), wait=wait)
        self._saved = self._step_and_epoch(train_state)

    @staticmethod
    def _metrics(train_state: TrainState, history: History) -> dict[str, float] | None:
        """The numbers of the epoch that has just ended, or None within an epoch."""
        last = history.last if int(train_state.position) == 0 else {}
        return {name: value for name, value in last.items() if isinstance(value, float) and name not in TIMES} or None

    @staticmethod
    def _step_and_epoch(train_state: TrainState) -> tuple[int, int]:
        return int(train_state.step), int(train_state.epoch)


def stored(checkpoints: Any, seconds: float) -> Any:
    """The `Checkpoints` that were given, or new ones for the folder that was given."""
    from jaxnn.io import Checkpoints

    return checkpoints if isinstance(checkpoints, Checkpoints) else Checkpoints(checkpoints, every=seconds)


def read(store: Any, like: Any) -> Any:
    """What the store restores; if the leaves are of other forms, the error says what to do."""
    from jaxnn.io.leaves import MismatchError

    try:
        return store.restore(like)
    except MismatchError as error:
        raise MismatchError(f"{error}\n{TO_MEND}") from error


def of_another_run(folder: Any, what: str) -> ValueError:
    """The error about the checkpoints of another run."""
    from jaxnn.io.leaves import MismatchError

    return MismatchError(f"the checkpoints in {folder} are of {what}. {TO_MEND}")


TO_MEND = "To continue it, give what it had; to begin another one, choose another folder"
