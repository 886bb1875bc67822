"""The loss over a plane through the parameters: pure functions that compute it, and its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxnn.plots.axes import ORANGE, axes, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Landscape:
    """What `loss_landscape` returns.

    Attributes:
        x: the coordinates along the first direction, (points,).
        y: those along the second, (points,).
        losses: the loss at each, (points along y, points along x).
        center: the parameters at (0, 0).
        directions: the two directions, each a tree like them.

    Example:
        >>> x, (u, v) = np.array([-1.0, 1.0]), (jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
        >>> landscape = Landscape(x, x, np.ones((2, 2)), jnp.zeros(2), (u, v))
        >>> landscape.project([jnp.array([0.5, 0.25])]).tolist()
        [[0.5, 0.25]]
    """

    x: np.ndarray
    y: np.ndarray
    losses: np.ndarray
    center: Any = field(repr=False)
    directions: tuple[Any, Any] = field(repr=False)

    def project(self, path: Sequence[Any]) -> np.ndarray:
        """Where parameters lie in the plane, or the foot of the perpendicular from them.

        Args:
            path: trees like the parameters.

        Returns:
            Coordinates (len(path), 2).
        """
        return _projected(path, self.center, self.directions)


def loss_landscape(
    loss: Callable[[Any], jax.Array],
    params: Any,
    directions: tuple[Any, Any],
    *,
    extent: tuple[float, float, float, float] = (-1.0, 1.0, -1.0, 1.0),
    path: Sequence[Any] | None = None,
    points: int = 31,
) -> Landscape:
    """The loss L(θ + a u + b v) over a grid of a and b, in one compiled program (Li et al. 2018).

    Args:
        loss: `loss(params) -> scalar`, such as `lambda p: nn.losses.mse(model(p, x), y)`.
        params: θ, the middle.
        directions: (u, v), trees like the parameters: `random_directions` or `path_directions` of a run.
        extent: the ends (left, right) of a and (bottom, top) of b.
        path: parameters along a run: the extent is then what holds them all, with a margin.
        points: how many points a side.

    Returns:
        A `Landscape`; `plot_landscape` draws it.

    Raises:
        ValueError: if a direction is no tree like the parameters.

    Example:
        >>> params = {"kernel": jnp.zeros(2)}
        >>> u, v = {"kernel": jnp.array([1.0, 0.0])}, {"kernel": jnp.array([0.0, 1.0])}
        >>> loss_landscape(lambda p: (p["kernel"] ** 2).sum(), params, (u, v), points=3).losses.tolist()
        [[2.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 2.0]]
    """
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (params, *directions)]
    if len(directions) != 2 or shapes[1] != shapes[0] or shapes[2] != shapes[0]:
        raise ValueError(f"two directions like the parameters {shapes[0]} are needed, got {shapes[1:]}")
    if path is not None:
        extent = around(_projected(path, params, directions))
    x, y = np.linspace(*extent[:2], points, dtype=np.float32), np.linspace(*extent[2:], points, dtype=np.float32)

    @jax.jit
    def grid(params, u, v):
        def at(a, b):
            return loss(jax.tree.map(lambda p, u, v: p + a.astype(p.dtype) * u + b.astype(p.dtype) * v, params, u, v))

        return jax.lax.map(lambda b: jax.vmap(lambda a: at(a, b))(jnp.asarray(x)), jnp.asarray(y))

    return Landscape(x, y, np.asarray(grid(params, *directions)), params, tuple(directions))


def random_directions(key: jax.Array, params: Any) -> tuple[Any, Any]:
    """Two random directions, filter by filter as long as the parameters (Li et al. 2018).

    Without that, layers that scale each other would make a landscape look flat or sharp at will. Biases and scales, leaves
    of at most one axis, stay as they are.

    Args:
        key: a `jax.random.key`.
        params: the parameters.

    Returns:
        Two trees like the parameters.

    Example:
        >>> u, v = random_directions(jax.random.key(0), {"kernel": jnp.full((4, 2), 3.0), "bias": jnp.ones(2)})
        >>> jnp.linalg.norm(u["kernel"], axis=0).round(4).tolist(), u["bias"].tolist()
        ([6.0, 6.0], [0.0, 0.0])
    """
    leaves, structure = jax.tree.flatten(params)

    def one(key):
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(structure, [_normalized(k, leaf) for k, leaf in zip(keys, leaves, strict=True)])

    first, second = jax.random.split(key)
    return one(first), one(second)


def path_directions(path: Sequence[Any]) -> tuple[Any, Any]:
    """The two directions in which an optimizer's path spreads most: its principal components, seen from its end.

    Args:
        path: parameters along a run, the last at its end; at least three of them.

    Returns:
        Two trees like the parameters, of length 1 and at right angles.

    Raises:
        ValueError: if there are fewer than three.

    Example:
        >>> path = [{"kernel": jnp.array([4.0, 1.0, 0.0])}, {"kernel": jnp.array([2.0, -1.0, 0.0])}, {"kernel": jnp.zeros(3)}]
        >>> u, v = path_directions(path)
        >>> [round(float(n), 2) for n in abs(u["kernel"])]
        [0.99, 0.11, 0.0]
    """
    if len(path) < 3:
        raise ValueError(f"the directions of a path take at least three points of it, got {len(path)}")
    end, unravel = ravel_pytree(path[-1])
    apart = np.stack([np.asarray(ravel_pytree(tree)[0] - end) for tree in path[:-1]])
    _, _, directions = np.linalg.svd(apart, full_matrices=False)
    return unravel(jnp.asarray(directions[0], end.dtype)), unravel(jnp.asarray(directions[1], end.dtype))


def around(points: np.ndarray, margin: float = 0.3) -> tuple[float, float, float, float]:
    """The extent of a landscape that holds points (n, 2) and the origin, with a margin around.

    Args:
        points: coordinates, (n, 2).
        margin: the room on each side, in shares of the points' own extent.

    Returns:
        (left, right, bottom, top), as `loss_landscape` takes it.

    Example:
        >>> around(np.array([[0.0, 0.0], [10.0, 2.0]]), 0.5)
        (-5.0, 15.0, -1.0, 3.0)
    """
    points = np.concatenate([points, np.zeros((1, 2))])
    low, high = points.min(0), points.max(0)
    room = margin * np.maximum(high - low, 0.1 * (high - low).max() or 1.0)
    (left, bottom), (right, top) = low - room, high + room
    return float(left), float(right), float(bottom), float(top)


def plot_landscape(landscape: Landscape, path: Sequence[Any] | None = None, *, ax: Axes | None = None) -> Axes:
    """Contours of a landscape, and an optimizer's path in it.

    Args:
        landscape: what `loss_landscape` computed.
        path: parameters along a run; they are projected onto the plane.
        ax: where; new axes by default.

    Returns:
        The axes; contours lie apart by equal factors if the losses are positive and span more than a decade.

    Raises:
        ValueError: if no loss is finite.

    Example:
        >>> params, directions = jnp.zeros(2), (jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
        >>> landscape = loss_landscape(lambda p: (p**2).sum(), params, directions, points=5)
        >>> plot_landscape(landscape, [jnp.ones(2), jnp.array([0.5, 0.25]), params]).lines[1].get_xdata().round(2).tolist()
        [1.0, 0.5, 0.0]
    """
    ax = axes(ax, 5.4, 4.4)
    draw_contours(ax, landscape)
    if path is not None:
        points = landscape.project(path)
        ax.plot(points[:, 0], points[:, 1], color="white", linewidth=3)
        ax.plot(points[:, 0], points[:, 1], color=ORANGE, linewidth=1.6, marker="o", markersize=3)
        ax.plot(*points[-1], color=ORANGE, marker="*", markersize=13, markeredgecolor="white", label="end of the run")
        ax.legend(frameon=True, fontsize=8)
    return ax


def draw_contours(ax: Axes, landscape: Landscape) -> None:
    """Filled contours with a bar of their colours."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter

    losses = landscape.losses
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        raise ValueError("no loss of the landscape is finite; take a smaller extent")
    low, high = finite.min(), finite.max()
    decades = low > 0 and high > 10 * low
    levels = np.geomspace(low, high, 24) if decades else np.linspace(low, high or 1.0, 24)
    levels = np.unique(levels) if high > low else np.array([low - 0.5, low + 0.5])
    norm, shown = LogNorm(low, high) if decades else None, np.where(np.isfinite(losses), losses, high)
    drawn = ax.contourf(landscape.x, landscape.y, shown, levels, cmap="viridis", norm=norm)
    ax.contour(landscape.x, landscape.y, losses, levels[::2], colors="white", linewidths=0.4, alpha=0.5)
    bar = ax.figure.colorbar(drawn, ax=ax, label="loss", ticks=levels[:: max(len(levels) // 6, 1)])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.locator_params(nbins=6)  # numbers such as −0.75 are wide
    titled(ax, "loss landscape", "along the first direction", "along the second")


def _projected(path: Sequence[Any], center: Any, directions: tuple[Any, Any]) -> np.ndarray:
    """Least squares: the coordinates (len(path), 2) of a path in the plane through the center."""
    middle = ravel_pytree(center)[0]
    basis = np.stack([np.asarray(ravel_pytree(d)[0], float) for d in directions], axis=1)
    apart = np.stack([np.asarray(ravel_pytree(tree)[0] - middle, float) for tree in path])
    return np.linalg.lstsq(basis, apart.T, rcond=None)[0].T


def _normalized(key: jax.Array, leaf: jax.Array) -> jax.Array:
    if leaf.ndim < 2:
        return jnp.zeros_like(leaf)
    drawn = jax.random.normal(key, leaf.shape, leaf.dtype)
    rest = tuple(range(leaf.ndim - 1))
    sizes = [jnp.sqrt(jnp.sum(v**2, axis=rest, keepdims=True)) for v in (leaf, drawn)]
    return drawn * (sizes[0] / sizes[1])
