"""Plots of one training run and of many: learning curves, learning rates, sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnn.plots.axes import BLUE, GRAY, ORANGE, axes, grid, line_colormap, titled
from jaxnn.plots.figures import plot_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Table = Mapping[str, Sequence[Any]]


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
    ax.legend(frameon=False)
    grid(ax)
    return titled(ax, "learning-rate finder", "learning rate", "loss")


def plot_sweep(table: Any, x: str, y: str, value: str, *, ax: Axes | None = None) -> Axes:
    """Plot a heat map of a sweep over two hyperparameters: the mean of `value` over all others, such as seeds.

    Args:
        table: Columns with one value per run, or the result of `sweep`.
        x: The hyperparameter along the x axis.
        y: The hyperparameter along the y axis.
        value: The column to show, such as `"val_loss"`; runs in which it is not finite do not count.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. A combination without a run is left empty.

    Raises:
        ValueError: If a column is missing.

    Example:
        >>> table = {"rate": [0.1, 0.1, 0.2, 0.2], "width": [8, 16, 8, 16], "loss": [1.0, 2.0, 3.0, 4.0]}
        >>> plot_sweep(table, "rate", "width", "loss").images[0].get_array().tolist()
        [[1.0, 3.0], [2.0, 4.0]]
    """
    table, _ = _columns_and_names(table)
    x_column, y_column, values = (_column(table, name) for name in (x, y, value))
    values = values.astype(float)
    x_values, y_values = _distinct(x_column), _distinct(y_column)
    means = np.full((len(y_values), len(x_values)), np.nan)
    for i, j in np.ndindex(means.shape):
        cell = values[(y_column == y_values[i]) & (x_column == x_values[j]) & np.isfinite(values)]
        means[i, j] = cell.mean() if len(cell) else np.nan
    ax = axes(ax)
    image = ax.imshow(means, cmap="viridis", aspect="auto", origin="lower")
    low, high = np.nanmin(means), np.nanmax(means)
    for (i, j), mean in np.ndenumerate(means):
        if np.isfinite(mean) and means.size <= 150:
            is_dark = mean < low + 0.6 * (high - low)
            ax.text(j, i, f"{mean:.3g}", ha="center", va="center", fontsize=9, color="white" if is_dark else "black")
    ax.set_xticks(range(len(x_values)), map(_text, x_values))
    ax.set_yticks(range(len(y_values)), map(_text, y_values))
    ax.figure.colorbar(image, ax=ax, label=value)
    return titled(ax, f"mean {value}", x, y)


def plot_parallel_coordinates(table: Any, value: str, *, names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Plot each run of a sweep as a line through its hyperparameters, colored by its result (Inselberg 1985).

    Args:
        table: Columns with one value per run, numbers or anything else; or the result of `sweep`.
        value: The column that gives the color and comes last; runs in which it is not finite are left out.
        names: The other columns, in order; by default all of a table, and the hyperparameters of a sweep.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. The scale of a column of positive numbers that spans more than a decade is logarithmic; values that are
        not numbers are evenly spaced.

    Raises:
        ValueError: If a column is missing, or no run has a finite value.

    Example:
        >>> table = {"rate": [0.1, 0.01], "init": ["he", "glorot"], "loss": [1.0, 2.0]}
        >>> ax = plot_parallel_coordinates(table, "loss")
        >>> [line.tolist() for line in ax.collections[0].get_segments()]
        [[[0.0, 0.0], [1.0, 1.0], [2.0, 1.0]], [[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]]]
    """
    from matplotlib.collections import LineCollection

    table, default_names = _columns_and_names(table)
    names = [*(names or [name for name in default_names if name != value]), value]
    results = _column(table, value).astype(float)
    shown = np.isfinite(results)
    if not shown.any():
        raise ValueError(f"plot_parallel_coordinates: no run has a finite {value!r}")
    scaled = [_heights_and_ticks(_column(table, name)[shown]) for name in names]
    heights = np.stack([height for height, _ in scaled], axis=1)  # (runs, columns)
    order = np.argsort(-heights[:, -1])  # the smallest on top
    lines = np.stack([np.broadcast_to(np.arange(len(names)), heights.shape), heights], axis=-1)[order]
    ax = axes(ax, 1.5 + 1.3 * len(names))
    drawn = LineCollection(list(lines), array=results[shown][order], cmap=line_colormap(), alpha=0.75, linewidths=1.4)
    ax.add_collection(drawn)
    for i, (_, ticks) in enumerate(scaled):
        ax.axvline(i, color=GRAY, linewidth=1, zorder=0)
        for height, text in ticks:
            box = {"facecolor": ax.get_facecolor(), "alpha": 0.7, "linewidth": 0, "pad": 1}
            ax.annotate(text, (i, height), (4, 0), textcoords="offset points", va="center", fontsize=8, zorder=5, bbox=box)
    ax.set(xlim=(-0.15, len(names) - 0.6), ylim=(-0.06, 1.06), yticks=[])
    ax.set_xticks(range(len(names)), names)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(drawn, ax=ax, label=value)
    return ax


def _columns_and_names(table: Any) -> tuple[Table, Iterable[str]]:
    """The columns, and the names of those that are drawn by default, of a table or a sweep."""
    is_sweep = hasattr(table, "by_setting")
    return (table.columns, table.names) if is_sweep else (table, table)


def _column(table: Table, name: str) -> np.ndarray:
    if name not in table:
        raise ValueError(f"the table has no column {name!r}; it has {', '.join(map(repr, table))}")
    return np.asarray(table[name])


def _distinct(values: np.ndarray) -> list:
    return np.unique(values).tolist() if values.dtype.kind in "biuf" else list(dict.fromkeys(values.tolist()))


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _heights_and_ticks(values: np.ndarray) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """The height of each value, from 0 to 1, and the heights and texts of the tick labels."""
    distinct = _distinct(values)
    if values.dtype.kind not in "iuf":
        height_of = {value: i / max(len(distinct) - 1, 1) for i, value in enumerate(distinct)}
        ticks = [(height, str(value)) for value, height in height_of.items()]
        return np.array([height_of[value] for value in values.tolist()]), ticks
    numbers, scale = values.astype(float), np.asarray(distinct, float)
    if scale[0] > 0 and scale[-1] > 10 * scale[0]:
        numbers, scale = np.log(numbers), np.log(scale)
    span = (scale[-1] - scale[0]) or 1.0
    labeled = range(len(distinct)) if len(distinct) <= 6 else np.linspace(0, len(distinct) - 1, 5).astype(int)
    return (numbers - scale[0]) / span, [((scale[i] - scale[0]) / span, _text(distinct[i])) for i in labeled]
