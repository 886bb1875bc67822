"""The checkpoints of `fit`: when they are written, what they contain, and whether a run may continue from them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxnn.train.history import History
from jaxnn.train.rows import TIMES
from jaxnn.train.state import TrainState

SECONDS = 60.0  # between two saves if only a folder is given


class Saver:
    """Saves and restores a run of `fit`."""

    def __init__(self, checkpoints: Any, batch_size: int, samples: int):
        from jaxnn.io import Checkpoints

        self._store = checkpoints if isinstance(checkpoints, Checkpoints) else Checkpoints(checkpoints, every=SECONDS)
        self._within_epochs = checkpoints is not self._store or self._store.every > 0
        self._run = {"batch_size": batch_size, "samples": samples}
        self._saved: tuple[int, int] | None = None

    def restored(self, start: TrainState) -> tuple[TrainState, History]:
        """Restore the last intact checkpoint; without one, return `start` and an empty history.

        Raises:
            ValueError: If the checkpoint is from another run.
        """
        from jaxnn.io.leaves import MismatchError

        found = self._store.restore(start)
        if found is None:
            return start, History()
        train_state, info = found
        if not np.array_equal(jax.random.key_data(train_state.key), jax.random.key_data(start.key)):
            raise MismatchError(
                f"the checkpoints in {self._store.folder} are from a run with another key: pass that key, or another folder"
            )
        if info["run"] != self._run:
            raise MismatchError(
                f"the checkpoints in {self._store.folder} are from a run with {info['run']}, and this run has {self._run}, so "
                "its batches would differ: choose another folder"
            )
        self._saved = self._step_and_epoch(train_state)
        return train_state, History(info["history"])

    def save_if_due(self, train_state: TrainState, history: History, epoch_ended: bool) -> None:
        """Save in the background if a save is due."""
        if (epoch_ended or self._within_epochs) and self._store.due():
            self._save(train_state, history, wait=False)

    def save_last(self, train_state: TrainState, history: History) -> None:
        """Save unless the last checkpoint is up to date, and wait until it is written."""
        self._store.wait()
        if self._saved != self._step_and_epoch(train_state) or self._store.steps()[-1:] != [int(train_state.step)]:
            self._save(train_state, history, wait=True)

    def _save(self, train_state: TrainState, history: History, *, wait: bool) -> None:
        rows = history.rows
        last = rows[-1] if rows and int(train_state.position) == 0 else {}
        metrics = {name: value for name, value in last.items() if isinstance(value, float) and name not in TIMES}
        info = {"run": self._run, "history": rows}
        self._store.save(int(train_state.step), train_state, info, metrics=metrics or None, wait=wait)
        self._saved = self._step_and_epoch(train_state)

    @staticmethod
    def _step_and_epoch(train_state: TrainState) -> tuple[int, int]:
        return int(train_state.step), int(train_state.epoch)
