"""Losses, `loss(predictions, targets, *, where=None, reduction="mean")`: how far predictions are from targets.

What holds for all of them:

- Shapes that differ are an error that names both: nothing is broadcast.
- `where` is a boolean mask of exactly the shape of the unreduced loss. What it leaves out counts neither in the sum
  nor in the mean's denominator, and not even a NaN there reaches the value or the gradient.
- `reduction` is `"mean"` over the elements that count (0 if none does), `"sum"`, or `"none"`, which returns the
  unreduced loss with 0 where `where` is False.
- Sums are taken, and the result is returned, in the predictions' precision but at least float32.
- Targets that a loss has no meaning for, such as a label that is no class, are a ValueError. Under `jit` or `vmap`
  their values cannot be looked at and nothing can be raised: there the loss *and its gradient* are NaN for these
  samples.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import (
    check_class_axis,
    check_label_range,
    check_labels,
    check_mask,
    check_predictions,
    check_same_shape,
    known,
    seen,
    spell,
)

__all__ = ["binary_cross_entropy", "cross_entropy", "hinge", "huber", "mae", "mse", "multiclass_hinge"]

_REDUCTIONS = ("mean", "sum", "none")


def mse(predictions: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None, reduction: str = "mean") -> jax.Array:
    """Mean squared error: (1/n) Σᵢ (yᵢ − ŷᵢ)², over all n elements.

    The gradient 2(ŷ − y)/n grows with the error, so the loss is sensitive to outliers.

    Args:
        predictions: ŷ, floating-point, any shape.
        targets: y, of the same shape; integers are read as floats.
        where: boolean mask of the same shape; None counts every element.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or for "none" the squared errors, in at least float32.

    Raises:
        TypeError: predictions are not floating-point, or `where` is not boolean.
        ValueError: shapes differ, or the reduction is unknown.

    Example:
        >>> mse(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 6.0])).item()
        3.0
    """
    return _elementwise(_squared_error, predictions, targets, where, reduction, caller="mse")


def _squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.square(_difference(predictions, targets))


def mae(predictions: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None, reduction: str = "mean") -> jax.Array:
    """Mean absolute error: (1/n) Σᵢ ∣yᵢ − ŷᵢ∣, over all n elements.

    Not differentiable where ŷ = y. The subgradient there is 0, so a perfect prediction is left alone; `jnp.abs` would
    give +1.

    Args:
        predictions: ŷ, floating-point, any shape.
        targets: y, of the same shape; integers are read as floats.
        where: boolean mask of the same shape; None counts every element.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or for "none" the absolute errors, in at least float32.

    Raises:
        TypeError: predictions are not floating-point, or `where` is not boolean.
        ValueError: shapes differ, or the reduction is unknown.

    Example:
        >>> mae(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 6.0])).item()
        1.0
    """
    return _elementwise(_absolute_error, predictions, targets, where, reduction, caller="mae")


def _absolute_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    a = _difference(predictions, targets)
    return a * jnp.sign(a)  # whose derivative is sign(a), 0 at 0


def huber(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    delta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Huber loss: with a = ŷ − y, ½a² if ∣a∣ ≤ δ else δ(∣a∣ − δ/2), averaged over all elements.

    Quadratic for small errors and linear for outliers; the gradient clip(a, −δ, δ) is continuous. Huber (1964).

    Args:
        predictions: ŷ, floating-point, any shape.
        targets: y, of the same shape; integers are read as floats.
        delta: δ > 0, where the loss turns linear, in the targets' unit; may be traced.
        where: boolean mask of the same shape; None counts every element.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or for "none" the elements' losses, in at least float32.

    Raises:
        TypeError: predictions are not floating-point, or `where` is not boolean.
        ValueError: shapes differ, the reduction is unknown, or δ is not a positive number.

    Example:
        >>> huber(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0]), reduction="none").tolist()
        [0.125, 2.5]
    """
    value = known(delta)
    if jnp.ndim(delta) or (value is not None and not value > 0):
        raise ValueError(f"huber: delta is {delta}, expected one positive number")
    return _elementwise(_huber, predictions, targets, where, reduction, caller="huber", delta=delta)


