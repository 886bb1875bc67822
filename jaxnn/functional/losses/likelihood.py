"""Negative log-likelihoods of counts and of normal variables, and the divergence of distributions."""

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
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Negative log-likelihood of counts: λ − y log λ, without the constant log y!, with λ = exp(predictions) by default.

    The gradient by log λ is λ − y. From rates (`from_logs=False`), log λ is continued at λ = 0 as `cross_entropy` says of
    log ŷ. PyTorch's `poisson_nll_loss`, which adds 1e-8 to λ instead; Keras's `poisson` takes rates.

    Args:
        predictions: log λ, or λ ≥ 0, floating-point, any shape.
        targets: the counts y ≥ 0, of the same shape; integers are read as floats.
        from_logs: whether predictions are log λ; False for λ.
        where: boolean mask of the same shape; None counts every element.
        weights: of the same shape, from 0; None weighs all alike.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or for "none" the elements' losses, in at least float32.

    Raises:
        TypeError: predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: shapes differ, a target or a weight is negative, or the reduction is unknown.

    Example:
        >>> poisson_nll(jnp.array([0.0, 0.0]), jnp.array([2, 0])).item()
        1.0
        >>> round(poisson_nll(jnp.array([2.0]), jnp.array([2]), from_logs=False).item(), 4)  # 2 - 2 log 2
        0.6137
    """
    loss = _poisson_from_logs if from_logs else _poisson_from_rates
    check = check_within("poisson_nll", 0, float("inf"))
    return elementwise(loss, predictions, targets, where, weights, reduction, caller="poisson_nll", check=check)


def _poisson_from_logs(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    x, y = _counted(wide(predictions), targets)
    return jnp.exp(x) - weighted(y, x)


def _poisson_from_rates(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    rate, y = _counted(wide(predictions), targets)
    return rate - y * log(rate, jnp.finfo(predictions.dtype).eps)


def _counted(predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = targets.astype(predictions.dtype)
    return nan_unless(y >= 0, predictions), y


def gaussian_nll(
    predictions: ArrayLike,
    targets: ArrayLike,
    variance: ArrayLike,
    *,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Negative log-likelihood of a normal variable: ½ (log v + (y − μ)²/v), without the constant ½ log 2π.

    Nix and Weigend (1994). PyTorch's `gaussian_nll_loss`, which raises v to 1e-6 and broadcasts it; here a variance that
    is not positive is an error: make it so in the model, by `softplus` and a small addition.

    For a model with both outputs, `fit` takes `lambda p, y, **o: gaussian_nll(p[..., 0], y, p[..., 1], **o)`.

    Args:
        predictions: μ, floating-point, any shape.
        targets: y, of the same shape; integers are read as floats.
        variance: v > 0, floating-point, of the same shape, in the square of the targets' unit.
        where: boolean mask of the same shape; None counts every element.
        weights: of the same shape, from 0; None weighs all alike.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or for "none" the elements' losses, in at least float32.

    Raises:
        TypeError: predictions or variances are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: shapes differ, a variance is not positive (NaN under jit), a weight is negative, or the reduction is
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
            f"gaussian_nll: variance is {spell(v)}, expected the shape of predictions {spell(predictions)}; for one "
            "variance for all, pass jnp.full_like(predictions, variance)"
        )
    check_counted("gaussian_nll", where, weights, predictions.shape)
    values = seen(variance, where)
    if not (values > 0).all():
        raise ValueError(f"gaussian_nll: variance runs from {values.min()} to {values.max()}, expected positive numbers")
    arrays = (predictions, y, v)
    return reduced(_gaussian, arrays, where, weights, reduction, caller="gaussian_nll", fills=(0, 1, 1))


def _gaussian(predictions: jax.Array, targets: jax.Array, variance: jax.Array) -> jax.Array:
    mean = wide(predictions)
    v = variance.astype(mean.dtype)
    v = nan_unless(v > 0, v)
    return 0.5 * (jnp.log(v) + jnp.square(mean - targets.astype(mean.dtype)) / v)


def kl_divergence(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """Divergence of predicted from true distributions: Σⱼ yⱼ (log yⱼ − log ŷⱼ), with ŷ = softmax(predictions).

    Kullback and Leibler (1951). `cross_entropy` less the entropy of y, so 0 is perfect, and the gradient is the same,
    ŷ − y. Logarithms of probabilities are logits too, so PyTorch's `kl_div(log_probabilities, y, reduction="batchmean")`
    and optax's `kl_divergence` are this; of probabilities p, pass jnp.log(p). Terms with y = 0 add 0 to value and gradient.

    Args:
        predictions: logits, or logarithms of probabilities, floating-point, shape (…, classes).
        targets: probabilities y, floating-point, of the same shape.
        where: boolean mask of shape (…,); None counts every sample.
        weights: of shape (…,), from 0; None weighs all alike.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or for "none" an array (…,), in at least float32.

    Raises:
        TypeError: predictions or targets are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: shapes differ, there are fewer than two classes, a target or a weight is negative, or the reduction is
            unknown.

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
    if values.size:
        check_within("kl_divergence", 0, 1, "; logarithms of probabilities are jnp.exp(targets)")(values)
    return reduced(_kl, (predictions, y), where, weights, reduction, caller="kl_divergence", fills=(0, 0))


def _kl(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(wide(predictions))
    y = targets.astype(logs.dtype)
    logs = nan_unless(y >= 0, logs)
    return jnp.sum(y * jnp.log(jnp.where(y > 0, y, 1)) - weighted(y, logs), axis=-1)
