"""Negative log-likelihoods of counts and of normal variables, and the Kullback-Leibler divergence."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_class_axis, check_predictions, check_same_shape, seen, spell
from jaxnn.functional.losses._shared import (
    Maybe,
    check_counted,
    check_two_classes,
    check_within,
    elementwise,
    log,
    nan_unless,
    reduced,
    weighted,
    wide,
)


def poisson_nll(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    from_logs: bool = True,
    full: bool = False,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Negative log-likelihood of counts: λ − y log λ, by default without the constant log y!, with λ = exp(predictions).

    The gradient with respect to log λ is λ − y. From rates (`from_logs=False`), log λ is continued at λ = 0 as described
    in `cross_entropy` for log ŷ. PyTorch's `poisson_nll_loss`, which adds 1e-8 to λ instead; Keras's `poisson` takes rates.

    Args:
        predictions: Log λ, or λ ≥ 0, floating-point, of any shape.
        targets: Counts y ≥ 0, of the same shape; integers are converted to floats.
        from_logs: Whether predictions are log λ; False for λ.
        full: Whether to add Stirling's approximation of log y!, y log y − y + ½ log 2πy, for y > 1, as in PyTorch.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target or a weight is negative, or the reduction is unknown.

    Example:
        >>> poisson_nll(jnp.array([0.0, 0.0]), jnp.array([2, 0])).item()
        1.0
        >>> round(poisson_nll(jnp.array([2.0]), jnp.array([2]), from_logs=False).item(), 4)  # 2 - 2 log 2
        0.6137
    """
    loss = _poisson_from_logs if from_logs else _poisson_from_rates
    check = check_within("poisson_nll", 0, float("inf"))
    options = {"full": True} if full else {}
    return elementwise(loss, predictions, targets, where, weights, reduction, caller="poisson_nll", check=check, **options)


def _poisson_from_logs(predictions: jax.Array, targets: jax.Array, full: Maybe = None) -> jax.Array:
    x, y = _counted(wide(predictions), targets)
    loss = jnp.exp(x) - weighted(y, x)
    return loss if full is None else loss + _stirling(y)


def _poisson_from_rates(predictions: jax.Array, targets: jax.Array, full: Maybe = None) -> jax.Array:
    rate, y = _counted(wide(predictions), targets)
    loss = rate - y * log(rate, jnp.finfo(predictions.dtype).eps)
    return loss if full is None else loss + _stirling(y)


def _stirling(y: jax.Array) -> jax.Array:
    above = jnp.where(y > 1, y, 1)
    return jnp.where(y > 1, above * jnp.log(above) - above + 0.5 * jnp.log(2 * math.pi * above), 0)


