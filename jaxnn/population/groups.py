"""Groups: the settings that one program can train, as they differ in nothing but traced numbers and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxnn import compiled
from jaxnn.core.checks import whole
from jaxnn.core.text import did_you_mean, listed
from jaxnn.population.space import Setting
from jaxnn.problem.hyperparameters import LENGTHS, Hyperparameters, model_of, optimizer_of, parameters_of
from jaxnn.train.config import TrainingConfig
from jaxnn.train.state import TrainState, start

RUN_OPTIONS = ("batch_size", "epochs")  # what a space may name besides hyperparameters
RESERVED_COLUMNS = ("seed", "loss", "val_loss", "epoch", "status")  # what the table has besides hyperparameters and metrics
_NOT_NEGATIVE = ("learning_rate", "weight_decay", "momentum")


@dataclass(frozen=True)
class Group:
    """Settings that one program trains.

    Attributes:
        numbers: The settings' numbers in the space.
        structural: The values that they have in common, by name.
        config: The configuration of their runs.
        traced: An array of values by name, one per setting, float32.
        epochs: The number of epochs, at most.
    """

    numbers: tuple[int, ...]
    structural: dict[str, Any]
    config: TrainingConfig
    traced: dict[str, np.ndarray]
    epochs: int

    def values(self, i: int) -> dict[str, Any]:
        """All hyperparameters of the group's setting `i` by name, at step 0."""
        given = {name: float(values[i]) for name, values in self.traced.items()}
        known = self.config.with_hyperparameters(given).problem.hyperparameters
        return known.at(known.numbers)


def started(config: TrainingConfig, key: jax.Array, traced: Mapping[str, Any], x: Any) -> TrainState:
    """The start of one member with these traced hyperparameters."""
    return start(config.with_hyperparameters(traced), key, x)


def groups_of(settings: Sequence[Setting], config: TrainingConfig, *, epochs: int, samples: int) -> list[Group]:
    """The groups, in the order of their first settings; every setting is checked.

    Args:
        settings: The settings, by number.
        config: What all have in common.
        epochs: The number of epochs, for settings that do not name it.
        samples: The number of samples to train on.

    Raises:
        TypeError: If a function needs a value that no setting has.
        ValueError: If nothing takes a hyperparameter, or what takes a setting refuses it.
    """
    if taken := [name for name in settings[0] if name in RESERVED_COLUMNS]:
        raise ValueError(f"the result has a column {taken[0]!r} of its own: give the hyperparameter another name")
    for setting in settings:
        for name in setting.keys() & set(RUN_OPTIONS):
            whole("sweep", name, setting[name])
    settings = _as_floats(settings)
    by_structure: dict[tuple, list[int]] = {}
    for number, setting in enumerate(settings):  # 1 and True are equal, and may decide on different programs
        structural = tuple((name, type(value), value) for name, value in setting.items() if not isinstance(value, float))
        by_structure.setdefault(structural, []).append(number)
    return [_group(settings, numbers, config, epochs, samples) for numbers in by_structure.values()]


