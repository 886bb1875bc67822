"""Where the batches of a run come from: arrays on the device, arrays on the host, or an iterable.

Each source has

- `example`: a batch, or its shapes and dtypes, from which the model is initialized;
- `check_labels(labels)`: checks the labels, now as far as they are known, and later those of each batch that is read;
- `samples`: the number of samples, 0 if it is not known;
- `steps_per_epoch`: the number of batches per epoch, None if it is not known.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxnn.problem.batches import abstract_batch, leading_size
from jaxnn.problem.checks import as_data, check_some_weight, checked_batch, checked_data
from jaxnn.problem.labels import Labels


def source_of(data: Any, batch_size: int, objective: bool) -> Arrays | Rows | Batches:
    """The source of data as they were given to `fit`.

    Args:
        data: Arrays, memory-mapped arrays, or batches.
        batch_size: Samples per batch, for arrays.
        objective: Whether the loss is an `Objective`, which takes any pytree.
    """
    data = getattr(data, "pair", data)
    if isinstance(data, (tuple, list, dict)) or hasattr(data, "shape"):
        if any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(data)):
            return Rows(data, batch_size, objective)
    elif callable(data) or hasattr(data, "__iter__"):
        return Batches(data, objective)
    return Arrays(data, batch_size, objective)


class Arrays:
    """Arrays on the device."""

    def __init__(self, data: Any, batch_size: int, objective: bool):
        self.data = checked_data(data, objective=objective)
        self.example = abstract_batch(self.data, batch_size)
        self.batch_size, self.samples = batch_size, leading_size(self.data)
        self.steps_per_epoch: int | None = -(-self.samples // batch_size)

    def check_labels(self, labels: Labels) -> None:
        """Check all labels."""
        labels.check(self.data[1])


class Rows:
    """Arrays on the host, such as memory-mapped ones, cut into the batches that `fit` makes of arrays."""

    def __init__(self, data: Any, batch_size: int, objective: bool):
        data = as_data(data, objective=objective, memory_maps=True)
        if not objective:
            check_some_weight(data, "data")
        self.data = jax.tree.map(lambda a: np.asarray(a) if isinstance(a, jax.Array) else a, data)
        self._batch_size, self._objective = batch_size, objective
        self._labels: Labels | None = None
        self.samples = leading_size(data)
        self.steps_per_epoch: int | None = -(-self.samples // batch_size)
        self.example = self._cut(np.arange(min(batch_size, self.samples)))

    def check_labels(self, labels: Labels) -> None:
        """Check the labels of each batch from now on, and those of the example."""
        labels.check(self.example[1])
        self._labels = labels

    def batches(self, epoch: int, first: int, order: np.ndarray) -> Iterator[Any]:
        """The batches of an epoch from number `first` on."""
        for low in range(first * self._batch_size, self.samples, self._batch_size):
            yield self._cut(order[low : low + self._batch_size])

    def _cut(self, samples: np.ndarray) -> Any:
        batch = jax.tree.map(lambda a: np.asarray(a[samples]), self.data)
        return checked_batch(batch, objective=self._objective, labels=self._labels)


class Batches:
    """Batches from the user: an iterable, or a function from the epoch, counted from 1, to one."""

    samples = 0  # their order is the user's

    def __init__(self, source: Any, objective: bool):
        self._source, self._objective = source, objective
        self._labels: Labels | None = None
        self.steps_per_epoch: int | None = _length(source)
        iterator = self._iterator(1)
        try:
            first = next(iterator)
        except StopIteration:
            raise ValueError("the data have no batches") from None
        self.example = checked_batch(first, objective=objective)
        # The first epoch continues after the batch that was taken: it may have come from a generator that others share.
        self._begun: Iterator[Any] | None = itertools.chain([first], iterator)
        self._ends = iterator is source

    def check_labels(self, labels: Labels) -> None:
        """Check the labels of each batch from now on, and those of the example."""
        labels.check(self.example[1])
        self._labels = labels

    def batches(self, epoch: int, first: int, order: np.ndarray) -> Iterator[Any]:
        """The batches of an epoch from number `first` on."""
        begun, self._begun = self._begun, None
        if begun is None or (epoch > 1 and not self._ends):
            begun = self._iterator(epoch)
        last, has_weight = None, bool(first) or self._objective  # of the batches before the first nothing is known
        for batch in itertools.islice(begun, first, None):
            last = checked_batch(batch, objective=self._objective, labels=self._labels)
            has_weight = has_weight or len(last) < 3 or bool(last[2].any())
            yield last
        if last is not None and not has_weight:
            check_some_weight(last, f"batches of epoch {epoch}")

    def _iterator(self, epoch: int) -> Iterator[Any]:
        source = self._source(epoch) if callable(self._source) else self._source
        if not hasattr(source, "__iter__"):
            raise TypeError(f"the function of the epoch must return an iterable of batches, got {type(source).__name__}")
        return iter(source)


def _length(source: Any) -> int | None:
    """The number of batches, None if it is not known; a loader may have `__len__` and not know it either."""
    try:
        return len(source)
    except (TypeError, NotImplementedError):
        return None
