"""How near generated text is to a reference."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import spell
from jaxnn.functional.metrics.stream import Metric, Totals, add, whole


def bleu(max_order: int = 4) -> Metric:
    """Make a metric: BLEU of a corpus of token sequences, min(1, e^(1 − r/c)) · (Π_n pₙ)^(1/N), Papineni et al. (2002).

    pₙ is the share of the predicted n-grams that the reference has too, each counted at most as often as it is there; c and
    r are how many tokens were predicted and are in the references. It is a measure of the corpus: counts are summed over all
    sequences first. Without smoothing, so 0 if no n-gram of some order is right; from 0 to 1, not to 100. On tokens of a
    model it is comparable between runs of one tokenizer only; to compare with published scores, which are of words, decode
    and use sacreBLEU.

    Args:
        max_order: N; 4 is usual.

    Returns:
        The metric of two batches of token sequences, (batch, time) integers each, whose times may differ. Tokens below 0 are
        padding: put −1 from each sequence's end on. `where` (batch,) leaves sequences out.

    Raises:
        ValueError: max_order is not a whole number from 1; when called, shapes do not fit.
        TypeError: when called, tokens are not integers.

    Example:
        >>> predicted, reference = jnp.array([[1, 2, 3, 4, 5, -1]]), jnp.array([[1, 2, 3, 4, 6, 7]])
        >>> round(bleu()(predicted, reference).item(), 4)
        0.5475
    """
    max_order = whole("bleu", "max_order", max_order)

    def init() -> Totals:
        orders, number = jnp.zeros(max_order, float), jnp.zeros((), float)
        return {"right": orders, "made": orders, "predicted": number, "reference": number}

    def update(totals: Totals, predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None = None) -> Totals:
        predictions, targets = _tokens("predictions", predictions), _tokens("targets", targets)
        if len(predictions) != len(targets):
            raise ValueError(
                f"bleu: predictions {spell(predictions)} and targets {spell(targets)} are not as many; expected a reference "
                "for each"
            )
        mask = jnp.ones(len(targets), bool) if where is None else jnp.asarray(where)
        if mask.dtype != bool or mask.shape != (len(targets),):
            raise ValueError(f"bleu: where is {spell(mask)}, expected booleans of shape {(len(targets),)}, one a sequence")
        counts = jax.vmap(partial(_counts, max_order))(
            jnp.where(mask[:, None], predictions, -1), jnp.where(mask[:, None], targets, -1)
        )
        return add(totals, jax.tree.map(partial(jnp.sum, axis=0), counts))

    def compute(totals: Totals) -> jax.Array:
        c, r = totals["predicted"], totals["reference"]
        precision = totals["right"] / jnp.maximum(totals["made"], 1)
        brevity = jnp.exp(jnp.minimum(0.0, 1 - r / jnp.maximum(c, 1)))
        return jnp.where(r > 0, brevity * jnp.exp(jnp.mean(jnp.log(precision))), jnp.nan)

    return Metric("bleu", init, update, compute)


@partial(jax.jit, static_argnums=0)
def _counts(max_order: int, predicted: jax.Array, reference: jax.Array) -> Totals:
    """Count one sequence's n-grams. The k-th of one kind that is predicted is right if the reference has k of them."""
    own, other = _equal(predicted, predicted), _equal(predicted, reference)  # (time, time): the 1-grams that are equal
    next_own, next_other, real = own, other, predicted >= 0
    right, made = [], []
    for _ in range(max_order):
        which = jnp.sum(jnp.tril(own), axis=1)
        right.append(jnp.sum(real & (which <= jnp.sum(other, axis=1))))
        made.append(jnp.sum(real))
        next_own, next_other = _later(next_own), _later(next_other)
        own, other = own & next_own, other & next_other
        real = real & jnp.roll(predicted >= 0, -len(made)).at[-len(made) :].set(False)
    totals = {"right": jnp.stack(right), "made": jnp.stack(made)}
    totals |= {"predicted": jnp.sum(predicted >= 0), "reference": jnp.sum(reference >= 0)}
    return jax.tree.map(lambda count: count.astype(float), totals)


def _equal(a: jax.Array, b: jax.Array) -> jax.Array:
    dtype = jnp.promote_types(a.dtype, b.dtype)
    a, b = a.astype(dtype)[:, None], b.astype(dtype)[None, :]
    return (a == b) & (a >= 0)


def _later(equal: jax.Array) -> jax.Array:
    """Return what is equal one place on in both sequences."""
    return jnp.pad(equal[1:, 1:], ((0, 1), (0, 1)))


def _tokens(what: str, tokens: ArrayLike) -> jax.Array:
    array = jnp.asarray(tokens)
    if not jnp.issubdtype(array.dtype, jnp.signedinteger):
        raise TypeError(f"bleu: {what} are {spell(array)}, expected tokens, signed integers, with -1 for padding")
    if array.ndim != 2:
        raise ValueError(f"bleu: {what} are {spell(array)}, expected the shape (batch, time)")
    return array
