"""`sweep`: hyperparameters × seeds, trained together, many networks per program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxnn import _jax
from jaxnn.population.result import Sweep
from jaxnn.population.task import Task
from jaxnn.train.hooks import Callback


@_jax.training_settings()
def sweep(
    model: Any,
    data: Any,
    space: Any,
    *,
    loss: Any,
    optimizer: Any,
    epochs: int,
    key: jax.Array,
    seeds: int | Sequence[int] = 1,
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
    mesh: Any = None,
    memory: int | None = None,
    checkpoints: Any = None,
    progress: bool = True,
) -> Sweep:
    """Train a network for each setting of a space and each seed, many in one program.

    A float is traced: settings that differ in floats only are one program, whatever their number. An int, a string, a
    bool or a function is structural: each combination of these is a program. Members are trained in blocks, by `vmap`, on
    all cores at a time, or as many at once as an accelerator's memory holds.

    The member of a setting and a seed is the run of

        fit(model, data, hyperparameters=setting, key=jax.random.fold_in(key, seed), ...)

    alone or among any others: it has the same weights at the start, order, dropout and stopping. Its numbers differ by
    rounding only, as sums are taken in another order, which a long run at a high learning rate amplifies.

    Likely mistakes are warnings, as in `fit`.

    Args:
        model: A `Layer`, or a function of hyperparameters that returns one.
        data: `(x, y)` or `(x, y, weights)`, as in `fit`; any pytree of arrays with an `Objective`.
        space: A grid, `{"learning_rate": [0.1, 0.01], "units": [32, 64]}`, or a table, a list of dicts or a pandas
            `DataFrame`; `nn.population.random` and `nn.population.sobol` draw one; `{}` is one setting, for its seeds. A
            space may name the parameters of model, optimizer, loss, augmentation and schedules, and `batch_size` and
            `epochs`. A function of `step` (or `count`) or `epoch` is a schedule, any
            other one a value, such as an activation.
        loss: As in `fit`; it is given the hyperparameters that its signature names.
        optimizer: An optax transformation, or a function of hyperparameters that returns one, such as `optax.adam`.
        epochs: The number of passes over the data, at most.
        key: The key of the whole sweep.
        seeds: The number of seeds, or the seeds: each setting is trained once for each.
        batch_size: Samples per step, as in `fit`.
        validation: Data to evaluate on after each epoch; or a share of the data to hold out for it, as in `fit`, the same
            samples for all members.
        metrics: Metrics by name.
        hyperparameters: Those that all members have in common, as in `fit`.
        callbacks: Those with pure parts, such as early stopping; they act on each member separately. A member that has
            stopped is frozen, and left out of the program when that saves time.
        augment: As in `fit`.
        accumulate: As in `fit`.
        clip_norm: As in `fit`.
        sam_radius: As in `fit`.
        loss_scaling: As in `fit`.
        on_nonfinite: `"stop"`: a member whose loss is not finite ends with the weights of the previous epoch, and is reported;
            `"skip"`: its steps with values that are not finite are skipped. Other members are not affected.
        gradient: As in `fit`.
        mesh: A `jax.sharding.Mesh` with one axis, over whose devices the members are spread.
        memory: The bytes that blocks in training may take; by default half of what is free. The number of members per block
            follows from the memory analysis of the compiled program.
        checkpoints: An `nn.io.Checkpoints` or the path of a folder: finished blocks are saved, and an interrupted sweep
            continues with the others, to the same bits. Nothing that the results depend on may differ, as in `fit`, the
            epochs and the space included.
        progress: Whether to show progress.

    Returns:
        A `Sweep`: a table, stacked parameters, the best member.

    Raises:
        TypeError: If an argument has the wrong type, before anything is compiled.
        ValueError: Likewise, if the data are invalid, as in `fit`; on an empty space, a hyperparameter that nothing takes, a
            float where a whole number decides on a shape, or a setting that a layer or optimizer refuses; on checkpoints of
            another sweep.
        BlockingIOError: If another run uses the folder of the checkpoints.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(0), (64, 3))
        >>> result = nn.sweep(
        ...     nn.dense(1), (x, x[:, :1]), {"learning_rate": [0.1, 0.001]}, seeds=2, loss=nn.losses.mse,
        ...     optimizer=optax.sgd, epochs=10, key=jax.random.key(1), progress=False)
        >>> len(result.rows), result.best().setting
        (4, {'learning_rate': 0.1})
        >>> result.member(3).setting, result.member(3).seed, result.member(3).params["kernel"].shape
        ({'learning_rate': 0.001}, 1, (3, 1))
        >>> [stacked] = result.groups  # all of one structure
        >>> stacked.params["kernel"].shape
        (4, 3, 1)
    """
    task = Task.of(
        model,
        data,
        space,
        loss=loss,
        optimizer=optimizer,
        epochs=epochs,
        key=key,
        seeds=seeds,
        batch_size=batch_size,
        validation=validation,
        metrics=metrics,
        hyperparameters=hyperparameters,
        callbacks=callbacks,
        augment=augment,
        accumulate=accumulate,
        clip_norm=clip_norm,
        sam_radius=sam_radius,
        loss_scaling=loss_scaling,
        on_nonfinite=on_nonfinite,
        gradient=gradient,
        mesh=mesh,
        memory=memory,
    )
    with task.saver(checkpoints) as saver:
        if saver is not None:
            saver.restore()
        task.train(progress, saver)
    return task.result(progress)
