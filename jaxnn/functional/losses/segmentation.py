"""Overlap losses for segmentation masks, computed over all pixels of an image, so that small objects count as large ones do.

Predictions and targets are (batch, …, channels); the unreduced loss, the mask and the weights are (batch, channels). To
leave out single pixels, give them a logit of −∞ and the target 0: they then add nothing to any sum.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_number, check_predictions, check_same_shape, seen, spell
from jaxnn.functional.losses._shared import Maybe, check_counted, check_within, in_unit_interval, reduced, wide


def dice(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    from_logits: bool = True,
    smooth: ArrayLike = 1.0,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Dice loss: 1 − (2 Σ yŷ + s)/(Σ y + Σ ŷ + s), sums over the pixels, with ŷ = σ(predictions) by default.

    One minus the F-score of soft masks (Sudre et al. 2017; Milletari et al. 2016 square ŷ in the denominator). optax's
    `dice_loss` has twice the s. For mutually exclusive classes pass jax.nn.softmax(logits), one-hot targets and
    `from_logits=False`.

    Args:
        predictions: Logits, or probabilities in [0, 1], floating-point, of shape (batch, …, channels).
        targets: Targets y in [0, 1] (integer, boolean or float), of the same shape.
        from_logits: Whether predictions are logits; False for probabilities.
        smooth: Smoothing term s ≥ 0; if positive, two empty masks have the loss 0 instead of NaN; may be traced.
        where: Boolean mask of shape (batch, channels); None counts every mask.
        weights: Nonnegative numbers of shape (batch, channels); None weights all masks equally.
        reduction: "mean" over images and channels, "sum" or "none".

    Returns:
        A scalar, or an array (batch, channels) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ or have fewer than three axes, a target is outside [0, 1], s or a weight is negative, or
            the reduction is unknown.

    Example:
        >>> p, y = jnp.array([[[1.0], [1.0], [0.0]]]), jnp.array([[[1], [0], [0]]])
        >>> dice(p, y, from_logits=False).item()  # 1 - (2 + 1)/(2 + 1 + 1)
        0.25
    """
    options = {"smooth": smooth, "false_positive": 0.5, "false_negative": 0.5, "halved": 0.5}
    return _overlap("dice", predictions, targets, from_logits, where, weights, reduction, **options)


