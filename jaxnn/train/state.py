"""`TrainState`: everything that the rest of a run depends on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.checks import check_key
from jaxnn.core.naming import child_key
from jaxnn.problem.hyperparameters import model_of, optimizer_of, split
from jaxnn.problem.running import totals_of
from jaxnn.train.hooks import Callback, start_memory


class LossScale(NamedTuple):
    """Dynamic loss scaling: gradients in float16 are taken of the loss times `scale`, so that small ones survive.

    Attributes:
        scale: float32, halved at a step whose gradients overflow, doubled after 2,000 steps in a row without.
        good_steps: how many steps in a row did not overflow, int32.
    """

    scale: jax.Array
    good_steps: jax.Array


class TrainState(NamedTuple):
    """Everything the rest of a run depends on; a pytree. A run cut in two at any step is the run.

    Attributes:
        params: what is trained.
        state: the model's state, such as running statistics.
        opt_state: the optimizer's.
        key: the key of the run. Step k draws from it and k, epoch orders likewise.
        step: how many steps were made, int32.
        epoch: how many epochs were finished, int32.
        position: how many steps of the present epoch were made, int32.
        skipped: how many steps were left out since their gradients were not finite, int32.
        stopped: whether a callback ended the run.
        hyperparameters: the traced ones by name, float32; what a callback changes here holds from the next step on.
        loss_scale: a `LossScale`, or `()` without one.
        totals: of the loss and the metrics in the present epoch.
        memory: the callbacks', by name.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> state = nn.init_train_state(nn.dense(3), optax.sgd(0.1), jax.random.key(0), jnp.ones((2, 4)))
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


def init_train_state(
    model: Any,
    optimizer: Any,
    key: jax.Array,
    x: Any,
    initial: tuple | None = None,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    loss_scaling: bool = False,
) -> TrainState:
    """The state a run starts from. What is given by name must be what the step or epoch is given.

    Args:
        model: the model, or a function of hyperparameters that returns it.
        optimizer: an optax transformation, or a function of hyperparameters that returns it.
        key: the run's key: weights, order of the data and dropout all follow from it.
        x: a batch, or its `jax.ShapeDtypeStruct`.
        initial: `(params, state)` to go on from instead of drawing them.
        hyperparameters: numbers and schedules by name, see `fit`.
        metrics: metrics by name.
        callbacks: those of the run.
        loss_scaling: whether the loss is scaled for float16.

    Returns:
        The `TrainState` at step 0.

    Raises:
        TypeError: if `key` is no key, or hyperparameters or metrics do not come by name.
        ValueError: if a hyperparameter is not finite, or the model does not take `x`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> start = nn.init_train_state(nn.dense(3), optax.sgd(0.1), jax.random.key(0), jnp.ones((2, 4)))
        >>> int(start.step), start.params["kernel"].shape
        (0, (4, 3))
    """
    key = check_key(key)
    fixed, traced = split(hyperparameters)
    values = fixed.at(traced, _zero())
    layer = model_of(model, values)
    params, state = layer.init(child_key(key, "init"), x) if initial is None else jax.tree.map(jnp.asarray, initial)
    train_state = TrainState(
        params=params,
        state=state,
        opt_state=optimizer_of(optimizer, values).init(params),
        key=key,
        step=_zero(),
        epoch=_zero(),
        position=_zero(),
        skipped=_zero(),
        stopped=_zero(bool),
        hyperparameters=traced,
        loss_scale=LossScale(jnp.asarray(2.0**15, jnp.float32), _zero()) if loss_scaling else (),
        totals=totals_of(metrics)[0](),
        memory={},
    )
    return train_state._replace(memory=start_memory(callbacks, train_state))


def _zero(dtype: Any = np.int32) -> jax.Array:
    """A buffer of its own each time, as a train state may be donated; of NumPy, which has nothing to compile."""
    return jnp.asarray(np.zeros((), dtype), dtype)
