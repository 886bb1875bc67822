"""Moving pictures, as GIF (by Pillow) or as a page that plays them: no encoder of the system is needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.functional import activations, losses
from jaxnn.inspect.landscapes import Landscape, draw_contours
from jaxnn.plots.axes import BLUE, COLORS, GREY, ORANGE, grid, titled
from jaxnn.plots.classifiers import boundary_image, check_plane, plane
from jaxnn.plots.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BUTTONS = {  # in letters that every font has
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
    """What the `animate_` functions return; a notebook plays it.

    Attributes:
        figure: the matplotlib figure.
        draw: `draw(i)` changes it to frame i.
        frames: how many frames there are.
        fps: how many a second.

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
        """Write it to a file.

        Args:
            path: a name ending in `.gif`, or in `.html` for a page with buttons.

        Raises:
            ValueError: if it ends in anything else.
        """
        path = Path(path)
        if path.suffix == ".gif":
            from matplotlib.animation import PillowWriter

            self._animation().save(path, writer=PillowWriter(fps=self.fps))
        elif path.suffix == ".html":
            path.write_text(f"<!doctype html><meta charset='utf-8'><body>{self._repr_html_()}", encoding="utf-8")
        else:
            raise ValueError(f"an animation is written as .gif or .html, got {str(path)!r}")

    def _repr_html_(self) -> str:
        page = self._animation().to_jshtml(fps=self.fps)
        page = re.sub(r'<link rel="stylesheet"[^>]*>', "", page)  # a font of icons, from the network
        return re.sub(r'<i class="fa fa-([a-z -]+)"></i>', lambda icon: _BUTTONS.get(icon[1], icon[1]), page)

    def _animation(self) -> Any:
        from matplotlib.animation import FuncAnimation

        def draw(i):
            self.draw(i)
            return ()

        return FuncAnimation(self.figure, draw, frames=self.frames, interval=1000 / self.fps)


def animate_activations(*, frames: int = 40) -> Movie:
    """The activations of the teaching notes with their derivatives, a point running along each.

    Args:
        frames: how many pictures.

    Returns:
        A `Movie`.

    Example:
        >>> movie = animate_activations(frames=3)
        >>> [axes.get_title(loc="left") for axes in movie.figure.axes]
        ['linear', 'sigmoid', 'ReLU', 'leaky ReLU', 'ELU', 'tanh']
    """
    functions = {
        "linear": activations.identity,
        "sigmoid": activations.sigmoid,
        "ReLU": activations.relu,
        "leaky ReLU": activations.leaky_relu,
        "ELU": activations.elu,
        "tanh": activations.tanh,
    }
    return animate_functions(functions, xlabel="x", frames=frames)


def animate_losses(*, frames: int = 40) -> Movie:
    """The losses of the teaching notes with their derivatives with respect to the prediction, a point running along each.

    The target is 0 for MSE, MAE and Huber, and 1 for hinge and cross-entropy, whose prediction is a score and a logit.

    Args:
        frames: how many pictures.

    Returns:
        A `Movie`.

    Example:
        >>> len(animate_losses(frames=3).figure.axes)
        5
    """

    def of(loss: Callable, target: float) -> Callable:
        return lambda prediction: loss(prediction[None], jnp.full((1,), target, prediction.dtype))

    functions = {
        "MSE": of(losses.mse, 0.0),
        "MAE": of(losses.mae, 0.0),
        "Huber, δ = 1": of(losses.huber, 0.0),
        "hinge": of(losses.hinge, 1.0),
        "cross-entropy": of(losses.binary_cross_entropy, 1.0),
    }
    return animate_functions(functions, xlabel="prediction", low=-3.0, high=3.0, frames=frames)


