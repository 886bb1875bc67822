"""`training`: a run's pure functions, from one configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxnn.core.checks import whole
from jaxnn.train.config import TrainingConfig
from jaxnn.train.epoch import epoch_of, run_of
from jaxnn.train.hooks import Callback
from jaxnn.train.state import TrainState, start
from jaxnn.train.step import step_of


class Training(NamedTuple):
    """The pure functions of one training run; each can be jitted, mapped and differentiated.

    Attributes:
        init: `init(key, x, initial=None) -> train_state`; `x` is a batch of inputs, or its `jax.ShapeDtypeStruct`, and
            `initial`, `(params, state)`, replaces the drawn ones.
        step: `step(train_state, batch) -> (train_state, loss, predictions)`; the loss and the predictions are those before
            the update. A batch is `(x, y)`, or `(x, y, weights)` with one weight per sample, which makes the loss
            Σ wᵢ lᵢ / Σ wᵢ.
        epoch: `epoch(train_state, data, validation=None) -> (train_state, logs)`: a new order of the data, every sample
            once, the remaining ones in a last, smaller batch. `logs` has the mean loss over the samples and the metrics, and
            with validation data `"val_loss"` and so on.
        run: `run(key, data, validation=None, hyperparameters=None) -> (train_state, history)`, the whole run; the
            hyperparameters given here replace those of the same name. `history` has an array of `epochs` values by name,
            NaN after a callback ended the run.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> result = nn.training(nn.dense(3), loss=nn.losses.cross_entropy, optimizer=optax.sgd(0.1))
        >>> state = result.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> state, loss, predictions = result.step(state, (jnp.ones((2, 4)), jnp.array([0, 1])))
        >>> int(state.step), predictions.shape
        (1, (2, 3))
    """

    init: Callable[..., TrainState]
    step: Callable[[TrainState, Any], tuple[TrainState, jax.Array, Any]]
    epoch: Callable[..., tuple[TrainState, dict]]
    run: Callable[..., tuple[TrainState, dict]]


def training(
    model: Any,
    *,
    loss: Any,
    optimizer: Any,
    batch_size: int = 32,
    epochs: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    augment: Callable | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    sam_radius: float = 0.0,
    skip_nonfinite: bool = False,
    loss_scaling: bool = False,
    gradient: Callable | None = None,
) -> Training:
    """The pure functions that `fit` is made of, for custom loops, `vmap` over seeds, and derivatives through training.

    Args:
        model: The model, or a function of hyperparameters that returns it.
        loss: `loss(predictions, y) -> scalar`, the batch's mean, or `-> (sum, weight)`, or an `Objective`.
        optimizer: An optax transformation, or a function of hyperparameters that returns it.
        batch_size: Samples per step; an epoch's last step has what is left.
        epochs: The number of passes over the data; `run` needs it.
        metrics: Metrics by name, of the predictions made during training.
        hyperparameters: Numbers and schedules by name, see `fit`. `run` adds its length.
        callbacks: Their pure functions are used; their host functions are called by `fit` only.
        augment: `augment(key, (x, y)) -> (x, y)`, see `nn.data.augment`.
        accumulate: The number of parts of a batch whose gradients are taken one after another, which saves memory. Their sizes
            differ by at most one sample. The mean over all samples, or all unmasked elements, is the same; batch norm sees
            the parts.
        clip_norm: The largest norm of a step's gradient, over all parameters together; a longer one is scaled down to it.
        sam_radius: ρ of sharpness-aware minimization (Foret et al. 2021): the gradient is taken at W + ρ g/‖g‖, with g the
            gradient at W, which doubles the cost of a step; 0 turns it off.
        skip_nonfinite: Leave parameters, state and optimizer as they were where the loss or a gradient is not finite.
        loss_scaling: Scale the loss for float16, see `fit`.
        gradient: What makes the gradient of a step in place of `jax.grad`, see `fit`.

    Returns:
        A `Training`: `init, step, epoch, run`.

    Raises:
        TypeError: If hyperparameters or metrics are not mappings, or something is of an unsupported kind.
        ValueError: If a number is out of range; in `run`, if `epochs` was not given; when traced, if the loss is not a scalar.

    Example:
        Seven networks trained as one program:

        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> x, y = jnp.ones((10, 4)), jnp.zeros(10, jnp.int32)
        >>> init, step, epoch, run = nn.training(
        ...     nn.dense(3), loss=nn.losses.cross_entropy, optimizer=optax.sgd(0.1), epochs=5, batch_size=4)
        >>> keys = jax.random.split(jax.random.key(0), 7)
        >>> states, history = jax.jit(jax.vmap(run, (0, None)))(keys, (x, y))
        >>> states.params["kernel"].shape, history["loss"].shape
        ((7, 4, 3), (7, 5))

        A custom loop:

        >>> state = init(jax.random.key(0), x)
        >>> state, loss, predictions = jax.jit(step)(state, (x, y))
        >>> state, logs = jax.jit(epoch)(state, (x, y))
        >>> int(state.step), sorted(logs)
        (4, ['loss'])
    """
    config = TrainingConfig.of(
        model,
        loss,
        optimizer,
        hyperparameters=hyperparameters,
        augment=augment,
        batch_size=batch_size,
        metrics=metrics,
        callbacks=callbacks,
        accumulate=accumulate,
        clip_norm=clip_norm,
        sam_radius=sam_radius,
        skip_nonfinite=skip_nonfinite,
        loss_scaling=loss_scaling,
        gradient=gradient,
    )

    def init(key: jax.Array, x: Any, initial: tuple | None = None) -> TrainState:
        return start(config, key, x, initial)

    def run(key: jax.Array, data: Any, validation: Any = None, hyperparameters: Mapping[str, Any] | None = None):
        if epochs is None:
            raise ValueError("run needs the number of epochs: training(..., epochs=10)")
        return run_of(config, whole("training", "epochs", epochs))(key, data, validation, hyperparameters)

    return Training(init, step_of(config), epoch_of(config), run)


def train_step(model: Any, **options: Any) -> Callable:
    """The `step` of `training`: W⁽ᵗ⁺¹⁾ = W⁽ᵗ⁾ − η ∂L/∂W as the optimizer has it.

    Args:
        model: As in `training`.
        **options: As in `training`.

    Returns:
        `step(train_state, batch) -> (train_state, loss, predictions)`, pure.

    Raises:
        TypeError: As `training`.
        ValueError: As `training`.

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
    return training(model, **options).step


