"""Where the batches of a run come from: arrays on the device, arrays on the host, or an iterable.

Each source has

- `example`: the data, or a batch of them, from which the model is initialized;
- `checked`: the part of the data that can be checked before the run;
- `samples`: the number of samples, 0 if it is not known;
- `steps_per_epoch`: the number of batches per epoch, None if it is not known.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxnn.problem.batches import leading_size
from jaxnn.problem.checks import as_host_array, checked_data, checked_inputs


def checked(data: Any, objective: bool, what: str = "data") -> Any:
    """The data on the device: `(x, y)` or `(x, y, weights)`, or any pytree of arrays for an `Objective`."""
    return checked_inputs(data, what) if objective else checked_data(data, what)


def source_of(data: Any, batch_size: int, objective: bool) -> Arrays | Rows | Batches:
    """The source of data as they were given to `fit`.

    Args:
        data: Arrays, memory-mapped arrays, or batches.
        batch_size: Samples per batch, for arrays.
        objective: Whether the loss is an `Objective`, which takes any pytree.
    """
    if isinstance(data, (tuple, list, dict)) or hasattr(data, "shape"):
        if any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(data)):
            return Rows(tuple(data) if isinstance(data, list) else data, batch_size)
    elif callable(data) or hasattr(data, "__iter__"):
        return Batches(data)
    return Arrays(data, batch_size, objective)


class Arrays:
    """Arrays on the device."""

    def __init__(self, data: Any, batch_size: int, objective: bool):
        self.data = self.example = self.checked = checked(data, objective)
        self.batch_size, self.samples = batch_size, leading_size(self.data)
        self.steps_per_epoch: int | None = -(-self.samples // batch_size)


class Rows:
    """Arrays on the host, such as memory-mapped ones, cut into the batches that `fit` makes of arrays."""

    def __init__(self, data: Any, batch_size: int):
        lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(data)}
        if len(lengths) != 1 or 0 in lengths:
            shapes = ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(data))
            raise ValueError(f"arrays have one entry per sample each, and at least one; got shapes {shapes}")
        self._data, self._batch_size, self.samples = data, batch_size, leading_size(data)
        self.steps_per_epoch: int | None = -(-self.samples // batch_size)
        self.example = self.checked = _on_host(self._cut(np.arange(min(batch_size, self.samples))))

    def batches(self, epoch: int, first: int, order: np.ndarray) -> Iterator[Any]:
        """The batches of an epoch from number `first` on."""
        for low in range(first * self._batch_size, self.samples, self._batch_size):
            yield self._cut(order[low : low + self._batch_size])

    def _cut(self, samples: np.ndarray) -> Any:
        return jax.tree.map(lambda a: np.asarray(a[samples]), self._data)


class Batches:
    """Batches from the user: an iterable, or a function from the epoch, counted from 1, to one."""

    samples = 0  # their order is the user's

    def __init__(self, source: Any):
        self.steps_per_epoch: int | None = len(source) if hasattr(source, "__len__") else None
        iterator = iter(source(1) if callable(source) else source)
        first = _batch(next(iterator, None))
        if first is None:
            raise ValueError("the data have no batches")
        self.example = self.checked = _on_host(first)
        # An iterator continues after the batch that was taken from it; anything else begins anew each epoch.
        self._source = itertools.chain([first], iterator) if iterator is source else source

    def batches(self, epoch: int, first: int, order: np.ndarray) -> Iterator[Any]:
        """The batches of an epoch from number `first` on."""
        source = self._source(epoch) if callable(self._source) else self._source
        return map(_batch, itertools.islice(source, first, None))


def _on_host(batch: Any) -> Any:
    return jax.tree.map(lambda leaf: as_host_array(leaf, "a batch"), batch)


def _batch(batch: Any) -> Any:
    """A batch with a tuple in place of the list that some loaders return."""
    return tuple(batch) if isinstance(batch, list) else batch
