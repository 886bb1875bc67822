"""What parameters receive from examples, by groups of points that share parameters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.autodiff.factors import (
    Factors,
    factors_of,
    gradients,
    products,
    squared_deviations,
    squared_norms,
    squared_sums,
    sums,
)
from jaxnn.autodiff.tapped import Tapped, tapped, to_leaves, weight_gradients
from jaxnn.core.dtypes import at_least_float32 as wide
from jaxnn.core.dtypes import promote


class Component(NamedTuple):
    """Points that share parameters, directly or through other points.

    Attributes:
        points: Their numbers.
        leaves: The numbers of their parameters.
        alone: Whether it is one point whose only weight holds different entries of the parameters, so that inner products of
            the weight's gradients are those of the parameters'.
    """

    points: list[int]
    leaves: frozenset[int]
    alone: bool


def components(run: Tapped, group: Callable[[int], Hashable]) -> list[Component]:
    """The points of a program, divided by the parameters that they share.

    Args:
        run: The evaluated function.
        group: The group of a parameter, by number. Where inner products are taken by group, those of a weight that is made of
            parameters of several groups are not enough.
    """
    found: list[tuple[list[int], frozenset[int]]] = []
    for k, point in enumerate(run.points):
        points, leaves = [k], frozenset().union(*point.leaves)
        if not leaves:
            continue
        for other in [c for c in found if c[1] & leaves]:
            found.remove(other)
            points, leaves = other[0] + points, other[1] | leaves
        found.append((points, leaves))

    def alone(points: list[int], leaves: frozenset[int]) -> bool:
        point = run.points[points[0]]
        made = [moves for moves, of in zip(point.moves, point.leaves, strict=True) if of]
        return len(points) == 1 and made == [True] and len({group(i) for i in leaves}) == 1

    return [Component(points, leaves, alone(points, leaves)) for points, leaves in found]


def factored(run: Tapped, component: Component) -> tuple[Factors, jax.Array] | None:
    """The factors of a component and x, if it has one point, which has factors."""
    [k, *_] = component.points
    factors = factors_of(run.points[k]) if component.alone else None
    return factors and (factors, factors.x(run.inputs[k]))


def by_example(run: Tapped, cotangents: Any, component: Component) -> list[jax.Array]:
    """The gradients of a component's parameters, (batch, *parameter), in their order; of one that is alone, its weight's."""
    made = {k: _weights_by_example(run, cotangents, k) for k in component.points}
    if component.alone:
        return made[component.points[0]]
    numbers = sorted(component.leaves)
    found = jax.vmap(to_leaves(run, made, numbers))(made)
    return [found[i] for i in numbers]


def _weights_by_example(run: Tapped, cotangents: Any, k: int) -> list[jax.Array]:
    point, factors = run.points[k], factors_of(run.points[k])
    if factors is None:
        return weight_gradients(point, run.weights[k], run.inputs[k], cotangents[k], total=False)
    made = factors.put(gradients(factors, factors.x(run.inputs[k]), factors.g(cotangents[k][0])))
    return [made.astype(run.weights[k][0].dtype)]


def squares(run: Tapped, cotangents: list[tuple], group: Callable[[int], Hashable]) -> dict[Hashable, jax.Array]:
    """The squared norms of the examples' gradients, (batch,), by group of parameters."""
    totals: dict[Hashable, jax.Array] = {}
    for component in components(run, group):
        numbers = sorted(component.leaves)
        if made := factored(run, component):
            factors, x = made
            found = {numbers[0]: squared_norms(factors, x, factors.g(cotangents[component.points[0]][0]))}
        else:
            each = by_example(run, cotangents, component)
            found = {i: jnp.sum(wide(a).reshape(a.shape[0], -1) ** 2, 1) for i, a in zip(numbers, each, strict=False)}
        for i, square in found.items():
            known = totals.get(group(i))
            totals[group(i)] = square if known is None else jnp.add(*promote(known, square))
    return totals


def weighted_sum(run: Tapped, cotangents: list[tuple], weights: jax.Array | None = None) -> list[jax.Array]:
    """Σᵢ cᵢ gᵢ for every parameter; 0 for those that nothing depends on.

    An example of weight 0 is left out, even if its gradient is not finite.
    """

    if weights is not None:
        cotangents, run = _scaled(weights, cotangents, run)
    made = {}
    for k, point in enumerate(run.points):
        g = cotangents[k]
        if (factors := factors_of(point)) and any(point.leaves):
            total = factors.put(sums(factors, factors.x(run.inputs[k]), factors.g(g[0])))
            made[k] = [total.astype(run.weights[k][0].dtype)]
        elif any(point.leaves):
            made[k] = weight_gradients(point, run.weights[k], run.inputs[k], g, total=True)
    numbers = sorted(frozenset().union(*(leaves for k in made for leaves in run.points[k].leaves)))
    found = to_leaves(run, made, numbers)(made)
    return [found[i] if i in found else jnp.zeros_like(leaf) for i, leaf in enumerate(run.leaves)]