def train_epoch(model: Any, **options: Any) -> Callable:
    """The `epoch` of `training`.

    Args:
        model: As in `training`.
        **options: As in `training`.

    Returns:
        `epoch(train_state, data, validation=None) -> (train_state, logs)`, pure.

    Raises:
        TypeError: As `training`.
        ValueError: As `training`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> model, optimizer = nn.dense(3), optax.sgd(0.1)
        >>> x, y = jnp.ones((10, 4)), jnp.zeros(10, jnp.int32)
        >>> epoch = jax.jit(nn.train_epoch(model, loss=nn.losses.cross_entropy, optimizer=optimizer, batch_size=4))
        >>> state, logs = epoch(nn.init_train_state(model, optimizer, jax.random.key(0), x), (x, y))
        >>> int(state.step), sorted(logs)
        (3, ['loss'])
    """
    return training(model, **options).epoch


def train_run(model: Any, *, epochs: int, **options: Any) -> Callable:
    """The `run` of `training`: `vmap` over keys or hyperparameters trains many networks at once.

    Args:
        model: As in `training`.
        epochs: As in `training`.
        **options: As in `training`.

    Returns:
        `run(key, data, validation=None, hyperparameters=None) -> (train_state, history)`, pure.

    Raises:
        TypeError: As `training`.
        ValueError: As `training`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> run = nn.train_run(
        ...     nn.dense(3), loss=nn.losses.cross_entropy, optimizer=optax.sgd(0.1), epochs=5, batch_size=4)
        >>> state, history = run(jax.random.key(0), (jnp.ones((10, 4)), jnp.zeros(10, jnp.int32)))
        >>> history["loss"].shape
        (5,)
    """
    return training(model, epochs=epochs, **options).run


def init_train_state(
    model: Any, optimizer: Any, key: jax.Array, x: Any, initial: tuple | None = None, **options: Any
) -> TrainState:
    """The `TrainState` that `training(...).init` returns; `options` are those of the step or epoch that it is for.

    Args:
        model: As in `training`.
        optimizer: As in `training`.
        key: The run's key: weights, order of the data and dropout all follow from it.
        x: A batch of inputs, or its `jax.ShapeDtypeStruct`.
        initial: `(params, state)` to start from instead of drawing them.
        **options: `hyperparameters`, `metrics`, `callbacks` and `loss_scaling`, as in `training`.

    Returns:
        The `TrainState` at step 0.

    Raises:
        TypeError: If `key` is not a key, or as `training`.
        ValueError: If the model does not take `x`, or as `training`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> start = nn.init_train_state(nn.dense(3), optax.sgd(0.1), jax.random.key(0), jnp.ones((2, 4)))
        >>> int(start.step), start.params["kernel"].shape
        (0, (4, 3))
    """
    options = {"loss": _no_loss, **options}
    return training(model, optimizer=optimizer, **options).init(key, x, initial)


def _no_loss(predictions: Any, y: Any) -> Any:
    raise NotImplementedError("init_train_state was given no loss")
