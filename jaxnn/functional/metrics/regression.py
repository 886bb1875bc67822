"""Metrics of regression: errors, determination and correlation."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional import losses
from jaxnn.functional._checks import check_predictions, check_same_shape, spell
from jaxnn.functional._documented import documented
from jaxnn.functional.metrics.outputs import of_any_outputs
from jaxnn.functional.metrics.stream import Metric, Totals, add, counted, mean, running, total_of, weights_of, whole

_SMALLEST = 2.0**-52  # the smallest divisor of an error, as in scikit-learn


def _mean_absolute_percentage_error(predictions: ArrayLike, targets: ArrayLike) -> jax.Array:
    errors = losses.mae(predictions, targets, reduction="none")
    size = jnp.abs(jnp.asarray(targets).astype(errors.dtype))
    return jnp.mean(errors / jnp.maximum(size, jnp.asarray(_SMALLEST, errors.dtype)))


mse = documented(
    mean(losses.mse),
    """The mean squared error over all samples, (1/n) Σᵢ (yᵢ − ŷᵢ)²: the loss `losses.mse` of the teaching notes as a metric.

    Raises:
        TypeError: If predictions are not floating-point.
        ValueError: If shapes differ.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.metrics.mse(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        2.0
    """,
)
mae = documented(
    mean(losses.mae),
    """The mean absolute error over all samples, (1/n) Σᵢ ∣yᵢ − ŷᵢ∣: the loss `losses.mae` of the teaching notes as a metric.

    Raises:
        TypeError: If predictions are not floating-point.
        ValueError: If shapes differ.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.metrics.mae(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        1.0
    """,
)

rmse = documented(
    replace(mse, name="rmse", compute=lambda totals: jnp.sqrt(mse.compute(totals))),
    """The root of the mean squared error over all samples, √((1/n) Σᵢ (yᵢ − ŷᵢ)²), in the targets' unit.

    For several outputs per sample it is the root of the mean over all of them; scikit-learn averages the roots of each, as
    `multi_output(rmse, outputs)` does.

    Raises:
        TypeError: If predictions are not floating-point.
        ValueError: If shapes differ.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.metrics.rmse(jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1.0, 2.0, 3.0, 6.0])).item()
        1.0
    """,
)

mape = documented(
    replace(mean(_mean_absolute_percentage_error), name="mape"),
    """The mean absolute percentage error, (1/n) Σᵢ ∣yᵢ − ŷᵢ∣/∣yᵢ∣, a fraction, not a percentage, as in scikit-learn.

    As there, ∣yᵢ∣ is at least 2⁻⁵²: a target of 0 with a nonzero error makes the value huge.

    Raises:
        TypeError: If predictions are not floating-point.
        ValueError: If shapes differ.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.metrics.mape(jnp.array([1.0, 3.0]), jnp.array([2.0, 4.0])).item()
        0.375
    """,
)


def pair_of(
    name: str, predictions: ArrayLike, targets: ArrayLike, where: ArrayLike | None, weights: ArrayLike | None
) -> tuple[jax.Array, ...]:
    """Check that there is one output per sample, and return predictions, targets and weights as vectors."""
    predictions, labels = check_predictions(name, predictions), jnp.asarray(targets)
    check_same_shape(name, predictions, labels)
    if labels.ndim == 0 or labels.ndim > 2 or labels.shape[1:] not in ((), (1,)):
        raise ValueError(f"{name}: targets are {spell(labels)}, expected (batch,) or (batch, outputs)")
    counting = weights_of(name, where, weights, labels.shape)
    return predictions.ravel().astype(float), labels.ravel().astype(float), counting.ravel()


def _no_moments(columns: int) -> Totals:
    vector = jnp.zeros(columns, float)
    spread = running("spread", jnp.zeros((columns, columns), float))
    weight = running("weight", jnp.zeros((), float))
    return {"count": jnp.zeros((), int), "pivot": vector, "mean": vector} | weight | spread


def moments_of(weights: jax.Array, *columns: jax.Array) -> Totals:
    """Return count, weight, means and sums of products of deviations, under a mask or with weights.

    Means are relative to the pivot, the first sample that counts.
    """
    x = jnp.stack(columns, axis=1)
    mask = weights.astype(bool)
    count = counted(mask)
    weight = whole("weight", count) if weights.dtype == bool else running("weight", jnp.sum(weights))
    each = weights.astype(float)[:, None]
    pivot = jnp.where(count > 0, x[jnp.argmax(mask)], 0)
    shifted = jnp.where(mask[:, None], x - pivot[None], 0)
    mean = jnp.sum(each * shifted, axis=0) / jnp.where(count > 0, weight["weight"], 1)
    deviations = jnp.where(mask[:, None], shifted - mean[None], 0)
    spread = jnp.einsum("ni,nj->ij", each * deviations, deviations, precision="highest")
    return {"count": count, "pivot": pivot, "mean": mean} | weight | running("spread", spread)


def _merged(a: Totals, b: Totals) -> Totals:
    """Merge the moments of two parts: Chan, Golub and LeVeque (1983)."""
    count = a["count"] + b["count"]
    weight = add(*(_total(part, "weight") for part in (a, b)))
    share = total_of(b, "weight") / jnp.where(count > 0, total_of(weight, "weight"), 1)
    pivot = jnp.where(a["count"] > 0, a["pivot"], b["pivot"])
    mean_b = (b["pivot"] - pivot) + b["mean"]
    mean_a = jnp.where(a["count"] > 0, a["mean"], mean_b)
    delta = mean_b - mean_a
    between = total_of(a, "weight") * share * (delta[:, None] * delta[None, :])
    spread = add(add(*(_total(part, "spread") for part in (a, b))), running("spread", between))
    return {"count": count, "pivot": pivot, "mean": mean_a + share * delta} | weight | spread


def _total(totals: Totals, name: str) -> Totals:
    return {name: totals[name], name + "_rounding": totals[name + "_rounding"]}


def _r2_init() -> Totals:
    return _no_moments(1) | running("residual", jnp.zeros((), float))


def _r2_update(
    totals: Totals,
    predictions: ArrayLike,
    targets: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Totals:
    predictions, targets, counting = pair_of("r2", predictions, targets, where, weights)
    return _r2_merge(totals, _r2_batch(predictions, targets, counting)) if counting.size else totals


@jax.jit
def _r2_batch(predictions: jax.Array, targets: jax.Array, weights: jax.Array) -> Totals:
    residual = jnp.sum(jnp.where(weights.astype(bool), weights.astype(float) * jnp.square(targets - predictions), 0))
    return moments_of(weights, targets) | running("residual", residual)


@jax.jit
def _r2_merge(a: Totals, b: Totals) -> Totals:
    return _merged(a, b) | add(*(_total(part, "residual") for part in (a, b)))


def _r2_compute(totals: Totals) -> jax.Array:
    spread, residual = total_of(totals, "spread")[0, 0], total_of(totals, "residual")
    flat = jnp.where(residual == 0, 1.0, jnp.where(jnp.isnan(residual), jnp.nan, 0.0))
    value = jnp.where(spread == 0, flat, 1 - residual / jnp.where(spread == 0, 1, spread))
    return jnp.where(totals["count"] < 2, jnp.nan, value)


r2 = documented(
    of_any_outputs(Metric("r2", _r2_init, _r2_update, _r2_compute, _r2_merge)),
    """The coefficient of determination: R² = 1 − Σ(y − ŷ)²/Σ(y − ȳ)², scikit-learn's `r2_score`.

    Of several outputs, (batch, outputs), it is the mean of the R² of each, scikit-learn's "uniform_average". In a `scan`,
    such as those of `fit` and `evaluate`, pass `multi_output(r2, outputs)`, whose totals have the outputs from the start.

    1 is perfect, 0 as good as predicting the mean. If all targets are equal, perfect predictions give 1 and others 0; fewer
    than two samples give NaN. The sums Σ(y − ȳ)² of separate batches are merged with their means (Chan, Golub and LeVeque,
    1983), and the mean is stored relative to the first target, so that nothing cancels in float32, however far the targets
    are from 0.

    Raises:
        TypeError: If predictions are not floating-point.
        ValueError: If shapes differ, or are neither (batch,) nor (batch, outputs).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> round(nn.metrics.r2(jnp.array([0.0, 2.0, 4.0, 5.0]), jnp.array([0.0, 2.0, 4.0, 6.0])).item(), 4)
        0.95
    """,
)


def _pearson_update(
    totals: Totals,
    predictions: ArrayLike,
    targets: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Totals:
    predictions, targets, counting = pair_of("pearson", predictions, targets, where, weights)
    return _pearson_merge(totals, _pearson_batch(counting, predictions, targets)) if counting.size else totals


_pearson_batch = jax.jit(moments_of)
_pearson_merge = jax.jit(_merged)


def _pearson_compute(totals: Totals) -> jax.Array:
    return correlation(total_of(totals, "spread"), totals["count"])


def correlation(spread: jax.Array, count: jax.Array) -> jax.Array:
    """Return Σxy/√(Σx² Σy²) of sums of products (2, 2); NaN if one of the two is constant."""
    deviations = jnp.sqrt(jnp.diagonal(spread))
    value = spread[0, 1] / deviations[0] / deviations[1]
    return jnp.where((count < 2) | (deviations == 0).any(), jnp.nan, jnp.clip(value, -1, 1))


pearson = documented(
    of_any_outputs(Metric("pearson", lambda: _no_moments(2), _pearson_update, _pearson_compute, _pearson_merge)),
    """Pearson's correlation of predictions and targets, Σ(x − x̄)(y − ȳ)/√(Σ(x − x̄)² Σ(y − ȳ)²).

    From −1 to 1; NaN for fewer than two samples, or if predictions or targets are constant. The totals are merged like
    those of `r2`, so that nothing cancels in float32. SciPy's `pearsonr`. Of several outputs, the mean over them, as for
    `r2`.

    Raises:
        TypeError: If predictions are not floating-point.
        ValueError: If shapes differ, or are neither (batch,) nor (batch, outputs).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> round(nn.metrics.pearson(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 4.0, 6.0])).item(), 4)
        1.0
    """,
)
