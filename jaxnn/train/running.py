"""A run on the host: the loop that calls the executor, and what happens between two calls."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from jaxnn.core.trees import abstract
from jaxnn.problem.checks import fault_of
from jaxnn.problem.hyperparameters import loss_of
from jaxnn.problem.objective import Objective, inputs_of
from jaxnn.train.executors import Executor
from jaxnn.train.feed import DataError
from jaxnn.train.history import History
from jaxnn.train.hooks import Callback
from jaxnn.train.interrupts import deferred_interrupt
from jaxnn.train.progress import Progress
from jaxnn.train.result import FitResult, NonFiniteError
from jaxnn.train.saver import Saver
from jaxnn.train.state import TrainState
from jaxnn.train.watching import Watching

CALL_SECONDS = 0.4  # per call of the program: the progress bar moves, and the call's own cost is far below 1%


class Run:
    """A run in progress.

    Attributes:
        train_state: The train state after the last call.
        history: One row per finished epoch.
        bad: The number of the first step whose loss is not finite, or −1.
        failure: The error of the data, or None.
    """

    def __init__(
        self,
        executor: Executor,
        train_state: TrainState,
        epochs: int,
        callbacks: Sequence[Callback],
        saver: Saver | None,
        steps_per_epoch: int | None,
        progress: bool,
    ):
        self.train_state, self.history = (train_state, History()) if saver is None else saver.restored(train_state)
        self.bad = -1
        self.failure: DataError | None = None
        self._executor, self._epochs, self._callbacks, self._saver = executor, epochs, callbacks, saver
        self._progress = Progress(epochs, steps_per_epoch, progress)
        self._watching = Watching()
        self._spent = 0.0  # seconds on the current epoch so far

    def outcome(self, on_nonfinite: str) -> str:
        """Train to the end, and say how the run ended, as `FitResult.stopped` does; `"failed"` if the data failed."""
        try:
            for callback in self._callbacks:
                if callback.on_start:
                    callback.on_start(self.history)
            return self._trained(on_nonfinite)
        finally:
            if self._saver is not None:
                self._saver.release()

    def _trained(self, on_nonfinite: str) -> str:
        try:
            with deferred_interrupt() as interrupted, self._progress as bar:
                for step, rows in self._calls():
                    bad = self.bad >= 0 and on_nonfinite != "skip"
                    rows = [row for row in rows if row["step"] < self.bad] if bad else rows
                    for row in rows:
                        self.history.append(row)
                    bar.update(step, rows)
                    if bad:
                        self.train_state = self._executor.at(max(self.bad - 1, 0))
                        return "diverged"
                    ended = self._ended_by_host(rows)
                    if self._saver is not None:
                        self._saver.save_if_due(self.train_state, self.history, bool(rows))
                    if ended:
                        return "early"
                    if interrupted():
                        return "interrupted"
        except DataError as error:
            self.failure = error
            return "failed"
        finally:
            self._executor.close()
            if self._saver is not None:
                self._saver.save_last(self.train_state, self.history)
            for callback in self._callbacks:
                if callback.on_end:
                    with self._watching(f"the callback {callback.name!r}"):
                        callback.on_end()
        return "early" if bool(self.train_state.stopped) and int(self.train_state.epoch) < self._epochs else "finished"

    def _ended_by_host(self, rows: list[dict]) -> bool:
        for row in rows:
            for callback in self._callbacks:
                if callback.on_row:
                    with self._watching(f"the callback {callback.name!r}"):
                        callback.on_row(row)
        # A list, not a generator: `any` must not skip a callback.
        stop = [c.on_epoch(row, self.train_state) for row in rows for c in self._callbacks if c.on_epoch]
        return any(stop)

    def _calls(self) -> Iterator[tuple[int, list[dict]]]:
        """Call the program until the run has ended; after each call, yield the steps made so far and the new rows."""
        executor = self._executor
        executor.compile(self.train_state)
        step, budget = int(self.train_state.step), 8
        self._progress.compiled(step)
        while int(self.train_state.epoch) < self._epochs and not bool(self.train_state.stopped):
            start = time.perf_counter() - executor.compile_seconds
            self.train_state, logs, self.bad = executor.call(self.train_state, budget)
            made = int(self.train_state.step) - step
            seconds = time.perf_counter() - executor.compile_seconds - start
            rows = self._rows(logs, step, seconds, made)
            step += made
            budget = int(min(max(made * CALL_SECONDS / max(seconds, 1e-6), 1), 8 * budget, 2**30))
            yield step, rows

    def _rows(self, epochs: list[dict], step: int, seconds: float, made: int) -> list[dict]:
        """The history's rows for the epochs that ended in a call, whose seconds are divided among its steps."""
        rows: list[dict] = []
        each = seconds / max(made, 1)
        for logs in epochs:
            spent = self._spent + each * (logs["step"] - step)
            row = {name: value for name, value in logs.items() if name != "samples"}
            row |= {"seconds": spent, "samples_per_second": logs["samples"] / max(spent, 1e-9)}
            if not self.history and not rows:  # no columns yet
                row["compile_seconds"] = self._executor.compile_seconds
            rows.append(row)
            seconds, step, self._spent = seconds - each * (logs["step"] - step), logs["step"], 0.0
        self._spent += seconds
        return rows

    def fault(self) -> str:
        """What is wrong with the data of the first bad step, or of the step before, whose update may have been the bad one."""
        problem = self._executor.config.problem
        for step in (self.bad, max(self.bad - 1, 0)):
            train_state = self._executor.at(step)
            batch, samples = self._executor.batch(train_state)
            bound = problem.at(train_state)
            # An objective or an augmentation may change what the loss is given.
            known = not isinstance(problem.loss, Objective) and problem.augment is None
            loss = loss_of(problem.loss, bound.values) if known else None
            objective = isinstance(problem.loss, Objective)
            fault = fault_of(batch, samples, objective, loss, bound.layer, train_state.params, train_state.state)
            if fault:
                return fault
        return ""

    def error(self, result: FitResult) -> NonFiniteError:
        """The error that locates the first non-finite value, by evaluating the bad step operation by operation."""
        from jaxnn.programs.nonfinite import locate_nonfinite as locate

        train_state = self._executor.at(self.bad)
        batch, samples = self._executor.batch(train_state)
        return NonFiniteError(self.bad, samples, self._located(locate, train_state, batch), result)

    def _located(self, locate: Any, train_state: TrainState, batch: Any) -> Any:
        problem = self._executor.config.problem
        bound = problem.at(train_state)
        batch = bound.augment(problem.viewed(batch, train_state))

        def objective(model, params, state, batch, key):
            return problem.bound(bound.values, key, model).objective(params, state, batch, key)[0]

        spec = bound.layer.setup(abstract(inputs_of(batch, problem.loss)))
        return locate(objective, bound.layer, train_state.params, train_state.state, batch, bound.key, spec)
