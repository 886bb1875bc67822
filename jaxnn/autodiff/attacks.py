"""Attacks: the change of one input, within bounds, that makes a loss large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.autodiff.attributions import of_input
from jaxnn.core.checks import check_key, number, whole

Bounds = tuple[float, float] | None


def fgsm(f: Callable[[jax.Array], jax.Array], x: jax.Array, epsilon: Any, *, bounds: Bounds = None) -> jax.Array:
    """The fast gradient sign method, x + ε sign ∂f/∂x (Goodfellow et al. 2015, arXiv:1412.6572).

    Args:
        f: The loss, `f(x) -> scalar`, of one input without batch axis; `jax.vmap` maps over inputs.
        x: The input, an array of any shape, within the bounds.
        epsilon: ε, the largest change of an entry, at least 0; it may be traced.
        bounds: The smallest and the largest value of an entry, such as (0.0, 1.0); by default there are none.

    Returns:
        An array like x.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If `f` does not return one real number, ε is negative, or the bounds are not two increasing numbers.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.fgsm(lambda x: x[0] - x[1], jnp.array([0.5, 0.25]), 0.5, bounds=(0.0, 1.0)).tolist()
        [1.0, 0.0]
    """
    f, x = of_input("fgsm", f, x)
    epsilon, bounds = jnp.asarray(number("fgsm", "epsilon", epsilon, 0), x.dtype), _bounds("fgsm", bounds)
    return x + _projected(epsilon * jnp.sign(jax.grad(f)(x)), x, epsilon, "linf", bounds)


def pgd(
    f: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    epsilon: Any,
    *,
    norm: str = "linf",
    steps: int = 20,
    step_size: Any = None,
    key: jax.Array | None = None,
    bounds: Bounds = None,
) -> jax.Array:
    """Projected gradient ascent on a loss, within a ball around the input (Madry et al. 2018, arXiv:1706.06083).

    xₜ₊₁ = Π(xₜ + α s), with s the sign of the gradient for the ball ‖x′ − x‖_∞ ≤ ε, and the gradient divided by its norm for
    ‖x′ − x‖₂ ≤ ε. Π is the exact projection to the part of the ball within the bounds: the nearest point of it.

    Args:
        f: The loss, `f(x) -> scalar`, of one input without batch axis; `jax.vmap` maps over inputs.
        x: The input, an array of any shape, within the bounds.
        epsilon: ε, the radius of the ball, at least 0; it may be traced.
        norm: "linf" or "l2".
        steps: The number of steps.
        step_size: α, by default 2.5 ε / steps.
        key: A random key, to start at a random point of the ball; by default the ascent starts at x.
        bounds: The smallest and the largest value of an entry, such as (0.0, 1.0); by default there are none.

    Returns:
        The last iterate, an array like x.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If `f` does not return one real number, a number is out of range, `norm` is something else, or the bounds
            are not two increasing numbers.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.pgd(lambda x: jnp.exp(x[0]), jnp.array([0.0, 0.25]), 0.5, norm="l2").tolist()
        [0.5, 0.25]
    """
    f, x = of_input("pgd", f, x)
    if norm not in ("linf", "l2"):
        raise ValueError(f'pgd takes norm="linf" or "l2", got {norm!r}')
    epsilon, bounds = jnp.asarray(number("pgd", "epsilon", epsilon, 0), x.dtype), _bounds("pgd", bounds)
    steps = whole("pgd", "steps", steps)
    size = 2.5 * epsilon / steps if step_size is None else number("pgd", "step_size", step_size, 0, above=True)
    size, start = jnp.asarray(size, x.dtype), jnp.zeros_like(x)
    if key is not None:
        first, second = jax.random.split(check_key(key))
        if norm == "linf":
            start = jax.random.uniform(first, x.shape, x.dtype, -1, 1)
        else:
            radius = jax.random.uniform(second, (), x.dtype) ** (1 / x.size)
            start = radius * _unit(jax.random.normal(first, x.shape, x.dtype))
        start = _projected(epsilon * start, x, epsilon, norm, bounds)

    def step(change: jax.Array, _: None) -> tuple[jax.Array, None]:
        gradient = jax.grad(f)(x + change)
        direction = jnp.sign(gradient) if norm == "linf" else _unit(gradient)
        return _projected(change + size * direction, x, epsilon, norm, bounds), None

    return x + lax.scan(step, start, None, steps)[0]


def _projected(change: jax.Array, x: jax.Array, epsilon: jax.Array, norm: str, bounds: Bounds) -> jax.Array:
    """The nearest change in the ball of radius ε after which x is within the bounds.

    In the Euclidean ball it is clip(s · change), with the largest s ≤ 1 for which its norm is at most ε: the Lagrangian
    ‖c − change‖² + μ (‖c‖² − ε²) is least, within the bounds of each entry, at clip(change / (1 + μ)).
    """
    low, high = (jnp.asarray(b, x.dtype) - x for b in bounds) if bounds else (-jnp.inf, jnp.inf)
    if norm == "linf":
        return jnp.clip(jnp.clip(change, -epsilon, epsilon), low, high)
    length = jnp.linalg.norm(change.ravel())
    least = jnp.where(length > epsilon, epsilon / jnp.where(length == 0, 1, length), 1).astype(x.dtype)
    if bounds is None:
        return least * change

    def halved(_: int, interval: tuple) -> tuple:
        inside, outside = interval
        middle = (inside + outside) / 2
        fits = jnp.linalg.norm(jnp.clip(middle * change, low, high).ravel()) <= epsilon
        return jnp.where(fits, middle, inside), jnp.where(fits, outside, middle)

    one = jnp.ones_like(least)
    fits = jnp.linalg.norm(jnp.clip(change, low, high).ravel()) <= epsilon
    inside, _ = lax.fori_loop(0, jnp.finfo(x.dtype).nmant + 8, halved, (jnp.where(fits, one, least), one))
    return jnp.clip(inside * change, low, high)


def _unit(v: jax.Array) -> jax.Array:
    """v divided by its norm; 0 for 0."""
    length = jnp.linalg.norm(v.ravel())
    return v / jnp.where(length == 0, 1, length)


def _bounds(caller: str, bounds: Any) -> Bounds:
    if bounds is None:
        return None
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise ValueError(f"{caller} takes bounds as two numbers, such as (0.0, 1.0), got {bounds!r}")
    low, high = (number(caller, "bounds", b) for b in bounds)
    if not isinstance(low, jax.Array) and not isinstance(high, jax.Array) and low >= high:
        raise ValueError(f"{caller} takes bounds that increase, such as (0.0, 1.0), got {bounds!r}")
    return low, high
