"""Metrics that are right over batches of any size: running totals that merge, and a value computed from them.

A metric is four pure functions, so it lives in a `scan` or under `jit` as well as in a host's loop:

    totals = metric.init()
    for x, y in batches:
        totals = metric.update(totals, predict(x), y)
    value = metric.compute(totals)

`metric(predictions, targets)` does the same with one batch. Totals of separate parts, such as two hosts', are joined
with `metric.merge(a, b)`, which is addition for all metrics here but `r2`. They are in the default float, so float32
counts are exact up to 2²⁴ = 16.8 million.

`where`, a boolean mask, leaves samples out: its shape is that of the counted values or of their leading axes, such as
`(batch,)`. Shapes that do not fit are errors, as in `jaxnn.functional.losses`; so are labels that are no class. Under
`jit` their values cannot be looked at, and the metric is NaN instead. It is NaN as well when nothing was counted.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional import losses
from jaxnn.functional._checks import (
    check_class_axis,
    check_label_range,
    check_labels,
    check_predictions,
    check_same_shape,
    seen,
    spell,
)

__all__ = [
    "Metric",
    "accuracy",
    "as_metric",
    "binary_accuracy",
    "confusion_matrix",
    "mae",
    "mean",
    "mse",
    "r2",
    "top_k_accuracy",
]

Totals = dict[str, jax.Array]


def _add(a: Totals, b: Totals) -> Totals:
    return jax.tree.map(jnp.add, a, b)


@dataclass(frozen=True, eq=False)
class Metric:
    """A streaming metric.

    Args:
        name: what it is called in a table or a history.
        init: `init() -> totals`, of nothing yet.
        update: `update(totals, predictions, targets, where=None) -> totals`.
        compute: `compute(totals) -> value`.
        merge: `merge(totals, totals) -> totals`; addition by default.

    Example:
        >>> totals = accuracy.init()
        >>> totals = accuracy.update(totals, jnp.array([[2.0, 1.0], [0.0, 1.0]]), jnp.array([0, 1]))
        >>> totals = accuracy.update(totals, jnp.array([[2.0, 1.0]]), jnp.array([1]))
        >>> round(accuracy.compute(totals).item(), 4)
        0.6667
    """

    name: str
    init: Callable[[], Totals]
    update: Callable[..., Totals]
    compute: Callable[[Totals], jax.Array]
    merge: Callable[[Totals, Totals], Totals] = _add

    def __call__(self, predictions: Any, targets: Any, where: ArrayLike | None = None) -> jax.Array:
        """Compute the metric of one batch."""
        return self.compute(self.update(self.init(), predictions, targets, where))


def mean(function: Callable[[Any, Any], jax.Array]) -> Metric:
    """Make a metric of a loss: the mean over samples, each counting once whatever its batch.

    Args:
        function: `function(predictions, targets)` returns the mean over a batch, a scalar, as every loss here does.
            With a mask, which has the shape `(batch,)`, it is called for each sample apart, under `vmap`.

    Returns:
        The metric, called as the function is.

    Raises:
        ValueError: when called, if the function does not return a scalar, or there is no batch axis.

    Example:
        >>> mean(losses.mse)(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        2.0
    """
    name = getattr(function, "__name__", type(function).__name__)

    def scalar(predictions: Any, targets: Any) -> jax.Array:
        value = jnp.asarray(function(predictions, targets))
        if value.shape:
            raise ValueError(f"{name}: the function returned {spell(value)}, expected the mean over the batch, a scalar")
        return value.astype(float)

    def batch(predictions: Any, targets: Any, where: ArrayLike | None) -> Totals:
        shape = jnp.shape(jax.tree.leaves(predictions)[0])
        if not shape:
            raise ValueError(f"{name}: predictions are a single number, expected an axis of samples first")
        size = shape[0]
        if where is None:
            total = size * scalar(predictions, targets) if size else 0.0  # the mean of no sample may be NaN
            return {"sum": jnp.asarray(total, float), "count": jnp.asarray(size, float)}
        mask = _mask(name, where, (size,))
        single = jax.vmap(lambda p, t: scalar(*jax.tree.map(lambda leaf: leaf[None], (p, t))))
        values = single(*jax.tree.map(jnp.asarray, (predictions, targets)))
        return _average(values, mask)

    return _averaged(name, batch)


def top_k_accuracy(k: int) -> Metric:
    """Make a metric: the fraction of samples whose label is among the k highest scores.

    Of equal scores the lower class ranks first, so k = 1 is `accuracy`. A sample with a NaN score counts as wrong.

    Args:
        k: from 1 to the number of classes.

    Returns:
        The metric of predictions (…, classes), logits or probabilities, and targets: integer labels (…,) or
        floating-point one-hot rows (…, classes).

    Raises:
        ValueError: k is not a whole number from 1; or, when called, exceeds the number of classes.

    Example:
        >>> top_k_accuracy(2)(jnp.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), jnp.array([1, 2])).item()
        0.5
    """
    k = _whole("top_k_accuracy", "k", k)
    return _ranked(f"top_{k}_accuracy", k)


def _ranked(name: str, k: int) -> Metric:
    def batch(predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None) -> Totals:
        scores, labels = _classes(name, predictions, targets, where)
        if k > scores.shape[-1]:
            raise ValueError(f"{name}: predictions {spell(scores)} have only {scores.shape[-1]} classes")
        return _hits(scores, labels, _mask(name, where, labels.shape), k)

    return _averaged(name, batch)


@partial(jax.jit, static_argnames="k")
def _hits(scores: jax.Array, labels: jax.Array, mask: jax.Array, k: int) -> Totals:
    labels = labels.astype(int)[..., None]
    classes = jax.lax.broadcasted_iota(labels.dtype, scores.shape, scores.ndim - 1)
    own = jnp.sum(jnp.where(classes == labels, scores, 0), axis=-1, keepdims=True)
    ahead = (scores > own) | ((scores == own) & (classes < labels))
    hit = (jnp.sum(ahead, axis=-1) < k) & ~jnp.any(jnp.isnan(scores), axis=-1)
    return _average(_valid_or_nan(hit, labels[..., 0], scores.shape[-1]), mask)


def _binary_batch(predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None) -> Totals:
    logits, labels = check_predictions("binary_accuracy", predictions), jnp.asarray(targets)
    if logits.shape == (*labels.shape, 1):
        logits = logits[..., 0]
    check_same_shape("binary_accuracy", logits, labels)
    mask = _mask("binary_accuracy", where, labels.shape)
    values = seen(targets, where)
    if not ((values == 0) | (values == 1)).all():
        raise ValueError(
            f"binary_accuracy: targets run from {values.min()} to {values.max()}, expected only 0 and 1; "
            "for labels -1 and 1 pass (targets + 1) / 2"
        )
    return _binary_hits(logits, labels, mask)


@jax.jit
def _binary_hits(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Totals:
    y = labels.astype(float)
    hit = ((logits > 0) == (y == 1)) & ~jnp.isnan(logits)
    valid = (y == 0) | (y == 1)
    return _average(jnp.where(valid, hit.astype(float), jnp.nan), mask)


def confusion_matrix(num_classes: int) -> Metric:
    """Make a metric: how many samples of each class (row) were predicted as each class (column), scikit-learn's layout.

    What is predicted is the class of the highest score. A NaN score has none, and makes the matrix NaN.

    Args:
        num_classes: C, the last axis of the predictions.

    Returns:
        The metric of predictions (…, C) and targets: integer labels (…,) or floating-point one-hot rows (…, C). Its
        value has the shape (C, C).

    Raises:
        ValueError: num_classes is not a whole number from 1; or, when called, is not the number of classes.

    Example:
        >>> confusion_matrix(2)(jnp.array([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]]), jnp.array([0, 1, 1])).tolist()
        [[1.0, 0.0], [1.0, 1.0]]
    """
    name = "confusion_matrix"
    num_classes = _whole(name, "num_classes", num_classes)

    def init() -> Totals:
        return {"counts": jnp.zeros((num_classes, num_classes), float)}

    def update(totals: Totals, predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None = None) -> Totals:
        scores, labels = _classes(name, predictions, targets, where)
        if scores.shape[-1] != num_classes:
            raise ValueError(f"{name}: predictions are {spell(scores)}, expected num_classes={num_classes} scores last")
        return _add(totals, {"counts": _confusion(scores, labels, _mask(name, where, labels.shape))})

    return Metric(name, init, update, lambda totals: totals["counts"])


@jax.jit
def _confusion(scores: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    num_classes = scores.shape[-1]
    has_class = ~jnp.any(jnp.isnan(scores), axis=-1)
    weight = jnp.where(mask, _valid_or_nan(jnp.where(has_class, 1, jnp.nan), labels, num_classes), 0)
    true = jax.nn.one_hot(jnp.where(mask, labels, 0).ravel(), num_classes, dtype=weight.dtype)
    predicted = jax.nn.one_hot(jnp.argmax(scores, axis=-1).ravel(), num_classes, dtype=weight.dtype)
    return true.T @ (weight.ravel()[:, None] * predicted)


def _r2_init() -> Totals:
    return {name: jnp.zeros((), float) for name in ("count", "pivot", "mean", "spread", "residual")}


def _r2_update(totals: Totals, predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None = None) -> Totals:
    predictions, labels = check_predictions("r2", predictions), jnp.asarray(targets)
    check_same_shape("r2", predictions, labels)
    if labels.ndim == 0 or labels.ndim > 2 or labels.shape[1:] not in ((), (1,)):
        raise ValueError(f"r2: targets are {spell(labels)}, expected one output a sample: shape (batch,) or (batch, 1)")
    mask = _mask("r2", where, labels.shape)
    return _r2_merge(totals, _r2_batch(predictions.ravel(), labels.ravel(), mask.ravel())) if labels.size else totals


@jax.jit
def _r2_batch(predictions: jax.Array, targets: jax.Array, mask: jax.Array) -> Totals:
    predictions, targets = predictions.astype(float), targets.astype(float)
    count = jnp.sum(mask).astype(float)
    pivot = jnp.where(count > 0, targets[jnp.argmax(mask)], 0)  # the first that counts
    shifted = jnp.where(mask, targets - pivot, 0)
    mean = jnp.sum(shifted) / jnp.maximum(count, 1)
    spread = jnp.sum(jnp.where(mask, jnp.square(shifted - mean), 0))
    residual = jnp.sum(jnp.where(mask, jnp.square(targets - predictions), 0))
    return {"count": count, "pivot": pivot, "mean": mean, "spread": spread, "residual": residual}


@jax.jit
def _r2_merge(a: Totals, b: Totals) -> Totals:
    count = a["count"] + b["count"]
    share = b["count"] / jnp.maximum(count, 1)
    pivot = jnp.where(a["count"] > 0, a["pivot"], b["pivot"])
    mean_b = (b["pivot"] - pivot) + b["mean"]
    mean_a = jnp.where(a["count"] > 0, a["mean"], mean_b)
    step = mean_b - mean_a
    return {
        "count": count,
        "pivot": pivot,
        "mean": mean_a + share * step,
        "spread": a["spread"] + b["spread"] + a["count"] * share * jnp.square(step),
        "residual": a["residual"] + b["residual"],
    }


def _r2_compute(totals: Totals) -> jax.Array:
    spread, residual = totals["spread"], totals["residual"]
    flat = jnp.where(residual == 0, 1.0, jnp.where(jnp.isnan(residual), jnp.nan, 0.0))
    value = jnp.where(spread == 0, flat, 1 - residual / jnp.where(spread == 0, 1, spread))
    return jnp.where(totals["count"] < 2, jnp.nan, value)


def as_metric(metric: Metric | Callable[[Any, Any], jax.Array]) -> Metric:
    """Return a metric as it is, and of any function (predictions, targets), such as a loss, its `mean`.

    Raises:
        TypeError: it is neither.

    Example:
        >>> as_metric(losses.huber).name
        'huber'
    """
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise TypeError(f"expected a Metric or a function (predictions, targets), got {metric!r}")
    return mean(metric)


def _averaged(name: str, batch: Callable[..., Totals]) -> Metric:
    """Make the metric that averages; `batch(predictions, targets, where)` returns the sum and count of its values."""

    def init() -> Totals:
        return {"sum": jnp.zeros((), float), "count": jnp.zeros((), float)}

    def update(totals: Totals, predictions: Any, targets: Any, where: ArrayLike | None = None) -> Totals:
        return _add(totals, batch(predictions, targets, where))

    return Metric(name, init, update, lambda totals: totals["sum"] / totals["count"])


def _average(values: jax.Array, mask: jax.Array) -> Totals:
    return {"sum": jnp.sum(jnp.where(mask, values, 0)), "count": jnp.sum(mask).astype(values.dtype)}


def _valid_or_nan(values: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    return jnp.where((labels >= 0) & (labels < classes), values.astype(float), jnp.nan)


def _classes(name: str, predictions: ArrayLike, targets: ArrayLike, where: Any) -> tuple[jax.Array, jax.Array]:
    """Check scores (…, C) against labels (…,) or one-hot rows (…, C), and return scores and labels."""
    scores, labels = check_predictions(name, predictions), jnp.asarray(targets)
    check_class_axis(name, scores)
    if scores.shape[-1] == 1 or (scores.shape == labels.shape and scores.ndim == 1):
        raise ValueError(
            f"{name}: predictions {spell(scores)} have one score a sample, expected (..., classes) with two or more; "
            "for logits of two classes use binary_accuracy"
        )
    if jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == scores.shape:
        return scores, jnp.argmax(labels, axis=-1)
    labels = check_labels(name, scores, targets)
    _mask(name, where, labels.shape)
    check_label_range(name, scores, targets, where)
    return scores, labels


def _mask(name: str, where: ArrayLike | None, shape: tuple[int, ...]) -> jax.Array:
    """Return `where`, given for the leading axes of `shape`, for all of them."""
    if where is None:
        return jnp.ones(shape, bool)
    mask = jnp.asarray(where)
    if mask.dtype != bool:
        raise TypeError(f"{name}: where is {spell(mask)}, expected booleans; pass where != 0")
    if mask.shape != shape[: mask.ndim] or (shape and not mask.ndim):
        raise ValueError(f"{name}: where is {spell(mask)}, expected the shape {shape}, or that of its leading axes")
    return jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def _whole(caller: str, name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{caller}: {name} is {value!r}, expected a whole number from 1")
    return number


mse = mean(losses.mse)
mae = mean(losses.mae)

accuracy = _ranked("accuracy", 1)
"""The fraction of samples whose label has the highest score: `top_k_accuracy(1)`.

Predictions are (…, classes), logits or probabilities; targets integer labels (…,) or floating-point one-hot rows
(…, classes). For one logit a sample there is `binary_accuracy`. A sample with a NaN score counts as wrong.
"""

binary_accuracy = _averaged("binary_accuracy", _binary_batch)
"""The fraction of samples whose logit is above 0 exactly where the target is 1; of probabilities p, pass p − 0.5.

Predictions have the shape of the targets, which are 0 or 1, or (…, 1) for targets (…,). A NaN logit counts as wrong.
"""

r2 = Metric("r2", _r2_init, _r2_update, _r2_compute, _r2_merge)
"""The coefficient of determination of one output: R² = 1 − Σ(y − ŷ)²/Σ(y − ȳ)², scikit-learn's `r2_score`.

1 is perfect, 0 as good as the mean. Targets that are all equal give 1 for perfect predictions and 0 for others; fewer
than two samples give NaN. The spread Σ(y − ȳ)² is merged from each part's own mean (Chan, Golub and LeVeque, 1983), and
the mean is kept relative to a pivot, the first target, so neither cancels in float32, however far the targets are from 0.
"""
