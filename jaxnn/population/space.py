"""Spaces of hyperparameters: whatever the way in which they are said, a list of settings, a dict each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxnn.core.checks import check_key, whole

Setting = dict[str, Any]


@dataclass(frozen=True)
class Distribution:
    """Where a hyperparameter's values lie.

    Attributes:
        at: `at(u)` is the value at the quantile `u` in [0, 1).
        text: how it was made, its `repr`.

    Example:
        >>> Distribution(lambda u: u**2, "squares").at(0.5)
        0.25
    """

    at: Any
    text: str

    def __repr__(self) -> str:
        return self.text


def uniform(low: float, high: float) -> Distribution:
    """Evenly from `low` to `high`, a float.

    Args:
        low: the lower bound.
        high: the upper bound.

    Returns:
        The `Distribution`.

    Raises:
        ValueError: if they are not finite numbers in that order.

    Example:
        >>> uniform(0.0, 0.5).at(0.5)
        0.25
    """
    _ordered("uniform", low, high)
    return Distribution(lambda u: float(low + u * (high - low)), f"uniform({low}, {high})")


def log_uniform(low: float, high: float) -> Distribution:
    """Evenly in the logarithm from `low` to `high`, a float: for learning rates and the like.

    Args:
        low: the lower bound.
        high: the upper bound.

    Returns:
        The `Distribution`.

    Raises:
        ValueError: if they are not positive numbers in that order.

    Example:
        >>> round(log_uniform(1e-4, 1e-2).at(0.5), 6)
        0.001
    """
    _ordered("log_uniform", low, high)
    if low <= 0:
        raise ValueError(f"log_uniform takes positive numbers, got {low} and {high}")
    return Distribution(lambda u: float(math.exp(math.log(low) + u * math.log(high / low))), f"log_uniform({low}, {high})")


def integers(low: int, high: int) -> Distribution:
    """Each whole number from `low` to `high`, both included, as often: structural, so each value is a program.

    Args:
        low: the smallest.
        high: the largest.

    Returns:
        The `Distribution`.

    Raises:
        ValueError: if they are not whole numbers in that order.

    Example:
        >>> integers(1, 4).at(0.5)
        3
    """
    low, high = whole("integers", "low", low, -(2**31)), whole("integers", "high", high, -(2**31))
    _ordered("integers", low, high)
    return Distribution(lambda u: low + int(u * (high - low + 1)), f"integers({low}, {high})")


def choice(*values: Any) -> Distribution:
    """Each of the values as often.

    Args:
        *values: what there is to choose from; floats are traced, all else is structural.

    Returns:
        The `Distribution`.

    Raises:
        ValueError: if there are none.

    Example:
        >>> choice("relu", "tanh").at(0.9)
        'tanh'
    """
    if not values:
        raise ValueError("choice takes at least one value")
    return Distribution(lambda u: values[int(u * len(values))], f"choice{values}")


def grid(space: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Every combination of the values, the last name's changing fastest.

    Args:
        space: a sequence of values for each name.

    Returns:
        A dict for each combination.

    Raises:
        TypeError: if values do not come as a sequence.
        ValueError: if there are none, or one is there twice.

    Example:
        >>> grid({"learning_rate": [0.1, 0.01], "dropout": [0.0]})
        [{'learning_rate': 0.1, 'dropout': 0.0}, {'learning_rate': 0.01, 'dropout': 0.0}]
    """
    for name, values in space.items():
        if isinstance(values, Distribution):
            raise TypeError(
                f"{name!r} is a distribution, {values}, and a grid has values: draw from it with "
                "nn.population.random(space, n, key) or nn.population.sobol(space, n)"
            )
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"the values of {name!r} come as a sequence, got {values!r}: write [{values!r}]")
    columns = {name: [_plain(name, value) for value in values] for name, values in space.items()}
    if empty := [name for name, values in columns.items() if not values]:
        raise ValueError(f"there is no value for {', '.join(map(repr, empty))}: the grid is empty")
    for name, values in columns.items():
        kinds = [(isinstance(value, bool), value) for value in values]  # True equals 1
        if twice := [value for i, (_, value) in enumerate(kinds) if kinds[i] in kinds[:i]]:
            raise ValueError(f"{name!r} has the value {twice[0]!r} twice: to train one setting several times, give seeds")
    return [dict(zip(columns, values, strict=True)) for values in itertools.product(*columns.values())]


