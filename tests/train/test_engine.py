"""The training engine: a run depends on its arguments only, not on how it is divided into calls, fed or interrupted."""

import functools
import signal
import threading
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.train.config import TrainingConfig
from jaxnn.train.epoch import epoch_parts

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(103, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int32)
MODEL = nn.serial(nn.dense(8), nn.relu, nn.dropout(0.2), nn.dense(2))
LINEAR = nn.dense(1)
TARGETS = X @ np.array([[1.0], [-2.0], [0.5], [0.0]], np.float32)


def fit(model=MODEL, data=(X, Y), **options):
    defaults = {"loss": nn.losses.cross_entropy, "optimizer": optax.adam(1e-2), "epochs": 3, "key": KEY, "progress": False}
    return nn.fit(model, data, **{**defaults, **options})


def regression(data=(X, TARGETS), **options):
    return fit(LINEAR, data, **{"loss": nn.losses.mse, "optimizer": optax.sgd(0.1), "batch_size": 20, **options})


equal = chex.assert_trees_all_equal
close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


@functools.cache
def plain():
    return fit(metrics={"accuracy": nn.metrics.accuracy}, validation=(X[:30], Y[:30]))


# --- the length of a call and the source of the data do not change a run ---


@pytest.mark.sample(1)
@pytest.mark.parametrize("budget", [1, 3, 5, 1000])
def test_the_number_of_steps_per_call_changes_no_bit(budget, monkeypatch):
    from jaxnn.train.executors import ArrayExecutor

    call = ArrayExecutor.call
    monkeypatch.setattr(ArrayExecutor, "call", lambda self, state, steps: call(self, state, budget))
    result = fit(metrics={"accuracy": nn.metrics.accuracy}, validation=(X[:30], Y[:30]))
    equal(result.params, plain().params)
    assert result.history.same_as(plain().history)


@pytest.mark.sample(1)
@pytest.mark.parametrize("prefetch", [None, 3, 9])
def test_memory_mapped_arrays_train_like_arrays(tmp_path, prefetch):
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", array)
    data = tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")
    result = fit(data=data, metrics={"accuracy": nn.metrics.accuracy}, validation=(X[:30], Y[:30]), prefetch=prefetch)
    close(result.params, plain().params)
    for name in ("loss", "accuracy", "val_loss"):
        np.testing.assert_allclose(result.history[name], plain().history[name], rtol=1e-5)


def batches(epoch=1):
    order = np.random.default_rng(epoch).permutation(103)
    return [(X[samples], Y[samples]) for samples in np.split(order, range(25, 103, 25))]


def loop(epochs, batches=batches):
    """The same training as a loop over jitted steps."""
    step = jax.jit(nn.train_step(MODEL, loss=nn.losses.cross_entropy, optimizer=optax.adam(1e-2)))
    state = nn.init_train_state(MODEL, optax.adam(1e-2), KEY, X)
    for epoch in range(epochs):
        for batch in batches(epoch + 1):
            state, _, _ = step(state, batch)
    return state


@pytest.mark.slow
def test_every_kind_of_stream_matches_a_loop_over_steps():
    expected = loop(3)
    result = fit(data=batches)
    close(result.params, expected.params)
    assert result.history["samples_per_second"]
    assert [row["step"] for row in result.history.rows] == [5, 10, 15]
    once = fit(data=(batch for epoch in (1,) for batch in batches(epoch)), epochs=1)
    close(once.params, loop(1).params)

    class Loader:
        def __len__(self):
            return 5

        def __iter__(self):
            return iter([list(batch) for batch in batches()])

    again = fit(data=Loader(), epochs=1)
    close(again.params, loop(1).params)


def test_a_torch_data_loader():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y.astype(np.int64)))
    loader = torch.utils.data.DataLoader(data, batch_size=103)
    whole = fit(data=loader, epochs=1)
    close(whole.params, fit(data=lambda epoch: [(X, Y)], epochs=1).params)


