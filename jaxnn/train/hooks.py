"""The protocol of callbacks: their functions, and when a run calls them.

A `Callback` has up to nine small functions. Some are pure and part of the compiled program; their memory is part of the
`TrainState`, so a run gives the same results when it is interrupted and resumed, or mapped by `vmap`. The others are called
on the host, between programs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.text import listed


@dataclass(frozen=True, eq=False)
class Callback:
    """A callback: up to nine functions, each of them optional.

    Pure functions are compiled into the run's program and may return a changed `train_state`; the others are called on the
    host. Below, `weights` is the pair `(params, state)`.

    Attributes:
        name: The callback's key in `train_state.memory`; each callback of a run has a different one.
        init: Pure, `init(train_state) -> memory`, at the start of the run.
        after_step: Pure, `after_step(memory, train_state) -> (memory, train_state)`.
        after_epoch: Pure, `after_epoch(memory, train_state, logs, weights) -> (memory, train_state, stop)`; `logs` has the
            losses and metrics of the epoch, `weights` are the ones that were validated.
        weights: Pure, `weights(memory, weights) -> weights`, the weights to validate and return in place of the trained ones.
        finish: Pure, `finish(memory, epoch, weights) -> (epoch, weights)`, the weights to return at the end of the run, and
            their epoch.
        on_start: On the host, `on_start(history)`, before the first step; an error raised here prevents the run.
        on_row: On the host, `on_row(row)`, for each new row of the history; if epochs are short, a few epochs late. It only
            watches: an error raised here or in `on_end` becomes a warning, once, and the run continues.
        on_epoch: On the host, `on_epoch(row, train_state)`, at the end of each epoch; returning True ends the run, and so
            does an error.
        on_end: On the host, `on_end()`, when the run ends for any reason.
        hyperparameters: The names of the entries of `train_state.hyperparameters` that the callback reads.
        prefers_validation: Whether a run without validation data is warned about.

    Example:
        Keep all weights between −1 and 1:
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
    prefers_validation: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"Callback takes a name, such as 'clip', got {self.name!r}")

    @property
    def is_pure(self) -> bool:
        """Whether a part of the callback is compiled into the program."""
        return any((self.after_step, self.after_epoch, self.weights, self.finish))


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Check that all are callbacks, with different names.

    Raises:
        TypeError: If one is not a callback.
        ValueError: If two have the same name.
    """
    if isinstance(callbacks, Callback):
        raise TypeError(f"callbacks is a sequence: write callbacks=[...] around {callbacks.name!r}")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(
                f"callbacks are created by functions such as nn.callbacks.early_stopping(patience=5), got {callback!r}"
            )
    names = [callback.name for callback in callbacks]
    if len(set(names)) < len(names):
        raise ValueError(f"each callback needs a different name, got {listed(names)}: pass name= to one of them")


def start_memory(callbacks: Sequence[Callback], train_state: Any) -> dict[str, Any]:
    """The initial memory of the callbacks, by name."""
    memory = {callback.name: callback.init(train_state) for callback in callbacks if callback.is_pure}
    return jax.tree.map(jnp.copy, memory)  # not the train state's buffers, which may be donated


def after_step(callbacks: Sequence[Callback], train_state: Any) -> Any:
    """Apply the callbacks to the train state after a step."""
    for callback in callbacks:
        if callback.after_step:
            memory, train_state = callback.after_step(train_state.memory[callback.name], train_state)
            train_state = train_state._replace(memory=train_state.memory | {callback.name: memory})
    return train_state


def after_epoch(callbacks: Sequence[Callback], train_state: Any, values: dict, weights: tuple) -> Any:
    """Apply the callbacks to the train state after an epoch."""
    for callback in callbacks:
        if callback.after_epoch:
            memory, train_state, stop = callback.after_epoch(train_state.memory[callback.name], train_state, values, weights)
            memory = train_state.memory | {callback.name: memory}
            train_state = train_state._replace(memory=memory, stopped=train_state.stopped | stop)
    return train_state


def evaluated_weights(callbacks: Sequence[Callback], train_state: Any) -> tuple:
    """The `(params, state)` to validate."""
    weights = (train_state.params, train_state.state)
    for callback in callbacks:
        if callback.weights:
            weights = callback.weights(train_state.memory[callback.name], weights)
    return weights


def final_weights(callbacks: Sequence[Callback], train_state: Any) -> tuple:
    """The `(params, state)` that the run returns, and their epoch."""
    epoch, weights = train_state.epoch, evaluated_weights(callbacks, train_state)
    for callback in callbacks:
        if callback.finish:
            epoch, weights = callback.finish(train_state.memory[callback.name], epoch, weights)
    return epoch, weights
