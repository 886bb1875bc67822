"""Running totals of the loss and the metrics over batches that may differ in size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.core.checks import function
from jaxnn.functional.metrics import Metric, as_metric
from jaxnn.functional.metrics.stream import add, running, total_of
from jaxnn.problem.batches import leading_size


class Totals(NamedTuple):
    """How totals start, grow and end.

    Attributes:
        start: `start() -> totals`.
        update: `update(totals, loss, weight, predictions, batch) -> totals`, the loss being the batch's mean and `weight` its
            weight. Metrics leave out samples of weight 0; other weights count in the loss and in `weighted` metrics.
        finish: `finish(totals) -> logs`, by name.
    """

    start: Callable[[], Any]
    update: Callable[[Any, jax.Array, jax.Array, Any, Any], Any]
    finish: Callable[[Any], dict[str, jax.Array]]


def totals_of(metrics: Mapping[str, Any] | None) -> Totals:
    """The totals of the loss and these metrics; sums carry what they lose in rounding, as those of metrics do."""
    streams = named_metrics(metrics)

    def sums(loss, weight):
        return running("loss", jnp.asarray(loss, jnp.float32)) | running("weight", jnp.asarray(weight, jnp.float32))

    def start():
        return sums(0, 0), {k: m.init() for k, m in streams.items()}

    def update(totals, loss, weight, predictions, batch):
        before, states = totals
        where = {"where": batch[2] > 0} if has_weights(batch) else {}
        weights = {"weights": batch[2]} if has_weights(batch) else {}
        for name, metric in streams.items():
            given = where | (weights if metric.is_weighted else {})
            after = metric.update(states[name], predictions, targets_of(batch), **given)
            if jax.tree.map(jnp.shape, after) != jax.tree.map(jnp.shape, states[name]):
                raise ValueError(
                    f"the totals of the metric {name!r} change their shapes, expected one output per sample: for several, pass "
                    "nn.metrics.multi_output(metric, outputs)"
                )
            states = states | {name: after}
        return add(before, sums(jnp.asarray(loss, jnp.float32) * weight, weight)), states

    def finish(totals):
        last, states = totals
        mean = total_of(last, "loss") / total_of(last, "weight")
        return {"loss": mean} | {k: m.compute(states[k]) for k, m in streams.items()}

    return Totals(start, update, finish)


def named_metrics(metrics: Mapping[str, Any] | None) -> dict[str, Metric]:
    """The metrics by name, with functions made into metrics.

    Raises:
        TypeError: If they are not a mapping, or one is not a metric.
        ValueError: If one is called `"loss"`.
    """
    if not isinstance(metrics, Mapping | None):
        raise TypeError(f'metrics are given by name, as {{"accuracy": nn.metrics.accuracy}}, got {metrics!r}')
    if "loss" in (metrics or {}):
        raise ValueError("a metric called 'loss' would hide the loss: give it another name")
    for name, metric in (metrics or {}).items():
        if not isinstance(metric, Metric):
            function("metrics", repr(name), metric, "(predictions, targets) -> number, or a Metric")
    return {name: as_metric(metric) for name, metric in (metrics or {}).items()}


def weight_of(batch: Any) -> jax.Array:
    """The weight of a batch in a mean: the number of its samples, or the sum of their weights."""
    if has_weights(batch):
        return jnp.sum(batch[2].astype(jnp.float32))
    return jnp.asarray(leading_size(batch), jnp.float32)


def targets_of(batch: Any) -> Any:
    """The targets that metrics compare predictions with."""
    return batch[1] if isinstance(batch, tuple) else batch


def has_weights(batch: Any) -> bool:
    """Whether a batch is `(x, y, weights)`."""
    return isinstance(batch, tuple) and len(batch) == 3


def with_validation(logs: dict, validation: dict | None) -> dict:
    """The logs of training and validation in one dict."""
    return logs | {f"val_{name}": value for name, value in (validation or {}).items()}


def check_numbers(logs: dict) -> dict:
    """The logs, if each is a number.

    Raises:
        ValueError: If one is an array, which a history cannot hold.
    """
    for name, value in logs.items():
        if jnp.shape(value):
            raise ValueError(
                f"the metric {name!r} is an array of shape {list(jnp.shape(value))}, and a history holds numbers: "
                "compute it after training, nn.evaluate(result, data, metrics={...})"
            )
    return logs
