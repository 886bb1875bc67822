"""Epochs and runs as pure functions, and the program that `fit` calls: any number of steps from any step on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.core.naming import child_key
from jaxnn.problem.batches import leading_size, over_batches, scan, shuffled
from jaxnn.problem.hyperparameters import loss_of, split
from jaxnn.problem.running import check_numbers, totals_of, with_validation
from jaxnn.train.evaluation import evaluation
from jaxnn.train.hooks import Callback, after_epoch, after_step, evaluated_weights
from jaxnn.train.state import TrainState, init_train_state
from jaxnn.train.step import objective_of, train_step


@dataclass(frozen=True)
class Pieces:
    """What every way through the data is put together from.

    Attributes:
        advance: `advance(train_state, batch) -> (train_state, loss)`, one step with all that belongs to it.
        finish: `finish(train_state, validation) -> (train_state, logs)`, the end of an epoch.
        order: `order(train_state, n)`, in which the present epoch takes its samples.
    """

    advance: Callable
    finish: Callable
    order: Callable


def pieces(
    model: Any,
    *,
    loss: Any,
    optimizer: Any,
    batch_size: int,
    metrics: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    skip_nonfinite: bool = False,
    view: Callable | None = None,
    **options: Any,
) -> Pieces:
    """The pieces of a run; the options are those of `train_step`.

    `view(batch, **hyperparameters) -> batch`, with those that it names, is what steps and validation see of the data.
    """
    common = {"loss": loss, "optimizer": optimizer, "hyperparameters": hyperparameters}
    step = train_step(model, **common, skip_nonfinite=skip_nonfinite, **options)
    test = evaluation(model, loss=loss, metrics=metrics, batch_size=batch_size, hyperparameters=hyperparameters)
    start, update, finish_totals = totals_of(metrics)
    fixed, _ = split(hyperparameters)

    def seen(data: Any, train_state: TrainState) -> Any:
        return data if view is None else loss_of(view, fixed.at(train_state.hyperparameters, train_state.step))(data)

    def advance(train_state: TrainState, batch: Any) -> tuple[TrainState, jax.Array]:
        batch = seen(batch, train_state)
        after, value, predictions = step(train_state, batch)
        totals = update(train_state.totals, value, predictions, batch)
        if skip_nonfinite or train_state.loss_scale:
            made = after.skipped == train_state.skipped
            totals = jax.tree.map(lambda new, old: jnp.where(made, new, old), totals, train_state.totals)
        after = after._replace(totals=totals, position=train_state.position + 1)
        return after_step(callbacks, after), value

    def finish(train_state: TrainState, validation: Any) -> tuple[TrainState, dict]:
        weights = evaluated_weights(callbacks, train_state)
        tested = validation and test(*weights, seen(validation, train_state), train_state.hyperparameters, train_state.step)
        logs = with_validation(finish_totals(train_state.totals), tested)
        values = fixed.at(train_state.hyperparameters, train_state.step - 1)
        if "learning_rate" in values:
            logs["learning_rate"] = jnp.asarray(values["learning_rate"], jnp.float32)
        if skip_nonfinite or train_state.loss_scale:
            logs["skipped"] = train_state.skipped
        ended = train_state._replace(epoch=train_state.epoch + 1, position=jnp.zeros_like(train_state.position), totals=start())
        return after_epoch(callbacks, ended, logs, weights), logs

    def order(train_state: TrainState, n: int) -> jax.Array:
        first = train_state.step - train_state.position
        return shuffled(jax.random.fold_in(child_key(train_state.key, "order"), first), n)

    return Pieces(advance, finish, order)


def train_epoch(
    model: Any,
    *,
    loss: Any,
    optimizer: Any,
    batch_size: int,
    metrics: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Callable:
    """One epoch in one program: a new order of the data, batch after batch, every sample once, the last batch as it is.

    Args:
        model: the model, or a function of hyperparameters that returns it.
        loss: `loss(predictions, y) -> scalar`, the batch's mean, or an `Objective`.
        optimizer: an optax transformation, or a function of hyperparameters that returns it.
        batch_size: samples a step; the last step has what is left.
        metrics: metrics by name, of the predictions made during training.
        hyperparameters: numbers and schedules by name, see `fit`.
        callbacks: their pure parts are in the epoch.
        **options: `accumulate`, `augment`, `sam_radius` and `skip_nonfinite` as `train_step` has them.

    Returns:
        `epoch(train_state, data, validation=None) -> (train_state, logs)`, pure; `logs` has the mean loss over the samples
        and the metrics, and with validation data `"val_loss"` and so on.

    Raises:
        TypeError: if hyperparameters or metrics do not come by name, or one is of a kind that is not taken.
        ValueError: if a hyperparameter is not finite, or, when traced, the loss is no scalar.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> model, optimizer = nn.dense(3), optax.sgd(0.1)
        >>> x, y = jnp.ones((10, 4)), jnp.zeros(10, jnp.int32)
        >>> epoch = jax.jit(nn.train_epoch(model, loss=nn.losses.cross_entropy, optimizer=optimizer, batch_size=4))
        >>> state, logs = epoch(nn.init_train_state(model, optimizer, jax.random.key(0), x), (x, y))
        >>> int(state.step), sorted(logs)
        (3, ['loss'])
    """
    parts = pieces(
        model,
        loss=loss,
        optimizer=optimizer,
        batch_size=batch_size,
        metrics=metrics,
        hyperparameters=hyperparameters,
        callbacks=callbacks,
        **options,
    )

    def epoch(train_state: TrainState, data: Any, validation: Any = None):
        order = parts.order(train_state, leading_size(data))
        one = lambda train_state, batch: (parts.advance(train_state, batch)[0], None)  # noqa: E731
        train_state, _ = over_batches(one, train_state, data, batch_size, order)
        return parts.finish(train_state, validation)

    return epoch


def train_run(
    model: Any,
    *,
    loss: Any,
    optimizer: Any,
    epochs: int,
    batch_size: int,
    metrics: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    loss_scaling: bool = False,
    **options: Any,
) -> Callable:
    """A whole run as one pure function of its key and hyperparameters: `vmap` over them trains many networks at once.

    Args:
        model: the model, or a function of hyperparameters that returns it.
        loss: `loss(predictions, y) -> scalar`, the batch's mean, or an `Objective`.
        optimizer: an optax transformation, or a function of hyperparameters that returns it.
        epochs: how many passes over the data at the most.
        batch_size: samples a step; an epoch's last step has what is left.
        metrics: metrics by name.
        hyperparameters: numbers and schedules by name, see `fit`.
        callbacks: their pure parts are in the run; after one of them has ended it, nothing changes any more.
        loss_scaling: scale the loss for float16, see `fit`.
        **options: `accumulate`, `augment`, `sam_radius` and `skip_nonfinite` as `train_step` has them.

    Returns:
        `run(key, data, validation=None, hyperparameters=None) -> (train_state, history)`, pure; the hyperparameters given
        here replace those of the same name. `history` has an array of `epochs` values for `"loss"` and each metric, and
        with validation data for `"val_loss"` and so on; NaN after the run was ended.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> x, y = jnp.ones((10, 4)), jnp.zeros(10, jnp.int32)
        >>> run = nn.train_run(
        ...     nn.dense(3), loss=nn.losses.cross_entropy, optimizer=optax.sgd(0.1), epochs=5, batch_size=4)
        >>> keys = jax.random.split(jax.random.key(0), 7)
        >>> states, history = jax.jit(jax.vmap(run, (0, None)))(keys, (x, y))
        >>> states.params["kernel"].shape, history["loss"].shape
        ((7, 4, 3), (7, 5))
    """

    defaults = hyperparameters or {}

    def run(key: jax.Array, data: Any, validation: Any = None, hyperparameters: Mapping[str, Any] | None = None):
        given = {**lengths(leading_size(data), batch_size, epochs), **defaults, **(hyperparameters or {})}
        start = init_train_state(
            model,
            optimizer,
            key,
            inputs_of(data, loss),
            hyperparameters=given,
            metrics=metrics,
            callbacks=callbacks,
            loss_scaling=loss_scaling,
        )
        epoch = train_epoch(
            model,
            loss=loss,
            optimizer=optimizer,
            batch_size=batch_size,
            metrics=metrics,
            hyperparameters=given,
            callbacks=callbacks,
            **options,
        )

        def one(train_state, _):
            after, logs = epoch(train_state, data, validation)
            kept = jax.tree.map(lambda new, old: jnp.where(train_state.stopped, old, new), after, train_state)
            return kept, {name: _unless(train_state.stopped, value) for name, value in logs.items()}

        simple = not any(callback.after_epoch for callback in callbacks)  # nothing can end it
        return scan((lambda s, _: epoch(s, data, validation)) if simple else one, start, None, length=epochs)

    return run


def _unless(stopped: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.where(stopped, jnp.nan, value) if jnp.issubdtype(value.dtype, jnp.floating) else value


def lengths(samples: int, batch_size: int, epochs: int) -> dict[str, int]:
    """What schedules and factories may know of a run's length."""
    per_epoch = -(-samples // batch_size)
    return {"epochs": epochs, "steps": epochs * per_epoch, "steps_per_epoch": per_epoch}


def inputs_of(data: Any, loss: Any) -> Any:
    """What of the data the model takes: x of `(x, y)`; all of them for an `Objective` on data that are no tuple."""
    return data[0] if isinstance(data, tuple) else data


def array_program(parts: Pieces, batch_size: int, most_rows: int) -> Callable:
    """The program over data that lie on the device.

    Returns:
        `program(train_state, data, validation, steps, epochs) -> (train_state, rows, ended, bad)`, which makes so many
        steps, or fewer where the run ends or `ended`, the number of epochs that ended, is `most_rows`. Each of `rows` is an
        epoch's logs, its `step` among them. `bad` is the number of the first step whose loss is not finite, −1 if there is
        none. However a run is cut into calls, its results are the same bits.
    """

    def program(train_state: TrainState, data: Any, validation: Any, steps: jax.Array, epochs: jax.Array):
        n = leading_size(data)
        full, rest = divmod(n, batch_size)
        per_epoch = full + (rest > 0)

        def step(carry, index):
            train_state, bad = carry
            batch = jax.tree.map(lambda a: a.at[index].get(mode="promise_in_bounds"), data)
            after, value = parts.advance(train_state, batch)
            return after, jnp.where((bad < 0) & ~jnp.isfinite(value), train_state.step, bad)

        def epoch_or_part_of_it(carry):
            train_state, rows, ended, bad, left = carry
            order = parts.order(train_state, n)
            at = train_state.position
            until = jnp.minimum(full, at + left)
            batch_of = lambda i: lax.dynamic_slice(order, (i * batch_size,), (batch_size,))  # noqa: E731
            state_bad = (train_state, bad)
            if full:
                state_bad = lax.fori_loop(at, until, lambda i, carry: step(carry, batch_of(i)), state_bad)
            if rest:
                last = (state_bad[0].position == full) & (at + left > full)
                state_bad = lax.cond(last, lambda c: step(c, order[n - rest :]), lambda c: c, state_bad)
            train_state, bad = state_bad
            left = left - (train_state.position - at)
            over = train_state.position == per_epoch
            train_state, logs = lax.cond(over, finish, lambda s: (s, like), train_state)
            rows = jax.tree.map(
                lambda buffer, value: buffer.at[jnp.where(over, ended, most_rows)].set(value, mode="drop"), rows, logs
            )
            return train_state, rows, ended + over.astype(jnp.int32), bad, left

        def finish(train_state):
            after, logs = parts.finish(train_state, validation)
            return after, check_numbers(logs) | {"step": train_state.step}

        def goes_on(carry):
            train_state, _, ended, _, left = carry
            return (left > 0) & (ended < most_rows) & (train_state.epoch < epochs) & ~train_state.stopped

        like = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(finish, train_state)[1])
        rows = jax.tree.map(lambda a: jnp.zeros((most_rows, *a.shape), a.dtype), like)
        zero = jnp.zeros((), jnp.int32)
        carry = (train_state, rows, zero, zero - 1, jnp.asarray(steps, jnp.int32))
        train_state, rows, ended, bad, _ = lax.while_loop(goes_on, epoch_or_part_of_it, carry)
        return train_state, rows, ended, bad

    return program


__all__ = ["Pieces", "array_program", "lengths", "objective_of", "pieces", "train_epoch", "train_run"]
