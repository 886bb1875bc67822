"""Metrics of generated text against references."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import spell
from jaxnn.functional.metrics.stream import Metric, Totals, add, no_tallies, positive_integer, running, total_of, weights_of


def bleu(max_order: int = 4) -> Metric:
    """Make the metric BLEU of a corpus of token sequences, min(1, e^(1 − r/c)) · (Π_n pₙ)^(1/N), Papineni et al. (2002).

    pₙ is the share of the predicted n-grams that occur in the reference, each counted at most as often as it occurs there; c
    and r are the numbers of predicted and of reference tokens. Counts are summed over all sequences of the corpus first.
    There is no smoothing, so BLEU is 0 if no n-gram of some order matches; it ranges from 0 to 1, not to 100. Computed on a
    model's tokens, it is only comparable between runs with one tokenizer; to compare with published scores, which use words,
    decode and use sacreBLEU.

    Args:
        max_order: Largest order N of n-grams; 4 is usual.

    Returns:
        The metric of two batches of token sequences, integers (batch, time), whose lengths may differ. Tokens below 0 are
        padding, at the end of each sequence. `where` and weights (batch,) are those of sequences.

    Raises:
        ValueError: If max_order is not a positive integer; when called, shapes do not match.
        TypeError: When called, if tokens are not integers.

    Example:
        >>> predicted, reference = jnp.array([[1, 2, 3, 4, 5, -1]]), jnp.array([[1, 2, 3, 4, 6, 7]])
        >>> round(bleu()(predicted, reference).item(), 4)
        0.5475
    """
    max_order = positive_integer("bleu", "max_order", max_order)

    def init(weighted: bool = False) -> Totals:
        orders = no_tallies(weighted, (max_order,), "matched", "total")
        return orders | no_tallies(weighted, (), "predicted", "reference")

    def update(
        totals: Totals,
        predictions: ArrayLike,
        targets: ArrayLike,
        where: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Totals:
        predictions, targets = _tokens("predictions", predictions), _tokens("targets", targets)
        if len(predictions) != len(targets):
            raise ValueError(
                f"bleu: predictions {spell(predictions)} and targets {spell(targets)} differ in length, expected one "
                "reference per prediction"
            )
        counting = weights_of("bleu", where, weights, (len(targets),))
        mask = counting.astype(bool)[:, None]
        counts = jax.vmap(partial(_counts, max_order))(jnp.where(mask, predictions, -1), jnp.where(mask, targets, -1))
        if weights is None:
            return add(totals, jax.tree.map(partial(jnp.sum, axis=0), counts))
        more: Totals = {}
        for name, count in counts.items():
            more |= running(name, jnp.tensordot(counting, count.astype(float), 1, precision="highest"))
        return add(totals, more)

    def compute(totals: Totals) -> jax.Array:
        c, r, matched, total = (total_of(totals, name) for name in ("predicted", "reference", "matched", "total"))
        precision = matched / jnp.where(total == 0, 1, total)
        brevity = jnp.exp(jnp.minimum(0.0, 1 - r / jnp.where(c == 0, 1, c)))
        return jnp.where(r > 0, brevity * jnp.exp(jnp.mean(jnp.log(precision))), jnp.nan)

    return Metric("bleu", init, update, compute, weighted_init=partial(init, weighted=True))


@partial(jax.jit, static_argnums=0)
def _counts(max_order: int, predicted: jax.Array, reference: jax.Array) -> Totals:
    """Count one sequence's n-grams; the k-th predicted occurrence of an n-gram matches if the reference has at least k."""
    own, other = _equal(predicted, predicted), _equal(predicted, reference)  # (time, time): the 1-grams that are equal
    next_own, next_other, real = own, other, predicted >= 0
    matched, total = [], []
    for _ in range(max_order):
        occurrence = jnp.sum(jnp.tril(own), axis=1)
        matched.append(jnp.sum(real & (occurrence <= jnp.sum(other, axis=1))))
        total.append(jnp.sum(real))
        next_own, next_other = _shifted(next_own), _shifted(next_other)
        own, other = own & next_own, other & next_other
        real = real & jnp.roll(predicted >= 0, -len(total)).at[-len(total) :].set(False)
    totals = {"matched": jnp.stack(matched), "total": jnp.stack(total)}
    totals |= {"predicted": jnp.sum(predicted >= 0), "reference": jnp.sum(reference >= 0)}
    return jax.tree.map(lambda count: count.astype(int), totals)


def _equal(a: jax.Array, b: jax.Array) -> jax.Array:
    dtype = jnp.promote_types(a.dtype, b.dtype)
    a, b = a.astype(dtype)[:, None], b.astype(dtype)[None, :]
    return (a == b) & (a >= 0)


def _shifted(equal: jax.Array) -> jax.Array:
    """Return whether the next tokens of both sequences are equal."""
    return jnp.pad(equal[1:, 1:], ((0, 1), (0, 1)))


def _tokens(what: str, tokens: ArrayLike) -> jax.Array:
    array = jnp.asarray(tokens)
    if not jnp.issubdtype(array.dtype, jnp.signedinteger):
        raise TypeError(f"bleu: {what} are {spell(array)}, expected tokens, signed integers, with -1 for padding")
    if array.ndim != 2:
        raise ValueError(f"bleu: {what} are {spell(array)}, expected the shape (batch, time)")
    return array
