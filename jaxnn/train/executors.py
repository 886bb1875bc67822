"""What `fit` calls: compiled programs over data that lie on the device, or that come from the host."""

from __future__ import annotations

import abc
import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn import compiled
from jaxnn.problem.batches import abstract_batch, in_batches, leading_size, padded
from jaxnn.problem.running import check_numbers
from jaxnn.train.config import TrainingConfig
from jaxnn.train.epoch import array_program, epoch_parts, order_of
from jaxnn.train.evaluation import as_numbers
from jaxnn.train.feed import Block, DataError, Feed
from jaxnn.train.filling import may_fill
from jaxnn.train.sources import Arrays, Batches, Rows
from jaxnn.train.state import TrainState

MOST_EPOCHS = 64  # that may end in one call
BLOCK_BYTES, MOST_BATCHES = 4 * 2**20, 64  # sent to the device at once, unless `prefetch` says otherwise


def executor_for(
    config: TrainingConfig,
    source: Arrays | Rows | Batches,
    validation: Any,
    start: TrainState,
    *,
    epochs: int,
    one_epoch_per_call: bool,
    prefetch: int | None,
) -> Executor:
    """The executor for a source.

    Args:
        config: The run's configuration.
        source: The source of the data.
        validation: The validation data on the device, or None.
        start: The train state at the start of the run.
        epochs: The number of epochs.
        one_epoch_per_call: Whether no call may go beyond the end of an epoch, as callbacks on the host need it.
        prefetch: The number of batches on the device at a time, at most, for data that do not lie there.
    """
    if isinstance(source, Arrays):
        return ArrayExecutor(config, source, validation, start, epochs, 1 if one_epoch_per_call else MOST_EPOCHS)
    return StreamExecutor(config, source, validation, start, prefetch)


class Executor(abc.ABC):
    """Makes the steps of a run, some per call."""

    def __init__(self, config: TrainingConfig, validation: Any, start: TrainState):
        self.config, self.compile_seconds = config, 0.0
        self._validation = None
        if validation is not None:
            example = abstract_batch(validation, config.batch_size)
            fill = may_fill(config.problem, config.metrics, start.params, start.state, example)
            self._validation = in_batches(validation, config.batch_size, fill=fill)
        self._calls: dict[tuple, Callable] = {}

    @abc.abstractmethod
    def compile(self, train_state: TrainState) -> None:
        """Compile the programs, as far as their shapes are known."""

    @abc.abstractmethod
    def call(self, train_state: TrainState, steps: int) -> tuple[TrainState, list[dict], int]:
        """Make up to `steps` steps.

        Returns:
            The train state, the logs of each epoch that ended, and the number of the first step whose loss is not finite,
            or −1.
        """

    @abc.abstractmethod
    def at(self, step: int) -> TrainState:
        """The train state as it was at a step of the last call, computed again."""

    @abc.abstractmethod
    def batch(self, train_state: TrainState) -> tuple[Any, np.ndarray | None]:
        """The batch of the next step, and the indices of its samples if they are known."""

    def _order(self, train_state: TrainState, n: int) -> np.ndarray:
        """The order of n samples in the current epoch, by a program that is compiled once and not per epoch."""
        arguments = train_state.key, np.int32(int(train_state.step) - int(train_state.position))
        return np.asarray(self._program(f"order, {n}", lambda: partial(order_of, n=n), arguments)(*arguments))

    def _samples_of(self, train_state: TrainState, n: int) -> np.ndarray:
        """The indices of the samples of the next step's batch, of n samples."""
        return self._order(train_state, n)[int(train_state.position) * self.config.batch_size :][: self.config.batch_size]

    def close(self) -> None:  # noqa: B027
        """End what runs in the background."""

    def _program(self, name: str, make: Callable[[], Callable], arguments: tuple) -> Callable:
        """The compiled program, looked up once per run for each signature; the time is added to `compile_seconds`."""
        key = name, compiled.signature(arguments)
        if key not in self._calls:
            start = time.perf_counter()
            self._calls[key] = compiled.program(name, make, self.config.key(), arguments).compile()
            self.compile_seconds += time.perf_counter() - start
        return self._calls[key]


class ArrayExecutor(Executor):
    """Steps over data that lie on the device: one program for any number of steps."""

    def __init__(
        self, config: TrainingConfig, source: Arrays, validation: Any, start: TrainState, epochs: int, most_epochs: int
    ):
        super().__init__(config, validation, start)
        self._source, self._epochs, self._most_epochs = source, epochs, most_epochs
        fill = epoch_parts(config).fills(start, source.example)
        self._data = padded(source.data, config.batch_size, fill=fill)

    def compile(self, train_state: TrainState) -> None:
        """Compile the program."""
        number = jax.ShapeDtypeStruct((), jnp.int32)
        arguments = (train_state, self._data, self._validation, number, number)
        name = f"arrays, {self._most_epochs}"
        self._call = self._program(name, lambda: array_program(self.config, self._most_epochs), arguments)
        self._before = train_state  # the train state before the last call

    def call(self, train_state: TrainState, steps: int) -> tuple[TrainState, list[dict], int]:
        """Make up to `steps` steps."""
        after, logs, ended, bad = self._run(train_state, steps)
        logs, ended, bad = jax.device_get((logs, ended, bad))
        epoch, samples = int(train_state.epoch), self._source.samples
        rows = []
        for i in range(ended):
            row = as_numbers({name: values[i] for name, values in logs.items()})
            rows.append({"epoch": epoch + i + 1, "step": int(row.pop("step")), **row, "samples": samples})
        self._before = train_state
        return after, rows, int(bad)

    def at(self, step: int) -> TrainState:
        """The train state as it was at a step of the last call."""
        steps = step - int(self._before.step)
        return self._run(self._before, steps)[0] if steps > 0 else self._before

    def batch(self, train_state: TrainState) -> tuple[Any, np.ndarray]:
        """The batch of the next step, and the indices of its samples."""
        samples = self._samples_of(train_state, self._source.samples)
        return jax.tree.map(lambda a: a[samples], self._source.data), samples

    def _run(self, train_state: TrainState, steps: int) -> tuple:
        counts = np.int32(steps), np.int32(self._epochs)
        return waited(self._call(train_state, self._data, self._validation, *counts))


