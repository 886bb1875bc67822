"""How well scores rank the samples: the area under the ROC curve, average precision, and Spearman's correlation.

What depends on the order of all samples has no small totals. There are two ways, and both merge:

- `capacity=n` keeps the samples, up to n of them in 8 bytes each, and is exact. Of more than n the value is NaN.
- Without it, scores are rounded to float16 and counted by their 2¹⁶ values: 512 KiB, however many samples there are. The
  value is exact for the rounded scores; how far it is from that of the scores themselves is bounded where it is defined.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional.metrics.regression import correlation, moments_of, pair_of
from jaxnn.functional.metrics.stream import Metric, Totals, binary_of, whole

_VALUES = 2**16
_LARGEST = 65504.0  # of float16


def roc_auc(*, capacity: int | None = None) -> Metric:
    """Make a metric: the area under the ROC curve, P(ŝ⁺ > ŝ⁻) + ½ P(ŝ⁺ = ŝ⁻) of a positive and a negative sample.

    Only the order of the scores matters, so logits and probabilities give the same. Hanley and McNeil (1982).

    Args:
        capacity: how many samples there are at the most, for the exact value. None rounds scores to float16 (11 bits; beyond
            ±65504 they are that), with an error of at most half the share of the pairs of a positive and a negative sample
            that become equal by it. So give it logits: probabilities near 1 lie closer together than 11 bits can tell.

    Returns:
        The metric of scores (…,) or (…, 1) and targets 0 or 1 (…,). NaN if one of the two classes is missing, or a score
        is NaN.

    Raises:
        ValueError: capacity is not a whole number from 1; when called, shapes differ or a target is neither 0 nor 1.

    Example:
        >>> roc_auc()(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])).item()
        0.75
    """

    def compute(positive: jax.Array, above: jax.Array, below: jax.Array, tied: jax.Array, negatives: jax.Array) -> jax.Array:
        return jnp.where(negatives > 0, _mean(positive, (below + tied / 2) / jnp.maximum(negatives, 1)), jnp.nan)

    return _ranked("roc_auc", capacity, compute)


def average_precision(*, capacity: int | None = None) -> Metric:
    """Make a metric: Σₖ (Rₖ − Rₖ₋₁) Pₖ over the thresholds, with precision P and recall R; scikit-learn's definition.

    In other words the mean over positive samples of the precision at their own score. It sums up the precision-recall curve
    without the interpolation of its trapezoids, which is too optimistic (Davis and Goadrich, 2006).

    Args:
        capacity: as in `roc_auc`. None rounds to float16, with an error of at most Σ_v (p_v/p)(m_v − 1)/M_v over the
            rounded values v, which p_v positive samples have, m_v samples in all, and M_v samples reach.

    Returns:
        The metric, called as `roc_auc` is. NaN if there is no positive sample, or a score is NaN.

    Raises:
        ValueError: as `roc_auc`.

    Example:
        >>> round(average_precision()(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])).item(), 4)
        0.8333
    """

    def compute(positive: jax.Array, above: jax.Array, below: jax.Array, tied: jax.Array, negatives: jax.Array) -> jax.Array:
        chosen = above + negatives - below  # at the threshold that a score is
        return _mean(positive, above / jnp.maximum(chosen, 1))

    return _ranked("average_precision", capacity, compute)


def spearman(capacity: int) -> Metric:
    """Make a metric: Spearman's correlation (1904), Pearson's of the ranks, equal values having their mean rank.

    ρ = Σ(r − r̄)(s − s̄)/√(Σ(r − r̄)² Σ(s − s̄)²) of the ranks r of the predictions and s of the targets.

    Args:
        capacity: how many samples there are at the most; of more, the value is NaN.

    Returns:
        The metric of predictions and targets of one output a sample, (batch,) or (batch, 1). From −1 to 1; NaN if
        predictions or targets are all equal. SciPy's `spearmanr`.

    Raises:
        ValueError: capacity is not a whole number from 1; when called, shapes differ.

    Example:
        >>> spearman(100)(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 10.0, 1000.0])).item()
        1.0
    """

    def compute(predictions: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
        moments = moments_of(mask, _ranks(predictions, mask), _ranks(targets, mask))
        return correlation(moments["spread"], moments["count"])

    return _kept("spearman", capacity, partial(pair_of, "spearman"), compute)


def _mean(weights: jax.Array, values: jax.Array) -> jax.Array:
    total = jnp.sum(weights)
    return jnp.where(total > 0, jnp.sum(weights * values) / total, jnp.nan)


def _ranked(name: str, capacity: int | None, area: Callable[..., jax.Array]) -> Metric:
    """Make a metric of a curve over thresholds.

    Args:
        name: the metric's.
        capacity: None counts by rounded scores.
        area: `area(positive, above, below, tied, negatives)`, where for each threshold, be it a sample's score or a rounded
            one, `positive` is the number of positive samples that have it, `above` of those that reach it, `below` and
            `tied` of the negative ones under it and at it, and `negatives` of these in all.
    """

    def kept(scores: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
        return area(*_thresholds(scores, (labels == 1) & mask, (labels == 0) & mask))

    def counted(totals: Totals) -> jax.Array:
        positive, negative = totals["positive"], totals["negative"]
        below = jnp.cumsum(negative) - negative
        above = jnp.cumsum(positive[::-1])[::-1]
        return area(positive, above, below, negative, jnp.sum(negative))

    batch = partial(binary_of, name)
    if capacity is not None:
        return _kept(name, capacity, batch, kept)

    def init() -> Totals:
        return {kind: jnp.zeros(_VALUES, float) for kind in ("negative", "positive")}

    def update(totals: Totals, predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None = None) -> Totals:
        return _counted(totals, *batch(predictions, targets, where))

    return Metric(name, init, update, counted)


@jax.jit
def _counted(totals: Totals, scores: jax.Array, labels: jax.Array, mask: jax.Array) -> Totals:
    labels = jnp.where(jnp.isnan(scores), jnp.nan, labels)
    index, weight = _float16_order(scores).ravel(), jnp.where(mask, 1.0, 0.0)

    def counts(total: jax.Array, of: jax.Array) -> jax.Array:
        return total.at[index].add(jnp.where(mask, weight * of, 0).astype(total.dtype).ravel())

    return {"negative": counts(totals["negative"], 1 - labels), "positive": counts(totals["positive"], labels)}


def _float16_order(x: jax.Array) -> jax.Array:
    """Return the place of float16(x) among all float16 numbers: their bits, counted through from −∞ to ∞."""
    rounded = jnp.clip(x, -_LARGEST, _LARGEST).astype(jnp.float16)
    bits = jax.lax.bitcast_convert_type(rounded, jnp.uint16).astype(int)
    sign, size = bits >> 15, bits & 0x7FFF
    return jnp.where(sign == 1, 0x8000 - size, 0x8000 + size)  # both zeros are one


def _thresholds(scores: jax.Array, positive: jax.Array, negative: jax.Array) -> tuple[jax.Array, ...]:
    """Return what `area` takes, with each sample's score as a threshold."""
    ups, downs = _count(positive), _count(negative)
    under, _ = _places(scores, positive)
    below, upto = _places(scores, negative)
    return tuple(count.astype(float) for count in (positive, ups - under, below, upto - below, downs))