@pytest.mark.slow
def test_a_grain_data_set():
    grain = pytest.importorskip("grain")
    samples = grain.MapDataset.source(list(zip(X, Y, strict=True)))
    shuffled = lambda epoch: samples.seed(epoch).shuffle().batch(25)  # noqa: E731
    by_index = fit(data=shuffled, epochs=2)
    close(by_index.params, loop(2, batches=shuffled).params)
    close(fit(data=lambda epoch: shuffled(epoch).to_iter_dataset(), epochs=2).params, by_index.params)


@pytest.mark.slow
def test_a_failing_stream_names_the_batch_and_keeps_the_result_so_far():
    def failing(epoch):
        yield from batches(epoch)[:3]
        raise OSError("the disk is gone")

    with pytest.raises(nn.DataError, match="batch 3 of epoch 1: OSError: the disk is gone") as raised:
        fit(data=failing)
    assert isinstance(raised.value.__cause__, OSError)
    result = raised.value.result
    assert int(result.train_state.step) == 3
    step = jax.jit(nn.train_step(MODEL, loss=nn.losses.cross_entropy, optimizer=optax.adam(1e-2)))
    state = nn.init_train_state(MODEL, optax.adam(1e-2), KEY, X)
    for batch in batches()[:3]:
        state, _, _ = step(state, batch)
    close(result.params, state.params)
    with pytest.raises(nn.DataError, match="an iterator ends once"):
        fit(data=iter(batches()), epochs=2)
    with pytest.raises(nn.DataError, match=r"batch 1 of epoch 1.*float32\[25, 3\].*only the number of samples may differ"):
        fit(data=lambda epoch: [(X[:25], Y[:25]), (X[:25, :3], Y[:25])])
    with pytest.raises(ValueError, match="have no batches"):
        fit(data=iter(()))
    assert threading.active_count() < 20


def test_a_second_ctrl_c_interrupts_at_once():
    from jaxnn.train.interrupts import deferred_interrupt

    with deferred_interrupt() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- steps ---


