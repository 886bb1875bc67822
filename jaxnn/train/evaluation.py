"""Loss and metrics over a data set, and predictions, in batches of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from jaxnn import compiled
from jaxnn.core.checks import whole
from jaxnn.core.layer import Layer
from jaxnn.problem.batches import (
    Filled,
    Padded,
    abstract_batch,
    even_size,
    filled_size,
    in_batches,
    leading_size,
    over_batches,
    padded_size,
    with_rows,
)
from jaxnn.problem.checks import checked_data, checked_inputs
from jaxnn.problem.labels import labels_of
from jaxnn.problem.objective import Objective, with_terms
from jaxnn.problem.problem import Problem
from jaxnn.problem.running import totals_of
from jaxnn.train.filling import may_fill


@jax.transfer_guard("allow")
def evaluate(
    result: Any,
    data: Any,
    *,
    loss: Any = None,
    metrics: Mapping[str, Any] | None = None,
    batch_size: int = 256,
) -> dict[str, float]:
    """The loss and the metrics of a trained model on a data set, every sample counted once.

    A loss that is a mean under a mask, such as `nn.losses.cross_entropy(predictions, y, where=mask)`, is the mean over all
    unmasked elements.

    Args:
        result: What `fit` returned, a member of a sweep, or `(model, params, state)`.
        data: Arrays, as for `fit`: `(x, y)` or `(x, y, weights)`; with an `Objective`, whatever it takes.
        loss: The loss, or an `Objective`; by default that of `fit`.
        metrics: Metrics by name; by default those of `fit`.
        batch_size: Samples per batch; the values do not depend on it.

    Returns:
        A dict of numbers: `"loss"`, if there is one, and each metric.

    Raises:
        TypeError: If `result` is neither a result nor `(model, params, state)`.
        ValueError: On bad data, as `fit`, or if there is neither a loss nor a metric.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model, params = nn.dense(2), {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
        >>> data = jnp.eye(2), jnp.array([0, 1])
        >>> nn.evaluate((model, params, {}), data, metrics={"accuracy": nn.metrics.accuracy})
        {'accuracy': 1.0}
    """
    model, params, state = trained(result)
    loss = loss if loss is not None else getattr(result, "loss", None)
    metrics = metrics if metrics is not None else getattr(result, "metrics", None)
    if loss is None and not metrics:
        raise ValueError("there is nothing to evaluate: give loss=, metrics=, or the result of fit, which has both")
    metrics = with_terms(metrics, loss)
    batch_size = whole("evaluate", "batch_size", batch_size)
    objective = isinstance(loss, Objective)
    data = checked_data(data, objective=objective)
    if not objective and (labels := labels_of(loss, model, abstract_batch(data, batch_size), params, state)):
        labels.check(data[1])
    fill = may_fill(Problem(model, loss), metrics, params, state, abstract_batch(data, batch_size))
    data = in_batches(data, batch_size, fill=fill)
    program = compiled.program(
        "evaluate",
        lambda: evaluation(Problem(model, loss), metrics),
        (model, loss, dict(metrics or {})),
        (params, state, data),
    )
    return as_numbers(program(params, state, data))


@jax.transfer_guard("allow")
def predict(result: Any, x: Any, *, batch_size: int = 256) -> Any:
    """The model's output for any number of inputs, computed in batches, in inference mode.

    Args:
        result: What `fit` returned, a member of a sweep, or `(model, params, state)`.
        x: The inputs, batched.
        batch_size: Samples per batch.

    Returns:
        The predictions, with the leading axis of `x`.

    Raises:
        TypeError: If `result` is neither a result nor `(model, params, state)`.
        ValueError: On bad inputs, as `fit`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> params = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
        >>> nn.predict((nn.dense(2), params, {}), jnp.ones((1000, 2))).shape
        (1000, 2)
    """
    model, params, state = trained(result)
    batch_size, x = whole("predict", "batch_size", batch_size), checked_inputs(x, "x")

    def make():
        def one(params, state, batch):
            return model.apply(params, state, batch)[0]

        def run(params, state, x):
            one_batch = lambda _, batch: (None, one(params, state, batch))  # noqa: E731
            return over_batches(one_batch, None, x, even_size(leading_size(x), batch_size))[1]

        return run

    arguments = params, state, with_rows(x, padded_size(x))  # rows do not depend on each other
    with errors_for(make, params, state, x):
        program = compiled.program("predict", make, (model, batch_size), arguments)
    return with_rows(program(*arguments), leading_size(x))


@contextmanager
def errors_for(make: Callable[[], Callable], *arguments: Any) -> Iterator[None]:
    """A context in which an error about the shapes of padded inputs becomes the one about the inputs that were given."""
    try:
        yield
    except (TypeError, ValueError):
        jax.eval_shape(make(), *arguments)
        raise


def evaluation(problem: Problem, metrics: Mapping[str, Any] | None, batch_size: int = 0) -> Callable:
    """`run(params, state, data, hyperparameters=None, step=0, epoch=0) -> logs`, pure; the hyperparameters are the traced ones.

    The data may be `Padded` or `Filled`, which has a batch size of its own.
    """
    totals = totals_of(metrics)

    def run(params, state, data, traced=None, step=0, epoch=0):
        bound = problem.bound(problem.hyperparameters.at(traced or {}, step, epoch), None)

        def one(carry, batch):
            value, (weight, _, predictions) = bound.weighted(params, state, batch, None)
            return totals.update(carry, value, weight, predictions, batch), None

        if isinstance(data, Padded | Filled):
            size = data.batch_size
        elif may_fill(problem, metrics, params, state, abstract_batch(data, batch_size)):
            size = filled_size(leading_size(data), batch_size)
            data = Filled(data, leading_size(data), size)
        else:
            size = even_size(leading_size(data), batch_size)
        last, _ = over_batches(one, totals.start(), data, size)
        logs = totals.finish(last)
        return logs if problem.loss is not None else {k: v for k, v in logs.items() if k != "loss"}

    return run


def as_numbers(logs: dict[str, jax.Array]) -> dict[str, Any]:
    """The logs on the host: numbers as floats, and the loss first."""
    logs = jax.device_get(logs)
    names = sorted(logs, key=lambda name: (name.startswith("val_"), not name.endswith("loss")))
    return {name: float(logs[name]) if logs[name].ndim == 0 else logs[name] for name in names}


def trained(result: Any) -> tuple[Layer, Any, Any]:
    """`(model, params, state)` of a result, or the triple itself.

    Raises:
        TypeError: If it is neither.
    """
    if all(hasattr(result, name) for name in ("model", "params", "state")):
        return result.model, result.params, result.state
    if isinstance(result, tuple) and len(result) == 3 and isinstance(result[0], Layer):
        return result
    raise TypeError(
        "expected what nn.fit returned, or (model, params, state) with the model a Layer; "
        + (
            "got a Layer first: nn.evaluate(result, data) and nn.predict(result, x) take the model from the result"
            if isinstance(result, Layer)
            else f"got {type(result).__name__}"
        )
    )


def weights_of(result: Any) -> tuple[Any, Any]:
    """`(params, state)` of what `fit` returned, or the pair itself.

    Raises:
        TypeError: If it is neither.
    """
    if hasattr(result, "params") and hasattr(result, "state"):
        return result.params, result.state
    if isinstance(result, tuple) and len(result) == 2 and all(isinstance(part, dict) for part in result):
        return result
    raise TypeError(f"initial is what fit returned, or (params, state), two dicts; got {type(result).__name__}")
