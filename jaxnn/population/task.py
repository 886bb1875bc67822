"""A task: what sweeps, searches and resampling train, checked and made ready."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxnn import _jax
from jaxnn.core.checks import check_key, whole
from jaxnn.population.group_run import GroupRun
from jaxnn.population.groups import groups_of
from jaxnn.population.result import Sweep
from jaxnn.population.saver import Saver
from jaxnn.population.scheduler import Scheduler, Strategy, strategy_for
from jaxnn.population.space import Setting, settings_of
from jaxnn.problem.batches import abstract_batch, leading_size
from jaxnn.problem.checks import checked_data
from jaxnn.problem.holdout import held_out
from jaxnn.problem.hyperparameters import loss_of, model_of
from jaxnn.problem.labels import labels_of
from jaxnn.problem.objective import Objective
from jaxnn.train.config import TrainingConfig
from jaxnn.train.hooks import Callback
from jaxnn.train.interrupts import deferred_interrupt
from jaxnn.train.mistakes import mistakes
from jaxnn.train.watching import NotebookLine, Watching, in_notebook, is_terminal, say

LINE_SECONDS = 10.0  # between two lines of progress


@dataclass
class Task:
    """Settings, seeds and data to be trained.

    Attributes:
        settings: The settings, by number.
        seeds: The seeds' numbers.
        key: The key of the whole sweep.
        runs: The groups in training.
        data: The data on the device.
        validation: The validation data on the device, or None.
        strategy: How members are trained.
        start_time: When the sweep started, as `time.perf_counter` tells it.
    """

    settings: list[Setting]
    seeds: list[int]
    key: jax.Array
    runs: list[GroupRun]
    data: Any
    validation: Any
    strategy: Strategy
    start_time: float

    @classmethod
    def of(
        cls,
        model: Any,
        data: Any,
        space: Any,
        *,
        loss: Any,
        optimizer: Any,
        epochs: int,
        key: jax.Array,
        seeds: int | Sequence[int] = 1,
        validation: Any = None,
        callbacks: Sequence[Callback] = (),
        mesh: Any = None,
        memory: int | None = None,
        on_nonfinite: str = "stop",
        hold: bool = False,
        on_device: bool = False,
        **options: Any,
    ) -> Task:
        """Check everything, and compile nothing.

        Args:
            model: As in `sweep`, like all that is not named here.
            data: As in `sweep`.
            space: As in `sweep`.
            loss: As in `sweep`.
            optimizer: As in `sweep`.
            epochs: As in `sweep`.
            key: As in `sweep`.
            seeds: As in `sweep`.
            validation: As in `sweep`.
            callbacks: As in `sweep`.
            mesh: As in `sweep`.
            memory: As in `sweep`.
            on_nonfinite: As in `sweep`.
            hold: Whether members may continue after an epoch at which they were held.
            on_device: Whether the data are checked and lie on the device already.
            **options: Further options of `TrainingConfig`.
        """
        start_time = time.perf_counter()
        _jax.check_not_forked()
        settings = settings_of(space)
        key = check_key(key)
        counted = seeds if isinstance(seeds, Sequence) else range(whole("sweep", "seeds", seeds))
        numbers = [whole("sweep", "seeds", seed, 0) for seed in counted]
        if memory is not None:
            whole("sweep", "memory", memory)
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"seeds takes a number, or different whole numbers, got {seeds!r}")
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f'on_nonfinite is "stop" or "skip" in a sweep, got {on_nonfinite!r}')
        for callback in callbacks:
            if isinstance(callback, Callback) and not callback.is_pure:
                raise ValueError(f"the callback {callback.name!r} acts on the host, one run at a time: use it with fit")
        objective = isinstance(loss, Objective)
        if not on_device:
            data, validation = held_out(data, validation, key, objective=objective)
            data = checked_data(data, objective=objective)
            validation = None if validation is None else checked_data(validation, "validation data", objective=objective)
        try:
            skip = on_nonfinite == "skip"
            config = TrainingConfig.of(model, loss, optimizer, callbacks=callbacks, skip_nonfinite=skip, **options)
        except TypeError as error:
            if unknown := re.search("unexpected keyword argument ('.*')", str(error)):
                raise TypeError(f"there is no option {unknown[1]}: options are those of nn.sweep") from None
            raise
        groups = groups_of(settings, config, epochs=epochs, samples=leading_size(data))
        strategy = strategy_for(mesh, memory)
        multiple = 1 if strategy.mesh is None else strategy.mesh.size
        runs = [GroupRun(group, data, validation, key, np.asarray(numbers, np.uint32), multiple, hold) for group in groups]
        likely: dict[str, None] = {}
        for run in runs:
            problem, values = run.group.config.problem, run.group.values(0)
            layer = model_of(problem.model, values)
            likely |= dict.fromkeys(mistakes(layer, loss, run.x, callbacks, validation is not None))
            if objective:
                continue
            one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[2:], a.dtype), run.weights())
            batch = abstract_batch(data, run.group.config.batch_size)
            if labels := labels_of(loss_of(problem.loss, values), layer, batch, *one):
                for part in (data, validation):
                    if part is not None:
                        labels.check(part[1])
        for mistake in likely:
            warnings.warn(mistake, UserWarning, stacklevel=4)
        return cls(settings, numbers, key, runs, data, validation, strategy, start_time)

    def saver(self, checkpoints: Any, **search: Any) -> AbstractContextManager[Saver | None]:
        """A context with the saver of the task, None without checkpoints; `search` are the options of a search."""
        if checkpoints is None:
            return nullcontext()
        return Saver(checkpoints, self.key, self.settings, self.seeds, self.runs, search).claimed()

    def train(self, progress: bool, saver: Saver | None = None) -> bool:
        """Train each group's selected settings to its epoch `until`; return whether it was interrupted."""
        stopped = False
        shown = _Progress(self.runs, self.start_time) if progress else None
        with deferred_interrupt() as interrupted:

            def on_event() -> bool:
                nonlocal stopped
                if shown is not None:
                    shown.show()
                if saver is not None:
                    saver.save_if_due()
                stopped = stopped or interrupted()
                return stopped

            Scheduler(self.runs, self.data, self.validation, self.strategy).run(on_event)
        if saver is not None:
            saver.save_last()
        if shown is not None:
            shown.show(last=True)
        return stopped

    def result(self, progress: bool, averaged_over: tuple[str, ...] = ()) -> Sweep:
        """The result of what was trained so far, with a warning if some members diverged."""
        result = Sweep.of(
            self.settings, self.seeds, self.runs, time.perf_counter() - self.start_time, str(self.strategy), averaged_over
        )
        if progress:
            with Watching()("the display of progress"):
                say(result.note)
        if diverged := sum(row["status"] == "diverged" for row in result.rows):
            warnings.warn(
                f"{diverged} of {len(result.rows)} members had a loss that was not finite, and ended with the weights of the "
                'epoch before: they are marked "diverged" in the table',
                RuntimeWarning,
                stacklevel=4,
            )
        return result


class _Progress:
    """A line every few seconds; in a terminal or notebook, one line that is overwritten."""

    def __init__(self, runs: list[GroupRun], start_time: float):
        self._runs, self._start_time, self._last = runs, start_time, 0.0
        self._watching = Watching()
        self._line = NotebookLine() if in_notebook() and not is_terminal() else None
        self._total = sum(run.result.done.size for run in runs)
        self._epochs = sum(run.result.done.size * run.group.epochs for run in runs)

    def show(self, last: bool = False) -> None:
        with self._watching("the display of progress"):
            self._show(last)

    def _show(self, last: bool) -> None:
        now = time.perf_counter()
        overwrite = is_terminal() or self._line is not None
        if now - max(self._last, self._start_time) < (0.2 if overwrite else LINE_SECONDS) and not last:
            return
        self._last = now
        done = sum(int(run.result.done.sum()) for run in self._runs)
        made = sum(run.epochs_made() for run in self._runs)
        text = f"{done:,}/{self._total:,} members, {made:,}/{self._epochs:,} epochs, {now - self._start_time:.0f} s"
        if self._line is not None:
            self._line.write(text)
            return
        end = "\n" if last or not overwrite else ""
        say(("\r" if overwrite else "") + text, end)
