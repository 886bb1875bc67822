"""Weights that meet data in a product: their gradient is Σₜ xₜ gₜᵀ, and much follows without forming it.

The inner product of two such gradients is Σₜₛ ⟨xₜ, x′ₛ⟩ ⟨gₜ, g′ₛ⟩ (Goodfellow 2015, arXiv:1510.01799, for one t; Rochette et
al. 2019, arXiv:1912.06015), two products of (T, n) and (T, m) instead of one of (n, m).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.core.dtypes import at_least_float32 as wide
from jaxnn.programs.points import Point


class Factors(NamedTuple):
    """How the gradient of a point's only weight is made: for each of its s parts, Σₜ xₜ gₜᵀ.

    Attributes:
        x: From the point's inputs to x, (batch, s, t, n), or to row numbers, (batch, s, t), of which each stands for a unit
            vector, and `rows` for a vector of zeros.
        g: From the cotangents of the point's output, (batch, …), to g, (batch, s, t, m).
        put: From the matrices (…, s, n, m) to the weight's shape, (…, *weight); linear, and it only moves entries.
        rows: n, if x are row numbers; else None.
    """

    x: Callable[[tuple], jax.Array]
    g: Callable[[jax.Array], jax.Array]
    put: Callable[[jax.Array], jax.Array]
    rows: int | None = None


def factors_of(point: Point) -> Factors | None:
    """The factors of a point, or None if the gradient of its weight is not such a sum."""
    if point.eqn is None or len(point.leaves) != 1 or len(point.outputs) != 1:
        return None
    make = {"dot_general": _of_dot, "canonical_convolution": _of_convolution, "gather": _of_rows}.get(point.primitive)
    return make(point) if make else None


def gradients(factors: Factors, x: jax.Array, g: jax.Array) -> jax.Array:
    """Σₜ xₜ gₜᵀ, (…, s, n, m), from x (…, s, t, n) and g (…, s, t, m)."""
    if factors.rows is None:
        return jnp.einsum("...ti,...to->...io", x, g)
    zeros = jnp.zeros((factors.rows, g.shape[-1]), g.dtype)
    add = lambda rows, g: zeros.at[rows].add(g, mode="drop")  # noqa: E731
    for _ in g.shape[:-2]:
        add = jax.vmap(add)
    return add(x, g)


def sums(factors: Factors, x: jax.Array, g: jax.Array) -> jax.Array:
    """The sum of the gradients over the examples, (s, n, m)."""
    join = lambda a: jnp.moveaxis(a, 0, 1).reshape(a.shape[1], a.shape[0] * a.shape[2], *a.shape[3:])  # noqa: E731
    return gradients(factors, join(x), join(g))


def squared_sums(factors: Factors, x: jax.Array, g: jax.Array) -> jax.Array:
    """Σᵢ gᵢ² of every entry of the gradients of the examples, (s, n, m), where each has one position."""
    return sums(factors, x if factors.rows else x**2, g**2)


def squared_deviations(factors: Factors, x: jax.Array, g: jax.Array) -> jax.Array:
    """Σᵢ (gᵢ − ḡ)² of every entry of the gradients of the examples, (s, n, m), where each has one position.

    A difference of sums of squares would lose the digits of a mean that is large beside the deviations. So with aᵢ = xᵢ − x̄,
    bᵢ = gᵢ − ḡ and c = Σᵢ aᵢ bᵢ / N, the deviation of the product xᵢ gᵢ is x̄ bᵢ + aᵢ ḡ + (aᵢ bᵢ − c), whose square is summed
    term by term; Σ aᵢ = Σ bᵢ = 0. Of a unit vector, the k examples that chose a row deviate from their own mean r, and r² k
    (N − k) / N is added.
    """
    n = len(g)
    if factors.rows:
        count = sums(factors, x, jnp.ones_like(g[..., :1]))
        mean = sums(factors, x, g) / jnp.maximum(count, 1)
        own = jax.vmap(jax.vmap(lambda mean, rows: mean.at[rows].get(mode="fill", fill_value=0)), (None, 0))(mean, x)
        return sums(factors, x, (g - own) ** 2) + mean**2 * count * (n - count) / n
    x_mean, g_mean = x.mean(0)[:, 0, :, None], g.mean(0)[:, 0, None, :]  # (s, n, 1), (s, 1, m)
    a, b = x - x.mean(0, keepdims=True), g - g.mean(0, keepdims=True)
    ab, a2b2, ab2, a2b = (sums(factors, *pair) for pair in ((a, b), (a**2, b**2), (a, b**2), (a**2, b)))
    linear = x_mean**2 * (b**2).sum(0)[:, 0, None, :] + (a**2).sum(0)[:, 0, :, None] * g_mean**2 + 2 * x_mean * g_mean * ab
    return jnp.maximum(linear + 2 * (x_mean * ab2 + g_mean * a2b) + a2b2 - ab**2 / n, 0)


def squared_norms(factors: Factors, x: jax.Array, g: jax.Array) -> jax.Array:
    """The squared norm of each example's gradient, (batch,), the cheaper way."""
    t, m = g.shape[-2:]
    n = factors.rows or x.shape[-1]
    if t == 1 and factors.rows is None:
        each = jnp.sum(x**2, (-1, -2)) * jnp.sum(g**2, (-1, -2))
    elif (t < n) if factors.rows else (t * (n + m) < n * m):
        pairs = jnp.sum(_gram(factors, x, x, g.dtype) * _gram(None, g, g, g.dtype), (-1, -2))
        each = jnp.maximum(pairs, 0)  # terms of both signs may cancel up to rounding
    else:
        each = jnp.sum(gradients(factors, x, g) ** 2, (-1, -2))
    return each.sum(1)


