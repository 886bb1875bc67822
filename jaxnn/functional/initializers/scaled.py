"""Initializers scaled by the fans of a kernel, to preserve variances from layer to layer."""

from __future__ import annotations

import math
from typing import Any

from jax.typing import ArrayLike

from jaxnn.functional._checks import check_number
from jaxnn.functional.initializers._initializer import Initializer, Shape

_TRUNCATED_STDDEV = 0.87962566103423978  # the standard deviation of N(0, 1) truncated to [-2, 2]
_STDDEV = {"normal": 1.0, "truncated_normal": _TRUNCATED_STDDEV, "uniform": 1 / math.sqrt(3)}  # of z


def variance_scaling(scale: ArrayLike, mode: str, distribution: str) -> Initializer:
    """Draw with mean 0 and variance scale/n, where n is a fan, as `jax.nn.initializers.variance_scaling`.

    The truncated normal is widened to have this variance after truncation; the uniform has the bounds ±√(3 · scale/n).

    Args:
        scale: A positive number; may be traced.
        mode: The fan n: "fan_in", "fan_out" or "fan_avg", their mean.
        distribution: "normal", "truncated_normal" or "uniform".

    Returns:
        The initializer.

    Raises:
        ValueError: If an argument is not one of these; or, when called, if the shape has fewer than two axes and so no
            fans.

    Example:
        >>> variance_scaling(2.0, "fan_out", "normal").describe((3, 3, 8, 32))  # n = 3 · 3 · 32
        ('normal', 0.08333333333333333, 0.0)
    """
    text = f"variance_scaling({scale}, {mode!r}, {distribution!r})"
    return _variance_scaling(text, scale, mode, distribution)


def fan_in_uniform() -> Initializer:
    """Draw from U[−√(1/n), √(1/n)), n = fan-in: variance 1/(3n).

    The heuristic that Glorot and Bengio (2010) start from, their eq. 1, and the default of PyTorch's `Linear`. The
    teaching notes call it Xavier and recommend it for sigmoid and tanh. It is not `xavier_uniform`: libraries call
    eq. 16 of that paper Xavier, which is `glorot_uniform`.

    Returns:
        The initializer.

    Raises:
        ValueError: When called, if the shape has fewer than two axes and so no fans.

    Example:
        >>> fan_in_uniform().describe((16, 10))
        ('uniform', 0.25, 0.0)
    """
    return _variance_scaling("fan_in_uniform()", 1 / 3, "fan_in", "uniform")


def glorot_uniform() -> Initializer:
    """Draw from U[−√(6/(n_in + n_out)), √(6/(n_in + n_out))): Glorot and Bengio (2010), eq. 16. Also `xavier_uniform`.

    For sigmoid and tanh. `xavier_uniform` is this function, as in other libraries; the teaching notes call eq. 1 of the
    paper Xavier, which is `fan_in_uniform`.

    Returns:
        The initializer.

    Raises:
        ValueError: When called, if the shape has fewer than two axes and so no fans.

    Example:
        >>> glorot_uniform().describe((16, 8))
        ('uniform', 0.5, 0.0)
    """
    return _variance_scaling("glorot_uniform()", 1.0, "fan_avg", "uniform")


def glorot_normal() -> Initializer:
    """Draw from N(0, 2/(n_in + n_out)), where the second argument is the variance. Also `xavier_normal`.

    Not truncated, with the variance of Glorot and Bengio (2010), eq. 16.

    Returns:
        The initializer.

    Raises:
        ValueError: When called, if the shape has fewer than two axes and so no fans.

    Example:
        >>> glorot_normal().describe((24, 8))
        ('normal', 0.25, 0.0)
    """
    return _variance_scaling("glorot_normal()", 1.0, "fan_avg", "normal")


xavier_uniform, xavier_normal = glorot_uniform, glorot_normal


