"""Precision, recall and related metrics, computed from per-class counts of hits, predictions and true labels.

These are 3C numbers, whereas the confusion matrix has C².
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import spell
from jaxnn.functional.metrics.stream import (
    Metric,
    Totals,
    add,
    binary_of,
    classes_of,
    counted,
    no_tallies,
    only,
    positive_integer,
    tally,
    total_of,
)

_AVERAGES = ("macro", "micro", "weighted", "none")


def precision(num_classes: int | None = None, *, average: str = "macro") -> Metric:
    """Make the metric of precision: the share of the samples predicted as a class that belong to it, TP/(TP + FP).

    A class that is never predicted has precision 0, as in scikit-learn.

    Args:
        num_classes: Number of classes C; None for two classes with one logit per sample, positive for class 1.
        average: How classes are combined: "macro", the mean over the classes that occur or are predicted; "weighted", the
            mean weighted by their frequency; "micro", from the summed counts of all classes; "none", one value per class.
            The binary metric is that of class 1.

    Returns:
        The metric of predictions (…, C) and targets: integer labels (…,) or floating-point one-hot rows (…, C). The
        binary metric takes logits (…,) or (…, 1) and targets 0 or 1 (…,). A NaN score makes it NaN.

    Raises:
        ValueError: If num_classes is not a positive integer, or average is unknown; when called, shapes or labels do not
            match.

    Example:
        >>> precision()(jnp.array([1.0, 1.0, -1.0]), jnp.array([1, 0, 1])).item()
        0.5
        >>> scores = jnp.array([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
        >>> precision(2, average="none")(scores, jnp.array([0, 1, 1])).tolist()
        [0.5, 1.0]
    """
    return _averaged_over_classes("precision", num_classes, average, lambda hit, predicted, true: (hit, predicted))


def recall(num_classes: int | None = None, *, average: str = "macro") -> Metric:
    """Make the metric of recall: the share of the samples of a class that are predicted as it, TP/(TP + FN).

    A class that never occurs has recall 0, as in scikit-learn.

    Args:
        num_classes: As in `precision`.
        average: As in `precision`.

    Returns:
        The metric, called as `precision` is.

    Raises:
        ValueError: As for `precision`.

    Example:
        >>> recall()(jnp.array([1.0, 1.0, -1.0, -1.0]), jnp.array([1, 1, 1, 1])).item()
        0.5
    """
    return _averaged_over_classes("recall", num_classes, average, lambda hit, predicted, true: (hit, true))


def f_beta(beta: float, num_classes: int | None = None, *, average: str = "macro") -> Metric:
    """Make the metric of the harmonic mean of precision and recall, with recall weighted β times as much.

    F_β = (1 + β²) TP / ((1 + β²) TP + β² FN + FP), van Rijsbergen (1979); 0 if the denominator is 0.

    Args:
        beta: Weight β > 0 of recall; 1 weights both equally, which is `f1` and, for masks, the Dice coefficient.
        num_classes: As in `precision`.
        average: As in `precision`.

    Returns:
        The metric, called as `precision` is.

    Raises:
        ValueError: If β is not a positive number; or as `precision`.

    Example:
        >>> round(f_beta(2.0)(jnp.array([1.0, 1.0, -1.0]), jnp.array([1, 0, 1])).item(), 4)
        0.5
    """
    if not beta > 0:
        raise ValueError(f"f_beta: beta is {beta!r}, expected a positive number")
    weight = 1 / (1 + float(beta) ** -2) if beta > 1 else float(beta) ** 2 / (1 + float(beta) ** 2)  # no β overflows

    def share(hit: jax.Array, predicted: jax.Array, true: jax.Array) -> tuple[jax.Array, jax.Array]:
        return hit, weight * true + (1 - weight) * predicted

    return _averaged_over_classes("f1" if beta == 1 else f"f_{beta:g}", num_classes, average, share)


def f1(num_classes: int | None = None, *, average: str = "macro") -> Metric:
    """Make the metric 2 · precision · recall / (precision + recall), `f_beta` with β = 1; scikit-learn's `f1_score`.

    Args:
        num_classes: As in `precision`.
        average: As in `precision`.

    Returns:
        The metric, called as `precision` is.

    Raises:
        ValueError: As for `precision`.

    Example:
        >>> round(f1()(jnp.array([1.0, 1.0, 1.0, -1.0]), jnp.array([1, 0, 0, 1])).item(), 4)
        0.4
    """
    return f_beta(1, num_classes, average=average)


def mean_iou(num_classes: int) -> Metric:
    """Make the metric of the mean intersection over union of classes, TP/(TP + FP + FN); the Jaccard index.

    Everingham et al. (2010), for segmentation. Classes that neither occur nor are predicted are left out. Mask pixels that
    should not count, such as those with a void label, with `where`.

    Args:
        num_classes: Number of classes C.

    Returns:
        The metric of predictions (…, C), such as (batch, height, width, C), and integer labels (…,).

    Raises:
        ValueError: As for `precision`.

    Example:
        >>> scores = jax.nn.one_hot(jnp.array([[0, 0], [1, 1]]), 2)  # one image of 2 × 2 pixels
        >>> round(mean_iou(2)(scores, jnp.array([[0, 1], [1, 1]])).item(), 4)
        0.5833
    """
    num_classes = positive_integer("mean_iou", "num_classes", num_classes)
    return _averaged_over_classes("mean_iou", num_classes, "macro", lambda hit, predicted, true: (hit, true + predicted - hit))


def cohen_kappa(num_classes: int | None = None) -> Metric:
    """Make the metric of agreement beyond chance, κ = (pₒ − pₑ)/(1 − pₑ), Cohen (1960).

    pₒ is the accuracy, and pₑ = Σ_c P(predicted = c) P(true = c) that of guessing with the same frequencies. 1 is perfect, 0
    no better than chance; NaN if all samples belong to one class and are predicted as it.

    Args:
        num_classes: As in `precision`.

    Returns:
        The metric, called as `precision` is.

    Raises:
        ValueError: As for `precision`.

    Example:
        >>> cohen_kappa()(jnp.array([1.0, 1.0, -1.0, -1.0]), jnp.array([1, 1, 1, 0])).item()
        0.5
    """

    def compute(hit: jax.Array, predicted: jax.Array, true: jax.Array) -> jax.Array:
        count = jnp.sum(true)
        chance = jnp.sum((predicted / count) * (true / count))
        return (jnp.sum(hit) / count - chance) / (1 - chance)

    return _counted("cohen_kappa", num_classes, compute)


def matthews(num_classes: int | None = None) -> Metric:
    """Make the metric of Matthews' correlation (1975) of predicted and true classes, for C classes Gorodkin's R_K (2004).

    R_K = (n·Σ TP − Σ_c p_c t_c) / √((n² − Σ p_c²)(n² − Σ t_c²)), where p_c and t_c count how often c is predicted and true.
    From −1 to 1, with 0 for chance; also 0 if only one class is predicted or true, as in scikit-learn.

    Args:
        num_classes: As in `precision`.

    Returns:
        The metric, called as `precision` is.

    Raises:
        ValueError: As for `precision`.

    Example:
        >>> round(matthews()(jnp.array([1.0, 1.0, -1.0, -1.0]), jnp.array([1, 1, 1, 0])).item(), 4)
        0.5774
    """

    def compute(hit: jax.Array, predicted: jax.Array, true: jax.Array) -> jax.Array:
        count = jnp.sum(true)
        p, t = predicted / count, true / count  # shares, because squares of counts are not exact
        covariance = jnp.sum(hit) / count - jnp.sum(p * t)
        spread = jnp.sqrt(jnp.sum(p * (1 - p)) * jnp.sum(t * (1 - t)))
        return jnp.where(spread == 0, 0.0, covariance / jnp.where(spread == 0, 1, spread))

    return _counted("matthews", num_classes, compute)


def _averaged_over_classes(
    name: str,
    num_classes: int | None,
    average: str,
    share: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
) -> Metric:
    """Make a metric whose `share` returns numerator and denominator from the three counts of each class."""
    if average not in _AVERAGES:
        raise ValueError(f"{name}: average is {average!r}, expected one of {', '.join(map(repr, _AVERAGES))}")

    def compute(hit: jax.Array, predicted: jax.Array, true: jax.Array) -> jax.Array:
        if average == "micro" and num_classes is not None:
            hit, predicted, true = (jnp.sum(count) for count in (hit, predicted, true))
        numerator, denominator = share(hit, predicted, true)
        values = jnp.where(denominator == 0, 0.0, numerator / jnp.where(denominator == 0, 1, denominator))
        if num_classes is None:
            return values[1]
        if average == "macro":
            return jnp.mean(values, where=predicted + true != 0)
        return jnp.sum(values * (true / jnp.sum(true))) if average == "weighted" else values

    return _counted(name, num_classes, compute)


def _counted(name: str, num_classes: int | None, compute: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]) -> Metric:
    """Make a metric of how often each class was predicted correctly, was predicted, and was true."""
    size = 2 if num_classes is None else positive_integer(name, "num_classes", num_classes)

    def init(weighted: bool = False) -> Totals:
        return no_tallies(weighted, (size,), "hit", "predicted", "true") | {"invalid": jnp.zeros((), int)}

    def update(
        totals: Totals,
        predictions: ArrayLike,
        targets: ArrayLike,
        where: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Totals:
        if num_classes is None:
            logits, bits, counting = binary_of(name, predictions, targets, where, weights)
            valid = ~jnp.isnan(logits) & ~jnp.isnan(bits)
            return add(totals, _counts((logits > 0).astype(int), (bits == 1).astype(int), valid, counting, size))
        scores, labels, counting = classes_of(name, predictions, targets, where, weights)
        if scores.shape[-1] != size:
            raise ValueError(f"{name}: predictions are {spell(scores)}, expected num_classes={size} on the last axis")
        labels = labels.astype(int)  # a narrow type may not hold `size`
        valid = (labels >= 0) & (labels < size) & ~jnp.any(jnp.isnan(scores), axis=-1)
        return add(totals, _counts(jnp.argmax(scores, axis=-1).astype(int), labels, valid, counting, size))

    def value(totals: Totals) -> jax.Array:
        result = compute(*(total_of(totals, kind) for kind in ("hit", "predicted", "true")))
        return jnp.where(jnp.any(totals["true"] > 0) & (totals["invalid"] == 0), result, jnp.nan)

    return Metric(name, init, update, value, weighted_init=partial(init, weighted=True))


@partial(jax.jit, static_argnames="size")
def _counts(predicted: jax.Array, true: jax.Array, valid: jax.Array, weights: jax.Array, size: int) -> Totals:
    """Count all unmasked samples, or add up their weights; one that is not valid makes every value NaN."""
    counting = only(valid, weights).reshape(-1, 1)
    is_predicted, is_true = (labels.reshape(-1, 1) == jnp.arange(size, dtype=int)[None] for labels in (predicted, true))
    totals = {"invalid": counted(weights.astype(bool) & ~valid)}
    for kind, of in {"hit": is_predicted & is_true, "predicted": is_predicted, "true": is_true}.items():
        totals |= tally(kind, only(of, counting), axis=0)
    return totals
