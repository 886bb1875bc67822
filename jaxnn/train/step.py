"""One training step as a pure function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnn.core.layer import Layer
from jaxnn.core.naming import child_key
from jaxnn.problem.batches import leading_size, over_batches
from jaxnn.problem.hyperparameters import loss_of, model_of, optimizer_of, split
from jaxnn.problem.running import weight_of
from jaxnn.train.state import LossScale, TrainState

STEPS_TO_GROW = 2000


@dataclass(frozen=True)
class Objective:
    """A loss of one's own over everything there is, given wherever a loss is.

    Attributes:
        function: `function(model, params, state, batch, key) -> (loss, (state, predictions))`. The batch is one of the data,
            whatever they are. In training `key` is a key, in validation None. The predictions are what the metrics are
            given, together with the batch's second entry (or the batch itself, if it is no tuple).

    Example:
        An autoencoder with a penalty on its code, on data without targets:

        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> def reconstruct(model, params, state, batch, key):
        ...     y, state = model.apply(params, state, batch, key=key, training=key is not None)
        ...     return nn.losses.mse(y, batch) + 1e-3 * jnp.sum(params["dense"]["kernel"] ** 2), (state, y)
        >>> result = nn.fit(
        ...     nn.serial(nn.dense(2), nn.dense(4)), jnp.eye(4), loss=nn.Objective(reconstruct), optimizer=optax.adam(0.1),
        ...     epochs=50, key=jax.random.key(0), progress=False)
        >>> result.history["loss"][-1] < result.history["loss"][0]
        True
    """

    function: Callable[[Layer, Any, Any, Any, jax.Array | None], tuple[jax.Array, tuple[Any, Any]]]


def train_step(
    model: Any,
    *,
    loss: Any,
    optimizer: Any,
    hyperparameters: Mapping[str, Any] | None = None,
    accumulate: int = 1,
    augment: Callable | None = None,
    sam_radius: float = 0.0,
    skip_nonfinite: bool = False,
) -> Callable:
    """One step: forward, loss, gradient, update, W⁽ᵗ⁺¹⁾ = W⁽ᵗ⁾ − η ∂L/∂W as the optimizer has it.

    Args:
        model: the model, or a function of hyperparameters that returns it.
        loss: `loss(predictions, y) -> scalar`, the batch's mean, or an `Objective`.
        optimizer: an optax transformation, or a function of hyperparameters that returns it.
        hyperparameters: numbers and schedules by name, see `fit`; the values of traced ones are the train state's.
        accumulate: take the gradient over so many parts of the batch, one after another, which needs that much less memory.
            The mean over all samples is the same; batch norm sees the parts.
        augment: `augment(key, (x, y)) -> (x, y)`, see `nn.data.augment`.
        sam_radius: ρ of sharpness-aware minimization (Foret et al. 2021): the gradient is taken at W + ρ g/‖g‖, with g the one
            at W, which doubles the cost of a step; 0 is without.
        skip_nonfinite: leave parameters, state and optimizer as they were where the loss or a gradient is not finite.

    Returns:
        `step(train_state, batch) -> (train_state, loss, predictions)`, pure; the loss and the predictions are those before
        the update. A batch is `(x, y)`, or `(x, y, weights)` with one weight a sample: then the loss is Σ wᵢ lᵢ / Σ wᵢ.

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
    fixed, _ = split(hyperparameters)

    def step(train_state: TrainState, batch: Any):
        values = fixed.at(train_state.hyperparameters, train_state.step)
        layer = model_of(model, values)
        transformation = optax.with_extra_args_support(optimizer_of(optimizer, values))
        function = objective_of(loss, values).function
        key = jax.random.fold_in(child_key(train_state.key, "step"), train_state.step)
        if augment is not None:
            batch = (*loss_of(augment, values)(child_key(key, "augment"), tuple(batch[:2])), *batch[2:])
        scale = train_state.loss_scale.scale if train_state.loss_scale else None

        def objective(params, state, part, key):
            value, (state, predictions) = function(layer, params, state, part, key)
            if jnp.shape(value) != ():
                raise ValueError(
                    f"the loss is one number for a batch, got an array of shape {list(jnp.shape(value))}: take its mean, "
                    'or leave reduction at "mean"'
                )
            return value if scale is None else value.astype(jnp.float32) * scale, (value, state, predictions)

        arguments = (train_state.params, train_state.state, batch, key)
        gradient = partial(_gradient, jax.grad(objective, has_aux=True), accumulate)
        gradients, (value, state, predictions) = gradient(*arguments)
        if sam_radius:
            size = optax.tree.norm(gradients)
            factor = sam_radius / jnp.where(size == 0, 1.0, size)
            around = jax.tree.map(lambda w, g: w + (g * factor).astype(w.dtype), train_state.params, gradients)
            gradients, _ = gradient(around, *arguments[1:])
        if scale is not None:
            gradients = jax.tree.map(lambda g: g / scale.astype(g.dtype), gradients)
        value_fn = lambda params: objective(params, *arguments[1:])[1][0]  # noqa: E731
        extra = {"value": value, "grad": gradients, "value_fn": value_fn}  # for line searches
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it, also where the caller is strict
            updates, opt_state = transformation.update(gradients, train_state.opt_state, train_state.params, **extra)
            params = optax.apply_updates(train_state.params, updates)
        new = {"params": params, "state": state, "opt_state": opt_state}
        if skip_nonfinite or scale is not None:
            finite = _all_finite(value, gradients)
            old = {name: getattr(train_state, name) for name in new}
            new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
            new |= {
                "skipped": train_state.skipped + (~finite).astype(jnp.int32),
                "loss_scale": _rescaled(train_state.loss_scale, finite) if scale is not None else (),
            }
        return train_state._replace(**new, step=train_state.step + 1), value, predictions

    return step


