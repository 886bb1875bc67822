"""Loss and metrics over a data set, and predictions, in batches of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.checks import whole
from jaxnn.core.layer import Layer
from jaxnn.problem.batches import even_size, leading_size, over_batches
from jaxnn.problem.checks import checked_data, checked_inputs, checked_labels
from jaxnn.problem.hyperparameters import model_of, split
from jaxnn.problem.running import named_metrics, totals_of
from jaxnn.train.step import objective_of


def evaluate(
    model: Layer,
    result: Any,
    data: tuple[Any, Any],
    *,
    loss: Callable | None = None,
    metrics: Mapping[str, Any] | None = None,
    batch_size: int = 256,
) -> dict[str, float]:
    """The loss and the metrics of a trained model on a data set, every sample counted once.

    Args:
        model: the model.
        result: what `fit` returned, or `(params, state)`.
        data: `(x, y)`.
        loss: the loss; that of `fit` by default.
        metrics: metrics by name; those of `fit` by default.
        batch_size: samples a batch; the values do not depend on it.

    Returns:
        A dict of numbers: `"loss"`, if there is one, and each metric.

    Raises:
        ValueError: on bad data, as `fit`, or if there is neither a loss nor a metric.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model, x = nn.dense(2), jnp.eye(2)
        >>> trained = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}, {}
        >>> nn.evaluate(model, trained, (x, jnp.array([0, 1])), metrics={"accuracy": nn.metrics.accuracy})
        {'accuracy': 1.0}
    """
    params, state = trained(result)
    loss = loss if loss is not None else getattr(result, "loss", None)
    metrics = metrics if metrics is not None else getattr(result, "metrics", None)
    if loss is None and not metrics:
        raise ValueError("there is nothing to evaluate: give loss=, metrics=, or the result of fit, which has both")
    data = checked_data(data)
    checked_labels(model, data, params, state)
    named_metrics(metrics)  # for its errors; the programs are kept by the metrics as they were given
    program = _evaluation_program(model, loss, tuple((metrics or {}).items()), whole("evaluate", "batch_size", batch_size))
    return as_numbers(program(params, state, data))


def predict(model: Layer, result: Any, x: Any, *, batch_size: int = 256) -> Any:
    """The model's output for inputs of any number, computed in batches, dropout and the like off.

    Args:
        model: the model.
        result: what `fit` returned, or `(params, state)`.
        x: the inputs, batched.
        batch_size: samples a batch.

    Returns:
        The predictions, with the leading axis of `x`.

    Raises:
        ValueError: on bad inputs, as `fit`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.predict(nn.dense(2), ({"kernel": jnp.eye(2), "bias": jnp.zeros(2)}, {}), jnp.ones((1000, 2))).shape
        (1000, 2)
    """
    params, state = trained(result)
    return _prediction_program(model, whole("predict", "batch_size", batch_size))(params, state, checked_inputs(x, "x"))


def evaluation(
    model: Any,
    *,
    loss: Any,
    metrics: Mapping[str, Any] | None,
    batch_size: int,
    hyperparameters: Mapping[str, Any] | None = None,
) -> Callable:
    """`run(params, state, data, hyperparameters={}, step=0) -> logs`, pure; the hyperparameters are the traced ones."""
    start, update, finish = totals_of(metrics)
    fixed, _ = split(hyperparameters)

    def run(params, state, data, traced=None, step=0):
        values = fixed.at(traced or {}, step)
        layer = model_of(model, values)
        objective = objective_of(_no_loss if loss is None else loss, values).function

        def one(totals, batch):
            value, (_, predictions) = objective(layer, params, state, batch, None)
            return update(totals, value, predictions, batch), None

        totals, _ = over_batches(one, start(), data, even_size(leading_size(data), batch_size))
        logs = finish(totals)
        return logs if loss is not None else {k: v for k, v in logs.items() if k != "loss"}

    return run


def _no_loss(predictions: Any, y: Any) -> jax.Array:
    return jnp.zeros(())


def as_numbers(logs: dict[str, jax.Array]) -> dict[str, Any]:
    """The logs on the host: numbers as floats, and the loss first."""
    logs = jax.device_get(logs)
    names = sorted(logs, key=lambda name: (name.startswith("val_"), not name.endswith("loss")))
    return {name: float(logs[name]) if logs[name].ndim == 0 else logs[name] for name in names}


def trained(result: Any) -> tuple[Any, Any]:
    """`(params, state)` of what `fit` returned or of the pair itself.

    Raises:
        TypeError: if it is neither.
    """
    if hasattr(result, "params") and hasattr(result, "state"):
        return result.params, result.state
    if isinstance(result, tuple) and len(result) == 2 and all(isinstance(part, dict) for part in result):
        return result
    raise TypeError(f"give what fit returned, or (params, state), two dicts; got {type(result).__name__}")


@lru_cache(maxsize=64)
def _evaluation_program(model: Layer, loss: Callable | None, metrics: tuple, batch_size: int) -> Callable:
    return kernels.jit(evaluation(model, loss=loss, metrics=dict(metrics), batch_size=batch_size))


@lru_cache(maxsize=64)
def _prediction_program(model: Layer, batch_size: int) -> Callable:
    def run(params, state, x):
        def one(carry, batch):
            return carry, model.apply(params, state, batch)[0]

        return over_batches(one, None, x, even_size(leading_size(x), batch_size))[1]

    return kernels.jit(run)
