"""Plots of loss landscapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnn.plots.axes import axes, titled
from jaxnn.plots.style import ORANGE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@style()
def plot_landscape(landscape: Any, path: Sequence[Any] | None = None, *, ax: Axes | None = None) -> Axes:
    """Plot the contours of a landscape, and an optimizer's path through it.

    Args:
        landscape: The result of `loss_landscape`.
        path: Parameters along a run; they are projected onto the plane.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. The levels of the contours have equal ratios if the losses are positive and span more than a decade.

    Raises:
        ValueError: If no loss is finite.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> params, directions = jnp.zeros(2), (jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
        >>> landscape = nn.inspect.loss_landscape(lambda p: (p**2).sum(), params, directions, points=5)
        >>> plot_landscape(landscape, [jnp.ones(2), jnp.array([0.5, 0.25]), params]).lines[1].get_xdata().round(2).tolist()
        [1.0, 0.5, 0.0]
    """
    ax = axes(ax, 5.4, 4.4)
    draw_contours(ax, landscape.x, landscape.y, landscape.losses)
    if path is not None:
        points = landscape.project(path)
        ax.plot(points[:, 0], points[:, 1], color="white", linewidth=3)
        ax.plot(points[:, 0], points[:, 1], color=ORANGE, linewidth=1.6, marker="o", markersize=3)
        ax.plot(*points[-1], color=ORANGE, marker="*", markersize=13, markeredgecolor="white", label="end of the run")
        ax.legend(frameon=True)
    return ax


@style()
def draw_contours(ax: Axes, x: np.ndarray, y: np.ndarray, losses: np.ndarray) -> None:
    """Draw filled contours with a colorbar.

    Args:
        ax: The axes to draw on.
        x: The coordinates along the first direction, `(columns,)`.
        y: The coordinates along the second direction, `(rows,)`.
        losses: The losses, `(rows, columns)`.

    Raises:
        ValueError: If no loss is finite.

    Example:
        >>> ax = axes(None)
        >>> draw_contours(ax, np.arange(2.0), np.arange(2.0), np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> ax.get_title(loc="left")
        'loss landscape'
    """
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter

    finite = losses[np.isfinite(losses)]
    if not finite.size:
        raise ValueError("plot_landscape: no loss of the landscape is finite; choose a smaller extent")
    low, high = finite.min(), finite.max()
    is_logarithmic = low > 0 and high > 10 * low
    levels = np.geomspace(low, high, 24) if is_logarithmic else np.linspace(low, high or 1.0, 24)
    levels = np.unique(levels) if high > low else np.array([low - 0.5, low + 0.5])
    norm, filled = LogNorm(low, high) if is_logarithmic else None, np.where(np.isfinite(losses), losses, high)
    drawn = ax.contourf(x, y, filled, levels, cmap="viridis", norm=norm)
    ax.contour(x, y, losses, levels[::2], colors="white", linewidths=0.4, alpha=0.5)
    bar = ax.figure.colorbar(drawn, ax=ax, label="loss", ticks=levels[:: max(len(levels) // 6, 1)])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.locator_params(nbins=6)  # tick labels such as −0.75 are wide
    titled(ax, "loss landscape", "along the first direction", "along the second direction")
