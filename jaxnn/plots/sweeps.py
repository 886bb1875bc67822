"""Plots of many training runs: heat maps, dots and parallel coordinates of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnn.plots.axes import axes, titled
from jaxnn.plots.figures import new_figure
from jaxnn.plots.style import BLUE, GRAY, ORANGE, grid, line_colormap, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Table = Mapping[str, Sequence[Any]]

_MOST_MAPS, _MOST_VALUES = 12, 10  # of small heat maps; beyond them, lines are easier to read


@style()
def sweep_figure(table: Any, names: Sequence[str], value: str, *, title: str) -> Figure:
    """A picture of a whole sweep, chosen by its size.

    One hyperparameter is drawn as dots. For more, there is a heat map over the two with the most values for each combination
    of the others, all on one color scale. Where that would be too many maps or cells, a line per run is drawn.

    Args:
        table: Columns with one value per run, or the result of `sweep`.
        names: The hyperparameters that vary.
        value: The column to show.
        title: The title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: If a column is missing, or no run has a finite value.

    Example:
        >>> table = {"rate": [0.1, 0.1, 0.2, 0.2], "width": [8, 16, 8, 16], "loss": [1.0, 2.0, 3.0, 4.0]}
        >>> len(sweep_figure(table, ["rate", "width"], "loss", title="four runs").axes)  # the map and its colorbar
        2
    """
    columns, _ = _columns_and_names(table)
    values = {name: _distinct(_column(columns, name)) for name in names}
    if not np.isfinite(_column(columns, value).astype(float)).any():
        raise ValueError(f"sweep_figure: no run has a finite {value!r}")
    by_size = sorted(names, key=lambda name: -len(values[name]))
    rest = [name for name in names if name in by_size[2:]]
    if len(names) == 1:
        figure = new_figure(6, 4)
        _dots(figure.subplots(), columns, names[0], value)
    elif prod(len(values[name]) for name in rest) <= _MOST_MAPS and len(values[by_size[0]]) <= _MOST_VALUES:
        figure = _maps(columns, by_size[0], by_size[1], {name: values[name] for name in rest}, value)
    else:
        figure = new_figure(1.5 + 1.5 * (len(names) + 1), 4.4)
        plot_parallel_coordinates(columns, value, names=names, ax=figure.subplots())
    figure.suptitle(title)
    return figure


@style()
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
    x_values, y_values, means = _means(table, x, y, value)
    ax = axes(ax)
    image = _heat_map(ax, x_values, y_values, means, (np.nanmin(means), np.nanmax(means)))
    ax.figure.colorbar(image, ax=ax, label=value)
    return titled(ax, f"mean {value}", x, y)


@style()
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


def _maps(table: Table, x: str, y: str, rest: Mapping[str, list], value: str) -> Figure:
    """A heat map over x and y for each combination of the other hyperparameters, with one colorbar."""
    settings = [dict(zip(rest, setting, strict=True)) for setting in product(*rest.values())]
    parts = []
    for setting in settings:
        chosen = np.all([_column(table, name) == number for name, number in setting.items()] or [True], axis=0)
        chosen = np.broadcast_to(chosen, len(_column(table, value)))
        parts.append(_means({name: _column(table, name)[chosen] for name in (x, y, value)}, x, y, value))
    everything = np.concatenate([means.ravel() for *_, means in parts])
    limits = np.nanmin(everything), np.nanmax(everything)
    columns = min(len(parts), 3 if len(parts) != 4 else 2)
    rows = -(-len(parts) // columns)
    width, height = 1.2 + 0.62 * len(parts[0][0]), 1.1 + 0.45 * len(parts[0][1])
    figure = new_figure(max(1.4 + columns * width, 5.0), max(0.7 + rows * height, 3.2))
    for number, (setting, (x_values, y_values, means)) in enumerate(zip(settings, parts, strict=True), 1):
        ax = figure.add_subplot(rows, columns, number)
        image = _heat_map(ax, x_values, y_values, means, limits)
        text = ", ".join(f"{name} {_text(number)}" for name, number in setting.items())
        titled(ax, text, x if number > len(parts) - columns else "", y if number % columns == 1 or columns == 1 else "")
    figure.colorbar(image, ax=figure.axes, label=f"mean {value}")
    return figure


def _means(table: Table, x: str, y: str, value: str) -> tuple[list, list, np.ndarray]:
    """The distinct values of x and of y, and the mean of the finite `value`s of each pair, NaN where there is none."""
    x_column, y_column, values = (_column(table, name) for name in (x, y, value))
    values = values.astype(float)
    x_values, y_values = _distinct(x_column), _distinct(y_column)
    means = np.full((len(y_values), len(x_values)), np.nan)
    for i, j in np.ndindex(means.shape):
        cell = values[(y_column == y_values[i]) & (x_column == x_values[j]) & np.isfinite(values)]
        means[i, j] = cell.mean() if len(cell) else np.nan
    return x_values, y_values, means


def _heat_map(ax: Axes, x_values: list, y_values: list, means: np.ndarray, limits: tuple[float, float]) -> Any:
    low, high = limits
    image = ax.imshow(means, vmin=low, vmax=high, aspect="auto", origin="lower")
    for (i, j), mean in np.ndenumerate(means):
        if np.isfinite(mean) and means.size <= 150:
            is_dark = mean < low + 0.6 * (high - low)
            ax.text(j, i, f"{mean:.3g}", ha="center", va="center", fontsize=9, color="white" if is_dark else "black")
    ax.set_xticks(range(len(x_values)), map(_text, x_values))
    ax.set_yticks(range(len(y_values)), map(_text, y_values))
    ax.spines[:].set_visible(False)
    return image


def _dots(ax: Axes, table: Table, name: str, value: str) -> None:
    """The values of each run over one hyperparameter, whose values are evenly spaced, and their means."""
    column, results = _column(table, name), _column(table, value).astype(float)
    distinct = _distinct(column)
    for i, setting in enumerate(distinct):
        shown = results[(column == setting) & np.isfinite(results)]
        ax.plot(np.full(len(shown), i), shown, "o", color=BLUE, alpha=0.6, label="a network" if not i else None)
        ax.plot([i], [shown.mean()] if len(shown) else [np.nan], "_", color=ORANGE, markersize=22, markeredgewidth=2.5,
                label="mean" if not i else None)  # fmt: skip
    ax.set_xticks(range(len(distinct)), map(_text, distinct))
    ax.set_xlim(-0.5, len(distinct) - 0.5)
    grid(ax)
    ax.legend()
    titled(ax, "", name, value)


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
