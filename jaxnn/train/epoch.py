"""Epochs and runs as pure functions, and the program that `fit` calls: any number of steps, starting at any step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.core.naming import child_key
from jaxnn.problem.batches import (
    Filled,
    Padded,
    abstract_batch,
    filled,
    filled_size,
    leading_size,
    over_batches,
    scan,
    shuffled,
)
from jaxnn.problem.objective import inputs_of
from jaxnn.problem.running import check_numbers, totals_of, with_validation
from jaxnn.train.config import TrainingConfig
from jaxnn.train.evaluation import evaluation
from jaxnn.train.filling import may_fill
from jaxnn.train.hooks import after_epoch, after_step, evaluated_weights
from jaxnn.train.state import TrainState, start
from jaxnn.train.step import weighted_step_of


class EpochParts(NamedTuple):
    """The parts of an epoch, from which every loop over the data is built.

    Attributes:
        order: `order(train_state, data)`, the order of the samples in the current epoch.
        fills: `fills(train_state, batch)`, whether the last batch of an epoch, if it is smaller than this one, is filled with
            samples of weight 0.
        fill: `fill(train_state, batch) -> batch`, the batch of a step, filled if it is the last one and may be.
        advance: `advance(train_state, batch) -> (train_state, loss)`, one step with totals and callbacks.
        finish: `finish(train_state, validation) -> (train_state, logs)`, the end of an epoch.
    """

    order: Callable[[TrainState, Any], jax.Array]
    fills: Callable[[TrainState, Any], bool]
    fill: Callable[[TrainState, Any], Any]
    advance: Callable[[TrainState, Any], tuple[TrainState, jax.Array]]
    finish: Callable[[TrainState, Any], tuple[TrainState, dict]]


def epoch_parts(config: TrainingConfig) -> EpochParts:
    """The parts of an epoch of this configuration."""
    problem, callbacks = config.problem, config.callbacks
    step = weighted_step_of(config)
    validated = evaluation(problem, config.metrics, config.batch_size)
    totals = totals_of(config.metrics)

    def order(train_state: TrainState, data: Any) -> jax.Array:
        first = train_state.step - train_state.position
        if isinstance(data, Padded):
            return order_of(train_state.key, first, data.samples, leading_size(data.data))
        return order_of(train_state.key, first, leading_size(data))

    def fills(train_state: TrainState, batch: Any) -> bool:
        given = train_state.params, train_state.state, batch, train_state.key
        return config.accumulate == 1 and config.gradient is None and may_fill(problem, config.metrics, *given)

    def fill(train_state: TrainState, batch: Any) -> Any:
        n = leading_size(batch)
        return (
            filled(batch, filled_size(n, config.batch_size)) if n < config.batch_size and fills(train_state, batch) else batch
        )

    def advance(train_state: TrainState, batch: Any) -> tuple[TrainState, jax.Array]:
        batch = problem.viewed(batch, train_state)
        after, value, weight, predictions = step(train_state, batch)
        new = totals.update(train_state.totals, value, weight, predictions, batch)
        if config.skip_nonfinite or train_state.loss_scale:
            made = after.skipped == train_state.skipped
            new = jax.tree.map(lambda new, old: jnp.where(made, new, old), new, train_state.totals)
        return after_step(callbacks, after._replace(totals=new, position=train_state.position + 1)), value

    def _viewed(data: Any, train_state: TrainState) -> Any:
        if isinstance(data, Padded | Filled):
            return replace(data, data=problem.viewed(data.data, train_state))
        return problem.viewed(data, train_state)

    def finish(train_state: TrainState, validation: Any) -> tuple[TrainState, dict]:
        weights = evaluated_weights(callbacks, train_state)
        tested = None
        if validation is not None:
            viewed = _viewed(validation, train_state)
            tested = validated(*weights, viewed, train_state.hyperparameters, train_state.step, train_state.epoch + 1)
        logs = with_validation(totals.finish(train_state.totals), tested)
        values = problem.hyperparameters.at(train_state.hyperparameters, train_state.step - 1, train_state.epoch)
        if "learning_rate" in values:
            logs["learning_rate"] = jnp.asarray(values["learning_rate"], jnp.float32)
        if config.skip_nonfinite or train_state.loss_scale or config.gradient is not None:
            logs["skipped"] = train_state.skipped
        ended = train_state._replace(
            epoch=train_state.epoch + 1, position=jnp.zeros_like(train_state.position), totals=totals.start()
        )
        return after_epoch(callbacks, ended, logs, weights), logs

    return EpochParts(order, fills, fill, advance, finish)


def order_of(key: jax.Array, first: jax.Array, n: Any, rows: int | None = None) -> jax.Array:
    """The order of n samples, of `rows` rows, in the epoch that begins with step `first` of the run with this key."""
    return shuffled(jax.random.fold_in(child_key(key, "order"), first), n, rows)


def epoch_of(config: TrainingConfig) -> Callable[..., tuple[TrainState, dict]]:
    """`epoch(train_state, data, validation=None) -> (train_state, logs)`: every sample once, in a new order."""
    parts = epoch_parts(config)

    def epoch(train_state: TrainState, data: Any, validation: Any = None):
        order = parts.order(train_state, data)
        one = lambda train_state, batch: (parts.advance(train_state, parts.fill(train_state, batch))[0], None)  # noqa: E731
        train_state, _ = over_batches(one, train_state, data, config.batch_size, order)
        return parts.finish(train_state, validation)

    return epoch


def run_of(config: TrainingConfig, epochs: int) -> Callable[..., tuple[TrainState, dict]]:
    """`run(key, data, validation=None, hyperparameters=None) -> (train_state, history)`, the whole run."""

    def run(key: jax.Array, data: Any, validation: Any = None, hyperparameters: Mapping[str, Any] | None = None):
        own = config.with_hyperparameters(hyperparameters or {})
        own = own.with_lengths(-(-leading_size(data) // config.batch_size), epochs)
        epoch = epoch_of(own)

        def one(train_state, _):
            after, logs = epoch(train_state, data, validation)
            kept = jax.tree.map(lambda new, old: jnp.where(train_state.stopped, old, new), after, train_state)
            return kept, {name: _unless(train_state.stopped, value) for name, value in logs.items()}

        simple = not any(callback.after_epoch for callback in config.callbacks)  # nothing can end the run
        first = start(own, key, inputs_of(abstract_batch(data, config.batch_size), config.problem.loss))
        return scan((lambda s, _: epoch(s, data, validation)) if simple else one, first, None, length=epochs)

    return run


def _unless(stopped: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.where(stopped, jnp.nan, value) if jnp.issubdtype(value.dtype, jnp.floating) else value


def array_program(config: TrainingConfig, most_epochs: int) -> Callable:
    """The program over data that lie on the device.

    Args:
        config: The run's configuration.
        most_epochs: The number of epochs that may end in one call, at most.

    Returns:
        `program(train_state, data, validation, steps, epochs) -> (train_state, logs, ended, bad)`, for `Padded` data, which
        makes `steps` steps, or fewer where the run ends or `ended`, the number of epochs that ended in this call, reaches
        `most_epochs`. `logs` has an array of `most_epochs` values by name, `step` among them. `bad` is the number of the
        first step whose loss is not finite, or −1. The results do not depend on how a run is divided into calls.
    """
    parts = epoch_parts(config)

    def program(train_state: TrainState, data: Padded, validation: Any, steps: jax.Array, epochs: jax.Array):
        full = jnp.asarray(0 if data.full is None else data.full, jnp.int32)

        def step(carry, batch):
            train_state, bad = carry
            after, value = parts.advance(train_state, batch)
            return after, jnp.where((bad < 0) & ~jnp.isfinite(value), train_state.step, bad)

        def epoch_or_part(carry):
            train_state, logs, ended, bad, left = carry
            order = parts.order(train_state, data)
            position = train_state.position
            until = jnp.minimum(full, position + left)
            state_bad = (train_state, bad)
            if data.full is not None:
                one = lambda i, carry: step(carry, data.batch(i, order))  # noqa: E731
                state_bad = lax.fori_loop(position, until, one, state_bad)
            if data.rest:
                last = (state_bad[0].position == full) & (position + left > full)
                state_bad = lax.cond(last, lambda c: step(c, data.batch(full, order, last=True)), lambda c: c, state_bad)
            train_state, bad = state_bad
            left = left - (train_state.position - position)
            over = train_state.position == data.batches
            train_state, new = lax.cond(over, finish, lambda s: (s, like), train_state)
            logs = jax.tree.map(
                lambda buffer, value: buffer.at[jnp.where(over, ended, most_epochs)].set(value, mode="drop"), logs, new
            )
            return train_state, logs, ended + over.astype(jnp.int32), bad, left

        def finish(train_state):
            after, logs = parts.finish(train_state, validation)
            return after, check_numbers(logs) | {"step": train_state.step}

        def continues(carry):
            train_state, _, ended, _, left = carry
            return (left > 0) & (ended < most_epochs) & (train_state.epoch < epochs) & ~train_state.stopped

        like = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(finish, train_state)[1])
        logs = jax.tree.map(lambda a: jnp.zeros((most_epochs, *a.shape), a.dtype), like)
        zero = jnp.zeros((), jnp.int32)
        carry = (train_state, logs, zero, zero - 1, jnp.asarray(steps, jnp.int32))
        train_state, logs, ended, bad, _ = lax.while_loop(continues, epoch_or_part, carry)
        return train_state, logs, ended, bad

    return program
