"""`fit`: the host's loop around one compiled program."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxnn.core.checks import check_key, whole
from jaxnn.core.layer import Layer
from jaxnn.problem.batches import leading_size
from jaxnn.problem.checks import as_host_array, checked_data, checked_inputs, checked_labels
from jaxnn.problem.hyperparameters import LENGTHS, check_used, loss_of, model_of, optimizer_of, split
from jaxnn.problem.running import named_metrics
from jaxnn.train.epoch import inputs_of, lengths
from jaxnn.train.evaluation import trained
from jaxnn.train.executors import Arrays, Driver
from jaxnn.train.history import History
from jaxnn.train.hooks import Callback, final_weights
from jaxnn.train.interrupts import deferred_interrupt
from jaxnn.train.progress import Progress
from jaxnn.train.saver import Saver
from jaxnn.train.sources import Batches, DataError, Rows, Stream
from jaxnn.train.state import TrainState, init_train_state
from jaxnn.train.step import Objective

CALL_SECONDS = 0.4  # what a call of the program shall take: the progress bar moves, and the call's own cost is far below 1%
MOST_ROWS = 64  # epochs a call


@dataclass(frozen=True)
class FitResult:
    """What a run leaves.

    Attributes:
        params: the trained parameters.
        state: the model's state.
        history: one row an epoch: `"loss"`, each metric, the same with `val_` where there was validation data, and more.
        stopped: why the run ended: `"finished"`, `"early"`, `"interrupted"` or `"nonfinite"`.
        epoch: the epoch, counted from 1, at whose end these were the parameters (after an interruption: the last epoch
            that was finished); 0 if none was.
        compile_seconds: the time spent on tracing and compiling, 0 where an earlier run had done it.
        model: the model, made of the hyperparameters if it was a function of them.
        loss: the loss, for `evaluate`.
        metrics: the metrics, for `evaluate`.
        train_state: everything, to go on from.

    Example:
        See `fit`, which returns one.
    """

    params: Any
    state: Any
    history: History
    stopped: str
    epoch: int
    compile_seconds: float
    model: Layer = field(repr=False)
    loss: Any = field(repr=False)
    metrics: Mapping[str, Any] = field(repr=False)
    train_state: TrainState = field(repr=False)


class NonFiniteError(FloatingPointError):
    """A loss that is not finite, where `fit` was told to raise.

    Attributes:
        step: the step whose loss it was, counted from 0.
        samples: the indices of its batch in the data, None if they have none.
        found: what `nn.inspect.find_nonfinite` found.
        result: a `FitResult` with what was trained before.

    Example:
        >>> from types import SimpleNamespace
        >>> before = SimpleNamespace(epoch=0)  # stands for a FitResult
        >>> raise NonFiniteError(3, np.array([7, 2]), "log(0) = -inf", before)
        Traceback (most recent call last):
        jaxnn.train.fit.NonFiniteError: the loss of step 3 (epoch 1), on the samples 7, 2 is not finite: log(0) = -inf
    """

    def __init__(self, step: int, samples: np.ndarray | None, found: Any, result: FitResult):
        self.step, self.samples, self.found, self.result = step, samples, found, result
        shown = "" if samples is None else f", on the samples {_some(samples)}"
        super().__init__(
            f"the loss of step {step} (epoch {result.epoch + 1}){shown} is not finite: {found or 'not found again'}"
        )


def fit(
    model: Any,
    data: Any,
    *,
    loss: Any,
    optimizer: Any,
    epochs: int,
    key: jax.Array,
    batch_size: int = 32,
    validation: Any = None,
    metrics: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    augment: Callable | None = None,
    accumulate: int = 1,
    sam_radius: float = 0.0,
    loss_scaling: bool = False,
    on_nonfinite: str = "stop",
    initial: Any = None,
    prefetch: int | None = None,
    checkpoints: Any = None,
    progress: bool = True,
) -> FitResult:
    """Train a model. The whole run (orders, batches, updates, metrics, validation, callbacks) is one compiled program.

    The host calls the program a few times a second, for the progress bar; how often does not change a bit of the result,
    and neither does anything else but the arguments. A second run of the same model, loss, optimizer, callbacks and shapes
    does not compile again, nor does one with other traced hyperparameters. Ctrl-C ends the run and returns what was
    trained so far.

    Args:
        model: the model, or a function of hyperparameters that returns it.
        data: `(x, y)`, pytrees of arrays with one leading axis of samples, or `(x, y, weights)` with one weight a sample,
            which makes the loss Σ wᵢ lᵢ / Σ wᵢ over a batch. Any pytree with an `Objective`. They go to the device as a
            whole, unless one is memory-mapped (`np.load(path, mmap_mode="r")`), which changes no bit of the result.
            Or batches: an iterable of them, such as a PyTorch `DataLoader` or a Grain data set, or a function from the
            epoch, counted from 1, to one; `batch_size` is then that of the validation only.
        loss: `loss(predictions, y) -> scalar`, the batch's mean, or an `Objective`.
        optimizer: an optax transformation, such as `optax.adam(1e-3)`, or a function of hyperparameters that returns it,
            such as `optax.adam`.
        epochs: how many passes over the data at the most.
        key: the run's key: weights, order of the data and dropout all follow from it.
        batch_size: samples a step; an epoch's last step has what is left, and a batch larger than the data is all of it.
        validation: `(x, y)` to evaluate on after each epoch.
        metrics: metrics by name, such as `{"accuracy": nn.metrics.accuracy}`; to them, a sample of weight 0 is none.
        hyperparameters: by name, what the functions given as model, optimizer and loss have parameters for. A float is
            traced; an int, string, bool or None is fixed; a function is a schedule of the step. Schedules and factories may
            also name `epochs`, `steps` and `steps_per_epoch`, the run's length:
            `{"learning_rate": lambda step, steps: 1e-3 * (1 - step / steps)}`.
        callbacks: from `nn.callbacks`, in the order in which they act.
        augment: `augment(key, (x, y)) -> (x, y)` for each batch in training, see `nn.data.augment`.
        accumulate: take each batch's gradient over so many parts of it, one after another, to save memory.
        sam_radius: ρ of sharpness-aware minimization, see `train_step`; 0 is without.
        loss_scaling: scale the loss, dynamically, so that gradients in float16 do not vanish; steps whose gradients
            overflow are skipped.
        on_nonfinite: where a loss is not finite, `"stop"` with the last good parameters and a warning, `"raise"` a
            `NonFiniteError` that says where it came from, or `"skip"` the steps with a loss or gradient that is not finite.
        initial: `(params, state)`, or what `fit` returned, to start from instead of drawing them.
        prefetch: for data that do not lie on the device, how many batches at the most are there at a time; by default as
            many as make 12 MiB.
        checkpoints: an `nn.io.Checkpoints`, or the path of a folder for one that saves once a minute. Where there is one of
            this run already, the run goes on from it, and ends with the bits of the run that was never cut. It is saved at
            the end of an epoch, or after so many seconds if the store says `every`, and when the run ends.
        progress: whether to show progress.

    Returns:
        A `FitResult` with `params`, `state` and `history`.

    Raises:
        TypeError: if something is not what it should be: a model that is no `Layer`, an optimizer that lacks something,
            data that are no numbers.
        ValueError: on data that do not fit: lengths, labels out of range, NaN, float64 where JAX has it off; on checkpoints
            of another run.
        DataError: if an iterable of batches fails in the middle; it has the `result` of what was trained before.
        NonFiniteError: with `on_nonfinite="raise"`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(1), (100, 2))
        >>> y = (x[:, 0] > x[:, 1]).astype(jnp.int32)
        >>> result = nn.fit(
        ...     nn.dense(2), (x, y), loss=nn.losses.cross_entropy, optimizer=optax.adam(0.1), epochs=20,
        ...     key=jax.random.key(0), metrics={"accuracy": nn.metrics.accuracy}, progress=False)
        >>> result.history["accuracy"][-1] > 0.95, result.stopped, result.params["kernel"].shape
        (True, 'finished', (2, 2))
    """
    epochs, batch_size = whole("fit", "epochs", epochs), whole("fit", "batch_size", batch_size)
    whole("fit", "accumulate", accumulate)
    if on_nonfinite not in ("stop", "raise", "skip"):
        raise ValueError(f'fit takes on_nonfinite "stop", "raise" or "skip", got {on_nonfinite!r}')
    if not (callable(loss) or isinstance(loss, Objective)):
        raise TypeError(f"loss is a function (predictions, y) -> scalar, or an Objective; got {loss!r}")
    named_metrics(metrics)  # for its errors; the programs are kept by the metrics as they were given
    source = _source(data, batch_size)
    data = _checked(data, loss, "data") if source is None else data
    validation = None if validation is None else _checked(validation, loss, "validation data")
    known = lengths(leading_size(data), batch_size, epochs) if source is None else _lengths(source, epochs)
    example = data if source is None else jax.tree.map(lambda leaf: as_host_array(leaf, "a batch"), source.example)
    plan = _plan(model, loss, optimizer, known, batch_size, hyperparameters, metrics, callbacks, augment)
    _, traced = split(hyperparameters)
    current = init_train_state(
        model,
        optimizer,
        check_key(key),
        inputs_of(example, loss),
        None if initial is None else trained(initial),
        hyperparameters=plan["hyperparameters"],
        metrics=metrics,
        callbacks=callbacks,
        loss_scaling=loss_scaling,
    )
    values = split(plan["hyperparameters"])[0].at(traced, 0)
    layer = model_of(model, values)
    if not isinstance(loss, Objective):
        for part in (example, validation):
            if part is not None:
                checked_labels(layer, part, current.params, current.state)
    options = {"augment": augment, "accumulate": accumulate, "sam_radius": sam_radius, "skip_nonfinite": on_nonfinite == "skip"}
    each = any(callback.on_epoch for callback in callbacks)
    driver: Driver = (
        Arrays(plan | options, data, validation, epochs, 1 if each else MOST_ROWS)
        if source is None
        else Stream(plan | options, source, validation, prefetch)
    )
    saver = None if checkpoints is None else Saver(checkpoints, batch_size, getattr(source or driver, "samples", 0))
    run = _Run(driver, current, epochs, callbacks, progress, saver)
    outcome = run.outcome(on_nonfinite)
    epoch, (params, state) = final_weights(callbacks, run.train_state)
    finished = loss if isinstance(loss, Objective) else loss_of(loss, values)
    result = FitResult(
        params,
        state,
        run.history,
        outcome,
        int(epoch),
        driver.compile_seconds,
        layer,
        finished,
        dict(metrics or {}),
        run.train_state,
    )
    if run.failure is not None:
        run.failure.result = result
        raise run.failure
    if outcome == "nonfinite" and on_nonfinite == "raise":
        raise run.error(result)
    if outcome == "nonfinite":
        warnings.warn(_diverged(run.bad), RuntimeWarning, stacklevel=2)
    return result


def _checked(data: Any, loss: Any, what: str) -> Any:
    return checked_inputs(data, what) if isinstance(loss, Objective) else checked_data(data, what)


def _source(data: Any, batch_size: int) -> Rows | Batches | None:
    """Where the batches come from if the data do not go to the device as a whole."""
    if isinstance(data, (tuple, list, dict)) or hasattr(data, "shape"):
        on_disk = any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(data))
        return Rows(tuple(data) if isinstance(data, list) else data, batch_size) if on_disk else None
    if callable(data) or hasattr(data, "__iter__"):
        return Batches(data)
    return None


def _lengths(source: Rows | Batches, epochs: int) -> dict[str, int]:
    per_epoch = source.steps_per_epoch
    return {"epochs": epochs} | ({"steps": epochs * per_epoch, "steps_per_epoch": per_epoch} if per_epoch else {})


def _plan(model, loss, optimizer, known, batch_size, hyperparameters, metrics, callbacks, augment) -> dict[str, Any]:
    """What programs are made of, checked."""
    if taken := set(hyperparameters or {}) & set(LENGTHS):
        raise ValueError(f"the hyperparameter {sorted(taken)[0]!r} is known from the run itself: call yours otherwise")
    fixed, traced = split(hyperparameters)
    read = [name for callback in callbacks for name in getattr(callback, "hyperparameters", ())]
    check_used(fixed, traced, model, optimizer, loss, augment, read=read)
    given = {**known, **(hyperparameters or {})}
    values = split(given)[0].at(traced, 0)
    model_of(model, values)
    optimizer_of(optimizer, values)
    pure = tuple(callback for callback in callbacks if isinstance(callback, Callback) and callback.is_pure)
    return {
        "model": model,
        "loss": loss,
        "optimizer": optimizer,
        "batch_size": batch_size,
        "metrics": metrics,
        "hyperparameters": given,
        "callbacks": pure,
    }


class _Run:
    """A run in progress: the train state, what is known on the host, and the loop."""

    def __init__(self, driver, train_state, epochs, callbacks, progress, saver):
        self.driver, self.train_state, self.history = driver, train_state, History()
        self._saver: Saver | None = saver
        if saver is not None:
            self.train_state, self.history = saver.restored(train_state)
        self.bad = -1
        self.failure: DataError | None = None
        self._epochs, self._callbacks, self._progress = epochs, callbacks, progress
        self._spent = 0.0  # seconds on the present epoch so far

    def outcome(self, on_nonfinite: str) -> str:
        """Train to the end, whatever it is, and say how it ended."""
        for callback in self._callbacks:
            if callback.on_start:
                callback.on_start(self.history)
        try:
            shown = Progress(self._epochs, self.driver.steps_per_epoch, self._progress)
            with deferred_interrupt() as interrupted, shown as bar:
                for step, rows in self._calls():
                    bad = self.bad >= 0 and on_nonfinite != "skip"
                    rows = [row for row in rows if row["step"] < self.bad] if bad else rows
                    for row in rows:
                        self.history.append(row)
                    bar.update(step, rows)
                    if bad:
                        self.train_state = self.driver.at(max(self.bad - 1, 0))
                        return "nonfinite"
                    ended = self._ended_by_host(rows)
                    if self._saver is not None:
                        self._saver.save_if_due(self.train_state, self.history, bool(rows))
                    if ended:
                        return "early"
                    if interrupted():
                        return "interrupted"
        except DataError as error:
            self.failure = error
            return "failed"
        finally:
            self.driver.close()
            if self._saver is not None:
                self._saver.save_last(self.train_state, self.history)
            for callback in self._callbacks:
                if callback.on_end:
                    callback.on_end()
        return "early" if bool(self.train_state.stopped) and int(self.train_state.epoch) < self._epochs else "finished"

    def _ended_by_host(self, rows: list[dict]) -> bool:
        for row in rows:
            for callback in self._callbacks:
                if callback.on_row:
                    callback.on_row(row)
        stop = [c.on_epoch(row, self.train_state) for row in rows for c in self._callbacks if c.on_epoch]  # all are called
        return any(stop)

    def _calls(self) -> Iterator[tuple[int, list[dict]]]:
        """Call the program until the run has ended; after each call, the steps made so far and the rows of new epochs."""
        self.driver.compile(self.train_state)
        step, budget = int(self.train_state.step), 8
        while int(self.train_state.epoch) < self._epochs and not bool(self.train_state.stopped):
            start = time.perf_counter() - self.driver.compile_seconds
            self.train_state, logs, self.bad = self.driver.call(self.train_state, budget)
            made = int(self.train_state.step) - step
            seconds = time.perf_counter() - self.driver.compile_seconds - start
            rows = self._rows(logs, step, seconds, made)
            step += made
            budget = int(min(max(made * CALL_SECONDS / max(seconds, 1e-6), 1), 8 * budget, 2**30))
            yield step, rows

    def _rows(self, epochs: list[dict], step: int, seconds: float, made: int) -> list[dict]:
        """The lines of the history for the epochs that ended in a call, which took so long for so many steps."""
        rows: list[dict] = []
        each = seconds / max(made, 1)
        for logs in epochs:
            spent = self._spent + each * (logs["step"] - step)
            row = {name: value for name, value in logs.items() if name != "samples"}
            row |= {"seconds": spent, "samples_per_second": logs["samples"] / max(spent, 1e-9)}
            if not self.history.rows and not rows:
                row["compile_seconds"] = self.driver.compile_seconds
            rows.append(row)
            seconds, step, self._spent = seconds - each * (logs["step"] - step), logs["step"], 0.0
        self._spent += seconds
        return rows

    def error(self, result: FitResult) -> NonFiniteError:
        """The error that says where a loss stopped being finite, from the bad step made again piece by piece."""
        from jaxnn.inspect.nonfinite import locate

        state = self.driver.at(self.bad)
        batch, samples = self.driver.batch(state)
        found = locate(*self.driver.objective(state, batch))
        return NonFiniteError(self.bad, samples, found, result)


def _diverged(step: int) -> str:
    return (
        f"the loss of step {step} is not finite; training stopped, with the parameters of the step before. Try a lower "
        "learning rate, clip gradients (optax.clip_by_global_norm), or look for extreme values in the data; "
        'on_nonfinite="raise" says where it came from'
    )


def _some(samples: np.ndarray) -> str:
    shown = ", ".join(map(str, samples[:8].tolist()))
    return shown if len(samples) <= 8 else f"{shown}, … ({len(samples)} in all)"