@pytest.mark.parametrize(("n", "parts"), [(10, 4), (7, 3), (8, 4), (3, 5)])
def test_parts_differ_by_at_most_one_sample(n, parts):
    def count(params, state, x, *, key=None, training=False):
        sizes.append(len(x))
        return x, {"calls": state["calls"] + 1}

    sizes = []
    counter = nn.Layer(lambda key, x: ({}, {"calls": jnp.zeros((), jnp.int32)}), count, "counter")
    model, x = nn.serial(nn.dense(1), counter), X[:n]
    state = nn.init_train_state(model, optax.sgd(0.1), KEY, x)
    sizes.clear()
    step = jax.jit(nn.train_step(model, loss=nn.losses.mse, optimizer=optax.sgd(0.1), accumulate=parts))
    after, value, predictions = step(state, (x, TARGETS[:n]))
    assert set(sizes) - {n} <= {n // min(parts, n), n // min(parts, n) + 1}
    assert int(after.state["counter"]["calls"]) == min(parts, n) and predictions.shape == (n, 1)
    assert float(value) == pytest.approx(float(np.mean((np.asarray(predictions) - TARGETS[:n]) ** 2)), rel=1e-5)


def test_gradients_of_narrow_parameters_are_summed_in_float32():
    """The gradient is 1 for each of 512 samples; in bfloat16, a sum of ones ends at 256."""
    model = nn.dtype_policy(nn.dense(1, use_bias=False), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    x, loss = jnp.ones((512, 1)), lambda predictions, y: predictions.astype(jnp.float32).mean()
    start = nn.init_train_state(model, optax.sgd(1.0), KEY, x, ({"kernel": jnp.zeros((1, 1), jnp.bfloat16)}, {}))
    step = jax.jit(nn.train_step(model, loss=loss, optimizer=optax.sgd(1.0), accumulate=512))
    after, _, _ = step(start, (x, x))
    assert after.params["kernel"].dtype == jnp.bfloat16 and float(after.params["kernel"][0, 0]) == -1.0


@pytest.mark.parametrize("scale", [1.0, 2.0**16, 2.0**24])
def test_gradients_are_unscaled_in_float32(scale):
    """float16 holds no number above 65,504, such as the scale itself."""
    model = nn.dtype_policy(nn.dense(1), dtype=jnp.float16, param_dtype=jnp.float16)
    weights = {"kernel": jnp.zeros((4, 1), jnp.float16), "bias": jnp.zeros(1, jnp.float16)}, {}
    loss = lambda p, y: nn.losses.mse(p, y) * 1e-4  # noqa: E731
    start = nn.init_train_state(model, optax.sgd(10.0), KEY, X, weights, loss_scaling=True)
    start = start._replace(loss_scale=start.loss_scale._replace(scale=jnp.float32(scale)))
    step = jax.jit(nn.train_step(model, loss=loss, optimizer=optax.sgd(10.0), loss_scaling=True))
    after, _, _ = step(start, (X, TARGETS.astype(np.float16)))
    expected = 10.0 * 1e-4 * 2 * (X.T @ TARGETS) / len(X)
    if not int(after.skipped):
        np.testing.assert_allclose(np.asarray(after.params["kernel"], np.float32), expected, rtol=2e-2, atol=1e-6)
    assert scale == 2.0**24 or not int(after.skipped)


def test_the_radius_of_sharpness_aware_minimization_in_float16():
    """The squares of the gradients are beyond float16."""
    x, y = X[:8] * 64, TARGETS[:8] * 64
    options = {"loss": nn.losses.mse, "optimizer": optax.sgd(2.0**-14), "sam_radius": 0.5}

    def stepped(dtype):
        model = nn.dtype_policy(nn.dense(1), dtype=dtype, param_dtype=dtype)
        weights = jax.tree.map(lambda w: w.astype(dtype), ({"kernel": jnp.zeros((4, 1)), "bias": jnp.zeros(1)}, {}))
        start = nn.init_train_state(model, options["optimizer"], KEY, x, weights)
        after, _, _ = jax.jit(nn.train_step(model, **options))(start, (x.astype(dtype), y.astype(dtype)))
        return np.asarray(after.params["kernel"], np.float32)

    np.testing.assert_allclose(stepped(jnp.float16), stepped(jnp.float32), rtol=5e-2, atol=1e-3)


@pytest.mark.slow
def test_accumulated_gradients_equal_those_of_the_whole_batch():
    whole = regression()
    for parts in (2, 3, 20):
        close(regression(accumulate=parts).params, whole.params, rtol=1e-4)
    weights = RNG.uniform(size=103).astype(np.float32)
    close(regression((X, TARGETS, weights), accumulate=3).params, regression((X, TARGETS, weights)).params, rtol=1e-4)


def test_weighted_steps_match_weighted_least_squares_in_numpy():
    weights = RNG.uniform(size=103).astype(np.float32)
    params, _ = LINEAR.init(KEY, X)
    w, b = np.float64(params["kernel"]), np.float64(params["bias"])
    share = np.float64(weights)[:, None] / weights.sum()
    losses = []
    for _ in range(3):
        error = X @ w + b - TARGETS
        losses.append((share * error**2).sum())
        w, b = w - 0.1 * 2 * X.T @ (share * error), b - 0.1 * 2 * (share * error).sum(0)
    result = regression((X, TARGETS, weights), batch_size=103, initial=(params, {}))
    np.testing.assert_allclose(result.params["kernel"], w, rtol=1e-4)
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-4)
    ones = regression((X, TARGETS, np.ones(103, np.float32)))
    close(ones.params, regression().params)
    half = np.repeat([1.0, 0.0], [60, 43]).astype(np.float32)
    close(
        regression((X, TARGETS, half), batch_size=103).params,
        regression((X[:60], TARGETS[:60]), batch_size=60).params,
        rtol=1e-4,
    )
    assert nn.evaluate(result, (X, TARGETS, half))["loss"] == pytest.approx(
        nn.evaluate(result, (X[:60], TARGETS[:60]))["loss"], rel=1e-5
    )


@pytest.mark.slow
def test_new_values_of_traced_hyperparameters_do_not_recompile(compilations):
    def model(rate):
        return nn.serial(nn.dense(8), nn.relu, nn.dropout(rate), nn.dense(2))

    options = {"optimizer": optax.adam, "hyperparameters": {"learning_rate": 1e-2, "rate": 0.2}}
    first = fit(model, **options)
    close(first.params, plain().params, rtol=1e-4)
    assert first.history["learning_rate"] == pytest.approx([1e-2] * 3)
    before = compilations()
    second = fit(model, **{**options, "hyperparameters": {"learning_rate": 1e-3, "rate": 0.0}})
    assert compilations() == before
    assert second.compile_seconds < first.compile_seconds
    assert isinstance(second.model, nn.Layer)
    assert nn.predict(second, X).shape == (103, 2)
    other = fit(lambda width: nn.dense(width), hyperparameters={"width": 2})  # an int may determine shapes
    assert other.params["kernel"].shape == (4, 2)
    delta = fit(LINEAR, (X, TARGETS), loss=nn.losses.huber, hyperparameters={"delta": 0.1})
    assert delta.history["loss"] != fit(LINEAR, (X, TARGETS), loss=nn.losses.huber).history["loss"]


def test_a_schedule_of_the_epoch():
    decay = lambda epoch, epochs: 0.1 * (1 - epoch / epochs)  # noqa: E731
    given = regression(optimizer=optax.sgd, hyperparameters={"learning_rate": decay})
    by_step = optax.piecewise_constant_schedule(0.1, {6: 2 / 3, 12: 1 / 2})
    close(given.params, regression(optimizer=optax.sgd(by_step)).params)
    np.testing.assert_allclose(given.history["learning_rate"], [0.1, 0.1 * 2 / 3, 0.1 / 3], rtol=1e-5)
    [row] = nn.sweep(LINEAR, (X, TARGETS), {"learning_rate": [decay]}, loss=nn.losses.mse, optimizer=optax.sgd, epochs=3,
                     batch_size=20, key=KEY, progress=False).rows  # fmt: skip
    assert row["learning_rate"] is decay
    for unknown in (lambda e: 0.1 * 0.5**e, lambda step, e: step * e, nn.relu):
        with pytest.raises(
            TypeError, match=r"a schedule's parameters are step \(or count\), epoch, epochs, steps, steps_per_epoch"
        ):
            regression(optimizer=optax.sgd, hyperparameters={"learning_rate": unknown})


@pytest.mark.slow
def test_a_flag_is_not_a_number():
    """1 and True are equal, and decide on different programs."""
    model = lambda flag: nn.serial(nn.dense(1), (lambda v: v * 100) if flag is True else (lambda v: v))  # noqa: E731
    options = {"loss": nn.losses.mse, "optimizer": optax.sgd(0.0), "epochs": 1, "key": KEY, "progress": False}
    alone = [nn.fit(model, (X, TARGETS), hyperparameters={"flag": flag}, **options).history["loss"][0] for flag in (1, True, 1)]
    assert alone[0] == alone[2] != alone[1]
    both = nn.sweep(model, (X, TARGETS), {"flag": [1, True]}, **options)
    assert len(both.groups) == len(both.by_setting()) == 2 and both.rows[0]["loss"] != both.rows[1]["loss"]


def test_schedules_receive_the_length_of_the_run():
    def rate(step, steps):
        return 0.1 * (1 - step / steps)

    given = regression(optimizer=optax.sgd, hyperparameters={"learning_rate": rate})
    close(given.params, regression(optimizer=optax.sgd(optax.linear_schedule(0.1, 0.0, 18))).params)
    np.testing.assert_allclose(given.history["learning_rate"], [0.1 * (1 - s / 18) for s in (5, 11, 17)], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"hyperparameters": {"lr": 1.0}}, ValueError, "nothing takes the hyperparameter 'lr'"),
        ({"hyperparameters": {"steps": 1}}, ValueError, "reserved for the length of the run"),
        ({"hyperparameters": [1.0]}, TypeError, "by name"),
        ({"hyperparameters": {"learning_rate": np.nan}, "optimizer": optax.sgd}, ValueError, "finite"),
        ({"hyperparameters": {"learning_rate": (1,)}, "optimizer": optax.sgd}, TypeError, "'learning_rate'"),
        ({"on_nonfinite": "ignore"}, ValueError, "'ignore'"),
        ({"accumulate": 0}, ValueError, "accumulate"),
        ({"metrics": {"table": nn.metrics.confusion_matrix(2)}}, ValueError, "'table' is an array"),
        ({"callbacks": [print]}, TypeError, "nn.callbacks"),
        ({"callbacks": [nn.callbacks.ema(), nn.callbacks.ema(0.5)]}, ValueError, "needs a different name"),
        ({"callbacks": [nn.callbacks.target("accuracy", 1.0)]}, ValueError, "monitors 'accuracy'"),
        ({"callbacks": [nn.callbacks.reduce_on_plateau()]}, ValueError, "hyperparameters="),
        ({"data": (X, Y, -np.ones(103, np.float32))}, ValueError, "must be at least 0"),
        ({"data": (X, Y, np.ones((103, 1), np.float32))}, ValueError, r"shape \(N,\)"),
        ({"data": (X, Y, np.ones(103, np.float32)), "loss": lambda p, y: p.sum()}, TypeError, "reduction='none'"),
    ],
)
def test_errors_explain_invalid_arguments(options, error, words):
    with pytest.raises(error, match=words):
        fit(**options)


