"""Schedules: functions from the step to the learning rate, as used by optax.

This module has optax's schedules under their names, and adds `cyclic`, `epoch_exponential_decay` and `epoch_inverse_decay`
from the teaching notes, as well as `cosine_restarts` and `inverse_sqrt_decay`. The notes' linear decay, from η₀ to η_end
over T steps and then constant, is `linear_schedule(η₀, η_end, T)`.

The step counts optimizer updates from 0. Numbers may be traced and are then not checked; the number of steps per epoch may
not be traced. Names in other libraries: one-cycle is `cosine_onecycle_schedule`, step decay `exponential_decay(…,
staircase=True)`, decay at given steps `piecewise_constant_schedule`; `join_schedules` adds a warm-up to any schedule. To
lower the rate when a loss stops improving, use the callback `callbacks.reduce_on_plateau`.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from optax.schedules import (
    constant_schedule,
    cosine_decay_schedule,
    cosine_onecycle_schedule,
    exponential_decay,
    join_schedules,
    linear_onecycle_schedule,
    linear_schedule,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
    polynomial_schedule,
    sgdr_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
)

from jaxnn.core.foreign_names import no_attribute
from jaxnn.functional._checks import known

__all__ = [
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "cosine_restarts",
    "cyclic",
    "epoch_exponential_decay",
    "epoch_inverse_decay",
    "exponential_decay",
    "inverse_sqrt_decay",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "sgdr_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
]

Schedule = Callable[[ArrayLike], jax.Array]

_MODES = ("triangular", "triangular2", "exp_range")


def cyclic(
    base: ArrayLike,
    maximum: ArrayLike,
    half_cycle: ArrayLike,
    *,
    mode: str = "triangular",
    gamma: ArrayLike | None = None,
) -> Schedule:
    """Vary the learning rate cyclically between two bounds, piecewise linearly: Smith (2017).

    At step t, with s = `half_cycle`: c = ⌊1 + t/(2s)⌋, x = ∣t/s − 2c + 1∣,
    η = base + (maximum − base) · max(0, 1 − x) · a. The amplitude a is 1 ("triangular"), 1/2^(c−1) ("triangular2", halved
    after each cycle) or γᵗ ("exp_range").

    Args:
        base: Learning rate at the ends of a cycle.
        maximum: Learning rate in the middle of the first cycle (times γˢ for "exp_range"), at least `base`.
        half_cycle: Number of steps s > 0 from base to maximum; Smith recommends 2 to 10 epochs.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: Factor γ in (0, 1], required for "exp_range" and only used there; 0.99994 in Smith's experiments.

    Returns:
        The schedule, a function from a step, an integer or an array of integers, to η.

    Raises:
        ValueError: If a number is out of range, the mode is unknown, or `gamma` is missing or does not belong to the mode.

    Example:
        >>> schedule = cyclic(0.0, 1.0, 4)
        >>> [schedule(step).item() for step in (0, 1, 4, 6, 8)]
        [0.0, 0.25, 1.0, 0.5, 0.0]
    """
    if mode not in _MODES:
        raise ValueError(f"cyclic: mode is {mode!r}, expected one of {', '.join(map(repr, _MODES))}")
    if (gamma is not None) != (mode == "exp_range"):
        raise ValueError(f"cyclic: mode is {mode!r} and gamma {gamma}; expected gamma if and only if mode is 'exp_range'")
    _check("cyclic", "half_cycle", half_cycle, lambda half_cycle: half_cycle > 0, "> 0")
    _check("cyclic", "maximum", maximum, lambda high: known(base) is None or high >= known(base), f">= base, {base}")
    if gamma is not None:
        _check("cyclic", "gamma", gamma, lambda gamma: 0 < gamma <= 1, "in (0, 1]")

    def schedule(step: ArrayLike) -> jax.Array:
        low, high, s = _float(base), _float(maximum), _float(half_cycle)
        t = jnp.asarray(step)
        # Integer arithmetic if half_cycle is an integer, since t/s − 2c + 1 is inaccurate in float32 for large t.
        t, period = (t, 2 * int(half_cycle)) if isinstance(half_cycle, int | np.integer) else (_float(t), 2 * s)
        cycles_before = t // period  # c − 1
        x = jnp.abs(_float(t - cycles_before * period) / s - 1)
        amplitude: Any = 1.0
        if mode == "triangular2":
            amplitude = _float(0.5) ** _float(cycles_before)
        elif mode == "exp_range":
            amplitude = jnp.exp(_float(step) * _log(gamma))  # γᵗ in float32 has t times the rounding error of γ
        return low + (high - low) * jnp.maximum(0, 1 - x) * amplitude

    return schedule


def epoch_exponential_decay(init_value: ArrayLike, decay_rate: ArrayLike, steps_per_epoch: int) -> Schedule:
    """Multiply the learning rate by a factor after each epoch: η₀ · γ^epoch, with epoch = ⌊step/steps_per_epoch⌋.

    One of the two per-epoch decays of the teaching notes; Keras's `ExponentialDecay(staircase=True)`.

    Args:
        init_value: Learning rate η₀ of the first epoch.
        decay_rate: Factor γ > 0.
        steps_per_epoch: Number of updates per epoch, ⌈samples/batch size⌉.

    Returns:
        The schedule, a function from a step to η.

    Raises:
        ValueError: If γ is not positive, or steps_per_epoch is not a positive integer.

    Example:
        >>> schedule = epoch_exponential_decay(1.0, 0.5, 10)
        >>> [schedule(step).item() for step in (0, 9, 10, 20)]
        [1.0, 1.0, 0.5, 0.25]
    """
    _check("epoch_exponential_decay", "decay_rate", decay_rate, lambda rate: rate > 0, "> 0")
    epoch = _epoch("epoch_exponential_decay", steps_per_epoch)
    return lambda step: _float(init_value) * _float(decay_rate) ** epoch(step)


def epoch_inverse_decay(init_value: ArrayLike, decay_rate: ArrayLike, steps_per_epoch: int) -> Schedule:
    """Divide the initial learning rate by 1 + k · epoch: η₀/(1 + k · epoch), with epoch = ⌊step/steps_per_epoch⌋.

    The other per-epoch decay of the teaching notes; Keras's `InverseTimeDecay(staircase=True)`.

    Args:
        init_value: Learning rate η₀ of the first epoch.
        decay_rate: Decay rate k ≥ 0.
        steps_per_epoch: Number of updates per epoch, ⌈samples/batch size⌉.

    Returns:
        The schedule, a function from a step to η.

    Raises:
        ValueError: If k is negative, or steps_per_epoch is not a positive integer.

    Example:
        >>> schedule = epoch_inverse_decay(1.0, 1.0, 10)
        >>> [schedule(step).item() for step in (0, 9, 10, 30)]
        [1.0, 1.0, 0.5, 0.25]
    """
    _check("epoch_inverse_decay", "decay_rate", decay_rate, lambda rate: rate >= 0, ">= 0")
    epoch = _epoch("epoch_inverse_decay", steps_per_epoch)
    return lambda step: _float(init_value) / (1 + _float(decay_rate) * epoch(step))


def cosine_restarts(
    init_value: ArrayLike,
    first_steps: ArrayLike,
    *,
    growth: int = 1,
    decay_rate: ArrayLike = 1.0,
    end_value: ArrayLike = 0.0,
) -> Schedule:
    """Cosine decay with warm restarts: Loshchilov and Hutter (2017), SGDR.

    At step t of cycle i, which has T·gⁱ steps: η = η_end + ½ (η₀ · mⁱ − η_end)(1 + cos(π t/(T gⁱ))). PyTorch's
    `CosineAnnealingWarmRestarts` has m = 1, Keras's `CosineDecayRestarts` g = 2. For individually specified cycles with
    warm-up use optax's `sgdr_schedule`.

    Args:
        init_value: Learning rate η₀ at the start of the first cycle.
        first_steps: Number of steps T > 0 of the first cycle.
        growth: Integer g ≥ 1, the ratio of the lengths of successive cycles.
        decay_rate: Factor m in (0, 1] on the initial rate of each successive cycle.
        end_value: Learning rate η_end that each cycle approaches.

    Returns:
        The schedule, a function from a step to η.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> schedule = cosine_restarts(1.0, 2, growth=2)
        >>> [round(schedule(step).item(), 4) for step in range(7)]
        [1.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 1.0]
    """
    _check("cosine_restarts", "first_steps", first_steps, lambda steps: steps > 0, "> 0")
    _check("cosine_restarts", "decay_rate", decay_rate, lambda rate: 0 < rate <= 1, "in (0, 1]")
    growth = _positive_integer("cosine_restarts", "growth", growth)

    lengths = np.array([growth**i for i in range(1 if growth == 1 else math.ceil(31 / math.log2(growth)))], float)
    starts = np.cumsum(lengths) - lengths  # of the cycles up to step 2³¹, in units of T

    def schedule(step: ArrayLike) -> jax.Array:
        t, end = _float(step) / _float(first_steps), _float(end_value)
        if growth == 1:
            cycle, fraction = jnp.floor(t), t % 1
        else:
            i = jnp.searchsorted(_float(starts), t, side="right") - 1
            cycle, fraction = _float(i), (t - _float(starts)[i]) / _float(lengths)[i]
        amplitude = _float(init_value) * _float(decay_rate) ** cycle - end
        return end + 0.5 * amplitude * (1 + jnp.cos(jnp.pi * fraction))

    return schedule


def inverse_sqrt_decay(peak_value: ArrayLike, warmup_steps: ArrayLike) -> Schedule:
    """Linear warm-up followed by decay with the inverse square root of the step: η · min((t + 1)/w, √(w/(t + 1))).

    Vaswani et al. (2017), eq. 3, whose η is 1/√(d w) for a model of width d; steps are counted from 1 there.

    Args:
        peak_value: Peak η, reached at step w − 1.
        warmup_steps: Number of warm-up steps w > 0.

    Returns:
        The schedule, a function from a step to the learning rate.

    Raises:
        ValueError: If w is not positive.

    Example:
        >>> schedule = inverse_sqrt_decay(1.0, 4)
        >>> [schedule(step).item() for step in (0, 3, 15)]
        [0.25, 1.0, 0.5]
    """
    _check("inverse_sqrt_decay", "warmup_steps", warmup_steps, lambda steps: steps > 0, "> 0")

    def schedule(step: ArrayLike) -> jax.Array:
        ratio = _float(jnp.asarray(step) + 1) / _float(warmup_steps)
        return _float(peak_value) * jnp.minimum(ratio, jax.lax.rsqrt(ratio))

    return schedule


def _epoch(caller: str, steps_per_epoch: int) -> Schedule:
    """Return the function from a step to its epoch, as a float."""
    steps = _positive_integer(caller, "steps_per_epoch", steps_per_epoch)
    return lambda step: _float(jnp.asarray(step) // steps)


def _positive_integer(caller: str, name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{caller}: {name} is {value!r}, expected a positive integer")
    return number


def _float(x: ArrayLike) -> jax.Array:
    """Return `x` as the default float: float32, or float64 where that is enabled."""
    return jnp.asarray(x).astype(float)


def _log(x: Any) -> jax.Array:
    """Return log x, computed in float64 if the value of x is known, and then rounded to float32."""
    value = known(x)
    return jnp.log(_float(x)) if value is None else _float(np.log(value.astype(np.float64)))


def _check(caller: str, name: str, value: Any, allowed: Callable[[Any], bool], expected: str) -> None:
    """Raise a ValueError unless `value` is allowed; the value of a tracer is not checked."""
    number = known(value)
    if number is not None and not allowed(number):
        raise ValueError(f"{caller}: {name} is {value}, expected {expected}")


def __getattr__(name: str):
    raise no_attribute("nn.schedules", name, __all__)
