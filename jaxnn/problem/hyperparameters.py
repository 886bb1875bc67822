"""Numbers that a model, an optimizer or a loss is made of: traced ones, fixed ones, and schedules.

Where a function takes `hyperparameters`, `model` may be a function of some of them that returns a `Layer`, `optimizer` one
that returns an optax transformation, and `loss` may take some as keywords; each gets those that its signature names.
A float is traced: another value does not compile again. An int, string, bool or None is fixed: it may decide on shapes.
A function is a schedule: its value at a step is handed on.

`fit` and `train_run` add what they know of the run's length, as fixed numbers: `epochs`, `steps` and `steps_per_epoch`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.layer import Layer

LENGTHS = ("epochs", "steps", "steps_per_epoch")


@dataclass(frozen=True)
class Hyperparameters:
    """What is fixed of the hyperparameters; what is traced of them is an argument of `at`.

    Attributes:
        fixed: numbers and names, by name; hashable, as programs are kept by them.
        schedules: functions of the step, by name.
    """

    fixed: tuple[tuple[str, Any], ...] = ()
    schedules: tuple[tuple[str, Callable], ...] = ()

    def at(self, traced: Mapping[str, jax.Array], step: Any) -> dict[str, Any]:
        """All of them by name, at a step."""
        known = {**dict(self.fixed), **traced}
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules rely on it, also where the caller is strict
            scheduled = {name: _named(schedule, known, f"the schedule of {name!r}", step) for name, schedule in self.schedules}
        return {**known, **scheduled}


def split(hyperparameters: Mapping[str, Any] | None) -> tuple[Hyperparameters, dict[str, jax.Array]]:
    """The fixed ones with the schedules, and the traced ones as float32 scalars; raises what `by_kind` raises."""
    fixed, numbers = by_kind(hyperparameters)
    return fixed, {name: _as_scalar(value) for name, value in numbers.items()}


def _as_scalar(number: Any) -> jax.Array:
    known = number if isinstance(number, jax.Array) else np.asarray(number, np.float32)  # NumPy has nothing to compile
    return jnp.asarray(known, jnp.float32)


def by_kind(hyperparameters: Mapping[str, Any] | None) -> tuple[Hyperparameters, dict[str, Any]]:
    """The fixed ones with the schedules, and the numbers that are to be traced, as they were given.

    Raises:
        TypeError: if they do not come by name, or one is of no kind that can be taken.
        ValueError: if one is not finite.
    """
    if not isinstance(hyperparameters, Mapping | None):
        raise TypeError(f'hyperparameters are given by name, as {{"learning_rate": 1e-3}}, got {hyperparameters!r}')
    fixed, schedules, numbers = {}, {}, {}
    for name, value in (hyperparameters or {}).items():
        if callable(value):
            schedules[name] = value
        elif isinstance(value, bool | int | str | None):
            fixed[name] = value
        elif isinstance(value, float | np.floating | np.ndarray | jax.Array) and np.ndim(value) == 0:
            if not isinstance(value, jax.core.Tracer) and not np.isfinite(value):
                raise ValueError(f"the hyperparameter {name!r} is {value}, expected a finite number")
            numbers[name] = value
        else:
            raise TypeError(
                f"the hyperparameter {name!r} is {value!r}; expected a number (a float is traced, an int fixed), a string, "
                "or a schedule, a function of the step"
            )
    return Hyperparameters(tuple(fixed.items()), tuple(schedules.items())), numbers


def model_of(model: Any, values: Mapping[str, Any]) -> Layer:
    """The model, made of the hyperparameters if it is a function of them.

    Raises:
        TypeError: if it is neither a `Layer` nor a function that returns one.
    """
    made = (
        model
        if isinstance(model, Layer)
        else _named(model, values, "a model that is a function and no Layer, as nn.serial(...) makes one,")
        if callable(model)
        else None
    )
    if isinstance(made, Layer):
        return made
    raise TypeError(
        "model is a Layer, such as nn.serial(...) makes, or a function of hyperparameters that returns one; "
        f"got {type(model if made is None else made).__name__}"
    )


def optimizer_of(optimizer: Any, values: Mapping[str, Any]) -> Any:
    """The optax transformation, made of the hyperparameters if it is a function of them.

    Raises:
        TypeError: if it is neither a transformation nor a function that returns one, or lacks something it needs.
    """
    made = optimizer
    if callable(optimizer):
        made = _named(optimizer, values, "an optimizer that is a function")
    if hasattr(made, "init") and hasattr(made, "update"):
        return made
    raise TypeError(
        "optimizer is an optax transformation, such as optax.adam(1e-3), or a function of hyperparameters that returns "
        f"one, such as optax.adam; got {type(made).__name__}"
    )


def loss_of(loss: Callable, values: Mapping[str, Any]) -> Callable:
    """The loss with those hyperparameters bound that its signature names."""
    named = {name: value for name, value in values.items() if name in parameters_of(loss) and name not in LENGTHS}
    return (lambda *arguments, **others: loss(*arguments, **named, **others)) if named else loss


def check_used(hyperparameters: Hyperparameters, traced: Mapping[str, Any], *takers: Any, read: Iterable[str] = ()) -> None:
    """Each hyperparameter is named by somebody: a misspelt one would silently do nothing.

    Raises:
        ValueError: if one is not.
    """
    schedules = dict(hyperparameters.schedules)
    given = {*dict(hyperparameters.fixed), *traced, *schedules} - set(LENGTHS)
    named = {name for taker in (*takers, *schedules.values()) if taker is not None for name in parameters_of(taker)}
    if unused := sorted(given - named - set(read)):
        raise ValueError(
            f"nothing takes the hyperparameter {', '.join(map(repr, unused))}: neither the model nor the optimizer nor the "
            f"loss is a function with a parameter of that name; they name {', '.join(sorted(named)) or 'none'}"
        )


def _named(function: Callable, values: Mapping[str, Any], what: str, *positional: Any) -> Any:
    """Call a function with those values that its signature names.

    Raises:
        TypeError: if it needs one that there is not.
    """
    parameters = list(parameters_of(function).values())[len(positional) :]
    missing = [p.name for p in parameters if p.default is p.empty and p.kind in _BY_NAME and p.name not in values]
    if missing:
        call = f"{getattr(function, '__name__', 'it')}({', '.join(missing)})"
        raise TypeError(
            f"{what} needs {', '.join(missing)}: call it, {call}, or give "
            f"hyperparameters={{{', '.join(f'{name!r}: …' for name in missing)}}}"
        )
    names = {p.name for p in parameters if p.kind in _BY_NAME}
    return function(*positional, **{name: value for name, value in values.items() if name in names})


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parameters_of(function: Any) -> Mapping[str, inspect.Parameter]:
    """A function's parameters by name; none of what is no function."""
    if isinstance(function, Layer) or not callable(function):
        return {}
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
