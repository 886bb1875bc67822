"""Whether batches may be filled with samples of weight 0, so that data of different sizes share a program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxnn import compiled
from jaxnn.core.trees import abstract
from jaxnn.functional import losses
from jaxnn.functional._counted import weight_found
from jaxnn.functional.metrics import Metric
from jaxnn.problem.batches import leading_size
from jaxnn.problem.hyperparameters import loss_of, parameters_of
from jaxnn.problem.objective import no_loss
from jaxnn.problem.problem import Problem
from jaxnn.programs.independence import is_independent


def may_fill(problem: Problem, metrics: Mapping[str, Any] | None, params: Any, state: Any, batch: Any, key: Any = None) -> bool:
    """Whether samples of weight 0 in a batch change nothing but rounding.

    It is so if the model treats each sample alone and has no state, and the loss and the metrics are means over samples that
    take weights and masks: losses of `nn.losses` themselves, and metrics of any kind.

    Args:
        problem: The problem; one with an augmentation or a view is never filled.
        metrics: The metrics by name.
        params: The parameters, arrays or shapes.
        state: The state, likewise.
        batch: A batch, likewise.
        key: The key of a training step, or its shape; None for inference mode.
    """
    if problem.augment is not None or problem.view is not None or not isinstance(batch, tuple) or leading_size(batch) < 2:
        return False
    if not (problem.loss is None or _is_of_library(problem.loss)) or not all(map(_takes_masks, (metrics or {}).values())):
        return False
    if key is not None and jax.tree.leaves(state):
        return False

    def found(params, state, batch, key):
        bound = problem.at()
        loss = no_loss if problem.loss is None else loss_of(problem.loss, bound.values)
        unreduced = lambda predictions, y: loss(predictions, y, reduction="none")  # noqa: E731

        def each(batch):
            predictions, _ = bound.layer.apply(params, state, batch[0], key=key, training=key is not None)
            return predictions, unreduced(predictions, batch[1])

        predictions, values = each(batch)
        is_plain_mean = (
            values.shape[:1] == (leading_size(batch),)
            and weight_found(loss, predictions, batch[1]) is None
            and weight_found(unreduced, predictions, batch[1], shape=values.shape) is None
        )
        return values if is_plain_mean and is_independent(each, batch) else None

    known = problem.hyperparameters
    configuration = problem.model, problem.loss, known.fixed, known.schedules, known.traced
    return compiled.shapes("fill", lambda: found, configuration, abstract((params, state, batch, key))) is not None


def _is_of_library(loss: Any) -> bool:
    while isinstance(loss, functools.partial):
        loss = loss.func
    return any(loss is getattr(losses, name) for name in losses.__all__)


def _takes_masks(metric: Metric | Callable) -> bool:
    """Whether a metric leaves masked samples out; a function that is made one may be other than a mean over samples."""
    return "where" in parameters_of(metric.update) if isinstance(metric, Metric) else _is_of_library(metric)