def _huber(predictions: jax.Array, targets: jax.Array, delta: jax.Array) -> jax.Array:
    a = _difference(predictions, targets)
    delta = jnp.asarray(delta).astype(a.dtype)
    size = a * jnp.sign(a)
    near = size <= delta
    # only near errors are squared: the square of a far one may overflow, and so spoil the gradient of the other branch
    return jnp.where(near, 0.5 * jnp.square(jnp.where(near, a, 0)), delta * (size - 0.5 * delta))


def hinge(predictions: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None, reduction: str = "mean") -> jax.Array:
    """Hinge loss of a two-class score: max(0, 1 − yᵢ ŷᵢ) with y ∈ {−1, 1}.

    The teaching notes *sum* it: `reduction="sum"`. The gradient is −y inside the margin and 0 outside it and on its
    edge yŷ = 1. For more than two classes there is `multiclass_hinge`.

    Args:
        predictions: ŷ, real scores, floating-point, any shape.
        targets: y, −1 or 1 (integer or float), of the same shape.
        where: boolean mask of the same shape; None counts every element.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or for "none" the elements' losses, in at least float32.

    Raises:
        TypeError: predictions are not floating-point, or `where` is not boolean.
        ValueError: shapes differ, a target is neither −1 nor 1, or the reduction is unknown.

    Example:
        >>> hinge(jnp.array([0.5, 2.0, -1.0]), jnp.array([1, 1, 1]), reduction="sum").item()
        2.5
    """

    def check(labels: Any) -> None:
        if not ((labels == 1) | (labels == -1)).all():
            raise ValueError(
                f"hinge: targets run from {labels.min()} to {labels.max()}, expected only -1 and 1; "
                "for labels 0 and 1 pass 2 * targets - 1"
            )

    return _elementwise(_hinge, predictions, targets, where, reduction, caller="hinge", check=check)


