"""The shape of a loss around and between minima. Its gradient noise is `gradient_moments`', its planes `loss_landscape`'s."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxnn.autodiff.attacks import pgd
from jaxnn.core.checks import function, number, whole
from jaxnn.core.text import array_text


class Connection(NamedTuple):
    """Losses along a path between two trees of parameters.

    Attributes:
        positions: t from 0 to 1, (points,).
        losses: The loss at each position, (points,).
        barrier: The largest excess of the loss over the line between the losses at the ends; 0 for a path without barrier.
        bend: The control point of the path, a tree like the parameters.

    Example:
        See `mode_connectivity`, which returns it.
    """

    positions: jax.Array
    losses: jax.Array
    barrier: jax.Array
    bend: Any


def mode_connectivity(
    loss: Callable[[Any], jax.Array],
    first: Any,
    second: Any,
    *,
    steps: int = 0,
    optimizer: optax.GradientTransformation | None = None,
    key: jax.Array | None = None,
    points: int = 25,
) -> Connection:
    """The loss along a path between two minima: a straight line, or a curve that is trained to have a low loss.

    The path is Bézier's, (1 − t)² W₁ + 2 t (1 − t) W + t² W₂, with its bend W at first in the middle, where the path is
    straight (Frankle et al. 2020, arXiv:1912.05671). `steps` then move the bend against the gradient of the loss, each at a
    random t (Garipov et al. 2018, arXiv:1802.10026).

    Args:
        loss: `loss(params) -> scalar`, such as `lambda p: nn.losses.mse(model(p, x), y)`.
        first: The parameters at t = 0.
        second: The parameters at t = 1, a tree like the first.
        steps: The number of steps that train the bend; 0 for the straight line.
        optimizer: An optax transformation for the bend; by default `optax.adam(1e-2)`.
        key: A random key for the positions of the steps, needed with steps.
        points: The number of positions at which the loss is evaluated.

    Returns:
        A `Connection`: positions, losses, barrier and bend.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If the trees differ in shape, a number is out of range, or steps have no key.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> loss = lambda w: (jnp.sum(w**2) - 1) ** 2  # its minima are a circle
        >>> ends = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        >>> line = nn.autodiff.mode_connectivity(loss, *ends)
        >>> result = nn.autodiff.mode_connectivity(loss, *ends, steps=200, key=jax.random.key(0))
        >>> line.barrier.item(), bool(result.barrier < 0.1)
        (0.25, True)
    """
    function("mode_connectivity", "loss", loss, "loss(params) -> scalar")
    steps, points = whole("mode_connectivity", "steps", steps, 0), whole("mode_connectivity", "points", points, 2)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"mode_connectivity takes two trees of one shape, got {array_text(first)} and {array_text(second)}")
    first, second = jax.tree.map(jnp.asarray, (first, second))

    def at(bend: Any, t: jax.Array) -> jax.Array:
        weights = (1 - t) ** 2, 2 * t * (1 - t), t**2
        point = lambda *leaves: sum(w.astype(a.dtype) * a for w, a in zip(weights, leaves, strict=True))  # noqa: E731
        return loss(jax.tree.map(point, first, bend, second))

    bend = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    if steps:
        if key is None:
            raise ValueError("mode_connectivity draws a position per step: pass a key, such as key=jax.random.key(0)")
        optimizer = optax.adam(1e-2) if optimizer is None else optimizer

        def step(carry: tuple, t: jax.Array) -> tuple[tuple, None]:
            bend, state = carry
            gradient = jax.grad(at)(bend, t)
            with jax.numpy_dtype_promotion("standard"):  # optax requires it, even if the caller is strict
                updates, state = optimizer.update(gradient, state, bend)
                return (optax.apply_updates(bend, updates), state), None

        bend = lax.scan(step, (bend, optimizer.init(bend)), jax.random.uniform(key, (steps,)))[0][0]
    positions = jnp.linspace(0, 1, points)
    losses = lax.map(lambda t: at(bend, t), positions)
    t = positions.astype(losses.dtype)
    return Connection(positions, losses, jnp.max(losses - ((1 - t) * losses[0] + t * losses[-1])), bend)


def sharpness(loss: Callable[[Any], jax.Array], params: Any, radius: Any, key: jax.Array, *, steps: int = 20) -> jax.Array:
    """How much larger the loss gets within a distance, max L(W + δ) − L(W) over ‖δ‖₂ ≤ ρ, by projected gradient ascent.

    It is what sharpness-aware minimization makes small (Foret et al. 2021, arXiv:2010.01412), and ½ ρ² times the largest
    eigenvalue of the Hessian at a minimum of a quadratic loss. The ascent finds a lower bound.

    Args:
        loss: `loss(params) -> scalar`, such as `lambda p: nn.losses.mse(model(p, x), y)`.
        params: The parameters W.
        radius: ρ, at least 0; it may be traced.
        key: A random key: the ascent starts at a random point, since the gradient is 0 at a minimum.
        steps: The number of steps of the ascent.

    Returns:
        A scalar.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If the loss is not one real number, or a number is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> loss = lambda p: jnp.vdot(p["w"] ** 2, jnp.array([4.0, 1.0])) / 2
        >>> nn.autodiff.sharpness(loss, {"w": jnp.zeros(2)}, 0.5, jax.random.key(0)).round(2).item()
        0.5
    """
    function("sharpness", "loss", loss, "loss(params) -> scalar")
    number("sharpness", "radius", radius, 0)
    flat, unravel = ravel_pytree(params)
    of_flat = lambda flat: loss(unravel(flat))  # noqa: E731
    return of_flat(pgd(of_flat, flat, radius, norm="l2", steps=steps, key=key)) - of_flat(flat)