class StreamExecutor(Executor):
    """Steps over batches that come from the host, while a thread makes the next ones ready.

    At most three blocks of batches are on the device at a time: one in use, one ready, one on its way.
    """

    def __init__(
        self, config: TrainingConfig, source: Rows | Batches, validation: Any, start: TrainState, prefetch: int | None
    ):
        super().__init__(config, validation, start)
        self._source = source
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(source.example))
        self._length = min(max(BLOCK_BYTES // max(size, 1), 1), MOST_BATCHES) if prefetch is None else max(prefetch // 3, 1)
        self._feed: Feed | None = None
        self._samples = 0  # in the current epoch so far

    def compile(self, train_state: TrainState) -> None:
        """Do nothing: programs are compiled for the shapes of the batches, once these are known."""

    def call(self, train_state: TrainState, steps: int) -> tuple[TrainState, list[dict], int]:
        """Make the steps of the next block of batches, whatever their number, or end the epoch."""
        if self._feed is None:
            epoch, position, n = int(train_state.epoch), int(train_state.position), self._source.samples
            order = self._order(train_state, n) if n else np.zeros(0)
            self._feed = Feed(self._source, epoch + 1, position, order, self._length)
        block = self._feed.next()
        if block is None:
            return self._ended(train_state)
        self._before, self._block = train_state, block
        self._samples += block.used * leading_size(block.batches, axis=1)
        after, bad = self._run(train_state, block, block.used)
        return after, [], int(bad)

    def at(self, step: int) -> TrainState:
        """The train state as it was at a step of the last block; at its first one for an earlier step."""
        steps = step - int(self._before.step)
        return self._run(self._before, self._block, steps)[0] if steps > 0 else self._before

    def batch(self, train_state: TrainState) -> tuple[Any, np.ndarray | None]:
        """The batch of the next step, and the indices of its samples in memory maps."""
        index, n = int(train_state.step) - int(self._before.step), self._source.samples
        batch = jax.tree.map(lambda a: a[index], self._block.batches)
        return batch, self._samples_of(train_state, n) if n else None

    def close(self) -> None:
        """End the thread."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def _run(self, train_state: TrainState, block: Block, steps: int) -> tuple:
        number = jax.ShapeDtypeStruct((), jnp.int32)
        program = self._program(
            f"block of {type(self._source).__name__}", self._block_program, (train_state, block.batches, number)
        )
        return waited(program(train_state, block.batches, np.int32(steps)))

    def _ended(self, train_state: TrainState) -> tuple[TrainState, list[dict], int]:
        epoch = int(train_state.epoch) + 1
        if int(train_state.position) == 0:
            hint = "; an iterator ends once: give a function of the epoch that returns a new one, `lambda epoch: ...`"
            raise DataError(epoch, 0, "there are no batches" + (hint if epoch > 1 else ""))
        self.close()
        after, logs = self._program("end", self._end_program, (train_state, self._validation))(train_state, self._validation)
        samples, self._samples = self._samples, 0
        row = {"epoch": epoch, "step": int(after.step), **as_numbers(logs), "samples": samples}
        return after, [row], -1

    def _block_program(self) -> Callable:
        parts, fills = epoch_parts(self.config), isinstance(self._source, Rows)  # as they are filled on the device

        def program(train_state: TrainState, batches: Any, count: jax.Array):
            def step(i, carry):
                train_state, bad = carry
                batch = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), batches)
                after, value = parts.advance(train_state, parts.fill(train_state, batch) if fills else batch)
                return after, jnp.where((bad < 0) & ~jnp.isfinite(value), train_state.step, bad)

            return lax.fori_loop(0, count, step, (train_state, jnp.asarray(-1, jnp.int32)))

        return program

    def _end_program(self) -> Callable:
        finish = epoch_parts(self.config).finish

        def program(train_state: TrainState, validation: Any):
            after, logs = finish(train_state, validation)
            return after, check_numbers(logs)

        return program


def waited(out: tuple) -> tuple:
    """The output of a program, once it is there.

    A separate thread waits for it, so that this one handles Ctrl-C; polling would cost the program a tenth of its time.
    """
    done = threading.Event()

    def wait():
        with contextlib.suppress(Exception):  # raised below
            jax.block_until_ready(out)
        done.set()

    # Not a daemon: after a second Ctrl-C, the interpreter must not end before the program that the thread waits for.
    threading.Thread(target=wait).start()
    while not done.wait(0.1):
        pass
    return jax.block_until_ready(out)
