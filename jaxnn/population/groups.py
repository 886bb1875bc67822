"""Which members one program can train: those that differ in nothing but traced numbers and seeds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from jaxnn.core.checks import whole
from jaxnn.population.space import Setting
from jaxnn.problem.hyperparameters import LENGTHS, by_kind, model_of, optimizer_of, parameters_of
from jaxnn.train.epoch import lengths
from jaxnn.train.executors import Plan
from jaxnn.train.state import TrainState, init_train_state

OWN = ("batch_size", "epochs")  # what a space may name besides hyperparameters
COLUMNS = ("seed", "loss", "val_loss", "epoch", "status")  # what the table has besides hyperparameters and metrics
_NOT_NEGATIVE = ("learning_rate", "weight_decay", "momentum")


@dataclass(frozen=True)
class Group:
    """Settings that one program trains.

    Attributes:
        numbers: of the settings, as the space counts them.
        structural: what they have in common, by name.
        plan: the arguments of `train.epoch.pieces`.
        traced: an array of values by name, one a setting, float32.
        epochs: how many at the most.
        loss_scaling: as in `fit`.
    """

    numbers: tuple[int, ...]
    structural: dict[str, Any]
    plan: Plan
    traced: dict[str, np.ndarray]
    epochs: int
    loss_scaling: bool

    def values(self, i: int) -> dict[str, Any]:
        """All that is known by name of the group's setting `i`, at step 0."""
        fixed, numbers = by_kind({**self.plan["hyperparameters"], **{k: float(v[i]) for k, v in self.traced.items()}})
        return fixed.at(numbers, 0)


def shapes(function: Callable, plan: Plan, *arguments: Any) -> Any:
    """`jax.eval_shape` of `function(plan, *arguments)`, kept for the next sweep."""
    leaves, structure = jax.tree.flatten(arguments)
    return _shapes(function, plan, tuple((leaf.shape, leaf.dtype) for leaf in leaves), structure)


@lru_cache(maxsize=512)
def _shapes(function: Callable, plan: Plan, leaves: tuple, structure: Any) -> Any:
    arguments = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    return jax.eval_shape(partial(function, plan), *arguments)


def started(plan: Plan, loss_scaling: bool, key: jax.Array, traced: Mapping[str, Any], x: Any) -> TrainState:
    """One member's start."""
    return init_train_state(
        plan["model"],
        plan["optimizer"],
        key,
        x,
        hyperparameters={**plan["hyperparameters"], **traced},
        metrics=plan["metrics"],
        callbacks=plan["callbacks"],
        loss_scaling=loss_scaling,
    )


def groups_of(
    settings: Sequence[Setting],
    plan: Mapping[str, Any],
    *,
    epochs: int,
    samples: int,
    loss_scaling: bool = False,
) -> list[Group]:
    """The groups, in the order of their first settings; every setting is checked.

    Args:
        settings: by number.
        plan: the arguments of `train.epoch.pieces` that all have in common.
        epochs: for settings that do not say.
        samples: how many there are to train on.
        loss_scaling: as in `fit`.

    Raises:
        TypeError: a function needs what nobody gives.
        ValueError: nothing takes a hyperparameter, or a setting is refused by what takes it.
    """
    if taken := [name for name in settings[0] if name in COLUMNS]:
        raise ValueError(f"the result has a column {taken[0]!r} of its own: give the hyperparameter another name")
    for setting in settings:
        for name in setting.keys() & set(OWN):
            whole("sweep", name, setting[name])
    settings = _as_floats(settings)
    sorted_out: dict[tuple, list[int]] = {}
    for number, setting in enumerate(settings):
        structural = tuple((name, value) for name, value in setting.items() if not isinstance(value, float))
        sorted_out.setdefault(structural, []).append(number)
    groups = []
    for structural, numbers in sorted_out.items():
        own = dict(structural)
        steps = whole("sweep", "epochs", own.get("epochs", epochs))
        batch_size = min(whole("sweep", "batch_size", own.get("batch_size", plan["batch_size"])), samples)
        chosen = tuple((name, value) for name, value in structural if callable(value) and not _is_schedule(value))
        takers = {what: _with(plan.get(what), chosen) for what in ("model", "optimizer", "loss", "augment", "view")}
        own = {name: v for name, v in own.items() if name not in OWN and (name, v) not in chosen}
        floats = [{name: value for name, value in settings[i].items() if isinstance(value, float)} for i in numbers]
        known = {**lengths(samples, batch_size, steps), **(plan["hyperparameters"] or {}), **own}
        _check_names({**known, **floats[0]}, dict(chosen), [plan.get(what) for what in takers], plan["callbacks"])
        for number, traced in zip(numbers, floats, strict=True):
            _check_setting(number, settings[number], {**known, **traced}, takers)
        traced_columns = {name: np.asarray([row[name] for row in floats], np.float32) for name in floats[0]}
        own_plan = Plan({**plan, **takers, "batch_size": batch_size, "hyperparameters": {**known, **floats[0]}})
        groups.append(Group(tuple(numbers), dict(structural), own_plan, traced_columns, steps, loss_scaling))
    return groups


