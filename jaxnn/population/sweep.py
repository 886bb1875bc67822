"""`sweep`: hyperparameters × seeds, trained as one."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxnn.core.checks import check_key, whole
from jaxnn.population.group_run import Work
from jaxnn.population.groups import groups_of
from jaxnn.population.result import Sweep
from jaxnn.population.saver import Saver
from jaxnn.population.scheduler import Runner, Strategy, strategy_for
from jaxnn.population.space import Setting, settings_of
from jaxnn.problem.batches import leading_size
from jaxnn.problem.checks import checked_data, checked_inputs, checked_labels
from jaxnn.problem.hyperparameters import model_of
from jaxnn.train.hooks import Callback
from jaxnn.train.interrupts import deferred_interrupt
from jaxnn.train.step import Objective

LINE_SECONDS = 10.0  # between two lines of progress


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
    sam_radius: float = 0.0,
    loss_scaling: bool = False,
    on_nonfinite: str = "stop",
    mesh: Any = None,
    memory: int | None = None,
    checkpoints: Any = None,
    progress: bool = True,
) -> Sweep:
    """Train a network for each setting of a space and each seed, many in one program.

    A float is traced: settings that differ in floats alone are one program, whatever their number. An int, a string, a
    bool or a function is structural: each combination of these is a program of its own. Members are trained in blocks,
    mapped over, on all cores at a time, or as many at once as an accelerator's memory takes.

    The member of a setting and a seed is the run of

        fit(model, data, hyperparameters=setting, key=jax.random.fold_in(key, seed), ...)

    alone or in any crowd: the same weights at the start, order, dropout and stopping; its numbers differ by rounding
    only, as sums are taken in another order, which a long run at a high learning rate amplifies.

    Args:
        model: a `Layer`, or a function of hyperparameters that returns one.
        data: `(x, y)` or `(x, y, weights)`, as in `fit`; any pytree of arrays with an `Objective`.
        space: a grid, `{"learning_rate": [0.1, 0.01], "units": [32, 64]}`, or a table, a list of dicts or a pandas
            `DataFrame`; `nn.population.random` and `nn.population.sobol` draw one; `{}` is one setting, for its seeds. A
            space may name what model, optimizer, loss, augmentation or schedules have as parameters, and `batch_size` and
            `epochs`. A function of `step` (or `count`) is a schedule.
        loss: as in `fit`; hyperparameters that it names are handed on.
        optimizer: an optax transformation, or a function of hyperparameters that returns one, such as `optax.adam`.
        epochs: how many passes over the data at the most.
        key: of the whole sweep.
        seeds: how many, or which: each setting is trained once for each.
        batch_size: samples a step, as in `fit`.
        validation: `(x, y)` to evaluate on after each epoch.
        metrics: metrics by name.
        hyperparameters: what all members have in common, as in `fit`.
        callbacks: those with pure parts, such as early stopping, act on each member by itself; a member that has stopped
            is frozen, and left out when that saves time.
        augment: as in `fit`.
        accumulate: as in `fit`.
        sam_radius: as in `fit`.
        loss_scaling: as in `fit`.
        on_nonfinite: `"stop"`: a member whose loss is not finite ends as it was an epoch ago, and is reported; `"skip"`:
            its steps with values that are not finite are left out. Others never notice.
        mesh: a `jax.sharding.Mesh` with one axis, over whose devices the members are spread.
        memory: bytes that blocks in training may take; half of what is free by default. The compiled program's own
            account decides how many members a block may have.
        checkpoints: an `nn.io.Checkpoints` or the path of a folder: finished blocks are kept, and a sweep that was cut goes
            on with the others, to the same bits.
        progress: whether to show progress.

    Returns:
        A `Sweep`: a table, stacked parameters, the best member.

    Raises:
        TypeError: if something is not what it should be, before anything is compiled.
        ValueError: likewise: on bad data as in `fit`, an empty space, a hyperparameter that nothing takes, a float where a
            whole number decides on a shape, or a setting that a layer or optimizer refuses.

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
    task = prepared(
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
        sam_radius=sam_radius,
        loss_scaling=loss_scaling,
        on_nonfinite=on_nonfinite,
        mesh=mesh,
        memory=memory,
    )
    saver = None if checkpoints is None else Saver(checkpoints, task)
    if saver is not None:
        saver.restore()
    task.train(progress, saver)
    return task.result(progress)