def animate_functions(
    functions: Mapping[str, Callable[[jax.Array], jax.Array]],
    *,
    xlabel: str = "x",
    low: float = -4.0,
    high: float = 4.0,
    frames: int = 40,
) -> Movie:
    """Functions of one number with their derivatives by `jax.grad`: a point runs along each, with the tangent there.

    Args:
        functions: from a scalar to a scalar, by name.
        xlabel: what the number is.
        low: where the point starts.
        high: where it ends.
        frames: how many pictures.

    Returns:
        A `Movie`.

    Raises:
        ValueError: if there are fewer than 2 frames.

    Example:
        >>> movie = animate_functions({"square": lambda x: x**2}, frames=3)
        >>> movie.draw(2)
        >>> [float(line.get_xdata()[-1]) for line in movie.figure.axes[0].lines]
        [4.0, 4.0, 5.0, 4.0]
    """
    if frames < 2:
        raise ValueError(f"an animation has at least 2 frames, got {frames}")
    at = np.linspace(low, high, frames, dtype=np.float32)
    fine = np.linspace(low, high, 401, dtype=np.float32)
    columns = min(len(functions), 3)
    rows = -(-len(functions) // columns)
    figure = new_figure(3.4 * columns, 2.8 * rows)
    reach = (high - low) / 8
    moving = []
    for number, (name, function) in enumerate(functions.items(), 1):
        value, slope = jax.jit(jax.vmap(function)), jax.jit(jax.vmap(jax.grad(lambda x, f=function: f(x).sum())))
        ax = figure.add_subplot(rows, columns, number)
        ys, fine_slopes = np.asarray(value(fine)), np.asarray(slope(fine))
        ax.plot(fine, ys, color=BLUE, label="f")
        (derivative,) = ax.plot([], [], color=ORANGE, linestyle="--", label="f′")
        (tangent,) = ax.plot([], [], color=GREY, linewidth=1)
        (point,) = ax.plot([], [], color=BLUE, marker="o")
        bottom, top = min(ys.min(), fine_slopes.min()), max(ys.max(), fine_slopes.max())
        room = 0.08 * (top - bottom)
        ax.set(xlim=(low, high), ylim=(bottom - room, top + room))
        grid(ax)
        titled(ax, name, xlabel)
        if number == 1:
            ax.legend(frameon=False, loc="upper left")
        moving.append((derivative, tangent, point, np.asarray(value(at)), np.asarray(slope(at)), fine_slopes))

    def draw(i: int) -> None:
        passed = fine <= at[i]
        for derivative, tangent, point, ys, slopes, fine_slopes in moving:
            derivative.set_data(fine[passed], fine_slopes[passed])
            ends = np.array([-reach, reach])
            tangent.set_data(at[i] + ends, ys[i] + slopes[i] * ends)
            point.set_data(at[i : i + 1], ys[i : i + 1])

    return _movie(figure, draw, frames, 15)


def animate_boundary(
    predict: Callable[[Any, Any], Any],
    path: Sequence[Any],
    x: Any,
    labels: Any,
    *,
    steps: Sequence[Any] | None = None,
    points: int = 100,
) -> Movie:
    """A decision boundary being learned.

    Args:
        predict: `predict(params, x) -> logits`, such as the model itself, for x (n, 2).
        path: parameters along a run, one a frame.
        x: the data, (N, 2).
        labels: their classes, integers (N,).
        steps: what each of the path is called; by default its number.
        points: how many points a side the plane is looked at.

    Returns:
        A `Movie`.

    Raises:
        ValueError: if the inputs do not have two features.

    Example:
        >>> x, labels = [[0.0, 0.0], [1.0, 1.0]], [0, 1]
        >>> animate_boundary(lambda p, x: x[:, 0] - p, [0.25, 0.5, 0.75], x, labels, points=5)
        Movie(frames=3, fps=8)
    """
    x, labels = check_plane(x, labels)
    extent = plane(x)
    compiled = jax.jit(predict)
    images = [boundary_image(lambda at, p=params: compiled(p, at), extent, points) for params in path]
    figure = new_figure(4.8, 4.4)
    ax = figure.subplots()
    picture = ax.imshow(images[0], extent=extent, origin="lower", aspect="auto", interpolation="bilinear")
    for label in np.unique(labels):
        mine = x[labels == label]
        ax.scatter(mine[:, 0], mine[:, 1], s=16, color=COLORS[int(label) % len(COLORS)], edgecolors="white", linewidths=0.5)
    ax.set(xlim=extent[:2], ylim=extent[2:])

    def draw(i: int) -> None:
        picture.set_data(images[i])
        titled(ax, f"step {i if steps is None else steps[i]}", "x₀", "x₁")

    return _movie(figure, draw, len(images), 8)


def animate_landscape(landscape: Landscape, path: Sequence[Any], *, losses: Sequence[float] | None = None) -> Movie:
    """An optimizer's path in the loss landscape, step by step.

    Args:
        landscape: what `loss_landscape` computed.
        path: parameters along the run, one a frame; they are projected onto the plane.
        losses: the loss at each, for the title.

    Returns:
        A `Movie`.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from jaxnn.inspect import loss_landscape
        >>> params, directions = jnp.zeros(2), (jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
        >>> landscape = loss_landscape(lambda p: (p**2).sum(), params, directions, points=5)
        >>> animate_landscape(landscape, [jnp.ones(2), jnp.array([0.5, 0.25]), params])
        Movie(frames=3, fps=8)
    """
    points = landscape.project(path)
    figure = new_figure(5.4, 4.4)
    ax = figure.subplots()
    draw_contours(ax, landscape)
    ax.set(xlim=(landscape.x[0], landscape.x[-1]), ylim=(landscape.y[0], landscape.y[-1]))
    (behind,) = ax.plot([], [], color="white", linewidth=3)
    (line,) = ax.plot([], [], color=ORANGE, linewidth=1.6)
    (head,) = ax.plot([], [], color=ORANGE, marker="o", markersize=8, markeredgecolor="white")

    def draw(i: int) -> None:
        for part in (behind, line):
            part.set_data(points[: i + 1, 0], points[: i + 1, 1])
        head.set_data(points[i : i + 1, 0], points[i : i + 1, 1])
        ax.set_title(f"step {i}" + ("" if losses is None else f", loss {losses[i]:.3g}"), loc="left", fontsize=11)

    return _movie(figure, draw, len(points), 8)


def _movie(figure: Figure, draw: Callable[[int], Any], frames: int, fps: int) -> Movie:
    """The figure at its first frame, laid out once for all frames and small enough for a file of a few hundred kB."""
    figure.set_dpi(80)
    draw(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return Movie(figure, draw, frames, fps)
