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
from jaxnn.functional._counted import weight_found
from jaxnn.problem.hyperparameters import loss_of, parameters_of


@dataclass(frozen=True)
class Objective:
    """A custom loss over model, parameters, state, batch and key, accepted wherever a loss is.

    Attributes:
        function: `function(model, params, state, batch, key) -> (loss, (state, predictions))`; the loss is one number, the
            batch's mean, or `(sum, weight)`. The batch is a batch of the data, of any structure. The key is None in
            validation. The metrics are given the predictions and the batch's second entry, or the batch itself if it is not a
            tuple.

    Example:
        An autoencoder with a penalty on its code, on data without targets:

        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> def reconstruct(model, params, state, batch, key):
        ...     y, state = model.apply(params, state, batch, key=key, training=key is not None)
        ...     return nn.losses.mse(y, batch) + 1e-3 * jnp.sum(params["dense"]["kernel"] ** 2), (state, y)
        >>> result = nn.fit(
        ...     nn.serial(nn.dense(2), nn.dense(4)), jnp.eye(4), loss=nn.Objective(reconstruct), optimizer=optax.adam(0.1),
        ...     epochs=50, key=jax.random.key(0), progress=False)
        >>> result.history["loss"][-1] < result.history["loss"][0]
        True
    """

    function: Callable[[Layer, Any, Any, Any, jax.Array | None], tuple[Any, tuple[Any, Any]]]

    def __post_init__(self) -> None:
        function("Objective", "function", self.function, "(model, params, state, batch, key) -> (loss, (state, predictions))")


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
    bound = _no_loss if loss is None else loss_of(loss, values)

    def supervised(model, params, state, batch, key):
        x, y, *weights = batch
        predictions, state = model.apply(params, state, x, key=key, training=key is not None)
        return (_weighted(bound, predictions, y, *weights) if weights else bound(predictions, y)), (state, predictions)

    return Objective(supervised)


def inputs_of(data: Any) -> Any:
    """The model's input in the data: x of `(x, y)`; all of them for an `Objective` on data that are not a tuple."""
    return data[0] if isinstance(data, tuple) else data


def _no_loss(predictions: Any, y: Any, reduction: str = "mean") -> jax.Array:
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
