"""`fit`: the host's loop around one compiled epoch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import optax

from jaxnn import kernels
from jaxnn.core.layer import Layer
from jaxnn.core.options import whole
from jaxnn.core.scope import check_key
from jaxnn.train.checks import checked_data, checked_labels
from jaxnn.train.evaluation import as_numbers, evaluation, named_metrics, trained, with_validation
from jaxnn.train.progress import Progress
from jaxnn.train.step import init_train_state, train_epoch


@dataclass(frozen=True)
class FitResult:
    """What a run leaves.

    Attributes:
        params: the trained parameters.
        state: the model's state.
        history: a list of one value an epoch for `"loss"`, each metric, the same with `val_` where there was validation
            data, and `"seconds"`.
        stopped: why the run ended: `"finished"`, `"early"`, `"interrupted"` or `"nonfinite"`.
        epoch: the epoch, counted from 1, whose parameters these are; 0 if none was finished.
        compile_seconds: the time spent on tracing and compiling, 0 where an earlier run had done it.
        loss: the loss, for `evaluate`.
        metrics: the metrics, for `evaluate`.
    """

    params: Any
    state: Any
    history: dict[str, list[float]]
    stopped: str
    epoch: int
    compile_seconds: float
    loss: Callable = field(repr=False)
    metrics: Mapping[str, Any] = field(repr=False)


def fit(
    model: Layer,
    data: tuple[Any, Any],
    *,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    epochs: int,
    key: jax.Array,
    batch_size: int = 32,
    validation: tuple[Any, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    restore_best: bool = True,
    initial: Any = None,
    progress: bool = True,
) -> FitResult:
    """Train a model: each epoch (order, batches, updates, metrics, validation) is one compiled program.

    The same key gives the same result, bit for bit. A second run of the same model, loss, optimizer and shapes does not
    compile again. Ctrl-C ends the run and returns what was trained so far; so does a loss that is not finite, with a
    warning and the parameters of the last epoch before it.

    Args:
        model: the model.
        data: `(x, y)`, pytrees of arrays with one leading axis of samples.
        loss: `loss(predictions, y) -> scalar`, the batch's mean.
        optimizer: an optax transformation, such as `optax.adam(1e-3)`.
        epochs: how many passes over the data at the most.
        key: the run's key: weights, order of the data and dropout all follow from it.
        batch_size: samples a step; an epoch's last step has what is left, and a batch larger than the data is all of it.
        validation: `(x, y)` to evaluate on after each epoch.
        metrics: metrics by name, such as `{"accuracy": nn.metrics.accuracy}`.
        patience: stop after that many epochs in a row without improvement of the validation loss (of the training loss if
            there is no validation data); never by default.
        min_delta: a loss improves if best − loss > `min_delta`.
        restore_best: with `patience`, return the parameters of the best epoch instead of the last one.
        initial: `(params, state)`, or what `fit` returned, to start from instead of drawing them.
        progress: whether to show progress.

    Returns:
        A `FitResult` with `params`, `state` and `history`.

    Raises:
        TypeError: if something is not what it should be: a model that is no `Layer`, an optimizer factory that was not
            called, data that are no numbers.
        ValueError: on data that do not fit: lengths, labels out of range, NaN, float64 where JAX has it off.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(1), (100, 2))
        >>> y = (x[:, 0] > x[:, 1]).astype(jnp.int32)
        >>> result = nn.fit(
        ...     nn.dense(2), (x, y), loss=nn.losses.cross_entropy, optimizer=optax.adam(0.1), epochs=20,
        ...     key=jax.random.key(0), metrics={"accuracy": nn.metrics.accuracy}, progress=False)
        >>> result.history["accuracy"][-1] > 0.95
        True
    """
    _check_parts(model, loss, optimizer)
    named_metrics(metrics)  # for its errors; the programs are kept by the metrics as they were given
    metrics = dict(metrics or {})
    epochs, batch_size = whole("fit", "epochs", epochs), whole("fit", "batch_size", batch_size)
    patience = None if patience is None else whole("fit", "patience", patience)
    if not min_delta >= 0:
        raise ValueError(f"fit takes min_delta of at least 0, got {min_delta}")
    data = checked_data(data)
    validation = None if validation is None else checked_data(validation, "validation data")
    current = init_train_state(model, optimizer, check_key(key), data[0], None if initial is None else trained(initial))
    for part in (data, validation):
        if part is not None:
            checked_labels(model, part, current.params, current.state)

    watch = _Watch(current, patience, min_delta, restore_best)
    history: dict[str, list[float]] = {}
    stopped, start = "finished", time.perf_counter()
    compile_seconds = 0.0
    with Progress(epochs, progress) as bar:
        try:
            arguments = (current, data, validation)
            parts = (model, loss, optimizer, batch_size, tuple(metrics.items()))
            program = _compiled(*parts, *_signature(arguments))
            compile_seconds = time.perf_counter() - start
            for epoch in range(1, epochs + 1):
                start = time.perf_counter()
                after, logs = program(current, data, validation)
                logs = _fetched(logs, patient=epoch > 1 and history["seconds"][-1] < 0.2)
                logs["seconds"] = time.perf_counter() - start
                if not np.isfinite(logs["loss"]):
                    stopped = "nonfinite"
                    warnings.warn(_diverged(epoch, logs["loss"]), RuntimeWarning, stacklevel=2)
                    break
                current = after
                for name, value in logs.items():
                    history.setdefault(name, []).append(value)
                bar.update(epoch, {name: value for name, value in logs.items() if name != "seconds"})
                if watch.enough(epoch, current, logs.get("val_loss", logs["loss"])):
                    stopped = "early"
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
    epoch, best = watch.result(current, len(history.get("loss", ())))
    return FitResult(best.params, best.state, history, stopped, epoch, compile_seconds, loss, metrics)


class _Watch:
    """Early stopping's memory: a value improves if best − value > min_delta."""

    def __init__(self, train_state: Any, patience: int | None, min_delta: float, restore_best: bool):
        self._patience, self._min_delta, self._restore = patience, min_delta, restore_best
        self._best, self._best_epoch, self._best_state = np.inf, 0, train_state

    def enough(self, epoch: int, train_state: Any, value: float) -> bool:
        if self._patience is None:
            return False
        if self._best - value > self._min_delta:
            self._best, self._best_epoch, self._best_state = value, epoch, train_state
        return epoch - self._best_epoch >= self._patience

    def result(self, train_state: Any, epoch: int) -> tuple[int, Any]:
        restore = self._patience is not None and self._restore
        return (self._best_epoch, self._best_state) if restore else (epoch, train_state)


