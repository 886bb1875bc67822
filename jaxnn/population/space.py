"""Spaces of hyperparameters: grids, tables and random draws, each turned into a list of settings, which are dicts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxnn.core.checks import check_key, whole
from jaxnn.core.text import listed
from jaxnn.problem.hyperparameters import plain

Setting = dict[str, Any]


@dataclass(frozen=True)
class Distribution:
    """The distribution of a hyperparameter, as a quantile function.

    Attributes:
        at: The quantile function: `at(u)` is the value at `u` in [0, 1).
        text: The expression that creates it; its `repr`.

    Example:
        >>> Distribution(lambda u: u**2, "squares").at(0.5)
        0.25
    """

    at: Any
    text: str

    def __repr__(self) -> str:
        return self.text


def uniform(low: float, high: float) -> Distribution:
    """A float that is uniform between `low` and `high`.

    Args:
        low: The lower bound.
        high: The upper bound.

    Returns:
        The `Distribution`.

    Raises:
        ValueError: If the bounds are not finite, or `low` is greater than `high`.

    Example:
        >>> uniform(0.0, 0.5).at(0.5)
        0.25
    """
    _ordered("uniform", low, high)
    return Distribution(lambda u: float(low + u * (high - low)), f"uniform({low}, {high})")


def log_uniform(low: float, high: float) -> Distribution:
    """A float whose logarithm is uniform, between `low` and `high`; for learning rates and other scales.

    Args:
        low: The lower bound, above 0.
        high: The upper bound.

    Returns:
        The `Distribution`.

    Raises:
        ValueError: If the bounds are not finite and positive, or `low` is greater than `high`.

    Example:
        >>> round(log_uniform(1e-4, 1e-2).at(0.5), 6)
        0.001
    """
    _ordered("log_uniform", low, high)
    if low <= 0:
        raise ValueError(f"log_uniform takes positive bounds, got {low} and {high}")
    return Distribution(lambda u: float(math.exp(math.log(low) + u * math.log(high / low))), f"log_uniform({low}, {high})")


def integers(low: int, high: int) -> Distribution:
    """A uniform integer from `low` to `high`, both included. It is structural, so each value needs a separate program.

    Args:
        low: The smallest integer.
        high: The largest integer.

    Returns:
        The `Distribution`.

    Raises:
        TypeError: If the bounds are not integers.
        ValueError: If `low` is greater than `high`.

    Example:
        >>> integers(1, 4).at(0.5)
        3
    """
    low, high = whole("integers", "low", low, -(2**31)), whole("integers", "high", high, -(2**31))
    _ordered("integers", low, high)
    return Distribution(lambda u: low + int(u * (high - low + 1)), f"integers({low}, {high})")


def choice(*values: Any) -> Distribution:
    """A uniform choice of one of the values.

    Args:
        *values: The values; floats are traced, all others are structural.

    Returns:
        The `Distribution`.

    Raises:
        ValueError: If there are no values.

    Example:
        >>> choice("relu", "tanh").at(0.9)
        'tanh'
    """
    if not values:
        raise ValueError("choice takes at least one value")
    return Distribution(lambda u: values[int(u * len(values))], f"choice{values}")


def grid(space: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """All combinations of the values; those of the last name change fastest.

    Args:
        space: A sequence of values for each name.

    Returns:
        A dict for each combination.

    Raises:
        TypeError: If the values of a name are not a sequence.
        ValueError: If a name has no values, or the same value twice.

    Example:
        >>> grid({"learning_rate": [0.1, 0.01], "dropout": [0.0]})
        [{'learning_rate': 0.1, 'dropout': 0.0}, {'learning_rate': 0.01, 'dropout': 0.0}]
    """
    for name, values in space.items():
        if isinstance(values, Distribution):
            raise TypeError(
                f"{name!r} is a distribution, {values}, but a grid takes values: draw settings with "
                "nn.population.random(space, n, key) or nn.population.sobol(space, n)"
            )
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"the values of {name!r} are expected as a sequence, got {values!r}: write [{values!r}]")
    columns = {name: [plain(name, value) for value in values] for name, values in space.items()}
    if empty := [name for name, values in columns.items() if not values]:
        raise ValueError(f"there is no value for {listed(map(repr, empty))}, so the grid is empty: give at least one value")
    for name, values in columns.items():
        kinds = [(isinstance(value, bool), value) for value in values]  # True equals 1
        if twice := [value for i, (_, value) in enumerate(kinds) if kinds[i] in kinds[:i]]:
            raise ValueError(f"{name!r} has the value {twice[0]!r} twice: to train a setting several times, use seeds")
    return [dict(zip(columns, values, strict=True)) for values in itertools.product(*columns.values())]


def random(space: Mapping[str, Any], n: int, key: jax.Array) -> list[Setting]:
    """Draw settings independently (Bergstra & Bengio 2012).

    Args:
        space: A distribution (`uniform`, `log_uniform`, `integers`, `choice`) or a sequence of values for each name.
        n: The number of settings.
        key: The key to draw with.

    Returns:
        A dict for each setting.

    Raises:
        TypeError: If `key` is not a key, `n` is not an integer, or a value's type is not one of a hyperparameter.
        ValueError: If `n` is below 1, or a sequence of values is empty.

    Example:
        >>> import jax
        >>> [setting] = random({"learning_rate": log_uniform(1e-4, 1e-1), "units": [32, 64]}, 1, jax.random.key(0))
        >>> 1e-4 <= setting["learning_rate"] <= 1e-1 and setting["units"] in (32, 64)
        True
    """
    shape = (whole("random", "n", n), len(space))
    return _at(space, np.asarray(jax.random.uniform(check_key(key), shape), np.float64))


def sobol(space: Mapping[str, Any], n: int, seed: int = 0) -> list[Setting]:
    """Spread settings evenly over the space by a scrambled Sobol sequence (Owen 1998).

    Args:
        space: As in `random`.
        n: The number of settings; powers of two are covered most evenly.
        seed: The seed of the scrambling.

    Returns:
        A dict for each setting.

    Raises:
        TypeError: If `n` is not an integer, or a value's type is not one of a hyperparameter.
        ValueError: If `n` is below 1, or a sequence of values is empty.

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
    """The settings of a grid or a table, which is a list of dicts with the same names or a pandas data frame.

    Raises:
        TypeError: If the space is neither.
        ValueError: If the space is empty, or a setting has other names than the first one.
    """
    if isinstance(space, Mapping):
        return grid(space)
    if hasattr(space, "to_dict"):  # a pandas data frame
        space = space.to_dict("records")
    if isinstance(space, str) or not isinstance(space, Iterable):
        raise TypeError(
            "a space is expected as a grid, which is a dict of lists, or as a list of dicts, one per setting; "
            f"got {type(space).__name__}"
        )
    settings = list(space)
    if not settings:
        raise ValueError("the space is empty: give at least one setting, or {} to train several seeds of one model")
    for i, setting in enumerate(settings):
        if not isinstance(setting, Mapping):
            raise TypeError(f"setting {i} is {setting!r}, expected a dict of hyperparameters by name")
        if list(setting) != list(settings[0]):
            raise ValueError(
                f"setting {i} has the names {listed(setting)}, and the first one has {listed(settings[0])}: use the same "
                "names in the same order in all settings"
            )
    return [{name: plain(name, value) for name, value in setting.items()} for setting in settings]


def _at(space: Mapping[str, Any], points: np.ndarray) -> list[Setting]:
    """The setting at each point of the unit cube."""
    distributions = {name: d if isinstance(d, Distribution) else choice(*d) for name, d in space.items()}
    points = np.clip(points, 0.0, np.nextafter(1.0, 0.0))
    return [{name: plain(name, d.at(u)) for (name, d), u in zip(distributions.items(), point, strict=True)} for point in points]


def _ordered(name: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{name} takes two finite bounds, the lower one first; got {low} and {high}")
