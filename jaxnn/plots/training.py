"""Plots of a training run: learning curves, learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnn.plots.axes import axes, titled
from jaxnn.plots.figures import plot_curves
from jaxnn.plots.style import BLUE, GRAY, ORANGE, grid, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Table = Mapping[str, Sequence[Any]]


@style()
def plot_learning_curves(history: Table, name: str = "loss", *, ax: Axes | None = None) -> Axes:
    """Plot a loss or metric over the epochs, of training and validation.

    Args:
        history: Columns with one value per epoch, such as `result.history`: `name`, `"val_" + name` or both.
        name: The column.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. The scale of a loss that spans more than two decades is logarithmic.

    Raises:
        ValueError: If the history has no such column.

    Example:
        >>> ax = plot_learning_curves({"loss": [1.0, 0.5], "val_loss": [1.0, 0.75]})
        >>> [line.get_label() for line in ax.lines]
        ['training', 'validation']
    """
    if name not in history and f"val_{name}" not in history:
        raise ValueError(f"plot_learning_curves: the history has no {name!r}; it has {', '.join(map(repr, history))}")
    ax = axes(ax)
    plot_curves(ax, history, name, log=name in ("loss", "learning_rate"))
    return ax


@style()
def plot_learning_rates(found: Any, *, ax: Axes | None = None) -> Axes:
    """Plot the loss over the learning rate, with the suggested rate marked (Smith 2017).

    Args:
        found: The result of `nn.find_learning_rate`.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        >>> import jaxnn as nn
        >>> found = nn.LearningRates(np.array([0.1, 1.0]), np.array([2.0, 1.0]), np.array([2.0, 1.5]), 0.1)
        >>> plot_learning_rates(found).lines[2].get_label()
        'suggestion 0.1'
    """
    ax = axes(ax)
    ax.semilogx(found.learning_rates, found.losses, color=GRAY, alpha=0.5, label="loss of a batch")
    ax.semilogx(found.learning_rates, found.smoothed, color=BLUE, label="its moving average")
    ax.axvline(found.suggestion, color=ORANGE, label=f"suggestion {found.suggestion:.2g}")
    ax.set_ylim(None, np.max(found.smoothed) * 1.1)
    ax.legend()
    grid(ax)
    return titled(ax, "learning-rate finder", "learning rate", "loss")
