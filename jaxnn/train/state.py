"""`TrainState`: everything that the rest of a run depends on."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.checks import check_key
from jaxnn.core.naming import child_key
from jaxnn.problem.hyperparameters import model_of, optimizer_of
from jaxnn.problem.running import totals_of
from jaxnn.train.config import TrainingConfig
from jaxnn.train.hooks import start_memory


class LossScale(NamedTuple):
    """Dynamic loss scaling: gradients in float16 are taken of the loss times `scale`, so that small ones do not vanish.

    Attributes:
        scale: Halved at a step whose gradients overflow, doubled after 2,000 steps in a row without overflow; float32.
        good_steps: The number of steps in a row that did not overflow, int32.
    """

    scale: jax.Array
    good_steps: jax.Array


class TrainState(NamedTuple):
    """Everything the rest of a run depends on; a pytree. A run cut in two at any step is the same run.

    Attributes:
        params: The model's parameters.
        state: The model's state, such as running statistics.
        opt_state: The optimizer's state.
        key: The key of the run. Step k draws from this key and k; so does the order of each epoch.
        step: The number of steps made, int32.
        epoch: The number of epochs finished, int32.
        position: The number of steps made in the current epoch, int32.
        skipped: The number of steps skipped because their gradients were not finite, or what `gradient=` counts, int32.
        stopped: Whether a callback ended the run.
        hyperparameters: The traced ones by name, float32; a callback may change them for the following steps.
        loss_scale: A `LossScale`, or `()` without one.
        totals: Running totals of the loss and the metrics in the current epoch.
        memory: The callbacks' memory, by name.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> init, step, epoch, run = nn.training(nn.dense(3), loss=nn.losses.cross_entropy, optimizer=optax.sgd(0.1))
        >>> state = init(jax.random.key(0), jnp.ones((2, 4)))
        >>> state.step.item(), state.epoch.item(), state.stopped.item(), list(state.params)
        (0, 0, False, ['bias', 'kernel'])
    """

    params: Any
    state: Any
    opt_state: Any
    key: jax.Array
    step: jax.Array
    epoch: jax.Array
    position: jax.Array
    skipped: jax.Array
    stopped: jax.Array
    hyperparameters: dict[str, jax.Array]
    loss_scale: Any
    totals: Any
    memory: dict[str, Any]


def start(config: TrainingConfig, key: jax.Array, x: Any, initial: tuple | None = None) -> TrainState:
    """The train state at step 0.

    Args:
        config: The run's configuration.
        key: The run's key.
        x: A batch of inputs, or its `jax.ShapeDtypeStruct`.
        initial: `(params, state)` to start from instead of drawing them.

    Raises:
        TypeError: If `key` is not a key.
        ValueError: If the model does not take `x`.
    """
    key = check_key(key)
    hyperparameters = config.problem.hyperparameters
    traced = hyperparameters.scalars()
    values = hyperparameters.at(traced, _zero(), _zero())
    layer = model_of(config.problem.model, values)
    params, state = layer.init(child_key(key, "init"), x) if initial is None else jax.tree.map(jnp.asarray, initial)
    train_state = TrainState(
        params=params,
        state=state,
        opt_state=optimizer_of(config.optimizer, values).init(params),
        key=key,
        step=_zero(),
        epoch=_zero(),
        position=_zero(),
        skipped=_zero(),
        stopped=_zero(bool),
        hyperparameters=traced,
        loss_scale=LossScale(jnp.asarray(2.0**15, jnp.float32), _zero()) if config.loss_scaling else (),
        totals=totals_of(config.metrics).start(),
        memory={},
    )
    return train_state._replace(memory=start_memory(config.callbacks, train_state))


def _zero(dtype: Any = np.int32) -> jax.Array:
    """A new zero each time, as train states may be donated; created by NumPy, which compiles nothing."""
    return jnp.asarray(np.zeros((), dtype), dtype)
