"""Metrics of ranking: the area under the ROC curve, average precision, and Spearman's correlation.

A metric that depends on the order of all samples has no small totals. There are two options, and both can be merged:

- `capacity=n` stores up to n samples, 12 bytes each, and is exact. For more than n samples the value is NaN.
- Without it, scores are rounded to float16 and counted by their 2¹⁶ values: 512 KiB for any number of samples. The value is
  exact for the rounded scores; the docstrings bound its difference from that of the original scores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional.metrics.outputs import of_any_outputs
from jaxnn.functional.metrics.regression import correlation, moments_of, pair_of
from jaxnn.functional.metrics.stream import (
    Metric,
    Totals,
    add,
    binary_of,
    no_tallies,
    only,
    positive_integer,
    running,
    total_of,
)

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

    def compute(positive: jax.Array, above: jax.Array, negative: Sums) -> jax.Array:
        share = (negative.below + negative.tied / 2) / jnp.where(negative.total == 0, 1, negative.total)
        return jnp.where(negative.total > 0, _mean(positive, share), jnp.nan)

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

    def compute(positive: jax.Array, above: jax.Array, negative: Sums) -> jax.Array:
        chosen = above + negative.above  # with this score as the threshold
        return _mean(positive, above / jnp.where(chosen == 0, 1, chosen))

    return _ranked("average_precision", capacity, compute)


def spearman(capacity: int) -> Metric:
    """Make the metric of Spearman's correlation (1904): Pearson's of the ranks, where equal values have their mean rank.

    ρ = Σ(r − r̄)(s − s̄)/√(Σ(r − r̄)² Σ(s − s̄)²) of the ranks r of the predictions and s of the targets. A sample of weight w
    stands for w equal samples.

    Args:
        capacity: Maximum number of samples; for more, the value is NaN.

    Returns:
        The metric of predictions and targets (batch,); of several outputs (batch, outputs), the mean over them, as for `r2`.
        From −1 to 1; NaN if predictions or targets are constant. SciPy's `spearmanr`.

    Raises:
        ValueError: If capacity is not a positive integer; when called, shapes differ.

    Example:
        >>> spearman(100)(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 10.0, 1000.0])).item()
        1.0
    """

    def compute(predictions: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        moments = moments_of(weights, _ranks(predictions, weights), _ranks(targets, weights))
        return correlation(total_of(moments, "spread"), moments["count"])

    return of_any_outputs(_stored("spearman", capacity, partial(pair_of, "spearman"), compute))


class Sums(NamedTuple):
    """Sums of weights over the samples of a class.

    Attributes:
        total: Of all samples.
        below: For each threshold, of samples with a lower score.
        tied: For each threshold, of samples with this score.
        above: For each threshold, of samples with at least this score.
    """

    total: jax.Array
    below: jax.Array
    tied: jax.Array
    above: jax.Array


def _mean(weights: jax.Array, values: jax.Array) -> jax.Array:
    total = jnp.sum(weights)
    return jnp.where(total > 0, jnp.sum(weights * values) / jnp.where(total > 0, total, 1), jnp.nan)


def _ranked(name: str, capacity: int | None, area: Callable[[jax.Array, jax.Array, Sums], jax.Array]) -> Metric:
    """Make a metric of a curve over thresholds, which are the samples' scores or the rounded ones.

    Args:
        name: Name of the metric.
        capacity: Maximum number of samples; None counts rounded scores.
        area: `area(positive, above, negative)`: for each threshold, the weight of the positive samples that it stands for,
            `Sums.above` of positive samples, and the `Sums` of negative ones.
    """

    def exact(scores: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
        positive = only(labels == 1, weights)
        return area(positive, _sums(scores, positive).above, _sums(scores, only(labels == 0, weights)))

    def rounded(totals: Totals) -> jax.Array:
        positive, negative = (total_of(totals, kind) for kind in ("positive", "negative"))
        above, negatives_above = (jnp.cumsum(kind[::-1])[::-1] for kind in (positive, negative))
        sums = Sums(jnp.sum(negative), jnp.cumsum(negative) - negative, negative, negatives_above)
        return jnp.where(positive[_NAN] + negative[_NAN] > 0, jnp.nan, area(positive, above, sums))

    batch = partial(binary_of, name)
    if capacity is not None:
        return _stored(name, capacity, batch, exact)

    def init(weighted: bool = False) -> Totals:
        return no_tallies(weighted, (_VALUES,), "negative", "positive")

    def update(
        totals: Totals,
        predictions: ArrayLike,
        targets: ArrayLike,
        where: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Totals:
        return _counted(totals, *batch(predictions, targets, where, weights))

    return Metric(name, init, update, rounded, weighted_init=partial(init, weighted=True))


@jax.jit
def _counted(totals: Totals, scores: jax.Array, labels: jax.Array, weights: jax.Array) -> Totals:
    invalid = jnp.isnan(scores) | jnp.isnan(labels)
    index = jnp.where(weights.astype(bool), jnp.where(invalid, _NAN, _float16_order(scores)), _VALUES)
    own = {"negative": labels == 0, "positive": labels == 1}
    places = {kind: jnp.where(of | invalid, index, _VALUES).ravel() for kind, of in own.items()}
    if weights.dtype == bool and "positive_rounding" not in totals:
        return {kind: totals[kind].at[place].add(1, mode="drop") for kind, place in places.items()}
    more: Totals = {}
    for kind, place in places.items():
        more |= running(kind, jnp.zeros(_VALUES, float).at[place].add(weights.astype(float).ravel(), mode="drop"))
    return add(totals, more)


def _float16_order(x: jax.Array) -> jax.Array:
    """Return the index of float16(x) among all float16 numbers ordered from −∞ to ∞."""
    rounded = jnp.clip(x, -_LARGEST, _LARGEST).astype(jnp.float16)
    bits = jax.lax.bitcast_convert_type(rounded, jnp.uint16).astype(int)
    sign, size = bits >> 15, bits & 0x7FFF
    return jnp.where(sign == 1, 0x8000 - size, 0x8000 + size)  # −0 and 0 have one index


def _sums(x: jax.Array, weights: jax.Array) -> Sums:
    """Return the sums of weights for each x as a threshold."""
    order = jnp.argsort(x)
    ordered, weights = x[order], weights[order].astype(float)
    left, right = (jnp.searchsorted(ordered, x, side=side) for side in ("left", "right"))
    up = jnp.pad(jnp.cumsum(weights), (1, 0))
    down = jnp.pad(jnp.cumsum(weights[::-1]), (1, 0))[::-1]  # not total − up, which cancels
    return Sums(up[-1], up[left], up[right] - up[left], down[left])


def _ranks(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the ranks, less ½, where equal values have their mean rank, and a sample of weight w stands for w of them."""
    sums = _sums(x, weights)
    return sums.below + sums.tied / 2


