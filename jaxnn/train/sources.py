"""Data that do not lie on the device: batches come from the host, some ahead of the steps that use them."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.problem.batches import leading_size
from jaxnn.problem.checks import as_host_array
from jaxnn.problem.running import check_numbers
from jaxnn.train.epoch import pieces
from jaxnn.train.evaluation import as_numbers
from jaxnn.train.executors import Driver, Plan, compiled, signature, waited
from jaxnn.train.state import TrainState

BLOCK_BYTES, MOST_BATCHES = 4 * 2**20, 64  # what goes to the device at once, unless `prefetch` says otherwise


class DataError(RuntimeError):
    """An iterable of batches failed in the middle of a run.

    Attributes:
        epoch: the epoch, counted from 1.
        batch: the batch's number in the epoch, counted from 0.
        result: the `FitResult` of what was trained before, or None if it was nothing.

    Example:
        >>> error = DataError(2, 3, "no such file")
        >>> str(error), error.epoch, error.result
        ('batch 3 of epoch 2: no such file', 2, None)
    """

    def __init__(self, epoch: int, batch: int, what: str):
        self.epoch, self.batch = epoch, batch
        self.result: Any = None
        super().__init__(f"batch {batch} of epoch {epoch}: {what}")


class Block(NamedTuple):
    """Some batches of one shape on the device.

    Attributes:
        batches: the batch's pytree, each leaf with one more axis in front.
        used: how many of them are there; the rest of that axis is not to be looked at.
        first: the number of the first of them in its epoch.
    """

    batches: Any
    used: int
    first: int


class Rows:
    """Arrays on the host, such as memory-mapped ones, batch after batch in the order in which `fit` takes arrays."""

    def __init__(self, data: Any, batch_size: int):
        lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(data)}
        if len(lengths) != 1 or 0 in lengths:
            shapes = ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(data))
            raise ValueError(f"arrays have one entry a sample each, and at least one; got shapes {shapes}")
        self._data, self._batch_size, self.samples = data, batch_size, leading_size(data)
        self.steps_per_epoch: int | None = -(-self.samples // batch_size)
        self.example = self._cut(np.arange(min(batch_size, self.samples)))

    def batches(self, epoch: int, first: int, order: np.ndarray) -> Iterator[Any]:
        """The batches of an epoch from number `first` on."""
        for low in range(first * self._batch_size, self.samples, self._batch_size):
            yield self._cut(order[low : low + self._batch_size])

    def _cut(self, rows: np.ndarray) -> Any:
        return jax.tree.map(lambda a: np.asarray(a[rows]), self._data)


class Batches:
    """Batches as the user makes them: an iterable, or a function from the epoch, counted from 1, to one."""

    samples = 0  # their order is the user's

    def __init__(self, source: Any):
        self.steps_per_epoch: int | None = len(source) if hasattr(source, "__len__") else None
        iterator = iter(source(1) if callable(source) else source)
        self.example = _batch(next(iterator, None))
        if self.example is None:
            raise ValueError("there is not one batch in the data")
        # what can be gone through once is gone on with; anything else begins anew each epoch
        self._source = itertools.chain([self.example], iterator) if iterator is source else source

    def batches(self, epoch: int, first: int, order: np.ndarray) -> Iterator[Any]:
        """The batches of an epoch from number `first` on."""
        source = self._source(epoch) if callable(self._source) else self._source
        return map(_batch, itertools.islice(source, first, None))


def _batch(batch: Any) -> Any:
    """A batch with tuples for the lists that some loaders make."""
    return tuple(batch) if isinstance(batch, list) else batch


class Stream(Driver):
    """Steps over batches that come from the host, while a thread makes the next ones ready.

    At most three blocks of batches are on the device at a time: one in use, one ready, one on its way.
    """

    def __init__(self, plan: dict[str, Any], source: Rows | Batches, validation: Any, prefetch: int | None):
        super().__init__(plan)
        self._source, self._validation = source, validation
        self.steps_per_epoch = source.steps_per_epoch
        size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(source.example))
        self._length = min(max(BLOCK_BYTES // max(size, 1), 1), MOST_BATCHES) if prefetch is None else max(prefetch // 3, 1)
        self._feed: _Feed | None = None
        self._samples = 0  # of the present epoch so far

    def compile(self, train_state: TrainState) -> None:
        """Programs are compiled for the shapes of the batches, when these are known."""

    def call(self, train_state: TrainState, steps: int) -> tuple[TrainState, list[dict], int]:
        """The next block of batches; the logs of the epoch if it ended, and the first step with a loss that is not finite."""
        if self._feed is None:
            epoch, position = int(train_state.epoch), int(train_state.position)
            order = (
                np.asarray(pieces(**self.plan).order(train_state, self._source.samples))
                if self._source.samples
                else np.zeros(0)
            )
            self._feed = _Feed(self._source, epoch + 1, position, order, self._length)
        block = self._feed.next()
        if block is None:
            return self._ended(train_state)
        self._before, self._block = train_state, block
        self._samples += block.used * leading_size(block.batches, axis=1)
        after, bad = waited(self._program(train_state, block)(train_state, block.batches, np.int32(block.used)))
        return after, [], int(bad)

    def at(self, step: int) -> TrainState:
        """The train state as it was at a step of the last block; at its first one if it was earlier."""
        steps = step - int(self._before.step)
        if steps <= 0:
            return self._before
        program = self._program(self._before, self._block)
        return waited(program(self._before, self._block.batches, np.int32(steps)))[0]

    def batch(self, train_state: TrainState) -> tuple[Any, np.ndarray | None]:
        """The next step's batch; the indices of its samples are not known."""
        index = int(train_state.step) - int(self._before.step)
        return jax.tree.map(lambda a: a[index], self._block.batches), None

    def close(self) -> None:
        """End the thread."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def _program(self, train_state: TrainState, block: Block) -> Callable:
        return self.timed(lambda: _block_program(self.plan, *signature((train_state, block.batches))))

    def _ended(self, train_state: TrainState) -> tuple[TrainState, list[dict], int]:
        epoch = int(train_state.epoch) + 1
        if int(train_state.position) == 0:
            raise DataError(
                epoch,
                0,
                "there are no batches"
                + (
                    ""
                    if epoch == 1
                    else "; an iterator can be gone through once: give a function "
                    "of the epoch that returns a new one, `lambda epoch: ...`"
                ),
            )
        self.close()
        program = self.timed(lambda: _end_program(self.plan, *signature((train_state, self._validation))))
        after, logs = program(train_state, self._validation)
        samples, self._samples = self._samples, 0
        row = {"epoch": epoch, "step": int(after.step), **as_numbers(logs), "samples": samples}
        return after, [row], -1


class _Feed:
    """The batches of one epoch, put together to blocks and sent to the device by a thread."""

    def __init__(self, source: Rows | Batches, epoch: int, first: int, order: np.ndarray, length: int):
        self._arguments = source, epoch, first, order, length
        self._ready: queue.Queue = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def next(self) -> Block | None:
        """The next block, None after the last.

        Raises:
            DataError: where the iterable raised or a batch does not fit, after all blocks before.
        """
        while True:
            try:
                item = self._ready.get(timeout=0.1)  # in short waits, so that Ctrl-C is heard
            except queue.Empty:
                continue
            if isinstance(item, DataError):
                raise item from item.__cause__
            return item

    def close(self) -> None:
        """End the thread, which may be waiting for room or for the iterable."""
        self._closed.set()
        while not self._ready.empty():
            self._ready.get_nowait()

    def _work(self) -> None:
        for item in self._blocks():
            while not self._closed.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._closed.is_set():
                return

    def _blocks(self) -> Iterator[Block | DataError | None]:
        source, epoch, first, order, length = self._arguments
        held: list[Any] = []
        number, start = first, first
        try:
            for batch in source.batches(epoch, first, order):
                batch = jax.tree.map(lambda leaf: as_host_array(leaf, "it"), batch)
                if held:
                    _check_fits(held[-1], batch)
                    if len(held) == length or leading_size(batch) != leading_size(held[-1]):
                        yield _block(held, length, start)
                        held, start = [], number
                held.append(batch)
                number += 1
        except Exception as error:
            if held:
                yield _block(held, length, start)
            failure = DataError(epoch, number, f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            yield failure
            return
        if held:
            yield _block(held, length, start)
        yield None


def _check_fits(before: Any, now: Any) -> None:
    """A later batch may have another number of samples, and differ in nothing else."""
    kinds = [[(leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(batch)] for batch in (before, now)]
    if kinds[0] != kinds[1]:
        shown = [", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(batch)) for batch in (before, now)]
        raise ValueError(f"it has {shown[1]}, those before had {shown[0]}; only the number of samples may differ")


def _block(held: list, length: int, first: int) -> Block:
    """The batches as one block on the device, filled up to the length; a single one, as the last of an epoch, alone."""
    if len(held) == 1:
        return Block(jax.device_put(jax.tree.map(lambda a: a[None], held[0])), 1, first)

    def stacked(*leaves):
        out = np.empty((length, *leaves[0].shape), leaves[0].dtype)
        np.stack(leaves, out=out[: len(leaves)])
        return out

    return Block(jax.device_put(jax.tree.map(stacked, *held)), len(held), first)


@lru_cache(maxsize=64)
def _block_program(plan: Plan, leaves: tuple, structure: Any) -> Callable:
    parts = pieces(**plan)

    def program(train_state: TrainState, batches: Any, count: jax.Array):
        def step(i, carry):
            train_state, bad = carry
            batch = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), batches)
            after, value = parts.advance(train_state, batch)
            return after, jnp.where((bad < 0) & ~jnp.isfinite(value), train_state.step, bad)

        return lax.fori_loop(0, count, step, (train_state, jnp.asarray(-1, jnp.int32)))

    return compiled(program, leaves, structure, jax.ShapeDtypeStruct((), jnp.int32))


@lru_cache(maxsize=64)
def _end_program(plan: Plan, leaves: tuple, structure: Any) -> Callable:
    finish = pieces(**plan).finish

    def program(train_state: TrainState, validation: Any):
        after, logs = finish(train_state, validation)
        return after, check_numbers(logs)

    return compiled(program, leaves, structure)
