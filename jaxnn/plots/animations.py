"""Animations, as GIF (written by Pillow) or as an HTML page with a player; no system encoder is needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxnn.plots.axes import titled
from jaxnn.plots.figures import new_figure
from jaxnn.plots.landscapes import draw_contours
from jaxnn.plots.style import BLUE, GRAY, ORANGE, grid, of_class, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BUTTONS = {  # text instead of icons, in characters that every font has
    "minus": "−",
    "plus": "+",
    "fast-backward": "◀◀",
    "fast-forward": "▶▶",
    "step-backward": "|◀",
    "step-forward": "▶|",
    "play": "▶",
    "pause": "||",
    "play fa-flip-horizontal": "◀",
}


@dataclass(frozen=True)
class Movie:
    """The result of the `animate_` functions; a notebook plays it.

    Attributes:
        figure: The matplotlib figure.
        draw: A function; `draw(i)` changes the figure to frame i.
        frames: The number of frames.
        fps: The number of frames per second.

    Example:
        >>> figure = new_figure(3, 2)
        >>> Movie(figure, lambda i: figure.suptitle(f"frame {i}"), frames=10, fps=5)
        Movie(frames=10, fps=5)
    """

    figure: Figure = field(repr=False)
    draw: Callable[[int], Any] = field(repr=False)
    frames: int
    fps: int

    def save(self, path: str | Path) -> None:
        """Write the animation to a file.

        Args:
            path: A name ending in `.gif`, or in `.html` for a page with buttons.

        Raises:
            ValueError: If it ends in anything else.
        """
        path = Path(path)
        if path.suffix == ".gif":
            from matplotlib.animation import PillowWriter

            self._animation().save(path, writer=PillowWriter(fps=self.fps))
        elif path.suffix == ".html":
            path.write_text(f"<!doctype html><meta charset='utf-8'><body>{self._repr_html_()}", encoding="utf-8")
        else:
            raise ValueError(f"an animation is saved as .gif or .html, got {str(path)!r}")

    def _repr_html_(self) -> str:
        page = self._animation().to_jshtml(fps=self.fps)
        page = re.sub(r'<link rel="stylesheet"[^>]*>', "", page)  # an icon font that the page would download
        return re.sub(r'<i class="fa fa-([a-z -]+)"></i>', lambda icon: _BUTTONS.get(icon[1], icon[1]), page)

    def _animation(self) -> Any:
        from matplotlib.animation import FuncAnimation

        def draw(i):
            self.draw(i)
            return ()

        return FuncAnimation(self.figure, draw, frames=self.frames, interval=1000 / self.fps)


class Curve(NamedTuple):
    """A function of one number on a grid and at the points of the frames.

    Attributes:
        values: Its values on the grid.
        slopes: Its derivatives on the grid.
        frame_values: Its values at the points of the frames.
        frame_slopes: Its derivatives there.
    """

    values: np.ndarray
    slopes: np.ndarray
    frame_values: np.ndarray
    frame_slopes: np.ndarray


@style()
def animate_curves(curves: Mapping[str, Curve], grid_points: np.ndarray, frame_points: np.ndarray, *, xlabel: str) -> Movie:
    """Animate a point that moves along each curve, with the tangent at the point; the derivative is drawn behind it.

    Args:
        curves: The curves by name, one panel each.
        grid_points: The grid, ascending.
        frame_points: The position of the point in each frame.
        xlabel: The label of the x axis.

    Returns:
        A `Movie`.

    Example:
        >>> x, frames = np.linspace(0, 1, 11), np.linspace(0, 1, 3)
        >>> animate_curves({"square": Curve(x**2, 2 * x, frames**2, 2 * frames)}, x, frames, xlabel="x")
        Movie(frames=3, fps=15)
    """
    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    figure = new_figure(3.4 * columns, 2.8 * rows)
    low, high = frame_points[0], frame_points[-1]
    half_tangent = np.array([-1.0, 1.0]) * (high - low) / 8
    panels = []
    for number, (name, curve) in enumerate(curves.items(), 1):
        ax = figure.add_subplot(rows, columns, number)
        ax.plot(grid_points, curve.values, color=BLUE, label="f")
        (derivative,) = ax.plot([], [], color=ORANGE, linestyle="--", label="f′")
        (tangent,) = ax.plot([], [], color=GRAY, linewidth=1)
        (point,) = ax.plot([], [], color=BLUE, marker="o")
        bottom = min(curve.values.min(), curve.slopes.min())
        top = max(curve.values.max(), curve.slopes.max())
        margin = 0.08 * (top - bottom)
        ax.set(xlim=(low, high), ylim=(bottom - margin, top + margin))
        grid(ax)
        titled(ax, name, xlabel)
        if number == 1:
            ax.legend(loc="upper left")
        panels.append((curve, derivative, tangent, point))

    def draw(i: int) -> None:
        passed = grid_points <= frame_points[i]
        for curve, derivative, tangent, point in panels:
            derivative.set_data(grid_points[passed], curve.slopes[passed])
            tangent.set_data(frame_points[i] + half_tangent, curve.frame_values[i] + curve.frame_slopes[i] * half_tangent)
            point.set_data(frame_points[i : i + 1], curve.frame_values[i : i + 1])

    return _movie(figure, draw, len(frame_points), 15)


@style()
def animate_class_regions(
    images: Sequence[np.ndarray],
    extent: tuple[float, float, float, float],
    x: np.ndarray,
    labels: np.ndarray,
    *,
    steps: Sequence[Any] | None = None,
) -> Movie:
    """Animate the colors of the predicted classes over the plane.

    Args:
        images: The colors, `(points, points, 4)`, one array per frame.
        extent: The rectangle of the grid, `(left, right, bottom, top)`.
        x: The samples, `(N, 2)`.
        labels: Their classes, integers `(N,)` from 0.
        steps: The step of each frame, for the title; by default its index.

    Returns:
        A `Movie`.

    Example:
        >>> x, labels = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([0, 1])
        >>> animate_class_regions([np.zeros((2, 2, 4))] * 3, (0, 1, 0, 1), x, labels)
        Movie(frames=3, fps=8)
    """
    figure = new_figure(4.8, 4.4)
    ax = figure.subplots()
    image = ax.imshow(images[0], extent=extent, origin="lower", aspect="auto", interpolation="bilinear")
    for label in np.unique(labels):
        chosen = x[labels == label]
        ax.scatter(chosen[:, 0], chosen[:, 1], s=16, edgecolors="white", linewidths=0.5, **of_class(int(label)))
    ax.set(xlim=extent[:2], ylim=extent[2:])

    def draw(i: int) -> None:
        image.set_data(images[i])
        titled(ax, f"step {i if steps is None else steps[i]}", "x₀", "x₁")

    return _movie(figure, draw, len(images), 8)


@style()
def animate_landscape(landscape: Any, path: Sequence[Any], *, losses: Sequence[float] | None = None) -> Movie:
    """Animate an optimizer's path through the loss landscape, step by step.

    Args:
        landscape: The result of `loss_landscape`.
        path: Parameters along the run, one per frame; they are projected onto the plane.
        losses: The loss of each frame, for the title.

    Returns:
        A `Movie`.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> params, directions = jnp.zeros(2), (jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
        >>> landscape = nn.inspect.loss_landscape(lambda p: (p**2).sum(), params, directions, points=5)
        >>> animate_landscape(landscape, [jnp.ones(2), jnp.array([0.5, 0.25]), params])
        Movie(frames=3, fps=8)
    """
    points = landscape.project(path)
    figure = new_figure(5.4, 4.4)
    ax = figure.subplots()
    draw_contours(ax, landscape.x, landscape.y, landscape.losses)
    ax.set(xlim=(landscape.x[0], landscape.x[-1]), ylim=(landscape.y[0], landscape.y[-1]))
    (outline,) = ax.plot([], [], color="white", linewidth=3)
    (line,) = ax.plot([], [], color=ORANGE, linewidth=1.6)
    (head,) = ax.plot([], [], color=ORANGE, marker="o", markersize=8, markeredgecolor="white")

    def draw(i: int) -> None:
        for part in (outline, line):
            part.set_data(points[: i + 1, 0], points[: i + 1, 1])
        head.set_data(points[i : i + 1, 0], points[i : i + 1, 1])
        ax.set_title(f"step {i}" + ("" if losses is None else f", loss {losses[i]:.3g}"))

    return _movie(figure, draw, len(points), 8)


def _movie(figure: Figure, draw: Callable[[int], Any], frames: int, fps: int) -> Movie:
    """A movie whose layout is that of its first frame, small enough for a file of a few hundred kB."""
    figure.set_dpi(80)
    draw = style()(draw)
    draw(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return Movie(figure, draw, frames, fps)