def _group(
    settings: Sequence[Setting],
    numbers: list[int],
    config: TrainingConfig,
    epochs: int,
    samples: int,
) -> Group:
    structural = {name: value for name, value in settings[numbers[0]].items() if not isinstance(value, float)}
    epochs = whole("sweep", "epochs", structural.get("epochs", epochs))
    batch_size = min(whole("sweep", "batch_size", structural.get("batch_size", config.batch_size)), samples)
    own = {name: value for name, value in structural.items() if name not in RUN_OPTIONS}
    floats = [{name: value for name, value in settings[i].items() if isinstance(value, float)} for i in numbers]
    problem = config.problem
    given = {**problem.hyperparameters.as_dict(), **own, **floats[0]}
    config = replace(config, problem=replace(problem, hyperparameters=Hyperparameters.of(given)), batch_size=batch_size)
    config = config.with_lengths(-(-samples // batch_size), epochs)
    functions = [problem.model, problem.loss, problem.augment, problem.view, config.optimizer, config.gradient]
    _check_names(given, functions, config.callbacks)
    for number, traced in zip(numbers, floats, strict=True):
        _check_setting(number, settings[number], config.with_hyperparameters(traced))
    columns = {name: np.asarray([row[name] for row in floats], np.float32) for name in floats[0]}
    return Group(tuple(numbers), structural, config, columns, epochs)


def check_traceable(group: Group, x: Any) -> TrainState:
    """The start of a member, as shapes and dtypes.

    Raises:
        ValueError: If a float, which is traced, is used where a fixed number is needed.
    """
    structs = {name: jax.ShapeDtypeStruct((), np.float32) for name in group.traced}
    try:
        return _start_shapes(group.config, structs, x)
    except Exception as error:
        for name in structs:
            rest = {other: struct for other, struct in structs.items() if other != name}
            value = float(group.traced[name][0])
            for fixed in (value, int(value)):
                known = group.config.problem.hyperparameters
                # A fixed float: `of` would trace it.
                numbers = {k: v for k, v in known.numbers.items() if k != name}
                hyperparameters = replace(known, fixed=(*known.fixed, (name, fixed)), traced=tuple(numbers), numbers=numbers)
                config = replace(group.config, problem=replace(group.config.problem, hyperparameters=hyperparameters))
                try:
                    _start_shapes(config, rest, x)
                except Exception:
                    continue
                raise ValueError(
                    f"the hyperparameter {name!r} has values such as {value}, and floats are traced: one program serves all "
                    f"of them. Here it decides on a shape or a branch: give whole numbers, such as {int(value)}"
                ) from error
        raise


def _start_shapes(config: TrainingConfig, traced: Mapping[str, Any], x: Any) -> TrainState:
    def make():
        return lambda traced, x: started(config, jax.random.key(0), traced, x)

    return compiled.shapes("start", make, config.key(), (dict(traced), x))


def _as_floats(settings: Sequence[Setting]) -> list[Setting]:
    """The settings; where one value of a name is a float, whole numbers of that name become floats, too."""
    number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)  # noqa: E731
    mixed = {
        name
        for name in settings[0]
        if all(number(setting[name]) for setting in settings) and any(isinstance(setting[name], float) for setting in settings)
    }
    return [{name: float(v) if name in mixed else v for name, v in setting.items()} for setting in settings]


def _check_names(given: Mapping[str, Any], functions: Sequence[Any], callbacks: Sequence) -> None:
    for name in given:
        if name in LENGTHS:
            continue
        known = sorted({p for function in functions for p in parameters_of(function)} | set(RUN_OPTIONS))
        used = any(name in parameters_of(function) for function in functions)
        used = used or any(name in parameters_of(v) for v in given.values() if callable(v))
        used = used or any(name in callback.hyperparameters for callback in callbacks)
        if not used:
            raise ValueError(
                f"nothing takes the hyperparameter {name!r}: neither the model nor the optimizer nor the loss is a function "
                f"with a parameter of that name; " + (did_you_mean(name, known, 3) or f"they name {listed(known)}")
            )


def _check_setting(number: int, setting: Setting, config: TrainingConfig) -> None:
    """Build what the setting describes once with plain numbers, so that each layer and optimizer can refuse them."""
    try:
        known = config.problem.hyperparameters
        values = known.at(known.numbers)
        for name in _NOT_NEGATIVE:
            if isinstance(values.get(name, 0.0), str | bool):
                raise TypeError(f"{name} is {values[name]!r}, expected a number")
            if isinstance(values.get(name), float | int) and values[name] < 0:
                raise ValueError(f"{name} is {values[name]}, expected at least 0")
        model_of(config.problem.model, values)
        optimizer_of(config.optimizer, values)
    except (TypeError, ValueError) as error:
        error.add_note(f"in setting {number} of the space, {setting}")
        raise