def test_sharpness_aware_minimization_matches_its_formula():
    params = nn.init_train_state(LINEAR, optax.sgd(0.1), KEY, X).params
    gradient = jax.grad(lambda p: nn.losses.mse(LINEAR(p, X), TARGETS))
    for _ in range(3):
        g = gradient(params)
        size = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(g)))
        g = gradient(jax.tree.map(lambda w, g, size=size: w + 0.05 * g / size, params, g))
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, g)
    close(regression(batch_size=103, sam_radius=0.05).params, params, rtol=1e-4)


def test_loss_scaling_prevents_vanishing_float16_gradients():
    model = nn.dtype_policy(LINEAR, dtype=jnp.float16)

    def tiny(predictions, y):
        return nn.losses.mse(predictions, y.astype(predictions.dtype)) * 1e-6

    options = {"loss": tiny, "optimizer": optax.sgd(0.1 * 1e6), "batch_size": 20, "epochs": 20}
    scaled = fit(model, (X, TARGETS), **options, loss_scaling=True)
    np.testing.assert_allclose(scaled.params["kernel"][:, 0], [1.0, -2.0, 0.5, 0.0], atol=0.02)
    assert scaled.history["skipped"][-1] < 20
    overflowing = fit(model, (X * 100, TARGETS), loss=nn.losses.mse, optimizer=optax.sgd(1e-6), loss_scaling=True, epochs=2)
    assert np.isfinite(overflowing.params["kernel"]).all()
    assert overflowing.history["skipped"][-1] > 0
    assert float(overflowing.train_state.loss_scale.scale) < 2**15


