"""Metrics of ranking: the area under the ROC curve, average precision, and Spearman's correlation.

A metric that depends on the order of all samples has no small totals. There are two options, and both can be merged:

- `capacity=n` stores up to n samples, 8 bytes each, and is exact. For more than n samples the value is NaN.
- Without it, scores are rounded to float16 and counted by their 2¹⁶ values: 512 KiB for any number of samples. The value is
  exact for the rounded scores; the docstrings bound its difference from that of the original scores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional.metrics.regression import correlation, moments_of, pair_of
from jaxnn.functional.metrics.stream import Metric, Totals, binary_of, positive_integer, total_of

_VALUES = 2**16
_NAN = 0  # the index of a NaN, which no number has
_LARGEST = 65504.0  # of float16


def roc_auc(*, capacity: int | None = None) -> Metric:
    """Make the metric of the area under the ROC curve, P(ŝ⁺ > ŝ⁻) + ½ P(ŝ⁺ = ŝ⁻) for a positive and a negative sample.

    Only the order of the scores matters, so logits and probabilities give the same value. Hanley and McNeil (1982).

    Args:
        capacity: Maximum number of samples, for the exact value. None rounds scores to float16 (11 bits, clipped to
            ±65504), with an error of at most half the share of the pairs of a positive and a negative sample whose scores
            become equal. Therefore pass logits: probabilities near 1 are too close together for 11 bits.

    Returns:
        The metric of scores (…,) or (…, 1) and targets 0 or 1 (…,). NaN if one of the two classes is missing or a score is
        NaN.

    Raises:
        ValueError: If capacity is not a positive integer; when called, shapes differ or a target is neither 0 nor 1.

    Example:
        >>> roc_auc()(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])).item()
        0.75
    """

    def compute(positive: jax.Array, above: jax.Array, below: jax.Array, tied: jax.Array, negatives: jax.Array) -> jax.Array:
        return jnp.where(negatives > 0, _mean(positive, (below + tied / 2) / jnp.maximum(negatives, 1)), jnp.nan)

    return _ranked("roc_auc", capacity, compute)


def average_precision(*, capacity: int | None = None) -> Metric:
    """Make the metric Σₖ (Rₖ − Rₖ₋₁) Pₖ over the thresholds, with precision P and recall R, as in scikit-learn.

    This is the mean over positive samples of the precision at their score. It summarizes the precision-recall curve without
    trapezoidal interpolation, which is too optimistic (Davis and Goadrich, 2006).

    Args:
        capacity: As in `roc_auc`. None rounds to float16, with an error of at most Σ_v (p_v/p)(m_v − 1)/M_v over the
            rounded values v, where p_v positive and m_v samples in all have the score v, and M_v samples at least v.

    Returns:
        The metric, called as `roc_auc` is. NaN if there is no positive sample, or a score is NaN.

    Raises:
        ValueError: As for `roc_auc`.

    Example:
        >>> round(average_precision()(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])).item(), 4)
        0.8333
    """

    def compute(positive: jax.Array, above: jax.Array, below: jax.Array, tied: jax.Array, negatives: jax.Array) -> jax.Array:
        chosen = above + negatives - below  # with this score as the threshold
        return _mean(positive, above / jnp.maximum(chosen, 1))

    return _ranked("average_precision", capacity, compute)


def spearman(capacity: int) -> Metric:
    """Make the metric of Spearman's correlation (1904): Pearson's of the ranks, where equal values have their mean rank.

    ρ = Σ(r − r̄)(s − s̄)/√(Σ(r − r̄)² Σ(s − s̄)²) of the ranks r of the predictions and s of the targets.

    Args:
        capacity: Maximum number of samples; for more, the value is NaN.

    Returns:
        The metric of predictions and targets with one output per sample, (batch,) or (batch, 1). From −1 to 1; NaN if
        predictions or targets are constant. SciPy's `spearmanr`.

    Raises:
        ValueError: If capacity is not a positive integer; when called, shapes differ.

    Example:
        >>> spearman(100)(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 10.0, 1000.0])).item()
        1.0
    """

    def compute(predictions: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
        moments = moments_of(mask, _ranks(predictions, mask), _ranks(targets, mask))
        return correlation(total_of(moments, "spread"), moments["count"])

    return _stored("spearman", capacity, partial(pair_of, "spearman"), compute)


def _mean(weights: jax.Array, values: jax.Array) -> jax.Array:
    total = jnp.sum(weights)
    return jnp.where(total > 0, jnp.sum(weights * values) / total, jnp.nan)


def _ranked(name: str, capacity: int | None, area: Callable[..., jax.Array]) -> Metric:
    """Make a metric of a curve over thresholds.

    Args:
        name: Name of the metric.
        capacity: Maximum number of samples; None counts rounded scores.
        area: `area(positive, above, below, tied, negatives)`. For each threshold, a sample's score or a rounded one:
            `positive` and `above` are the numbers of positive samples with this score and with at least this score,
            `below` and `tied` of negative samples with a lower and with this score, and `negatives` of all negative ones.
    """

    def exact(scores: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
        return area(*_thresholds(scores, (labels == 1) & mask, (labels == 0) & mask))

    def rounded(totals: Totals) -> jax.Array:
        invalid = totals["positive"][_NAN] + totals["negative"][_NAN]
        positive, negative = (totals[kind].astype(float) for kind in ("positive", "negative"))
        below = jnp.cumsum(negative) - negative
        above = jnp.cumsum(positive[::-1])[::-1]
        return jnp.where(invalid > 0, jnp.nan, area(positive, above, below, negative, jnp.sum(negative)))

    batch = partial(binary_of, name)
    if capacity is not None:
        return _stored(name, capacity, batch, exact)

    def init() -> Totals:
        return {kind: jnp.zeros(_VALUES, int) for kind in ("negative", "positive")}

    def update(totals: Totals, predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None = None) -> Totals:
        return _counted(totals, *batch(predictions, targets, where))

    return Metric(name, init, update, rounded)


@jax.jit
def _counted(totals: Totals, scores: jax.Array, labels: jax.Array, mask: jax.Array) -> Totals:
    invalid = jnp.isnan(scores) | jnp.isnan(labels)
    index = jnp.where(mask, jnp.where(invalid, _NAN, _float16_order(scores)), _VALUES)

    def counts(total: jax.Array, of: jax.Array) -> jax.Array:
        return total.at[jnp.where(of | invalid, index, _VALUES).ravel()].add(1, mode="drop")

    return {"negative": counts(totals["negative"], labels == 0), "positive": counts(totals["positive"], labels == 1)}


def _float16_order(x: jax.Array) -> jax.Array:
    """Return the index of float16(x) among all float16 numbers ordered from −∞ to ∞."""
    rounded = jnp.clip(x, -_LARGEST, _LARGEST).astype(jnp.float16)
    bits = jax.lax.bitcast_convert_type(rounded, jnp.uint16).astype(int)
    sign, size = bits >> 15, bits & 0x7FFF
    return jnp.where(sign == 1, 0x8000 - size, 0x8000 + size)  # −0 and 0 have one index


def _thresholds(scores: jax.Array, positive: jax.Array, negative: jax.Array) -> tuple[jax.Array, ...]:
    """Return the arguments of `area`, with each sample's score as a threshold."""
    positives, negatives = _count(positive), _count(negative)
    positives_below, _ = _smaller_counts(scores, positive)
    below, upto = _smaller_counts(scores, negative)
    counts = (positive, positives - positives_below, below, upto - below, negatives)
    return tuple(count.astype(float) for count in counts)