def _places(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return for each x how many of the masked are smaller, and how many are at most as large."""
    ordered = jnp.sort(jnp.where(mask, x, jnp.inf))
    left, right = (jnp.searchsorted(ordered, x, side=side) for side in ("left", "right"))
    return jnp.minimum(left, _count(mask)), jnp.minimum(right, _count(mask))


def _count(mask: jax.Array) -> jax.Array:
    return jnp.sum(mask, dtype=jnp.int32)


def _ranks(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the ranks from 1, equal values having their mean rank."""
    below, upto = _places(x, mask)
    return (below + upto + 1).astype(float) / 2


def _kept(name: str, capacity: int, batch: Callable[..., tuple[jax.Array, ...]], value: Callable[..., jax.Array]) -> Metric:
    """Make a metric that keeps the samples: `value(predictions, targets, mask)` of them all, NaN if there are too many."""
    capacity = whole(name, "capacity", capacity)

    def filled(totals: Totals) -> jax.Array:
        return jnp.arange(capacity, dtype=jnp.int32) < totals["count"]

    def init() -> Totals:
        empty = jnp.zeros(capacity, float)
        return {"predictions": empty, "targets": empty, "count": jnp.zeros((), jnp.int32)}

    @jax.jit
    def put(totals: Totals, predictions: jax.Array, targets: jax.Array, mask: jax.Array) -> Totals:
        place = jnp.where(mask, totals["count"] + jnp.cumsum(mask, dtype=jnp.int32) - 1, capacity)
        return {
            "predictions": totals["predictions"].at[place].set(predictions, mode="drop"),
            "targets": totals["targets"].at[place].set(targets, mode="drop"),
            "count": totals["count"] + _count(mask),
        }

    def update(totals: Totals, predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None = None) -> Totals:
        p, t, mask = (part.ravel() for part in batch(predictions, targets, where))
        return put(totals, p.astype(float), t, mask)

    def merge(a: Totals, b: Totals) -> Totals:
        joined = put(a, b["predictions"], b["targets"], filled(b))
        return joined | {"count": a["count"] + b["count"]}  # what b had no room for counts as well

    @jax.jit
    def compute(totals: Totals) -> jax.Array:
        mask = filled(totals)
        bad = jnp.isnan(totals["predictions"]) | jnp.isnan(totals["targets"])
        known = ~jnp.any(bad & mask) & (totals["count"] <= capacity) & (totals["count"] > 0)
        return jnp.where(known, value(totals["predictions"], totals["targets"], mask), jnp.nan)

    return Metric(name, init, update, compute, merge)
