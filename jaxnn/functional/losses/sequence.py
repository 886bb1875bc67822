"""Losses of sequences against shorter sequences with unknown alignment."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_predictions, known, spell
from jaxnn.functional.losses._shared import Maybe, check_counted, reduced, wide


def ctc(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    predictions_mask: Maybe = None,
    targets_mask: Maybe = None,
    blank: int = 0,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Connectionist temporal classification: −log of the total probability of all alignments that spell the target.

    Graves et al. (2006). An alignment has a class or the blank at each frame; it spells the labels that remain after
    repeated classes are merged and blanks removed. Computed by `optax.ctc_loss`. The mean is over sequences; PyTorch first
    divides each loss by the length of its target. A target that its frames cannot spell (there are fewer frames than
    labels, plus a blank between equal neighbors) has the loss ∞, as in PyTorch, and the gradient 0: mask it with `where`.

    Args:
        predictions: Logits of shape (batch, frames, classes), floating-point; one class is the blank.
        targets: Integer labels of shape (batch, length), none of them the blank.
        predictions_mask: Boolean mask of shape (batch, frames), False for the padding at the end; None for no padding.
        targets_mask: Boolean mask of shape (batch, length), False for the padding at the end; None for no padding.
        blank: Index of the blank class.
        where: Boolean mask of shape (batch,); None counts every sequence.
        weights: Nonnegative numbers of shape (batch,); None weights all samples equally.
        reduction: "mean" over sequences, "sum" or "none".

    Returns:
        A scalar, or an array (batch,) for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, targets not integer, a mask is not boolean, or weights are not real.
        ValueError: If shapes do not fit, a mask has padding before the end, a label is the blank or not a class, a weight is
            negative, or the reduction is unknown.

    Example:
        >>> logits = jnp.zeros((1, 2, 3))  # nine equally likely alignments; "11", "01" and "10" spell "1"
        >>> round(ctc(logits, jnp.array([[1]])).item(), 4)  # log 3
        1.0986
    """
    predictions, labels = check_predictions("ctc", predictions), jnp.asarray(targets)
    if predictions.ndim != 3:
        raise ValueError(f"ctc: predictions are {spell(predictions)}, expected logits of shape (batch, frames, classes)")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"ctc: targets are {spell(labels)}, expected integer labels; pass targets.astype(int)")
    batch, frames, classes = predictions.shape
    if labels.ndim != 2 or labels.shape[0] != batch:
        raise ValueError(
            f"ctc: targets are {spell(labels)}, but predictions {spell(predictions)} require the shape ({batch}, length)"
        )
    if not 0 <= blank < classes:
        raise ValueError(f"ctc: blank is {blank}, expected one of the {classes} classes, 0 to {classes - 1}")
    frame_mask = _mask("predictions_mask", predictions_mask, (batch, frames))
    label_mask = _mask("targets_mask", targets_mask, labels.shape)
    check_counted("ctc", where, weights, (batch,))
    _check_labels(labels, label_mask, where, classes, blank)
    arrays = (predictions, labels, frame_mask, label_mask)
    return reduced(_with_blank(blank), arrays, where, weights, reduction, caller="ctc", fills=(0, 0, 1, 0))


@functools.cache  # one function per blank, so that the jitted core is not compiled at each call
def _with_blank(blank: int) -> Callable[..., jax.Array]:
    return functools.partial(_ctc, blank=blank)


def _ctc(predictions: jax.Array, labels: jax.Array, frame_mask: jax.Array, label_mask: jax.Array, *, blank: int) -> jax.Array:
    logits, classes = wide(predictions), predictions.shape[-1]
    logits = jnp.where(frame_mask[..., None], logits, 0)
    valid = jnp.all(~label_mask | (labels >= 0) & (labels < classes) & (labels != blank), axis=1)
    logits = logits * jnp.where(valid, 1, jnp.nan).astype(logits.dtype)[:, None, None]
    labels = jnp.where(label_mask, labels, 0)
    repeats = jnp.sum((labels[:, 1:] == labels[:, :-1]) & label_mask[:, 1:], axis=1)
    possible = jnp.sum(frame_mask, axis=1) >= jnp.sum(label_mask, axis=1) + repeats
    paddings = ((~mask).astype(logits.dtype) for mask in (frame_mask, label_mask))
    frames_padded, labels_padded = paddings
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
        losses = optax.losses.ctc_loss(logits, frames_padded, labels, labels_padded, blank_id=blank)  # type: ignore[arg-type]
    return jnp.where(possible | ~valid, losses.astype(logits.dtype), jnp.inf)


def _mask(name: str, mask: Maybe, shape: tuple[int, ...]) -> jax.Array:
    """Return the mask, all True for None, or raise unless it is boolean, of `shape`, and padded at the end only."""
    if mask is None:
        return jnp.ones(shape, bool)
    array = jnp.asarray(mask)
    if array.dtype != bool:
        raise TypeError(f"ctc: {name} is {spell(array)}, expected booleans, False for padding; pass {name} != 0")
    if array.shape != shape:
        raise ValueError(f"ctc: {name} is {spell(array)}, expected the shape {shape}")
    values = known(mask)
    if values is not None and (values[:, 1:] & ~values[:, :-1]).any():
        raise ValueError(f"ctc: {name} has a False before a True, expected padding at the end only")
    return array


def _check_labels(labels: jax.Array, mask: jax.Array, where: Maybe, classes: int, blank: int) -> None:
    values, present = known(labels), known(mask)
    counted = known(jnp.ones(len(labels), bool) if where is None else where)
    if values is None or present is None or counted is None:
        return
    seen = values[present & counted[:, None]]
    if seen.size and (seen.min() < 0 or seen.max() >= classes or (seen == blank).any()):
        raise ValueError(
            f"ctc: labels run from {seen.min()} to {seen.max()}, expected classes 0 to {classes - 1} without the blank, "
            f"{blank}; mark padding with targets_mask"
        )
