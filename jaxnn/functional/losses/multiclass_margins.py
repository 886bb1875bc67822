"""Margin losses of many classes: the score of the correct class should exceed the others by a margin."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_class_axis, check_number, check_predictions, check_same_shape, seen
from jaxnn.functional.losses._shared import (
    Maybe,
    check_counted,
    check_within,
    classified,
    in_unit_interval,
    labelwise,
    reduced,
    wide,
)


def multiclass_hinge(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Hinge loss of many classes: max(0, 1 + max_{j≠y} ŝⱼ − ŝ_y) for scores ŝ and the label y.

    Crammer and Singer (2001), as in optax and scikit-learn; `multi_margin` sums over j instead, and `categorical_hinge`
    also compares with 0. For two classes with scores (−s/2, s/2) it equals `hinge` of s.

    Args:
        predictions: Scores ŝ, floating-point, of shape (…, classes).
        targets: Integer labels of shape (…,), counted from 0.
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, targets not integer, `where` is not boolean, or weights are not
            real.
        ValueError: If shapes do not fit, there are fewer than two classes, a label is not a class, a weight is negative, or the
            reduction is unknown.

    Example:
        >>> multiclass_hinge(jnp.array([[2.0, 0.5], [0.0, 0.5]]), jnp.array([0, 0]), reduction="none").tolist()
        [0.0, 1.5]
    """
    caller = "multiclass_hinge"
    return labelwise(_multiclass_hinge, predictions, targets, where, weights, reduction, caller=caller, one_score="hinge")


