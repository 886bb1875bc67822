"""Variants of the cross-entropy that reweight easy, hard and mislabeled samples, or that give sparse probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional import activations
from jaxnn.functional._checks import check_number
from jaxnn.functional.losses._shared import (
    Maybe,
    check_within,
    classwise,
    elementwise,
    expected,
    in_unit_interval,
    power,
    weighted,
    wide,
)


def focal(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    gamma: ArrayLike = 2.0,
    class_weights: Maybe = None,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Focal loss over classes: −Σⱼ yⱼ (1 − ŷⱼ)^γ log ŷⱼ, with ŷ = softmax(predictions).

    Lin et al. (2017), eq. 4: well-classified samples count less; γ = 0 is `cross_entropy`. Their α is a class weight:
    `class_weights=alpha`. For two classes with a single score, see `binary_focal`.

    Args:
        predictions: Logits, floating-point, of shape (…, classes).
        targets: Integer labels of shape (…,), counted from 0, or floating-point rows of shape (…, classes).
        gamma: Exponent γ ≥ 0; may be traced.
        class_weights: Nonnegative numbers of shape (classes,), factors of the terms of the sum over classes; with labels the
            mean is divided by the sum of the labels' weights, as in `cross_entropy`. None weights all classes equally.
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, targets are neither labels nor rows, `where` is not boolean, or
            weights are not real.
        ValueError: If shapes do not fit, a label is not a class, there is only one class, γ or a weight is negative, or the
            reduction is unknown.

    Example:
        >>> round(focal(jnp.zeros((1, 2)), jnp.array([0])).item(), 4)  # log(2)/4
        0.1733
    """
    _check_gamma("focal", gamma)
    return classwise(
        _focal,
        predictions,
        targets,
        where,
        weights,
        reduction,
        caller="focal",
        one_score="binary_focal",
        class_weights=class_weights,
        gamma=gamma,
    )


def _focal(predictions: jax.Array, targets: jax.Array, gamma: jax.Array, class_weights: jax.Array | None = None) -> jax.Array:
    logs = jax.nn.log_softmax(wide(predictions))
    return -expected(logs, targets, lambda log: power(-jnp.expm1(log), gamma) * log, class_weights)


def _check_gamma(caller: str, gamma: ArrayLike) -> None:
    check_number(caller, "gamma", gamma, lambda gamma: gamma >= 0, "nonnegative number")


