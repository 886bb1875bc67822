"""Pictures of runs and of many runs: curves, learning rates, sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnn.plots.axes import BLUE, GREY, ORANGE, axes, grid, ramp, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Table = Mapping[str, Sequence[Any]]


def plot_learning_curves(history: Table, name: str = "loss", *, ax: Axes | None = None) -> Axes:
    """A loss or metric over the epochs, validation beside training.

    Args:
        history: columns of one value an epoch, as `result.history`: `name`, `"val_" + name` or both.
        name: what to draw.
        ax: where; new axes by default.

    Returns:
        The axes; those of a loss that falls over more than two decades are logarithmic.

    Raises:
        ValueError: if the history has no such column.

    Example:
        >>> ax = plot_learning_curves({"loss": [1.0, 0.5], "val_loss": [1.0, 0.75]})
        >>> [line.get_label() for line in ax.lines]
        ['training', 'validation']
    """
    from jaxnn.plots.figures import plot_curves

    if name not in history and f"val_{name}" not in history:
        raise ValueError(f"the history has no {name!r}; it has {', '.join(map(repr, history))}")
    ax = axes(ax)
    plot_curves(ax, history, name, log=name in ("loss", "learning_rate"))
    return ax


def plot_learning_rates(found: Any, *, ax: Axes | None = None) -> Axes:
    """The loss over the learning rate, the suggestion marked (Smith 2017).

    Args:
        found: what `nn.find_learning_rate` returned.
        ax: where; new axes by default.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> import jaxnn as nn
        >>> found = nn.LearningRates(np.array([0.1, 1.0]), np.array([2.0, 1.0]), np.array([2.0, 1.5]), 0.1)
        >>> plot_learning_rates(found).lines[2].get_label()
        'suggestion 0.1'
    """
    ax = axes(ax)
    ax.semilogx(found.learning_rates, found.losses, color=GREY, alpha=0.5, label="loss of a batch")
    ax.semilogx(found.learning_rates, found.smoothed, color=BLUE, label="its moving average")
    ax.axvline(found.suggestion, color=ORANGE, label=f"suggestion {found.suggestion:.2g}")
    ax.set_ylim(None, np.max(found.smoothed) * 1.1)
    ax.legend(frameon=False)
    grid(ax)
    return titled(ax, "learning-rate finder", "learning rate", "loss")


def plot_sweep(table: Any, x: str, y: str, value: str, *, ax: Axes | None = None) -> Axes:
    """A heat map of a sweep over two hyperparameters: the mean of `value` over all else, seeds for instance.

    Args:
        table: columns of one value a run, or what `sweep` returns.
        x: the hyperparameter along the x axis.
        y: the one along the y axis.
        value: what is shown, such as `"val_loss"`; runs in which it is not finite do not count.
        ax: where; new axes by default.

    Returns:
        The axes. A combination without a run is left empty.

    Raises:
        ValueError: if a column is missing.

    Example:
        >>> table = {"rate": [0.1, 0.1, 0.2, 0.2], "width": [8, 16, 8, 16], "loss": [1.0, 2.0, 3.0, 4.0]}
        >>> plot_sweep(table, "rate", "width", "loss").images[0].get_array().tolist()
        [[1.0, 3.0], [2.0, 4.0]]
    """
    table, _ = _read(table)
    columns, rows, values = (_column(table, name) for name in (x, y, value))
    values = values.astype(float)
    across, up = _sorted(columns), _sorted(rows)
    means = np.full((len(up), len(across)), np.nan)
    for i, j in np.ndindex(means.shape):
        cell = values[(rows == up[i]) & (columns == across[j]) & np.isfinite(values)]
        means[i, j] = cell.mean() if len(cell) else np.nan
    ax = axes(ax)
    image = ax.imshow(means, cmap="viridis", aspect="auto", origin="lower")
    low, high = np.nanmin(means), np.nanmax(means)
    for (i, j), mean in np.ndenumerate(means):
        if np.isfinite(mean) and means.size <= 150:
            dark = mean < low + 0.6 * (high - low)
            ax.text(j, i, f"{mean:.3g}", ha="center", va="center", fontsize=9, color="white" if dark else "black")
    ax.set_xticks(range(len(across)), map(_text, across))
    ax.set_yticks(range(len(up)), map(_text, up))
    ax.figure.colorbar(image, ax=ax, label=value)
    return titled(ax, f"mean {value}", x, y)


def plot_parallel_coordinates(table: Any, value: str, *, names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Every run of a sweep as a line through its hyperparameters, coloured by what came out (Inselberg 1985).

    Args:
        table: columns of one value a run, numbers or anything else, or what `sweep` returns.
        value: the column that gives the colour and stands last; runs in which it is not finite are left out.
        names: the other columns, in the order in which they stand; by default all, and of a sweep its hyperparameters.
        ax: where; new axes by default.

    Returns:
        The axes. A column of positive numbers over more than a decade is logarithmic; one that is not of numbers is evenly
        spaced.

    Raises:
        ValueError: if a column is missing, or no run has a finite value.

    Example:
        >>> table = {"rate": [0.1, 0.01], "init": ["he", "glorot"], "loss": [1.0, 2.0]}
        >>> ax = plot_parallel_coordinates(table, "loss")
        >>> [line.tolist() for line in ax.collections[0].get_segments()]
        [[[0.0, 0.0], [1.0, 1.0], [2.0, 1.0]], [[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]]]
    """
    from matplotlib.collections import LineCollection

    table, usual = _read(table)
    names = [*(names or [name for name in usual if name != value]), value]
    ends = _column(table, value).astype(float)
    shown = np.isfinite(ends)
    if not shown.any():
        raise ValueError(f"no run has a finite {value!r}")
    placed = [_placed(_column(table, name)[shown]) for name in names]
    heights = np.stack([height for height, _ in placed], axis=1)  # (runs, columns)
    order = np.argsort(-heights[:, -1])  # the smallest on top
    lines = np.stack([np.broadcast_to(np.arange(len(names)), heights.shape), heights], axis=-1)[order]
    ax = axes(ax, 1.5 + 1.3 * len(names))
    drawn = LineCollection(list(lines), array=ends[shown][order], cmap=ramp(), alpha=0.75, linewidths=1.4)
    ax.add_collection(drawn)
    for i, (_, ticks) in enumerate(placed):
        ax.axvline(i, color=GREY, linewidth=1, zorder=0)
        for height, text in ticks:
            behind = {"facecolor": ax.get_facecolor(), "alpha": 0.7, "linewidth": 0, "pad": 1}
            ax.annotate(text, (i, height), (4, 0), textcoords="offset points", va="center", fontsize=8, zorder=5, bbox=behind)
    ax.set(xlim=(-0.15, len(names) - 0.6), ylim=(-0.06, 1.06), yticks=[])
    ax.set_xticks(range(len(names)), names)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(drawn, ax=ax, label=value)
    return ax