def products(factors: Factors, x1: jax.Array, g1: jax.Array, x2: jax.Array, g2: jax.Array) -> jax.Array:
    """The inner products of the gradients of two batches, with several cotangents per example, the cheaper way.

    Args:
        factors: The point's factors.
        x1: (a, s, t, n), or row numbers.
        g1: (a, c, s, t, m).
        x2: (b, s, t, n), or row numbers.
        g2: (b, d, s, t, m).

    Returns:
        (a, c, b, d).
    """
    (a, c, s, t, m), (b, d) = g1.shape, g2.shape[:2]
    n = factors.rows or x1.shape[-1]
    by_pairs = s * a * b * t * t * ((1 if factors.rows else n) + c * d * m)
    by_gradients = s * n * m * (t * (a * c + b * d) + a * c * b * d)
    if by_pairs <= by_gradients:
        xx = _gram(factors, x1[:, None], x2[None], g1.dtype)  # (a, b, s, t, u)
        if t == 1:
            return jnp.einsum("abs,acsm,bdsm->acbd", xx[..., 0, 0], g1[..., 0, :], g2[..., 0, :])
        return jnp.einsum("abstu,acstm,bdsum->acbd", xx, g1, g2)

    def flat(x: jax.Array, g: jax.Array) -> jax.Array:
        x = jnp.broadcast_to(x[:, None], (*g.shape[:4], *x.shape[3:]))
        return gradients(factors, x, g).reshape(*g.shape[:2], -1)

    return jnp.einsum("acp,bdp->acbd", flat(x1, g1), flat(x2, g2))