def jaccard(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    from_logits: bool = True,
    smooth: ArrayLike = 1.0,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Jaccard loss of the intersection over union: 1 − (Σ yŷ + s)/(Σ y + Σ ŷ − Σ yŷ + s), with ŷ = σ(predictions) by default.

    Rahman and Wang (2016). For mutually exclusive classes see `dice`.

    Args:
        predictions: Logits, or probabilities in [0, 1], floating-point, of shape (batch, …, channels).
        targets: Targets y in [0, 1] (integer, boolean or float), of the same shape.
        from_logits: Whether predictions are logits; False for probabilities.
        smooth: Smoothing term s ≥ 0; if positive, two empty masks have the loss 0 instead of NaN; may be traced.
        where: Boolean mask of shape (batch, channels); None counts every mask.
        weights: Nonnegative numbers of shape (batch, channels); None weights all masks equally.
        reduction: "mean" over images and channels, "sum" or "none".

    Returns:
        A scalar, or an array (batch, channels) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ or have fewer than three axes, a target is outside [0, 1], s or a weight is negative, or
            the reduction is unknown.

    Example:
        >>> p, y = jnp.array([[[1.0], [1.0], [1.0]]]), jnp.array([[[1], [0], [0]]])
        >>> jaccard(p, y, from_logits=False).item()  # 1 - (1 + 1)/(3 + 1)
        0.5
    """
    options = {"smooth": smooth, "false_positive": 1.0, "false_negative": 1.0, "halved": 1.0}
    return _overlap("jaccard", predictions, targets, from_logits, where, weights, reduction, **options)


def tversky(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    from_logits: bool = True,
    smooth: ArrayLike = 1.0,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Tversky loss: 1 − (tp + s)/(tp + α fp + β fn + s), with ŷ = σ(predictions) by default.

    tp = Σ yŷ, fp = Σ (1 − y) ŷ and fn = Σ y (1 − ŷ), over the pixels. Salehi et al. (2017); β > α favors recall. α = β = ½ is
    `dice` with twice the s, α = β = 1 is `jaccard`. For mutually exclusive classes see `dice`.

    Args:
        predictions: Logits, or probabilities in [0, 1], floating-point, of shape (batch, …, channels).
        targets: Targets y in [0, 1] (integer, boolean or float), of the same shape.
        alpha: Weight α ≥ 0 of false positives; may be traced.
        beta: Weight β ≥ 0 of false negatives; may be traced.
        from_logits: Whether predictions are logits; False for probabilities.
        smooth: Smoothing term s ≥ 0; if positive, two empty masks have the loss 0 instead of NaN; may be traced.
        where: Boolean mask of shape (batch, channels); None counts every mask.
        weights: Nonnegative numbers of shape (batch, channels); None weights all masks equally.
        reduction: "mean" over images and channels, "sum" or "none".

    Returns:
        A scalar, or an array (batch, channels) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ or have fewer than three axes, a target is outside [0, 1], α, β, s or a weight is
            negative, or the reduction is unknown.

    Example:
        >>> p, y = jnp.array([[[1.0], [1.0], [0.0]]]), jnp.array([[[1], [0], [0]]])
        >>> tversky(p, y, alpha=2.0, from_logits=False).item()  # 1 - (1 + 1)/(1 + 2 + 1)
        0.5
    """
    for name, value in {"alpha": alpha, "beta": beta}.items():
        check_number("tversky", name, value, lambda value: value >= 0, "nonnegative number")
    options = {"smooth": smooth, "false_positive": alpha, "false_negative": beta, "halved": 1.0}
    return _overlap("tversky", predictions, targets, from_logits, where, weights, reduction, **options)


def _overlap(
    caller: str,
    predictions: ArrayLike,
    targets: ArrayLike,
    from_logits: bool,
    where: Maybe,
    weights: Maybe,
    reduction: str,
    **options: ArrayLike,
) -> jax.Array:
    check_number(caller, "smooth", options["smooth"], lambda smooth: smooth >= 0, "nonnegative number")
    predictions, y = check_predictions(caller, predictions), jnp.asarray(targets)
    check_same_shape(caller, predictions, y)
    if predictions.ndim < 3:
        raise ValueError(
            f"{caller}: predictions are {spell(predictions)}, expected (batch, ..., channels) with at least three axes; "
            "for masks (batch, pixels) pass predictions[..., None] and targets[..., None]"
        )
    shape = (predictions.shape[0], predictions.shape[-1])
    check_counted(caller, where, weights, shape)
    arrays = (_flat_pixels(predictions), _flat_pixels(y))
    if (values := seen(arrays[1], where)).size:
        check_within(caller, 0, 1)(values)
    loss = _tversky_from_logits if from_logits else _tversky
    return reduced(loss, arrays, where, weights, reduction, caller=caller, fills=(0, 0), **options)


def _flat_pixels(x: jax.Array) -> jax.Array:
    pixels = math.prod(x.shape[1:-1])  # -1 would fail for an empty batch
    return jnp.moveaxis(x.reshape(x.shape[0], pixels, x.shape[-1]), 1, 2)  # (batch, channels, pixels)


def _tversky_from_logits(predictions: jax.Array, targets: jax.Array, **options: jax.Array) -> jax.Array:
    return _tversky(jax.nn.sigmoid(wide(predictions)), targets, **options)


def _tversky(
    predictions: jax.Array,
    targets: jax.Array,
    smooth: jax.Array,
    false_positive: jax.Array,
    false_negative: jax.Array,
    halved: jax.Array,
) -> jax.Array:
    p, y = in_unit_interval(predictions, targets)
    s, a, b, half = (jnp.asarray(v, p.dtype) for v in (smooth, false_positive, false_negative, halved))
    intersection = jnp.sum(p * y, axis=-1)
    numerator = intersection + half * s  # for dice, numerator and denominator are both halved
    return 1 - numerator / (numerator + a * jnp.sum(p * (1 - y), axis=-1) + b * jnp.sum((1 - p) * y, axis=-1))
