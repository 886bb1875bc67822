"""Losses of a batch of embeddings that compare each sample with every other.

A masked sample is not compared: it is neither an anchor nor a negative of the others.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_number, check_predictions, check_same_shape, spell
from jaxnn.functional.losses._shared import Maybe, check_counted, reduced, wide
from jaxnn.functional.losses.ranking import unit


def info_nce(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    temperature: ArrayLike = 0.07,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Cross-entropy of identifying each query's key among the keys of the batch: −log softmaxⱼ(cos(qᵢ, kⱼ)/τ)ᵢ.

    van den Oord et al. (2018). CLIP's loss (Radford et al. 2021) is the mean of this loss and of this loss with queries
    and keys exchanged.

    Args:
        predictions: Queries q, floating-point, of shape (batch, features).
        targets: Keys k, of the same shape; the i-th key belongs to the i-th query.
        temperature: Temperature τ > 0; may be traced.
        where: Boolean mask of shape (batch,); None counts every pair.
        weights: Nonnegative weights of the queries, of shape (batch,); None weights all queries equally.
        reduction: "mean" over queries, "sum" or "none".

    Returns:
        A scalar, or an array (batch,) for "none", in at least float32.

    Raises:
        TypeError: If embeddings are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes do not fit, τ is not positive, a weight is negative, or the reduction is unknown.

    Example:
        >>> round(info_nce(jnp.eye(2), jnp.eye(2), temperature=1.0).item(), 4)  # log(1 + 1/e)
        0.3133
    """
    caller = "info_nce"
    queries, keys = _batch(caller, predictions), check_predictions(caller, targets)
    check_same_shape(caller, queries, keys)
    _check_temperature(caller, temperature)
    check_counted(caller, where, weights, queries.shape[:1])
    arrays = (queries, keys.astype(queries.dtype), _present(where, weights, queries, keys))
    where = arrays[2] if weights is not None else where
    return reduced(_info_nce, arrays, where, weights, reduction, caller=caller, fills=(0, 0, 0), temperature=temperature)


def _info_nce(queries: jax.Array, keys: jax.Array, counted: jax.Array, temperature: jax.Array) -> jax.Array:
    cosines = _cosines(queries, keys)
    own = jnp.eye(len(cosines), dtype=bool)
    logits = jnp.where(counted[None, :] | own, cosines / jnp.asarray(temperature, cosines.dtype), -jnp.inf)
    return -jnp.diagonal(jax.nn.log_softmax(logits))


