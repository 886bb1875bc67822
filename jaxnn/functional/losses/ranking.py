"""Losses of ranking, distance and similarity."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.core.norms import power_norm, power_of_two
from jaxnn.functional._checks import check_class_axis, check_number, check_real, check_same_shape, seen, spell
from jaxnn.functional.losses._shared import (
    Maybe,
    check_counted,
    check_signs,
    check_within,
    elementwise,
    in_unit_interval,
    reduced,
    signed,
    wide,
)


def margin_ranking(
    first: ArrayLike,
    second: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 0.0,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Loss of two scores, the first of which should be higher (y = 1) or lower (y = −1): max(0, m − y (a − b)).

    PyTorch's `margin_ranking_loss`. A triplet loss with any distance d is `margin_ranking(d(anchor, negative),
    d(anchor, positive), ones, margin=m)`.

    Args:
        first: Scores a, floating-point, of any shape.
        second: Scores b, floating-point, of the same shape.
        targets: Labels y, −1 or 1 (integer or float), of the same shape.
        margin: Required difference m ≥ 0; may be traced.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If scores are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is neither −1 nor 1, m or a weight is negative, or the reduction is unknown.

    Example:
        >>> margin_ranking(jnp.array([1.0, 1.0]), jnp.array([3.0, 3.0]), jnp.array([1, -1]), reduction="none").tolist()
        [2.0, 0.0]
    """
    caller = "margin_ranking"
    check_number(caller, "margin", margin, lambda margin: margin >= 0, "nonnegative number")
    (a, b), y = _matching(caller, first=first, second=second), jnp.asarray(targets)
    check_same_shape(caller, a, y)
    check_counted(caller, where, weights, a.shape)
    if (values := seen(targets, where)).size:
        check_signs(caller)(values)
    return reduced(_ranking, (a, b, y), where, weights, reduction, caller=caller, fills=(0, 0, 1), margin=margin)


def _ranking(first: jax.Array, second: jax.Array, targets: jax.Array, margin: jax.Array) -> jax.Array:
    ahead, y = signed(first - second, targets)
    return jax.nn.relu(jnp.asarray(margin, ahead.dtype) - y * ahead)


