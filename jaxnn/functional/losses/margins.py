"""Margin losses of two classes, whose score should be on the correct side of 0 by a margin."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_number
from jaxnn.functional.losses._shared import Maybe, check_signs, elementwise, signed


def hinge(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Hinge loss of a two-class score: max(0, 1 − yᵢ ŷᵢ) with y ∈ {−1, 1}.

    The teaching notes *sum* it: `reduction="sum"`. The gradient is −y inside the margin, and 0 outside it and on
    its edge yŷ = 1. For more than two classes use `multiclass_hinge`.

    Args:
        predictions: Scores ŷ, floating-point, of any shape.
        targets: Labels y, −1 or 1 (integer or float), of the same shape.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is neither −1 nor 1, a weight is negative, or the reduction is unknown.

    Example:
        >>> hinge(jnp.array([0.5, 2.0, -1.0]), jnp.array([1, 1, 1]), reduction="sum").item()
        2.5
    """
    check = check_signs("hinge")
    return elementwise(_hinge, predictions, targets, where, weights, reduction, caller="hinge", check=check)


def _hinge(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    scores, y = signed(predictions, targets)
    return jax.nn.relu(1 - y * scores)


def squared_hinge(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Squared hinge loss of a two-class score: max(0, 1 − yᵢ ŷᵢ)² with y ∈ {−1, 1}.

    The hinge loss without its corner; large errors count more. Keras's `squared_hinge`.

    Args:
        predictions: Scores ŷ, floating-point, of any shape.
        targets: Labels y, −1 or 1 (integer or float), of the same shape.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is neither −1 nor 1, a weight is negative, or the reduction is unknown.

    Example:
        >>> squared_hinge(jnp.array([0.5, 2.0, -1.0]), jnp.array([1, 1, 1]), reduction="none").tolist()
        [0.25, 0.0, 4.0]
    """
    check = check_signs("squared_hinge")
    return elementwise(_squared_hinge, predictions, targets, where, weights, reduction, caller="squared_hinge", check=check)


def _squared_hinge(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.square(_hinge(predictions, targets))


def perceptron(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Perceptron loss of a two-class score: max(0, −yᵢ ŷᵢ) with y ∈ {−1, 1}, the hinge loss without a margin.

    Rosenblatt (1958). A model whose output is always 0 has loss 0 and gradient 0: start from random weights.

    Args:
        predictions: Scores ŷ, floating-point, of any shape.
        targets: Labels y, −1 or 1 (integer or float), of the same shape.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is neither −1 nor 1, a weight is negative, or the reduction is unknown.

    Example:
        >>> perceptron(jnp.array([0.5, -2.0]), jnp.array([1, 1]), reduction="none").tolist()
        [0.0, 2.0]
    """
    check = check_signs("perceptron")
    return elementwise(_perceptron, predictions, targets, where, weights, reduction, caller="perceptron", check=check)


def _perceptron(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    scores, y = signed(predictions, targets)
    return jax.nn.relu(-y * scores)


def soft_margin(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Logistic loss of a two-class score: log(1 + exp(−yᵢ ŷᵢ)) with y ∈ {−1, 1}.

    PyTorch's `soft_margin_loss`; it does not overflow. Equal to `binary_cross_entropy` of the logit ŷ, with labels ±1.

    Args:
        predictions: Scores ŷ, floating-point, of any shape.
        targets: Labels y, −1 or 1 (integer or float), of the same shape.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is neither −1 nor 1, a weight is negative, or the reduction is unknown.

    Example:
        >>> round(soft_margin(jnp.array([0.0]), jnp.array([-1])).item(), 4)
        0.6931
    """
    check = check_signs("soft_margin")
    return elementwise(_soft_margin, predictions, targets, where, weights, reduction, caller="soft_margin", check=check)


def _soft_margin(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    scores, y = signed(predictions, targets)
    return jax.nn.softplus(-y * scores)


def hinge_embedding(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Loss of the distance of a similar (y = 1) or dissimilar (y = −1) pair: d if y = 1 else max(0, m − d).

    PyTorch's `hinge_embedding_loss`. `contrastive` squares both cases.

    Args:
        predictions: Distances d, floating-point, of any shape.
        targets: Labels y, −1 or 1 (integer or float), of the same shape.
        margin: Distance m > 0 beyond which dissimilar pairs have no loss, in the distances' unit; may be traced.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is neither −1 nor 1, m is not positive, a weight is negative, or the reduction
            is unknown.

    Example:
        >>> hinge_embedding(jnp.array([0.25, 0.25, 3.0]), jnp.array([1, -1, -1]), reduction="none").tolist()
        [0.25, 0.75, 0.0]
    """
    caller = "hinge_embedding"
    check_number(caller, "margin", margin, lambda margin: margin > 0, "positive number")
    check = check_signs(caller)
    return elementwise(
        _hinge_embedding, predictions, targets, where, weights, reduction, caller=caller, check=check, margin=margin
    )


def _hinge_embedding(predictions: jax.Array, targets: jax.Array, margin: jax.Array) -> jax.Array:
    distances, y = signed(predictions, targets)
    return jnp.where(y == 1, distances, jax.nn.relu(jnp.asarray(margin, distances.dtype) - distances))