def _read(table: Any) -> tuple[Table, Iterable[str]]:
    """The columns, and the names of those that are drawn by default; a sweep says both, a table is its own answer."""
    is_sweep = hasattr(table, "by_setting")
    return (table.columns, table.names) if is_sweep else (table, table)


def _column(table: Table, name: str) -> np.ndarray:
    if name not in table:
        raise ValueError(f"the table has no column {name!r}; it has {', '.join(map(repr, table))}")
    return np.asarray(table[name])


def _sorted(values: np.ndarray) -> list:
    return np.unique(values).tolist() if values.dtype.kind in "biuf" else list(dict.fromkeys(values.tolist()))


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _placed(values: np.ndarray) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights from 0 to 1, and where to write what."""
    kinds = _sorted(values)
    if values.dtype.kind not in "iuf":
        at = {kind: i / max(len(kinds) - 1, 1) for i, kind in enumerate(kinds)}
        return np.array([at[value] for value in values.tolist()]), [(height, str(kind)) for kind, height in at.items()]
    numbers, few = values.astype(float), np.asarray(kinds, float)
    if few[0] > 0 and few[-1] > 10 * few[0]:
        numbers, few = np.log(numbers), np.log(few)
    span = (few[-1] - few[0]) or 1.0
    marked = range(len(kinds)) if len(kinds) <= 6 else np.linspace(0, len(kinds) - 1, 5).astype(int)
    return (numbers - few[0]) / span, [((few[i] - few[0]) / span, _text(kinds[i])) for i in marked]