def he_normal() -> Initializer:
    """Draw from a normal with mean 0 and standard deviation √(2/n), n = fan-in: He et al. (2015). For ReLU.

    Also `kaiming_normal`; for a leaky ReLU of slope a use `variance_scaling(2 / (1 + a**2), "fan_in", "normal")`.

    Not truncated, as in the teaching notes; the `he_normal` of `jax.nn` and Keras is truncated to two standard deviations
    and widened to the same variance: `variance_scaling(2.0, "fan_in", "truncated_normal")`.

    Returns:
        The initializer.

    Raises:
        ValueError: When called, if the shape has fewer than two axes and so no fans.

    Example:
        >>> he_normal().describe((3, 3, 2, 32))  # n = 3 · 3 · 2
        ('normal', 0.3333333333333333, 0.0)
    """
    return _variance_scaling("he_normal()", 2.0, "fan_in", "normal")


def he_uniform() -> Initializer:
    """Draw from U[−√(6/n), √(6/n)), n = fan-in: the variance 2/n of `he_normal`. Also `kaiming_uniform`.

    He et al. (2015), for ReLU.

    Returns:
        The initializer.

    Raises:
        ValueError: When called, if the shape has fewer than two axes and so no fans.

    Example:
        >>> he_uniform().describe((24, 10))
        ('uniform', 0.5, 0.0)
    """
    return _variance_scaling("he_uniform()", 2.0, "fan_in", "uniform")


kaiming_uniform, kaiming_normal = he_uniform, he_normal


def lecun_normal() -> Initializer:
    """Draw from a normal with mean 0 and standard deviation √(1/n), n = fan-in: LeCun et al. (1998). Not truncated.

    Returns:
        The initializer.

    Raises:
        ValueError: When called, if the shape has fewer than two axes and so no fans.

    Example:
        >>> lecun_normal().describe((16, 10))
        ('normal', 0.25, 0.0)
    """
    return _variance_scaling("lecun_normal()", 1.0, "fan_in", "normal")


def lecun_uniform() -> Initializer:
    """Draw from U[−√(3/n), √(3/n)), n = fan-in: the variance 1/n of `lecun_normal`.

    LeCun et al. (1998), Efficient BackProp.

    Returns:
        The initializer.

    Raises:
        ValueError: When called, if the shape has fewer than two axes and so no fans.

    Example:
        >>> lecun_uniform().describe((12, 10))
        ('uniform', 0.5, 0.0)
    """
    return _variance_scaling("lecun_uniform()", 1.0, "fan_in", "uniform")


def _variance_scaling(text: str, scale: Any, mode: str, distribution: str) -> Initializer:
    check_number(text, "scale", scale, lambda scale: scale > 0, "number > 0")
    if mode not in ("fan_in", "fan_out", "fan_avg"):
        raise ValueError(f"{text}: mode is {mode!r}, expected 'fan_in', 'fan_out' or 'fan_avg'")
    if distribution not in _STDDEV:
        raise ValueError(f"{text}: distribution is {distribution!r}, expected one of {', '.join(map(repr, _STDDEV))}")

    def factor(shape: Shape) -> ArrayLike:
        fan_in, fan_out = fans(text, shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        variance = scale / max(n, 1)  # an empty array has a fan of 0
        if distribution == "uniform":
            return (3 * variance) ** 0.5
        return variance**0.5 / _STDDEV[distribution]

    return Initializer(text, distribution, factor)


def fans(text: str, shape: Shape) -> tuple[int, int]:
    """Return (fan-in, fan-out) of a kernel (…receptive field, in, out)."""
    if len(shape) < 2:
        raise ValueError(
            f"{text}: shape {tuple(shape)} has fewer than two axes, so it has no fan-in; expected a kernel "
            "(..., in, out); for a bias use zeros, constant, normal or uniform"
        )
    *field, n_in, n_out = shape
    return math.prod(field) * n_in, math.prod(field) * n_out