@dataclass
class Task:
    """What is to be trained, checked: the part that sweeps and searches have in common."""

    settings: list[Setting]
    seeds: list[int]
    key: jax.Array
    works: list[Work]
    data: Any
    validation: Any
    strategy: Strategy
    began: float

    def train(self, progress: bool, saver: Saver | None = None) -> bool:
        """Train each group's selected settings to its epoch `until`; whether it was interrupted."""
        stopped = False
        shown = _Progress(self.works, self.began) if progress else None
        with deferred_interrupt() as interrupted:

            def look() -> bool:
                nonlocal stopped
                if shown is not None:
                    shown.show()
                if saver is not None:
                    saver.save_if_due()
                stopped = stopped or interrupted()
                return stopped

            Runner(self.works, self.data, self.validation, self.strategy).run(look)
        if saver is not None:
            saver.save_last()
        if shown is not None:
            shown.show(last=True)
        return stopped

    def result(self, progress: bool, pooled: tuple[str, ...] = ()) -> Sweep:
        """The result of what was trained, with a warning if some diverged."""
        result = Sweep.of(self.settings, self.seeds, self.works, time.perf_counter() - self.began, str(self.strategy), pooled)
        if progress:
            print(result.note, file=sys.stderr, flush=True)
        if diverged := sum(row["status"] == "diverged" for row in result.rows):
            warnings.warn(
                f"{diverged} of {len(result.rows)} members had a loss that was not finite, and ended with the weights of the "
                'epoch before: they are marked "diverged" in the table',
                RuntimeWarning,
                stacklevel=3,
            )
        return result


def prepared(
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
    mesh: Any = None,
    memory: int | None = None,
    loss_scaling: bool = False,
    on_nonfinite: str = "stop",
    hold: bool = False,
    checked: bool = False,
    **options: Any,
) -> Task:
    """Everything checked, the data unless that was done, and nothing compiled; the arguments are those of `sweep`."""
    began = time.perf_counter()
    settings = settings_of(space)
    key = check_key(key)
    counted = seeds if isinstance(seeds, Sequence) else range(whole("sweep", "seeds", seeds))
    numbers = [whole("sweep", "seeds", seed, 0) for seed in counted]
    if memory is not None:
        whole("sweep", "memory", memory)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds are a number, or whole numbers that differ, got {seeds!r}")
    if on_nonfinite not in ("stop", "skip"):
        raise ValueError(f'on_nonfinite is "stop" or "skip" in a sweep, got {on_nonfinite!r}')
    callbacks = tuple(options.pop("callbacks", ()))
    for callback in callbacks:
        if isinstance(callback, Callback) and not callback.is_pure:
            raise ValueError(f"the callback {callback.name!r} acts on the host, one run at a time: use it with fit")
    if not checked:
        check = checked_inputs if isinstance(loss, Objective) else checked_data
        data, validation = check(data, "data"), None if validation is None else check(validation, "validation")
    rest = {"metrics": None, "hyperparameters": None, "augment": None, "accumulate": 1, "sam_radius": 0.0, "view": None}
    if unknown := set(options) - set(rest):
        raise TypeError(f"there is no option {sorted(unknown)[0]!r}: options are those of nn.sweep")
    plan = {"model": model, "loss": loss, "optimizer": optimizer, "batch_size": batch_size, "callbacks": callbacks}
    plan |= {**rest, **options, "skip_nonfinite": on_nonfinite == "skip"}
    groups = groups_of(settings, plan, epochs=epochs, samples=leading_size(data), loss_scaling=loss_scaling)
    strategy = strategy_for(mesh, memory)
    multiple = 1 if strategy.mesh is None else strategy.mesh.size
    works = [Work(group, data, validation, key, np.asarray(numbers, np.uint32), multiple, hold) for group in groups]
    for work in works if not isinstance(loss, Objective) else ():
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[2:], a.dtype), work.weights())
        for part in (data, validation):
            if part is not None:
                checked_labels(model_of(work.group.plan["model"], work.group.values(0)), part, *one)
    return Task(settings, numbers, key, works, data, validation, strategy, began)


class _Progress:
    """A line now and then, or one that is written over in a terminal."""

    def __init__(self, works: list[Work], began: float):
        self._works, self._began, self._last = works, began, 0.0
        self._total = sum(work.result.done.size for work in works)
        self._epochs = sum(work.result.done.size * work.group.epochs for work in works)

    def show(self, last: bool = False) -> None:
        now = time.perf_counter()
        overwrite = sys.stderr.isatty()
        if now - max(self._last, self._began) < (0.2 if overwrite else LINE_SECONDS) and not last:
            return
        self._last = now
        done = sum(int(work.result.done.sum()) for work in self._works)
        made = sum(work.epochs_made() for work in self._works)
        text = f"{done:,}/{self._total:,} members, {made:,}/{self._epochs:,} epochs, {now - self._began:.0f} s"
        end = "\n" if last or not overwrite else ""
        print(("\r" if overwrite else "") + text, end=end, file=sys.stderr, flush=True)