def _smaller_counts(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return for each x the number of x in the mask that are smaller, and of those that are at most as large."""
    ordered = jnp.sort(jnp.where(mask, x, jnp.inf))
    left, right = (jnp.searchsorted(ordered, x, side=side) for side in ("left", "right"))
    return jnp.minimum(left, _count(mask)), jnp.minimum(right, _count(mask))


def _count(mask: jax.Array) -> jax.Array:
    return jnp.sum(mask, dtype=jnp.int32)


def _ranks(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the ranks from 1, where equal values have their mean rank."""
    below, upto = _smaller_counts(x, mask)
    return (below + upto + 1).astype(float) / 2


def _stored(name: str, capacity: int, batch: Callable[..., tuple[jax.Array, ...]], value: Callable[..., jax.Array]) -> Metric:
    """Make a metric that stores the samples: `value(predictions, targets, mask)` of all of them, NaN if there are too many."""
    capacity = positive_integer(name, "capacity", capacity)

    def filled(totals: Totals) -> jax.Array:
        return jnp.arange(capacity, dtype=jnp.int32) < totals["count"]

    def init() -> Totals:
        empty = jnp.zeros(capacity, float)
        return {"predictions": empty, "targets": empty, "count": jnp.zeros((), jnp.int32)}

    @jax.jit
    def put(totals: Totals, predictions: jax.Array, targets: jax.Array, mask: jax.Array) -> Totals:
        index = jnp.where(mask, totals["count"] + jnp.cumsum(mask, dtype=jnp.int32) - 1, capacity)
        return {
            "predictions": totals["predictions"].at[index].set(predictions, mode="drop"),
            "targets": totals["targets"].at[index].set(targets, mode="drop"),
            "count": totals["count"] + _count(mask),
        }

    def update(totals: Totals, predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None = None) -> Totals:
        p, t, mask = (part.ravel() for part in batch(predictions, targets, where))
        return put(totals, p.astype(float), t, mask)

    def merge(a: Totals, b: Totals) -> Totals:
        merged = put(a, b["predictions"], b["targets"], filled(b))
        return merged | {"count": a["count"] + b["count"]}  # including samples that did not fit into b

    @jax.jit
    def compute(totals: Totals) -> jax.Array:
        mask = filled(totals)
        bad = jnp.isnan(totals["predictions"]) | jnp.isnan(totals["targets"])
        known = ~jnp.any(bad & mask) & (totals["count"] <= capacity) & (totals["count"] > 0)
        return jnp.where(known, value(totals["predictions"], totals["targets"], mask), jnp.nan)

    return Metric(name, init, update, compute, merge)
