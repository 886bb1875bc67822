"""One training step as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnn.problem.batches import leading_size, over_batches
from jaxnn.problem.hyperparameters import loss_of, optimizer_of
from jaxnn.train.config import TrainingConfig
from jaxnn.train.state import LossScale, TrainState

STEPS_TO_GROW = 2000


def step_of(config: TrainingConfig) -> Callable[[TrainState, Any], tuple[TrainState, jax.Array, Any]]:
    """`step(train_state, batch) -> (train_state, loss, predictions)`: forward, loss, gradient, update."""
    weighted = weighted_step_of(config)

    def step(train_state: TrainState, batch: Any):
        after, value, _, predictions = weighted(train_state, batch)
        return after, value, predictions

    return step


def weighted_step_of(config: TrainingConfig) -> Callable[[TrainState, Any], tuple[TrainState, jax.Array, jax.Array, Any]]:
    """`step(train_state, batch) -> (train_state, loss, weight, predictions)`, with the loss's weight in a mean over batches.

    What adds up many numbers is float32 at least, whatever the dtype of the parameters: sums of gradients over parts of a
    batch, norms, and gradients that are divided by the loss scale, which float16 may not hold.
    """

    def step(train_state: TrainState, batch: Any):
        bound = config.problem.at(train_state)
        transformation = optax.with_extra_args_support(optimizer_of(config.optimizer, bound.values))
        batch = bound.augment(batch)
        scale = train_state.loss_scale.scale if train_state.loss_scale else None

        def objective(params, state, part, key):
            value, (weight, state, predictions) = bound.weighted(params, state, part, key)
            return value if scale is None else value.astype(jnp.float32) * scale, (value, weight, state, predictions)

        arguments = (train_state.params, train_state.state, batch, bound.key)
        gradient = partial(_gradient, jax.grad(objective, has_aux=True), config.accumulate)
        skipped: Any = 0
        if config.gradient is None:
            gradients, (value, weight, state, predictions) = gradient(*arguments)
        else:
            custom = loss_of(config.gradient, bound.values)
            gradients, (value, weight, state, predictions, skipped) = custom(bound.weighted, *arguments)
        if config.sam_radius:
            size = optax.tree.norm(jax.tree.map(_wide, gradients))
            factor = config.sam_radius / jnp.where(size == 0, 1.0, size)
            around = jax.tree.map(lambda w, g: w + (_wide(g) * factor).astype(w.dtype), train_state.params, gradients)
            gradients, _ = gradient(around, *arguments[1:])
        if scale is not None:
            gradients = jax.tree.map(lambda g: _wide(g) / scale.astype(_wide(g).dtype), gradients)
        if config.clip_norm is not None:  # optax.clip_by_global_norm sums the squares in the gradients' own dtype
            size = optax.tree.norm(jax.tree.map(_wide, gradients))
            factor = config.clip_norm / jnp.maximum(size, config.clip_norm)
            gradients = jax.tree.map(lambda g: _wide(g) * factor.astype(_wide(g).dtype), gradients)
        gradients = jax.tree.map(lambda g, w: g.astype(w.dtype), gradients, train_state.params)
        value_fn = lambda params: objective(params, *arguments[1:])[1][0]  # noqa: E731
        extra = {"value": value, "grad": gradients, "value_fn": value_fn}  # for line searches
        if config.gradient is not None:  # which may hide the data: what follows from the loss would not
            extra = {"grad": gradients}
        with jax.numpy_dtype_promotion("standard"):  # optax requires it, even if the caller is strict
            updates, opt_state = transformation.update(gradients, train_state.opt_state, train_state.params, **extra)
            params = optax.apply_updates(train_state.params, updates)
        new = {"params": params, "state": state, "opt_state": opt_state}
        if config.gradient is not None:
            train_state = train_state._replace(skipped=train_state.skipped + jnp.asarray(skipped, jnp.int32))
        if config.skip_nonfinite or scale is not None:
            finite = _all_finite(value, gradients)
            old = {name: getattr(train_state, name) for name in new}
            new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
            new |= {
                "skipped": train_state.skipped + (~finite).astype(jnp.int32),
                "loss_scale": _rescaled(train_state.loss_scale, finite) if scale is not None else (),
            }
        return train_state._replace(**new, step=train_state.step + 1), value, weight, predictions

    return step


def _gradient(differentiate: Callable, parts: int, params: Any, state: Any, batch: Any, key: jax.Array):
    """The gradient of the mean over the batch, in one pass or accumulated over parts, and (loss, weight, state, predictions).

    The sizes of the parts differ by at most one sample.
    """
    if parts == 1:
        return differentiate(params, state, batch, key)

    def one(carry, part):
        state, index, sums = carry
        gradients, (value, weight, state, predictions) = differentiate(params, state, part, jax.random.fold_in(key, index))
        new = jax.tree.map(_wide, (gradients, value, jnp.ones_like(weight)))
        sums = jax.tree.map(lambda sum, new: sum + new * weight.astype(new.dtype), sums, new)
        return (state, index + 1, sums), predictions

    gradients, (value, weight, _, shapes) = jax.eval_shape(differentiate, params, state, batch, key)
    carry = (
        state,
        jnp.zeros((), jnp.int32),
        jax.tree.map(lambda a: _wide(jnp.zeros(a.shape, a.dtype)), (gradients, value, weight)),
    )
    n = leading_size(batch)
    size, larger = divmod(n, min(parts, n))
    cut, made = larger * (size + 1), []
    for low, high, each in ((0, cut, size + 1), (cut, n, size)):
        if low < high:
            carry, predictions = over_batches(one, carry, jax.tree.map(lambda a: a[low:high], batch), each)  # noqa: B023
            made.append(predictions)
    state, _, (gradients, value, weight) = carry
    divisor = jnp.where(weight == 0, 1.0, weight)
    gradients, value = jax.tree.map(lambda sum: sum / divisor.astype(sum.dtype), (gradients, value))
    predictions = jax.tree.map(lambda *parts: jnp.concatenate(parts), *made)
    sizes = np.full(min(parts, n), size) + (np.arange(min(parts, n)) < larger)

    def joined(leaf, like):  # a number, which is a mean over its part
        return leaf if like.shape else jnp.sum(leaf * jnp.asarray(sizes / n, leaf.dtype))

    return gradients, (value, weight, state, jax.tree.map(joined, predictions, shapes))


def _wide(x: jax.Array) -> jax.Array:
    """x in float32 if its dtype is a narrower one."""
    narrow = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32
    return x.astype(jnp.float32) if narrow else x


def _all_finite(*trees: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trees)]))


def _rescaled(loss_scale: LossScale, finite: jax.Array) -> LossScale:
    good = jnp.where(finite, loss_scale.good_steps + 1, 0)
    grow = good >= STEPS_TO_GROW
    scale = jnp.where(finite, jnp.where(grow, loss_scale.scale * 2, loss_scale.scale), loss_scale.scale / 2)
    return LossScale(jnp.clip(scale, 1.0, 2.0**24), jnp.where(grow, 0, good))