# --- non-finite values ---

BAD = 7  # the step of the first epoch, of 11, whose batch makes the loss NaN


def bad_loss(predictions, y):
    return nn.losses.mse(predictions, jnp.where(y == 99.0, jnp.nan, y))


def order_of_samples(state):
    """The order in which the epoch of a train state uses the samples, in batches of 10."""

    return epoch_parts(TrainingConfig.of(LINEAR, bad_loss, optax.sgd(0.1), batch_size=10)).order(state, X)


@functools.cache
def bad_data():
    """The data with a target of 99 for the first sample of batch 7, and the indices of that batch."""
    order = order_of_samples(nn.init_train_state(LINEAR, optax.sgd(0.1), KEY, X))
    targets = TARGETS.copy()
    targets[order[BAD * 10]] = 99.0
    return (X, targets), np.asarray(order[BAD * 10 : BAD * 10 + 10])


def state_after(count):
    data, _ = bad_data()
    step = nn.train_step(LINEAR, loss=bad_loss, optimizer=optax.sgd(0.1))
    state = nn.init_train_state(LINEAR, optax.sgd(0.1), KEY, X)
    order = order_of_samples(state)
    for i in range(count):
        samples = order[i * 10 : i * 10 + 10]
        state, _, _ = step(state, (X[samples], data[1][samples]))
    return state


