"""The batches of an epoch, stacked into blocks and sent to the device by a thread, ahead of the steps that use them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.core.text import array_text
from jaxnn.problem.batches import leading_size
from jaxnn.train.sources import Batches, Rows


class DataError(RuntimeError):
    """An iterable of batches failed during a run, or a batch does not fit.

    Attributes:
        epoch: The epoch, counted from 1.
        batch: The number of the batch in the epoch, counted from 0.
        result: The `FitResult` of the steps before the failure, or None if there were none.

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
    """Batches of one shape on the device.

    Attributes:
        batches: The pytree of a batch, with a leading axis of batches in each leaf.
        used: The number of batches; the rest of that axis is padding.
        first: The number of the first batch in its epoch.
    """

    batches: Any
    used: int
    first: int


class Feed:
    """The blocks of one epoch, prepared by a thread."""

    def __init__(self, source: Rows | Batches, epoch: int, first: int, order: np.ndarray, length: int):
        self._arguments = source, epoch, first, order, length
        self._ready: queue.Queue = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def next(self) -> Block | None:
        """Return the next block, or None after the last one.

        Raises:
            DataError: If the iterable fails, or a batch differs from the one before in more than its number of samples; all
                blocks before it are returned first.
        """
        while True:
            try:
                item = self._ready.get(timeout=0.1)  # short waits, so that Ctrl-C is handled
            except queue.Empty:
                continue
            if isinstance(item, DataError):
                raise item from item.__cause__
            return item

    def close(self) -> None:
        """Stop the thread; if it waits for the iterable, it stops when the iterable returns."""
        self._closed.set()
        while not self._ready.empty():
            self._ready.get_nowait()

    def _run(self) -> None:
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
    """Raise an error if a batch differs from the one before in more than its number of samples."""
    kinds = [jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype), batch) for batch in (before, now)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"the batch is {array_text(now)}, the one before was {array_text(before)}; only the number of samples may differ"
        )


def _block(held: list, length: int, first: int) -> Block:
    """Stack batches to a block on the device, padded to `length`; a single batch, as at an epoch's end, is not padded."""
    if len(held) == 1:
        return Block(jax.device_put(jax.tree.map(lambda a: a[None], held[0])), 1, first)

    def stacked(*leaves):
        out = np.empty((length, *leaves[0].shape), leaves[0].dtype)
        np.stack(leaves, out=out[: len(leaves)])
        return out

    return Block(jax.device_put(jax.tree.map(stacked, *held)), len(held), first)
