"""Elementwise regression losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_number
from jaxnn.functional.losses._shared import (
    Maybe,
    check_within,
    difference,
    elementwise,
    magnitude,
    nan_unless,
    wide,
)


def mse(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Mean squared error: (1/n) Σᵢ (yᵢ − ŷᵢ)², over all n elements.

    As in the teaching notes. The gradient 2(ŷ − y)/n grows with the error, so the loss is sensitive to outliers.

    Args:
        predictions: Predictions ŷ, floating-point, of any shape.
        targets: Targets y, of the same shape; integers are converted to floats.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or, for "none", the squared errors, in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a weight is negative, or the reduction is unknown.

    Example:
        >>> mse(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 6.0])).item()
        3.0
    """
    return elementwise(_squared_error, predictions, targets, where, weights, reduction, caller="mse")


def _squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.square(difference(predictions, targets))


def mae(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Mean absolute error: (1/n) Σᵢ ∣yᵢ − ŷᵢ∣, over all n elements.

    As in the teaching notes. Not differentiable where ŷ = y. The subgradient there is 0, so a perfect prediction is not
    changed; `jnp.abs` would give +1.

    Args:
        predictions: Predictions ŷ, floating-point, of any shape.
        targets: Targets y, of the same shape; integers are converted to floats.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or, for "none", the absolute errors, in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a weight is negative, or the reduction is unknown.

    Example:
        >>> mae(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 6.0])).item()
        1.0
    """
    return elementwise(_absolute_error, predictions, targets, where, weights, reduction, caller="mae")


def _absolute_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    return magnitude(difference(predictions, targets))


def huber(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    delta: ArrayLike = 1.0,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Huber loss: with a = ŷ − y, ½a² if ∣a∣ ≤ δ else δ(∣a∣ − δ/2), averaged over all elements.

    Quadratic for small errors and linear for outliers; the gradient clip(a, −δ, δ) is continuous. Huber (1964).

    Args:
        predictions: Predictions ŷ, floating-point, of any shape.
        targets: Targets y, of the same shape; integers are converted to floats.
        delta: Error δ > 0 above which the loss is linear, in the targets' unit; may be traced.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a weight is negative, the reduction is unknown, or δ is not a positive number.

    Example:
        >>> huber(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0]), reduction="none").tolist()
        [0.125, 2.5]
    """
    check_number("huber", "delta", delta, lambda delta: delta > 0, "positive number")
    return elementwise(_huber, predictions, targets, where, weights, reduction, caller="huber", delta=delta)


def _huber(predictions: jax.Array, targets: jax.Array, delta: jax.Array) -> jax.Array:
    a = difference(predictions, targets)
    delta = jnp.asarray(delta).astype(a.dtype)
    size = magnitude(a)
    near = size <= delta
    # Only small errors are squared: the square of a large one may overflow and make the other branch's gradient NaN.
    return jnp.where(near, 0.5 * jnp.square(jnp.where(near, a, 0)), delta * (size - 0.5 * delta))


def smooth_l1(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    beta: ArrayLike = 1.0,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Smooth L1 loss: with a = ŷ − y, ½a²/β if ∣a∣ ≤ β else ∣a∣ − β/2, that is `huber` with δ = β, divided by β.

    Its slope for large errors is 1 for every β. Girshick (2015), Fast R-CNN, eq. 3, where β = 1.

    Args:
        predictions: Predictions ŷ, floating-point, of any shape.
        targets: Targets y, of the same shape; integers are converted to floats.
        beta: Error β > 0 above which the loss is linear, in the targets' unit; may be traced. For β = 0, use `mae`.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a weight is negative, the reduction is unknown, or β is not a positive number.

    Example:
        >>> smooth_l1(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0]), beta=0.5, reduction="none").tolist()
        [0.25, 2.75]
    """
    check_number("smooth_l1", "beta", beta, lambda beta: beta > 0, "positive number; for 0 use mae")
    return elementwise(_smooth_l1, predictions, targets, where, weights, reduction, caller="smooth_l1", beta=beta)


def _smooth_l1(predictions: jax.Array, targets: jax.Array, beta: jax.Array) -> jax.Array:
    a = difference(predictions, targets)
    beta = jnp.asarray(beta).astype(a.dtype)
    size = magnitude(a)
    near = size <= beta
    small = jnp.where(near, a, 0)
    return jnp.where(near, 0.5 * small * (small / beta), size - 0.5 * beta)


def log_cosh(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Logarithm of the hyperbolic cosine of the error: with a = ŷ − y, log cosh a, averaged over all elements.

    Keras's and optax's. About ½a² for small and ∣a∣ − log 2 for large errors, with gradient tanh a; accurate for small
    errors, without overflow for large ones.

    Args:
        predictions: Predictions ŷ, floating-point, of any shape.
        targets: Targets y, of the same shape; integers are converted to floats.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a weight is negative, or the reduction is unknown.

    Example:
        >>> round(log_cosh(jnp.array([1.0, 0.0]), jnp.array([0.0, 0.0]), reduction="sum").item(), 4)
        0.4338
    """
    return elementwise(_log_cosh, predictions, targets, where, weights, reduction, caller="log_cosh")


