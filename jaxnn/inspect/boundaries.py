"""Decision boundaries of classifiers of two features: the model's predictions on a grid, and their plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from jaxnn.plots.animations import Movie

Extent = tuple[float, float, float, float]


def plot_decision_boundary(
    predict: Callable[[Any], Any], x: Any, labels: Any, *, points: int = 200, ax: Axes | None = None
) -> Axes:
    """Plot the class that a model predicts at each point of the plane, for inputs of two features.

    Args:
        predict: From inputs `(n, 2)` to logits `(n, classes)`, or for two classes `(n,)` or `(n, 1)`, such as
            `lambda x: model(params, x)`.
        x: The data, `(N, 2)`.
        labels: Their classes, integers `(N,)` from 0.
        points: The number of grid points along each side.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. The plane is colored by class, the more opaque the higher its probability.

    Raises:
        ValueError: If the inputs do not have two features.

    Example:
        >>> ax = plot_decision_boundary(lambda x: x[:, 0] - 0.5, [[0.0, 0.0], [1.0, 1.0]], [0, 1], points=5)
        >>> ax.images[0].get_array().shape, len(ax.collections)
        ((5, 5, 4), 2)
    """
    from jaxnn.plots.classifiers import class_colors, plot_class_regions

    x, labels = _checked(x, labels)
    extent = _extent(x)
    return plot_class_regions(class_colors(_grid_logits(predict, extent, points)), extent, x, labels, ax=ax)


def animate_boundary(
    predict: Callable[[Any, Any], Any],
    path: Sequence[Any],
    x: Any,
    labels: Any,
    *,
    steps: Sequence[Any] | None = None,
    points: int = 100,
) -> Movie:
    """Animate a decision boundary as it is learned.

    Args:
        predict: `predict(params, x) -> logits`, such as the model itself, for x `(n, 2)`.
        path: Parameters along a run, one per frame.
        x: The data, `(N, 2)`.
        labels: Their classes, integers `(N,)` from 0.
        steps: The step of each entry of the path, for the title; by default its index.
        points: The number of grid points along each side.

    Returns:
        A `Movie`.

    Raises:
        ValueError: If the inputs do not have two features.

    Example:
        >>> x, labels = [[0.0, 0.0], [1.0, 1.0]], [0, 1]
        >>> animate_boundary(lambda p, x: x[:, 0] - p, [0.25, 0.5, 0.75], x, labels, points=5)
        Movie(frames=3, fps=8)
    """
    from jaxnn.plots.animations import animate_class_regions
    from jaxnn.plots.classifiers import class_colors

    x, labels = _checked(x, labels)
    extent, compiled = _extent(x), jax.jit(predict)
    images = [class_colors(_grid_logits(lambda grid, p=params: compiled(p, grid), extent, points)) for params in path]
    return animate_class_regions(images, extent, x, labels, steps=steps)


def _checked(x: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    x, labels = np.asarray(x, float), np.asarray(labels)
    if x.ndim != 2 or x.shape[1] != 2 or not len(x):
        raise ValueError(f"a decision boundary needs inputs (N, 2), of two features, got shape {list(x.shape)}")
    if labels.shape != x.shape[:1]:
        raise ValueError(f"a decision boundary needs one label per input, got shapes {list(labels.shape)} and {list(x.shape)}")
    return x, labels


def _extent(x: np.ndarray) -> Extent:
    """The rectangle around points, `(left, right, bottom, top)`, with a margin."""
    low, high = x.min(0), x.max(0)
    margin = 0.12 * np.where(high > low, high - low, 1.0)
    (left, bottom), (right, top) = low - margin, high + margin
    return float(left), float(right), float(bottom), float(top)


def _grid_logits(predict: Callable, extent: Extent, points: int) -> np.ndarray:
    """Logits on a grid, `(points, points, classes)`."""
    horizontal, vertical = np.linspace(*extent[:2], points), np.linspace(*extent[2:], points)
    grid = np.stack(np.meshgrid(horizontal, vertical), axis=-1).reshape(-1, 2)
    logits = np.asarray(predict(grid.astype(np.float32)), float).reshape(len(grid), -1)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    return logits.reshape(points, points, -1)
