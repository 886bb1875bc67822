"""Metrics of predicted probabilities: log loss, perplexity and calibration error."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional import losses
from jaxnn.functional._checks import check_predictions
from jaxnn.functional._documented import documented
from jaxnn.functional.metrics.stream import (
    Metric,
    Totals,
    add,
    average,
    averaged,
    classes_of,
    no_tallies,
    only,
    positive_integer,
    running,
    tally,
    total_of,
    valid_or_nan,
    weights_of,
)


def _log_loss_batch(predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None, weights: ArrayLike | None) -> Totals:
    logits = check_predictions("log_loss", predictions)
    counting = weights_of("log_loss", where, weights, logits.shape[:-1])
    is_complete = where is None and weights is None
    values = losses.cross_entropy(logits, targets, where=None if is_complete else counting.astype(bool), reduction="none")
    return average(values.astype(float), counting)


log_loss = documented(
    averaged("log_loss", _log_loss_batch),
    """The mean cross-entropy, −(1/n) Σᵢ log softmax(zᵢ)_yᵢ, in nats; scikit-learn's `log_loss` of the softmax.

    Predictions are logits z (…, classes), targets as for `losses.cross_entropy`. The mask may be that of tokens, (batch,
    time), whereas `mean(losses.cross_entropy)` averages over samples, each of them the mean over its tokens.

    Raises:
        TypeError: If predictions are not floating-point.
        ValueError: If shapes do not match, or a label is not a class.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> round(nn.metrics.log_loss(jnp.zeros((3, 2)), jnp.array([0, 1, 1])).item(), 4)  # log 2
        0.6931
    """,
)

perplexity = documented(
    replace(log_loss, name="perplexity", compute=lambda totals: jnp.exp(log_loss.compute(totals))),
    """The exponential of the mean cross-entropy per token, exp(−(1/n) Σᵢ log pᵢ).

    For language models (Jelinek et al. 1977): the number of equally likely tokens with the same cross-entropy. Predictions
    are logits (batch, time, vocabulary), targets tokens (batch, time); mask padding with `where`. The mean is over all
    tokens of all batches, not over the perplexities of batches.

    Raises:
        TypeError: If predictions are not floating-point.
        ValueError: If shapes do not match, or a token is not in the vocabulary.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> round(nn.metrics.perplexity(jnp.zeros((1, 3, 5)), jnp.array([[0, 1, 4]])).item(), 4)
        5.0
    """,
)


def calibration_error(bins: int = 15) -> Metric:
    """Make the metric of the expected calibration error, Σ_b (n_b/n) ∣accuracy_b − confidence_b∣, Guo et al. (2017).

    Samples are binned by the probability of the predicted class, ((b − 1)/bins, b/bins], and in each bin its mean is
    compared with the accuracy. The value depends on the bins: it is exact for these bins, and an estimate of the integral.

    Args:
        bins: Number of bins of equal width; Guo et al. use 15.

    Returns:
        The metric of logits (…, classes) and targets: integer labels (…,) or floating-point one-hot rows. A NaN logit makes
        it NaN.

    Raises:
        ValueError: If bins is not a positive integer; when called, shapes or labels do not fit.

    Example:
        >>> logits = jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25]]))
        >>> round(calibration_error()(logits, jnp.array([0, 1])).item(), 4)  # 75% confident, 50% correct
        0.25
    """
    bins = positive_integer("calibration_error", "bins", bins)

    def init(weighted: bool = False) -> Totals:
        return running("confidence", jnp.zeros(bins, float)) | no_tallies(weighted, (bins,), "count", "hit")

    def update(
        totals: Totals,
        predictions: ArrayLike,
        targets: ArrayLike,
        where: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Totals:
        return add(totals, _binned(*classes_of("calibration_error", predictions, targets, where, weights), bins))

    def compute(totals: Totals) -> jax.Array:
        count = jnp.sum(total_of(totals, "count"))
        return jnp.sum(jnp.abs(total_of(totals, "hit") - total_of(totals, "confidence"))) / count

    return Metric("calibration_error", init, update, compute, weighted_init=partial(init, weighted=True))


@partial(jax.jit, static_argnames="bins")
def _binned(scores: jax.Array, labels: jax.Array, weights: jax.Array, bins: int) -> Totals:
    confidence = jnp.max(jax.nn.softmax(scores.astype(float)), axis=-1)
    hit = jnp.argmax(scores, axis=-1) == labels.astype(int)
    valid = valid_or_nan(confidence, labels, scores.shape[-1])  # NaN makes the value NaN
    summed = jnp.where(weights.astype(bool), valid * weights.astype(float), 0)
    bin_of = jnp.clip(jnp.ceil(jnp.nan_to_num(confidence) * bins) - 1, 0, bins - 1).astype(int)
    in_bin = bin_of.reshape(-1, 1) == jnp.arange(bins)[None]
    member = only(in_bin, weights.reshape(-1, 1))
    totals = running("confidence", jnp.sum(jnp.where(in_bin, summed.reshape(-1, 1), 0), axis=0))
    return totals | tally("count", member, axis=0) | tally("hit", only(hit.reshape(-1, 1), member), axis=0)