def nt_xent(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    temperature: ArrayLike = 0.07,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Normalized, temperature-scaled cross-entropy of identifying the samples with the same label.

    For sample i, with sᵢⱼ = cos(zᵢ, zⱼ)/τ: the mean of −log(exp sᵢⱼ/(exp sᵢⱼ + Σₖ exp sᵢₖ)) over the other samples j with
    the same label (its positives), where k runs over the samples with another label. Chen et al. (2020), SimCLR, where the
    two views of an image share a label; Khosla et al. (2020) for class labels. optax's `ntxent` takes the mean over pairs
    instead of samples, which is the same if all classes have one size. A sample without a positive is left out.

    Args:
        predictions: Embeddings z, floating-point, of shape (batch, features).
        targets: Integer labels of shape (batch,), of any values: jnp.tile(jnp.arange(n), 2) for two views of n images.
        temperature: Temperature τ > 0; may be traced.
        where: Boolean mask of shape (batch,); None counts every sample.
        weights: Nonnegative numbers of shape (batch,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (batch,) for "none", in at least float32.

    Raises:
        TypeError: If embeddings are not floating-point, labels not integer, `where` is not boolean, or weights are not real.
        ValueError: If shapes do not fit, τ is not positive, a weight is negative, or the reduction is unknown.

    Example:
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(nt_xent(z, jnp.array([0, 1, 0, 1]), temperature=1.0).item(), 4)  # log(1 + 2/e)
        0.5514
    """
    _check_temperature("nt_xent", temperature)
    return _compared(_nt_xent, predictions, targets, where, weights, reduction, caller="nt_xent", temperature=temperature)


def _nt_xent(embeddings: jax.Array, same: jax.Array, other: jax.Array, temperature: jax.Array) -> jax.Array:
    logits = _cosines(embeddings, embeddings)
    logits = logits / jnp.asarray(temperature, logits.dtype)
    others = _logsumexp(logits, other)[:, None]
    losses = jnp.where(same, jax.nn.softplus(jnp.where(same, others - logits, 0)), 0)  # −log(eˢ/(eˢ + Σ))
    return jnp.sum(losses, axis=-1) / jnp.maximum(jnp.sum(same, axis=-1), 1).astype(losses.dtype)


def circle(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    gamma: ArrayLike = 80.0,
    margin: ArrayLike = 0.4,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Circle loss: log(1 + Σₖ exp(γ aₖ (sₖ − m)) Σⱼ exp(−γ bⱼ (sⱼ − 1 + m))), with cosines s to the sample's embedding.

    j runs over the samples with the same label, k over the others; the factors aₖ = max(0, sₖ + m) and
    bⱼ = max(0, 1 + m − sⱼ) have no gradient and give larger weights to similarities far from their optimum. Sun et al.
    (2020), eq. 6 and 8; Keras's `Circle`. A sample without a positive is left out.

    Args:
        predictions: Embeddings, floating-point, of shape (batch, features).
        targets: Integer labels of shape (batch,), of any values.
        gamma: Scale γ > 0; may be traced.
        margin: Relaxation m in [0, 1]; may be traced.
        where: Boolean mask of shape (batch,); None counts every sample.
        weights: Nonnegative numbers of shape (batch,); None weights all samples equally.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or an array (batch,) for "none", in at least float32.

    Raises:
        TypeError: If embeddings are not floating-point, labels not integer, `where` is not boolean, or weights are not real.
        ValueError: If shapes do not fit, γ is not positive, m is not in [0, 1], a weight is negative, or the reduction is
            unknown.

    Example:
        >>> z = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])  # log(1 + 2 exp(1.4 · 0.6) exp(−0.4 · 0.4))
        >>> round(circle(z, jnp.array([0, 1, 0, 1]), gamma=1.0).item(), 4)
        1.5989
    """
    caller = "circle"
    check_number(caller, "gamma", gamma, lambda gamma: gamma > 0, "positive number")
    check_number(caller, "margin", margin, lambda margin: 0 <= margin <= 1, "number in [0, 1]")
    return _compared(_circle, predictions, targets, where, weights, reduction, caller=caller, gamma=gamma, margin=margin)


def _circle(embeddings: jax.Array, same: jax.Array, other: jax.Array, gamma: jax.Array, margin: jax.Array) -> jax.Array:
    s = _cosines(embeddings, embeddings)
    gamma, margin = jnp.asarray(gamma, s.dtype), jnp.asarray(margin, s.dtype)
    fixed = jax.lax.stop_gradient(s)
    apart = gamma * jax.nn.relu(fixed + margin) * (s - margin)
    together = -gamma * jax.nn.relu(1 + margin - fixed) * (s - 1 + margin)
    return jax.nn.softplus(_logsumexp(apart, other) + _logsumexp(together, same))


def _compared(loss, embeddings, labels, where, weights, reduction, *, caller, **options) -> jax.Array:
    """Check and reduce loss(embeddings, same, other) with (batch, batch) masks of each sample's positives and negatives."""
    embeddings, classes = _batch(caller, embeddings), jnp.asarray(labels)
    if not jnp.issubdtype(classes.dtype, jnp.integer):
        raise TypeError(f"{caller}: targets are {spell(classes)}, expected integer labels; pass targets.astype(int)")
    if classes.shape != embeddings.shape[:1]:
        raise ValueError(
            f"{caller}: targets are {spell(classes)}, but embeddings {spell(embeddings)} require labels of shape "
            f"{embeddings.shape[:1]}"
        )
    check_counted(caller, where, weights, classes.shape)
    counted = _present(where, weights, embeddings)
    pairs = counted[:, None] & counted[None, :]
    alike = classes[:, None] == classes[None, :]
    same, other = pairs & alike & ~jnp.eye(len(classes), dtype=bool), pairs & ~alike
    has_positive = jnp.any(same, axis=-1)
    arrays = (jnp.where(counted[:, None], embeddings, 0), same, other)
    fills = (None, None, None)  # a sample without a positive is still a negative of the others
    return reduced(loss, arrays, has_positive, weights, reduction, caller=caller, fills=fills, **options)


def _present(where: Maybe, weights: Maybe, *embeddings: jax.Array) -> jax.Array:
    """Return the mask of the samples that are not masked, and whose embeddings are finite or have a weight above 0."""
    present = jnp.ones(len(embeddings[0]), bool) if where is None else jnp.asarray(where)
    if weights is None:
        return present
    finite = [jnp.all(jnp.isfinite(array), axis=-1) for array in embeddings]
    return present & ((jnp.asarray(weights) != 0) | functools.reduce(jnp.logical_and, finite))


def _batch(caller: str, embeddings: ArrayLike) -> jax.Array:
    array = check_predictions(caller, embeddings)
    if array.ndim != 2:
        raise ValueError(f"{caller}: predictions are {spell(array)}, expected embeddings of shape (batch, features)")
    return wide(array)


def _check_temperature(caller: str, temperature: ArrayLike) -> None:
    check_number(caller, "temperature", temperature, lambda temperature: temperature > 0, "positive number")


def _cosines(first: jax.Array, second: jax.Array) -> jax.Array:
    return unit(first) @ unit(second).T  # (batch, batch)


def _logsumexp(x: jax.Array, where: jax.Array) -> jax.Array:
    """Return log Σ exp x over the last axis; of an empty sum, a finite number whose exponential is 0 (−∞ has NaN gradients)."""
    lowest = jnp.finfo(x.dtype).min / 4
    return jnp.where(jnp.any(where, axis=-1), jax.nn.logsumexp(jnp.where(where, x, lowest), axis=-1), lowest)
