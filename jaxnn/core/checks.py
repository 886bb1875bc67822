"""Checks of a layer's options, made when the layer is: the earliest place where a mistake can be named."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def whole(layer: str, option: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if it is below `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{layer} takes {option} as a whole number, got {value!r}")
    if value < minimum:
        raise ValueError(f"{layer} takes {option} of at least {minimum}, got {value}")
    return int(value)


def fraction(layer: str, option: str, value: Any) -> Any:
    """`value` itself, a number in [0, 1) as far as is known: a traced one is taken as it is.

    Raises:
        ValueError: if it lies outside.
    """
    if not isinstance(value, jax.Array) and not 0 <= value < 1:
        raise ValueError(f"{layer} takes {option} in [0, 1), got {value}")
    return value
