"""The cache of compiled programs: equal configurations share programs, and no program is behind what a function reads."""

import enum
import functools
import gc
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import compiled
from jaxnn.core.fingerprint import fingerprint
from jaxnn.problem.batches import shuffled

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


def network():
    return nn.serial(nn.dense(4), nn.relu, nn.dropout(0.1), nn.dense(2))


def fit(model=None, loss=nn.losses.cross_entropy, optimizer=None, **options):
    defaults = {"epochs": 1, "batch_size": 8, "key": KEY, "progress": False}
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    return nn.fit(model or network(), (X, Y), loss=loss, optimizer=optimizer, **{**defaults, **options})


@pytest.fixture
def traced(monkeypatch):
    """The programs that are traced while a test runs."""
    names = []

    class Counted(compiled.Program):
        def __init__(self, function, *arguments):
            names.append(function)
            super().__init__(function, *arguments)

    monkeypatch.setattr(compiled, "Program", Counted)
    return names


# --- equal configurations made anew ---


class Color(enum.IntEnum):
    RED = 1


class Options:
    scale = 1.0


@pytest.mark.parametrize(
    "make",
    [
        network,
        lambda: nn.models.resnet(18, 10),
        lambda: nn.repeat(nn.residual(nn.lstm(4)), 2),
        lambda: nn.block(lambda run, x: run("a", x) + x, a=nn.dense(3)),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 10))),
        lambda: nn.metrics.top_k_accuracy(3),
        lambda: nn.callbacks.early_stopping(3),
        lambda: functools.partial(nn.losses.huber, delta=2.0),
        lambda: lambda predictions, y: nn.losses.mse(predictions, y) * 2,
        lambda: {"array": jnp.arange(3), "numpy": np.arange(3), "key": KEY, "set": {"a", "b"}, "dtype": jnp.bfloat16},
        lambda: [Color.RED, Options, Options(), types.MappingProxyType({"a": 1})],
        lambda: nn.Objective(lambda model, params, state, batch, key: (0.0, (state, None))),
    ],
)
def test_equal_configurations_have_one_fingerprint(make):
    first, second = fingerprint(make()), fingerprint(make())
    assert first == second and first.exact


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.dense(3), nn.dense(4)),
        (nn.serial(nn.dense(3), nn.relu), nn.serial(nn.dense(3), nn.tanh)),
        (optax.sgd(0.1), optax.sgd(0.2)),
        (1, True),
        (0.0, -0.0),
        (1, 1.0),
        ("1", 1),
        (np.int32(1), np.int64(1)),
        (np.zeros(3), np.zeros((3, 1))),
        (jnp.zeros(3), np.zeros(3, np.float32)),
        ([1, 2], (1, 2)),
        ({"a": 1, "b": 2}, {"b": 1, "a": 2}),
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x, a=1: x, lambda x, a=2: x),
        (nn.callbacks.early_stopping(3), nn.callbacks.early_stopping(4)),
        (enum.Enum("Color", "RED BLUE").RED, enum.Enum("Color", "RED BLUE").BLUE),
    ],
)
def test_different_configurations_have_different_fingerprints(one, other):
    assert fingerprint(one).digest != fingerprint(other).digest


def test_a_second_fit_of_an_equal_configuration_traces_nothing(traced):
    first = fit(metrics={"accuracy": nn.metrics.accuracy}, callbacks=[nn.callbacks.ema(0.9)])
    nn.evaluate(first, (X, Y)), nn.predict(first, X)
    made = len(traced)
    again = fit(metrics={"accuracy": nn.metrics.accuracy}, callbacks=[nn.callbacks.ema(0.9)])
    nn.evaluate(again, (X, Y)), nn.predict(again, X)
    assert len(traced) == made == 3
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)


def test_other_values_of_traced_hyperparameters_trace_nothing(traced):
    for rate in (0.1, 0.2):
        fit(optimizer=optax.sgd, hyperparameters={"learning_rate": rate})
    assert len(traced) == 1


@pytest.mark.slow
def test_another_number_of_epochs_traces_nothing(traced):
    for epochs in (1, 2, 70):
        assert fit(epochs=epochs, optimizer=optax.sgd, hyperparameters={"learning_rate": lambda step, rate: rate, "rate": 0.1})
    assert len(traced) == 1
    for epochs in (1, 2):  # where a schedule names it, it decides on the program
        fit(epochs=epochs, optimizer=optax.sgd, hyperparameters={"learning_rate": lambda step, steps: 1 / (step + steps)})
    assert len(traced) == 3


