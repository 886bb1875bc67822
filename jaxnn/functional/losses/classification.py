"""Cross-entropies: of one class of many, of two, and of several at once."""

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
    chances,
    check_counted,
    check_within,
    classwise,
    elementwise,
    expected,
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
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Cross-entropy over classes: −(1/n) Σᵢ Σⱼ yᵢⱼ log ŷᵢⱼ, with ŷ = softmax(predictions) by default.

    From logits, softmax and logarithm are one stable operation, and the gradient is softmax(logits) − y. A logit of −∞
    (a class ruled out) is fine where y = 0. Logarithms of probabilities are logits too.

    From probabilities (`from_logits=False`) the value is exact wherever ŷ > 0, with gradient −y/ŷ. At ŷ = 0 (or below
    the smallest normal number), log ŷ is continued by log(tiny) + ŷ/ε, where tiny is that smallest number, 1.2e-38 in
    float32, and ε the relative precision of the predictions' dtype. So a class that was given no chance at all, and
    was right, costs y · 87.3 and has the gradient −y/ε = −y · 8.4e6: the right direction, neither NaN nor 0 (as
    clipping would have it), and small enough that an optimizer's squares of it do not overflow. Terms with y = 0 add 0
    to value and gradient.

    Rows of targets need not sum to 1: relevances of the items of a list make it optax's `ranking_softmax_loss` (ListNet).

    Args:
        predictions: logits, or probabilities that sum to 1, floating-point, shape (…, classes).
        targets: integer labels of shape (…,), from 0; or one-hot rows or probabilities, floating-point, shape (…,
            classes).
        from_logits: whether predictions are logits; False for probabilities.
        label_smoothing: ε in [0, 1): y is replaced by (1 − ε) y + ε/classes (Szegedy et al. 2016); may be traced.
        where: boolean mask of shape (…,); None counts every sample.
        weights: of shape (…,), from 0, such as class_weights[targets]; None weighs all alike.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or for "none" an array (…,), in at least float32.

    Raises:
        TypeError: predictions are not floating-point, targets are neither of the two kinds, `where` is not boolean, or
            weights are not real.
        ValueError: shapes do not fit, a label is no class, logits have only one class (their softmax is always 1), ε is
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
        loss, predictions, targets, where, weights, reduction, caller="cross_entropy", one_score=one_score, **options
    )


def _smoothing(caller: str, label_smoothing: ArrayLike) -> dict[str, ArrayLike]:
    check_number(caller, "label_smoothing", label_smoothing, lambda value: 0 <= value < 1, "number in [0, 1)")
    value = known(label_smoothing)
    return {} if value is not None and value == 0 else {"smoothing": label_smoothing}


def _from_logits(predictions: jax.Array, targets: jax.Array, smoothing: ArrayLike | None = None) -> jax.Array:
    return _smoothed(jax.nn.log_softmax(wide(predictions)), targets, smoothing)


def _from_probabilities(predictions: jax.Array, targets: jax.Array, smoothing: ArrayLike | None = None) -> jax.Array:
    return _smoothed(log(wide(predictions), jnp.finfo(predictions.dtype).eps), targets, smoothing)


def _smoothed(logs: jax.Array, targets: jax.Array, smoothing: ArrayLike | None) -> jax.Array:
    """Return −Σⱼ ((1 − ε) yⱼ + ε/classes) logsⱼ over the last axis."""
    loss = -expected(logs, targets)
    if smoothing is None:
        return loss
    share = jnp.asarray(smoothing, logs.dtype)
    return (1 - share) * loss - share * jnp.mean(logs, axis=-1)


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
    σ(logit) − y. From probabilities (`from_logits=False`) log ŷ and log(1 − ŷ) are exact wherever they are finite, and
    continued at ŷ = 0 and ŷ = 1 as `cross_entropy` says: finite, with a gradient in the right direction where y says
    otherwise. PyTorch's `pos_weight` w is `weights=jnp.where(targets == 1, w, 1.0)`, of which it divides the sum by n.

    Args:
        predictions: logits, or probabilities in [0, 1], floating-point, any shape.
        targets: y in [0, 1] (integer, boolean or float), of the same shape.
        from_logits: whether predictions are logits; False for probabilities.
        label_smoothing: ε in [0, 1): y is replaced by (1 − ε) y + ε/2; may be traced.
        where: boolean mask of the same shape; None counts every element.
        weights: of the same shape, from 0; None weighs all alike.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or for "none" the elements' losses, in at least float32.

    Raises:
        TypeError: predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: shapes differ, a target is outside [0, 1], ε is not in [0, 1), a weight is negative, or the reduction
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
    x, y = chances(predictions, targets)
    y = _softened(y, smoothing)
    return weighted(y, jax.nn.softplus(-x)) + weighted(1 - y, jax.nn.softplus(x))


def _binary_from_probabilities(predictions: jax.Array, targets: jax.Array, smoothing: ArrayLike | None = None) -> jax.Array:
    epsilon = jnp.finfo(predictions.dtype).eps
    p, y = chances(predictions, targets)
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
    """Binary cross-entropy of the classes of a sample, any number of which may be right, averaged over the classes.

    −(1/C) Σⱼ [yⱼ log σ(ŝⱼ) + (1 − yⱼ) log σ(−ŝⱼ)], PyTorch's `multilabel_soft_margin_loss`. Unlike
    `binary_cross_entropy`, it is one loss a sample, and so are mask and weights.

    Args:
        predictions: logits ŝ, floating-point, shape (…, classes).
        targets: y in [0, 1] (integer, boolean or float), of the same shape: 1 for each class that is right.
        where: boolean mask of shape (…,); None counts every sample.
        weights: of shape (…,), from 0; None weighs all alike.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or for "none" an array (…,), in at least float32.

    Raises:
        TypeError: predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: shapes differ, a target is outside [0, 1], a weight is negative, or the reduction is unknown.

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