def random(space: Mapping[str, Any], n: int, key: jax.Array) -> list[Setting]:
    """Settings drawn independently (Bergstra & Bengio 2012).

    Args:
        space: for each name a distribution (`uniform`, `log_uniform`, `integers`, `choice`) or a sequence of values.
        n: how many.
        key: to draw with.

    Returns:
        A dict for each setting.

    Raises:
        TypeError: if `key` is no key, or a value is of a kind that is no hyperparameter.
        ValueError: if `n` is no whole number from 1, or a sequence of values is empty.

    Example:
        >>> import jax
        >>> [setting] = random({"learning_rate": log_uniform(1e-4, 1e-1), "units": [32, 64]}, 1, jax.random.key(0))
        >>> 1e-4 <= setting["learning_rate"] <= 1e-1 and setting["units"] in (32, 64)
        True
    """
    shape = (whole("random", "n", n), len(space))
    return _at(space, np.asarray(jax.random.uniform(check_key(key), shape), np.float64))


def sobol(space: Mapping[str, Any], n: int, seed: int = 0) -> list[Setting]:
    """Settings spread evenly over the whole space: a scrambled Sobol sequence (Owen 1998), best with a power of two.

    Args:
        space: as for `random`.
        n: how many.
        seed: of the scrambling.

    Returns:
        A dict for each setting.

    Raises:
        TypeError: if a value is of a kind that is no hyperparameter.
        ValueError: if `n` is no whole number from 1, or a sequence of values is empty.

    Example:
        >>> rates = [s["rate"] for s in sobol({"rate": uniform(0.0, 1.0)}, 4)]
        >>> sorted(int(4 * rate) for rate in rates)
        [0, 1, 2, 3]
    """
    from scipy.stats import qmc

    n = whole("sobol", "n", n)
    points = qmc.Sobol(len(space), scramble=True, seed=seed).random_base2((n - 1).bit_length())
    return _at(space, points[:n])


def settings_of(space: Any) -> list[Setting]:
    """The settings of a grid, or of an explicit table: a list of dicts, all with the same names.

    Raises:
        TypeError: if it is neither.
        ValueError: if it is empty, or a setting has other names than the first.
    """
    if isinstance(space, Mapping):
        return grid(space)
    if hasattr(space, "to_dict"):  # a pandas table
        space = space.to_dict("records")
    if isinstance(space, str) or not isinstance(space, Iterable):
        raise TypeError(f"a space is a dict of lists, a grid, or a list of dicts, one a setting; got {type(space).__name__}")
    rows = list(space)
    if not rows:
        raise ValueError("the space is empty: there is nothing to train")
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"setting {i} is {row!r}, expected a dict of hyperparameters by name")
        if list(row) != list(rows[0]):
            raise ValueError(
                f"setting {i} names {', '.join(row)}, and the first one {', '.join(rows[0])}: name the same in all"
            )
    return [{name: _plain(name, value) for name, value in row.items()} for row in rows]


def _at(space: Mapping[str, Any], points: np.ndarray) -> list[Setting]:
    columns = {name: d if isinstance(d, Distribution) else choice(*d) for name, d in space.items()}
    inside = np.clip(points, 0.0, np.nextafter(1.0, 0.0))
    return [{name: _plain(name, d.at(u)) for (name, d), u in zip(columns.items(), row, strict=True)} for row in inside]


def _plain(name: str, value: Any) -> Any:
    """NumPy's and JAX's numbers as Python's own."""
    if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the hyperparameter {name!r} is {value}, expected a finite number")
    if isinstance(value, bool | int | float | str | None) or callable(value):
        return value
    raise TypeError(
        f"the hyperparameter {name!r} is {value!r}; expected a number (a float is traced, an int structural), a bool, a "
        "string, or a function"
    )


def _ordered(name: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{name} takes two finite numbers, the lower first, got {low} and {high}")