def _stored(name: str, capacity: int, batch: Callable[..., tuple[jax.Array, ...]], value: Callable[..., jax.Array]) -> Metric:
    """Make a metric that stores the samples: `value(predictions, targets, weights)` of all, NaN if they are too many."""
    capacity = positive_integer(name, "capacity", capacity)

    def init() -> Totals:
        empty = jnp.zeros(capacity, float)
        return {"predictions": empty, "targets": empty, "weights": empty, "count": jnp.zeros((), jnp.int32)}

    @jax.jit
    def put(totals: Totals, predictions: jax.Array, targets: jax.Array, weights: jax.Array) -> Totals:
        mask = weights.astype(bool)
        index = jnp.where(mask, totals["count"] + jnp.cumsum(mask, dtype=jnp.int32) - 1, capacity)
        return {
            "predictions": totals["predictions"].at[index].set(predictions, mode="drop"),
            "targets": totals["targets"].at[index].set(targets, mode="drop"),
            "weights": totals["weights"].at[index].set(weights.astype(float), mode="drop"),
            "count": totals["count"] + jnp.sum(mask, dtype=jnp.int32),
        }

    def update(
        totals: Totals,
        predictions: ArrayLike,
        targets: ArrayLike,
        where: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Totals:
        p, t, counting = (part.ravel() for part in batch(predictions, targets, where, weights))
        return put(totals, p.astype(float), t, counting)

    def merge(a: Totals, b: Totals) -> Totals:
        merged = put(a, b["predictions"], b["targets"], b["weights"])
        return merged | {"count": a["count"] + b["count"]}  # including samples that did not fit into b

    @jax.jit
    def compute(totals: Totals) -> jax.Array:
        samples = tuple(totals[name] for name in ("predictions", "targets", "weights"))
        bad = jnp.any(jnp.isnan(jnp.stack(samples)))
        known = ~bad & (totals["count"] <= capacity) & (totals["count"] > 0)
        return jnp.where(known, value(*samples), jnp.nan)

    return Metric(name, init, update, compute, merge)
