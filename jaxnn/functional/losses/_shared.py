"""Shared by the losses: checks, the jitted reduction, and parts of formulas."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnn.functional._checks import (
    check_class_axis,
    check_label_range,
    check_labels,
    check_mask,
    check_predictions,
    check_same_shape,
    check_weights,
    known,
    seen,
    spell,
)
from jaxnn.functional._counted import counted

REDUCTIONS = ("mean", "sum", "none")

Maybe = ArrayLike | None


# Checked and reduced losses


def elementwise(
    loss: Callable[..., jax.Array],
    predictions: ArrayLike,
    targets: ArrayLike,
    where: Maybe,
    weights: Maybe,
    reduction: str,
    *,
    caller: str,
    check: Callable[[Any], None] | None = None,
    **options: Any,
) -> jax.Array:
    """Check and reduce a loss that pairs each prediction with one target; `check` receives concrete target values."""
    predictions, labels = check_predictions(caller, predictions), jnp.asarray(targets)
    check_same_shape(caller, predictions, labels)
    check_counted(caller, where, weights, predictions.shape)
    if check is not None and (values := seen(targets, where)).size:
        check(values)
    return reduced(loss, (predictions, labels), where, weights, reduction, caller=caller, **options)


def classwise(
    loss: Callable[..., jax.Array],
    predictions: ArrayLike,
    targets: ArrayLike,
    where: Maybe,
    weights: Maybe,
    reduction: str,
    *,
    caller: str,
    one_score: str | None,
    class_weights: Maybe = None,
    **options: Any,
) -> jax.Array:
    """Check and reduce a loss of scores (…, C) against labels (…,) or floating-point rows (…, C); see `check_classes`."""
    predictions, labels = check_classes(caller, predictions, targets, one_score)
    if class_weights is not None:
        _check_class_weights(caller, class_weights, predictions)
        options["class_weights"] = jnp.asarray(class_weights)
    check_counted(caller, where, weights, predictions.shape[:-1])
    if labels.shape != predictions.shape:
        check_label_range(caller, predictions, targets, where)
    return reduced(loss, (predictions, labels), where, weights, reduction, caller=caller, fills=(0, 0), **options)


def labelwise(
    loss: Callable[..., jax.Array],
    predictions: ArrayLike,
    targets: ArrayLike,
    where: Maybe,
    weights: Maybe,
    reduction: str,
    *,
    caller: str,
    one_score: str,
    **options: Any,
) -> jax.Array:
    """Check and reduce a loss of scores (…, C) against integer labels (…,) only."""
    predictions = check_predictions(caller, predictions)
    check_class_axis(caller, predictions)
    labels = check_labels(caller, predictions, targets)
    check_two_classes(caller, predictions, one_score)
    check_counted(caller, where, weights, labels.shape)
    check_label_range(caller, predictions, targets, where)
    return reduced(loss, (predictions, labels), where, weights, reduction, caller=caller, fills=(0, 0), **options)


def reduced(
    loss: Callable[..., jax.Array],
    arrays: tuple[jax.Array, ...],
    where: Maybe,
    weights: Maybe,
    reduction: str,
    *,
    caller: str,
    fills: tuple[int | None, ...] = (0, 1),
    **options: Any,
) -> jax.Array:
    """Reduce loss(*arrays, **options); `fills` are the values that replace masked inputs, None for no replacement."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{caller}: reduction is {reduction!r}, expected one of {', '.join(map(repr, REDUCTIONS))}")
    return _core(loss, arrays, where, weights, reduction, fills, options)


@partial(jax.jit, static_argnames=("loss", "reduction", "fills"))
def _core(
    loss: Callable[..., jax.Array],
    arrays: tuple[jax.Array, ...],
    where: jax.Array | None,
    weights: jax.Array | None,
    reduction: str,
    fills: tuple[int | None, ...],
    options: dict[str, Any],
) -> jax.Array:
    if weights is not None:
        # A sample of weight 0 is absent where its loss is not finite, as it would return as 0 · ∞. Where the loss is finite,
        # it stays, as the derivative with respect to its weight is its loss.
        unmasked = loss(*jax.lax.stop_gradient(arrays), **options)
        present = (weights != 0) | jnp.isfinite(unmasked)
        where = present if where is None else where & present
    if where is not None:  # mask the inputs too: a masked NaN would return in the gradient as 0 · NaN
        arrays = tuple(_fill(where, array, value) for array, value in zip(arrays, fills, strict=True))
    values = loss(*arrays, **options)
    mark = counted if reduction == "none" else lambda weights: weights
    if weights is not None:
        weights = weights.astype(values.dtype)
        weights = mark(weights if where is None else _fill(where, weights, 0))
        values = values * weights
    if where is not None:
        values = jnp.where(where if weights is not None else mark(where), values, 0)
    if reduction == "none":
        return values
    total = jnp.sum(values)
    if reduction == "sum":
        return total
    if "class_weights" in options and jnp.issubdtype(arrays[1].dtype, jnp.integer):  # for rows the mean is over samples
        of_class = of_labels(options["class_weights"].astype(values.dtype), arrays[1])
        of_class = of_class if where is None else jnp.where(where, of_class, 0)
        weights = of_class if weights is None else weights * of_class
    if weights is not None:
        weight = counted(jnp.sum(weights))
        return total / jnp.where(weight == 0, 1, weight)
    return total / (max(values.size, 1) if where is None else jnp.maximum(counted(jnp.sum(where)), 1).astype(total.dtype))


