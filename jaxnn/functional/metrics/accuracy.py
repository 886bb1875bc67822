"""Accuracies and the confusion matrix."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import spell
from jaxnn.functional._documented import documented
from jaxnn.functional.metrics.stream import (
    Metric,
    Totals,
    add,
    average,
    averaged,
    binary_of,
    classes_of,
    counted,
    no_tallies,
    positive_integer,
    total_of,
    valid_or_nan,
)


def top_k_accuracy(k: int) -> Metric:
    """Make the metric of the fraction of samples whose label is among the k highest scores.

    Keras's `TopKCategoricalAccuracy`. Among equal scores the lower class ranks first, so k = 1 is `accuracy`. A sample with
    a NaN score counts as wrong.

    Args:
        k: An integer from 1 to the number of classes.

    Returns:
        The metric of predictions (…, classes), logits or probabilities, and targets: integer labels (…,) or
        floating-point one-hot rows (…, classes).

    Raises:
        ValueError: If k is not a positive integer; or, when called, exceeds the number of classes.

    Example:
        >>> top_k_accuracy(2)(jnp.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), jnp.array([1, 2])).item()
        0.5
    """
    k = positive_integer("top_k_accuracy", "k", k)
    return _ranked(f"top_{k}_accuracy", k)


def _ranked(name: str, k: int) -> Metric:
    def batch(predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None, weights: ArrayLike | None) -> Totals:
        scores, labels, counting = classes_of(name, predictions, targets, where, weights)
        if k > scores.shape[-1]:
            raise ValueError(f"{name}: predictions are {spell(scores)}, expected at least {k} classes on the last axis")
        return _hits(scores, labels, counting, k)

    return averaged(name, batch)


@partial(jax.jit, static_argnames="k")
def _hits(scores: jax.Array, labels: jax.Array, weights: jax.Array, k: int) -> Totals:
    labels = labels.astype(int)[..., None]
    classes = jax.lax.broadcasted_iota(labels.dtype, scores.shape, scores.ndim - 1)
    label_score = jnp.sum(jnp.where(classes == labels, scores, 0), axis=-1, keepdims=True)
    ahead = (scores > label_score) | ((scores == label_score) & (classes < labels))
    hit = (jnp.sum(ahead, axis=-1) < k) & ~jnp.any(jnp.isnan(scores), axis=-1)
    return average(valid_or_nan(hit, labels[..., 0], scores.shape[-1]), weights)


def _binary_batch(predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None, weights: ArrayLike | None) -> Totals:
    return _binary_hits(*binary_of("binary_accuracy", predictions, targets, where, weights))


@jax.jit
def _binary_hits(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Totals:
    hit = ((logits > 0) == (labels == 1)) & ~jnp.isnan(logits)
    return average(jnp.where(jnp.isnan(labels), jnp.nan, hit.astype(float)), weights)


def confusion_matrix(num_classes: int) -> Metric:
    """Make the metric that counts the samples of each class (row) predicted as each class (column), as in scikit-learn.

    M[y, p] = Σᵢ [yᵢ = y] [argmaxⱼ ŝᵢⱼ = p]: the predicted class is that of the highest score. A NaN score makes the matrix
    NaN. Weights are added up in place of ones.

    Args:
        num_classes: Number of classes C, the length of the last axis of the predictions.

    Returns:
        The metric of predictions (…, C) and targets: integer labels (…,) or floating-point one-hot rows (…, C). Its
        value has the shape (C, C).

    Raises:
        ValueError: If num_classes is not a positive integer; or, when called, is not the number of classes.

    Example:
        >>> confusion_matrix(2)(jnp.array([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]]), jnp.array([0, 1, 1])).tolist()
        [[1.0, 0.0], [1.0, 1.0]]
    """
    name = "confusion_matrix"
    num_classes = positive_integer(name, "num_classes", num_classes)

    def init(weighted: bool = False) -> Totals:
        return no_tallies(weighted, (num_classes, num_classes), "counts") | {"invalid": jnp.zeros((), int)}

    def update(
        totals: Totals,
        predictions: ArrayLike,
        targets: ArrayLike,
        where: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Totals:
        scores, labels, counting = classes_of(name, predictions, targets, where, weights)
        if scores.shape[-1] != num_classes:
            raise ValueError(f"{name}: predictions are {spell(scores)}, expected num_classes={num_classes} on the last axis")
        return add(totals, _confusion(scores, labels, counting))

    def compute(totals: Totals) -> jax.Array:
        return jnp.where(totals["invalid"] > 0, jnp.nan, total_of(totals, "counts"))

    return Metric(name, init, update, compute, weighted_init=partial(init, weighted=True))


@jax.jit
def _confusion(scores: jax.Array, labels: jax.Array, weights: jax.Array) -> Totals:
    num_classes = scores.shape[-1]
    labels = labels.astype(int)  # a narrow type may not hold the number of cells
    valid = (labels >= 0) & (labels < num_classes) & ~jnp.any(jnp.isnan(scores), axis=-1)
    mask = weights.astype(bool)
    cell = jnp.where(mask & valid, labels * num_classes + jnp.argmax(scores, axis=-1).astype(int), num_classes**2)
    each = weights.ravel() if weights.dtype != bool else 1
    counts = no_tallies(weights.dtype != bool, (num_classes**2,), "counts")
    counts["counts"] = counts["counts"].at[cell.ravel()].add(each, mode="drop")
    counts = {name: count.reshape(num_classes, num_classes) for name, count in counts.items()}
    return counts | {"invalid": counted(mask & ~valid)}


accuracy = documented(
    _ranked("accuracy", 1),
    """The fraction of samples whose label has the highest score: (1/n) Σᵢ [argmaxⱼ ŝᵢⱼ = yᵢ], `top_k_accuracy(1)`.

    As scikit-learn's `accuracy_score`. Predictions are (…, classes), logits or probabilities; targets integer labels (…,)
    or floating-point one-hot rows (…, classes). For one logit per sample use `binary_accuracy`. A sample with a NaN
    score counts as wrong.

    Raises:
        TypeError: If predictions are not floating-point, or targets not integer labels or one-hot rows.
        ValueError: If shapes do not match, or a label is not a class.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.metrics.accuracy(jnp.array([[2.0, 1.0], [2.0, 1.0]]), jnp.array([0, 1])).item()
        0.5
    """,
)

binary_accuracy = documented(
    averaged("binary_accuracy", _binary_batch),
    """The fraction of samples whose logit is above 0 exactly where the target is 1: (1/n) Σᵢ [(zᵢ > 0) = yᵢ].

    Keras's `BinaryAccuracy` of logits; for probabilities p, pass p − 0.5. Predictions have the shape of the targets, which
    are 0 or 1, or (…, 1) for targets (…,). A NaN logit counts as wrong.

    Raises:
        TypeError: If predictions are not floating-point.
        ValueError: If shapes do not match, or a target is neither 0 nor 1.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.metrics.binary_accuracy(jnp.array([2.0, -1.0]), jnp.array([1, 1])).item()
        0.5
    """,
)
