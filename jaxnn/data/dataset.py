"""The supervised data set: inputs, targets and their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Task = Literal["classification", "regression"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A supervised data set, validated on construction.

    Args:
        x: Inputs, float32: a table (N, features), sequences (N, time, features) or images (N, H, W, C).
        y: Labels, int32 (N,), for classification; targets, float32 (N, 1), for regression (one output).
        name: Name in messages and titles.
        task: `"classification"` or `"regression"`.
        classes: Names of the classes, label 0 first; `()` for regression.
        test: The official test part, if there is one.

    Raises:
        ValueError: If an array has the wrong dtype or shape, the lengths differ, a value is not finite, or a label has no
            class. `from_arrays` converts arrays first.

    Example:
        >>> Dataset(np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32), "zeros", "regression")
        <Dataset zeros: 4 samples of (2,), regression>
    """

    x: np.ndarray
    y: np.ndarray
    name: str
    task: Task
    classes: tuple[str, ...] = ()
    test: Dataset | None = None

    def __post_init__(self) -> None:
        _check_inputs(self)
        if self.task == "classification":
            _check_labels(self)
        elif self.task == "regression":
            _check_targets(self)
        else:
            raise ValueError(f"data {self.name!r}: task is {self.task!r}, expected 'classification' or 'regression'")
        if self.test is not None:
            _check_same_kind(self, self.test)

    @property
    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """`(x, y)`, what `fit`, `evaluate` and `sweep` take of a data set."""
        return self.x, self.y

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        kind = f"{len(self.classes)} classes" if self.task == "classification" else "regression"
        test = f", {len(self.test)} for testing" if self.test is not None else ""
        return f"<Dataset {self.name}: {len(self)} samples of {self.x.shape[1:]}, {kind}{test}>"


def from_arrays(
    x: ArrayLike,
    y: ArrayLike,
    *,
    name: str = "arrays",
    classes: Sequence[str] | None = None,
    x_test: ArrayLike | None = None,
    y_test: ArrayLike | None = None,
) -> Dataset:
    """Make a `Dataset` from arrays; the dtype of `y` determines the task.

    Integer or boolean `y` of shape (N,) are labels; floating-point `y` of shape (N,) or (N, 1) are regression targets.
    Floating-point numbers, float64 included, are converted to float32, the precision of training. uint8 `x` with three or
    more axes are images: they are divided by 255, and grayscale images (N, H, W) get a channel axis.

    Args:
        x: Inputs with two to four axes, the first of them the samples.
        y: Labels 0, 1, 2, … or regression targets.
        name: Name of the data set.
        classes: Names of the classes; "0", "1", … by default.
        x_test: Inputs of the official test part.
        y_test: Targets of the official test part; required if and only if `x_test` is given.

    Returns:
        The data set.

    Raises:
        ValueError: If the arrays do not form a data set; the message names the array and the reason.

    Example:
        >>> from_arrays([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1], name="tiny")
        <Dataset tiny: 3 samples of (2,), 2 classes>
    """
    y, task = _targets(y, name, "y")
    x = _inputs(x, name, "x")
    if (x_test is None) != (y_test is None):
        present, missing = ("x_test", "y_test") if y_test is None else ("y_test", "x_test")
        raise ValueError(f"data {name!r} has {present} but no {missing}; pass both or neither")
    held_out = None
    if x_test is not None and y_test is not None:
        y_held_out, test_task = _targets(y_test, name, "y_test")
        if test_task != task:
            raise ValueError(f"data {name!r}: the dtype of y means {task}, but that of y_test {test_task}")
        held_out = (_inputs(x_test, name, "x_test"), y_held_out)
    if task == "regression":
        classes = ()
    elif classes is None:
        classes = _numbered_classes(name, y if held_out is None else np.concatenate([y, held_out[1]]))
    classes = tuple(classes)
    test = None if held_out is None else Dataset(*held_out, f"{name} (test part)", task, classes)
    return Dataset(x, y, name, task, classes, test)


def _inputs(x: ArrayLike, name: str, what: str) -> np.ndarray:
    x = _as_array(x, name, what)
    if x.dtype == np.uint8 and x.ndim >= 3:
        images = x[..., None] if x.ndim == 3 else x
        return images.astype(np.float32) / np.float32(255)
    return _to_float32(x, name, what)