def contrastive(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Contrastive loss of the distance of a similar (y = 1) or dissimilar (y = 0) pair: ½ y d² + ½ (1 − y) max(0, m − d)².

    Hadsell, Chopra and LeCun (2006), eq. 4, whose Y is 1 − y. d is usually the Euclidean distance of two embeddings,
    `jnp.sqrt(jnp.sum((a - b) ** 2, axis=-1) + 1e-6)`: without a small number, its gradient is NaN where they are equal.

    Args:
        predictions: Distances d ≥ 0, floating-point, of any shape.
        targets: Labels y, 1 for a similar pair and 0 for a dissimilar one (integer, boolean or float), of the same shape.
        margin: Distance m > 0 beyond which dissimilar pairs have no loss, in the distances' unit; may be traced.
        where: Boolean mask of the same shape; None counts every element.
        weights: Nonnegative numbers of the same shape; None weights all elements equally.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or the unreduced losses for "none", in at least float32.

    Raises:
        TypeError: If predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a target is outside [0, 1], m is not positive, a weight is negative, or the reduction
            is unknown.

    Example:
        >>> contrastive(jnp.array([0.5, 0.5, 3.0]), jnp.array([1, 0, 0]), reduction="none").tolist()
        [0.125, 0.125, 0.0]
    """
    caller = "contrastive"
    check_number(caller, "margin", margin, lambda margin: margin > 0, "positive number")
    check = check_within(caller, 0, 1, "; for labels -1 and 1 pass (targets + 1) / 2")
    return elementwise(_contrastive, predictions, targets, where, weights, reduction, caller=caller, check=check, margin=margin)


def _contrastive(predictions: jax.Array, targets: jax.Array, margin: jax.Array) -> jax.Array:
    d, y = in_unit_interval(predictions, targets)
    apart = jax.nn.relu(jnp.asarray(margin, d.dtype) - d)
    return 0.5 * (y * jnp.square(d) + (1 - y) * jnp.square(apart))


def triplet_margin(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    p: float = 2.0,
    swap: bool = False,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Triplet loss: max(0, ‖a − p‖ − ‖a − n‖ + m), 0 if positives are closer to the anchor than negatives by m.

    Balntas et al. (2016). PyTorch's and optax's `triplet_margin_loss` add 1e-6 inside the distance; here it is exactly
    the norm, with gradient 0 where it is 0. FaceNet (Schroff et al. 2015) squares the distances; for those and others
    use `margin_ranking`.

    Args:
        anchors: Embeddings a, floating-point, of shape (…, features).
        positives: Embeddings p, of the same shape.
        negatives: Embeddings n, of the same shape.
        margin: Margin m > 0, in the distances' unit; may be traced.
        p: The order of the norm, at least 1; `math.inf` for the largest difference.
        swap: Whether the negative is compared with the closer of anchor and positive: min(‖a − n‖, ‖p − n‖).
        where: Boolean mask of shape (…,); None counts every triplet.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over triplets, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If embeddings are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, m is not positive, p < 1, a weight is negative, or the reduction is unknown.

    Example:
        >>> a, p, n = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 4.0]])
        >>> triplet_margin(a, p, n).item(), triplet_margin(a, p, n, swap=True).item()
        (2.0, 3.0)
    """
    caller = "triplet_margin"
    check_number(caller, "margin", margin, lambda margin: margin > 0, "positive number")
    arrays = _matching(caller, anchors=anchors, positives=positives, negatives=negatives)
    check_class_axis(caller, arrays[0])
    check_counted(caller, where, weights, arrays[0].shape[:-1])
    if not p >= 1:
        raise ValueError(f"triplet_margin: p is {p!r}, expected the order of a norm, a number of at least 1")
    loss = _triplets(float(p), swap)
    return reduced(loss, arrays, where, weights, reduction, caller=caller, fills=(0, 0, 0), margin=margin)


@cache  # one function for each, so that `reduced` compiles once
def _triplets(p: float, swap: bool) -> Callable[..., jax.Array]:
    def triplet(anchors: jax.Array, positives: jax.Array, negatives: jax.Array, margin: jax.Array) -> jax.Array:
        near, far = norm(anchors - positives, p), norm(anchors - negatives, p)
        far = jnp.minimum(far, norm(positives - negatives, p)) if swap else far
        return jax.nn.relu(near - far + jnp.asarray(margin, near.dtype))

    return triplet


def cosine_distance(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """One minus the cosine of the angle between two vectors: 1 − ŷ·y/(‖ŷ‖ ‖y‖), from 0 to 2.

    The cosine of a zero vector with any other is 0. Keras's `cosine_similarity` is this loss minus 1.

    Args:
        predictions: Vectors ŷ, floating-point, of shape (…, features).
        targets: Vectors y, of the same shape.
        where: Boolean mask of shape (…,); None counts every pair.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over pairs, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If vectors are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes differ, a weight is negative, or the reduction is unknown.

    Example:
        >>> cosine_distance(jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.array([[0.0, 3.0], [3.0, 0.0]])).item()
        0.5
    """
    arrays = _matching("cosine_distance", predictions=predictions, targets=targets)
    check_class_axis("cosine_distance", arrays[0])
    check_counted("cosine_distance", where, weights, arrays[0].shape[:-1])
    return reduced(_cosine_distance, arrays, where, weights, reduction, caller="cosine_distance", fills=(0, 0))


def _cosine_distance(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    return 1 - jnp.sum(unit(predictions) * unit(targets), axis=-1)


def cosine_embedding(
    first: ArrayLike,
    second: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 0.0,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Loss of a similar (y = 1) or dissimilar (y = −1) pair of vectors: 1 − cos if y = 1 else max(0, cos − m).

    PyTorch's `cosine_embedding_loss`; cos is the cosine of the angle between the two, 0 for a zero vector.

    Args:
        first: Vectors, floating-point, of shape (…, features).
        second: Vectors of the same shape.
        targets: Labels y, −1 or 1 (integer or float), of shape (…,).
        margin: Margin m in [−1, 1]; may be traced.
        where: Boolean mask of shape (…,); None counts every pair.
        weights: Nonnegative numbers of shape (…,); None weights all samples equally.
        reduction: "mean" over pairs, "sum" or "none".

    Returns:
        A scalar, or an array (…,) for "none", in at least float32.

    Raises:
        TypeError: If vectors are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: If shapes do not fit, a target is neither −1 nor 1, m is not in [−1, 1], a weight is negative, or the
            reduction is unknown.

    Example:
        >>> x, y = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 2.0], [2.0, 0.0]])
        >>> cosine_embedding(x, y, jnp.array([1, -1]), reduction="none").tolist()
        [1.0, 1.0]
    """
    caller = "cosine_embedding"
    check_number(caller, "margin", margin, lambda margin: -1 <= margin <= 1, "number in [-1, 1]")
    (a, b), y = _matching(caller, first=first, second=second), jnp.asarray(targets)
    check_class_axis(caller, a)
    check_real(caller, "targets", y)
    if y.shape != a.shape[:-1]:
        raise ValueError(f"{caller}: targets are {spell(y)}, but vectors {spell(a)} require the shape {a.shape[:-1]}")
    check_counted(caller, where, weights, y.shape)
    if (values := seen(targets, where)).size:
        check_signs(caller)(values)
    arrays = (a, b, y)
    return reduced(_cosine_embedding, arrays, where, weights, reduction, caller=caller, fills=(0, 0, 1), margin=margin)


def _cosine_embedding(first: jax.Array, second: jax.Array, targets: jax.Array, margin: jax.Array) -> jax.Array:
    cosine, y = signed(jnp.sum(unit(first) * unit(second), axis=-1), targets)
    return jnp.where(y == 1, 1 - cosine, jax.nn.relu(cosine - jnp.asarray(margin, cosine.dtype)))


def norm(x: jax.Array, p: float = 2.0) -> jax.Array:
    """Return ‖x‖ₚ over the last axis, with gradient 0 where it is 0."""
    return power_norm(x, (-1,), p)[..., 0]


def unit(x: jax.Array) -> jax.Array:
    """Return x/‖x‖ over the last axis; 0 where x is 0."""
    x = x / power_of_two(x, (-1,))  # the square of a length would overflow or underflow in the derivative
    length = power_norm(x, (-1,))
    return x / jnp.where(length > 0, length, 1)


def _matching(caller: str, **arrays: ArrayLike) -> tuple[jax.Array, ...]:
    """Return the arrays in one dtype of at least float32, or raise if they are not floating-point or differ in shape."""
    checked = {}
    for name, value in arrays.items():
        array = jnp.asarray(value)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{caller}: {name} are {spell(array)}, expected floating-point numbers")
        checked[name] = array
    (first_name, first), *others = checked.items()
    for name, array in others:
        if array.shape != first.shape:
            raise ValueError(
                f"{caller}: {first_name} {spell(first)} and {name} {spell(array)} differ in shape; nothing is "
                "broadcast, so make them equal first"
            )
    dtype = wide(first).dtype
    return tuple(array.astype(dtype) for array in checked.values())
