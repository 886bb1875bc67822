"""Training as pure functions, three depths: one step, one epoch, the whole run.

Each factory closes over what stays the same (model, loss, optimizer) and returns a function of arrays, to be used as it
is under `jit`, `vmap`, `scan` or `shard_map`. `fit` is only the host's loop around `train_epoch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnn.core.layer import Layer
from jaxnn.core.scope import check_key, child_key
from jaxnn.train.batches import leading_size, over_batches, shuffled
from jaxnn.train.evaluation import evaluation, totals_of, with_validation

Loss = Callable[[Any, Any], jax.Array]
Data = tuple[Any, Any]


class TrainState(NamedTuple):
    """Everything the rest of a run depends on; a pytree.

    Attributes:
        params: what is trained.
        state: the model's state, such as running statistics.
        opt_state: the optimizer's.
        key: the key of the run. Step k draws from it and k, epoch orders likewise: a run cut in two is the run.
        step: how many steps were made, int32.
    """

    params: Any
    state: Any
    opt_state: Any
    key: jax.Array
    step: jax.Array


def init_train_state(
    model: Layer, optimizer: optax.GradientTransformation, key: jax.Array, x: Any, initial: tuple | None = None
) -> TrainState:
    """The state a run starts from.

    Args:
        model: the model.
        optimizer: an optax transformation.
        key: the run's key: weights, order of the data and dropout all follow from it.
        x: a batch, or its `jax.ShapeDtypeStruct`.
        initial: `(params, state)` to go on from instead of drawing them.

    Returns:
        The `TrainState` at step 0.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> start = nn.init_train_state(nn.dense(3), optax.sgd(0.1), jax.random.key(0), jnp.ones((2, 4)))
        >>> int(start.step), start.params["kernel"].shape
        (0, (4, 3))
    """
    key = check_key(key)
    params, state = model.init(child_key(key, "init"), x) if initial is None else jax.tree.map(jnp.asarray, initial)
    return TrainState(params, state, optimizer.init(params), key, jnp.zeros((), jnp.int32))


def train_step(model: Layer, *, loss: Loss, optimizer: optax.GradientTransformation) -> Callable:
    """One step: forward, loss, gradient, update, W⁽ᵗ⁺¹⁾ = W⁽ᵗ⁾ − η ∂L/∂W as the optimizer has it.

    Args:
        model: the model.
        loss: `loss(predictions, y) -> scalar`, the batch's mean.
        optimizer: an optax transformation.

    Returns:
        `step(train_state, (x, y)) -> (train_state, loss, predictions)`, pure; the loss and the predictions are those
        before the update.

    Raises:
        ValueError: when traced, if the loss is no scalar.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> model, optimizer = nn.dense(3), optax.sgd(0.1)
        >>> x, y = jnp.ones((8, 4)), jnp.zeros(8, jnp.int32)
        >>> step = jax.jit(nn.train_step(model, loss=nn.losses.cross_entropy, optimizer=optimizer))
        >>> state = nn.init_train_state(model, optimizer, jax.random.key(0), x)
        >>> state, first, _ = step(state, (x, y))
        >>> state, second, _ = step(state, (x, y))
        >>> bool(second < first)
        True
    """

    optimizer = optax.with_extra_args_support(optimizer)

    def step(train_state: TrainState, batch: Data):
        x, y = batch
        key = jax.random.fold_in(child_key(train_state.key, "step"), train_state.step)

        def objective(params):
            predictions, state = model.apply(params, train_state.state, x, key=key, training=True)
            value = loss(predictions, y)
            if jnp.shape(value) != ():
                raise ValueError(
                    f"the loss is one number for a batch, got an array of shape {list(jnp.shape(value))}: take its mean, "
                    'or leave reduction at "mean"'
                )
            return value, (predictions, state)

        (value, (predictions, state)), gradients = jax.value_and_grad(objective, has_aux=True)(train_state.params)
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it, also where the caller is strict
            extra = {"value": value, "grad": gradients, "value_fn": lambda params: objective(params)[0]}  # for line searches
            updates, opt_state = optimizer.update(gradients, train_state.opt_state, train_state.params, **extra)
            params = optax.apply_updates(train_state.params, updates)
        return TrainState(params, state, opt_state, train_state.key, train_state.step + 1), value, predictions

    return step


def train_epoch(
    model: Layer,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    metrics: Mapping[str, Any] | None = None,
) -> Callable:
    """One epoch in one program: a new order of the data, batch after batch, every sample once, the last batch as it is.

    Args:
        model: the model.
        loss: `loss(predictions, y) -> scalar`, the batch's mean.
        optimizer: an optax transformation.
        batch_size: samples a step; the last step has what is left.
        metrics: metrics by name, of the predictions made during training.

    Returns:
        `epoch(train_state, (x, y)) -> (train_state, logs)`, pure; `logs` has the mean loss over the samples and the metrics.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> model, optimizer = nn.dense(3), optax.sgd(0.1)
        >>> x, y = jnp.ones((10, 4)), jnp.zeros(10, jnp.int32)
        >>> epoch = jax.jit(nn.train_epoch(model, loss=nn.losses.cross_entropy, optimizer=optimizer, batch_size=4))
        >>> state, logs = epoch(nn.init_train_state(model, optimizer, jax.random.key(0), x), (x, y))
        >>> int(state.step), sorted(logs)
        (3, ['loss'])
    """
    step = train_step(model, loss=loss, optimizer=optimizer)
    start, update, finish = totals_of(metrics)

    def epoch(train_state: TrainState, data: Data):
        def one(carry, batch):
            train_state, totals = carry
            train_state, value, predictions = step(train_state, batch)
            return (train_state, update(totals, value, predictions, batch[1])), None

        key = jax.random.fold_in(child_key(train_state.key, "order"), train_state.step)
        order = shuffled(key, leading_size(data))
        (train_state, totals), _ = over_batches(one, (train_state, start()), data, batch_size, order)
        return train_state, finish(totals)

    return epoch


def train_run(
    model: Layer,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    metrics: Mapping[str, Any] | None = None,
) -> Callable:
    """A whole run as one pure function of its key, so that `vmap` over keys trains many networks at once.

    Args:
        model: the model.
        loss: `loss(predictions, y) -> scalar`, the batch's mean.
        optimizer: an optax transformation.
        epochs: how many passes over the data.
        batch_size: samples a step; an epoch's last step has what is left.
        metrics: metrics by name.

    Returns:
        `run(key, (x, y), validation=None) -> (train_state, history)`, pure; `history` has an array of `epochs` values for
        `"loss"` and each metric, and with validation data for `"val_loss"` and so on.

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
    epoch = train_epoch(model, loss=loss, optimizer=optimizer, batch_size=batch_size, metrics=metrics)
    test = evaluation(model, loss=loss, metrics=metrics, batch_size=batch_size)

    def run(key: jax.Array, data: Data, validation: Data | None = None):
        def one(train_state, _):
            train_state, logs = epoch(train_state, data)
            return train_state, with_validation(logs, validation and test(train_state.params, train_state.state, validation))

        return jax.lax.scan(one, init_train_state(model, optimizer, key, data[0]), length=epochs)

    return run
