"""Tests of the schedules against formulas in float64 NumPy, PyTorch, and as learning rates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn.functional import schedules
from jaxnn.functional.schedules import (
    cosine_restarts,
    cyclic,
    epoch_exponential_decay,
    epoch_inverse_decay,
    inverse_sqrt_decay,
    linear_schedule,
)

STEPS = np.arange(101)


def np_cyclic(t, base, maximum, s, mode="triangular", gamma=None):
    c = np.floor(1 + t / (2 * s))
    x = np.abs(t / s - 2 * c + 1)
    amplitude = {"triangular": 1.0, "triangular2": np.exp2(1 - c), "exp_range": (gamma or 1.0) ** t}[mode]
    return base + (maximum - base) * np.maximum(0, 1 - x) * amplitude


def np_restarts(t, high, steps, growth, decay=1.0, low=0.0):
    values = []
    for step in t:
        length, peak = steps, high
        while step >= length:
            step, length, peak = step - length, length * growth, peak * decay
        values.append(low + (peak - low) * (1 + np.cos(np.pi * step / length)) / 2)
    return np.array(values)


CASES = {
    "restarts": (cosine_restarts(0.1, 7, end_value=0.01), np_restarts(STEPS, 0.1, 7, 1, low=0.01)),
    "growing restarts": (
        cosine_restarts(0.1, 3, growth=2, decay_rate=0.8, end_value=0.01),
        np_restarts(STEPS, 0.1, 3, 2, 0.8, 0.01),
    ),
    "inverse root": (inverse_sqrt_decay(0.1, 12), 0.1 * np.minimum((STEPS + 1) / 12, np.sqrt(12 / (STEPS + 1)))),
    "triangular": (cyclic(0.001, 0.006, 10), np_cyclic(STEPS, 0.001, 0.006, 10)),
    "half a step": (cyclic(0.001, 0.006, 2.5), np_cyclic(STEPS, 0.001, 0.006, 2.5)),
    "triangular2": (cyclic(0.0, 1.0, 7, mode="triangular2"), np_cyclic(STEPS, 0.0, 1.0, 7, "triangular2")),
    "exp_range": (
        cyclic(0.1, 1.0, 7, mode="exp_range", gamma=0.99),
        np_cyclic(STEPS, 0.1, 1.0, 7, "exp_range", 0.99),
    ),
    "exponential": (epoch_exponential_decay(0.1, 0.9, 12), 0.1 * 0.9 ** (STEPS // 12)),
    "inverse": (epoch_inverse_decay(0.1, 0.5, 12), 0.1 / (1 + 0.5 * (STEPS // 12))),
    "linear": (linear_schedule(0.1, 0.01, 40), 0.1 + (0.01 - 0.1) * np.minimum(STEPS / 40, 1)),
}
each = pytest.mark.parametrize("name", CASES)


@pytest.mark.sample(4)
@each
def test_formula_in_float64(name, x64):
    schedule, expected = CASES[name]
    np.testing.assert_allclose(schedule(jnp.asarray(STEPS)), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.sample(4)
@each
def test_formula_in_float32_and_traced(name):
    schedule, expected = CASES[name]
    steps = jnp.asarray(STEPS, jnp.int32)
    values = jax.jit(jax.vmap(schedule))(steps)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(schedule(steps), expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(schedule(17), expected[17], rtol=1e-5)


@each
def test_as_a_learning_rate(name):
    schedule, expected = CASES[name]
    optimizer = optax.sgd(schedule)
    for dtype in (jnp.float32, jnp.bfloat16):

        @jax.jit
        def run(params):
            def step(carry, _):
                params, state = carry
                updates, state = optimizer.update(jnp.ones_like(params), state)
                return (optax.apply_updates(params, updates), state), updates

            return jax.lax.scan(step, (params, optimizer.init(params)), length=20)[1]

        updates = run(jnp.zeros((), dtype)).astype(jnp.float32)
        np.testing.assert_allclose(-updates, expected[:20], rtol=1e-5 if dtype == jnp.float32 else 1e-2, atol=1e-8)


def test_landmarks():
    schedule = cyclic(0.1, 0.5, 4)
    np.testing.assert_allclose([schedule(t) for t in (0, 4, 8, 12)], [0.1, 0.5, 0.1, 0.5], rtol=1e-6)
    assert epoch_exponential_decay(0.3, 0.5, 5)(4) == jnp.float32(0.3)
    assert epoch_inverse_decay(0.3, 0.5, 5)(4) == jnp.float32(0.3)


def test_late_steps_are_accurate():
    t = 10_000_003
    np.testing.assert_allclose(cyclic(0.0, 1.0, 1000)(t), np_cyclic(t, 0.0, 1.0, 1000), atol=1e-7)
    late = cyclic(0.0, 1.0, 1000, mode="exp_range", gamma=0.99999)(1_001_000)
    np.testing.assert_allclose(late, 0.99999**1_001_000, rtol=1e-5)


def torch_rates(make, steps=60):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule, rates = make(torch.optim.lr_scheduler, optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


TORCH_CASES = {
    "restarts": (
        cosine_restarts(0.3, 4, growth=3, end_value=0.01),
        lambda lr, o: lr.CosineAnnealingWarmRestarts(o, 4, 3, eta_min=0.01),
    ),
    "restarts of equal length": (cosine_restarts(0.3, 5), lambda lr, o: lr.CosineAnnealingWarmRestarts(o, 5)),
    "triangular2": (
        cyclic(0.1, 0.5, 6, mode="triangular2"),
        lambda lr, o: lr.CyclicLR(o, 0.1, 0.5, 6, mode="triangular2", cycle_momentum=False),
    ),
    "exp_range": (
        cyclic(0.1, 0.5, 6, mode="exp_range", gamma=0.97),
        lambda lr, o: lr.CyclicLR(o, 0.1, 0.5, 6, mode="exp_range", gamma=0.97, cycle_momentum=False),
    ),
    "exponential": (epoch_exponential_decay(0.3, 0.9, 1), lambda lr, o: lr.ExponentialLR(o, 0.9)),
    "steps": (epoch_exponential_decay(0.3, 0.5, 7), lambda lr, o: lr.StepLR(o, 7, 0.5)),
    "at given steps": (
        schedules.piecewise_constant_schedule(0.3, {10: 0.1, 30: 0.5}),
        lambda lr, o: lr.LambdaLR(o, lambda t: 1.0 if t < 10 else 0.1 if t < 30 else 0.05),
    ),
    "polynomial": (schedules.polynomial_schedule(0.3, 0.0, 2, 40), lambda lr, o: lr.PolynomialLR(o, 40, 2)),
    "linear": (linear_schedule(0.3, 0.03, 40), lambda lr, o: lr.LinearLR(o, 1.0, 0.1, 40)),
    "cosine": (schedules.cosine_decay_schedule(0.3, 59), lambda lr, o: lr.CosineAnnealingLR(o, 59)),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", TORCH_CASES)
def test_against_torch(name):
    schedule, make = TORCH_CASES[name]
    ours = jax.vmap(schedule)(jnp.arange(60.0))
    np.testing.assert_allclose(ours, torch_rates(make), rtol=1e-4, atol=1e-6)


@settings(max_examples=20)
@given(st.integers(1, 50), st.integers(0, 10**6))
def test_cyclic_has_its_period_and_bounds(half_cycle, step):
    schedule = cyclic(0.25, 1.0, half_cycle)
    assert schedule(step) == schedule(step + 2 * half_cycle)
    assert schedule(half_cycle) == 1
    assert 0.25 <= schedule(step) <= 1
    mirrored = schedule(2 * half_cycle - step % (2 * half_cycle))
    np.testing.assert_allclose(schedule(step), mirrored, rtol=1e-5)


@settings(max_examples=10)
@given(st.floats(0.01, 1.0), st.integers(1, 30))
def test_decays_fall_and_are_flat_within_an_epoch(rate, per_epoch):
    steps = jnp.arange(5 * 30)
    for schedule in (epoch_exponential_decay(1.0, rate, per_epoch), epoch_inverse_decay(1.0, rate, per_epoch)):
        values = np.asarray(schedule(steps))
        assert (np.diff(values) <= 1e-7).all()
        assert (values[:per_epoch] == 1).all()


def test_hyperparameters_may_be_traced():
    rates = jnp.array([0.1, 0.2])
    for make in (
        lambda rate: cyclic(rate / 10, rate, 4),
        lambda rate: cyclic(0.0, rate, 40 * rate, mode="exp_range", gamma=1 - rate),
        lambda rate: cyclic(0.0, rate, 40 * rate, mode="triangular2"),
        lambda rate: epoch_exponential_decay(rate, 1 - rate, 5),
        lambda rate: epoch_inverse_decay(rate, rate, 5),
        lambda rate: cosine_restarts(rate, 20 * rate, growth=2, decay_rate=rate),
        lambda rate: inverse_sqrt_decay(rate, 20 * rate),
    ):
        swept = jax.jit(jax.vmap(lambda rate, make=make: make(rate)(jnp.int32(7))))(rates)
        np.testing.assert_allclose(swept, [make(float(rate))(7) for rate in rates], rtol=1e-5)


@pytest.mark.slow
def test_all_schedules_of_optax_are_exported():
    names = {name for name in dir(optax.schedules) if name[0] != "_" and name.endswith(("_schedule", "_decay", "_schedules"))}
    assert names <= set(schedules.__all__)
    for name, arguments in OPTAX.items():
        ours, theirs = getattr(schedules, name)(*arguments), getattr(optax.schedules, name)(*arguments)
        steps = jnp.arange(30.0)
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            values, expected = jax.vmap(ours)(steps), jax.vmap(theirs)(steps)
        np.testing.assert_allclose(values, expected, rtol=1e-6, err_msg=name)
    same = names - set(OPTAX)
    assert all(getattr(schedules, name) is getattr(optax.schedules, name) for name in same)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["restarts", "cycles", "halved cycles", "epochs", "staircase"])
def test_boundaries_of_all_lengths_at_early_and_late_steps(name):
    """Eager and jitted, with lengths that are constants of the program and traced ones."""
    make, formula = {
        "restarts": (lambda n: cosine_restarts(1.0, n), lambda t, n: (1 + np.cos(np.pi * (t % n) / n)) / 2),
        "cycles": (lambda n: cyclic(0.0, 1.0, n), lambda t, n: 1 - abs(t % (2 * n) / n - 1)),
        "halved cycles": (
            lambda n: cyclic(0.0, 1.0, n, mode="triangular2"),
            lambda t, n: (1 - abs(t % (2 * n) / n - 1)) * 0.5 ** (t // (2 * n)),
        ),
        "epochs": (lambda n: epoch_inverse_decay(1.0, 1.0, n), lambda t, n: 1 / (1 + t // n)),
        "staircase": (
            lambda n: schedules.exponential_decay(1.0, n, 0.999, staircase=True),
            lambda t, n: 0.999 ** (t // n),
        ),
    }[name]
    lengths = np.arange(1, 2001)
    late = 10**8 // lengths
    steps = np.stack([k * lengths + r for k in (0, 1, 2, 3, 57, late) for r in (0, 1, lengths - 1)], axis=1)
    expected = formula(steps, lengths[:, None])
    close = {"atol": 1e-6, "rtol": 2e-5}
    if name in ("restarts", "cycles", "halved cycles"):  # the others take no traced length
        traced = jax.jit(jax.vmap(lambda t, n: make(n)(t)))(jnp.asarray(steps, jnp.int32), jnp.asarray(lengths, jnp.int32))
        np.testing.assert_allclose(traced, expected, **close)
    some = np.array([1, 2, 3, 7, 10, 41, 47, 49, 55, 61, 82, 94, 97, 98, 107, 187, 333, 1000, 1999, 2000])
    chosen = jnp.asarray(steps[some - 1], jnp.int32)
    both = [lambda steps, n=int(n): make(n)(steps) for n in some] + [lambda steps, n=float(n): make(n)(steps) for n in some]
    both = both if name in ("restarts", "cycles", "halved cycles") else both[: len(some)]
    jitted = jax.jit(lambda chosen: [schedule(chosen[i % len(some)]) for i, schedule in enumerate(both)])(chosen)
    for i, schedule in enumerate(both):
        np.testing.assert_allclose(jitted[i], expected[some - 1][i % len(some)], **close)
        if i % 4 == 0:
            np.testing.assert_allclose(schedule(chosen[i % len(some)]), expected[some - 1][i % len(some)], **close)


def test_growing_restarts_at_late_steps():
    for growth, t in ((2, 7 * (2**20 - 1)), (3, 7 * (3**10 - 1) // 2), (2, 7 * (2**24 - 1))):
        schedule = cosine_restarts(1.0, 7, growth=growth)
        np.testing.assert_allclose([schedule(t), jax.jit(schedule)(t)], 1, atol=1e-6)
        np.testing.assert_allclose([schedule(t - 1), jax.jit(schedule)(t - 1)], 0, atol=1e-3)


def test_steps_of_narrow_types_and_the_last_step():
    for schedule in (cosine_restarts(1.0, 1000), cyclic(0.0, 1.0, 1000), inverse_sqrt_decay(1.0, 1000)):
        np.testing.assert_allclose(schedule(jnp.int8(100)), schedule(100), rtol=1e-6)
        np.testing.assert_allclose(schedule(jnp.int8(127)), schedule(127), rtol=1e-6)
        assert jnp.isfinite(schedule(jnp.int32(2**31 - 1)))
    assert cyclic(0.0, 1.0, 2**40)(jnp.int32(2**30)) > 0


OPTAX = {
    "cosine_decay_schedule": (0.3, 20, 0.1),
    "cosine_onecycle_schedule": (20, 0.3),
    "exponential_decay": (0.3, 7, 0.5, 3, True, 0.01),
    "join_schedules": ([optax.constant_schedule(0.1), optax.constant_schedule(0.2)], [10]),
    "linear_onecycle_schedule": (20, 0.3),
    "linear_schedule": (0.3, 0.1, 20, 3),
    "polynomial_schedule": (0.3, 0.1, 2, 20),
    "sgdr_schedule": ([{"init_value": 0.0, "peak_value": 0.3, "warmup_steps": 3, "decay_steps": 10}] * 2,),
    "warmup_constant_schedule": (0.0, 0.3, 10),
    "warmup_cosine_decay_schedule": (0.0, 0.3, 5, 20),
    "warmup_exponential_decay_schedule": (0.0, 0.3, 5, 7, 0.5),
}


@pytest.mark.parametrize(
    "call",
    [
        lambda: schedules.linear_schedule(0.1, 0.0, 0),
        lambda: schedules.linear_schedule(0.1, 0.0, 5, -1),
        lambda: schedules.polynomial_schedule(0.1, 0.0, 2, -3),
        lambda: schedules.exponential_decay(0.1, 0, 0.5),
        lambda: schedules.exponential_decay(0.1, 5, 0.0),
        lambda: schedules.cosine_decay_schedule(0.1, 0),
        lambda: schedules.cosine_onecycle_schedule(10, 0.1, pct_start=1.0),
        lambda: schedules.linear_onecycle_schedule(1, 0.1),
        lambda: schedules.linear_onecycle_schedule(10, 0.1, pct_start=0.9),
        lambda: schedules.warmup_cosine_decay_schedule(0.0, 0.1, -1, 10),
        lambda: schedules.warmup_cosine_decay_schedule(0.0, 0.1, 10, 10),
        lambda: schedules.warmup_constant_schedule(0.0, 0.1, -1),
        lambda: schedules.warmup_exponential_decay_schedule(0.0, 0.1, 5, 0, 0.5),
        lambda: schedules.join_schedules([lambda step: 0.1], [10]),
        lambda: schedules.join_schedules([lambda step: 0.1] * 3, [10, 5]),
        lambda: schedules.sgdr_schedule([]),
    ],
)
def test_degenerate_lengths_are_refused(call):
    with pytest.raises(ValueError):
        call()


def test_no_warmup_is_the_peak_at_once():
    assert schedules.warmup_constant_schedule(0.0, 0.1, 0)(0) == 0.1
    assert schedules.warmup_cosine_decay_schedule(0.0, 1.0, 0, 10)(0) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cyclic(0.1, 1.0, 0), ["half_cycle is 0", "> 0"]),
        (lambda: cyclic(0.1, 1.0, -2.0), ["half_cycle is -2.0"]),
        (lambda: cyclic(0.1, 1.0, float("nan")), ["half_cycle is nan"]),
        (lambda: cyclic(1.0, 0.1, 5), ["maximum is 0.1", ">= base, 1.0"]),
        (lambda: cyclic(0.1, 1.0, 5, mode="sine"), ["'sine'", "'triangular', 'triangular2', 'exp_range'"]),
        (lambda: cyclic(0.1, 1.0, 5, mode="exp_range"), ["if and only if mode is 'exp_range'"]),
        (lambda: cyclic(0.1, 1.0, 5, gamma=0.9), ["if and only if"]),
        (lambda: cyclic(0.1, 1.0, 5, mode="exp_range", gamma=1.5), ["gamma is 1.5", "(0, 1]"]),
        (lambda: cosine_restarts(0.1, 0), ["first_steps is 0", "> 0"]),
        (lambda: cosine_restarts(0.1, 5, growth=1.5), ["growth is 1.5", "positive integer"]),
        (lambda: cosine_restarts(0.1, 5, decay_rate=2.0), ["decay_rate is 2.0"]),
        (lambda: inverse_sqrt_decay(0.1, 0), ["warmup_steps is 0"]),
        (lambda: epoch_exponential_decay(0.1, 0.0, 5), ["decay_rate is 0.0", "> 0"]),
        (lambda: epoch_exponential_decay(0.1, 0.9, 0), ["steps_per_epoch is 0", "positive integer"]),
        (lambda: epoch_inverse_decay(0.1, 0.9, 2.5), ["steps_per_epoch is 2.5"]),
        (lambda: epoch_inverse_decay(0.1, -0.9, 5), ["decay_rate is -0.9", ">= 0"]),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=r"cyclic|epoch_|cosine_restarts|inverse_sqrt") as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)
