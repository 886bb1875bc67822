"""Hyperparameter searches: successive halving, Hyperband, population-based training, Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxnn import _jax
from jaxnn.core.checks import whole
from jaxnn.core.naming import child_key
from jaxnn.population.group_run import GroupRun
from jaxnn.population.result import Sweep
from jaxnn.population.saver import store_of
from jaxnn.population.space import Setting, settings_of
from jaxnn.population.sweep import sweep
from jaxnn.population.task import Task


@_jax.training_settings()
def successive_halving(
    model: Any,
    data: Any,
    space: Any,
    *,
    epochs: int,
    first_epochs: int = 1,
    factor: int = 3,
    monitor: str | None = None,
    mode: str | None = None,
    checkpoints: Any = None,
    progress: bool = True,
    **options: Any,
) -> Sweep:
    """Train all settings for a few epochs, continue with the best third, and so on (Jamieson & Talwalkar 2016).

    The rungs end after `first_epochs`, `first_epochs · factor`, … and `epochs` epochs; after each but the last,
    ⌈n / factor⌉ of n settings continue from where they were. Settings are compared by their mean over seeds.

    There is no separate ASHA (Li et al. 2020). It promotes a setting as soon as it is among the best third of those that
    have reached the rung, so that no worker waits for another, at the price of some promotions that the whole rung would
    not have made. Here all settings of a rung are trained together, on all cores or devices, so no worker waits.

    Args:
        model: As in `sweep`.
        data: As in `sweep`.
        space: As in `sweep`.
        epochs: The epochs of the last rung; schedules take it as the run's length.
        first_epochs: The epochs of the first rung.
        factor: The factor by which settings decrease and epochs increase from rung to rung.
        monitor: The value to compare by, as in `Sweep.best`.
        mode: As in `Sweep.best`.
        checkpoints: As in `sweep`; saved after each rung.
        progress: Whether to show progress.
        **options: As in `sweep`.

    Returns:
        A `Sweep` of all members; those that did not continue are `"dropped"`.

    Raises:
        ValueError: As `sweep`, or if there are too few epochs or settings for two rungs.

    Example:
        >>> import jax, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(0), (64, 3))
        >>> result = nn.population.successive_halving(
        ...     nn.dense(1), (x, x[:, :1]), {"learning_rate": [1e-4, 1e-3, 1e-2, 0.1]}, epochs=4, factor=2,
        ...     loss=nn.losses.mse, optimizer=optax.sgd, key=jax.random.key(1), progress=False)
        >>> [row["epochs"] for row in result.rows], result.best().setting
        ([1, 1, 2, 4], {'learning_rate': 0.1})
    """
    task = Task.of(model, data, space, epochs=epochs, hold=True, **options)
    rungs = _rungs(len(task.settings), epochs, first_epochs, factor)
    if any(run.group.epochs != epochs for run in task.runs):
        raise ValueError("successive_halving decides on the epochs itself: remove 'epochs' from the space")
    _scores(task, monitor, mode)  # refuses an unknown value before anything is trained
    with task.saver(checkpoints, rungs=rungs, factor=factor, monitor=monitor, mode=mode) as saver:
        begin = 0
        if saver is not None and (more := saver.restore()):
            begin = more["rung"]
            _select(task, np.asarray(more["selected"]))
        selected = np.concatenate([run.selected for run in task.runs])
        order = np.concatenate([np.asarray(run.group.numbers) for run in task.runs])
        selected[order] = selected.copy()
        for rung, until in enumerate(rungs[begin:], begin):
            for run in task.runs:
                run.until, run.at = until, rungs[rung - 1] if rung else 0
            if task.train(progress):
                break
            if until < epochs:
                scores = np.where(selected, _scores(task, monitor, mode), np.inf)
                selected = np.zeros_like(selected)
                selected[np.argsort(scores, kind="stable")[: rungs_left(len(task.settings), factor, rung + 1)]] = True
                _select(task, selected)
            if saver is not None:
                saver.save(until, {"rung": rung + 1, "selected": selected.tolist()}, wait=True)
    return task.result(progress)


def rungs_left(settings: int, factor: int, rung: int) -> int:
    """The number of settings in a rung, counted from 0."""
    for _ in range(rung):
        settings = -(-settings // factor)
    return settings


def _rungs(settings: int, epochs: int, first_epochs: int, factor: int) -> list[int]:
    whole("successive_halving", "factor", factor, 2)
    whole("successive_halving", "first_epochs", first_epochs)
    if first_epochs * factor > epochs or settings < 2:
        raise ValueError(
            f"{settings} settings and {epochs} epochs do not make two rungs of {first_epochs} and {first_epochs * factor} "
            "epochs or more: give more of them, or a smaller factor, or use nn.sweep"
        )
    count = int(math.log(epochs / first_epochs, factor) + 1e-9)
    return [first_epochs * factor**i for i in range(count)] + [epochs]


def _select(task: Task, selected: np.ndarray) -> None:
    for run in task.runs:
        run.selected = selected[np.asarray(run.group.numbers)]


def _scores(task: Task, monitor: str | None, mode: str | None) -> np.ndarray:
    """One number per setting, smaller for better ones; infinite if one of its members diverged."""
    rows = Sweep.of(task.settings, task.seeds, task.runs, 0.0, "")
    name, sign = rows.monitored(monitor, mode)
    values = np.asarray([math.nan if row["status"] == "diverged" else row[name] for row in rows.rows])
    return np.nan_to_num(sign * values.reshape(len(task.settings), -1).mean(1), nan=np.inf, posinf=np.inf)


def hyperband(
    model: Any,
    data: Any,
    space: Any,
    *,
    epochs: int,
    factor: int = 3,
    checkpoints: Any = None,
    **options: Any,
) -> list[Sweep]:
    """Successive halving with several lengths of the first rung, since the best one is not known (Li et al. 2018).

    With R epochs and s from ⌊log_factor R⌋ down to 0, bracket s begins with R / factor^s epochs. The settings of the space
    are distributed so that all brackets cost about the same; bracket 0 trains its settings to the end.

    Args:
        model: As in `sweep`.
        data: As in `sweep`.
        space: As in `sweep`; settings are distributed in their order, so a random or Sobol space fits.
        epochs: The largest number of epochs of a setting, R.
        factor: As in `successive_halving`.
        checkpoints: As in `successive_halving`; each bracket has its own folder inside.
        **options: As in `successive_halving`.

    Returns:
        A `Sweep` for each bracket; take the best of their `best()`.

    Raises:
        ValueError: As `successive_halving`, or if there are not enough settings for two in each bracket.

    Example:
        >>> import jax, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(0), (64, 3))
        >>> brackets = nn.population.hyperband(
        ...     nn.dense(1), (x, x[:, :1]), {"learning_rate": [1e-4, 1e-3, 1e-2, 0.1]}, epochs=2, factor=2,
        ...     loss=nn.losses.mse, optimizer=optax.sgd, key=jax.random.key(1), progress=False)
        >>> [len(bracket) for bracket in brackets]
        [2, 2]
    """
    settings = settings_of(space)
    most = int(math.log(whole("hyperband", "epochs", epochs), whole("hyperband", "factor", factor, 2)) + 1e-9)
    shares = np.cumsum([(most + 1) / (s + 1) * factor**s for s in range(most, -1, -1)])
    ends = np.round(shares / shares[-1] * len(settings)).astype(int)
    counts = np.diff(ends, prepend=0)
    if most < 1 or counts.min() < 2:
        raise ValueError(
            f"{epochs} epochs with factor {factor} make {most + 1} brackets of at least two settings, and there are "
            f"{len(settings)}: give more settings, or use successive_halving"
        )
    results = []
    for s, end, count in zip(range(most, -1, -1), ends, counts, strict=True):
        given = {**options, "epochs": epochs, "checkpoints": _subfolder(checkpoints, f"bracket-{s}")}
        part = settings[end - count : end]
        if s:
            first = max(1, epochs // factor**s)
            results.append(successive_halving(model, data, part, first_epochs=first, factor=factor, **given))
        else:
            given = {name: value for name, value in given.items() if name not in ("monitor", "mode")}
            results.append(sweep(model, data, part, **given))
    return results


@_jax.training_settings()
def population_based_training(
    model: Any,
    data: Any,
    space: Any,
    *,
    epochs: int,
    interval: int,
    share: float = 0.25,
    factors: Sequence[float] = (0.8, 1.25),
    monitor: str | None = None,
    mode: str | None = None,
    checkpoints: Any = None,
    progress: bool = True,
    **options: Any,
) -> Sweep:
    """Every few epochs, replace the worst members by copies of the best with changed hyperparameters (Jaderberg 2017).

    Args:
        model: As in `sweep`.
        data: As in `sweep`.
        space: As in `sweep`: the hyperparameters at the start. All values are floats, as a copy has the same structure.
        epochs: The number of epochs of each member.
        interval: The number of epochs between two rounds of copying.
        share: The share of the members that are replaced in a round, at most a half; each by one drawn from as many of the
            best.
        factors: A copy's value of each hyperparameter is multiplied by one of these, drawn at random.
        monitor: As in `Sweep.best`.
        mode: As in `Sweep.best`.
        checkpoints: As in `sweep`; saved after each round.
        progress: Whether to show progress.
        **options: As in `sweep`, with one seed.

    Returns:
        A `Sweep` whose table has the hyperparameters of each member's last epochs.

    Raises:
        ValueError: As `sweep`; on more than one seed or structure, or numbers out of range.

    Example:
        >>> import jax, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(0), (64, 3))
        >>> result = nn.population.population_based_training(
        ...     nn.dense(1), (x, x[:, :1]), {"learning_rate": [1e-4, 1e-3, 1e-2, 0.1]}, epochs=6, interval=2,
        ...     loss=nn.losses.mse, optimizer=optax.sgd, key=jax.random.key(1), progress=False)
        >>> len({row["learning_rate"] for row in result.rows} & {1e-4, 1e-3})
        0
    """
    task = Task.of(model, data, space, epochs=epochs, hold=True, **options)
    _scores(task, monitor, mode)
    if len(task.settings) < 2 or not task.runs[0].group.traced:
        raise ValueError(
            "population-based training takes at least two settings of at least one traced hyperparameter, a float such as the "
            f"learning rate; got {len(task.settings)} of {', '.join(task.runs[0].group.traced) or 'none'}"
        )
    if len(task.runs) > 1 or len(task.seeds) > 1:
        raise ValueError(
            f"population-based training copies members onto each other: all have one structure and one seed, "
            f"got {len(task.runs)} structures and {len(task.seeds)} seeds"
        )
    whole("population_based_training", "interval", interval)
    if not 0 < share <= 0.5 or not factors or min(factors) <= 0:
        raise ValueError(f"share must lie in (0, 0.5], and factors must be above 0; got {share} and {factors}")
    [run] = task.runs
    with task.saver(checkpoints, interval=interval, share=share, factors=list(factors), monitor=monitor, mode=mode) as saver:
        ends = [*range(interval, epochs, interval), epochs]
        more = saver.restore() if saver is not None else {}
        begin = more.get("round", 0)
        for number, until in enumerate(ends[begin:], begin):
            run.until, run.at = until, ends[number - 1] if number else 0
            if task.train(progress):
                break
            if until < epochs:
                draws = np.random.default_rng(
                    np.asarray(jax.random.bits(jax.random.fold_in(child_key(task.key, "pbt"), number), (4,)))
                )
                order = np.argsort(_scores(task, monitor, mode), kind="stable")
                count = max(1, int(share * len(order)))
                _copy(run, order[draws.integers(0, count, count)], order[-count:], draws, factors)
            if saver is not None:
                saver.save(until, {"round": number + 1}, wait=True)
    for name, values in run.group.traced.items():
        values[:] = run.held.train_state.hyperparameters[name][:, 0]
        for setting, value in zip(task.settings, values, strict=True):
            setting[name] = float(value)
    return task.result(progress)


def _copy(
    run: GroupRun, sources: np.ndarray, targets: np.ndarray, draws: np.random.Generator, factors: Sequence[float]
) -> None:
    def copy(leaf):
        leaf[targets] = leaf[sources]

    result = run.result
    jax.tree.map(copy, (run.held, result.params, result.state, result.epoch, result.epochs, result.diverged, result.done))
    for name in run.group.traced:
        run.held.train_state.hyperparameters[name][targets] *= draws.choice(factors, (len(targets), 1)).astype(np.float32)


def optuna_search(
    study: Any,
    suggest: Callable[[Any], Setting],
    model: Any,
    data: Any,
    *,
    rounds: int,
    members: int,
    monitor: str | None = None,
    mode: str | None = None,
    checkpoints: Any = None,
    progress: bool = True,
    **options: Any,
) -> list[Sweep]:
    """Train the settings that an Optuna study proposes, many at a time, and tell it their values.

    Ctrl-C ends the search with the rounds so far; the study is told that the trials of an unfinished round failed, as it is
    after an error. With `checkpoints`, an interrupted search continues when it is called again: a study that Optuna stores
    continues with its trials; a study in memory must be made anew with a sampler of the same seed, which proposes the same
    settings again.

    Args:
        study: From `optuna.create_study`; its direction is that of the monitored value.
        suggest: `suggest(trial) -> setting`, as `lambda trial: {"learning_rate": trial.suggest_float("lr", 1e-4, 1e-1)}`.
        model: As in `sweep`.
        data: As in `sweep`.
        rounds: The number of rounds.
        members: The number of settings per round.
        monitor: The value that the study is told, a setting's mean over seeds; as in `Sweep.best`.
        mode: As in `Sweep.best`; it must be the study's direction.
        checkpoints: As in `sweep`; each round has its own folder inside.
        progress: Whether to show progress.
        **options: As in `sweep`.

    Returns:
        A `Sweep` for each round.

    Raises:
        ValueError: As `sweep`, or, before anything is trained, if the study's direction is the opposite one.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax, optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study, x = optuna.create_study(direction="minimize"), jnp.ones((8, 1))
        >>> rounds = optuna_search(
        ...     study, lambda trial: {"learning_rate": trial.suggest_float("rate", 1e-3, 0.1)}, nn.dense(1), (x, x), rounds=1,
        ...     members=2, loss=nn.losses.mse, optimizer=optax.sgd, epochs=1, key=jax.random.key(0), progress=False)
        >>> len(rounds), len(study.trials), 1e-3 <= study.best_params["rate"] <= 0.1
        (1, 2, True)
    """
    results = []
    whole("optuna_search", "members", members)
    for number in range(whole("optuna_search", "rounds", rounds)):
        store = _subfolder(checkpoints, f"round-{number}")
        trials = [] if store is None else _asked(study, str(store.folder))
        values, interrupted = np.full(members, np.nan), True
        try:
            while len(trials) < members:
                trials.append(study.ask())
                if store is not None:
                    trials[-1].set_user_attr("jaxnn", str(store.folder))
            task = Task.of(model, data, [suggest(trial) for trial in trials], **options)
            name = _monitored(study, task, monitor, mode)
            with task.saver(store) as saver:
                if saver is not None:
                    saver.restore()
                interrupted = task.train(progress, saver)
            results.append(task.result(progress))
            if not interrupted:
                values = np.asarray([row[name] for row in results[-1].rows]).reshape(members, -1).mean(1)
        except Exception:
            if store is not None:
                _ask_again(study, trials)
            interrupted = False
            raise
        finally:
            if store is None or not interrupted:  # otherwise the trials continue with their checkpoints
                for trial, value in zip(trials, values, strict=False):
                    told = {"values": float(value)} if np.isfinite(value) else {"state": _failed()}
                    study.tell(trial.number, **told, skip_if_finished=True)
        if interrupted:
            break
    return results


def _monitored(study: Any, task: Task, monitor: str | None, mode: str | None) -> str:
    """The name of the monitored value, of which the study and the search have the same opinion what is better."""
    name, sign = Sweep.of(task.settings, task.seeds, task.runs, 0.0, "").monitored(monitor, mode)
    if study.direction.name != ("MINIMIZE" if sign > 0 else "MAXIMIZE"):
        raise ValueError(
            f"the study is to {study.direction.name.lower()}, but {'smaller' if sign > 0 else 'larger'} values of {name!r} "
            f"are better: create it with direction={'minimize' if sign > 0 else 'maximize'!r}"
        )
    return name


def _asked(study: Any, folder: str) -> list[Any]:
    """The trials of an interrupted round, from which `suggest` gets the same values again."""
    from optuna.trial import Trial

    mine = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("jaxnn") == folder]
    return [trial if trial.state.is_finished() else Trial(study, trial._trial_id) for trial in mine]


def _ask_again(study: Any, trials: Sequence[Any]) -> None:
    """Let the study propose the settings of a failed round again, whose checkpoints may be continued by new trials."""
    from optuna.trial import Trial

    for trial in trials:
        if isinstance(trial, Trial):
            trial.set_user_attr("jaxnn", None)
            study.enqueue_trial(trial.params)


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def _subfolder(checkpoints: Any, name: str) -> Any:
    """The checkpoints of one of several sweeps, in their own folder."""
    return None if checkpoints is None else store_of(checkpoints).within(name)
