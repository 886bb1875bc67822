"""Losses of a batch of embeddings, in which each sample is compared with every other.

A sample that `where` leaves out is compared with none: it is neither an anchor nor a negative of the others.
"""

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
    """Cross-entropy of finding one's own key among those of the batch: −log softmaxⱼ(cos(qᵢ, kⱼ)/τ)ᵢ.

    van den Oord et al. (2018). CLIP's loss (Radford et al. 2021) is the mean of this and of this with queries and keys
    exchanged.

    Args:
        predictions: queries q, floating-point, shape (batch, features).
        targets: keys k, of the same shape; the i-th is that of the i-th query.
        temperature: τ > 0; may be traced.
        where: boolean mask of shape (batch,); None counts every pair.
        weights: of shape (batch,), from 0, of the queries; None weighs all alike.
        reduction: "mean" over queries, "sum" or "none".

    Returns:
        A scalar, or for "none" an array (batch,), in at least float32.

    Raises:
        TypeError: embeddings are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: shapes do not fit, τ is not positive, a weight is negative, or the reduction is unknown.

    Example:
        >>> round(info_nce(jnp.eye(2), jnp.eye(2), temperature=1.0).item(), 4)  # log(1 + 1/e)
        0.3133
    """
    caller = "info_nce"
    queries, keys = _batch(caller, predictions), check_predictions(caller, targets)
    check_same_shape(caller, queries, keys)
    _check_temperature(caller, temperature)
    check_counted(caller, where, weights, queries.shape[:1])
    counted = jnp.ones(len(queries), bool) if where is None else jnp.asarray(where)
    arrays = (queries, keys.astype(queries.dtype), counted)
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
    """Normalized, temperature-scaled cross-entropy of finding one's partners, the samples with the same label.

    For sample i, with s = cos(zᵢ, zⱼ)/τ: the mean over its partners j of −log(exp sᵢⱼ/(exp sᵢⱼ + Σₖ exp sᵢₖ)), k over all
    with another label. Chen et al. (2020), SimCLR, where the two views of an image share a label; Khosla et al. (2020) for
    labels of classes. optax's `ntxent`, whose mean is over pairs instead of samples: the same where all classes are of
    one size. A sample without a partner does not count.

    Args:
        predictions: embeddings z, floating-point, shape (batch, features).
        targets: integer labels of shape (batch,), any integers: jnp.tile(jnp.arange(n), 2) for two views of n images.
        temperature: τ > 0; may be traced.
        where: boolean mask of shape (batch,); None counts every sample.
        weights: of shape (batch,), from 0; None weighs all alike.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or for "none" an array (batch,), in at least float32.

    Raises:
        TypeError: embeddings are not floating-point, labels not integer, `where` is not boolean, or weights are not real.
        ValueError: shapes do not fit, τ is not positive, a weight is negative, or the reduction is unknown.

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
    """Circle loss: log(1 + Σₖ exp(γ aₖ (sₖ − m)) Σⱼ exp(−γ bⱼ (sⱼ − 1 + m))), s the cosines to the sample's embedding.

    j runs over the samples with the same label, k over the others; the factors aₖ = max(0, sₖ + m) and
    bⱼ = max(0, 1 + m − sⱼ) have no gradient, so that what is far from its optimum is pulled harder. Sun et al. (2020),
    eq. 6 and 8; Keras's `Circle`. A sample without a partner does not count.

    Args:
        predictions: embeddings, floating-point, shape (batch, features).
        targets: integer labels of shape (batch,), any integers.
        gamma: γ > 0, the scale; may be traced.
        margin: m in [0, 1], the relaxation; may be traced.
        where: boolean mask of shape (batch,); None counts every sample.
        weights: of shape (batch,), from 0; None weighs all alike.
        reduction: "mean" over samples, "sum" or "none".

    Returns:
        A scalar, or for "none" an array (batch,), in at least float32.

    Raises:
        TypeError: embeddings are not floating-point, labels not integer, `where` is not boolean, or weights are not real.
        ValueError: shapes do not fit, γ is not positive, m is not in [0, 1], a weight is negative, or the reduction is
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
    """Check and reduce loss(embeddings, same, other): (batch, batch) masks of each sample's partners and of the others."""
    embeddings, classes = _batch(caller, embeddings), jnp.asarray(labels)
    if not jnp.issubdtype(classes.dtype, jnp.integer):
        raise TypeError(f"{caller}: targets are {spell(classes)}, expected integer labels; pass targets.astype(int)")
    if classes.shape != embeddings.shape[:1]:
        raise ValueError(
            f"{caller}: targets are {spell(classes)}, but embeddings {spell(embeddings)} call for labels of shape "
            f"{embeddings.shape[:1]}"
        )
    check_counted(caller, where, weights, classes.shape)
    counted = jnp.ones(classes.shape, bool) if where is None else jnp.asarray(where)
    pairs = counted[:, None] & counted[None, :]
    alike = classes[:, None] == classes[None, :]
    same, other = pairs & alike & ~jnp.eye(len(classes), dtype=bool), pairs & ~alike
    partnered = jnp.any(same, axis=-1)
    arrays = (jnp.where(counted[:, None], embeddings, 0), same, other)
    fills = (None, None, None)  # a sample without a partner still is a negative of the others
    return reduced(loss, arrays, partnered, weights, reduction, caller=caller, fills=fills, **options)


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
    """Return log Σ exp x over the last axis; of nothing, a number so low that its exponential is 0 (−∞ has NaN slopes)."""
    lowest = jnp.finfo(x.dtype).min / 4
    return jnp.where(jnp.any(where, axis=-1), jax.nn.logsumexp(jnp.where(where, x, lowest), axis=-1), lowest)