@pytest.mark.slow
def test_sizes_with_a_smaller_last_batch_share_programs(traced):
    def run(n, model):
        data = X[:n], Y[:n]
        return nn.fit(model, data, loss=nn.losses.cross_entropy, optimizer=optax.sgd(0.1), epochs=2, batch_size=4, key=KEY,
                      validation=(X[: n - 9], Y[: n - 9]), progress=False)  # fmt: skip

    nn.clear_programs()
    results = {n: run(n, network()) for n in (17, 18, 19, 21, 22, 23)}
    assert len(traced) == 1
    assert [result.history["step"] for result in results.values()] == 3 * [[5, 10]] + 3 * [[6, 12]]
    run(24, network())
    assert len(traced) == 2
    outputs = np.asarray(network()(results[18].params, X))
    for n in range(17, 24):
        assert nn.predict(results[18], X[:n]).shape == (n, 2)
        np.testing.assert_allclose(nn.predict(results[18], X[:n]), outputs[:n], rtol=1e-5)
    assert len(traced) == 3
    for n in range(17, 24):
        accuracy = nn.evaluate(results[18], (X[:n], Y[:n]), metrics={"a": nn.metrics.accuracy}, batch_size=4)["a"]
        assert accuracy == pytest.approx(np.mean(np.argmax(outputs[:n], -1) == Y[:n]))
    assert len(traced) == 4
    for n in (18, 22, 19):  # batch normalization needs the exact size
        run(n, nn.serial(nn.dense(4), nn.batch_norm(), nn.dense(2)))
    assert len(traced) == 6


@pytest.mark.slow
def test_a_grid_search_over_folds_takes_one_program(traced):
    order = np.random.default_rng(0).permutation(24)[:22]
    for rate in (0.01, 0.1, 1.0):
        for fold in range(3):
            train, test = order[np.arange(22) % 3 != fold], order[np.arange(22) % 3 == fold]
            nn.fit(network(), (X[train], Y[train]), validation=(X[test], Y[test]), loss=nn.losses.cross_entropy,
                   optimizer=optax.sgd, hyperparameters={"learning_rate": rate}, metrics={"top": nn.metrics.top_k_accuracy(1)},
                   epochs=1, batch_size=8, key=KEY, progress=False)  # fmt: skip
    assert len(traced) == 1


@pytest.mark.slow
def test_sweeps_of_other_sizes_and_epochs_share_programs(traced):
    def run(n, epochs):
        rates = {"learning_rate": [0.1, 0.2]}
        return nn.sweep(network(), (X[:n], Y[:n]), rates, loss=nn.losses.cross_entropy, optimizer=optax.sgd, epochs=epochs,
                        batch_size=4, key=KEY, progress=False)  # fmt: skip

    run(20, 1)
    made = len(traced)
    run(20, 3)
    other = run(24, 1)
    assert len(traced) == made
    alone = nn.fit(network(), (X[:24], Y[:24]), loss=nn.losses.cross_entropy, optimizer=optax.sgd, epochs=1, batch_size=4,
                   hyperparameters={"learning_rate": 0.2}, key=jax.random.fold_in(KEY, 0), progress=False)  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), other.member(1).params, alone.params)


@pytest.mark.slow
def test_learning_rates_of_other_sizes_share_a_program_and_are_those_of_a_loop(traced):
    options = {"loss": nn.losses.mse, "optimizer": optax.sgd}
    rates = 1e-3 * 1e2 ** (np.arange(10) / 9)
    x, y = 1 + 0.01 * X, 9 + 0.01 * X[:, :1]  # so that the loss falls, whatever the order
    init, step, *_ = nn.training(nn.dense(1), **options, hyperparameters={"learning_rate": 0.0})
    step = jax.jit(step)
    for n in (21, 24):
        found = nn.find_learning_rate(
            nn.dense(1), (x[:n], y[:n]), **options, key=KEY, batch_size=5, low=1e-3, high=0.1, steps=10
        )
        state, losses = init(KEY, x[:5]), []
        for i, rate in enumerate(rates):
            epoch, position = divmod(i, 4)
            samples = np.asarray(shuffled(jax.random.fold_in(KEY, epoch), n))[position * 5 :][:5]
            state = state._replace(hyperparameters={"learning_rate": jnp.float32(rate)})
            state, loss, _ = step(state, (x[samples], y[samples]))
            losses.append(float(loss))
        np.testing.assert_allclose(found.losses, losses, rtol=1e-4)
    assert len(traced) == 1


@pytest.mark.slow
def test_predictions_of_members_for_other_sizes_share_a_program(traced):
    swept = nn.sweep(nn.dense(2), (X, Y), {"learning_rate": [0.1, 0.2]}, loss=nn.losses.cross_entropy, optimizer=optax.sgd,
                     epochs=1, key=KEY, progress=False)  # fmt: skip
    made = len(traced)
    for n in (17, 24):
        found = nn.population.predict_members(swept, X[:n], batch_size=4)
        for i in range(2):
            params = swept.member(i).params
            np.testing.assert_allclose(found[i], X[:n] @ params["kernel"] + params["bias"], rtol=1e-5, atol=1e-6)
    assert len(traced) == made + 1


def test_programs_of_one_text_are_compiled_once():
    one = compiled.program("test", lambda: lambda x: x + 1, (lambda: 1,), (jnp.ones(3),))
    other = compiled.program("test", lambda: lambda x: x + 1, (lambda: 2,), (jnp.ones(3),))
    assert one is not other
    assert one.compile() is other.compile()


