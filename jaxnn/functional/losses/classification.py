"""Cross-entropies for single-label, binary and multi-label classification."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import (
    check_class_axis,
    check_number,
    check_predictions,
    check_same_shape,
    known,
    seen,
)
from jaxnn.functional.losses._shared import (
    Maybe,
    check_counted,
    check_within,
    classwise,
    elementwise,
    expected,
    in_unit_interval,
    log,
    log_of_complement,
    reduced,
    weighted,
    wide,
)

_SIGNS = "; for labels -1 and 1 pass (targets + 1) / 2"


def cross_entropy(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    from_logits: bool = True,
    label_smoothing: ArrayLike = 0.0,
    class_weights: Maybe = None,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Cross-entropy over classes: −(1/n) Σᵢ Σⱼ yᵢⱼ log ŷᵢⱼ, with ŷ = softmax(predictions) by default.

    From logits, softmax and logarithm are one stable operation, and the gradient is softmax(logits) − y. A logit of −∞
    (an excluded class) is allowed where y = 0. Logarithms of probabilities are logits too.

    From probabilities (`from_logits=False`) the value is exact wherever ŷ > 0, with gradient −y/ŷ. At ŷ = 0 (or below
    the smallest normal number), log ŷ is continued by log(tiny) + ŷ/ε, where tiny is that smallest number, 1.2e-38 in
    float32, and ε the relative precision of the predictions' dtype. A correct class with predicted probability 0
    therefore costs y · 87.3 and has the gradient −y/ε = −y · 8.4e6: it points in the right direction, is neither NaN nor 0
    (the gradient that clipping gives), and its square does not overflow in an optimizer. Terms with y = 0 add 0 to value
    and gradient.

    Target rows need not sum to 1: with the relevances of a list's items this is optax's `ranking_softmax_loss` (ListNet).

    Args:
        predictions: Logits, or probabilities that sum to 1, floating-point, of shape (…, classes).
        targets: Integer labels of shape (…,), counted from 0; or one-hot rows or probabilities, floating-point, of shape
            (…, classes).
        from_logits: Whether predictions are logits; False for probabilities.
        label_smoothing: Share ε in [0, 1): y is replaced by (1 − ε) y + ε/classes (Szegedy et al. 2016); may be traced.
        class_weights: Nonnegative numbers w of shape (classes,): the loss is −Σⱼ wⱼ yⱼ log ŷⱼ with the smoothed y, and with
            labels the mean is divided by the sum of the labels' w, as PyTorch's with `weight=`. None weights all equally.
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, targets are neither labels nor rows, `where` is not boolean, or
            weights are not real.
        ValueError: If shapes do not fit, a label is not a class, logits have only one class (their softmax is always 1), ε is
            not in [0, 1), a weight is negative, or the reduction is unknown.

    Example:
        >>> logits = jnp.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> [round(loss, 4) for loss in cross_entropy(logits, jnp.array([0, 2]), reduction="none").tolist()]
        [0.2395, 1.0986]
        >>> round(cross_entropy(jax.nn.softmax(logits), jax.nn.one_hot([0, 2], 3), from_logits=False).item(), 4)
        0.6691
    """
    options = _smoothing("cross_entropy", label_smoothing)
    loss = _from_logits if from_logits else _from_probabilities
    one_score = "binary_cross_entropy" if from_logits else None
    return classwise(
        loss,
        predictions,
        targets,
        where,
        weights,
        reduction,
        caller="cross_entropy",
        one_score=one_score,
        class_weights=class_weights,
        **options,
    )


def _smoothing(caller: str, label_smoothing: ArrayLike) -> dict[str, ArrayLike]:
    check_number(caller, "label_smoothing", label_smoothing, lambda value: 0 <= value < 1, "number in [0, 1)")
    value = known(label_smoothing)
    return {} if value is not None and value == 0 else {"smoothing": label_smoothing}


def _from_logits(predictions: jax.Array, targets: jax.Array, **options: jax.Array) -> jax.Array:
    return _smoothed(jax.nn.log_softmax(wide(predictions)), targets, **options)


def _from_probabilities(predictions: jax.Array, targets: jax.Array, **options: jax.Array) -> jax.Array:
    return _smoothed(log(wide(predictions), jnp.finfo(predictions.dtype).eps), targets, **options)


