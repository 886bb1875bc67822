"""One training step as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnn.problem.batches import leading_size, over_batches
from jaxnn.problem.hyperparameters import optimizer_of
from jaxnn.problem.running import weight_of
from jaxnn.train.config import TrainingConfig
from jaxnn.train.state import LossScale, TrainState

STEPS_TO_GROW = 2000


def step_of(config: TrainingConfig) -> Callable[[TrainState, Any], tuple[TrainState, jax.Array, Any]]:
    """`step(train_state, batch) -> (train_state, loss, predictions)`: forward, loss, gradient, update."""

    def step(train_state: TrainState, batch: Any):
        bound = config.problem.at(train_state)
        transformation = optax.with_extra_args_support(optimizer_of(config.optimizer, bound.values))
        batch = bound.augment(batch)
        scale = train_state.loss_scale.scale if train_state.loss_scale else None

        def objective(params, state, part, key):
            value, (state, predictions) = bound.objective(params, state, part, key)
            return value if scale is None else value.astype(jnp.float32) * scale, (value, state, predictions)

        arguments = (train_state.params, train_state.state, batch, bound.key)
        gradient = partial(_gradient, jax.grad(objective, has_aux=True), config.accumulate)
        gradients, (value, state, predictions) = gradient(*arguments)
        if config.sam_radius:
            size = optax.tree.norm(gradients)
            factor = config.sam_radius / jnp.where(size == 0, 1.0, size)
            around = jax.tree.map(lambda w, g: w + (g * factor).astype(w.dtype), train_state.params, gradients)
            gradients, _ = gradient(around, *arguments[1:])
        if scale is not None:
            gradients = jax.tree.map(lambda g: g / scale.astype(g.dtype), gradients)
        value_fn = lambda params: objective(params, *arguments[1:])[1][0]  # noqa: E731
        extra = {"value": value, "grad": gradients, "value_fn": value_fn}  # for line searches
        with jax.numpy_dtype_promotion("standard"):  # optax requires it, even if the caller is strict
            updates, opt_state = transformation.update(gradients, train_state.opt_state, train_state.params, **extra)
            params = optax.apply_updates(train_state.params, updates)
        new = {"params": params, "state": state, "opt_state": opt_state}
        if config.skip_nonfinite or scale is not None:
            finite = _all_finite(value, gradients)
            old = {name: getattr(train_state, name) for name in new}
            new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
            new |= {
                "skipped": train_state.skipped + (~finite).astype(jnp.int32),
                "loss_scale": _rescaled(train_state.loss_scale, finite) if scale is not None else (),
            }
        return train_state._replace(**new, step=train_state.step + 1), value, predictions

    return step


def _gradient(differentiate: Callable, parts: int, params: Any, state: Any, batch: Any, key: jax.Array):
    """The gradient of the mean over the batch, in one pass or accumulated over parts, and (loss, state, predictions)."""
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