def _fill(where: jax.Array, x: jax.Array, value: int | None) -> jax.Array:
    if value is None:
        return x
    where = where.reshape(where.shape + (1,) * (x.ndim - where.ndim))
    return jnp.where(where, x, jnp.asarray(value, x.dtype))


# Checks


def check_counted(caller: str, where: Maybe, weights: Maybe, shape: tuple[int, ...]) -> None:
    """Raise unless the mask and the weights fit an unreduced loss of `shape`."""
    check_mask(caller, where, shape)
    check_weights(caller, weights, where, shape)


def check_classes(
    caller: str, predictions: ArrayLike, targets: ArrayLike, one_score: str | None
) -> tuple[jax.Array, jax.Array]:
    """Return scores (…, C) and labels (…,) or rows (…, C), or raise; `one_score` names the loss of a single score."""
    predictions, labels = check_predictions(caller, predictions), jnp.asarray(targets)
    check_class_axis(caller, predictions)
    if one_score is not None:
        check_two_classes(caller, predictions, one_score)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        _check_rows(caller, predictions, labels)
        return predictions, labels
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == predictions.shape:
        raise TypeError(
            f"{caller}: targets are {spell(labels)}, integers of the shape of predictions {spell(predictions)}; "
            f"if they are one-hot, pass targets.astype(float); if labels, their shape is {predictions.shape[:-1]}"
        )
    return predictions, check_labels(caller, predictions, targets)


def _check_class_weights(caller: str, class_weights: ArrayLike, predictions: jax.Array) -> None:
    array = jnp.asarray(class_weights)
    if not jnp.issubdtype(array.dtype, jnp.floating) and not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{caller}: class_weights are {spell(array)}, expected real numbers")
    if array.shape != predictions.shape[-1:]:
        raise ValueError(
            f"{caller}: class_weights are {spell(array)}, but predictions {spell(predictions)} require the shape "
            f"{predictions.shape[-1:]}, one number per class; for numbers per sample use weights"
        )
    values = known(class_weights)
    if values is not None and not ((values >= 0) & np.isfinite(values)).all():
        raise ValueError(
            f"{caller}: class_weights run from {values.min()} to {values.max()}, expected finite nonnegative numbers"
        )


def _check_rows(caller: str, predictions: jax.Array, targets: jax.Array) -> None:
    if targets.shape == predictions.shape:
        return
    hint = "; if they are labels, pass targets.astype(int)" if targets.shape == predictions.shape[:-1] else ""
    raise ValueError(
        f"{caller}: predictions {spell(predictions)} and floating-point targets {spell(targets)} differ in shape; "
        f"one-hot targets have the shape of the predictions, integer labels {predictions.shape[:-1]}{hint}"
    )


def check_two_classes(caller: str, predictions: jax.Array, instead: str) -> None:
    """Raise a ValueError if the last axis has one class."""
    if predictions.shape[-1] == 1:
        raise ValueError(
            f"{caller}: predictions {spell(predictions)} have one class, expected at least two, since the "
            f"loss of one class is always 0; for a single score per sample use {instead}"
        )


def check_within(caller: str, low: float, high: float, hint: str = "") -> Callable[[Any], None]:
    """Return a check for `elementwise` that concrete targets lie between `low` and `high`."""

    def check(labels: Any) -> None:
        if not ((labels >= low) & (labels <= high)).all():
            expected = f"{low} to {high}" if high < float("inf") else f"numbers >= {low}"
            raise ValueError(f"{caller}: targets run from {labels.min()} to {labels.max()}, expected {expected}{hint}")

    return check


def check_signs(caller: str) -> Callable[[Any], None]:
    """Return a check for `elementwise` that concrete targets are -1 or 1."""

    def check(labels: Any) -> None:
        if not ((labels == 1) | (labels == -1)).all():
            raise ValueError(
                f"{caller}: targets run from {labels.min()} to {labels.max()}, expected only -1 and 1; "
                "for labels 0 and 1 pass 2 * targets - 1"
            )

    return check


# Parts of formulas


def wide(x: jax.Array) -> jax.Array:
    """Return `x` in at least float32."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def difference(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Return ŷ − y in at least float32."""
    predictions = wide(predictions)
    return predictions - targets.astype(predictions.dtype)