def _smoothed(
    logs: jax.Array, targets: jax.Array, smoothing: ArrayLike | None = None, class_weights: jax.Array | None = None
) -> jax.Array:
    """Return −Σⱼ wⱼ ((1 − ε) yⱼ + ε/classes) logsⱼ over the last axis."""
    loss = -expected(logs, targets, class_weights=class_weights)
    if smoothing is None:
        return loss
    share = jnp.asarray(smoothing, logs.dtype)
    if class_weights is not None:
        logs = weighted(jnp.broadcast_to(class_weights.astype(logs.dtype), logs.shape), logs)
    return (1 - share) * loss - weighted(share, jnp.mean(logs, axis=-1))  # 0 · ∞ = 0, for a traced ε too


def binary_cross_entropy(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    from_logits: bool = True,
    label_smoothing: ArrayLike = 0.0,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Cross-entropy of two classes: −(1/n) Σᵢ [yᵢ log ŷᵢ + (1 − yᵢ) log(1 − ŷᵢ)], with ŷ = σ(predictions) by default.

    From logits, sigmoid and logarithm are one stable operation, accurate for very small losses too, and the gradient is
    σ(logit) − y. From probabilities (`from_logits=False`), log ŷ and log(1 − ŷ) are exact wherever they are finite, and
    continued at ŷ = 0 and ŷ = 1 as described in `cross_entropy`: finite, with a gradient in the right direction where y
    differs. PyTorch's `pos_weight` w is `weights=jnp.where(targets == 1, w, 1.0)` with the sum divided by n.

    Args:
        predictions: Logits, or probabilities in [0, 1], floating-point, of any shape.
        targets: Targets y in [0, 1] (integer, boolean or float), of the same shape.
        from_logits: Whether predictions are logits; False for probabilities.
        label_smoothing: Share ε in [0, 1): y is replaced by (1 − ε) y + ε/2; may be traced.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is outside [0, 1], ε is not in [0, 1), a weight is negative, or the reduction
            is unknown.

    Example:
        >>> round(binary_cross_entropy(jnp.array([0.0, 2.0]), jnp.array([1, 0])).item(), 4)
        1.41
        >>> round(binary_cross_entropy(jnp.array([0.5, 0.9]), jnp.array([1, 0]), from_logits=False).item(), 4)
        1.4979
    """
    caller = "binary_cross_entropy"
    options = _smoothing(caller, label_smoothing)
    loss = _binary_from_logits if from_logits else _binary_from_probabilities
    check = check_within(caller, 0, 1, _SIGNS)
    return elementwise(loss, predictions, targets, where, weights, reduction, caller=caller, check=check, **options)


def _binary_from_logits(predictions: jax.Array, targets: jax.Array, smoothing: ArrayLike | None = None) -> jax.Array:
    x, y = in_unit_interval(predictions, targets)
    y = _softened(y, smoothing)
    return weighted(y, jax.nn.softplus(-x)) + weighted(1 - y, jax.nn.softplus(x))


def _binary_from_probabilities(predictions: jax.Array, targets: jax.Array, smoothing: ArrayLike | None = None) -> jax.Array:
    epsilon = jnp.finfo(predictions.dtype).eps
    p, y = in_unit_interval(predictions, targets)
    y = _softened(y, smoothing)
    return -y * log(p, epsilon) - (1 - y) * log_of_complement(p, epsilon)


def _softened(y: jax.Array, smoothing: ArrayLike | None) -> jax.Array:
    if smoothing is None:
        return y
    share = jnp.asarray(smoothing, y.dtype)
    return (1 - share) * y + share / 2


def multilabel_soft_margin(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Binary cross-entropy averaged over the classes of a sample, any number of which may be correct.

    −(1/C) Σⱼ [yⱼ log σ(ŝⱼ) + (1 − yⱼ) log σ(−ŝⱼ)], PyTorch's `multilabel_soft_margin_loss`. Unlike
    `binary_cross_entropy`, it has one loss per sample, and mask and weights have the same shape.

    Args:
        predictions: Logits ŝ, floating-point, of shape (…, classes).
        targets: Targets y in [0, 1] (integer, boolean or float), of the same shape: 1 for each correct class.
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is outside [0, 1], a weight is negative, or the reduction is unknown.

    Example:
        >>> round(multilabel_soft_margin(jnp.array([[0.0, 2.0]]), jnp.array([[1, 0]])).item(), 4)
        1.41
    """
    caller = "multilabel_soft_margin"
    predictions, y = check_predictions(caller, predictions), jnp.asarray(targets)
    check_class_axis(caller, predictions)
    check_same_shape(caller, predictions, y)
    check_counted(caller, where, weights, predictions.shape[:-1])
    if (values := seen(targets, where)).size:
        check_within(caller, 0, 1, _SIGNS)(values)
    return reduced(_multilabel, (predictions, y), where, weights, reduction, caller=caller, fills=(0, 0))


def _multilabel(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(_binary_from_logits(predictions, targets), axis=-1)
