"""Precision, recall and their kin: whatever follows from how often a class is right, is predicted, and is true.

These three counts a class are all that they need: 3C numbers, where the confusion matrix has C².
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import spell
from jaxnn.functional.metrics.stream import Metric, Totals, add, binary_of, classes_of, mask_of, valid_or_nan, whole

_AVERAGES = ("macro", "micro", "weighted", "none")


def precision(num_classes: int | None = None, *, average: str = "macro") -> Metric:
    """Make a metric: of the samples predicted as a class, the share that are of it, TP/(TP + FP).

    A class that is never predicted has precision 0, as in scikit-learn.

    Args:
        num_classes: C; or None for two classes with one logit a sample, where class 1 is predicted if it is above 0.
        average: over the classes: "macro", their mean, leaving out those that neither occur nor are predicted; "weighted"
            by how often they occur; "micro", from all classes' counts together; "none", one value a class. The binary
            metric is that of class 1.

    Returns:
        The metric of predictions (…, C) and targets: integer labels (…,) or floating-point one-hot rows (…, C). Binary:
        of logits (…,) or (…, 1) and targets 0 or 1 (…,). A NaN score makes it NaN.

    Raises:
        ValueError: num_classes is not a whole number from 1, or average is unknown; when called, shapes or labels do not
            fit.

    Example:
        >>> precision()(jnp.array([1.0, 1.0, -1.0]), jnp.array([1, 0, 1])).item()
        0.5
        >>> scores = jnp.array([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
        >>> precision(2, average="none")(scores, jnp.array([0, 1, 1])).tolist()
        [0.5, 1.0]
    """
    return _averaged_over_classes("precision", num_classes, average, lambda hit, predicted, true: (hit, predicted))


def recall(num_classes: int | None = None, *, average: str = "macro") -> Metric:
    """Make a metric: of the samples of a class, the share that are predicted as it, TP/(TP + FN).

    A class that never occurs has recall 0, as in scikit-learn.

    Args:
        num_classes: as in `precision`.
        average: as in `precision`.

    Returns:
        The metric, called as `precision` is.

    Raises:
        ValueError: as `precision`.

    Example:
        >>> recall()(jnp.array([1.0, 1.0, -1.0, -1.0]), jnp.array([1, 1, 1, 1])).item()
        0.5
    """
    return _averaged_over_classes("recall", num_classes, average, lambda hit, predicted, true: (hit, true))


def f_beta(beta: float, num_classes: int | None = None, *, average: str = "macro") -> Metric:
    """Make a metric: the harmonic mean of precision and recall, recall counting β times as much.

    F_β = (1 + β²) TP / ((1 + β²) TP + β² FN + FP), van Rijsbergen (1979); 0 where there is nothing to divide by.

    Args:
        beta: β > 0; 1 counts both alike, which is `f1` and, of masks, the Dice coefficient.
        num_classes: as in `precision`.
        average: as in `precision`.

    Returns:
        The metric, called as `precision` is.

    Raises:
        ValueError: β is not a positive number; or as `precision`.

    Example:
        >>> round(f_beta(2.0)(jnp.array([1.0, 1.0, -1.0]), jnp.array([1, 0, 1])).item(), 4)
        0.5
    """
    if not beta > 0:
        raise ValueError(f"f_beta: beta is {beta!r}, expected a positive number")
    square = float(beta) ** 2

    def share(hit: jax.Array, predicted: jax.Array, true: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (1 + square) * hit, square * true + predicted

    return _averaged_over_classes("f1" if beta == 1 else f"f_{beta:g}", num_classes, average, share)


def f1(num_classes: int | None = None, *, average: str = "macro") -> Metric:
    """Make a metric: 2 · precision · recall / (precision + recall), `f_beta` with β = 1; scikit-learn's `f1_score`.

    Args:
        num_classes: as in `precision`.
        average: as in `precision`.

    Returns:
        The metric, called as `precision` is.

    Raises:
        ValueError: as `precision`.

    Example:
        >>> round(f1()(jnp.array([1.0, 1.0, 1.0, -1.0]), jnp.array([1, 0, 0, 1])).item(), 4)
        0.4
    """
    return f_beta(1, num_classes, average=average)


def mean_iou(num_classes: int) -> Metric:
    """Make a metric: intersection over union, TP/(TP + FP + FN), the mean over classes; the Jaccard index.

    Everingham et al. (2010), the measure of segmentation. Classes that neither occur nor are predicted are left out. What
    is not to count, such as a void label, `where` leaves out.

    Args:
        num_classes: C.

    Returns:
        The metric of predictions (…, C), such as (batch, height, width, C), and integer labels (…,).

    Raises:
        ValueError: as `precision`.

    Example:
        >>> scores = jax.nn.one_hot(jnp.array([[0, 0], [1, 1]]), 2)  # an image of two by two pixels
        >>> round(mean_iou(2)(scores, jnp.array([[0, 1], [1, 1]])).item(), 4)
        0.5833
    """
    num_classes = whole("mean_iou", "num_classes", num_classes)
    return _averaged_over_classes("mean_iou", num_classes, "macro", lambda hit, predicted, true: (hit, true + predicted - hit))


def cohen_kappa(num_classes: int | None = None) -> Metric:
    """Make a metric: agreement beyond chance, κ = (pₒ − pₑ)/(1 − pₑ), Cohen (1960).

    pₒ is the accuracy, pₑ = Σ_c P(predicted = c) P(true = c) that of guessing with the same frequencies. 1 is perfect, 0 no
    better than chance; NaN where all samples are of one class and predicted so.

    Args:
        num_classes: as in `precision`.

    Returns:
        The metric, called as `precision` is.

    Raises:
        ValueError: as `precision`.

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
    """Make a metric: Matthews' correlation of predicted and true classes (1975), for C classes Gorodkin's R_K (2004).

    R_K = (n·Σ TP − Σ_c p_c t_c) / √((n² − Σ p_c²)(n² − Σ t_c²)), where p_c and t_c say how often c is predicted and true. It
    runs from −1 to 1; 0 is chance, and also what is returned where only one class is predicted or true, as in scikit-learn.

    Args:
        num_classes: as in `precision`.

    Returns:
        The metric, called as `precision` is.

    Raises:
        ValueError: as `precision`.

    Example:
        >>> round(matthews()(jnp.array([1.0, 1.0, -1.0, -1.0]), jnp.array([1, 1, 1, 0])).item(), 4)
        0.5774
    """

    def compute(hit: jax.Array, predicted: jax.Array, true: jax.Array) -> jax.Array:
        count = jnp.sum(true)
        p, t = predicted / count, true / count  # shares, as squares of counts are not exact
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
    """Make the metric of a share, numerator and denominator of which follow from the three counts, class by class."""
    if average not in _AVERAGES:
        raise ValueError(f"{name}: average is {average!r}, expected one of {', '.join(map(repr, _AVERAGES))}")

    def compute(hit: jax.Array, predicted: jax.Array, true: jax.Array) -> jax.Array:
        if average == "micro" and num_classes is not None:
            hit, predicted, true = (jnp.sum(count) for count in (hit, predicted, true))
        part, all_ = share(hit, predicted, true)
        values = jnp.where(all_ == 0, 0.0, part / jnp.where(all_ == 0, 1, all_))
        if num_classes is None:
            return values[1]
        if average == "macro":
            return jnp.mean(values, where=predicted + true != 0)
        return jnp.sum(values * (true / jnp.sum(true))) if average == "weighted" else values

    return _counted(name, num_classes, compute)


def _counted(name: str, num_classes: int | None, compute: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]) -> Metric:
    """Make a metric of how often each class was right, was predicted, and was true."""
    size = 2 if num_classes is None else whole(name, "num_classes", num_classes)

    def init() -> Totals:
        return {kind: jnp.zeros(size, float) for kind in ("hit", "predicted", "true")}

    def update(totals: Totals, predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None = None) -> Totals:
        if num_classes is None:
            logits, bits, mask = binary_of(name, predictions, targets, where)
            weight = jnp.where(jnp.isnan(logits) | jnp.isnan(bits), jnp.nan, 1.0)
            return add(totals, _counts((logits > 0).astype(int), (bits == 1).astype(int), weight, mask, size))
        scores, labels = classes_of(name, predictions, targets, where)
        if scores.shape[-1] != size:
            raise ValueError(f"{name}: predictions are {spell(scores)}, expected num_classes={size} scores last")
        mask = mask_of(name, where, labels.shape)
        weight = valid_or_nan(jnp.where(jnp.any(jnp.isnan(scores), axis=-1), jnp.nan, 1.0), labels, size)
        return add(totals, _counts(jnp.argmax(scores, axis=-1), labels, weight, mask, size))

    def value(totals: Totals) -> jax.Array:
        result = compute(totals["hit"], totals["predicted"], totals["true"])
        return jnp.where(jnp.sum(totals["true"]) > 0, result, jnp.nan)

    return Metric(name, init, update, value)


@partial(jax.jit, static_argnames="size")
def _counts(predicted: jax.Array, true: jax.Array, weight: jax.Array, mask: jax.Array, size: int) -> Totals:
    """Count over all samples; a weight of NaN that is not masked spoils every count, and so is seen in every value."""
    weight = jnp.where(mask, weight, 0).reshape(-1, 1)
    spoilt = jnp.any(jnp.isnan(weight))
    is_predicted, is_true = (
        labels.astype(int).reshape(-1, 1) == jnp.arange(size)[None]
        for labels in (predicted, true)  # int: a narrow type may wrap
    )

    def total(of: jax.Array) -> jax.Array:
        return jnp.where(spoilt, jnp.nan, jnp.sum(jnp.where(of, weight, 0), axis=0))

    return {"hit": total(is_predicted & is_true), "predicted": total(is_predicted), "true": total(is_true)}
