"""Hyperparameters: the parameters of the functions that create models, optimizers and losses; traced, fixed or scheduled.

Where a function takes `hyperparameters`, `model` may be a function of some of them that returns a `Layer`, `optimizer` a
function that returns an optax transformation, and `loss` may take some as keywords. Each is given those that its signature
names. A float is traced: another value does not compile again. An int, string, bool or None is fixed: it may decide on
shapes. Numbers of NumPy and JAX count as the Python numbers that they equal.

A function with a parameter `step` (or `count`) or `epoch` is a schedule: its value is computed at each step. Its other
parameters are the run's length and hyperparameters, by name. Any other function is a fixed value, such as an activation.

`fit` and `training(...).run` add the run's length as fixed numbers: `epochs`, `steps` and `steps_per_epoch`. They fill
parameters without a default only.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnn import _jax
from jaxnn.core.layer import Layer

LENGTHS = ("epochs", "steps", "steps_per_epoch")
CLOCK = ("step", "count", "epoch")  # what makes a function a schedule


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters by kind. Two are equal if they differ only in the values of traced numbers.

    Attributes:
        fixed: The fixed hyperparameters, as pairs of name and value.
        schedules: The schedules, as pairs of name and function.
        traced: The names of the traced hyperparameters.
        numbers: Their values, as they were given.
    """

    fixed: tuple[tuple[str, Any], ...] = ()
    schedules: tuple[tuple[str, Callable], ...] = ()
    traced: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, given: Mapping[str, Any] | Hyperparameters | None) -> Hyperparameters:
        """Sort hyperparameters by kind.

        Raises:
            TypeError: If they are not a mapping, or the kind of one is not supported.
            ValueError: If a number is not finite, or a schedule could take `step` or `epoch` for a hyperparameter.
        """
        if isinstance(given, Hyperparameters):
            return given
        if not isinstance(given, Mapping | None):
            raise TypeError(f'hyperparameters are given by name, as {{"learning_rate": 1e-3}}, got {given!r}')
        given = given or {}
        fixed: dict[str, Any] = {}
        schedules: dict[str, Callable] = {}
        numbers: dict[str, Any] = {}
        for name, value in given.items():
            value = plain(name, value)
            kind = schedules if is_schedule(value) else numbers if isinstance(value, float | jax.Array) else fixed
            kind[name] = value
        for name, schedule in schedules.items():
            if taken := [clock for clock in CLOCK if clock in given and clock in parameters_of(schedule)]:
                raise ValueError(
                    f"the schedule of {name!r} names {taken[0]!r}, which is the run's {taken[0]} and also a hyperparameter: "
                    "give the hyperparameter another name"
                )
        return cls(tuple(fixed.items()), tuple(schedules.items()), tuple(numbers), numbers)

    def as_dict(self) -> dict[str, Any]:
        """All of them by name, as they were given."""
        return {**dict(self.fixed), **dict(self.schedules), **self.numbers}

    def with_defaults(self, defaults: Mapping[str, Any]) -> Hyperparameters:
        """These, and those of `defaults` that have other names."""
        return Hyperparameters.of({**defaults, **self.as_dict()})

    def scalars(self) -> dict[str, jax.Array]:
        """The traced ones as float32 scalars."""
        return {name: _as_scalar(value) for name, value in self.numbers.items()}

    def at(self, traced: Mapping[str, Any] | None = None, step: Any = 0, epoch: Any = 0) -> dict[str, Any]:
        """All values by name at a step.

        Args:
            traced: Values of the traced ones; by default those given.
            step: The number of steps made before.
            epoch: The number of epochs finished.

        Raises:
            TypeError: If a schedule has a parameter of another name.
        """
        known = {**dict(self.fixed), **(self.scalars() if traced is None else traced)}
        clock = dict(zip(CLOCK, (step, step, epoch), strict=True))
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules require it, even if the caller is strict
            scheduled = {name: _scheduled(name, schedule, {**known, **clock}) for name, schedule in self.schedules}
        return {**known, **scheduled}


def plain(name: str, value: Any) -> Any:
    """A hyperparameter's value, with a Python number in place of one of NumPy or JAX that is not traced.

    Raises:
        TypeError: If its kind is not supported.
        ValueError: If it is a number that is not finite.
    """
    scalar = isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0
    if scalar and not _jax.is_tracer(value) and not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the hyperparameter {name!r} is {value}, expected a finite number")
    if isinstance(value, bool | int | float | str | None) or callable(value) or (scalar and _jax.is_tracer(value)):
        return value
    raise TypeError(
        f"the hyperparameter {name!r} is {value!r}; expected a number (a float is traced, an int is fixed), a bool, a "
        "string, None, or a function"
    )


def is_schedule(value: Any) -> bool:
    """Whether a value is a function of the step or the epoch, as optax's schedules are, and not one such as an activation."""
    return callable(value) and any(name in parameters_of(value) for name in CLOCK)


def _scheduled(name: str, schedule: Callable, values: Mapping[str, Any]) -> Any:
    required = [p.name for p in parameters_of(schedule).values() if p.default is p.empty and p.kind in (*_BY_NAME, _FIRST)]
    if unknown := [parameter for parameter in required if parameter not in values]:
        raise TypeError(_schedule_needs(name, unknown))
    return _call_by_name(schedule, values, f"the schedule of {name!r}")


