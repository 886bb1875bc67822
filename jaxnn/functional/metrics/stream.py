"""The streaming metric and what all metrics share."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import (
    check_class_axis,
    check_label_range,
    check_labels,
    check_predictions,
    check_same_shape,
    seen,
    spell,
)
from jaxnn.functional._counted import mean_and_weight, weight_found

Totals = dict[str, jax.Array]


_ROUNDING = "_rounding"  # of a total: what its float has lost


def add(a: Totals, b: Totals) -> Totals:
    """Merge totals that are sums: whole numbers, or floats with what they lost in rounding (Knuth's two-sum).

    A float32 alone stands still at 2²⁴ when ones are added. A whole number and a float, of samples without and with weights,
    become a float.
    """
    merged: Totals = {}
    for name, more in b.items():
        if name.endswith(_ROUNDING):
            continue
        if (rounding := name + _ROUNDING) in a or rounding in b:
            (total, lost_before), (more, lost_then) = _pair(a, name), _pair(b, name)
            total = total.astype(more.dtype)
            merged[name] = total + more
            added = merged[name] - total
            lost = (total - (merged[name] - added)) + (more - added) + lost_before + lost_then
            rest = jnp.where(jnp.isfinite(merged[name]), lost, 0)
            merged[name] = merged[name] + rest
            merged[rounding] = jnp.where(jnp.isfinite(merged[name]), rest - (merged[name] - (total + more)), 0)
        else:
            merged[name] = jnp.asarray(a[name]).astype(more.dtype) + more
    return merged


def _pair(totals: Totals, name: str) -> tuple[jax.Array, Any]:
    """Return a total as a float, and what it lost in rounding."""
    value = jnp.asarray(totals[name])
    if jnp.issubdtype(value.dtype, jnp.integer):
        value, rounding = whole(name, value).values()
        return value, rounding
    return value, totals.get(name + _ROUNDING, 0)


def running(name: str, value: jax.Array) -> Totals:
    """Return a float total with a rounding error of 0."""
    return {name: value, name + _ROUNDING: jnp.zeros_like(value)}


def whole(name: str, count: jax.Array) -> Totals:
    """Return a whole number as a float total, which does not wrap around at 2³¹."""
    rounded = count.astype(float)
    return {name: rounded, name + _ROUNDING: (count - rounded.astype(int)).astype(float)}


def total_of(totals: Totals, name: str) -> jax.Array:
    """Return a total as a float, with what it lost in rounding, which `psum` adds up separately."""
    return totals[name].astype(float) + totals.get(name + _ROUNDING, 0)


def counted(of: jax.Array, axis: int | None = None) -> jax.Array:
    """Return the number of True, as a whole number."""
    return jnp.sum(of, axis=axis, dtype=int)


def tally(name: str, weights: jax.Array, axis: int | None = None) -> Totals:
    """Return the total of weights: of a mask a whole number."""
    return {name: counted(weights, axis)} if weights.dtype == bool else running(name, jnp.sum(weights, axis=axis))


def no_tallies(weighted: bool, shape: tuple[int, ...], *names: str) -> Totals:
    """Return tallies of nothing, as whole numbers or, for samples with weights, as floats."""
    if not weighted:
        return {name: jnp.zeros(shape, int) for name in names}
    return dict(pair for name in names for pair in running(name, jnp.zeros(shape, float)).items())


def only(where: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the weights, or the mask, with 0 elsewhere."""
    return jnp.where(where, weights, jnp.zeros((), weights.dtype))


@dataclass(frozen=True, eq=False)
class Metric:
    """A streaming metric.

    Args:
        name: Name in a table or a history.
        init: `init() -> totals`, before any batch.
        update: `update(totals, predictions, targets, where=None, weights=None) -> totals`; `weights` is only passed if given.
        compute: `compute(totals) -> value`.
        merge: `merge(totals, totals) -> totals`; addition by default.
        weighted_init: `init` for samples with weights, if their totals are of other types; see `weighted`.
        is_weighted: Whether `fit` and `evaluate` pass the weights of the data; see `weighted`.

    Example:
        >>> from jaxnn.functional.metrics import accuracy
        >>> totals = accuracy.init()
        >>> totals = accuracy.update(totals, jnp.array([[2.0, 1.0], [0.0, 1.0]]), jnp.array([0, 1]))
        >>> totals = accuracy.update(totals, jnp.array([[2.0, 1.0]]), jnp.array([1]))
        >>> round(accuracy.compute(totals).item(), 4)
        0.6667
    """

    name: str
    init: Callable[[], Totals]
    update: Callable[..., Totals]
    compute: Callable[[Totals], jax.Array]
    merge: Callable[[Totals, Totals], Totals] = add
    weighted_init: Callable[[], Totals] | None = None
    is_weighted: bool = False

    def __repr__(self) -> str:
        return f"<metric {self.name}>"

    def merge_across(self, totals: Totals, axis_name: str | tuple[str, ...]) -> Totals:
        """Merge the totals of all devices along a named axis of `jax.shard_map` or `jax.vmap`.

        Args:
            totals: The totals of this device.
            axis_name: One axis name or several, as for `jax.lax.psum`; several are merged in their order.

        Returns:
            The merged totals, equal on all devices. Metrics whose `merge` is addition use one `psum`; others gather first.

        Example:
            >>> from jaxnn.functional.metrics import accuracy
            >>> scores, labels = jnp.array([[[2.0, 1.0]], [[2.0, 1.0]]]), jnp.array([[0], [1]])  # two devices, one sample each
            >>> def everywhere(p, t):
            ...     return accuracy.compute(accuracy.merge_across(accuracy.update(accuracy.init(), p, t), "devices"))
            >>> jax.vmap(everywhere, axis_name="devices")(scores, labels).tolist()
            [0.5, 0.5]
        """
        if self.merge is add:
            return jax.lax.psum(totals, axis_name)
        size, index = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
        is_own = jnp.arange(size, dtype=index.dtype) == index

        def gathered(leaf: jax.Array) -> jax.Array:  # by a sum, whose result `shard_map` knows to be replicated
            return jax.lax.psum(jnp.where(is_own.reshape(size, *[1] * leaf.ndim), leaf[None], jnp.zeros_like(leaf)), axis_name)

        stacked = jax.tree.map(gathered, totals)
        return reduce(self.merge, [jax.tree.map(lambda leaf: leaf[i], stacked) for i in range(size)])  # noqa: B023

    def __call__(
        self, predictions: Any, targets: Any, where: ArrayLike | None = None, weights: ArrayLike | None = None
    ) -> jax.Array:
        """Compute the metric of one batch."""
        given = {} if weights is None else {"weights": weights}
        return self.compute(self.update(self.init(), predictions, targets, where, **given))


def weighted(metric: Metric | Callable[[Any, Any], jax.Array]) -> Metric:
    """Make a metric to which `fit` and `evaluate` pass the weights of the data, so that a mean becomes Σᵢ wᵢ vᵢ / Σᵢ wᵢ.

    Other metrics count each sample of the data once, and leave out those of weight 0. Keras's `weighted_metrics`.

    Args:
        metric: A metric, or a function as for `as_metric`.

    Returns:
        The metric, with float totals from the start, as a `scan` requires; batches may be with or without weights.

    Raises:
        TypeError: If it is neither; or, when called, if the `update` of a custom metric takes no weights.

    Example:
        >>> from jaxnn.functional.metrics import accuracy
        >>> scores, labels = jnp.array([[2.0, 1.0], [2.0, 1.0]]), jnp.array([0, 1])
        >>> weighted(accuracy)(scores, labels, weights=jnp.array([3.0, 1.0])).item()
        0.75
    """
    metric = as_metric(metric)
    return replace(metric, init=metric.weighted_init or metric.init, is_weighted=True)


def mean(function: Callable[[Any, Any], jax.Array]) -> Metric:
    """Make a metric of a loss: the mean over all samples, whatever the batch sizes, (1/n) Σᵢ f(ŷᵢ, yᵢ).

    Args:
        function: `function(predictions, targets)` that returns the mean over a batch, a scalar, as every loss does, or
            `(sum, weight)`. A loss under a mask counts with what it divides by. With a
            mask or weights, of shape `(batch,)`, it is called for each sample separately, under `vmap`.

    Returns:
        The metric, called with the same arguments as the function.

    Raises:
        TypeError: If it is not a function.
        ValueError: When called, if the function does not return a scalar, or there is no batch axis.

    Example:
        >>> from jaxnn.functional import losses
        >>> mean(losses.mse)(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        2.0
    """
    if not callable(function):
        raise TypeError(f"mean takes a function (predictions, targets) -> scalar, got {function!r}")
    name = getattr(function, "__name__", type(function).__name__)

    def scalar(predictions: Any, targets: Any) -> tuple[jax.Array, jax.Array | None]:
        value, weight = mean_and_weight(function(predictions, targets))
        value = jnp.asarray(value)
        if value.shape:
            raise ValueError(f"{name}: the function returned {spell(value)}, expected the mean over the batch, a scalar")
        if weight is None:
            weight = weight_found(function, predictions, targets)
        return value.astype(float), None if weight is None else jnp.asarray(weight, float)

    def batch(predictions: Any, targets: Any, where: ArrayLike | None, sample_weights: ArrayLike | None) -> Totals:
        shapes = map(jnp.shape, jax.tree.leaves((predictions, targets)))
        size = next((shape[0] for shape in shapes if shape), None)
        if size is None:
            raise ValueError(f"{name}: predictions and targets are single numbers, expected a leading batch axis")
        if where is None and sample_weights is None:
            if not size:  # the mean over no samples may be NaN
                return running("sum", jnp.zeros((), float)) | running("count", jnp.zeros((), float))
            value, weight = scalar(predictions, targets)
            if weight is None:
                return running("sum", size * value) | whole("count", jnp.asarray(size, int))
            return running("sum", weight * value) | running("count", weight)
        mask = weights_of(name, where, sample_weights, (size,))
        single = jax.vmap(lambda p, t: scalar(*jax.tree.map(lambda leaf: leaf[None], (p, t))))
        values, weights = single(*jax.tree.map(jnp.asarray, (predictions, targets)))
        if weights is None:
            return average(values, mask)
        weights = jnp.where(mask.astype(bool), weights * mask.astype(float), 0)
        summed = jnp.sum(jnp.where(weights.astype(bool), values * weights, 0))
        return running("sum", summed) | running("count", jnp.sum(weights))

    return averaged(name, batch)


def as_metric(metric: Metric | Callable[[Any, Any], jax.Array]) -> Metric:
    """Return a metric unchanged, and the `mean` of any function (predictions, targets), such as a loss.

    Args:
        metric: A `Metric`, or `function(predictions, targets)` that returns the mean over a batch.

    Returns:
        The metric.

    Raises:
        TypeError: If `metric` is neither.

    Example:
        >>> from jaxnn.functional import losses
        >>> as_metric(losses.huber).name
        'huber'
    """
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise TypeError(f"expected a Metric or a function (predictions, targets), got {metric!r}")
    return mean(metric)


def averaged(name: str, batch: Callable[..., Totals]) -> Metric:
    """Make a metric that averages; `batch(predictions, targets, where, weights)` returns the sum and count of its values."""

    def init() -> Totals:
        return running("sum", jnp.zeros((), float)) | running("count", jnp.zeros((), float))

    def update(
        totals: Totals, predictions: Any, targets: Any, where: ArrayLike | None = None, weights: ArrayLike | None = None
    ) -> Totals:
        return add(totals, batch(predictions, targets, where, weights))

    return Metric(name, init, update, lambda totals: total_of(totals, "sum") / total_of(totals, "count"))


def average(values: jax.Array, weights: jax.Array) -> Totals:
    """Return the sum and the count of the values, under a mask or with weights."""
    if weights.dtype == bool:
        return running("sum", jnp.sum(jnp.where(weights, values, 0))) | whole("count", counted(weights))
    return running("sum", jnp.sum(jnp.where(weights.astype(bool), values * weights, 0))) | running("count", jnp.sum(weights))


def valid_or_nan(values: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """Return the values, NaN where the label is not a class."""
    labels = labels.astype(int)  # a narrow type may not hold `classes`
    return jnp.where((labels >= 0) & (labels < classes), values.astype(float), jnp.nan)


def classes_of(
    name: str, predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None, weights: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Check scores (…, C) against labels (…,) or one-hot rows (…, C), and return scores, labels and weights."""
    scores, labels = check_predictions(name, predictions), jnp.asarray(targets)
    check_class_axis(name, scores)
    if scores.shape[-1] == 1 or (scores.shape == labels.shape and scores.ndim == 1):
        raise ValueError(
            f"{name}: predictions {spell(scores)} have one score per sample, expected (..., classes) with two or "
            "more classes; for one logit per sample use binary_accuracy"
        )
    if jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == scores.shape:
        return scores, jnp.argmax(labels, axis=-1), weights_of(name, where, weights, labels.shape[:-1])
    labels = check_labels(name, scores, targets)
    counting = weights_of(name, where, weights, labels.shape)
    check_label_range(name, scores, targets, present(counting, where, weights))
    return scores, labels, counting


def binary_of(
    name: str, predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None, weights: ArrayLike | None
) -> tuple[jax.Array, ...]:
    """Check scores against targets 0 and 1 of the same shape, or scores (…, 1) for targets (…,), and the weights.

    Returns:
        The scores, the targets as floats, NaN where they are neither, and the weights, all of one shape.
    """
    scores, labels = check_predictions(name, predictions), jnp.asarray(targets)
    if scores.shape == (*labels.shape, 1):
        scores = scores[..., 0]
    check_same_shape(name, scores, labels)
    counting = weights_of(name, where, weights, labels.shape)
    values = seen(targets, present(counting, where, weights))
    if not ((values == 0) | (values == 1)).all():
        raise ValueError(
            f"{name}: targets run from {values.min()} to {values.max()}, expected only 0 and 1; "
            "for labels -1 and 1 pass (targets + 1) / 2"
        )
    y = labels.astype(float)
    return scores, jnp.where((y == 0) | (y == 1), y, jnp.nan), counting


def weights_of(name: str, where: ArrayLike | None, weights: ArrayLike | None, shape: tuple[int, ...]) -> jax.Array:
    """Return the weight of each counted value: `where` as booleans if there are no weights, else floats, 0 where masked.

    Both are broadcast from the leading axes of `shape` to all of them. Negative weights that are not known now are NaN.
    """
    mask = None if where is None else jnp.asarray(where)
    if mask is not None:
        if mask.dtype != bool:
            raise TypeError(f"{name}: where is {spell(mask)}, expected booleans; pass where != 0")
        mask = _over_shape(name, "where is", mask, shape)
    if weights is None:
        return jnp.ones(shape, bool) if mask is None else mask
    given = jnp.asarray(weights)
    if not jnp.issubdtype(given.dtype, jnp.floating) and not jnp.issubdtype(given.dtype, jnp.integer):
        hint = "; pass a mask as where=" if given.dtype == bool else ""
        raise TypeError(f"{name}: weights are {spell(given)}, expected real numbers{hint}")
    each = _over_shape(name, "weights are", given, shape).astype(float)
    values = seen(each, mask)
    if values.size and not (values >= 0).all():
        raise ValueError(f"{name}: weights run from {values.min()} to {values.max()}, expected nonnegative numbers")
    each = jnp.where(each >= 0, each, jnp.nan)
    return each if mask is None else only(mask, each)


def present(counting: jax.Array, where: ArrayLike | None, weights: ArrayLike | None) -> Any:
    """Return which of the counted values have an effect, for `seen`."""
    return where if weights is None else counting.astype(bool)


def _over_shape(name: str, what: str, array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if array.shape != shape[: array.ndim] or (shape and not array.ndim):
        raise ValueError(f"{name}: {what} {spell(array)}, expected the shape {shape}, or that of its leading axes")
    return jnp.broadcast_to(array.reshape(array.shape + (1,) * (len(shape) - array.ndim)), shape)


def positive_integer(caller: str, name: str, value: Any) -> int:
    """Return a positive integer, or raise a ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{caller}: {name} is {value!r}, expected a positive integer")
    return number