def magnitude(a: jax.Array) -> jax.Array:
    """Return ∣a∣ with derivative sign(a), which is 0 at 0, where that of `jnp.abs` is 1."""
    return a * jnp.sign(a)


def nan_unless(valid: jax.Array, predictions: jax.Array) -> jax.Array:
    """Return the predictions, NaN where not valid; computed as a product, so that the gradient is NaN too."""
    return predictions * jnp.where(valid, 1, jnp.nan).astype(predictions.dtype)


def signed(predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the predictions in at least float32, NaN where the target is neither −1 nor 1, and the targets in that dtype."""
    predictions = wide(predictions)
    y = targets.astype(predictions.dtype)
    return nan_unless((y == 1) | (y == -1), predictions), y


def in_unit_interval(predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the predictions in at least float32, NaN where the target is not in [0, 1], and the targets in that dtype."""
    predictions = wide(predictions)
    y = targets.astype(predictions.dtype)
    return nan_unless((y >= 0) & (y <= 1), predictions), y


def classified(scores: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the one-hot mask of the labels (…,) and the scores (…, C), NaN where the label is not a class."""
    labels, last = labels.astype(int)[..., None], scores.shape[-1] - 1  # int: a narrow type may not hold `last`
    classes = jax.lax.broadcasted_iota(labels.dtype, scores.shape, scores.ndim - 1)
    return classes == jnp.clip(labels, 0, last), nan_unless((labels >= 0) & (labels <= last), scores)


def expected(
    values: jax.Array,
    targets: jax.Array,
    of: Callable[[jax.Array], jax.Array] = lambda values: values,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Return Σⱼ wⱼ yⱼ of(valuesⱼ) over the last axis, for labels or rows y; an infinite value with wⱼ yⱼ = 0 adds nothing."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        labels, last = targets.astype(int), values.shape[-1] - 1
        picked = _picked(values, jnp.clip(labels, 0, last))
        if class_weights is None:
            result = of(picked)
        else:
            weights = of_labels(class_weights.astype(values.dtype), labels)
            result = weights * of(jnp.where((weights == 0) & jnp.isinf(picked), 0, picked))
        return nan_unless((labels >= 0) & (labels <= last), result)
    weights = targets.astype(values.dtype)
    if class_weights is not None:
        weights = weights * jnp.broadcast_to(class_weights.astype(values.dtype), weights.shape)
    return jnp.sum(weights * of(jnp.where((weights == 0) & jnp.isinf(values), 0, values)), axis=-1)


def of_labels(class_weights: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the weight of each label's class."""
    return class_weights[jnp.clip(labels.astype(int), 0, len(class_weights) - 1)]


@jax.custom_jvp
def _picked(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the score of the label among the scores (…, C)."""
    return jnp.take_along_axis(scores, labels[..., None], -1, mode="promise_in_bounds")[..., 0]


@_picked.defjvp
def _picked_jvp(primals, tangents):
    scores, labels = primals
    right = jax.lax.broadcasted_iota(labels.dtype, scores.shape, scores.ndim - 1) == labels[..., None]
    return _picked(scores, labels), jnp.sum(jnp.where(right, tangents[0], 0), axis=-1)  # the transpose needs no scatter


def weighted(weights: jax.Array, values: jax.Array) -> jax.Array:
    """Return weights · values, with 0 · ±∞ = 0 in value and gradient."""
    return weights * jnp.where((weights == 0) & jnp.isinf(values), 0, values)


def log(p: jax.Array, epsilon: Any) -> jax.Array:
    """Return log p, continued below the smallest normal number by log(tiny) + p/ε."""
    tiny = jnp.finfo(p.dtype).tiny
    inside = p >= tiny
    return jnp.where(inside, jnp.log(jnp.where(inside, p, 1)), jnp.log(tiny) + p / float(epsilon))


def log_of_complement(p: jax.Array, epsilon: Any) -> jax.Array:
    """Return log(1 − p), accurate near p = 0, continued from p = 1 by log(tiny) + (1 − p)/ε."""
    inside = p < 1
    beyond = jnp.log(jnp.finfo(p.dtype).tiny) + (1 - p) / float(epsilon)
    return jnp.where(inside, jnp.log1p(-jnp.where(inside, p, 0)), beyond)


def power(base: jax.Array, exponent: jax.Array) -> jax.Array:
    """Return baseᵉ for base ≥ 0, with derivative 0 at 0 even for e < 1."""
    positive = base > jnp.finfo(base.dtype).tiny
    exponent = jnp.asarray(exponent).astype(base.dtype)
    return jnp.where(positive, jnp.where(positive, base, 1) ** exponent, jnp.where(exponent == 0, 1, 0).astype(base.dtype))
