"""`Problem`, and what is bound to it: hyperparameters, objective, key."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.problem.hyperparameters import Hyperparameters
from jaxnn.problem.problem import Problem

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(12, 1)).astype(np.float32)


def test_the_objective_is_the_loss_by_hand():
    problem = Problem(nn.dense(1), nn.losses.mse)
    params, state = problem.at().layer.init(KEY, X)
    value, (_, predictions) = problem.objective(params, state, (X, Y))
    expected = X @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(predictions, expected, rtol=1e-6)
    assert float(value) == pytest.approx(float(np.mean((expected - Y) ** 2)), rel=1e-6)
    gradient, _ = jax.grad(problem.objective, has_aux=True)(params, state, (X, Y))
    np.testing.assert_allclose(gradient["kernel"], 2 * X.T @ (expected - Y) / 12, rtol=1e-5)


def test_weights_and_a_loss_that_is_no_scalar():
    problem = Problem(nn.dense(1), nn.losses.mse)
    params, state = problem.at().layer.init(KEY, X)
    weights = np.arange(12, dtype=np.float32)
    value, (_, predictions) = problem.objective(params, state, (X, Y, weights))
    each = (np.asarray(predictions) - Y)[:, 0] ** 2
    assert float(value) == pytest.approx(float((each * weights).sum() / weights.sum()), rel=1e-5)
    each = Problem(nn.dense(1), lambda p, y: nn.losses.mse(p, y, reduction="none"))
    with pytest.raises(ValueError, match="the loss is one number per batch"):
        each.objective(params, state, (X, Y))


def test_a_train_state_binds_values_and_key():
    given = {"rate": 0.25, "units": 2, "scale": lambda step: 1.0 * step}
    model = lambda rate, units: nn.serial(nn.dropout(rate), nn.dense(units))  # noqa: E731
    problem = Problem(model, lambda p, y, scale: scale * nn.losses.mse(p, y), given)
    training = nn.training(model, loss=problem.loss, optimizer=optax.sgd(0.1), hyperparameters=given)
    train_state = training.init(KEY, X)._replace(step=jnp.asarray(3, jnp.int32))
    bound = problem.at(train_state)
    assert {name: float(value) for name, value in bound.values.items()} == {"rate": 0.25, "units": 2, "scale": 3.0}
    assert bound.layer.children["dense"].name == "dense" and bound.key is not None
    changed = train_state._replace(hyperparameters={"rate": jnp.asarray(0.5)})
    assert float(problem.at(changed).values["rate"]) == 0.5


def test_problems_are_compared_without_traced_values():
    model = nn.dense(1)
    one, other = (Problem(model, nn.losses.mse, {"rate": rate, "units": 3}) for rate in (0.1, 0.2))
    assert one == other and hash(one) == hash(other)
    assert one != Problem(model, nn.losses.mse, {"rate": 0.1, "units": 4})
    assert one != Problem(nn.dense(1), nn.losses.mse, {"rate": 0.1, "units": 3})
    with pytest.raises(AttributeError):
        one.loss = nn.losses.mae


def test_a_default_of_a_factory_is_not_replaced_by_the_length_of_the_run():
    seen = {}

    def model(units, steps=7):
        seen["steps"] = steps
        return nn.dense(units)

    def optimizer(epochs, steps_per_epoch=5):
        seen["epochs"], seen["steps_per_epoch"] = epochs, steps_per_epoch
        return optax.sgd(0.1)

    nn.fit(model, (X, Y), loss=nn.losses.mse, optimizer=optimizer, hyperparameters={"units": 1}, epochs=2, batch_size=4,
           key=KEY, progress=False)  # fmt: skip
    assert seen == {"steps": 7, "epochs": 2, "steps_per_epoch": 5}


@pytest.mark.parametrize("given", [[1], {"rate": float("nan")}, {"rate": [1, 2]}, {"rate": object()}])
def test_hyperparameters_that_are_none_are_refused(given):
    with pytest.raises((TypeError, ValueError)):
        Hyperparameters.of(given)


# --- the bundle of pure functions ---


def test_the_parts_of_training_are_one_run():
    options = {"loss": nn.losses.mse, "optimizer": optax.adam, "hyperparameters": {"learning_rate": 0.1}, "batch_size": 5}
    options |= {"metrics": {"mae": nn.metrics.mae}, "callbacks": [nn.callbacks.ema(0.9)]}
    init, step, epoch, run = nn.training(nn.dense(1), epochs=2, **options)
    state = init(KEY, X)
    for _ in range(2):
        state, logs = jax.jit(epoch)(state, (X, Y))
    whole, history = jax.jit(run)(KEY, (X, Y))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.params, whole.params)
    assert float(history["mae"][-1]) == pytest.approx(float(logs["mae"]), rel=1e-6)
    result = nn.fit(nn.dense(1), (X, Y), epochs=2, key=KEY, progress=False, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.params, result.train_state.params)
    after, value, predictions = step(init(KEY, X), (X, Y))
    assert int(after.step) == 1 and value.shape == () and predictions.shape == (12, 1)


def test_a_run_needs_the_number_of_epochs():
    _, _, _, run = nn.training(nn.dense(1), loss=nn.losses.mse, optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match="epochs=10"):
        run(KEY, (X, Y))


# --- what an objective is evaluated on ---


def reconstruct(model, params, state, batch, key):
    y, state = model.apply(params, state, batch, key=key, training=key is not None)
    return nn.losses.mse(y, batch["x"]), (state, y)


@pytest.mark.slow
def test_evaluate_and_the_finder_take_the_data_of_an_objective():
    data, loss = {"x": X}, nn.Objective(reconstruct)
    model = nn.serial(nn.dense(2), nn.dense(3))

    def init_on_x(key, batch):
        return model.init(key, batch["x"])

    on_dicts = nn.Layer(init_on_x, lambda p, s, batch, *, key, training: model.apply(p, s, batch["x"]), "on_dicts")
    result = nn.fit(on_dicts, data, loss=loss, optimizer=optax.adam(0.1), epochs=2, key=KEY, batch_size=4, progress=False)
    expected = float(nn.losses.mse(model(result.params, X), X))
    for batch_size in (5, 12):
        assert nn.evaluate(result, data, batch_size=batch_size)["loss"] == pytest.approx(expected, rel=1e-5)
    found = nn.find_learning_rate(on_dicts, data, loss=loss, optimizer=optax.adam, key=KEY, steps=20, batch_size=4)
    assert np.isfinite(found.losses).all()


def test_metrics_alone_are_evaluated_with_weights():
    model = nn.dense(2)
    params, state = model.init(KEY, X)
    labels = (X[:, 0] > 0).astype(np.int32)
    weights = (np.arange(12) % 2).astype(np.float32)
    values = nn.evaluate((model, params, state), (X, labels, weights), metrics={"accuracy": nn.metrics.accuracy})
    right = np.asarray(model(params, X)).argmax(1) == labels
    assert values == {"accuracy": pytest.approx(float(right[1::2].mean()))}
