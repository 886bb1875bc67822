"""A function of parameters and examples with its points: one forward and one backward pass for all examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn._jax import vary_alike, vary_over, varying_axes
from jaxnn.programs.points import Point, PointProgram


class Tapped(NamedTuple):
    """A function that was evaluated for a batch of examples.

    Attributes:
        program: The function's program.
        leaves: The leaves of the parameters.
        weights: The weights of each point.
        outputs: The function's results, with a leading axis of examples.
        inputs: For each point, its operands that are not weights, (batch, *loops, *operand).
        pullback: From cotangents of the results to those of each point's outputs, (batch, *loops, *output).
    """

    program: PointProgram
    leaves: list[jax.Array]
    weights: list[tuple]
    outputs: Any
    inputs: list[tuple]
    pullback: Callable[[Any], list[tuple]]

    @property
    def points(self) -> list[Point]:
        """The points, in the order of the program."""
        return self.program.points


def tapped(f: Callable, params: Any, data: Any, selected: Sequence[bool]) -> Tapped:
    """Evaluate `f(params, example)` for all examples, and write down what meets the parameters.

    Args:
        f: The function of the parameters and an example.
        params: The parameters.
        data: The examples, along a leading axis.
        selected: For each leaf of the parameters, whether it is differentiated.

    Returns:
        A `Tapped`.
    """
    params, data = vary_alike(jax.tree.map(jnp.asarray, (params, data)))  # a sum over a mesh is the caller's
    leaves = jax.tree.leaves(params)
    example = jax.tree.map(lambda a: lax.index_in_dim(a, 0, keepdims=False), data)
    program = PointProgram(f, params, example, selected)
    weights = program.weights(leaves)
    axes = frozenset().union(*map(varying_axes, jax.tree.leaves((leaves, data))))
    n = jax.tree.leaves(data)[0].shape[0]

    def zero(point: Point, kind: Any) -> jax.Array:
        return vary_over(jnp.zeros((n, *point.loops, *kind.shape), kind.dtype), axes)

    taps = [tuple(zero(point, kind) for kind in point.outputs if kind is not None) for point in program.points]

    def run(taps):
        return jax.vmap(lambda taps, example: program.run(leaves, weights, taps, example))(taps, data)

    outputs, pullback, inputs = jax.vjp(run, taps, has_aux=True)
    return Tapped(program, leaves, weights, outputs, inputs, lambda cotangents: pullback(cotangents)[0])


def weight_gradients(point: Point, weights: tuple, inputs: tuple, cotangents: tuple, *, total: bool) -> list[jax.Array]:
    """What the weights of a point receive from each example, or from all of them.

    Args:
        point: The point.
        weights: Its weights.
        inputs: Its other operands, (batch, *loops, *operand).
        cotangents: Those of its outputs, (batch, *loops, *output).
        total: Whether to return the sum over the examples.

    Returns:
        For each weight that has a derivative, (batch, *weight), or the sum, (*weight,).
    """
    differentiable = [bool(leaves) for leaves in point.leaves]

    def outputs(free: Sequence[Any], inputs: tuple) -> tuple:
        given = iter(free)
        all_weights = [next(given) if d else w for w, d in zip(weights, differentiable, strict=True)]
        compute = lambda weights, inputs: point.floating(point.all_outputs(weights, inputs))  # noqa: E731
        for depth in reversed(range(len(point.loops))):
            compute = jax.vmap(compute, ([0 if owns[depth] else None for owns in point.owns], 0), axis_size=point.loops[depth])
        return compute(all_weights, inputs)

    free = [w for w, d in zip(weights, differentiable, strict=True) if d]
    n = jax.tree.leaves(cotangents)[0].shape[0]
    if total:
        every = lambda free: jax.vmap(lambda inputs: outputs(free, inputs), axis_size=n)(inputs)  # noqa: E731
        return jax.vjp(every, free)[1](cotangents)[0]
    return jax.vmap(lambda inputs, g: jax.vjp(lambda free: outputs(free, inputs), free)[1](g)[0])(inputs, cotangents)


def to_leaves(tapped: Tapped, points: Iterable[int], numbers: Iterable[int]) -> Callable:
    """The function from gradients of the weights of some points to those of the parameters that they are made of.

    Args:
        tapped: The evaluated function.
        points: The numbers of the points.
        numbers: The numbers of the parameters.

    Returns:
        A linear function from a dict by number of point, of lists with an entry per weight that has a derivative, to a dict by
        number of parameter.
    """
    used = {k: tapped.points[k].leaves for k in points}

    def weights(chosen: dict[int, jax.Array]) -> dict[int, list]:
        all_weights = tapped.program.weights([chosen.get(i, leaf) for i, leaf in enumerate(tapped.leaves)])
        return {k: [w for w, leaves in zip(all_weights[k], of, strict=True) if leaves] for k, of in used.items()}

    back = jax.vjp(weights, {i: tapped.leaves[i] for i in numbers})[1]
    return lambda gradients: back(gradients)[0]