def _counted(predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = targets.astype(predictions.dtype)
    return nan_unless(y >= 0, predictions), y


def gaussian_nll(
    predictions: ArrayLike,
    targets: ArrayLike,
    variance: ArrayLike,
    *,
    full: bool = False,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Negative log-likelihood of a normal variable: ½ (log v + (y − μ)²/v), without the constant ½ log 2π by default.

    Nix and Weigend (1994). PyTorch's `gaussian_nll_loss` clips v at 1e-6 and broadcasts it; here a variance that is not
    positive is an error: make it positive in the model, with `softplus` and a small constant.

    For a model with both outputs, pass `fit` the loss `lambda p, y, **o: gaussian_nll(p[..., 0], y, p[..., 1], **o)`.

    Args:
        predictions: Mean μ, floating-point, of any shape.
        targets: Targets y, of the same shape; integers are converted to floats.
        variance: Variance v > 0, floating-point, of the same shape, in the square of the targets' unit.
        full: Whether to add the constant ½ log 2π.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions or variances are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a variance is not positive (NaN under jit), a weight is negative, or the reduction is
            unknown.

    Example:
        >>> gaussian_nll(jnp.array([1.0]), jnp.array([3.0]), jnp.array([1.0])).item()
        2.0
    """
    predictions, y = check_predictions("gaussian_nll", predictions), jnp.asarray(targets)
    v = jnp.asarray(variance)
    check_same_shape("gaussian_nll", predictions, y)
    if not jnp.issubdtype(v.dtype, jnp.floating):
        raise TypeError(f"gaussian_nll: variance is {spell(v)}, expected floating-point numbers")
    if v.shape != predictions.shape:
        raise ValueError(
            f"gaussian_nll: variance is {spell(v)}, expected the shape of predictions {spell(predictions)}; for a "
            "single variance, pass jnp.full_like(predictions, variance)"
        )
    check_counted("gaussian_nll", where, weights, predictions.shape)
    values = seen(variance, where)
    if not (values > 0).all():
        raise ValueError(f"gaussian_nll: variance runs from {values.min()} to {values.max()}, expected positive numbers")
    arrays = (predictions, y, v)
    loss = _full_gaussian if full else _gaussian
    return reduced(loss, arrays, where, weights, reduction, caller="gaussian_nll", fills=(0, 1, 1))


def _gaussian(predictions: jax.Array, targets: jax.Array, variance: jax.Array) -> jax.Array:
    mean = wide(predictions)
    v = variance.astype(mean.dtype)
    v = nan_unless(v > 0, v)
    return 0.5 * (jnp.log(v) + jnp.square(mean - targets.astype(mean.dtype)) / v)


def _full_gaussian(predictions: jax.Array, targets: jax.Array, variance: jax.Array) -> jax.Array:
    return _gaussian(predictions, targets, variance) + 0.5 * math.log(2 * math.pi)


def kl_divergence(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    log_targets: bool = False,
    per_class: bool = False,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Divergence of predicted from true distributions: Σⱼ yⱼ (log yⱼ − log ŷⱼ), with ŷ = softmax(predictions).

    Kullback and Leibler (1951). `cross_entropy` minus the entropy of y, so 0 is perfect, and the gradient is the same,
    ŷ − y. Logarithms of probabilities are logits too, so this equals PyTorch's
    `kl_div(log_probabilities, y, reduction="batchmean")` and optax's `kl_divergence`; for probabilities p, pass jnp.log(p).
    Terms with y = 0 add 0 to value and gradient.

    Args:
        predictions: Logits, or logarithms of probabilities, floating-point, of shape (…, classes).
        targets: Probabilities y, floating-point, of the same shape.
        log_targets: Whether targets are logarithms of probabilities, log y.
        per_class: Whether to return the terms of all classes, (…, classes), which requires `reduction="none"`; PyTorch's
            `reduction="none"`.
        where: Boolean mask of shape (…,); None counts every sample.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If predictions or targets are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, there are fewer than two classes, a target or a weight is negative, or the reduction is
            unknown, or not "none" with `per_class`.

    Example:
        >>> round(kl_divergence(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])).item(), 4)  # log 2
        0.6931
    """
    predictions, y = check_predictions("kl_divergence", predictions), jnp.asarray(targets)
    check_class_axis("kl_divergence", predictions)
    check_same_shape("kl_divergence", predictions, y)
    check_two_classes("kl_divergence", predictions, "binary_cross_entropy")
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise TypeError(f"kl_divergence: targets are {spell(y)}, expected probabilities; pass targets.astype(float)")
    check_counted("kl_divergence", where, weights, predictions.shape[:-1])
    values = seen(targets, where)
    if values.size and not log_targets:
        check_within("kl_divergence", 0, 1, "; for logarithms of probabilities pass log_targets=True")(values)
    if per_class:
        if reduction != "none":
            raise ValueError(f'kl_divergence: per_class takes reduction="none", got {reduction!r}')
        where, weights = (
            None if v is None else jnp.broadcast_to(jnp.asarray(v)[..., None], predictions.shape) for v in (where, weights)
        )
    terms = _kl_terms_of_logs if log_targets else _kl_terms
    loss = terms if per_class else _kl_of_logs if log_targets else _kl
    return reduced(loss, (predictions, y), where, weights, reduction, caller="kl_divergence", fills=(0, 0))


def _kl_terms(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(wide(predictions))
    y = targets.astype(logs.dtype)
    logs = nan_unless(y >= 0, logs)
    return y * jnp.log(jnp.where(y > 0, y, 1)) - weighted(y, logs)


def _kl_terms_of_logs(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(wide(predictions))
    log_y = targets.astype(logs.dtype)
    y = jnp.exp(log_y)
    return weighted(y, log_y) - weighted(y, logs)


def _kl(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(_kl_terms(predictions, targets), axis=-1)


def _kl_of_logs(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(_kl_terms_of_logs(predictions, targets), axis=-1)
