"""Searches that spend their epochs where it pays: successive halving, Hyperband, population-based training, Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxnn.core.checks import whole
from jaxnn.core.naming import child_key
from jaxnn.population.result import Sweep
from jaxnn.population.saver import Saver, store_of
from jaxnn.population.space import Setting, settings_of
from jaxnn.population.sweep import Task, prepared, sweep


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
    """Train all settings for a few epochs, go on with the best third, and so on (Jamieson & Talwalkar 2016).

    The rungs end after `first_epochs`, `first_epochs · factor`, … and `epochs`; after each but the last, ⌈n / factor⌉ of n
    settings go on, from where they were. Settings are compared by their mean over seeds.

    There is no separate ASHA (Li et al. 2020). Its rungs are these; it promotes a setting as soon as it is among the best
    third of those that came so far, so that no computer waits for another's rung, and pays with some promotions that the
    whole rung would not have made. Here all settings of a rung are trained together, on all cores or devices at once:
    nobody waits, so there is nothing to win.

    Args:
        model: as in `sweep`.
        data: as in `sweep`.
        space: as in `sweep`.
        epochs: those of the last rung; what schedules know as the run's length.
        first_epochs: those of the first rung.
        factor: by which settings become fewer and epochs more.
        monitor: the value to compare by, as in `Sweep.best`.
        mode: as in `Sweep.best`.
        checkpoints: as in `sweep`; saved after each rung.
        progress: whether to show progress.
        **options: as in `sweep`.

    Returns:
        A `Sweep` of all members; those that did not go on are `"dropped"`.

    Raises:
        ValueError: as `sweep`, or if there are too few epochs or settings for two rungs.

    Example:
        >>> import jax, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(0), (64, 3))
        >>> result = nn.population.successive_halving(
        ...     nn.dense(1), (x, x[:, :1]), {"learning_rate": [1e-4, 1e-3, 1e-2, 0.1]}, epochs=4, factor=2,
        ...     loss=nn.losses.mse, optimizer=optax.sgd, key=jax.random.key(1), progress=False)
        >>> [row["epochs"] for row in result.rows], result.best().setting
        ([1, 1, 2, 4], {'learning_rate': 0.1})
    """
    task = prepared(model, data, space, epochs=epochs, hold=True, **options)
    rungs = _rungs(len(task.settings), epochs, first_epochs, factor)
    if any(work.group.epochs != epochs for work in task.works):
        raise ValueError("a search decides on the epochs: take 'epochs' out of the space")
    _scores(task, monitor, mode)  # refuses what there is not, before anything is trained
    saver = None if checkpoints is None else Saver(checkpoints, task)
    begin = 0
    if saver is not None and (more := saver.restore()):
        begin = more["rung"]
        _select(task, np.asarray(more["selected"]))
    selected = np.concatenate([work.selected for work in task.works])
    order = np.concatenate([np.asarray(work.group.numbers) for work in task.works])
    selected[order] = selected.copy()
    for rung, until in enumerate(rungs[begin:], begin):
        for work in task.works:
            work.until, work.at = until, rungs[rung - 1] if rung else 0
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
    """How many settings are in a rung, counted from 0."""
    for _ in range(rung):
        settings = -(-settings // factor)
    return settings


def _rungs(settings: int, epochs: int, first_epochs: int, factor: int) -> list[int]:
    whole("successive_halving", "factor", factor, 2)
    whole("successive_halving", "first_epochs", first_epochs)
    if first_epochs * factor > epochs or settings < 2:
        raise ValueError(
            f"{settings} settings and {epochs} epochs do not make two rungs of {first_epochs} and {first_epochs * factor} "
            "epochs or more: give more, a smaller factor, or use nn.sweep"
        )
    count = int(math.log(epochs / first_epochs, factor) + 1e-9)
    return [first_epochs * factor**i for i in range(count)] + [epochs]


def _select(task: Task, selected: np.ndarray) -> None:
    for work in task.works:
        work.selected = selected[np.asarray(work.group.numbers)]


def _scores(task: Task, monitor: str | None, mode: str | None) -> np.ndarray:
    """A number for each setting, small if it is good; infinite if one of its members diverged."""
    rows = Sweep.of(task.settings, task.seeds, task.works, 0.0, "")
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
    """Successive halving with several first rungs, as the best is not known (Li et al. 2018).

    With R epochs and s from ⌊log_factor R⌋ down to 0, bracket s begins with R / factor^s epochs, and the settings of the
    space are dealt out so that all brackets cost about the same; bracket 0 trains its settings to the end.

    Args:
        model: as in `sweep`.
        data: as in `sweep`.
        space: as in `sweep`; settings are dealt out in their order, so a random or Sobol one suits.
        epochs: the most that a setting gets, R.
        factor: as in `successive_halving`.
        checkpoints: as in `successive_halving`; each bracket has a folder of its own in it.
        **options: as in `successive_halving`.

    Returns:
        A `Sweep` for each bracket; take the best of their `best()`.

    Raises:
        ValueError: as `successive_halving`, or if there are not enough settings for two of them in each bracket.

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
        given = {**options, "epochs": epochs, "checkpoints": _part(checkpoints, f"bracket-{s}")}
        part = settings[end - count : end]
        if s:
            first = max(1, epochs // factor**s)
            results.append(successive_halving(model, data, part, first_epochs=first, factor=factor, **given))
        else:
            given = {name: value for name, value in given.items() if name not in ("monitor", "mode")}
            results.append(sweep(model, data, part, **given))
    return results


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
    """Every few epochs the worst members go on from copies of the best, with changed hyperparameters (Jaderberg 2017).

    Args:
        model: as in `sweep`.
        data: as in `sweep`.
        space: as in `sweep`: where the members begin. All its values are floats, as a copy has the same structure.
        epochs: of each member.
        interval: how many epochs lie between two rounds of copying.
        share: of the members, at most half, that are replaced in a round, each by one drawn from the best of the same number.
        factors: one of them, drawn for each hyperparameter, multiplies a copy's value.
        monitor: as in `Sweep.best`.
        mode: as in `Sweep.best`.
        checkpoints: as in `sweep`; saved after each round.
        progress: whether to show progress.
        **options: as in `sweep`, with one seed.

    Returns:
        A `Sweep` whose table has the hyperparameters of each member's last epochs.

    Raises:
        ValueError: as `sweep`; on more than one seed or structure, or numbers out of range.

    Example:
        >>> import jax, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(0), (64, 3))
        >>> result = nn.population.population_based_training(
        ...     nn.dense(1), (x, x[:, :1]), {"learning_rate": [1e-4, 1e-3, 1e-2, 0.1]}, epochs=6, interval=2,
        ...     loss=nn.losses.mse, optimizer=optax.sgd, key=jax.random.key(1), progress=False)
        >>> len({row["learning_rate"] for row in result.rows} & {1e-4, 1e-3})
        0
    """
    task = prepared(model, data, space, epochs=epochs, hold=True, **options)
    _scores(task, monitor, mode)
    if len(task.settings) < 2 or not task.works[0].group.traced:
        raise ValueError(
            "population-based training takes two settings or more of at least one traced hyperparameter, a float such as the "
            f"learning rate; got {len(task.settings)} of {', '.join(task.works[0].group.traced) or 'none'}"
        )
    if len(task.works) > 1 or len(task.seeds) > 1:
        raise ValueError(
            f"population-based training copies members onto each other: all have one structure and one seed, "
            f"got {len(task.works)} structures and {len(task.seeds)} seeds"
        )
    whole("population_based_training", "interval", interval)
    if not 0 < share <= 0.5 or not factors or min(factors) <= 0:
        raise ValueError(f"share lies in (0, 0.5] and factors are above 0, got {share} and {factors}")
    [work] = task.works
    saver = None if checkpoints is None else Saver(checkpoints, task)
    ends = [*range(interval, epochs, interval), epochs]
    more = saver.restore() if saver is not None else {}
    begin = more.get("round", 0)
    for number, until in enumerate(ends[begin:], begin):
        work.until, work.at = until, ends[number - 1] if number else 0
        if task.train(progress):
            break
        if until < epochs:
            draws = np.random.default_rng(
                np.asarray(jax.random.bits(jax.random.fold_in(child_key(task.key, "pbt"), number), (4,)))
            )
            order = np.argsort(_scores(task, monitor, mode), kind="stable")
            count = max(1, int(share * len(order)))
            _copy(work, order[draws.integers(0, count, count)], order[-count:], draws, factors)
        if saver is not None:
            saver.save(until, {"round": number + 1}, wait=True)
    for name, values in work.group.traced.items():
        values[:] = work.held.train_state.hyperparameters[name][:, 0]
        for setting, value in zip(task.settings, values, strict=True):
            setting[name] = float(value)
    return task.result(progress)


def _copy(work: Any, sources: np.ndarray, targets: np.ndarray, draws: np.random.Generator, factors: Sequence[float]) -> None:
    def copy(leaf):
        leaf[targets] = leaf[sources]

    result = work.result
    jax.tree.map(copy, (work.held, result.params, result.state, result.epoch, result.epochs, result.diverged, result.done))
    for name in work.group.traced:
        work.held.train_state.hyperparameters[name][targets] *= draws.choice(factors, (len(targets), 1)).astype(np.float32)


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
    **options: Any,
) -> list[Sweep]:
    """Let an Optuna study propose settings, many at a time, and tell it how they did.

    With `checkpoints`, a search that was cut goes on when it is called again: with a study that Optuna stores, with the
    trials that it has; with one in memory, made anew with a sampler of the same seed, which proposes the same once more.

    Args:
        study: from `optuna.create_study`; its direction is that of the value.
        suggest: `suggest(trial) -> setting`, as `lambda trial: {"learning_rate": trial.suggest_float("lr", 1e-4, 1e-1)}`.
        model: as in `sweep`.
        data: as in `sweep`.
        rounds: how many times it is asked.
        members: settings a round.
        monitor: the value that the study is told, a setting's mean over seeds; as in `Sweep.best`.
        mode: as in `Sweep.best`; it must be the study's direction.
        checkpoints: as in `sweep`; each round has a folder of its own in it.
        **options: as in `sweep`.

    Returns:
        A `Sweep` for each round.

    Raises:
        ValueError: as `sweep`, or if the study's direction is the other one.

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
        store = _part(checkpoints, f"round-{number}")
        trials = [] if store is None else _asked(study, str(store.folder))
        while len(trials) < members:
            trials.append(study.ask())
            if store is not None:
                trials[-1].set_user_attr("jaxnn", str(store.folder))
        result = sweep(model, data, [suggest(trial) for trial in trials], checkpoints=store, **options)
        name, sign = result.monitored(monitor, mode)
        if study.direction.name != ("MINIMIZE" if sign > 0 else "MAXIMIZE"):
            raise ValueError(
                f"{name!r} is to be {'small' if sign > 0 else 'large'}, and the study is to {study.direction.name.lower()}"
            )
        values = np.asarray([row[name] for row in result.rows]).reshape(members, -1).mean(1)
        for trial, value in zip(trials, values, strict=True):
            told = {"values": float(value)} if np.isfinite(value) else {"state": _failed()}
            study.tell(trial.number, **told, skip_if_finished=True)
        results.append(result)
    return results


def _asked(study: Any, folder: str) -> list[Any]:
    """The trials of a round that was cut: what they were given, `suggest` gets from them again."""
    from optuna.trial import Trial

    mine = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("jaxnn") == folder]
    return [trial if trial.state.is_finished() else Trial(study, trial._trial_id) for trial in mine]


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def _part(checkpoints: Any, name: str) -> Any:
    """The checkpoints of one of several sweeps, in a folder of their own."""
    return None if checkpoints is None else store_of(checkpoints).within(name)