def _gram(factors: Factors | None, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    """The inner products of the vectors of a and b, (…, t, u)."""
    if factors is None or factors.rows is None:
        return jnp.einsum("...ti,...ui->...tu", a, b)
    same = (a[..., :, None] == b[..., None, :]) & (a[..., :, None] < factors.rows)
    return same.astype(dtype)


def _layout(point: Point) -> Callable[..., jax.Array]:
    """A function that arranges (batch, *loops, *axes) as (batch, owned loops and `own`, other loops and `free`, rest)."""
    owns = point.owns[0]
    lead = 1 + len(owns)
    owned, other = ([1 + i for i, o in enumerate(owns) if o is kind] for kind in (True, False))

    def arrange(a: jax.Array, own: list[int], free: list[int], rest: list[int]) -> jax.Array:
        parts = [[*owned, *(lead + i for i in own)], [*other, *(lead + i for i in free)], [lead + i for i in rest]]
        sizes = [math.prod(a.shape[i] for i in part) for part in parts]
        return a.transpose(0, *itertools.chain(*parts)).reshape(a.shape[0], *sizes)

    return arrange


def _owned(point: Point) -> list[int]:
    return [length for length, owns in zip(point.loops, point.owns[0], strict=True) if owns]


def _of_dot(point: Point) -> Factors:
    contracting, batch = point.eqn.params["dimension_numbers"]
    w = point.weights.index(True)
    x_shape, w_shape = (point.eqn.invars[i].aval.shape for i in (1 - w, w))
    (x_sum, w_sum), (x_batch, w_batch) = ([list(pair[1 - w]), list(pair[w])] for pair in (contracting, batch))
    x_free = [i for i in range(len(x_shape)) if i not in x_sum + x_batch]
    w_free = [i for i in range(len(w_shape)) if i not in w_sum + w_batch]
    arrange, nb = _layout(point), len(x_batch)
    own, one, two = list(range(nb)), len(x_free if w else w_free), len(w_free if w else x_free)
    first, second = list(range(nb, nb + one)), list(range(nb + one, nb + one + two))
    of_x, of_w = (first, second) if w else (second, first)
    order = w_batch + w_sum + w_free

    def put(matrices: jax.Array) -> jax.Array:
        lead, owned = matrices.shape[:-3], _owned(point)
        y = matrices.reshape(*lead, *owned, *(w_shape[i] for i in order))
        k = len(lead) + len(owned)
        return y.transpose(*range(k), *(k + int(i) for i in np.argsort(order)))

    return Factors(
        lambda inputs: wide(arrange(inputs[0], x_batch, x_free, x_sum)), lambda g: wide(arrange(g, own, of_x, of_w)), put
    )


def _of_convolution(point: Point) -> Factors | None:
    if point.weights != (False, True):
        return None
    strides, padding, lhs_dilation, rhs_dilation, groups = point.eqn.params["geometry"]
    *window, channels, features = point.eqn.invars[1].aval.shape
    places = point.eqn.outvars[0].aval.shape[1:-1]
    arrange, loops, d = _layout(point), len(point.loops), len(window)

    def patches(inputs: tuple) -> jax.Array:
        x = inputs[0]
        still = [(0, 0, 0)] * (2 + loops)
        around = [(low, high, dilation - 1) for (low, high), dilation in zip(padding, lhs_dilation, strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [*still, *around, (0, 0, 0)])
        parts = []
        for offset in np.ndindex(*window):
            low = [o * r for o, r in zip(offset, rhs_dilation, strict=True)]
            cut = [slice(i, i + s * (n - 1) + 1, s) for i, s, n in zip(low, strides, places, strict=True)]
            parts.append(x[(slice(None),) * len(still) + tuple(cut)])
        x = jnp.stack(parts, -2)  # (…, *places, window, groups · channels)
        x = x.reshape(*x.shape[:-1], groups, channels)
        return wide(arrange(x, [d + 2], list(range(d + 1)), [d + 1, d + 3]))

    def g(cotangent: jax.Array) -> jax.Array:
        split = cotangent.reshape(*cotangent.shape[:-1], groups, features // groups)
        return wide(arrange(split, [d + 1], list(range(d + 1)), [d + 2]))

    def put(matrices: jax.Array) -> jax.Array:
        lead, owned = matrices.shape[:-3], _owned(point)
        y = matrices.reshape(*lead, *owned, groups, *window, channels, features // groups)
        k = len(lead) + len(owned)
        return jnp.moveaxis(y, k, -2).reshape(*lead, *owned, *window, channels, features)

    return Factors(patches, g, put)


def _of_rows(point: Point) -> Factors | None:
    """Of a gather that looks up whole rows of its first operand."""
    numbers, mode = point.eqn.params["dimension_numbers"], point.eqn.params["mode"]
    table, index = (v.aval.shape for v in point.eqn.invars)
    plain = (
        point.weights == (True, False)
        and len(table) == 2
        and numbers.collapsed_slice_dims == numbers.start_index_map == (0,)
        and not numbers.operand_batching_dims
        and tuple(point.eqn.params["slice_sizes"]) == (1, table[1])
        and numbers.offset_dims == (len(index) - 1,)
        and mode != lax.GatherScatterMode.CLIP
    )
    if not plain:
        return None
    arrange, axes = _layout(point), len(index) - 1

    def x(inputs: tuple) -> jax.Array:
        rows = inputs[0].astype(jnp.int32)
        rows = jnp.where((rows >= 0) & (rows < table[0]), rows, table[0])
        return arrange(rows, [], list(range(axes)), [axes])[..., 0]

    put = lambda matrices: matrices.reshape(*matrices.shape[:-3], *_owned(point), *table)  # noqa: E731
    return Factors(x, lambda g: wide(arrange(g, [], list(range(axes)), [axes])), put, table[0])
