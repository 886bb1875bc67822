"""Schedules: functions from the step to the learning rate, as used by optax.

This module has optax's schedules under their names, and adds `cyclic`, `epoch_exponential_decay` and `epoch_inverse_decay`
from the teaching notes, as well as `cosine_restarts` and `inverse_sqrt_decay`. The notes' linear decay, from η₀ to η_end
over T steps and then constant, is `linear_schedule(η₀, η_end, T)`.

The step counts optimizer updates from 0. Numbers may be traced and are then not checked; the number of steps per epoch may
not be traced. Names in other libraries: one-cycle is `cosine_onecycle_schedule`, step decay `exponential_decay(…,
staircase=True)`, decay at given steps `piecewise_constant_schedule`; `join_schedules` adds a warm-up to any schedule. To
lower the rate when a loss stops improving, use the callback `callbacks.reduce_on_plateau`.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax.schedules
from jax.typing import ArrayLike
from optax.schedules import constant_schedule, piecewise_constant_schedule, piecewise_interpolate_schedule

from jaxnn.core.foreign_names import no_attribute
from jaxnn.functional._checks import known, representable

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

_POSITIVE = (lambda number: number > 0, "> 0")
_NONNEGATIVE = (lambda number: number >= 0, ">= 0")
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
    number = known(half_cycle)
    period = 2 * half_cycle if number is None else 2 * number.item()

    def schedule(step: ArrayLike) -> jax.Array:
        low, high, s = _float(base), _float(maximum), _float(half_cycle)
        cycles_before, t = _divided(step, period)  # c − 1
        x = jnp.abs(_float(t) / s - 1)
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
    lengths, starts = [1], [0]  # of the cycles up to step 2³¹, in units of T
    while growth > 1 and starts[-1] + lengths[-1] < 2**31:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * growth)

    def schedule(step: ArrayLike) -> jax.Array:
        end = _float(end_value)
        cycle, t = _divided(step, first_steps)
        fraction = _float(t) / _float(first_steps)
        if growth > 1:
            i = jnp.searchsorted(jnp.asarray(starts, cycle.dtype), cycle, side="right") - 1
            fraction = (_float(cycle - jnp.asarray(starts, cycle.dtype)[i]) + fraction) / jnp.asarray(lengths, float)[i]
            cycle = i
        amplitude = _float(init_value) * _float(decay_rate) ** _float(cycle) - end
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
        ratio = (_float(step) + 1) / _float(warmup_steps)
        return _float(peak_value) * jnp.minimum(ratio, jax.lax.rsqrt(ratio))

    return schedule


def exponential_decay(
    init_value: ArrayLike,
    transition_steps: int,
    decay_rate: ArrayLike,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: ArrayLike | None = None,
) -> Schedule:
    """Exponential decay: η₀ · γ^((t − t₀)/T) after step t₀, as optax's; with `staircase` the exponent is rounded down.

    Args:
        init_value: Learning rate η₀ up to step t₀.
        transition_steps: Number of steps T > 0 in which the rate is multiplied by γ.
        decay_rate: Factor γ > 0.
        transition_begin: Step t₀ ≥ 0.
        staircase: Whether to decay at whole multiples of T only.
        end_value: Bound of the rate, the smallest for γ < 1, else the largest; None for no bound.

    Returns:
        The schedule, a function from a step to the learning rate.

    Raises:
        ValueError: If T or γ is not positive, or t₀ is negative.

    Example:
        >>> schedule = exponential_decay(1.0, 10, 0.5, staircase=True)
        >>> [schedule(step).item() for step in (0, 9, 10, 20)]
        [1.0, 1.0, 0.5, 0.25]
    """
    _check("exponential_decay", "transition_steps", transition_steps, *_POSITIVE)
    _check("exponential_decay", "decay_rate", decay_rate, *_POSITIVE)
    _check("exponential_decay", "transition_begin", transition_begin, *_NONNEGATIVE)
    if not staircase:
        return optax.schedules.exponential_decay(
            init_value, transition_steps, decay_rate, transition_begin, end_value=end_value
        )
    # optax rounds a quotient of floats down, which a compiled program may have rounded below a whole number.
    decay = optax.schedules.exponential_decay(init_value, 1, decay_rate, end_value=end_value)
    return lambda step: decay(_float(_divided(jnp.maximum(_wide(step) - transition_begin, 0), transition_steps)[0]))


def warmup_constant_schedule(init_value: ArrayLike, peak_value: ArrayLike, warmup_steps: int) -> Schedule:
    """Linear warm-up and then a constant rate, as optax's: η₀ + (η − η₀) · min(1, t/w); for w = 0 it is η at once.

    Args:
        init_value: Learning rate at step 0.
        peak_value: Learning rate from step `warmup_steps` on.
        warmup_steps: Number of warm-up steps, at least 0.

    Returns:
        The schedule, a function from a step to the learning rate.

    Raises:
        ValueError: If the number of steps is negative.

    Example:
        >>> schedule = warmup_constant_schedule(0.0, 1.0, 4)
        >>> [float(schedule(step)) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """
    _check("warmup_constant_schedule", "warmup_steps", warmup_steps, *_NONNEGATIVE)
    if known(warmup_steps) == 0:
        return constant_schedule(peak_value)
    return optax.schedules.warmup_constant_schedule(init_value, peak_value, warmup_steps)


def warmup_exponential_decay_schedule(
    init_value: ArrayLike,
    peak_value: ArrayLike,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: ArrayLike,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: ArrayLike | None = None,
) -> Schedule:
    """Linear warm-up in w steps to a peak η, followed by η · γ^((t − w)/T), that is `exponential_decay`; as optax's.

    Args:
        init_value: Learning rate at step 0.
        peak_value: Learning rate at step `warmup_steps`.
        warmup_steps: Number of warm-up steps, at least 0.
        transition_steps: As in `exponential_decay`.
        decay_rate: As in `exponential_decay`.
        transition_begin: As in `exponential_decay`.
        staircase: As in `exponential_decay`.
        end_value: As in `exponential_decay`.

    Returns:
        The schedule, a function from a step to the learning rate.

    Raises:
        ValueError: As for `exponential_decay`, or if the number of warm-up steps is negative.

    Example:
        >>> schedule = warmup_exponential_decay_schedule(0.0, 1.0, 2, 10, 0.5, staircase=True)
        >>> [float(schedule(step)) for step in (0, 1, 2, 11, 12)]
        [0.0, 0.5, 1.0, 1.0, 0.5]
    """
    warmup = warmup_constant_schedule(init_value, peak_value, warmup_steps)
    decay = exponential_decay(peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    return join_schedules([warmup, decay], [warmup_steps])


def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """Apply several schedules one after the other: η(t) = ηₖ(t − bₖ) from the boundary bₖ on; as optax's.

    Args:
        schedules: The schedules.
        boundaries: The first steps of all schedules but the first, in ascending order.

    Returns:
        The schedule, a function from a step to the learning rate.

    Raises:
        ValueError: If the number of boundaries is not that of the schedules less one, or they do not ascend from 0.

    Example:
        >>> schedule = join_schedules([constant_schedule(1.0), constant_schedule(0.1)], [10])
        >>> [round(float(schedule(step)), 4) for step in (9, 10)]
        [1.0, 0.1]
    """
    if len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"join_schedules: {len(schedules)} schedules and {len(boundaries)} boundaries, expected one boundary less"
        )
    values = [known(boundary) for boundary in boundaries]
    ascending = [number for number in (0, *values) if number is not None]
    if any(later < earlier for earlier, later in itertools.pairwise(ascending)):
        raise ValueError(f"join_schedules: boundaries are {list(boundaries)}, expected ascending steps >= 0")
    return optax.schedules.join_schedules(schedules, boundaries)


def sgdr_schedule(cosine_kwargs: Iterable[dict[str, Any]]) -> Schedule:
    """Cosine decay with warm restarts and warm-ups: η(t) = ηₖ(t − bₖ) in the cycle k that begins at step bₖ; as optax's.

    Args:
        cosine_kwargs: The arguments of `warmup_cosine_decay_schedule` for each cycle.

    Returns:
        The schedule, a function from a step to the learning rate.

    Raises:
        ValueError: As for `warmup_cosine_decay_schedule`, or if there are no cycles.

    Example:
        >>> cycle = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 4}
        >>> schedule = sgdr_schedule([cycle, cycle])
        >>> [round(float(schedule(step)), 4) for step in range(6)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    """
    cycles = list(cosine_kwargs)
    if not cycles:
        raise ValueError("sgdr_schedule: cosine_kwargs has no cycles, expected at least one")
    ends = np.cumsum([cycle["decay_steps"] for cycle in cycles]).tolist()
    return join_schedules([warmup_cosine_decay_schedule(**cycle) for cycle in cycles], ends[:-1])


def _checked(schedule: Callable[..., Any], **checks: tuple[Callable[[Any], bool], str]) -> Callable[..., Schedule]:
    """Return optax's schedule, which also refuses the numbers for which it would return something else, such as a constant."""
    signature = inspect.signature(schedule)

    @functools.wraps(schedule)
    def checked(*args: Any, **kwargs: Any) -> Schedule:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, (allowed, expected) in checks.items():
            _check(schedule.__name__, name, bound.arguments[name], allowed, expected)
        if schedule.__name__.endswith("onecycle_schedule"):
            _check_cycle(schedule.__name__, **bound.arguments)
        return schedule(*args, **kwargs)

    return checked


def _check_cycle(caller: str, transition_steps: int, pct_start: float, pct_final: float | None = None, **options: Any) -> None:
    """Raise a ValueError unless the parts of a cycle end at different steps: of equal ones, optax keeps the last only."""
    shares = [pct_start] if pct_final is None else [pct_start, pct_final]
    ends = [int(share * transition_steps) for share in shares] + [transition_steps]
    if any(later <= earlier for earlier, later in itertools.pairwise([-1, *ends])):
        raise ValueError(
            f"{caller}: of {transition_steps} steps the parts end at steps {ends}, expected ascending numbers; "
            "pass more steps, or other shares pct_start and pct_final"
        )


polynomial_schedule = _checked(
    optax.schedules.polynomial_schedule, transition_steps=_POSITIVE, transition_begin=_NONNEGATIVE, power=_POSITIVE
)
linear_schedule = _checked(optax.schedules.linear_schedule, transition_steps=_POSITIVE, transition_begin=_NONNEGATIVE)
cosine_decay_schedule = _checked(optax.schedules.cosine_decay_schedule, decay_steps=_POSITIVE, exponent=_NONNEGATIVE)
cosine_onecycle_schedule = _checked(
    optax.schedules.cosine_onecycle_schedule, transition_steps=_POSITIVE, div_factor=_POSITIVE, final_div_factor=_POSITIVE
)
linear_onecycle_schedule = _checked(
    optax.schedules.linear_onecycle_schedule, transition_steps=_POSITIVE, div_factor=_POSITIVE, final_div_factor=_POSITIVE
)
warmup_cosine_decay_schedule = _checked(
    optax.schedules.warmup_cosine_decay_schedule, warmup_steps=_NONNEGATIVE, decay_steps=_POSITIVE, exponent=_NONNEGATIVE
)


def _divided(step: ArrayLike, length: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Return ⌊t/T⌋ and t mod T, in whole numbers if both are: a quotient of floats may be rounded to a whole number."""
    t, number = _wide(step), known(length)
    if number is not None and number == np.floor(number):
        length = min(int(number), jnp.iinfo(jax.dtypes.canonicalize_dtype(int)).max)
    if jnp.issubdtype(t.dtype, jnp.integer) and jnp.issubdtype(jnp.asarray(length).dtype, jnp.integer):
        period = jnp.asarray(length, t.dtype)
        return t // period, t % period
    t, period = _float(t), _float(length)
    quotient = jnp.floor(t / period)
    rest = t - quotient * period
    off = jnp.where(rest < 0, -1.0, jnp.where(rest >= period, 1.0, 0.0)).astype(t.dtype)
    return quotient + off, rest - off * period


def _wide(step: ArrayLike) -> jax.Array:
    """Return the step, a whole number in the default integer: a narrow type may not hold a length."""
    step = jnp.asarray(step)
    return step.astype(int) if jnp.issubdtype(step.dtype, jnp.integer) else step


def _epoch(caller: str, steps_per_epoch: int) -> Schedule:
    """Return the function from a step to its epoch, as a float."""
    steps = _positive_integer(caller, "steps_per_epoch", steps_per_epoch)
    return lambda step: _float(_divided(step, steps)[0])


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
    return jnp.asarray(x, float)  # a Python int may be too large for the default integer


def _log(x: Any) -> jax.Array:
    """Return log x, computed in float64 if the value of x is known, and then rounded to float32."""
    value = known(x)
    return jnp.log(_float(x)) if value is None else _float(np.log(value.astype(np.float64)))


def _check(caller: str, name: str, value: Any, allowed: Callable[[Any], bool], expected: str) -> None:
    """Raise a ValueError unless `value` is finite and allowed; the value of a tracer is not checked."""
    number = known(value)
    if number is not None and not (allowed(number) and representable(number, allowed)):
        raise ValueError(f"{caller}: {name} is {value}, expected {expected}")


def __getattr__(name: str):
    raise no_attribute("nn.schedules", name, __all__)