def check_traceable(group: Group, x: Any) -> TrainState:
    """What a member's start looks like: its shapes and dtypes.

    Raises:
        ValueError: if a float, which is traced, is used where a fixed number is needed.
    """
    structs = {name: jax.ShapeDtypeStruct((), np.float32) for name in group.traced}
    start = _scaled_start if group.loss_scaling else _start
    try:
        return shapes(start, group.plan, structs, x)
    except Exception as error:
        for name in structs:
            rest = {other: struct for other, struct in structs.items() if other != name}
            value = float(group.traced[name][0])
            for fixed in (value, int(value)):
                plan = Plan({**group.plan, "hyperparameters": {**group.plan["hyperparameters"], name: fixed}})
                try:
                    shapes(start, plan, rest, x)
                except Exception:
                    continue
                raise ValueError(
                    f"the hyperparameter {name!r} has values such as {value}, and floats are traced: one program serves all "
                    f"of them. Here it decides on a shape or a branch: give whole numbers, such as {int(value)}"
                ) from error
        raise


def _start(plan: Plan, traced: Mapping[str, Any], x: Any, loss_scaling: bool = False) -> TrainState:
    return started(plan, loss_scaling, jax.random.key(0), traced, x)


_scaled_start = partial(_start, loss_scaling=True)


def _as_floats(settings: Sequence[Setting]) -> list[Setting]:
    """The settings; where one value of a name is a float, whole numbers of that name are floats, too."""
    number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)  # noqa: E731
    mixed = {
        name
        for name in settings[0]
        if all(number(setting[name]) for setting in settings) and any(isinstance(setting[name], float) for setting in settings)
    }
    return [{name: float(v) if name in mixed else v for name, v in setting.items()} for setting in settings]


def _check_names(given: Mapping[str, Any], chosen: Mapping[str, Any], takers: Sequence[Any], callbacks: Sequence) -> None:
    for name in set(given) | set(chosen):
        if name in LENGTHS:
            continue
        known = sorted({p for taker in takers for p in parameters_of(taker)} | set(OWN))
        used = any(name in parameters_of(taker) for taker in takers)
        used = used or any(name in parameters_of(v) for v in given.values() if callable(v))
        used = used or any(name in callback.hyperparameters for callback in callbacks)
        if not used:
            near = difflib.get_close_matches(name, known, 3)
            raise ValueError(
                f"nothing takes the hyperparameter {name!r}: neither the model nor the optimizer nor the loss is a function "
                f"with a parameter of that name; "
                + (f"near it {' and '.join(near)}" if near else f"they name {', '.join(known)}")
            )


def _check_setting(number: int, setting: Setting, given: Mapping[str, Any], takers: Mapping[str, Any]) -> None:
    """Make what the setting says once with plain numbers, so that each layer and optimizer can refuse them."""
    try:
        fixed, numbers = by_kind(given)
        values = fixed.at(numbers, 0)
        for name in _NOT_NEGATIVE:
            if isinstance(values.get(name, 0.0), str | bool):
                raise TypeError(f"{name} is {values[name]!r}, expected a number")
            if isinstance(values.get(name), float | int) and values[name] < 0:
                raise ValueError(f"{name} is {values[name]}, expected at least 0")
        model_of(takers["model"], values)
        optimizer_of(takers["optimizer"], values)
    except (TypeError, ValueError) as error:
        error.add_note(f"in setting {number} of the space, {setting}")
        raise


def _is_schedule(function: Callable) -> bool:
    """Whether it is a function of the step, as optax's schedules are, and no value such as an activation."""
    return next(iter(parameters_of(function)), "") in ("step", "count")


@lru_cache(maxsize=512)
def _with(function: Any, chosen: tuple[tuple[str, Any], ...]) -> Any:
    """The function with those values bound that it names; the same object each time, as programs are kept by it."""
    named = {name: value for name, value in chosen if name in parameters_of(function)}
    return partial(function, **named) if named else function
