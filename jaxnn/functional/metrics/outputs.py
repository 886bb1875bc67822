"""Metrics of several outputs per sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional.metrics.stream import Metric, Totals, add, positive_integer


def multi_output(metric: Metric, outputs: int, *, average: str = "macro") -> Metric:
    """Make the metric of several outputs per sample, the mean of the metric m of each: (1/k) Σⱼ m(ŷ·ⱼ, y·ⱼ).

    scikit-learn's `multioutput="uniform_average"`, and its macro average over labels that do not exclude each other. Each
    output has totals of its own, so that all count alike, whatever their scale.

    Args:
        metric: A metric of one output per sample, such as `r2`, `rmse`, `roc_auc()` or `f1()`.
        outputs: Number of outputs.
        average: "macro", the mean over outputs; "none", one value per output.

    Returns:
        The metric of predictions and targets of shape (batch, outputs); the shape of a mask or of weights is (batch,) or
        (batch, outputs). Targets that the metric does not take make it NaN, as under `jit`.

    Raises:
        TypeError: If it is not a metric.
        ValueError: If outputs is not a positive integer, or average is unknown; when called, if shapes do not match.

    Example:
        >>> from jaxnn.functional.metrics import rmse
        >>> multi_output(rmse, 2, average="none")(jnp.array([[1.0, 5.0]]), jnp.array([[3.0, 6.0]])).tolist()
        [2.0, 1.0]
    """
    if not isinstance(metric, Metric):
        raise TypeError(f"multi_output: expected a Metric, got {metric!r}")
    if average not in ("macro", "none"):
        raise ValueError(f"multi_output: average is {average!r}, expected 'macro' or 'none'")
    outputs = positive_integer("multi_output", "outputs", outputs)

    def update(totals: Totals, predictions: Any, targets: Any, where: ArrayLike | None = None, **weights: Any) -> Totals:
        shapes = jnp.shape(predictions), jnp.shape(targets)
        if any(len(shape) != 2 or shape[1] != outputs for shape in shapes):
            raise ValueError(
                f"{metric.name}: predictions and targets have the shapes {shapes[0]} and {shapes[1]}, expected "
                f"(batch, {outputs}) for {outputs} outputs"
            )
        arrays = {"predictions": predictions, "targets": targets, "where": where} | weights
        arrays = {name: jnp.asarray(array) for name, array in arrays.items() if array is not None}
        axes = {name: 1 if array.ndim == 2 else None for name, array in arrays.items()}
        return jax.vmap(lambda totals, arrays: metric.update(totals, **arrays), in_axes=(0, axes))(totals, arrays)

    def compute(totals: Totals) -> jax.Array:
        values = jax.vmap(metric.compute)(totals)
        return jnp.mean(values, axis=0) if average == "macro" else values

    weighted_init = metric.weighted_init
    return replace(
        metric,
        init=lambda: _repeated(metric.init(), outputs),
        update=update,
        compute=compute,
        merge=add if metric.merge is add else jax.vmap(metric.merge),
        weighted_init=weighted_init and (lambda: _repeated(weighted_init(), outputs)),
    )


def of_any_outputs(metric: Metric) -> Metric:
    """Let a metric of one output take several: the mean over outputs, as in `multi_output`.

    Totals of no samples are those of one output, so a `scan` over several requires `multi_output`. They have a scalar `count`.
    """

    def form(outputs: int) -> Metric:
        return multi_output(metric, outputs) if outputs else metric

    def grown(totals: Totals, outputs: int) -> Totals:
        return _repeated(totals, outputs) if outputs and not _outputs(totals) else totals

    def update(totals: Totals, predictions: Any, targets: Any, where: ArrayLike | None = None, **weights: Any) -> Totals:
        shape = jnp.shape(predictions)
        several = len(shape) == 2 and shape[1] > 1 and shape == jnp.shape(targets)
        outputs = _outputs(totals) or (shape[1] if several else 0)
        return form(outputs).update(grown(totals, outputs), predictions, targets, where, **weights)

    def merge(a: Totals, b: Totals) -> Totals:
        outputs = _outputs(a) or _outputs(b)
        return form(outputs).merge(grown(a, outputs), grown(b, outputs))

    return replace(metric, update=update, compute=lambda totals: form(_outputs(totals)).compute(totals), merge=merge)


def _outputs(totals: Totals) -> int:
    """Return the number of outputs of totals with an axis of outputs, else 0."""
    shape = jnp.shape(totals["count"])
    return shape[0] if shape else 0


def _repeated(totals: Totals, outputs: int) -> Totals:
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (outputs, *jnp.shape(a))), totals)