def _scaled(weights: jax.Array, cotangents: list[tuple], run: Tapped) -> tuple[list[tuple], Tapped]:
    """Cotangents times weights; those of examples of weight 0 are 0, and their inputs ones, as 0 times a NaN would be NaN."""

    def along(a: jax.Array) -> jax.Array:
        return weights.reshape(-1, *[1] * (a.ndim - 1))

    def scaled(g: jax.Array) -> jax.Array:
        return jnp.where(along(g) == 0, 0, g * along(g).astype(g.dtype))

    def harmless(x: jax.Array) -> jax.Array:
        return jnp.where(along(x) == 0, 1, x) if jnp.issubdtype(x.dtype, jnp.floating) else x

    inputs = [tuple(map(harmless, inputs)) for inputs in run.inputs]
    return [tuple(map(scaled, g)) for g in cotangents], run._replace(inputs=inputs)


def losses_and_cotangents(f: Callable, params: Any, data: Any, selected: Sequence[bool]) -> tuple[Tapped, list[tuple]]:
    """The losses of all examples, and the cotangents of all points."""
    run = tapped(f, params, data, selected)
    return run, run.pullback(jnp.ones_like(run.outputs))


def square_sums(run: Tapped, cotangents: list[tuple], *, about_mean: bool = False) -> list[jax.Array]:
    """Σᵢ gᵢ² of every entry of the parameters, or Σᵢ (gᵢ − ḡ)², in at least float32.

    Args:
        run: The evaluated function.
        cotangents: The cotangents of its points.
        about_mean: Whether the mean over the examples is subtracted first.
    """
    totals = [jnp.zeros_like(wide(leaf)) for leaf in run.leaves]

    def formed(gradients: jax.Array) -> jax.Array:
        a = wide(gradients)
        return jnp.sum((a - a.mean(0, keepdims=True) if about_mean else a) ** 2, 0)

    for component in components(run, lambda i: ""):
        numbers, made, [k, *_] = sorted(component.leaves), factored(run, component), component.points
        if made and made[0].g(cotangents[k][0]).shape[-2] == 1:
            factors, x = made
            square = factors.put((squared_deviations if about_mean else squared_sums)(factors, x, factors.g(cotangents[k][0])))
        else:
            each = by_example(run, cotangents, component)
            if not component.alone:
                for i, a in zip(numbers, each, strict=True):
                    totals[i] = totals[i] + formed(a)
                continue
            square = formed(each[0])
        # each entry is that of one entry of a parameter, and goes back to its place
        dtype = run.weights[k][0].dtype
        if dtype == square.dtype:
            back = to_leaves(run, [k], numbers)({k: [square]})
        else:  # a narrow dtype has the range of the root
            roots = to_leaves(run, [k], numbers)({k: [jnp.sqrt(square).astype(dtype)]})
            back = {i: wide(a) ** 2 for i, a in roots.items()}
        for i, a in back.items():
            totals[i] = totals[i] + wide(a)
    return totals


def inner_products(one: Tapped, of_one: list[tuple], two: Tapped, of_two: list[tuple]) -> jax.Array:
    """The inner products of all gradients of two batches.

    Args:
        one: A batch.
        of_one: Its cotangents, with an axis of outputs after that of the examples, (a, c, …).
        two: Another batch, evaluated by the same function.
        of_two: Its cotangents, (b, d, …).

    Returns:
        (a, c, b, d).
    """
    total: Any = None
    found: Any

    def flat(run: Tapped, cotangents: list[tuple], component: Component) -> list[jax.Array]:
        each = jax.vmap(lambda g: by_example(run, g, component), 1, 1)({k: cotangents[k] for k in component.points})
        return [wide(a).reshape(*a.shape[:2], -1) for a in each]

    for component in components(one, lambda i: ""):
        [k, *_] = component.points
        if made := factored(one, component):
            factors, x1 = made
            g1, g2 = (jax.vmap(factors.g, 1, 1)(g[k][0]) for g in (of_one, of_two))
            found = products(factors, x1, g1, x1 if two is one else factors.x(two.inputs[k]), g2)
        else:
            first = flat(one, of_one, component)
            second = first if two is one else flat(two, of_two, component)
            found = sum(jnp.einsum("acp,bdp->acbd", a, b) for a, b in zip(first, second, strict=True))
        total = found if total is None else jnp.add(*promote(total, found))
    shape = [n for g in (of_one, of_two) for n in jax.tree.leaves(g)[0].shape[:2]]
    return jnp.broadcast_to(0.0 if total is None else total, shape)