def _targets(y: ArrayLike, name: str, what: str) -> tuple[np.ndarray, Task]:
    y = _as_array(y, name, what)
    if y.dtype.kind in "iub":
        if y.ndim != 1:
            raise ValueError(
                f"data {name!r}: {what} is {_describe(y)}; expected integer labels of shape (N,). "
                f"For one-hot rows pass {what}.argmax(axis=1); for regression pass floats"
            )
        if y.size and max(abs(int(y.min())), int(y.max())) > np.iinfo(np.int32).max:
            raise ValueError(f"data {name!r}: {what} runs from {y.min()} to {y.max()}; expected labels 0, 1, 2, …")
        return y.astype(np.int32), "classification"
    column = y[:, None] if y.ndim == 1 else y
    return _to_float32(column, name, what), "regression"


def _to_float32(array: np.ndarray, name: str, what: str) -> np.ndarray:
    _check_finite(array, name, what)
    with np.errstate(over="ignore"):  # overflow gives inf, which the next line rejects
        narrow = array.astype(np.float32)
    _check_finite(narrow, name, f"{what} as float32")
    return narrow


def _numbered_classes(name: str, labels: np.ndarray) -> tuple[str, ...]:
    if labels.max(initial=-1) >= max(len(labels), 100):
        raise ValueError(
            f"data {name!r}: labels run up to {labels.max()}, but there are only {len(labels)} samples. Number the "
            "classes 0, 1, 2, … (np.unique(y, return_inverse=True)[1]), or pass y as floats for regression"
        )
    return tuple(str(label) for label in range(labels.max(initial=-1) + 1))


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"


def _as_array(value: ArrayLike, name: str, what: str) -> np.ndarray:
    if np.ma.is_masked(value):
        raise ValueError(f"data {name!r}: {what} is a masked array, whose mask would be lost; pass {what}.filled(value)")
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"data {name!r}: {what} is {_describe(array)}; expected numbers. "
            "To convert class names to labels, use np.unique(names, return_inverse=True)[1]"
        )
    return array


def _check_finite(array: np.ndarray, name: str, what: str) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        rows = np.unique(np.nonzero(bad)[0])
        raise ValueError(
            f"data {name!r}: {what} has {bad.sum()} values that are NaN or infinite, the first in sample {rows[0]} "
            f"({len(rows)} of {len(array)} samples); drop these samples or fill in the values"
        )


def _check_inputs(data: Dataset) -> None:
    if data.x.dtype != np.float32 or data.x.ndim not in (2, 3, 4):
        raise ValueError(
            f"data {data.name!r}: x is {_describe(data.x)}; expected float32 of shape (N, features), "
            "(N, time, features) or (N, H, W, C)"
        )
    if data.x.size == 0:
        raise ValueError(f"data {data.name!r} is empty: x is {_describe(data.x)}")
    if data.y.ndim == 0 or len(data.x) != len(data.y):
        raise ValueError(f"data {data.name!r}: x and y differ in length, {_describe(data.x)} and {_describe(data.y)}")
    _check_finite(data.x, data.name, "x")


def _check_labels(data: Dataset) -> None:
    if data.y.dtype != np.int32 or data.y.ndim != 1:
        raise ValueError(f"data {data.name!r}: y is {_describe(data.y)}; expected int32 labels of shape (N,)")
    low, high = data.y.min(), data.y.max()
    if low < 0 or high >= len(data.classes):
        raise ValueError(
            f"data {data.name!r}: labels run from {low} to {high}; expected 0 to {len(data.classes) - 1}, "
            f"since there are {len(data.classes)} classes"
        )


def _check_targets(data: Dataset) -> None:
    if data.y.dtype != np.float32 or data.y.shape[1:] != (1,):
        raise ValueError(f"data {data.name!r}: y is {_describe(data.y)}; expected float32 targets of shape (N, 1)")
    if data.classes:
        raise ValueError(f"data {data.name!r}: classes are {data.classes}, expected none for regression")
    _check_finite(data.y, data.name, "y")


def _check_same_kind(data: Dataset, test: Dataset) -> None:
    if (data.x.shape[1:], data.task, data.classes) != (test.x.shape[1:], test.task, test.classes):
        raise ValueError(f"data {data.name!r}: the test part differs in sample shape, task or classes: {data!r} and {test!r}")