def test_stop_returns_the_parameters_of_the_step_before():
    data, _ = bad_data()
    with pytest.warns(RuntimeWarning, match=f"step {BAD} is not finite"):
        result = regression(data, loss=bad_loss, batch_size=10)
    assert result.stopped == "diverged"
    close(result.params, state_after(BAD - 1).params)


def test_raise_names_the_step_the_samples_and_the_layer():
    data, samples = bad_data()
    with pytest.raises(nn.NonFiniteError, match=f"the loss of step {BAD}") as raised:
        regression(data, loss=bad_loss, batch_size=10, on_nonfinite="raise")
    assert raised.value.step == BAD
    np.testing.assert_array_equal(raised.value.samples, samples)
    assert raised.value.found.phase == "loss"
    close(raised.value.result.params, state_after(BAD - 1).params)
    whole = nn.serial(nn.dense(3), lambda x: jnp.log(x * 0), nn.dense(1))
    with pytest.raises(nn.NonFiniteError, match="log"):
        fit(whole, (X, TARGETS), loss=nn.losses.mse, on_nonfinite="raise")
    with pytest.raises(nn.NonFiniteError, match="step 1 "):
        fit(LINEAR, lambda epoch: [(X, TARGETS), (X * np.nan, TARGETS)], loss=nn.losses.mse, on_nonfinite="raise")


def test_skip_omits_the_step_and_counts_it():
    data, _ = bad_data()
    result = regression(data, loss=bad_loss, batch_size=10, epochs=2, on_nonfinite="skip")
    assert result.history["skipped"] == [1, 2]
    assert np.isfinite(result.history["loss"]).all()
    assert (result.stopped, int(result.train_state.step)) == ("finished", 22)
    once = regression(data, loss=bad_loss, batch_size=10, epochs=1, on_nonfinite="skip")
    state = state_after(BAD)
    order = order_of_samples(state._replace(step=BAD, position=BAD))
    step = nn.train_step(LINEAR, loss=bad_loss, optimizer=optax.sgd(0.1))
    for i in range(BAD + 1, 11):
        samples = order[i * 10 : i * 10 + 10]
        state, _, _ = step(state, (X[samples], data[1][samples]))
    close(once.params, state.params)


# --- callbacks ---


