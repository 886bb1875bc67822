"""Batches of an epoch, put together to blocks and sent to the device by a thread, some ahead of the steps that use them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.problem.batches import leading_size
from jaxnn.problem.checks import as_host_array
from jaxnn.train.sources import Batches, Rows


class DataError(RuntimeError):
    """An iterable of batches failed during a run.

    Attributes:
        epoch: The epoch, counted from 1.
        batch: The batch's number in the epoch, counted from 0.
        result: The `FitResult` of what was trained before, or None if nothing was.

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
        batches: The batches' pytree, each leaf with one more axis in front.
        used: The number of batches; the rest of that axis is padding.
        first: The number of the first of them in its epoch.
    """

    batches: Any
    used: int
    first: int


class Feed:
    """The blocks of one epoch, made ready by a thread."""

    def __init__(self, source: Rows | Batches, epoch: int, first: int, order: np.ndarray, length: int):
        self._arguments = source, epoch, first, order, length
        self._ready: queue.Queue = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def next(self) -> Block | None:
        """The next block, None after the last.

        Raises:
            DataError: If the iterable raised or a batch does not fit; all blocks before it are returned first.
        """
        while True:
            try:
                item = self._ready.get(timeout=0.1)  # in short waits, so that Ctrl-C is handled
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
    """A later batch may differ from the one before in its number of samples only."""
    kinds = [[(leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(batch)] for batch in (before, now)]
    if kinds[0] != kinds[1]:
        shown = [", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(batch)) for batch in (before, now)]
        raise ValueError(f"it has {shown[1]}, those before had {shown[0]}; only the number of samples may differ")


def _block(held: list, length: int, first: int) -> Block:
    """The batches as one block on the device, padded to the length; a single one, as the last of an epoch, is not padded."""
    if len(held) == 1:
        return Block(jax.device_put(jax.tree.map(lambda a: a[None], held[0])), 1, first)

    def stacked(*leaves):
        out = np.empty((length, *leaves[0].shape), leaves[0].dtype)
        np.stack(leaves, out=out[: len(leaves)])
        return out

    return Block(jax.device_put(jax.tree.map(stacked, *held)), len(held), first)
