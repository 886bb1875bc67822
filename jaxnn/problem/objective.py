"""Objectives: the scalar functions that training minimizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.checks import function
from jaxnn.core.layer import Layer
from jaxnn.core.text import array_text
from jaxnn.functional._counted import weight_found
from jaxnn.functional.metrics import Metric
from jaxnn.functional.metrics.stream import averaged, running
from jaxnn.problem.batches import leading_size
from jaxnn.problem.hyperparameters import loss_of, parameters_of
from jaxnn.problem.running import named_metrics


@dataclass(frozen=True)
class Objective:
    """A custom loss over model, parameters, state, batch and key, accepted wherever a loss is.

    Attributes:
        function: `function(model, params, state, batch, key) -> (loss, (state, predictions))`; the loss is one number, the
            batch's mean, or `(sum, weight)`. The batch is a batch of the data, of any structure. The key is None in
            validation. The metrics are given the predictions and the batch's second entry, or the batch itself if it is not a
            tuple; the predictions may be anything that they take, such as a number, and None without metrics. The layers
            inside the model are `model.children["name"]`, with the parameters `params["name"]`.
        terms: Names of terms of the loss that the history shows, also as `val_` those of validation. The predictions are then
            a dict with a number for each, the batch's mean.
        inputs: `inputs(batch) -> x`, what the model is initialized on; by default the first entry of a batch that is a tuple,
            else the whole batch.

    Raises:
        TypeError: If `function` or `inputs` is not a function, or `terms` is not a sequence of names.

    Example:
        An autoencoder with a penalty on its code, on data without targets:

        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> def reconstruct(model, params, state, batch, key):
        ...     y, state = model.apply(params, state, batch, key=key, training=key is not None)
        ...     error, penalty = nn.losses.mse(y, batch), jnp.sum(params["dense"]["kernel"] ** 2)
        ...     return error + 1e-3 * penalty, (state, {"error": error, "penalty": penalty})
        >>> result = nn.fit(
        ...     nn.serial(nn.dense(2), nn.dense(4)), jnp.eye(4), loss=nn.Objective(reconstruct, terms=("error", "penalty")),
        ...     optimizer=optax.adam(0.1), epochs=50, key=jax.random.key(0), progress=False)
        >>> result.history["error"][-1] < result.history["error"][0]
        True
    """

    function: Callable[[Layer, Any, Any, Any, jax.Array | None], tuple[Any, tuple[Any, Any]]]
    terms: tuple[str, ...] = ()
    inputs: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        function("Objective", "function", self.function, "(model, params, state, batch, key) -> (loss, (state, predictions))")
        if self.inputs is not None:
            function("Objective", "inputs", self.inputs, "(batch) -> x")
        if not isinstance(self.terms, tuple | list) or not all(isinstance(name, str) for name in self.terms):
            raise TypeError(f'Objective takes terms as a tuple of names, such as ("error", "penalty"), got {self.terms!r}')
        object.__setattr__(self, "terms", tuple(self.terms))


def objective_of(loss: Any, values: Mapping[str, Any]) -> Objective:
    """The `Objective` of a loss: the loss itself if it is one, else the loss of the model's predictions for x against y.

    Args:
        loss: A loss `(predictions, y) -> scalar` or `-> (sum, weight)`, an `Objective`, or None for metrics without a loss.
        values: Hyperparameters by name; the loss is given those that its signature names.

    Raises:
        TypeError: If the loss cannot be called as `loss(predictions, y)`.
    """
    if isinstance(loss, Objective):
        return loss
    if parameters := parameters_of(loss):
        try:
            inspect.Signature([p for name, p in parameters.items() if name not in values]).bind(None, None)
        except TypeError as error:
            name = getattr(loss, "__name__", "the loss")
            raise TypeError(f"a loss is called as loss(predictions, y), which {name} does not allow: {error}") from None
    bound = no_loss if loss is None else loss_of(loss, values)

    def supervised(model, params, state, batch, key):
        x, y, *weights = batch
        predictions, state = model.apply(params, state, x, key=key, training=key is not None)
        return (_weighted(bound, predictions, y, *weights) if weights else bound(predictions, y)), (state, predictions)

    return Objective(supervised)


def inputs_of(data: Any, loss: Any) -> Any:
    """The model's input in a batch, or its shapes: x of `(x, y)`, or what the `Objective` says."""
    if isinstance(loss, Objective) and loss.inputs is not None:
        is_abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(data))
        return jax.eval_shape(loss.inputs, data) if is_abstract else loss.inputs(data)
    return data[0] if isinstance(data, tuple) else data


def with_terms(metrics: Mapping[str, Any] | None, loss: Any) -> Mapping[str, Any] | None:
    """The metrics with the terms of an `Objective`; a metric with the name of a term takes its place."""
    named_metrics(metrics)
    if not isinstance(loss, Objective) or not loss.terms:
        return metrics
    return {name: _term(name) for name in loss.terms} | dict(metrics or {})


def _term(name: str) -> Metric:
    def batch(predictions: Any, targets: Any, where: Any, weights: Any) -> dict[str, jax.Array]:
        if not isinstance(predictions, dict) or name not in predictions:
            raise ValueError(
                f"the objective has the term {name!r}: expected predictions that are a dict with a number of this name, got "
                f"{array_text(predictions)}"
            )
        value = predictions[name]
        if jnp.shape(value):
            raise ValueError(
                f"the term {name!r} of the objective is one number per batch, got {array_text(value)}: take its mean"
            )
        count = jnp.asarray(leading_size(targets) if where is None else jnp.sum(where), float)
        return running("sum", jnp.where(count == 0, 0.0, jnp.asarray(value, float) * count)) | running("count", count)

    return averaged(name, batch)


def no_loss(predictions: Any, y: Any, reduction: str = "mean") -> jax.Array:
    """A loss of 0, where there is none."""
    return jnp.zeros(()) if reduction == "mean" else jnp.zeros(jax.tree.leaves(predictions)[0].shape[:1])


def _weighted(loss: Callable, predictions: Any, y: Any, weights: jax.Array) -> Any:
    """Σ wᵢ lᵢ / Σ wᵢ, or 0 if all weights are 0; with cᵢ elements of sample i that count, Σ wᵢ Σⱼ lᵢⱼ / Σ wᵢ cᵢ."""
    unreduced = lambda predictions, y: loss(predictions, y, reduction="none")  # noqa: E731
    try:
        each = unreduced(predictions, y)
    except TypeError as error:
        loss(predictions, y)  # fails in the same way if the predictions or targets are the cause
        raise TypeError(
            "with weights, the loss must take reduction='none' and return one loss per sample, as those of nn.losses do; "
            f"{getattr(loss, '__name__', loss)!r} does not: {error}"
        ) from error
    counts = weight_found(unreduced, predictions, y, shape=each.shape)
    weights = weights.astype(each.dtype)
    each = each.reshape(each.shape[0], -1)
    if counts is None:
        total = weights.sum()
        return jnp.sum(each.mean(1) * weights) / jnp.where(total == 0, jnp.ones_like(total), total)
    return jnp.sum(each.sum(1) * weights), jnp.sum(counts.reshape(each.shape).sum(1).astype(weights.dtype) * weights)