def test_programs_of_one_text_that_take_other_unused_arguments_are_different():
    def run(size, dtype):
        arguments = jnp.ones(3), jnp.ones(size, dtype)
        return compiled.program("unused", lambda: lambda x, _: x + 1, (), arguments)(*arguments)

    for size, dtype in ((2, jnp.float32), (4, jnp.float32), (2, jnp.int32)):
        np.testing.assert_array_equal(run(size, dtype), np.full(3, 2, np.float32))


# --- what a function reads is part of its program ---

SCALE = 1.0
TABLE = np.ones(2, np.float32)
SETTINGS = types.SimpleNamespace(scale=1.0)
MODULE = types.ModuleType("settings_of_the_user")
MODULE.scale = 1.0


def scaled_by_a_global(predictions, y):
    return SCALE * nn.losses.cross_entropy(predictions, y)


def scaled_by_an_array(predictions, y):
    return nn.losses.cross_entropy(predictions * TABLE[None], y)


def scaled_by_an_attribute(predictions, y):
    return SETTINGS.scale * nn.losses.cross_entropy(predictions, y)


def scaled_by_a_module(predictions, y):
    return MODULE.scale * nn.losses.cross_entropy(predictions, y)


def scaled_by_a_class(predictions, y):
    return Options.scale * nn.losses.cross_entropy(predictions, y)


def scaled_in_a_way_that_cannot_be_followed(predictions, y):
    return getattr(MODULE, "scale") * nn.losses.cross_entropy(predictions, y)  # noqa: B009


def set_global(value):
    globals()["SCALE"] = value


CHANGES = {
    scaled_by_a_global: set_global,
    scaled_by_an_array: lambda value: TABLE.fill(value),
    scaled_by_an_attribute: lambda value: setattr(SETTINGS, "scale", value),
    scaled_by_a_module: lambda value: setattr(MODULE, "scale", value),
    scaled_by_a_class: lambda value: setattr(Options, "scale", value),
    scaled_in_a_way_that_cannot_be_followed: lambda value: setattr(MODULE, "scale", value),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("loss", CHANGES, ids=lambda loss: loss.__name__)
def test_no_program_is_behind_what_a_loss_reads(loss):
    model = network()
    params, state = model.init(KEY, X)

    def value():
        expected = float(loss(model(params, X), Y))
        assert nn.evaluate((model, params, state), (X, Y), loss=loss)["loss"] == pytest.approx(expected, rel=1e-5)
        result = fit(model, loss, optimizer=optax.sgd(0.0), batch_size=24, initial=(params, state))
        return expected, result.history["loss"][0]

    try:
        before = value()
        CHANGES[loss](10.0)
        after = value()
    finally:
        CHANGES[loss](1.0)
    assert before[0] != pytest.approx(after[0], rel=1e-3)
    assert before[1] != pytest.approx(after[1], rel=1e-3)
    assert value() == before


def test_no_prediction_is_behind_what_a_layer_reads():
    factor = {"value": 1.0}
    model = nn.serial(nn.dense(2), lambda x: x * factor["value"])
    params, state = model.init(KEY, X)
    before = nn.predict((model, params, state), X)
    factor["value"] = 3.0
    np.testing.assert_allclose(nn.predict((model, params, state), X), 3 * before, rtol=1e-6)


@pytest.mark.slow
def test_no_sweep_is_behind_what_its_schedule_reads():
    factor = {"value": 0.0}

    def rate(step):
        return factor["value"] / (1 + step)

    def swept():
        return nn.sweep(
            network(), (X, Y), {"seed_of_it": [1]}, loss=nn.losses.cross_entropy, optimizer=lambda learning_rate, seed_of_it: (
                optax.sgd(learning_rate)
            ), hyperparameters={"learning_rate": rate}, epochs=1, key=KEY, progress=False,
        ).params  # fmt: skip

    before = swept()
    factor["value"] = 0.5
    assert not np.allclose(before["dense"]["kernel"], swept()["dense"]["kernel"])


@pytest.mark.slow
def test_settings_of_jax_are_part_of_a_program(traced):
    fit()
    with jax.default_matmul_precision("highest"):
        fit()
    with nn.kernels.definitions():
        fit()
    assert len(traced) == 3


# --- bounds ---


@pytest.mark.slow
def test_no_model_is_kept_alive():
    model = network()
    dead = weakref.ref(model)
    loss = lambda predictions, y: nn.losses.cross_entropy(predictions, y)  # noqa: E731
    dead_loss = weakref.ref(loss)
    nn.predict(fit(model, loss), X)
    del model, loss
    gc.collect()
    assert dead() is None and dead_loss() is None


def test_the_cache_is_bounded_and_can_be_cleared(monkeypatch, traced):
    nn.clear_programs()
    monkeypatch.setattr(compiled, "MOST_PROGRAMS", 2)
    for size in (1, 2, 3):
        compiled.program("test", lambda: lambda x: x, (), (jnp.ones(size),))
    assert len(compiled._programs) == 2
    compiled.program("test", lambda: lambda x: x, (), (jnp.ones(3),))
    assert len(traced) == 3
    compiled.program("test", lambda: lambda x: x, (), (jnp.ones(1),))
    assert len(traced) == 4
    nn.clear_programs()
    assert not compiled._programs and not compiled._executables
