"""Stratified splits, and standardization with the statistics of the training part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from jaxnn.data.dataset import Dataset


def split(dataset: Dataset, *, test_fraction: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split a data set at random into a training and a test part.

    Classification data are stratified: about `test_fraction · n_c` of the n_c samples of each class are held out, rounded by
    largest remainder, and a class with two or more samples is in both parts. A class with one sample stays in the training
    part. In total, `round(test_fraction · N)` samples are held out, unless these rules require more or fewer.

    Args:
        dataset: Data set to split. An official test part is ignored, and neither part has one.
        test_fraction: Share of the samples to hold out, above 0 and below 1.
        seed: Seed of the random order; equal seeds give equal splits.

    Returns:
        `(train, test)`, each in random order.

    Raises:
        ValueError: If the fraction is not between 0 and 1, or there are too few samples for two parts.

    Example:
        >>> from jaxnn.data import from_arrays
        >>> train, test = split(from_arrays([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]), test_fraction=0.5)
        >>> sorted(train.y.tolist()), sorted(test.y.tolist())
        ([0, 1], [0, 1])
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is {test_fraction}; expected a number above 0 and below 1, such as 0.2")
    strata = dataset.y if dataset.task == "classification" else np.zeros(len(dataset), np.int32)
    order = np.random.default_rng(seed).permutation(len(dataset))
    held_out = _held_out(strata[order], test_fraction)
    if not held_out.any():
        raise ValueError(f"{dataset!r} cannot be split: no class has two samples")
    parts = (("train", order[~held_out]), ("test", order[held_out]))
    train, test = (
        replace(dataset, x=dataset.x[indices], y=dataset.y[indices], name=f"{dataset.name} ({part} part)", test=None)
        for part, indices in parts
    )
    return train, test


def standardize(train: Dataset, *others: Dataset) -> tuple[Dataset, ...]:
    """Scale inputs to mean 0 and variance 1 over the training part: x' = (x − mean) / std.

    There is one mean and one standard deviation per index of the last axis: a feature of a table or sequence, or a channel of
    an image. They are computed from `train` alone, so that nothing leaks from the other parts into training. A constant
    feature becomes 0. An official test part, `train.test`, is scaled too.

    Args:
        train: Part whose statistics are used.
        *others: Parts to scale with the same numbers.

    Returns:
        All parts, in the order of the arguments.

    Raises:
        ValueError: If the sample shapes of a part and `train` differ.

    Example:
        >>> from jaxnn.data import from_arrays
        >>> train, test = from_arrays([[1.0], [3.0]], [0, 1]), from_arrays([[5.0]], [0])
        >>> [part.x.tolist() for part in standardize(train, test)]
        [[[-1.0], [1.0]], [[3.0]]]
    """
    mean, std = _moments(train.x)  # in float64: only the scaled values are rounded

    def scaled(part: Dataset) -> Dataset:
        if part.x.shape[1:] != train.x.shape[1:]:
            raise ValueError(f"cannot standardize {part!r} with the statistics of {train!r}: the samples differ in shape")
        x = ((part.x - mean) / std).astype(np.float32)
        return replace(part, x=x, test=None if part.test is None else scaled(part.test))

    return tuple(scaled(part) for part in (train, *others))


def moments(array: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over all axes but the last, with deviation 1 for constant features.

    Args:
        array: Values (..., features).

    Returns:
        `(mean, std)`, both of shape (features,), ready for `(array - mean) / std`: in the dtype of the array if that is a
        floating-point one, otherwise in float64. They are computed in float64.

    Example:
        >>> mean, std = moments([[1.0, 5.0], [3.0, 5.0]])
        >>> mean.tolist(), std.tolist()
        ([2.0, 5.0], [1.0, 1.0])
    """
    array = np.asarray(array)
    mean, std = _moments(array)
    dtype = array.dtype if np.issubdtype(array.dtype, np.floating) else np.float64
    return mean.astype(dtype), std.astype(dtype)


def _moments(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axes = tuple(range(array.ndim - 1))
    low, high = array.min(axes), array.max(axes)
    constant = low == high  # from the values, since the computed deviation of a constant may not be exactly 0
    mean = np.where(constant, low, array.mean(axes, dtype=np.float64))
    std = np.where(constant, 1.0, array.std(axes, dtype=np.float64))
    return mean, std


def _held_out(strata: np.ndarray, fraction: float) -> np.ndarray:
    """Mark the first samples of each stratum, their number given by `_allocate`."""
    sizes = np.bincount(strata)
    by_stratum = np.argsort(strata, kind="stable")
    rank = np.arange(len(strata)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held_out = np.empty(len(strata), bool)
    held_out[by_stratum] = rank < np.repeat(_allocate(sizes, fraction), sizes)
    return held_out


def _allocate(sizes: np.ndarray, fraction: float) -> np.ndarray:
    """Return the number of samples of each stratum to hold out: its share of the total, rounded by largest remainder."""
    low = np.where(sizes > 1, 1, 0)
    high = np.where(sizes > 1, sizes - 1, 0)
    total = np.clip(round(fraction * sizes.sum()), low.sum(), high.sum())
    shares = sizes * (total / sizes.sum())
    counts = np.clip(np.floor(shares).astype(int), low, high)
    while (gap := total - counts.sum()) != 0:
        if gap > 0:
            counts[np.argmax(np.where(counts < high, shares - counts, -np.inf))] += 1
        else:
            counts[np.argmin(np.where(counts > low, shares - counts, np.inf))] -= 1
    return counts
