"""`fit`, `evaluate`, `predict` and their pure functions, against explicit loops and NumPy."""

import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(103, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int32)
OPTIONS = {"loss": nn.losses.cross_entropy, "optimizer": optax.adam(1e-2), "epochs": 3, "key": KEY, "progress": False}


def network():
    return nn.serial(nn.dense(8), nn.relu, nn.dropout(0.2), nn.dense(2))


equal = chex.assert_trees_all_equal


def test_the_same_key_gives_the_same_result_bit_for_bit():
    one, two = (nn.fit(network(), (X, Y), **OPTIONS, metrics={"accuracy": nn.metrics.accuracy}) for _ in range(2))
    equal(one.params, two.params)
    assert one.history.same_as(two.history)
    other = nn.fit(network(), (X, Y), **{**OPTIONS, "key": jax.random.key(1)})
    assert other.history["loss"] != one.history["loss"]


def test_gradient_descent_follows_its_update_rule():
    """Full-batch gradient descent in NumPy: W ← W − η ∂L/∂W for the mean squared error of a linear layer."""
    targets = X @ np.array([[1.0], [-2.0], [0.5], [0.0]], np.float32)
    model = nn.dense(1)
    params, _ = model.init(KEY, X)
    w, b = np.float64(params["kernel"]), np.float64(params["bias"])
    for _ in range(5):
        error = X @ w + b - targets
        w, b = w - 0.1 * 2 * X.T @ error / len(X), b - 0.1 * 2 * error.mean(0)
    result = nn.fit(
        model, (X, targets), loss=nn.losses.mse, optimizer=optax.sgd(0.1), epochs=5, batch_size=len(X), key=KEY,
        initial=(params, {}), progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(result.params["kernel"], w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.params["bias"], b, rtol=1e-4, atol=1e-5)


def test_an_epoch_is_a_loop_of_steps_in_which_each_sample_counts_once():
    model, optimizer = network(), optax.adam(1e-2)
    seen = []

    def loss(predictions, y):
        labels, index = y
        jax.debug.callback(lambda i: seen.extend(np.asarray(i).tolist()), index)
        return nn.losses.cross_entropy(predictions, labels)

    data = (jnp.asarray(X), (jnp.asarray(Y), jnp.arange(103)))
    start = nn.init_train_state(model, optimizer, KEY, data[0])
    epoch = nn.train_epoch(model, loss=loss, optimizer=optimizer, batch_size=16)
    state, logs = jax.jit(epoch)(start, data)
    jax.effects_barrier()
    assert sorted(set(seen)) == list(range(103))  # a set, since the callback also runs in the backward pass
    assert int(state.step) == 7

    from jaxnn.core.naming import child_key
    from jaxnn.problem.batches import shuffled

    order = shuffled(jax.random.fold_in(child_key(start.key, "order"), start.step), 103)
    step = jax.jit(nn.train_step(model, loss=nn.losses.cross_entropy, optimizer=optimizer))
    loop, total = start, 0.0
    for i in range(0, 103, 16):
        batch = order[i : i + 16]
        loop, value, predictions = step(loop, (data[0][batch], data[1][0][batch]))
        assert predictions.shape == (len(batch), 2)
        total += float(value) * len(batch)
    np.testing.assert_allclose(logs["loss"], total / 103, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(loop.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_fit_matches_the_pure_run():
    metrics = {"accuracy": nn.metrics.accuracy}
    model, validation = network(), (X[:40], Y[:40])
    result = nn.fit(model, (X, Y), **OPTIONS, validation=validation, metrics=metrics)
    parts = {k: OPTIONS[k] for k in ("loss", "optimizer", "epochs")}
    run = nn.train_run(model, **parts, batch_size=32, metrics=metrics)
    state, history = jax.jit(run)(KEY, (jnp.asarray(X), jnp.asarray(Y)), jax.tree.map(jnp.asarray, validation))
    for a, b in zip(jax.tree.leaves(result.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert set(history) == set(result.history) - {"epoch", "step", "seconds", "samples_per_second", "compile_seconds"}
    for name, values in history.items():
        np.testing.assert_allclose(values, result.history[name], rtol=1e-4, atol=1e-6)


def test_a_population_of_one_is_the_model():
    run = nn.train_run(network(), loss=OPTIONS["loss"], optimizer=OPTIONS["optimizer"], epochs=2, batch_size=32)
    data = (jnp.asarray(X), jnp.asarray(Y))
    alone, _ = jax.jit(run)(KEY, data)
    crowd, _ = jax.jit(jax.vmap(run, (0, None)))(jnp.stack([KEY, jax.random.key(1)]), data)
    for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(crowd.params), strict=True):
        np.testing.assert_allclose(a, b[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_evaluate_and_predict_do_not_depend_on_the_batch_size():
    model = nn.serial(nn.dense(8), nn.batch_norm(), nn.dropout(0.5), nn.dense(2))
    result = nn.fit(model, (X, Y), **OPTIONS, metrics={"accuracy": nn.metrics.accuracy})
    whole, _ = model.apply(result.params, result.state, jnp.asarray(X))
    expected = {
        "loss": float(nn.losses.cross_entropy(whole, jnp.asarray(Y))),
        "accuracy": float((whole.argmax(-1) == Y).mean()),
    }
    for batch_size in (1, 10, 103, 1000):
        predictions = nn.predict(result, X, batch_size=batch_size)
        np.testing.assert_allclose(predictions, whole, rtol=1e-4, atol=1e-5)
        values = nn.evaluate(result, (X, Y), batch_size=batch_size)
        assert values == pytest.approx(expected, rel=1e-5)
    assert nn.predict((model, result.params, result.state), X[:1]).shape == (1, 2)
    only = nn.evaluate((model, result.params, result.state), (X, Y), metrics={"a": nn.metrics.accuracy})
    assert only == {"a": pytest.approx(expected["accuracy"])}


@pytest.mark.slow
def test_early_stopping_follows_its_rule():
    """The validation losses are prescribed: the model's only weight counts epochs, and the loss is looked up by it."""
    values = jnp.array([9.0, 5.0, 4.0, 3.95, 4.2, 3.97, 1.0, 0.5])

    def counter():
        def init(key, x):
            return {"bias": nn.param(nn.initializers.zeros, ())}

        return nn.stateless(init, lambda params, x: params["bias"] + 0 * x[:, 0])

    def loss(predictions, y):
        count = jnp.round(predictions[0]).astype(jnp.int32)  # after epoch k the weight is k
        training = y[0] == 0
        return jnp.where(training, -predictions[0], values[jnp.maximum(count - 1, 0)] + 0 * predictions[0])

    def run(**early):
        ones, zeros = jnp.ones((4, 1)), jnp.zeros(4)
        return nn.fit(
            counter(), (ones, zeros), loss=loss, optimizer=optax.sgd(1.0), epochs=8, batch_size=4, key=KEY,
            validation=(ones, zeros + 1), progress=False,
            callbacks=[nn.callbacks.early_stopping(**early)] if early else [],
        )  # fmt: skip

    everything = run()
    np.testing.assert_allclose(everything.history["val_loss"], values)
    assert (everything.stopped, everything.epoch) == ("finished", 8)
    strict = run(patience=2, min_delta=0.1)  # 3.95 does not improve on 4.0 by more than 0.1
    assert (strict.stopped, strict.epoch, len(strict.history["loss"])) == ("early", 3, 5)
    assert float(strict.params["bias"]) == 3
    lenient = run(patience=2)
    assert (lenient.stopped, lenient.epoch, len(lenient.history["loss"])) == ("early", 4, 6)
    last = run(patience=2, restore_best=False)
    assert (last.epoch, float(last.params["bias"])) == (6, 6.0)
    patient = run(patience=3)
    assert (patient.stopped, patient.epoch) == ("finished", 8)


def test_a_run_can_start_from_another():
    model = network()
    first = nn.fit(model, (X, Y), **OPTIONS)
    second = nn.fit(model, (X, Y), **OPTIONS, initial=first)
    assert second.history["loss"][-1] < first.history["loss"][0]
    equal(first.params, nn.fit(model, (X, Y), **OPTIONS).params)  # the first result's arrays were not changed


def test_a_second_run_does_not_recompile(compilations):
    model = network()
    metrics = {"accuracy": nn.metrics.accuracy, "hinge": nn.losses.multiclass_hinge}
    options = {**OPTIONS, "metrics": metrics, "validation": (X[:10], Y[:10])}
    first = nn.fit(model, (X, Y), **options)
    before = compilations()
    second = nn.fit(model, (X, Y), **{**options, "key": jax.random.key(9)})
    assert compilations() == before
    assert second.compile_seconds < first.compile_seconds


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        optax.adamw(optax.cosine_decay_schedule(1e-2, 20), mask=lambda params: nn.trees.mask(params, "*/kernel")),
        optax.chain(optax.clip_by_global_norm(1.0), optax.lion(1e-3)),
        optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
        optax.MultiSteps(optax.adam(1e-2), 2),
        optax.sgd(nn.schedules.cyclic(1e-3, 1e-1, 4)),
        optax.lbfgs(),
        optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau()),
    ],
    ids=["nesterov", "adamw", "lion", "inject", "multisteps", "cyclic", "lbfgs", "plateau"],
)
def test_all_kinds_of_optimizers(optimizer):
    model = nn.serial(nn.dense(8), nn.tanh, nn.dense(2))
    result = nn.fit(model, (X, Y), **{**OPTIONS, "optimizer": optimizer, "epochs": 10})
    assert result.history["loss"][-1] < result.history["loss"][0]


def test_lists_of_numbers():
    result = nn.fit(nn.dense(2), (X.tolist(), Y.tolist()), **OPTIONS)
    equal(result.params, nn.fit(nn.dense(2), (X, Y), **OPTIONS).params)


def test_pytrees_in_and_out():
    model = nn.block(
        lambda run, x: {"label": run("label", x["a"]), "value": run("value", x["b"])}, label=nn.dense(2), value=nn.dense(1)
    )

    def loss(predictions, y):
        return nn.losses.cross_entropy(predictions["label"], y["label"]) + nn.losses.mse(predictions["value"], y["value"])

    data = {"a": X, "b": X[:, :2]}, {"label": Y, "value": X[:, :1]}
    result = nn.fit(model, data, **{**OPTIONS, "loss": loss, "epochs": 20})
    assert result.history["loss"][-1] < result.history["loss"][0]
    assert nn.predict(result, data[0])["value"].shape == (103, 1)


def test_integer_images_and_integer_labels_of_any_width():
    images = RNG.integers(0, 256, (50, 6, 6, 1)).astype(np.uint8)
    labels = RNG.integers(0, 3, 50)  # int64
    result = nn.fit(nn.models.cnn(3, features=(4,), hidden=8), (images, labels), **OPTIONS)
    assert np.isfinite(result.history["loss"]).all()


def test_one_sample_and_a_batch_larger_than_the_data():
    result = nn.fit(network(), (X[:1], Y[:1]), **OPTIONS, batch_size=4096)
    assert len(result.history["loss"]) == 3
    assert nn.predict((network(), result.params, result.state), X[:1]).shape == (1, 2)


def test_divergence_stops_the_run_and_returns_the_last_finite_parameters():
    with pytest.warns(RuntimeWarning, match="lower learning rate"):
        result = nn.fit(
            nn.dense(1), (X, X[:, :1]), loss=nn.losses.mse, optimizer=optax.sgd(1e12), epochs=50, key=KEY, batch_size=103,
            progress=False,
        )  # fmt: skip
    assert result.stopped == "diverged"
    assert len(result.history["loss"]) == result.epoch
    assert np.isfinite(result.history["loss"]).all()


INTERRUPTED = """
import importlib, os, signal, threading, time
import numpy as np, jax, optax, jaxnn as nn
running, progress = (importlib.import_module("jaxnn.train." + name) for name in ("running", "progress"))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
x = np.random.default_rng(0).normal(size=({samples}, 16)).astype(np.float32)
y = (x[:, 0] > 0).astype(np.int32)
calls = 0
def interrupt():
    global interrupted, used
    interrupted, used = calls, time.process_time()
    os.kill(os.getpid(), signal.SIGINT)
class Progress(progress.Progress):
    def __enter__(self):
        return self
    def update(self, step, rows):  # after each call of the program
        global calls
        calls += 1
        if calls == 5:
            threading.Timer(0.05, interrupt).start()  # during the next call
running.Progress = Progress
result = nn.fit(nn.models.mlp([128, 128], 2), (x, y), loss=nn.losses.cross_entropy, optimizer=optax.sgd(1e-3),
                epochs=10**7, batch_size=8, key=jax.random.key(0))
used = time.process_time() - used
calls -= interrupted
assert result.stopped == "interrupted", result.stopped
assert len(result.history.rows) == result.epoch
assert int(result.train_state.step) > 0
assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(result.params)))
print(calls, used, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("samples", [64, 100_000], ids=["between short epochs", "within a long one"])
def test_ctrl_c_returns_the_result_so_far(samples):
    program = INTERRUPTED.format(samples=samples)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    calls, used = done.stdout.split()
    assert int(calls) <= 1, "the run continued after the interrupted call of the program"
    assert float(used) < 10, "CPU seconds; a call of the program takes about half a second"


@pytest.mark.slow
def test_progress_in_a_log_file_is_printed_as_lines():
    program = (
        "import jax, jax.numpy as jnp, jaxnn as nn, optax\n"
        "nn.fit(nn.dense(2), (jnp.ones((8, 3)), jnp.zeros(8, jnp.int32)), loss=nn.losses.cross_entropy,\n"
        "       optimizer=optax.sgd(0.1), epochs=50, key=jax.random.key(0))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("epoch 1/50  loss ")
    assert lines[-1].startswith("epoch 50/50  loss ")
    assert len(lines) == 50
    assert "\r" not in done.stderr


def test_progress_in_a_terminal_is_a_bar(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    nn.fit(network(), (X, Y), **{**OPTIONS, "progress": True})
    shown = capsys.readouterr()
    shown = shown.err + shown.out
    assert "3/3" in shown
    assert "loss" in shown


@pytest.mark.slow
def test_data_on_another_device_or_over_several():
    program = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np, optax, jaxnn as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
y = (x[:, 0] > 0).astype(np.int32)
model = nn.serial(nn.dense(8), nn.relu, nn.dense(2))
second = jax.devices()[1]
both = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
def losses(sharding):
    data = (x, y) if sharding is None else jax.device_put((x, y), sharding)
    return nn.fit(model, data, loss=nn.losses.cross_entropy, optimizer=optax.adam(1e-2), epochs=3,
                  key=jax.random.key(0), progress=False).history["loss"]
np.testing.assert_allclose(losses(second), losses(None), rtol=1e-5)
np.testing.assert_allclose(losses(both), losses(None), rtol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_runs_and_steps_under_shard_map():
    """Different networks on each device, whose gradients must not be summed; and one network on parts of a batch."""
    program = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp, numpy as np, optax, jaxnn as nn
from jax.sharding import Mesh, PartitionSpec as P
x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
data = x, (x[:, 0] > 0).astype(np.int32)
mesh = Mesh(np.array(jax.devices()), ("d",))
def equal(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), a, b)

model, optimizer = nn.serial(nn.dense(8), nn.relu, nn.dropout(0.2), nn.dense(2)), optax.sgd(0.1)
run = nn.train_run(model, loss=nn.losses.cross_entropy, optimizer=optimizer, epochs=2, batch_size=16)
def many(keys, data):
    state, history = jax.vmap(run, (0, None))(keys, data)
    return state.params, history["loss"]
keys = jax.random.split(jax.random.key(0), 4)
equal(jax.jit(jax.shard_map(many, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d")))(keys, data), jax.jit(many)(keys, data))

plain = nn.serial(nn.dense(8), nn.relu, nn.dense(2))
def over_devices(model, params, state, batch, key):
    y, state = model.apply(params, state, batch[0], key=key, training=key is not None)
    return jax.lax.pmean(nn.losses.cross_entropy(y, batch[1]), "d"), (state, y)
def stepped(loss):
    step = nn.train_step(plain, loss=loss, optimizer=optimizer)
    def params_and_loss(state, batch):
        state, value, _ = step(state, batch)
        return state.params, value
    return params_and_loss
start = nn.init_train_state(plain, optimizer, jax.random.key(0), x)
parts = jax.shard_map(stepped(nn.Objective(over_devices)), mesh=mesh, in_specs=(P(), P("d")), out_specs=P())
equal(jax.jit(parts)(start, data), jax.jit(stepped(nn.losses.cross_entropy))(start, data))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_non_finite_sum_of_finite_data_is_accepted():
    from jaxnn.problem.checks import checked_inputs

    assert len(checked_inputs(jnp.full(10, 3e38), "x")) == 10  # the sum overflows
    for bad in ([1.0, np.inf, -np.inf], [np.nan, 0.0, 0.0]):
        with pytest.raises(ValueError, match="NaN or infinite values in"):
            checked_inputs(jnp.asarray(bad), "x")
