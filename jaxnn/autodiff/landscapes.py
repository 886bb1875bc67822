"""The loss on a plane through the parameters, as pure functions; `plots/landscapes.py` draws it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxnn.core.checks import function, whole


@dataclass(frozen=True)
class Landscape:
    """The result of `loss_landscape`.

    Attributes:
        x: The coordinates along the first direction, `(points,)`.
        y: The coordinates along the second direction, `(points,)`.
        losses: The loss at each point, `(points along y, points along x)`.
        center: The parameters at (0, 0).
        directions: The two directions, each a tree like the parameters.

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
        """Project parameters onto the plane, at right angles.

        Args:
            path: Trees like the parameters.

        Returns:
            Coordinates, `(len(path), 2)`.
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
    """Compute the loss L(θ + a u + b v) on a grid of a and b, in one compiled program (Li et al. 2018).

    Args:
        loss: `loss(params) -> scalar`, such as `lambda p: nn.losses.mse(model(p, x), y)`.
        params: The center θ.
        directions: The pair (u, v) of trees like the parameters, from `random_directions` or `path_directions`.
        extent: The ranges `(left, right)` of a and `(bottom, top)` of b, as four numbers.
        path: Parameters along a run; if given, the extent holds all of them, with a margin.
        points: The number of grid points along each side.

    Returns:
        A `Landscape`; `plot_landscape` draws it.

    Raises:
        TypeError: If the loss is not a function, or `points` not a whole number.
        ValueError: If a direction is not a tree like the parameters, or there are fewer than two points.

    Example:
        >>> params = {"kernel": jnp.zeros(2)}
        >>> u, v = {"kernel": jnp.array([1.0, 0.0])}, {"kernel": jnp.array([0.0, 1.0])}
        >>> loss_landscape(lambda p: (p["kernel"] ** 2).sum(), params, (u, v), points=3).losses.tolist()
        [[2.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 2.0]]
    """
    function("loss_landscape", "loss", loss, "loss(params) -> scalar")
    whole("loss_landscape", "points", points, 2)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (params, *directions)]
    if len(directions) != 2 or shapes[1] != shapes[0] or shapes[2] != shapes[0]:
        raise ValueError(f"loss_landscape needs two directions like the parameters, {shapes[0]}, got {shapes[1:]}")
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
    """Draw two random directions in which each filter has the norm of the parameters' filter (Li et al. 2018).

    Without this, layers that rescale each other could make a landscape look flat or sharp at will. Leaves of at most one
    axis, such as biases and scales, do not change along the directions.

    Args:
        key: A `jax.random.key`.
        params: The parameters.

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
    """The two directions along which an optimizer's path varies most: its principal components about its end.

    Args:
        path: Parameters along a run, at least three, the last at its end.

    Returns:
        Two trees like the parameters, orthonormal.

    Raises:
        ValueError: If there are fewer than three points.

    Example:
        >>> path = [{"kernel": jnp.array([4.0, 1.0, 0.0])}, {"kernel": jnp.array([2.0, -1.0, 0.0])}, {"kernel": jnp.zeros(3)}]
        >>> u, v = path_directions(path)
        >>> [round(float(n), 2) for n in abs(u["kernel"])]
        [0.99, 0.11, 0.0]
    """
    if len(path) < 3:
        raise ValueError(f"path_directions needs at least three points, got {len(path)}")
    end, unravel = ravel_pytree(path[-1])
    offsets = np.stack([np.asarray(ravel_pytree(tree)[0] - end) for tree in path[:-1]])
    _, _, directions = np.linalg.svd(offsets, full_matrices=False)
    return unravel(jnp.asarray(directions[0], end.dtype)), unravel(jnp.asarray(directions[1], end.dtype))


def around(points: np.ndarray, margin: float = 0.3) -> tuple[float, float, float, float]:
    """The extent of a landscape that holds the given points and the origin, with a margin.

    Args:
        points: Coordinates, `(n, 2)`.
        margin: The margin on each side, as a share of the extent of the points.

    Returns:
        The extent `(left, right, bottom, top)`, as `loss_landscape` accepts it.

    Example:
        >>> around(np.array([[0.0, 0.0], [10.0, 2.0]]), 0.5)
        (-5.0, 15.0, -1.0, 3.0)
    """
    points = np.concatenate([points, np.zeros((1, 2))])
    low, high = points.min(0), points.max(0)
    room = margin * np.maximum(high - low, 0.1 * (high - low).max() or 1.0)
    (left, bottom), (right, top) = low - room, high + room
    return float(left), float(right), float(bottom), float(top)


def _projected(path: Sequence[Any], center: Any, directions: tuple[Any, Any]) -> np.ndarray:
    """The coordinates `(len(path), 2)` of a path in the plane through the center, by least squares."""
    middle = ravel_pytree(center)[0]
    basis = np.stack([np.asarray(ravel_pytree(d)[0], float) for d in directions], axis=1)
    offsets = np.stack([np.asarray(ravel_pytree(tree)[0] - middle, float) for tree in path])
    return np.linalg.lstsq(basis, offsets.T, rcond=None)[0].T


def _normalized(key: jax.Array, leaf: jax.Array) -> jax.Array:
    """Random values of the leaf's shape, in which each filter has the norm of the leaf's filter."""
    if leaf.ndim < 2:
        return jnp.zeros_like(leaf)
    drawn = jax.random.normal(key, leaf.shape, leaf.dtype)
    axes = tuple(range(leaf.ndim - 1))
    norms = [jnp.sqrt(jnp.sum(v**2, axis=axes, keepdims=True)) for v in (leaf, drawn)]
    return drawn * (norms[0] / norms[1])
