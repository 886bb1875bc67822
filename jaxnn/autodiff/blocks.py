"""Parameters whose gradients are Σₜ xₜ hₜᵀ, arranged as matrices: a kernel with its bias, or the kernels of a recurrence."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn._jax import bind, is_literal
from jaxnn.autodiff.contributions import Component, components
from jaxnn.autodiff.factors import Factors, factors_of
from jaxnn.autodiff.tapped import Tapped

DIGITS, BASE = 4, 128  # numbers of entries as digits, which narrow dtypes hold exactly


@dataclass(frozen=True, eq=False)
class Block:
    """Parameters that are s matrices (n, m), the gradient of each of which is Σₜ xₜ hₜᵀ.

    Attributes:
        leaves: The numbers of the parameters.
        shape: (s, n, m).
        index: For each entry of the matrices, its number in the parameters one after another, (s, n, m).
        points: The points at which it meets data.
        rows: For each point, the rows of the matrices that its x are entries of.
        ones: The row of the bias, whose x is 1, or None.
        whole: The point whose x have all rows, and to whose outputs the bias is added.
    """

    leaves: tuple[int, ...]
    shape: tuple[int, int, int]
    index: np.ndarray
    points: tuple[int, ...]
    rows: tuple[np.ndarray, ...]
    ones: int | None
    whole: int

    def inputs(self, run: Tapped) -> jax.Array:
        """x of all positions of all points, (batch, s, t, n)."""
        parts = []
        for k, rows in zip(self.points, self.rows, strict=True):
            x = _factors(run, k).x(run.inputs[k])
            whole = jnp.zeros((*x.shape[:-1], self.shape[1]), x.dtype).at[..., rows].set(x)
            parts.append(whole if self.ones is None else whole.at[..., self.ones].set(float(k == self.whole)))
        return jnp.concatenate(parts, 2)

    def cotangents(self, run: Tapped, cotangents: list[tuple]) -> jax.Array:
        """h of all positions of all points, (batch, s, t, m)."""
        return jnp.concatenate([_factors(run, k).g(cotangents[k][0]) for k in self.points], 2)


def blocks_of(run: Tapped) -> list[Block]:
    """The blocks of a program; parameters that are in none are those whose gradients are not such sums."""
    parts, evaluate = components(run, lambda i: ""), _evaluation(run)
    biases = {c.points[0]: min(c.leaves) for c in parts if len(c.points) == len(c.leaves) == 1}
    found = [_block(run, part, biases, evaluate) for part in parts]
    return [block for block in found if block is not None]


def _factors(run: Tapped, k: int) -> Factors:
    factors = factors_of(run.points[k])
    assert factors is not None
    return factors


def _block(run: Tapped, part: Component, biases: dict[int, int], evaluate: Callable) -> Block | None:
    points, leaves = [k for k in part.points if run.program.uses[k]], sorted(part.leaves)
    if any((factors := factors_of(run.points[k])) is None or factors.rows for k in points):
        return None
    sizes = [run.leaves[i].size for i in leaves]
    first = dict(zip(leaves, itertools.accumulate([0, *sizes]), strict=False))
    maps = {k: _matrices(run, k, first, evaluate) for k in points}
    for whole, index in maps.items():  # noqa: B007 – the point at which all of them meet data
        if index is not None and np.array_equal(np.sort(index, None), np.arange(sum(sizes))):
            break
    else:
        return None
    rows = [_rows(index, maps[k]) for k in points]
    if any(found is None for found in rows):
        return None
    ones, adding = None, run.program.only_use(whole)
    if adding in biases and run.points[adding].primitive == "add":
        leaf = biases[adding]
        numbers = _bias(run, whole, adding, {leaf: index.size}, evaluate)
        if numbers is not None and np.array_equal(np.sort(numbers, None), index.size + np.arange(run.leaves[leaf].size)):
            ones, leaves = index.shape[1], [*leaves, leaf]
            index = np.concatenate([index, numbers[:, None]], 1)
    s, n, m = index.shape
    inner = tuple(found for found in rows if found is not None)
    return Block(tuple(leaves), (s, n, m), index, tuple(points), inner, ones, whole)


def _matrices(run: Tapped, k: int, first: dict[int, int], evaluate: Callable) -> np.ndarray | None:
    """The numbers of the parameters' entries in the matrices (s, n, m) of a point's weight."""
    factors, point = _factors(run, k), run.points[k]
    x = jax.eval_shape(factors.x, run.inputs[k])
    h = jax.eval_shape(factors.g, jax.ShapeDtypeStruct((1, *point.loops, *point.outputs[0].shape), point.outputs[0].dtype))
    like = jax.ShapeDtypeStruct((x.shape[1], x.shape[3], h.shape[3]), run.weights[k][0].dtype)
    back = jax.linear_transpose(factors.put, like)
    return _numbers(lambda digit: back(evaluate(k, first, digit))[0])


def _rows(whole: np.ndarray, part: np.ndarray | None) -> np.ndarray | None:
    """The rows of one array of matrices in another, or None if they are not all there."""
    if part is None or part.shape[::2] != whole.shape[::2]:
        return None
    known = {row.tobytes(): i for i, row in enumerate(np.moveaxis(whole, 1, 0))}
    found = [known.get(row.tobytes(), -1) for row in np.moveaxis(part, 1, 0)]
    return None if -1 in found else np.asarray(found)


def _bias(run: Tapped, product: int, k: int, first: dict[int, int], evaluate: Callable) -> np.ndarray | None:
    """For each of the s matrices, the numbers of the entries of the bias, (s, m), that point k adds to a product."""
    point, factors = run.points[k], _factors(run, product)
    output, shape = point.outputs[0].shape, run.points[product].outputs[0].shape

    def spread(digit: int) -> jax.Array:
        weight = evaluate(k, first, digit)
        lengths = iter(weight.shape)
        loops = [next(lengths) if owns else 1 for owns in point.owns[0]]
        weight = weight.reshape(*loops, *[1] * (len(output) - weight.ndim + sum(point.owns[0])), *lengths)
        return factors.g(jnp.broadcast_to(weight, (1, *point.loops, *output)).reshape(1, *point.loops, *shape))[0]

    numbers = _numbers(spread)  # (s, t, m)
    return numbers[:, 0] if numbers is not None and (numbers == numbers[:, :1]).all() else None


def _numbers(digits: Callable[[int], jax.Array]) -> np.ndarray | None:
    """Whole numbers from their digits, each counted from 1; None if a value is not a parameter's entry."""
    with jax.ensure_compile_time_eval():
        found = [np.asarray(digits(d), np.float64) - 1 for d in range(DIGITS)]
    total = sum(a.astype(np.int64) * BASE**d for d, a in enumerate(found))
    return None if any((a < 0).any() for a in found) else np.asarray(total)