def test_weight_averages_match_their_formulas():
    seen = []

    def remember(row, train_state):
        seen.append(jax.device_get((train_state.params, train_state.step)))

    spy = nn.callbacks.Callback("spy", on_epoch=remember)
    options = {"batch_size": 103, "epochs": 5}
    averaged = regression(**options, callbacks=[nn.callbacks.ema(0.5), spy], validation=(X, TARGETS))
    mean = jax.tree.map(np.float64, nn.init_train_state(LINEAR, optax.sgd(0.1), KEY, X).params)
    for params, step in seen:
        d = min(0.5, (1 + step) / (10 + step))
        mean = jax.tree.map(lambda m, w, d=d: d * m + (1 - d) * w, mean, params)
    close(averaged.params, mean)
    assert averaged.history["val_loss"][-1] == pytest.approx(nn.evaluate(averaged, (X, TARGETS))["loss"], rel=1e-5)
    swa = regression(**options, callbacks=[nn.callbacks.swa(3)])
    close(swa.params, jax.tree.map(lambda *w: np.mean(w, 0), *(params for params, _ in seen[2:])))
    close(regression(**options, callbacks=[nn.callbacks.swa(9)]).params, seen[-1][0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_averages_of_narrow_weights_do_not_stand_still(dtype):
    """5,000 twos averaged into ones; in the narrow dtype a thousandth of the difference is rounded away."""

    def at(value, step):
        weights = {"kernel": jnp.full(3, value, dtype), "tokens": jnp.ones(3, jnp.int32)}
        return SimpleNamespace(params=weights, state={}, step=step, epoch=step, hyperparameters={})

    ema, swa = nn.callbacks.ema(0.999), nn.callbacks.swa(1)

    @jax.jit
    def run(start):
        average = lambda step, memory: ema.after_step(memory, at(2.0, step + 10_000))[0]  # noqa: E731
        mean = lambda step, memory: swa.after_epoch(memory, at(jnp.where(step < 2500, 1.0, 2.0), step + 1), {}, None)[0]  # noqa: E731
        return jax.lax.fori_loop(0, 5000, average, start), jax.lax.fori_loop(0, 5000, mean, swa.init(at(1.0, 0)))

    average, mean = run(ema.init(at(1.0, 0)))
    last = (at(2.0, 0).params, {})
    for callback, memory, expected in ((ema, average, 2 - 0.999**5000), (swa, mean, 1.5)):
        weights = callback.weights(memory, last)[0]
        assert weights["kernel"].dtype == dtype and weights["tokens"].dtype == jnp.int32
        np.testing.assert_allclose(weights["kernel"].astype(jnp.float32), expected, rtol=float(jnp.finfo(dtype).eps))


def test_a_plateau_lowers_the_learning_rate():
    result = regression(
        optimizer=optax.sgd, hyperparameters={"learning_rate": 0.5}, epochs=8, validation=(X, TARGETS),
        callbacks=[nn.callbacks.reduce_on_plateau(0.5, 2, min_delta=1e9, minimum=0.1)],
    )  # fmt: skip
    assert result.history["learning_rate"] == pytest.approx([0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.1])


def test_target_time_budget_and_hooks_end_a_run():
    reached = regression(epochs=50, callbacks=[nn.callbacks.target("loss", 0.05, mode="min")])
    assert reached.stopped == "early"
    assert reached.history["loss"][-1] <= 0.05 < reached.history["loss"][-2]
    assert regression(epochs=50, callbacks=[nn.callbacks.time_budget(1e-9)]).epoch == 1
    rows, ended = [], []
    hook = nn.callbacks.Callback(
        "hook", on_row=rows.append, on_epoch=lambda row, state: row["epoch"] == 4, on_end=lambda: ended.append(1)
    )
    result = regression(epochs=50, callbacks=[hook])
    assert (result.epoch, result.stopped, len(rows), ended) == (4, "early", 4, [1])


@pytest.mark.slow
def test_callbacks_work_in_the_pure_run_and_under_vmap():
    stop = nn.callbacks.early_stopping(2, monitor="loss")
    options = {"loss": nn.losses.mse, "epochs": 12, "batch_size": 20, "callbacks": [stop]}
    run = nn.train_run(LINEAR, optimizer=optax.sgd, hyperparameters={"learning_rate": 0.1}, **options)
    data = (jnp.asarray(X), jnp.asarray(TARGETS))
    rates = jnp.array([0.1, 0.9])
    states, history = jax.jit(jax.vmap(lambda rate: run(KEY, data, hyperparameters={"learning_rate": rate})))(rates)
    for i, rate in enumerate(rates.tolist()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("jaxnn.train.fit._diverged", str)
            one = regression(optimizer=optax.sgd, hyperparameters={"learning_rate": rate}, epochs=12, callbacks=[stop])
        values = history["loss"][i]
        np.testing.assert_allclose(values[np.isfinite(values)], one.history["loss"], rtol=1e-3)
        assert int(states.epoch[i]) == len(one.history.rows)


def test_a_custom_objective():
    def objective(model, params, state, batch, key):
        y, state = model.apply(params, state, batch["x"], key=key, training=key is not None)
        penalty = sum(jnp.sum(w**2) for w in jax.tree.leaves(params))
        return nn.losses.mse(y, batch["y"]) + 0.1 * penalty, (state, y)

    data = {"x": X, "y": TARGETS}

    result = fit(
        nn.block(lambda run, x: run("out", x["x"] if isinstance(x, dict) else x), out=LINEAR), data,
        loss=nn.Objective(objective), optimizer=optax.sgd(0.1), metrics={"mae": lambda y, batch: nn.losses.mae(y, batch["y"])},
        validation=data,
    )  # fmt: skip
    assert result.history["val_loss"][-1] < result.history["loss"][0]
    expected = nn.losses.mae(result.model(result.params, {"x": X}), TARGETS)
    assert result.history["val_mae"][-1] == pytest.approx(float(expected), rel=1e-5)


def test_logs_and_a_plot_are_written(tmp_path):
    callbacks = [
        nn.callbacks.csv_log(tmp_path / "a" / "log.csv"),
        nn.callbacks.jsonl_log(tmp_path / "log.jsonl"),
        nn.callbacks.plot(tmp_path / "b" / "history.png"),
    ]
    result = regression(epochs=5, callbacks=callbacks)
    assert nn.History.from_jsonl(tmp_path / "log.jsonl").same_as(result.history)
    lines = (tmp_path / "a" / "log.csv").read_text().splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("epoch,step,loss")
    assert (tmp_path / "b" / "history.png").read_bytes().startswith(b"\x89PNG")


# --- optimizers per path, and the learning rate finder ---


@pytest.mark.slow
def test_by_path_freezes_layers_and_sets_their_learning_rates():
    model = nn.serial(nn.dense(8), nn.relu, nn.dense(1))
    start = nn.init_train_state(model, optax.sgd(0.1), KEY, X).params
    options = {"loss": nn.losses.mse, "batch_size": 103, "epochs": 1, "initial": (start, {})}
    plain, slow, mixed = (
        fit(model, (X, TARGETS), optimizer=optimizer, **options).params
        for optimizer in (
            optax.sgd(0.1), optax.sgd(0.01), nn.by_path({"dense/*": None, "*/bias": optax.sgd(0.01)}, optax.sgd(0.1))
        )
    )  # fmt: skip
    equal(mixed["dense"], start["dense"])
    close(mixed["dense_2"]["kernel"], plain["dense_2"]["kernel"])
    close(mixed["dense_2"]["bias"], slow["dense_2"]["bias"])
    with pytest.raises(ValueError, match="'decoder/\\*' matches no path"):
        fit(model, (X, TARGETS), optimizer=nn.by_path({"decoder/*": None}, optax.sgd(0.1)), **options)


def test_find_learning_rate_suggests_a_fast_and_stable_rate():
    found = nn.find_learning_rate(LINEAR, (X, TARGETS), loss=nn.losses.mse, optimizer=optax.sgd, key=KEY, high=100.0)
    curvature = np.linalg.eigvalsh(2 * X.T @ X / len(X))[-1]
    assert 0.001 / curvature < found.suggestion < 2 / curvature  # above this rate, gradient descent diverges
    assert len(found.learning_rates) < 200  # rates after the divergence are cut off
    np.testing.assert_allclose(found.learning_rates[:2], [1e-7, 1e-7 * 1e9 ** (1 / 199)])
    assert found.plot().axes[0].get_xscale() == "log"
    with pytest.raises(ValueError, match="got low 1 and high 1"):
        nn.find_learning_rate(LINEAR, (X, TARGETS), loss=nn.losses.mse, optimizer=optax.sgd, key=KEY, low=1, high=1)


def test_memory_mapped_data_is_never_entirely_on_the_device(tmp_path):
    """The data has 16 MB, in batches of 64 kB; at most 12 batches may be on the device at a time."""
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (16384, 256))
    array[:] = 1.0
    y = np.zeros(16384, np.int32)
    most = []

    def look(memory, train_state):
        jax.debug.callback(lambda: most.append(sum(a.nbytes for a in jax.live_arrays() if a.ndim > 1)))
        return memory, train_state

    data = (np.load(tmp_path / "x.npy", mmap_mode="r"), y)
    fit(nn.dense(2), data, batch_size=64, prefetch=12, epochs=1, callbacks=[nn.callbacks.Callback("look", after_step=look)])
    assert len(most) == 256
    assert max(most) <= 13 * 64 * 256 * 4 + 100_000