def _log_cosh(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    a = difference(predictions, targets)
    size = magnitude(a)
    near = size < 1
    # cosh a = 1 + 2 sinh²(a/2), of a itself: the second derivative of ∣a∣ at 0 would be lost.
    close = jnp.log1p(2 * jnp.square(jnp.sinh(jnp.where(near, a, 0) / 2)))
    return jnp.where(near, close, size + jnp.log1p(jnp.exp(-2 * size)) - jnp.log(2.0).astype(size.dtype))


def msle(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Mean squared logarithmic error: (1/n) Σᵢ (log(1 + yᵢ) − log(1 + ŷᵢ))², over all n elements.

    For counts and prices, whose ratio matters. The model must make predictions above −1 (for example with a final
    `softplus`): others give NaN, whereas Keras clips them at 0, where they have no gradient.

    Args:
        predictions: Predictions ŷ > −1, floating-point, of any shape.
        targets: Targets y ≥ 0, of the same shape; integers are converted to floats.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target or a weight is negative, or the reduction is unknown.

    Example:
        >>> round(msle(jnp.array([1.0, 3.0]), jnp.array([3.0, 3.0]), reduction="sum").item(), 4)  # (log 2)²
        0.4805
    """
    check = check_within("msle", 0, float("inf"))
    return elementwise(_msle, predictions, targets, where, weights, reduction, caller="msle", check=check)


def _msle(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    predictions = wide(predictions)
    y = targets.astype(predictions.dtype)
    return jnp.square(jnp.log1p(nan_unless(y >= 0, predictions)) - jnp.log1p(y))


def mape(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Mean absolute percentage error, as a fraction: (1/n) Σᵢ ∣yᵢ − ŷᵢ∣/∣yᵢ∣, over all n elements.

    As in scikit-learn, 0.1 for an error of 10 %; Keras's is 100 times that. A target of 0 has no relative error: mask it
    with `where` (both libraries divide by a tiny number instead). The subgradient where ŷ = y is 0.

    Args:
        predictions: Predictions ŷ, floating-point, of any shape.
        targets: Targets y ≠ 0, of the same shape; integers are converted to floats.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is 0, a weight is negative, or the reduction is unknown.

    Example:
        >>> mape(jnp.array([1.0, 3.0]), jnp.array([2.0, 4.0])).item()
        0.375
    """

    def check(values) -> None:
        if (values == 0).any():
            raise ValueError(
                "mape: a target is 0, expected nonzero targets, which have a relative error; mask it with where=targets != 0"
            )

    return elementwise(_mape, predictions, targets, where, weights, reduction, caller="mape", check=check)


def _mape(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    a = _absolute_error(predictions, targets)
    y = targets.astype(a.dtype)
    return nan_unless(y != 0, a) / jnp.where(y == 0, 1, jnp.abs(y))


def quantile(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    quantile: ArrayLike = 0.5,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Quantile or pinball loss: with e = y − ŷ, q e if e > 0 else (q − 1) e, averaged over all elements.

    Its minimum is the q-quantile of the targets; for q = ½ it is half of `mae`. Koenker and Bassett (1978). The subgradient
    where ŷ = y is 0.

    Args:
        predictions: Predictions ŷ, floating-point, of any shape.
        targets: Targets y, of the same shape; integers are converted to floats.
        quantile: Level q in (0, 1); may be traced.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a weight is negative, the reduction is unknown, or q is not in (0, 1).

    Example:
        >>> quantile(jnp.array([0.0, 2.0]), jnp.array([1.0, 1.0]), quantile=0.75, reduction="none").tolist()
        [0.75, 0.25]
    """
    check_number("quantile", "quantile", quantile, lambda q: 0 < q < 1, "number in (0, 1)")
    return elementwise(_pinball, predictions, targets, where, weights, reduction, caller="quantile", quantile=quantile)


def _pinball(predictions: jax.Array, targets: jax.Array, quantile: jax.Array) -> jax.Array:
    e = -difference(predictions, targets)
    q = jnp.asarray(quantile).astype(e.dtype)
    return e * jnp.where(e > 0, q, jnp.where(e < 0, q - 1, 0))