def _evaluation(run: Tapped) -> Callable[[int, dict[int, int], int], jax.Array]:
    """`evaluate(point, first, digit)`: a point's weight, with digits of numbers counted from `first` as the leaves."""
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in run.leaves]
    closed = jax.make_jaxpr(lambda leaves: [weights[:1] for weights in run.program.weights(leaves)])(shapes)
    made = {v: eqn for eqn in closed.jaxpr.eqns for v in eqn.outvars}
    places = dict(zip([k for k, weights in enumerate(run.weights) if weights], closed.jaxpr.outvars, strict=True))
    consts = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))

    def evaluate(k: int, first: dict[int, int], digit: int) -> jax.Array:
        env = dict(consts)
        for i, (v, leaf) in enumerate(zip(closed.jaxpr.invars, shapes, strict=True)):
            numbers = first.get(i, 0) + np.arange(leaf.size).reshape(leaf.shape)
            env[v] = jnp.asarray((numbers // BASE**digit % BASE + 1) * (i in first), leaf.dtype)

        def value(v: Any) -> Any:
            if is_literal(v):
                return v.val
            if v not in env:
                env.update(zip(made[v].outvars, bind(made[v], list(map(value, made[v].invars))), strict=True))
            return env[v]

        return value(places[k])

    return evaluate
