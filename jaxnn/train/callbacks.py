"""Callbacks, which run between the steps and epochs of `fit`: `nn.callbacks.early_stopping(patience=5)`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.checks import whole
from jaxnn.core.direction import better
from jaxnn.core.dtypes import at_least_float32
from jaxnn.core.text import listed
from jaxnn.train import table_files as logs
from jaxnn.train.hooks import Callback

__all__ = [
    "Callback",
    "csv_log",
    "early_stopping",
    "ema",
    "jsonl_log",
    "plot",
    "reduce_on_plateau",
    "swa",
    "target",
    "tensorboard_log",
    "time_budget",
]


def early_stopping(
    patience: int,
    *,
    monitor: str | None = None,
    mode: str | None = None,
    min_delta: float = 0.0,
    restore_best: bool = True,
    name: str = "early_stopping",
) -> Callback:
    """Stop when a value has not improved for some epochs in a row (Prechelt 1998).

    A value improves if it is better than the best one by more than `min_delta`.

    Args:
        patience: The number of epochs in a row without improvement that ends the run.
        monitor: The value's name in the history; by default the validation loss, or the loss without validation data.
        mode: `"min"` if smaller values are better, `"max"` if larger ones are; by default decided by the value's name: `"min"`
            for losses and errors, `"max"` for accuracies and similar scores.
        min_delta: The smallest change that counts as an improvement, at least 0.
        restore_best: Return the weights of the best epoch instead of the last one.
        name: The name of the callback.

    Returns:
        The callback.

    Raises:
        ValueError: If the patience is below 1, the mode is unknown, `min_delta` is negative, or no mode is given and the name
            does not say which way is better; in the run, if its history has no such value.

    Example:
        >>> early_stopping(patience=5, monitor="val_accuracy").name
        'early_stopping'
    """
    whole("early_stopping", "patience", patience)
    sign = _sign(monitor, mode)
    if not min_delta >= 0:
        raise ValueError(f"early_stopping takes min_delta of at least 0, got {min_delta}")

    def init(train_state):
        best = (train_state.params, train_state.state) if restore_best else ()
        return jnp.asarray(jnp.inf, jnp.float32), jnp.zeros((), jnp.int32), best

    def after_epoch(memory, train_state, values, weights):
        best, best_epoch, kept = memory
        value = sign * _monitored(name, values, monitor)
        improved = best - value > min_delta
        kept = jax.tree.map(lambda new, old: jnp.where(improved, new, old), weights, kept) if restore_best else ()
        best_epoch = jnp.where(improved, train_state.epoch, best_epoch)
        return (jnp.where(improved, value, best), best_epoch, kept), train_state, train_state.epoch - best_epoch >= patience

    def finish(memory, epoch, weights):
        _, best_epoch, kept = memory
        found = best_epoch > 0
        return jnp.where(found, best_epoch, epoch), jax.tree.map(lambda a, b: jnp.where(found, a, b), kept, weights)

    finish_best = finish if restore_best else None
    return Callback(name, init, after_epoch=after_epoch, finish=finish_best, prefers_validation=monitor is None)


def target(monitor: str, value: float, *, mode: str | None = None, name: str = "target") -> Callback:
    """Stop as soon as a monitored value reaches a target.

    Args:
        monitor: The value's name in the history, such as `"val_accuracy"`.
        value: The target.
        mode: `"max"` to stop at `value` or above, `"min"` to stop at `value` or below; by default decided by the value's name,
            as in `early_stopping`.
        name: The name of the callback.

    Returns:
        The callback.

    Raises:
        ValueError: If the mode is unknown, or no mode is given and the name does not say which way is better; in the run, if
            its history has no such value.

    Example:
        >>> target("val_accuracy", 0.99).name
        'target'
    """
    sign = _sign(monitor, mode)

    def after_epoch(memory, train_state, values, weights):
        return memory, train_state, sign * _monitored(name, values, monitor) <= sign * value

    return Callback(name, after_epoch=after_epoch)


def ema(decay: float | str = 0.999, *, name: str = "ema") -> Callback:
    """Validate and return an exponential moving average of the weights instead of the last ones (Polyak & Juditsky 1992).

    After step t: m ← d m + (1 − d) W with d = min(decay, (1 + t)/(10 + t)), so that the first weights soon lose their
    influence. The model's state is averaged likewise where it is floating-point.

    Args:
        decay: The decay d in [0, 1), or the name of a traced hyperparameter that holds it.
        name: The name of the callback.

    Returns:
        The callback.

    Raises:
        ValueError: If the decay is not in [0, 1); at the start of a run, if it has no such traced hyperparameter.

    Example:
        >>> ema(0.99).name
        'ema'
    """
    named = (decay,) if isinstance(decay, str) else ()
    if not isinstance(decay, str) and not 0 <= decay < 1:
        raise ValueError(f"ema takes a decay in [0, 1), got {decay}")

    def init(train_state):
        if named and decay not in train_state.hyperparameters:
            raise ValueError(f'ema reads the traced hyperparameter {decay!r}: pass hyperparameters={{"{decay}": 0.999}}')
        return _wide(_weights(train_state))

    def after_step(memory, train_state):
        t = train_state.step.astype(jnp.float32)
        limit = train_state.hyperparameters[decay] if named else jnp.asarray(decay, jnp.float32)
        d = jnp.minimum(limit, (1 + t) / (10 + t))
        return _mix(memory, (train_state.params, train_state.state), 1 - d), train_state

    return Callback(name, init, after_step=after_step, weights=_narrowed, hyperparameters=named)


def swa(first_epoch: int, *, name: str = "swa") -> Callback:
    """Stochastic weight averaging: the mean of the weights at the end of each epoch from `first_epoch` on (Izmailov 2018).

    The model's state, such as batch norm's statistics, is averaged likewise.

    Args:
        first_epoch: The first epoch whose weights are averaged, counted from 1.
        name: The name of the callback.

    Returns:
        The callback.

    Raises:
        ValueError: If `first_epoch` is below 1.

    Example:
        >>> swa(10).name
        'swa'
    """
    whole("swa", "first_epoch", first_epoch)

    def after_epoch(memory, train_state, values, weights):
        count, mean = memory
        count = count + (train_state.epoch >= first_epoch).astype(jnp.int32)
        share = jnp.where(count > 0, 1 / jnp.maximum(count, 1).astype(jnp.float32), 1.0)
        return (count, _mix(mean, (train_state.params, train_state.state), share)), train_state, False

    def init(train_state):
        return jnp.zeros((), jnp.int32), _wide(_weights(train_state))

    def averaged(memory, weights):
        return jax.tree.map(lambda mean, last: jnp.where(memory[0] > 0, mean, last), _narrowed(memory[1], weights), weights)

    return Callback(name, init, after_epoch=after_epoch, weights=averaged)


def reduce_on_plateau(
    factor: float = 0.1,
    patience: int = 10,
    *,
    hyperparameter: str = "learning_rate",
    monitor: str | None = None,
    mode: str | None = None,
    min_delta: float = 0.0,
    minimum: float = 0.0,
    name: str = "reduce_on_plateau",
) -> Callback:
    """Multiply the learning rate by a factor when a value has not improved for some epochs in a row.

    The learning rate is a traced hyperparameter: `fit(..., optimizer=optax.adam, hyperparameters={"learning_rate": 1e-3})`.

    Args:
        factor: The factor, in (0, 1).
        patience: The number of epochs in a row without improvement after which the rate is reduced.
        hyperparameter: The name of the hyperparameter that is reduced.
        monitor: The value's name in the history; by default the validation loss, or the loss without validation data.
        mode: `"min"` if smaller values are better, `"max"` if larger ones are; by default decided by the value's name: `"min"`
            for losses and errors, `"max"` for accuracies and similar scores.
        min_delta: A value improves if it is better than the best one by more than this.
        minimum: The smallest value of the hyperparameter.
        name: The name of the callback.

    Returns:
        The callback.

    Raises:
        ValueError: If an option is out of range, or no mode is given and the name does not say which way is better; at the
            start of a run, if it has no such traced hyperparameter.

    Example:
        >>> reduce_on_plateau(0.5, patience=3).name
        'reduce_on_plateau'
    """
    whole("reduce_on_plateau", "patience", patience)
    sign = _sign(monitor, mode)
    if not 0 < factor < 1:
        raise ValueError(f"reduce_on_plateau takes a factor in (0, 1), got {factor}")

    def init(train_state):
        if hyperparameter not in train_state.hyperparameters:
            raise ValueError(
                f"reduce_on_plateau changes {hyperparameter!r}, which is not a traced hyperparameter of this run: pass, for "
                f'example, fit(..., optimizer=optax.adam, hyperparameters={{"{hyperparameter}": 1e-3}})'
            )
        return jnp.asarray(jnp.inf, jnp.float32), jnp.zeros((), jnp.int32)

    def after_epoch(memory, train_state, values, weights):
        best, waited = memory
        value = sign * _monitored(name, values, monitor)
        improved = best - value > min_delta
        waited = jnp.where(improved, 0, waited + 1)
        old = train_state.hyperparameters[hyperparameter]
        new = jnp.where(waited >= patience, jnp.maximum(old * factor, minimum), old)
        changed = train_state._replace(hyperparameters=train_state.hyperparameters | {hyperparameter: new})
        return (jnp.where(improved, value, best), jnp.where(waited >= patience, 0, waited)), changed, False

    return Callback(name, init, after_epoch=after_epoch)


def time_budget(seconds: float, *, name: str = "time_budget") -> Callback:
    """Stop at the end of the first epoch that exceeds a time budget, which includes compilation.

    Args:
        seconds: The number of seconds since the start of the run, above 0.
        name: The name of the callback.

    Returns:
        The callback.

    Raises:
        ValueError: If the seconds are not above 0.

    Example:
        >>> time_budget(3600).name
        'time_budget'
    """
    if not seconds > 0:
        raise ValueError(f"time_budget takes seconds above 0, got {seconds}")
    began = [0.0]

    def on_start(history):
        began[0] = time.monotonic()

    return Callback(name, on_start=on_start, on_epoch=lambda row, train_state: time.monotonic() - began[0] > seconds)


def csv_log(path: str | os.PathLike, *, name: str = "csv_log") -> Callback:
    """Write each row of the history to a file of comma-separated values when its epoch ends.

    Args:
        path: The file. A resumed run appends to it; a new run replaces it. If another run replaces the file meanwhile, a
            warning says so, and this run writes no more rows.
        name: The name of the callback.

    Returns:
        The callback.

    Raises:
        OSError: Before the run, if the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = csv_log(f"{folder}/log.csv")
        ...     log.on_row({"epoch": 1, "loss": 0.5})  # as a run does
        ...     log.on_end()
        ...     print(Path(folder, "log.csv").read_text(), end="")
        epoch,loss
        1,0.5
    """
    return _log(logs.csv_log(path), name)


def jsonl_log(path: str | os.PathLike, *, name: str = "jsonl_log") -> Callback:
    """Write each row of the history as a line of JSON when its epoch ends; `nn.History.from_jsonl` reads the file.

    Args:
        path: The file. A resumed run appends to it; a new run replaces it. If another run replaces the file meanwhile, a
            warning says so, and this run writes no more rows.
        name: The name of the callback.

    Returns:
        The callback.

    Raises:
        OSError: Before the run, if the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = jsonl_log(f"{folder}/log.jsonl")
        ...     log.on_row({"epoch": 1, "loss": 0.5})  # as a run does
        ...     log.on_end()
        ...     print(Path(folder, "log.jsonl").read_text(), end="")
        {"epoch": 1, "loss": 0.5}
    """
    return _log(logs.jsonl_log(path), name)


def tensorboard_log(folder: str | os.PathLike, *, name: str = "tensorboard_log") -> Callback:
    """Write each epoch's numbers for TensorBoard. Needs tensorboardX.

    Args:
        folder: The folder that TensorBoard reads. A resumed run appends to it; a new run replaces its files.
        name: The name of the callback.

    Returns:
        The callback.

    Raises:
        ImportError: If tensorboardX is not installed.
        OSError: Before the run, if the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = tensorboard_log(folder)
        ...     log.on_row({"epoch": 1, "loss": 0.5})  # as a run does
        ...     log.on_end()
        ...     len(os.listdir(folder))
        1
    """
    return _log(logs.tensorboard_log(folder), name)


def plot(path: str | os.PathLike, *, name: str = "plot") -> Callback:
    """Plot the history when the run ends, however it ends. Needs matplotlib.

    Args:
        path: The image file; its folder is created if necessary.
        name: The name of the callback.

    Returns:
        The callback.

    Raises:
        ImportError: At the start of the run, if matplotlib is not installed.
        OSError: At the start of the run, if the file cannot be written.
        ValueError: At the start of the run, if the suffix of the path is not that of an image format.

    Example:
        >>> plot("run/history.png").name
        'plot'
    """
    watched: list[Any] = []

    def on_start(history):
        from jaxnn.plots import figures as plots

        known = plots.new_figure().canvas.get_supported_filetypes()
        suffix = Path(path).suffix.lower()[1:]
        if suffix and suffix not in known:
            raise ValueError(
                f"plot writes an image file, such as history.png, got {path}; the formats: {listed(sorted(known))}"
            )
        logs.check_writable("plot", Path(path))
        watched[:] = [history]

    def on_end():
        if watched and watched[0]:
            watched[0].plot().savefig(path)

    return Callback(name, on_start=on_start, on_end=on_end)


def _log(log: logs.Log, name: str) -> Callback:
    return Callback(name, on_row=log.write, on_end=log.close)


def _weights(train_state: Any) -> tuple:
    return train_state.params, train_state.state


def _mix(old: Any, new: Any, share: jax.Array) -> Any:
    """(1 − share) · old + share · new for floating-point arrays, in the dtype of old, new for others."""

    def mixed(a, b):
        return a + (b.astype(a.dtype) - a) * share.astype(a.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else b

    return jax.tree.map(mixed, old, new)


def _wide(weights: Any) -> Any:
    """The weights in at least float32: an average in bfloat16 or float16 stands still."""
    return jax.tree.map(lambda w: at_least_float32(w) if jnp.issubdtype(w.dtype, jnp.floating) else w, weights)


def _narrowed(average: Any, weights: Any) -> Any:
    """The average in the dtypes of the weights."""
    return jax.tree.map(lambda a, w: a.astype(w.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, average, weights)


def _sign(monitor: str | None, mode: str | None) -> int:
    """1, or −1 where larger values are better: the sign that makes the value one to minimize."""
    return 1 if better("loss" if monitor is None else monitor, mode) == "min" else -1


def _monitored(caller: str, values: dict, monitor: str | None) -> jax.Array:
    monitor = ("val_loss" if "val_loss" in values else "loss") if monitor is None else monitor
    if monitor not in values or jnp.shape(values[monitor]) != ():
        known = listed(name for name, value in values.items() if jnp.shape(value) == ())
        raise ValueError(f"{caller} monitors {monitor!r}, which is not a number in this run's history; its numbers: {known}")
    return values[monitor].astype(jnp.float32)