def objective_of(loss: Any, values: Mapping[str, Any]) -> Objective:
    """What is minimized: the loss of the model's predictions for x against y, unless it is an `Objective` already."""
    if isinstance(loss, Objective):
        return loss
    bound = loss_of(loss, values)

    def supervised(model, params, state, batch, key):
        x, y, *weights = batch
        predictions, state = model.apply(params, state, x, key=key, training=key is not None)
        return (_weighted(bound, predictions, y, *weights) if weights else bound(predictions, y)), (state, predictions)

    return Objective(supervised)


def _weighted(loss: Callable, predictions: Any, y: Any, weights: jax.Array) -> jax.Array:
    """Σ wᵢ lᵢ / Σ wᵢ; 0 if all weights are."""
    try:
        each = loss(predictions, y, reduction="none")
    except TypeError as error:
        raise TypeError(
            "with weights, the loss must take reduction='none' and return one loss a sample, as those of nn.losses do; "
            f"{getattr(loss, '__name__', loss)!r} does not: {error}"
        ) from error
    weights = weights.astype(each.dtype)
    each = each.reshape(each.shape[0], -1).mean(1)
    total = weights.sum()
    return jnp.sum(each * weights) / jnp.where(total == 0, jnp.ones_like(total), total)


def _gradient(differentiate: Callable, parts: int, params: Any, state: Any, batch: Any, key: jax.Array):
    """The gradient of the mean over the batch, at once or part after part, and (loss, state, predictions)."""
    if parts == 1:
        return differentiate(params, state, batch, key)

    def one(carry, part):
        state, index, sums = carry
        gradients, (value, state, predictions) = differentiate(params, state, part, jax.random.fold_in(key, index))
        weight = weight_of(part)
        sums = jax.tree.map(
            lambda sum, new: sum + new * weight.astype(new.dtype), sums, (gradients, value, jnp.ones_like(weight))
        )
        return (state, index + 1, sums), predictions

    gradients, (value, *_) = jax.eval_shape(differentiate, params, state, batch, key)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (gradients, value, jax.ShapeDtypeStruct((), jnp.float32)))
    start = (state, jnp.zeros((), jnp.int32), zeros)
    size = max(leading_size(batch) // parts, 1)
    (state, _, (gradients, value, weight)), predictions = over_batches(one, start, batch, size)
    weight = jnp.where(weight == 0, 1.0, weight)
    gradients, value = jax.tree.map(lambda sum: sum / weight.astype(sum.dtype), (gradients, value))
    return gradients, (value, state, predictions)


def _all_finite(*trees: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trees)]))


def _rescaled(loss_scale: LossScale, finite: jax.Array) -> LossScale:
    good = jnp.where(finite, loss_scale.good_steps + 1, 0)
    grow = good >= STEPS_TO_GROW
    scale = jnp.where(finite, jnp.where(grow, loss_scale.scale * 2, loss_scale.scale), loss_scale.scale / 2)
    return LossScale(jnp.clip(scale, 1.0, 2.0**24), jnp.where(grow, 0, good))