def _schedule_needs(name: str, unknown: list[str]) -> str:
    return (
        f"the schedule of {name!r} has the parameter {', '.join(unknown)}; a schedule's parameters are step (or count), epoch, "
        "epochs, steps, steps_per_epoch, and the names of other hyperparameters, where the run knows them"
    )


def _as_scalar(number: Any) -> jax.Array:
    known = number if isinstance(number, jax.Array) else np.asarray(number, np.float32)  # NumPy has nothing to compile
    return jnp.asarray(known, jnp.float32)


def lengths(steps_per_epoch: int | None, epochs: int) -> dict[str, int]:
    """The run's length, as schedules and factories may ask for it; None if the number of steps is not known."""
    if steps_per_epoch is None:
        return {"epochs": epochs}
    return {"epochs": epochs, "steps": epochs * steps_per_epoch, "steps_per_epoch": steps_per_epoch}


def model_of(model: Any, values: Mapping[str, Any]) -> Layer:
    """The model, made from the hyperparameters if it is a function of them.

    Raises:
        TypeError: If it is neither a `Layer` nor a function that returns one.
    """
    made = (
        model
        if isinstance(model, Layer)
        else _call_by_name(model, values, "a model that is a function and not a Layer, as nn.serial(...) returns one,")
        if callable(model)
        else None
    )
    if isinstance(made, Layer):
        return made
    raise TypeError(
        "model is a Layer, such as nn.serial(...) returns, or a function of hyperparameters that returns one; "
        f"got {type(model if made is None else made).__name__}"
    )


def optimizer_of(optimizer: Any, values: Mapping[str, Any]) -> Any:
    """The optax transformation, made from the hyperparameters if it is a function of them.

    Raises:
        TypeError: If it is neither a transformation nor a function that returns one, or a value that it needs is missing.
    """
    for name in parameters_of(optimizer) if callable(optimizer) else ():
        function = values.get(name)
        if callable(function) and "learning_rate" not in parameters_of(function):  # which optimizers such as `optax.sgd` have
            raise TypeError(_schedule_needs(name, list(parameters_of(function))))
    made = _call_by_name(optimizer, values, "an optimizer that is a function") if callable(optimizer) else optimizer
    if hasattr(made, "init") and hasattr(made, "update"):
        return made
    got = repr(made) if isinstance(made, str) else type(made).__name__
    known = isinstance(made, str) and hasattr(optax, made.lower())
    raise TypeError(
        "optimizer is an optax transformation, such as optax.adam(1e-3), or a function of hyperparameters that returns "
        f"one, such as optax.adam; got {got}" + (f": write optax.{made.lower()}(1e-3)" if known else "")
    )


def loss_of(loss: Callable, values: Mapping[str, Any]) -> Callable:
    """The loss with those hyperparameters bound that its signature names."""
    named = {name: value for name, value in values.items() if name in parameters_of(loss) and name not in LENGTHS}
    return (lambda *arguments, **others: loss(*arguments, **named, **others)) if named else loss


def check_used(hyperparameters: Hyperparameters, *users: Any, read: Iterable[str] = ()) -> None:
    """Check that each hyperparameter is used: a misspelled one would silently do nothing.

    Args:
        hyperparameters: All of them.
        *users: The functions whose signatures may name them, or None.
        read: Names that are used otherwise.

    Raises:
        ValueError: If one is not used.
    """
    named = {name for user in users if user is not None for name in parameters_of(user)}
    named |= {name for _, schedule in hyperparameters.schedules for name in parameters_of(schedule)}
    if unused := sorted(hyperparameters.as_dict().keys() - set(LENGTHS) - named - set(read)):
        raise ValueError(
            f"nothing takes the hyperparameter {', '.join(map(repr, unused))}: neither the model nor the optimizer nor the "
            f"loss is a function with a parameter of that name; they name {', '.join(sorted(named)) or 'none'}"
        )


def _call_by_name(function: Callable, values: Mapping[str, Any], what: str) -> Any:
    """Call a function with those values that its signature names.

    Raises:
        TypeError: If one that it needs is missing.
    """
    parameters = [p for p in parameters_of(function).values() if p.kind in _BY_NAME]
    positional = [values[p.name] for p in parameters_of(function).values() if p.kind is _FIRST and p.name in values]
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in values]
    if missing:
        call = f"{getattr(function, '__name__', 'it')}({', '.join(missing)})"
        raise TypeError(
            f"{what} needs {', '.join(missing)}: call it, {call}, or give "
            f"hyperparameters={{{', '.join(f'{name!r}: …' for name in missing)}}}"
        )
    # The run's length is not a hyperparameter that the user gave: a default of the user's own wins over it.
    taken = [p.name for p in parameters if p.name in values and (p.default is p.empty or p.name not in LENGTHS)]
    return function(*positional, **{name: values[name] for name in taken})


_FIRST = inspect.Parameter.POSITIONAL_ONLY
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parameters_of(function: Any) -> Mapping[str, inspect.Parameter]:
    """A function's parameters by name; none if it is a `Layer` or not a function."""
    if isinstance(function, Layer) or not callable(function):
        return {}
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