def binary_focal(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    gamma: ArrayLike = 2.0,
    alpha: ArrayLike | None = None,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Focal loss of two classes: α' (1 − p)^γ b, with the binary cross-entropy b and the probability p of the true class.

    With ŷ = σ(prediction): p = yŷ + (1 − y)(1 − ŷ), α' = αy + (1 − α)(1 − y), or 1 for `alpha=None`. Lin et al. (2017),
    eq. 5, with γ = 2 and α = ¼ in their experiments; optax's and torchvision's `sigmoid_focal_loss`.

    Args:
        predictions: Logits, floating-point, of any shape.
        targets: Targets y in [0, 1] (integer, boolean or float), of the same shape.
        gamma: Exponent γ ≥ 0; 0 gives `binary_cross_entropy`; may be traced.
        alpha: Weight of class 1 in [0, 1]; class 0 has 1 − α. May be traced. It is a factor of the loss, whereas the mean
            is divided by `weights`.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target or α is outside [0, 1], γ or a weight is negative, or the reduction is unknown.

    Example:
        >>> round(binary_focal(jnp.array([0.0]), jnp.array([1])).item(), 4)  # log(2)/4
        0.1733
    """
    caller = "binary_focal"
    _check_gamma(caller, gamma)
    options = {"gamma": gamma}
    if alpha is not None:
        check_number(caller, "alpha", alpha, lambda alpha: 0 <= alpha <= 1, "number in [0, 1]")
        options["alpha"] = alpha
    check = check_within(caller, 0, 1)
    return elementwise(_binary_focal, predictions, targets, where, weights, reduction, caller=caller, check=check, **options)


def _binary_focal(predictions: jax.Array, targets: jax.Array, gamma: jax.Array, alpha: jax.Array | None = None) -> jax.Array:
    x, y = in_unit_interval(predictions, targets)
    loss = weighted(y, jax.nn.softplus(-x)) + weighted(1 - y, jax.nn.softplus(x))
    missed = y * jax.nn.sigmoid(-x) + (1 - y) * jax.nn.sigmoid(x)  # 1 − p, accurate where p is almost 1
    loss = loss * power(missed, gamma)
    if alpha is None:
        return loss
    share = jnp.asarray(alpha, x.dtype)
    return loss * (share * y + (1 - share) * (1 - y))


def poly_cross_entropy(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    class_weights: Maybe = None,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Cross-entropy with more weight on its first polynomial term: −Σⱼ yⱼ log ŷⱼ + ε Σⱼ yⱼ (1 − ŷⱼ), ŷ = softmax(predictions).

    Leng et al. (2022), Poly-1; optax's `poly_loss_cross_entropy`.

    Args:
        predictions: Logits, floating-point, of shape (…, classes).
        targets: Integer labels of shape (…,), counted from 0, or floating-point rows of shape (…, classes).
        epsilon: Weight ε ≥ −1; 0 gives `cross_entropy`; may be traced.
        class_weights: Nonnegative numbers of shape (classes,), factors of the terms of the sum over classes; with labels the
            mean is divided by the sum of the labels' weights, as in `cross_entropy`. None weights all classes equally.
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, targets are neither labels nor rows, `where` is not boolean, or
            weights are not real.
        ValueError: If shapes do not fit, a label is not a class, there is only one class, ε is below −1, a weight is negative,
            or the reduction is unknown.

    Example:
        >>> round(poly_cross_entropy(jnp.zeros((1, 2)), jnp.array([0])).item(), 4)  # log 2 + 2/2
        1.6931
    """
    caller = "poly_cross_entropy"
    check_number(caller, "epsilon", epsilon, lambda epsilon: epsilon >= -1, "number >= -1")
    return classwise(
        _poly,
        predictions,
        targets,
        where,
        weights,
        reduction,
        caller=caller,
        one_score="binary_cross_entropy",
        class_weights=class_weights,
        epsilon=epsilon,
    )


def _poly(predictions: jax.Array, targets: jax.Array, epsilon: jax.Array, class_weights: jax.Array | None = None) -> jax.Array:
    logs = jax.nn.log_softmax(wide(predictions))
    missed = expected(logs, targets, lambda log: -jnp.expm1(log), class_weights)
    return -expected(logs, targets, class_weights=class_weights) + jnp.asarray(epsilon, logs.dtype) * missed


def generalized_cross_entropy(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    q: ArrayLike = 0.5,
    class_weights: Maybe = None,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Cross-entropy that is robust to wrong labels: Σⱼ yⱼ (1 − ŷⱼ^q)/q, with ŷ = softmax(predictions).

    Zhang and Sabuncu (2018), who use q = 0.7; the limit q → 0 is `cross_entropy`, and q = 1 the mean absolute error.
    Keras's `CategoricalGeneralizedCrossEntropy` takes probabilities.

    Args:
        predictions: Logits, floating-point, of shape (…, classes).
        targets: Integer labels of shape (…,), counted from 0, or floating-point rows of shape (…, classes).
        q: Exponent in (0, 1]; may be traced.
        class_weights: Nonnegative numbers of shape (classes,), factors of the terms of the sum over classes; with labels the
            mean is divided by the sum of the labels' weights, as in `cross_entropy`. None weights all classes equally.
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, targets are neither labels nor rows, `where` is not boolean, or
            weights are not real.
        ValueError: If shapes do not fit, a label is not a class, there is only one class, q is not in (0, 1], a weight is
            negative, or the reduction is unknown.

    Example:
        >>> generalized_cross_entropy(jnp.zeros((1, 4)), jnp.array([0])).item()  # (1 - (1/4)^½)/½
        1.0
    """
    caller = "generalized_cross_entropy"
    check_number(caller, "q", q, lambda q: 0 < q <= 1, "number in (0, 1]; for 0 use cross_entropy")
    return classwise(
        _generalized,
        predictions,
        targets,
        where,
        weights,
        reduction,
        caller=caller,
        one_score="binary_cross_entropy",
        class_weights=class_weights,
        q=q,
    )


def _generalized(predictions: jax.Array, targets: jax.Array, q: jax.Array, class_weights: jax.Array | None = None) -> jax.Array:
    logs = jax.nn.log_softmax(wide(predictions))
    q = jnp.asarray(q, logs.dtype)
    return expected(logs, targets, lambda log: -jnp.expm1(q * log) / q, class_weights)


def sparsemax(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Loss of the `sparsemax` activation: ½‖y‖² − ½‖p‖² + (p − y)·ŝ, with p = sparsemax(ŝ).

    Martins and Astudillo (2016); the gradient is p − y, and the loss is 0 as soon as the correct class leads by 1. optax's
    `multiclass_sparsemax_loss`. For one score per sample use `binary_sparsemax`.

    Args:
        predictions: Scores ŝ, floating-point, of shape (…, classes).
        targets: Integer labels of shape (…,), counted from 0, or floating-point probabilities of shape (…, classes).
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, targets are neither labels nor rows, `where` is not boolean, or
            weights are not real.
        ValueError: If shapes do not fit, a label is not a class, there is only one class, a weight is negative, or the
            reduction is unknown.

    Example:
        >>> sparsemax(jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([0, 0]), reduction="none").tolist()
        [0.0, 0.25]
    """
    return classwise(
        _sparsemax, predictions, targets, where, weights, reduction, caller="sparsemax", one_score="binary_sparsemax"
    )


def _sparsemax(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    scores = wide(predictions)
    scores = scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))  # far from 0, (p − y)·ŝ would cancel
    p = activations.sparsemax(scores)
    rows = jnp.issubdtype(targets.dtype, jnp.floating)
    truth = jnp.sum(jnp.square(targets.astype(scores.dtype)), axis=-1) if rows else 1
    return 0.5 * (truth - jnp.sum(jnp.square(p), axis=-1)) + jnp.sum(weighted(p, scores), axis=-1) - expected(scores, targets)


def binary_sparsemax(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """The sparsemax loss of two classes: `sparse_plus` of −ŝ where y = 1 and of ŝ where y = 0.

    Martins and Astudillo (2016): with z = (1 − 2y) ŝ, 0 for z ≤ −1, z for z ≥ 1 and ¼ (z + 1)² between; a smooth hinge.
    optax's `sparsemax_loss`.

    Args:
        predictions: Scores ŝ, floating-point, of any shape.
        targets: Labels y, 0 or 1 (integer, boolean or float), of the same shape.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is outside [0, 1], a weight is negative, or the reduction is unknown.

    Example:
        >>> binary_sparsemax(jnp.array([2.0, 0.0, -2.0]), jnp.array([1, 1, 1]), reduction="none").tolist()
        [0.0, 0.25, 2.0]
    """
    caller = "binary_sparsemax"
    check = check_within(caller, 0, 1, "; for labels -1 and 1 pass (targets + 1) / 2")
    return elementwise(_binary_sparsemax, predictions, targets, where, weights, reduction, caller=caller, check=check)


def _binary_sparsemax(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    x, y = in_unit_interval(predictions, targets)
    return activations.sparse_plus((1 - 2 * y) * x)
