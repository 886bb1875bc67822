"""`fit`: train a model on data."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxnn import _jax
from jaxnn.core.checks import check_key, whole
from jaxnn.problem.checks import checked_data
from jaxnn.problem.holdout import held_out
from jaxnn.problem.hyperparameters import LENGTHS, Hyperparameters, check_used, loss_of, optimizer_of
from jaxnn.problem.labels import labels_of
from jaxnn.problem.objective import Objective, inputs_of
from jaxnn.train.config import TrainingConfig
from jaxnn.train.evaluation import weights_of
from jaxnn.train.executors import executor_for
from jaxnn.train.hooks import Callback, final_weights
from jaxnn.train.identity import config_identity, contents, dtypes, sizes
from jaxnn.train.mistakes import mistakes
from jaxnn.train.result import FitResult
from jaxnn.train.running import Run
from jaxnn.train.saver import Saver
from jaxnn.train.sources import Arrays, Batches, Rows, source_of
from jaxnn.train.state import TrainState, start


@_jax.training_settings()
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
    clip_norm: float | None = None,
    sam_radius: float = 0.0,
    loss_scaling: bool = False,
    on_nonfinite: str = "stop",
    gradient: Callable | None = None,
    initial: Any = None,
    prefetch: int | None = None,
    checkpoints: Any = None,
    progress: bool = True,
) -> FitResult:
    """Train a model. The whole run (orders, batches, updates, metrics, validation, callbacks) is one compiled program.

    The host calls the program a few times per second, for the progress bar; the number of calls does not affect the result.
    A second run of an equal configuration does not compile again, and neither does a run with other values of traced
    hyperparameters or, mostly, another number of samples. Ctrl-C ends the run and returns what was trained so far; a second one
    interrupts.

    What only watches ends no run: if progress, a log or a checkpoint cannot be written, there is one warning. JAX's
    `debug_nans` and `transfer_guard` do not apply inside.

    A likely mistake is a warning: a softmax before a loss that computes it too, images with their channels first, early
    stopping without validation data.

    Args:
        model: The model, or a function of hyperparameters that returns it.
        data: `(x, y)`, pytrees of arrays with one leading axis of samples, or `(x, y, weights)` with one weight per sample,
            which makes the loss Σ wᵢ lᵢ / Σ wᵢ over a batch; or a `Dataset` of `nn.data`. Any pytree with an `Objective`. They
            are moved to the device as a whole, unless one is memory-mapped (`np.load(path, mmap_mode="r")`), which changes no
            bit of the result. Arrays are those of JAX and NumPy and what NumPy converts, such as pandas (by position) and
            PyTorch objects; a list of numbers is an array, a list of arrays a tuple.
            Or batches: an iterable of them, such as a PyTorch `DataLoader` or a Grain data set, or a function from the
            epoch, counted from 1, to an iterable; `batch_size` then holds for the validation only. Each is a tuple or list
            like `data`, of at least one sample; in an epoch, only the number of samples may differ.
        loss: `loss(predictions, y) -> scalar`, the batch's mean, or `-> (sum, weight)`, where the mean over several batches
            is not one over samples, or an `Objective`. A mean under a mask, as the losses of `nn.losses` take with `where=`,
            is found to be one.
        optimizer: An optax transformation, such as `optax.adam(1e-3)`, or a function of hyperparameters that returns one,
            such as `optax.adam`.
        epochs: The number of passes over the data, at most.
        key: The run's key: weights, order of the data and dropout all follow from it.
        batch_size: Samples per step; the last step of an epoch uses the remaining samples.
        validation: Data to evaluate on after each epoch; or a share of the data to hold out for it, such as 0.2. Which samples
            are held out follows from the key, class by class where `y` are labels.
        metrics: Metrics by name, such as `{"accuracy": nn.metrics.accuracy}`; they leave out samples of weight 0
            and count others once; `nn.metrics.weighted(metric)` takes the weights.
        hyperparameters: Values by name for the parameters of the functions given as model, optimizer and loss. A float is
            traced; an int, string, bool or None is fixed; a function of `step` (or `count`) or `epoch`, both counted from 0,
            is a schedule; another function is a value, such as an activation. Schedules and factories may also name
            `epochs`, `steps` and `steps_per_epoch`, the run's length:
            `{"learning_rate": lambda step, steps: 1e-3 * (1 - step / steps)}`.
        callbacks: From `nn.callbacks`, in the order in which they act.
        augment: `augment(key, (x, y)) -> (x, y)` for each batch in training, see `nn.data.augment`.
        accumulate: The number of parts of each batch whose gradients are taken one after another, to save memory; their sizes
            differ by at most one sample.
        clip_norm: The largest norm of a step's gradient, over all parameters together; a longer one is scaled down to it.
        sam_radius: ρ of sharpness-aware minimization, see `training`; 0 turns it off.
        loss_scaling: Scale the loss dynamically, so that gradients in float16 do not vanish; steps whose gradients overflow
            are skipped.
        on_nonfinite: What happens where a loss is not finite, also because a memory map or a batch has values that are not,
            which are not looked for before the run: `"stop"` with the last good parameters and a warning that says so,
            `"raise"` a `NonFiniteError` that says where it came from, or `"skip"` the steps with a loss or gradient that is
            not finite.
        gradient: What makes the gradient of a step in place of `jax.grad`, such as `nn.autodiff.private`:
            `gradient(objective, params, state, batch, key) -> (gradients, (loss, weight, state, predictions, skipped))`, where
            `objective(params, state, batch, key) -> (loss, (weight, state, predictions))`. `skipped` is a number of examples
            that were left out, whose sum the history shows. It may take hyperparameters by name. The optimizer is not given
            the loss, so that line searches fail.
        initial: `(params, state)`, or what `fit` returned, to start from instead of drawing them.
        prefetch: For data that do not lie on the device, the number of batches that are there at a time, at most; by default
            12 MiB of batches.
        checkpoints: An `nn.io.Checkpoints`, or the path of a folder for one that saves once a minute. If it has a checkpoint
            of this run, the run continues from there, and ends with the same bits as a run that was never interrupted.
            It is saved at the end of each epoch, or every `every` seconds if the store sets it, at each new best epoch
            with `best`, and when the run ends. Of what the result depends on, only `epochs` may differ from the saved run
            (schedules that name the run's length go on by the new one); so may `prefetch`, `progress`, and callbacks that
            only watch. Everything else must be the same: data are compared by a checksum (of large arrays, of a part;
            batches of an iterable are not compared), functions by what they compute. To train on with, say, another
            learning rate, begin a new run with `initial`.
        progress: Whether to show progress.

    Returns:
        A `FitResult` with `params`, `state` and `history`.

    Raises:
        TypeError: If an argument has the wrong type: a model that is not a `Layer`, an optimizer that lacks a value, a
            schedule with a parameter of an unknown name, data that are not numbers, batches that are dicts without an
            `Objective`.
        ValueError: On data that do not fit: lengths, labels that the loss does not take for this model, NaN, negative weights,
            masked arrays, float64 where JAX has it off; on checkpoints of another run, with the first thing that differs.
        BlockingIOError: If another run is using the folder of the checkpoints.
        RuntimeError: In a process that was forked after JAX had started, where it would hang.
        DataError: If an iterable of batches fails during the run, or a batch of it or of a memory map does not fit; it has
            the `result` of what was trained before.
        NonFiniteError: With `on_nonfinite="raise"`.

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
    if on_nonfinite not in ("stop", "raise", "skip"):
        raise ValueError(f'fit takes on_nonfinite "stop", "raise" or "skip", got {on_nonfinite!r}')
    _jax.check_not_forked()
    key = check_key(key)
    config = TrainingConfig.of(
        model,
        loss,
        optimizer,
        hyperparameters=_checked_names(hyperparameters),
        augment=augment,
        batch_size=batch_size,
        metrics=metrics,
        callbacks=callbacks,
        accumulate=accumulate,
        clip_norm=clip_norm,
        sam_radius=sam_radius,
        skip_nonfinite=on_nonfinite == "skip",
        loss_scaling=loss_scaling,
        gradient=gradient,
    )
    prefetch = None if prefetch is None else whole("fit", "prefetch", prefetch)
    objective = isinstance(loss, Objective)
    data, validation = held_out(data, validation, key, objective=objective)
    source = source_of(data, batch_size, objective)
    validation = None if validation is None else checked_data(validation, "validation data", objective=objective)
    names_read = [name for callback in callbacks for name in callback.hyperparameters]
    check_used(config.problem.hyperparameters, model, optimizer, loss, augment, gradient, read=names_read)
    given_config, config = config, config.with_lengths(source.steps_per_epoch, epochs)
    bound = config.problem.at()
    optimizer_of(optimizer, bound.values)
    first = start(config, key, inputs_of(source.example, loss), None if initial is None else weights_of(initial))
    for mistake in mistakes(bound.layer, loss, inputs_of(source.example, loss), callbacks, validation is not None):
        warnings.warn(mistake, UserWarning, stacklevel=3)
    loss = loss if objective else loss_of(loss, bound.values)
    if not objective and (labels := labels_of(loss, bound.layer, source.example, first.params, first.state)):
        source.check_labels(labels)
        if validation is not None:
            labels.check(validation[1])
    saver = None
    if checkpoints is not None:
        saver = _saver(checkpoints, given_config, source, validation, first, epochs)
    one_epoch_per_call = any(callback.on_epoch for callback in callbacks) or (saver is not None and saver.each_epoch)
    executor = executor_for(
        config, source, validation, first, epochs=epochs, one_epoch_per_call=one_epoch_per_call, prefetch=prefetch
    )
    run = Run(executor, first, epochs, callbacks, saver, source.steps_per_epoch, progress)
    outcome = run.outcome(on_nonfinite)
    epoch, (params, state) = final_weights(config.callbacks, run.train_state)
    result = FitResult(
        params,
        state,
        run.history,
        outcome,
        int(epoch),
        executor.compile_seconds,
        bound.layer,
        loss,
        dict(config.metrics or {}),
        run.train_state,
    )
    if run.failure is not None:
        run.failure.result = result
        raise run.failure
    if outcome == "diverged" and on_nonfinite == "raise":
        raise run.error(result)
    if outcome == "diverged":
        warnings.warn(_diverged(run.bad, run.fault()), RuntimeWarning, stacklevel=3)
    return result


def _saver(
    checkpoints: Any, config: TrainingConfig, source: Arrays | Rows | Batches, validation: Any, first: TrainState, epochs: int
) -> Saver:
    """The saver of a run; `config` is without the run's length."""
    streamed = isinstance(source, Batches)
    batch = source.example if streamed else jax.tree.map(lambda a: _first_rows(a, config.batch_size), source.example)
    weights = sizes(first.params)  # now: the buffers may be donated

    @functools.cache
    def identity(epochs: int) -> tuple[dict[str, Any], list[str]]:
        items, numbers = config_identity(
            config.with_lengths(source.steps_per_epoch, epochs), first, batch, validation, streamed=streamed
        )
        own = {"samples": source.samples, "weights at the start": weights}
        # Batches that an iterable yields are not known beforehand, nor need they be the same in each run.
        parts = dtypes("data", batch) if isinstance(source, Batches) else contents("data", source.data)
        return {**own, **parts, **contents("validation data", validation), **items}, numbers

    return Saver(checkpoints, epochs, lambda epochs: identity(epochs)[0], identity(epochs)[1])


def _first_rows(array: Any, rows: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((min(rows, array.shape[0]), *array.shape[1:]), array.dtype)


def _checked_names(hyperparameters: Mapping[str, Any] | None) -> Hyperparameters:
    """The hyperparameters, none of which has the name of what the run adds."""
    known = Hyperparameters.of(hyperparameters)
    if taken := sorted(known.as_dict().keys() & set(LENGTHS)):
        raise ValueError(f"the hyperparameter {taken[0]!r} is reserved for the length of the run: give yours another name")
    return known


def _diverged(step: int, fault: str) -> str:
    advice = (
        f"The data are the cause: {fault}"
        if fault
        else (
            "Try a lower learning rate, clip gradients (clip_norm=1.0), or look for extreme values in the data; "
            'on_nonfinite="raise" says where it came from'
        )
    )
    return f"the loss of step {step} is not finite; training stopped, with the parameters of the step before. {advice}"