def _multiclass_hinge(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    right, own, scores = _split(predictions, targets)
    best_wrong = jnp.max(jnp.where(right, -jnp.inf, scores), axis=-1)
    return jax.nn.relu(1 + best_wrong - own)


def _split(predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the one-hot mask of the label, its score (…,), and all scores (…, C) in at least float32."""
    right, scores = classified(wide(predictions), targets)
    return right, jnp.sum(jnp.where(right, scores, 0), axis=-1), scores


def categorical_hinge(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Keras's hinge loss of many classes: max(0, 1 + max(0, max_{j≠y} ŝⱼ) − ŝ_y) for scores ŝ and the label y.

    The correct score must exceed the others *and 0* by 1; `multiclass_hinge` only compares scores with each other. The two
    agree if some wrong score is nonnegative, as with probabilities.

    Args:
        predictions: Scores ŝ, floating-point, of shape (…, classes).
        targets: Integer labels of shape (…,), counted from 0.
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, targets not integer, `where` is not boolean, or weights are not
            real.
        ValueError: If shapes do not fit, there are fewer than two classes, a label is not a class, a weight is negative, or the
            reduction is unknown.

    Example:
        >>> categorical_hinge(jnp.array([[0.5, -2.0], [0.0, 0.5]]), jnp.array([0, 0]), reduction="none").tolist()
        [0.5, 1.5]
    """
    caller = "categorical_hinge"
    return labelwise(_categorical_hinge, predictions, targets, where, weights, reduction, caller=caller, one_score="hinge")


def _categorical_hinge(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    right, own, scores = _split(predictions, targets)
    return jax.nn.relu(1 + jnp.max(jnp.where(right, 0, scores), axis=-1) - own)


def multi_margin(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    p: int = 1,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Sum of hinge losses against each wrong class, divided by the number of classes: (1/C) Σ_{j≠y} max(0, m − ŝ_y + ŝⱼ)ᵖ.

    Weston and Watkins (1999), divided by C as in PyTorch's `multi_margin_loss`.

    Args:
        predictions: Scores ŝ, floating-point, of shape (…, classes).
        targets: Integer labels of shape (…,), counted from 0.
        margin: Margin m > 0; may be traced.
        p: The exponent, 1, or 2 for squared hinge losses.
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, targets not integer, `where` is not boolean, or weights are not
            real.
        ValueError: If shapes do not fit, there are fewer than two classes, a label is not a class, m is not positive, p is
            neither 1 nor 2, a weight is negative, or the reduction is unknown.

    Example:
        >>> multi_margin(jnp.array([[0.0, 0.5, -0.5, -2.0]]), jnp.array([0])).item()  # (1.5 + 0.5 + 0)/4
        0.5
    """
    caller = "multi_margin"
    check_number(caller, "margin", margin, lambda margin: margin > 0, "positive number")
    if p not in (1, 2):
        raise ValueError(f"multi_margin: p is {p!r}, expected 1 or 2")
    loss = _multi_margin if p == 1 else _squared_multi_margin
    return labelwise(loss, predictions, targets, where, weights, reduction, caller=caller, one_score="hinge", margin=margin)


def _multi_margin(predictions: jax.Array, targets: jax.Array, margin: jax.Array) -> jax.Array:
    right, own, scores = _split(predictions, targets)
    each = jax.nn.relu(jnp.asarray(margin, scores.dtype) - own[..., None] + scores)
    return jnp.sum(jnp.where(right, 0, each), axis=-1) / scores.shape[-1]


def _squared_multi_margin(predictions: jax.Array, targets: jax.Array, margin: jax.Array) -> jax.Array:
    right, own, scores = _split(predictions, targets)
    each = jax.nn.relu(jnp.asarray(margin, scores.dtype) - own[..., None] + scores)
    return jnp.sum(jnp.where(right, 0, jnp.square(each)), axis=-1) / scores.shape[-1]


def multiclass_perceptron(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Perceptron loss of many classes: maxⱼ ŝⱼ − ŝ_y, which is 0 if the correct class has the highest score.

    optax's `multiclass_perceptron_loss`: `multiclass_hinge` without a margin.

    Args:
        predictions: Scores ŝ, floating-point, of shape (…, classes).
        targets: Integer labels of shape (…,), counted from 0.
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, targets not integer, `where` is not boolean, or weights are not
            real.
        ValueError: If shapes do not fit, there are fewer than two classes, a label is not a class, a weight is negative, or the
            reduction is unknown.

    Example:
        >>> multiclass_perceptron(jnp.array([[2.0, 0.5], [0.0, 0.5]]), jnp.array([0, 0]), reduction="none").tolist()
        [0.0, 0.5]
    """
    caller = "multiclass_perceptron"
    return labelwise(_perceptron, predictions, targets, where, weights, reduction, caller=caller, one_score="perceptron")


def _perceptron(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    _, own, scores = _split(predictions, targets)
    return jnp.max(scores, axis=-1) - own


def multilabel_margin(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Hinge losses of each correct class against each wrong one: (1/C) Σ_{j correct} Σ_{i wrong} max(0, 1 − (ŝⱼ − ŝᵢ)).

    Any number of classes may be correct. PyTorch's `multilabel_margin_loss`, which takes lists of labels, terminated by
    −1, instead of rows of 0 and 1. It allocates an array (…, C, C).

    Args:
        predictions: Scores ŝ, floating-point, of shape (…, classes).
        targets: Labels y, 1 for a correct class and 0 for a wrong one (integer, boolean or float), of the same shape.
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is outside [0, 1], a weight is negative, or the reduction is unknown.

    Example:
        >>> multilabel_margin(jnp.array([[0.5, 0.0, 0.25, -1.0]]), jnp.array([[1, 0, 1, 0]])).item()  # (0.5 + 0.75)/4
        0.3125
    """
    caller = "multilabel_margin"
    predictions, y = check_predictions(caller, predictions), jnp.asarray(targets)
    check_class_axis(caller, predictions)
    check_same_shape(caller, predictions, y)
    check_counted(caller, where, weights, predictions.shape[:-1])
    if (values := seen(targets, where)).size:
        check_within(caller, 0, 1)(values)
    return reduced(_multilabel_margin, (predictions, y), where, weights, reduction, caller=caller, fills=(0, 0))


def _multilabel_margin(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    scores, y = in_unit_interval(predictions, targets)
    share = y[..., :, None] * (1 - y[..., None, :])  # (…, correct, wrong)
    lead = scores[..., :, None] - scores[..., None, :]  # of one excluded class over another −∞ + ∞, with a share of 0
    return jnp.sum(share * jax.nn.relu(1 - jnp.where(share == 0, 0, lead)), axis=(-2, -1)) / scores.shape[-1]
