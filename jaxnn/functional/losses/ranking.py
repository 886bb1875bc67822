"""Losses of order and distance: what should rank higher, what should lie near, what far apart."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_class_axis, check_number, check_same_shape, seen, spell
from jaxnn.functional.losses._shared import (
    Maybe,
    chances,
    check_counted,
    check_signs,
    check_within,
    elementwise,
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
    """Loss of two scores of which the first should be higher (y = 1) or lower (y = −1): max(0, m − y (a − b)).

    PyTorch's `margin_ranking_loss`. A triplet loss with any distance d is `margin_ranking(d(anchor, negative),
    d(anchor, positive), ones, margin=m)`.

    Args:
        first: a, floating-point, any shape.
        second: b, floating-point, of the same shape.
        targets: y, −1 or 1 (integer or float), of the same shape.
        margin: m ≥ 0, by how much; may be traced.
        where: boolean mask of the same shape; None counts every element.
        weights: of the same shape, from 0; None weighs all alike.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or for "none" the elements' losses, in at least float32.

    Raises:
        TypeError: scores are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: shapes differ, a target is neither −1 nor 1, m or a weight is negative, or the reduction is unknown.

    Example:
        >>> margin_ranking(jnp.array([1.0, 1.0]), jnp.array([3.0, 3.0]), jnp.array([1, -1]), reduction="none").tolist()
        [2.0, 0.0]
    """
    caller = "margin_ranking"
    check_number(caller, "margin", margin, lambda margin: margin >= 0, "number from 0")
    (a, b), y = _alike(caller, first=first, second=second), jnp.asarray(targets)
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
    """Contrastive loss of a distance between two that are alike (y = 1) or not (y = 0): ½ y d² + ½ (1 − y) max(0, m − d)².

    Hadsell, Chopra and LeCun (2006), eq. 4, whose Y is 1 − y. d is often the Euclidean distance of two embeddings.

    Args:
        predictions: distances d ≥ 0, floating-point, any shape.
        targets: y, 1 for a pair that is alike and 0 for one that is not (integer, boolean or float), of the same shape.
        margin: m > 0, how far apart is far enough, in the distances' unit; may be traced.
        where: boolean mask of the same shape; None counts every element.
        weights: of the same shape, from 0; None weighs all alike.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or for "none" the elements' losses, in at least float32.

    Raises:
        TypeError: predictions are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: shapes differ, a target is outside [0, 1], m is not positive, a weight is negative, or the reduction
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
    d, y = chances(predictions, targets)
    apart = jax.nn.relu(jnp.asarray(margin, d.dtype) - d)
    return 0.5 * (y * jnp.square(d) + (1 - y) * jnp.square(apart))


def triplet_margin(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    swap: bool = False,
    where: Maybe = None,
    weights: Maybe = None,
    reduction: str = "mean",
) -> jax.Array:
    """Triplet loss: max(0, ‖a − p‖ − ‖a − n‖ + m), so that positives lie nearer to the anchor than negatives, by m.

    Balntas et al. (2016), PyTorch's and optax's `triplet_margin_loss`, which add 1e-6 inside the distance; here it is
    Euclidean, and where it is 0 its gradient is 0. FaceNet (Schroff et al. 2015) squares the distances; for those and
    others there is `margin_ranking`.

    Args:
        anchors: a, floating-point embeddings of shape (…, features).
        positives: p, of the same shape.
        negatives: n, of the same shape.
        margin: m > 0, in the distances' unit; may be traced.
        swap: whether the negative is compared with the nearer of anchor and positive: min(‖a − n‖, ‖p − n‖).
        where: boolean mask of shape (…,); None counts every triplet.
        weights: of shape (…,), from 0; None weighs all alike.
        reduction: "mean" over triplets, "sum" or "none".

    Returns:
        A scalar, or for "none" an array (…,), in at least float32.

    Raises:
        TypeError: embeddings are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: shapes differ, m is not positive, a weight is negative, or the reduction is unknown.

    Example:
        >>> a, p, n = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 4.0]])
        >>> triplet_margin(a, p, n).item(), triplet_margin(a, p, n, swap=True).item()
        (2.0, 3.0)
    """
    caller = "triplet_margin"
    check_number(caller, "margin", margin, lambda margin: margin > 0, "positive number")
    arrays = _alike(caller, anchors=anchors, positives=positives, negatives=negatives)
    check_class_axis(caller, arrays[0])
    check_counted(caller, where, weights, arrays[0].shape[:-1])
    loss = _swapped_triplet if swap else _triplet
    return reduced(loss, arrays, where, weights, reduction, caller=caller, fills=(0, 0, 0), margin=margin)


def _triplet(anchors: jax.Array, positives: jax.Array, negatives: jax.Array, margin: jax.Array) -> jax.Array:
    near = norm(anchors - positives)
    return jax.nn.relu(near - norm(anchors - negatives) + jnp.asarray(margin, near.dtype))


def _swapped_triplet(anchors: jax.Array, positives: jax.Array, negatives: jax.Array, margin: jax.Array) -> jax.Array:
    near = norm(anchors - positives)
    far = jnp.minimum(norm(anchors - negatives), norm(positives - negatives))
    return jax.nn.relu(near - far + jnp.asarray(margin, near.dtype))


def cosine_distance(
    predictions: ArrayLike, targets: ArrayLike, *, where: Maybe = None, weights: Maybe = None, reduction: str = "mean"
) -> jax.Array:
    """One less the cosine of the angle between two vectors: 1 − ŷ·y/(‖ŷ‖ ‖y‖), from 0 to 2.

    The similarity of a vector of zeros to any other is 0. Keras's `cosine_similarity` is this less 1.

    Args:
        predictions: ŷ, floating-point vectors of shape (…, features).
        targets: y, of the same shape.
        where: boolean mask of shape (…,); None counts every pair.
        weights: of shape (…,), from 0; None weighs all alike.
        reduction: "mean" over pairs, "sum" or "none".

    Returns:
        A scalar, or for "none" an array (…,), in at least float32.

    Raises:
        TypeError: vectors are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: shapes differ, a weight is negative, or the reduction is unknown.

    Example:
        >>> cosine_distance(jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.array([[0.0, 3.0], [3.0, 0.0]])).item()
        0.5
    """
    arrays = _alike("cosine_distance", predictions=predictions, targets=targets)
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
    """Loss of two vectors that are alike (y = 1) or not (y = −1): 1 − cos if y = 1 else max(0, cos − m).

    PyTorch's `cosine_embedding_loss`; cos is the cosine of the angle between the two, 0 for a vector of zeros.

    Args:
        first: floating-point vectors of shape (…, features).
        second: of the same shape.
        targets: y, −1 or 1 (integer or float), of shape (…,).
        margin: m in [−1, 1]; may be traced.
        where: boolean mask of shape (…,); None counts every pair.
        weights: of shape (…,), from 0; None weighs all alike.
        reduction: "mean" over pairs, "sum" or "none".

    Returns:
        A scalar, or for "none" an array (…,), in at least float32.

    Raises:
        TypeError: vectors are not floating-point, `where` is not boolean, or weights are not real.
        ValueError: shapes do not fit, a target is neither −1 nor 1, m is not in [−1, 1], a weight is negative, or the
            reduction is unknown.

    Example:
        >>> x, y = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 2.0], [2.0, 0.0]])
        >>> cosine_embedding(x, y, jnp.array([1, -1]), reduction="none").tolist()
        [1.0, 1.0]
    """
    caller = "cosine_embedding"
    check_number(caller, "margin", margin, lambda margin: -1 <= margin <= 1, "number in [-1, 1]")
    (a, b), y = _alike(caller, first=first, second=second), jnp.asarray(targets)
    check_class_axis(caller, a)
    if y.shape != a.shape[:-1]:
        raise ValueError(f"{caller}: targets are {spell(y)}, but vectors {spell(a)} call for the shape {a.shape[:-1]}")
    check_counted(caller, where, weights, y.shape)
    if (values := seen(targets, where)).size:
        check_signs(caller)(values)
    arrays = (a, b, y)
    return reduced(_cosine_embedding, arrays, where, weights, reduction, caller=caller, fills=(0, 0, 1), margin=margin)


def _cosine_embedding(first: jax.Array, second: jax.Array, targets: jax.Array, margin: jax.Array) -> jax.Array:
    cosine, y = signed(jnp.sum(unit(first) * unit(second), axis=-1), targets)
    return jnp.where(y == 1, 1 - cosine, jax.nn.relu(cosine - jnp.asarray(margin, cosine.dtype)))


def norm(x: jax.Array) -> jax.Array:
    """Return ‖x‖ over the last axis, with gradient 0 where it is 0."""
    squares = jnp.sum(jnp.square(x), axis=-1)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def unit(x: jax.Array) -> jax.Array:
    """Return x/‖x‖ over the last axis; 0 where x is."""
    length = norm(x)[..., None]
    return x / jnp.where(length > 0, length, 1)


def _alike(caller: str, **arrays: ArrayLike) -> tuple[jax.Array, ...]:
    """Return the arrays in one dtype of at least float32, or raise where they are not floating-point or differ in shape."""
    taken = {}
    for name, value in arrays.items():
        array = jnp.asarray(value)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{caller}: {name} are {spell(array)}, expected floating-point numbers")
        taken[name] = array
    (lead, one), *others = taken.items()
    for name, array in others:
        if array.shape != one.shape:
            raise ValueError(
                f"{caller}: {lead} {spell(one)} and {name} {spell(array)} differ in shape; nothing is broadcast, so make "
                "them equal first"
            )
    dtype = wide(one).dtype
    return tuple(array.astype(dtype) for array in taken.values())
