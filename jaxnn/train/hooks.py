"""The protocol of callbacks: what happens beside the steps of a run, and when it is called.

A `Callback` is up to nine small functions. Some are pure and part of the compiled program; what they remember is a leaf
of the `TrainState`, so a run that was cut and resumed, or trained under `vmap`, is the same run. The others are called on
the host, between programs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True, eq=False)
class Callback:
    """Up to nine functions. `weights` below is `(params, state)`; a `train_state` may be returned changed.

    Attributes:
        name: the callback's place in `train_state.memory`; one of a name in a run.
        init: pure, `init(train_state) -> memory` at the start.
        after_step: pure, `after_step(memory, train_state) -> (memory, train_state)`.
        after_epoch: pure, `after_epoch(memory, train_state, logs, weights) -> (memory, train_state, stop)`; `logs` has
            the epoch's losses and metrics, `weights` are those that were validated.
        weights: pure, `weights(memory, weights) -> weights`: what to validate and to return instead of the trained ones.
        finish: pure, `finish(memory, epoch, weights) -> (epoch, weights)`: what to return at the end of the run.
        on_start: `on_start(history)`, on the host, before the first step; an error ends the run before it has begun.
        on_row: `on_row(row)`, on the host, for each new line of the history, which may come some short epochs late.
        on_epoch: `on_epoch(row, train_state)`, on the host, at the end of each epoch; returning True ends the run.
        on_end: `on_end()`, on the host, however the run ended.
        hyperparameters: the names of those that it reads, from `train_state.hyperparameters`.

    Example:
        The gradient's size is kept small by hand: weights never exceed 1.

        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> def clip(memory, train_state):
        ...     params = jax.tree.map(lambda w: jnp.clip(w, -1, 1), train_state.params)
        ...     return memory, train_state._replace(params=params)
        >>> result = nn.fit(
        ...     nn.dense(1), (jnp.ones((8, 1)), jnp.full((8, 1), 9.0)), loss=nn.losses.mse, optimizer=optax.sgd(0.1),
        ...     epochs=20, key=jax.random.key(0), callbacks=[nn.callbacks.Callback("clip", after_step=clip)], progress=False)
        >>> result.params["kernel"].item()
        1.0
    """

    name: str
    init: Callable[[Any], Any] = lambda train_state: ()
    after_step: Callable[[Any, Any], tuple] | None = None
    after_epoch: Callable[[Any, Any, dict, tuple], tuple] | None = None
    weights: Callable[[Any, tuple], tuple] | None = None
    finish: Callable[[Any, jax.Array, tuple], tuple] | None = None
    on_start: Callable[[Any], None] | None = None
    on_row: Callable[[dict], None] | None = None
    on_epoch: Callable[[dict, Any], bool | None] | None = None
    on_end: Callable[[], None] | None = None
    hyperparameters: tuple[str, ...] = ()

    @property
    def is_pure(self) -> bool:
        """Whether it has a part in the compiled program."""
        return any((self.after_step, self.after_epoch, self.weights, self.finish))


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Check that they are callbacks of different names.

    Raises:
        TypeError: If one is not a callback.
        ValueError: If two have one name.
    """
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks are made by nn.callbacks, as early_stopping(patience=5); got {callback!r}")
    names = [callback.name for callback in callbacks]
    if len(set(names)) < len(names):
        raise ValueError(f"each callback has a name of its own, got {', '.join(names)}: give one of them name=")


def start_memory(callbacks: Sequence[Callback], train_state: Any) -> dict[str, Any]:
    """The callbacks' memory at the start, by name."""
    memory = {callback.name: callback.init(train_state) for callback in callbacks if callback.is_pure}
    return jax.tree.map(jnp.copy, memory)  # buffers of its own, as a train state may be donated


def after_step(callbacks: Sequence[Callback], train_state: Any) -> Any:
    """The train state after all that happens after a step."""
    for callback in callbacks:
        if callback.after_step:
            memory, train_state = callback.after_step(train_state.memory[callback.name], train_state)
            train_state = train_state._replace(memory=train_state.memory | {callback.name: memory})
    return train_state


def after_epoch(callbacks: Sequence[Callback], train_state: Any, values: dict, weights: tuple) -> Any:
    """The train state after all that happens after an epoch."""
    for callback in callbacks:
        if callback.after_epoch:
            memory, train_state, stop = callback.after_epoch(train_state.memory[callback.name], train_state, values, weights)
            memory = train_state.memory | {callback.name: memory}
            train_state = train_state._replace(memory=memory, stopped=train_state.stopped | stop)
    return train_state


def evaluated_weights(callbacks: Sequence[Callback], train_state: Any) -> tuple:
    """The `(params, state)` that are validated."""
    weights = (train_state.params, train_state.state)
    for callback in callbacks:
        if callback.weights:
            weights = callback.weights(train_state.memory[callback.name], weights)
    return weights


def final_weights(callbacks: Sequence[Callback], train_state: Any) -> tuple:
    """The epoch and the `(params, state)` that the run returns."""
    epoch, weights = train_state.epoch, evaluated_weights(callbacks, train_state)
    for callback in callbacks:
        if callback.finish:
            epoch, weights = callback.finish(train_state.memory[callback.name], epoch, weights)
    return epoch, weights