def _check_parts(model: Any, loss: Any, optimizer: Any) -> None:
    if not isinstance(model, Layer):
        raise TypeError(f"model is a Layer, such as nn.serial(...) makes; got {type(model).__name__}")
    if not callable(loss):
        raise TypeError(f"loss is a function (predictions, y) -> scalar, got {loss!r}")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        hint = f": call it, {optimizer.__name__}(learning_rate)" if hasattr(optimizer, "__name__") else ""
        raise TypeError(f"optimizer is an optax transformation, such as optax.adam(1e-3){hint}")


def _signature(arguments: Any) -> tuple:
    """What a program is compiled for: shapes, dtypes, and where the arrays were put, if that was said."""
    leaves, structure = jax.tree.flatten(arguments)
    return tuple((leaf.shape, leaf.dtype, leaf.sharding if leaf.committed else None) for leaf in leaves), structure


@lru_cache(maxsize=64)
def _compiled(model, loss, optimizer, batch_size, metrics, leaves, structure) -> Callable:
    """The compiled epoch for arguments of that signature; kept, so that a second run does not compile again."""
    epoch = train_epoch(model, loss=loss, optimizer=optimizer, batch_size=batch_size, metrics=dict(metrics))
    test = evaluation(model, loss=loss, metrics=dict(metrics), batch_size=batch_size)

    def program(train_state, data, validation):
        train_state, logs = epoch(train_state, data)
        return train_state, with_validation(logs, validation and test(train_state.params, train_state.state, validation))

    structs = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(shape, dtype, sharding=s) for shape, dtype, s in leaves])
    return jax.jit(program, compiler_options=kernels.compiler_options()).lower(*structs).compile()


def _fetched(logs: dict[str, jax.Array], *, patient: bool) -> dict[str, Any]:
    """The logs as numbers. Where a wait would be long it is cut into short ones, so that Ctrl-C is heard."""
    while not patient and not all(value.is_ready() for value in logs.values()):  # type: ignore[attr-defined]
        time.sleep(0.005)
    return as_numbers(logs)


def _diverged(epoch: int, loss: float) -> str:
    return (
        f"the loss became {loss} in epoch {epoch}; training stopped, with the parameters of epoch {epoch - 1}. "
        "Try a lower learning rate, clip gradients (optax.clip_by_global_norm), or look for extreme values in the data"
    )
