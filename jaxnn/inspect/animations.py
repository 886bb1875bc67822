"""Animations of functions of one number with their derivatives, such as activations and losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxnn.plots.animations import Movie


def animate_activations(*, frames: int = 40) -> Movie:
    """Animate common activations with their derivatives: a point moves along each of them.

    Args:
        frames: The number of frames.

    Returns:
        A `Movie`.

    Example:
        >>> movie = animate_activations(frames=3)
        >>> [axes.get_title(loc="left") for axes in movie.figure.axes]
        ['linear', 'sigmoid', 'ReLU', 'leaky ReLU', 'ELU', 'tanh']
    """
    functions = {
        "linear": lambda x: x,
        "sigmoid": jax.nn.sigmoid,
        "ReLU": jax.nn.relu,
        "leaky ReLU": lambda x: jnp.where(x > 0, x, 0.01 * x),
        "ELU": jax.nn.elu,
        "tanh": jnp.tanh,
    }
    return animate_functions(functions, xlabel="x", frames=frames)


def animate_losses(*, frames: int = 40) -> Movie:
    """Animate common losses with their derivatives with respect to the prediction: a point moves along each of them.

    The target is 0 for MSE, MAE and Huber, and 1 for hinge and cross-entropy, whose prediction is a score and a logit.

    Args:
        frames: The number of frames.

    Returns:
        A `Movie`.

    Example:
        >>> len(animate_losses(frames=3).figure.axes)
        5
    """
    functions = {
        "MSE": lambda y: y**2,
        "MAE": jnp.abs,
        "Huber, δ = 1": lambda y: jnp.where(jnp.abs(y) <= 1, 0.5 * y**2, jnp.abs(y) - 0.5),
        "hinge": lambda y: jax.nn.relu(1 - y),
        "cross-entropy": lambda y: jax.nn.softplus(-y),  # −log sigmoid(y)
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
    """Animate functions of one number with their derivatives by `jax.grad`: a point moves along each, with the tangent there.

    Args:
        functions: From a scalar to a scalar, by name.
        xlabel: The label of the x axis.
        low: The position of the point in the first frame.
        high: The position of the point in the last frame.
        frames: The number of frames.

    Returns:
        A `Movie`.

    Raises:
        ValueError: If there are fewer than 2 frames.

    Example:
        >>> movie = animate_functions({"square": lambda x: x**2}, frames=3)
        >>> movie.draw(2)
        >>> [float(line.get_xdata()[-1]) for line in movie.figure.axes[0].lines]
        [4.0, 4.0, 5.0, 4.0]
    """
    from jaxnn.plots.animations import Curve, animate_curves

    if frames < 2:
        raise ValueError(f"an animation needs at least 2 frames, got {frames}")
    at = np.linspace(low, high, frames, dtype=np.float32)
    grid = np.linspace(low, high, 401, dtype=np.float32)
    curves = {}
    for name, function in functions.items():
        value, slope = jax.jit(jax.vmap(function)), jax.jit(jax.vmap(jax.grad(lambda x, f=function: f(x).sum())))
        curves[name] = Curve(*(np.asarray(f(x)) for x in (grid, at) for f in (value, slope)))
    return animate_curves(curves, grid, at, xlabel=xlabel)