def _hinge(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    predictions = _wide(predictions)
    y = targets.astype(predictions.dtype)
    return jax.nn.relu(1 - y * _nan_unless((y == 1) | (y == -1), predictions))


def multiclass_hinge(
    predictions: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None, reduction: str = "mean"
) -> jax.Array:
    """Hinge loss of many classes: max(0, 1 + max_{j≠y} ŝⱼ − ŝ_y) for scores ŝ and the label y.

    Crammer and Singer (2001), as in optax, Keras and scikit-learn; PyTorch's `multi_margin_loss` sums over j instead.
    For two classes with scores (−s/2, s/2) it equals `hinge` of s.

    Args:
        predictions: ŝ, floating-point scores of shape (…, classes).
        targets: integer labels of shape (…,), from 0.
        where: boolean mask of shape (…,); None counts every sample.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or for "none" an array (…,), in at least float32.

    Raises:
        TypeError: predictions are not floating-point, targets not integer, or `where` is not boolean.
        ValueError: shapes do not fit, there are fewer than two classes, a label is no class, or the reduction is
            unknown.

    Example:
        >>> multiclass_hinge(jnp.array([[2.0, 0.5], [0.0, 0.5]]), jnp.array([0, 0]), reduction="none").tolist()
        [0.0, 1.5]
    """
    predictions = check_predictions("multiclass_hinge", predictions)
    check_class_axis("multiclass_hinge", predictions)
    labels = check_labels("multiclass_hinge", predictions, targets)
    _check_two_classes("multiclass_hinge", predictions, "hinge")
    check_mask("multiclass_hinge", where, labels.shape)
    check_label_range("multiclass_hinge", predictions, targets, where)
    return _reduced(_multiclass_hinge, predictions, labels, where, reduction, caller="multiclass_hinge")


def _multiclass_hinge(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    right, scores = _classified(_wide(predictions), targets)
    best_wrong = jnp.max(jnp.where(right, -jnp.inf, scores), axis=-1)
    return jax.nn.relu(1 + best_wrong - jnp.sum(jnp.where(right, scores, 0), axis=-1))


def cross_entropy(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    from_logits: bool = True,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Cross-entropy over classes: −(1/n) Σᵢ Σⱼ yᵢⱼ log ŷᵢⱼ, with ŷ = softmax(predictions) by default.

    From logits, softmax and logarithm are one stable operation, and the gradient is softmax(logits) − y. A logit of −∞
    (a class ruled out) is fine where y = 0.

    From probabilities (`from_logits=False`) the value is exact wherever ŷ > 0, with gradient −y/ŷ. At ŷ = 0 (or below
    the smallest normal number), log ŷ is continued by log(tiny) + ŷ/ε, where tiny is that smallest number, 1.2e-38 in
    float32, and ε the relative precision of the predictions' dtype. So a class that was given no chance at all, and
    was right, costs y · 87.3 and has the gradient −y/ε = −y · 8.4e6: the right direction, neither NaN nor 0 (as
    clipping would have it), and small enough that an optimizer's squares of it do not overflow. Terms with y = 0 add 0
    to value and gradient.

    Args:
        predictions: logits, or probabilities that sum to 1, floating-point, shape (…, classes).
        targets: integer labels of shape (…,), from 0; or one-hot rows or probabilities, floating-point, shape (…,
            classes).
        from_logits: whether predictions are logits; False for probabilities.
        label_smoothing: ε in [0, 1): y is replaced by (1 − ε) y + ε/classes (Szegedy et al. 2016); may be traced.
        where: boolean mask of shape (…,); None counts every sample.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or for "none" an array (…,), in at least float32.

    Raises:
        TypeError: predictions are not floating-point, targets are neither of the two kinds, or `where` is not boolean.
        ValueError: shapes do not fit, a label is no class, logits have only one class (their softmax is always 1), ε is
            not in [0, 1), or the reduction is unknown.

    Example:
        >>> logits = jnp.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> [round(loss, 4) for loss in cross_entropy(logits, jnp.array([0, 2]), reduction="none").tolist()]
        [0.2395, 1.0986]
        >>> round(cross_entropy(jax.nn.softmax(logits), jax.nn.one_hot([0, 2], 3), from_logits=False).item(), 4)
        0.6691
    """
    predictions = check_predictions("cross_entropy", predictions)
    check_class_axis("cross_entropy", predictions)
    if from_logits:
        _check_two_classes("cross_entropy", predictions, "binary_cross_entropy")
    labels = jnp.asarray(targets)
    one_hot = jnp.issubdtype(labels.dtype, jnp.floating)
    if one_hot:
        _check_one_hot_shape(predictions, labels)
    elif jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == predictions.shape:
        raise TypeError(
            f"cross_entropy: targets are {spell(labels)}, integers of the shape of predictions {spell(predictions)}; "
            f"if they are one-hot, pass targets.astype(float); if labels, their shape is {predictions.shape[:-1]}"
        )
    else:
        labels = check_labels("cross_entropy", predictions, targets)
    check_mask("cross_entropy", where, predictions.shape[:-1])
    if not one_hot:
        check_label_range("cross_entropy", predictions, targets, where)
    value = known(label_smoothing)
    if jnp.ndim(label_smoothing) or (value is not None and not 0 <= value < 1):
        raise ValueError(f"cross_entropy: label_smoothing is {label_smoothing}, expected one number in [0, 1)")
    options = {} if value is not None and value == 0 else {"smoothing": label_smoothing}
    loss = _cross_entropy_from_logits if from_logits else _cross_entropy_from_probabilities
    return _reduced(loss, predictions, labels, where, reduction, caller="cross_entropy", **options)


def _cross_entropy_from_logits(predictions: jax.Array, targets: jax.Array, smoothing: ArrayLike | None = None) -> jax.Array:
    return _smoothed(jax.nn.log_softmax(_wide(predictions)), targets, smoothing)


def _cross_entropy_from_probabilities(
    predictions: jax.Array, targets: jax.Array, smoothing: ArrayLike | None = None
) -> jax.Array:
    return _smoothed(_log(_wide(predictions), jnp.finfo(predictions.dtype).eps), targets, smoothing)


def _smoothed(logs: jax.Array, targets: jax.Array, smoothing: ArrayLike | None) -> jax.Array:
    """Return −Σⱼ ((1 − ε) yⱼ + ε/classes) logsⱼ over the last axis."""
    expected = _minus_expected(logs, targets)
    if smoothing is None:
        return expected
    share = jnp.asarray(smoothing, logs.dtype)
    return (1 - share) * expected - share * jnp.mean(logs, axis=-1)


def _minus_expected(logs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return −Σⱼ yⱼ logsⱼ over the last axis, for labels or for weights y."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        right, logs = _classified(logs, targets)
        return -jnp.sum(jnp.where(right, logs, 0), axis=-1)  # a dense select, since its gradient needs no scatter
    return -jnp.sum(_weighted(targets.astype(logs.dtype), logs), axis=-1)


def binary_cross_entropy(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    from_logits: bool = True,
    where: ArrayLike | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Cross-entropy of two classes: −(1/n) Σᵢ [yᵢ log ŷᵢ + (1 − yᵢ) log(1 − ŷᵢ)], with ŷ = σ(predictions) by default.

    From logits, sigmoid and logarithm are one stable operation, accurate for very small losses too, and the gradient is
    σ(logit) − y. From probabilities (`from_logits=False`) log ŷ and log(1 − ŷ) are exact wherever they are finite, and
    continued at ŷ = 0 and ŷ = 1 as `cross_entropy` says: finite, with a gradient in the right direction where y says
    otherwise.

    Args:
        predictions: logits, or probabilities in [0, 1], floating-point, any shape.
        targets: y in [0, 1] (integer, boolean or float), of the same shape.
        from_logits: whether predictions are logits; False for probabilities.
        where: boolean mask of the same shape; None counts every element.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or for "none" the elements' losses, in at least float32.

    Raises:
        TypeError: predictions are not floating-point, or `where` is not boolean.
        ValueError: shapes differ, a target is outside [0, 1], or the reduction is unknown.

    Example:
        >>> round(binary_cross_entropy(jnp.array([0.0, 2.0]), jnp.array([1, 0])).item(), 4)
        1.41
        >>> round(binary_cross_entropy(jnp.array([0.5, 0.9]), jnp.array([1, 0]), from_logits=False).item(), 4)
        1.4979
    """

    def check(labels: Any) -> None:
        if not ((labels >= 0) & (labels <= 1)).all():
            raise ValueError(
                f"binary_cross_entropy: targets run from {labels.min()} to {labels.max()}, expected 0 to 1; "
                "for labels -1 and 1 pass (targets + 1) / 2"
            )

    loss = _binary_cross_entropy_from_logits if from_logits else _binary_cross_entropy_from_probabilities
    return _elementwise(loss, predictions, targets, where, reduction, caller="binary_cross_entropy", check=check)


def _binary_cross_entropy_from_logits(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    x, y = _with_chances(_wide(predictions), targets)
    return -_weighted(y, -jax.nn.softplus(-x)) - _weighted(1 - y, -jax.nn.softplus(x))


def _binary_cross_entropy_from_probabilities(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    epsilon = jnp.finfo(predictions.dtype).eps
    p, y = _with_chances(_wide(predictions), targets)
    return -y * _log(p, epsilon) - (1 - y) * _log_of_complement(p, epsilon)


def _with_chances(predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the predictions, NaN where the target is not in [0, 1], and the targets in their dtype."""
    y = targets.astype(predictions.dtype)
    return _nan_unless((y >= 0) & (y <= 1), predictions), y


# What the formulas share.


def _wide(x: jax.Array) -> jax.Array:
    """Return `x` in at least float32."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def _difference(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    predictions = _wide(predictions)
    return predictions - targets.astype(predictions.dtype)


def _classified(scores: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return which of the scores (…, C) is the label's, and the scores, NaN where the label (…,) is no class."""
    labels, last = labels.astype(int)[..., None], scores.shape[-1] - 1  # int, since a narrow type may not hold `last`
    classes = jax.lax.broadcasted_iota(labels.dtype, scores.shape, scores.ndim - 1)
    return classes == jnp.clip(labels, 0, last), _nan_unless((labels >= 0) & (labels <= last), scores)


def _nan_unless(valid: jax.Array, predictions: jax.Array) -> jax.Array:
    """Return the predictions, NaN where not valid; a product, so that the gradient is NaN too and cannot go unseen."""
    return predictions * jnp.where(valid, 1, jnp.nan).astype(predictions.dtype)


def _weighted(weights: jax.Array, logs: jax.Array) -> jax.Array:
    """Return weights · logs, with 0 · −∞ = 0 in value and gradient."""
    return weights * jnp.where((weights == 0) & jnp.isneginf(logs), 0, logs)


def _log(p: jax.Array, epsilon: Any) -> jax.Array:
    """Return log p, continued below the smallest normal number by log(tiny) + p/ε."""
    tiny = jnp.finfo(p.dtype).tiny
    inside = p >= tiny
    return jnp.where(inside, jnp.log(jnp.where(inside, p, 1)), jnp.log(tiny) + p / float(epsilon))


def _log_of_complement(p: jax.Array, epsilon: Any) -> jax.Array:
    """Return log(1 − p), accurate near p = 0, continued from p = 1 by log(tiny) + (1 − p)/ε."""
    inside = p < 1
    beyond = jnp.log(jnp.finfo(p.dtype).tiny) + (1 - p) / float(epsilon)
    return jnp.where(inside, jnp.log1p(-jnp.where(inside, p, 0)), beyond)


# The way from a call to its number: checks, then a jitted core.


def _elementwise(
    loss: Callable[..., jax.Array],
    predictions: ArrayLike,
    targets: ArrayLike,
    where: ArrayLike | None,
    reduction: str,
    *,
    caller: str,
    check: Callable[[Any], None] | None = None,
    **options: ArrayLike,
) -> jax.Array:
    """Check and reduce a loss that pairs each prediction with one target; `check` is given known target values."""
    predictions, labels = check_predictions(caller, predictions), jnp.asarray(targets)
    check_same_shape(caller, predictions, labels)
    check_mask(caller, where, predictions.shape)
    if check is not None and (values := seen(targets, where)).size:
        check(values)
    return _reduced(loss, predictions, labels, where, reduction, caller=caller, **options)


def _reduced(
    loss: Callable[..., jax.Array],
    predictions: jax.Array,
    targets: jax.Array,
    where: ArrayLike | None,
    reduction: str,
    *,
    caller: str,
    **options: ArrayLike,
) -> jax.Array:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{caller}: reduction is {reduction!r}, expected one of {', '.join(map(repr, _REDUCTIONS))}")
    return _core(loss, predictions, targets, where, reduction, options)


@partial(jax.jit, static_argnames=("loss", "reduction"))
def _core(
    loss: Callable[..., jax.Array],
    predictions: jax.Array,
    targets: jax.Array,
    where: jax.Array | None,
    reduction: str,
    options: dict[str, ArrayLike],
) -> jax.Array:
    if where is not None:  # the inputs are masked too, or a NaN left out would come back in the gradient as 0 · NaN
        predictions, targets = _fill(where, predictions, 0), _fill(where, targets, 1)
    values = loss(predictions, targets, **options)
    if where is not None:
        values = jnp.where(where, values, 0)
    if reduction == "none":
        return values
    total = jnp.sum(values)
    if reduction == "sum":
        return total
    return total / (max(values.size, 1) if where is None else jnp.maximum(jnp.sum(where), 1).astype(total.dtype))


def _fill(where: jax.Array, x: jax.Array, value: int) -> jax.Array:
    where = where.reshape(where.shape + (1,) * (x.ndim - where.ndim))
    return jnp.where(where, x, jnp.asarray(value, x.dtype))


def _check_one_hot_shape(predictions: jax.Array, targets: jax.Array) -> None:
    if targets.shape == predictions.shape:
        return
    mend = "; if they are labels, pass targets.astype(int)" if targets.shape == predictions.shape[:-1] else ""
    raise ValueError(
        f"cross_entropy: predictions {spell(predictions)} and floating-point targets {spell(targets)} differ in shape; "
        f"one-hot targets have the shape of the predictions, integer labels {predictions.shape[:-1]}{mend}"
    )


def _check_two_classes(caller: str, predictions: jax.Array, instead: str) -> None:
    if predictions.shape[-1] == 1:
        raise ValueError(
            f"{caller}: predictions {spell(predictions)} have one class, so there is nothing to choose and the loss "
            f"is always 0; for a single score a sample use {instead}"
        )
