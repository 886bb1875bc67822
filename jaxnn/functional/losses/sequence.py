"""Losses of sequences against shorter sequences with unknown alignment."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_predictions, known, spell
from jaxnn.functional.losses._shared import Maybe, check_counted, nan_unless, reduced, wide

_LOWEST = -(2**30)  # the exponent of 0
_LN2_HIGH = 0.693359375  # log 2 rounded to ten bits, whose products with exponents up to 2¹⁴ are exact in float32


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
    repeated classes are merged and blanks removed. The mean is over sequences; PyTorch first divides each loss by the length
    of its target. A target that its frames cannot spell (there are fewer frames than
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
    """Sum over all alignments, frame by frame: the forward recursion of Graves et al. (2006), eq. 6.

    Probabilities are pairs (m, e) of m · 2ᵉ, since those of long sequences underflow, and logarithms of them lose the digits
    that the gradient depends on (at 20,000 frames in float32, a hundredth of it). Every step is a sum of products of
    mantissas with powers of 2, which are constants of the derivative; hence the cotangents of the mantissas are the
    probabilities of passing through each state, in [0, 1].
    """
    labels = labels.astype(int)  # a narrow type may not hold the number of classes
    classes = predictions.shape[-1]
    valid = jnp.all(~label_mask | (labels >= 0) & (labels < classes) & (labels != blank), axis=1)
    labels = jnp.where(label_mask, jnp.clip(labels, 0, classes - 1), blank)
    logs = jax.nn.log_softmax(jnp.where(frame_mask[..., None], wide(predictions), 0))
    logs = nan_unless(valid[:, None, None], logs)

    # States are blank, label, blank, …, label, blank: (batch, 2 · length + 1).
    batch, length = labels.shape
    states = jnp.full((batch, 2 * length + 1), blank, labels.dtype).at[:, 1::2].set(labels)
    emitted = jnp.take_along_axis(logs, states[:, None, :], axis=-1, mode="promise_in_bounds")  # (batch, frames, states)
    skips = (states != blank) & (states != jnp.pad(states, ((0, 0), (2, 0)), constant_values=blank)[:, :-2])

    def step(forward, frame):
        (mantissa, exponent, total), ((new_mantissa, new_exponent), present) = forward, frame
        skipped, skipped_exponent = _moved(mantissa, exponent, 2)
        skipping = jnp.where(skips, skipped, 0), jnp.where(skips, skipped_exponent, _LOWEST)
        summed, largest = _sum((mantissa, exponent), _moved(mantissa, exponent, 1), skipping)
        summed = summed * new_mantissa
        scale = jnp.where(summed == 0, 0, _exponent(summed))
        raised = jnp.where(summed == 0, _LOWEST, jnp.maximum(largest + new_exponent + scale, _LOWEST))
        shift = jnp.max(raised, axis=1)  # relative to the largest, no exponent overflows
        new = summed * _power_of_2(-scale, summed.dtype), jnp.where(summed == 0, _LOWEST, raised - shift[:, None])
        here = present[:, None]
        kept = jnp.where(here, new[0], mantissa), jnp.where(here, new[1], exponent)
        return (*kept, total + jnp.where(present, shift, 0).astype(total.dtype)), None

    start = jnp.where(jnp.arange(2 * length + 1) == 0, 1, 0).astype(logs.dtype)  # before the first frame: a blank
    start = jnp.broadcast_to(start[None], states.shape)
    first = start, jnp.where(start == 0, _LOWEST, 0).astype(jnp.int32), jnp.zeros(batch, logs.dtype)
    frames = jax.tree.map(lambda part: jnp.moveaxis(part, 1, 0), (_split(emitted), frame_mask))
    (mantissa, exponent, total), _ = jax.lax.scan(step, first, frames)

    # An alignment ends with the last label or the blank after it.
    last = 2 * jnp.sum(label_mask, axis=1, keepdims=True, dtype=states.dtype)

    def at_end(part: jax.Array) -> jax.Array:
        return jnp.take_along_axis(part, last, axis=1, mode="promise_in_bounds")[:, 0]

    label, label_exponent = _moved(mantissa, exponent, 1)
    p, exponent = _sum((at_end(mantissa), at_end(exponent)), (at_end(label), at_end(label_exponent)))
    possible = p != 0
    p = jnp.where(possible, p, 1)
    scale = _exponent(p * math.sqrt(2))  # to between √½ and √2, so that a loss near 0 keeps its digits
    loss = -jnp.log(p * _power_of_2(-scale, p.dtype)) - (total + (exponent + scale).astype(total.dtype)) * math.log(2)
    loss = loss - jax.lax.stop_gradient(jnp.minimum(loss, 0))  # rounding may give a probability above 1
    return jnp.where(possible, loss, jnp.inf)


def _split(logs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return exp(logs) as mantissas and exponents of 2."""
    impossible = logs < -1e8  # including −∞
    x = jnp.where(impossible, 0, logs)
    exponent = jax.lax.stop_gradient(jnp.round(x / math.log(2)))
    rest = (x - exponent * _LN2_HIGH) - exponent * (math.log(2) - _LN2_HIGH)
    return jnp.where(impossible, 0, jnp.exp(rest)), jnp.where(impossible, 0, exponent).astype(jnp.int32)


def _sum(*pairs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Return the sum of numbers m · 2ᵉ, with the largest of their exponents."""
    largest = functools.reduce(jnp.maximum, (e for _, e in pairs))
    return functools.reduce(jnp.add, (m * _power_of_2(e - largest, m.dtype) for m, e in pairs)), largest


def _moved(mantissa: jax.Array, exponent: jax.Array, by: int) -> tuple[jax.Array, jax.Array]:
    """Move all states up by a number of states, and fill with zeros."""
    size = mantissa.shape[1]
    pads = ((0, 0), (by, 0))
    return jnp.pad(mantissa, pads)[:, :size], jnp.pad(exponent, pads, constant_values=_LOWEST)[:, :size]


def _power_of_2(exponent: jax.Array, dtype: Any) -> jax.Array:
    """Return 2ᵉ exactly, from its bits; 0 below the smallest normal number."""
    info = jnp.finfo(dtype)
    bits = (jnp.clip(exponent, 1 - _bias(info), _bias(info)) + _bias(info)).astype(f"int{info.bits}") << info.nmant
    return jnp.where(exponent < 1 - _bias(info), 0, jax.lax.bitcast_convert_type(bits, dtype))


def _exponent(x: jax.Array) -> jax.Array:
    """Return ⌊log₂ x⌋ of positive normal numbers, from their bits."""
    info = jnp.finfo(x.dtype)
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), f"int{info.bits}")
    return (bits >> info.nmant).astype(jnp.int32) - _bias(info)


def _bias(info: Any) -> int:
    return int(info.maxexp) - 1


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
