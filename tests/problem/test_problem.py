"""`Problem`, and what is bound to it: hyperparameters, objective, key."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.problem.hyperparameters import Hyperparameters
from jaxnn.problem.problem import Problem
from jaxnn.problem.running import totals_of

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


@pytest.mark.parametrize(
    ("given", "kind", "value"),
    [
        (np.int64(8), "fixed", 8),
        (np.array(8), "fixed", 8),
        (jnp.asarray(8, jnp.int32), "fixed", 8),
        (np.bool_(True), "fixed", True),
        (np.str_("a"), "fixed", "a"),
        (None, "fixed", None),
        (nn.tanh, "fixed", nn.tanh),
        (np.float64(0.5), "traced", 0.5),
        (np.float16(0.5), "traced", 0.5),
        (jnp.asarray(0.5), "traced", 0.5),
        (optax.constant_schedule(0.5), "schedules", 0.5),
    ],
)
def test_one_list_of_kinds(given, kind, value):
    known = Hyperparameters.of({"name": given})
    assert [name for name in ("fixed", "traced", "schedules") if getattr(known, name)] == [kind]
    found = known.at()["name"]
    assert found == value and (kind != "fixed" or type(found) is type(value))
    [setting] = nn.population.grid({"name": [given]})
    assert Hyperparameters.of(setting).at()["name"] == value


def test_a_schedule_is_given_its_parameters_by_name():
    given = {"rate": lambda epoch, step, epochs, base: base * 100 + 10 * epoch + step + epochs / 10, "base": 2.0, "epochs": 4}
    assert float(Hyperparameters.of(given).at(None, 5, 3)["rate"]) == pytest.approx(235.4)
    positional = eval("lambda count, /: 2.0 * count")
    assert Hyperparameters.of({"rate": positional}).at(None, 5, 3)["rate"] == 10.0
    unknown = Hyperparameters.of({"rate": lambda step, decay: step * decay})
    with pytest.raises(
        TypeError, match=r"'rate' has the parameter decay; .* step \(or count\), epoch, epochs, steps, steps_per"
    ):
        unknown.at()
    with pytest.raises(ValueError, match="'epoch', which is the run's epoch and also a hyperparameter"):
        Hyperparameters.of({"rate": lambda epoch: epoch, "epoch": 1})


@pytest.mark.parametrize("given", [[1], {"rate": float("nan")}, {"rate": [1, 2]}, {"rate": object()}, {"rate": KEY}])
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


# --- the weight of a loss in a mean over batches ---

MASK = np.arange(5)[None] < np.array([5, 1, 2, 4, 3, 1, 5, 2, 1, 3, 4, 2])[:, None]
TOKENS = np.random.default_rng(2).normal(size=(12, 5, 3)).astype(np.float32)
CLASSES = np.random.default_rng(3).integers(0, 3, (12, 5)).astype(np.int32)


def masked(predictions, y):
    return nn.losses.cross_entropy(predictions, y[0], where=y[1])


def as_sum_and_weight(predictions, y):
    return nn.losses.cross_entropy(predictions, y[0], where=y[1], reduction="sum"), y[1].sum()


class Wrapped:
    """An object that computes the loss inside a function that JAX has compiled before, by another branch."""

    def __init__(self):
        self.compiled = jax.jit(jax.checkpoint(masked))

    def __call__(self, predictions, y):
        return 2.0 * self.compiled(predictions, y) / 2.0


def as_objective(model, params, state, batch, key):
    x, y = batch
    predictions, state = model.apply(params, state, x, key=key, training=key is not None)
    return masked(predictions, y), (state, predictions)


def by_weights(predictions, y):
    return nn.losses.cross_entropy(predictions, y[0], weights=y[1].astype(predictions.dtype))


TOKEN_LOSSES = [masked, as_sum_and_weight, Wrapped(), nn.Objective(as_objective), by_weights]


def token_loss(params):
    """The mean over all unmasked tokens, in float64."""
    logits = TOKENS.astype(np.float64) @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(logits, CLASSES[..., None], -1)[..., 0][MASK].mean()


@pytest.mark.sample(1)
@pytest.mark.parametrize("loss", TOKEN_LOSSES)
def test_means_over_batches_count_what_a_masked_loss_counts(loss):
    model, data = nn.dense(3), (TOKENS, (CLASSES, MASK))
    params, state = model.init(KEY, TOKENS)
    for batch_size in (1, 5, 12):
        values = nn.evaluate((model, params, state), data, loss=loss, batch_size=batch_size)
        assert values["loss"] == pytest.approx(token_loss(params), rel=1e-5)
    step = lambda parts: jax.jit(nn.train_step(model, loss=loss, optimizer=optax.sgd(0.5), accumulate=parts))  # noqa: E731
    start = nn.init_train_state(model, optax.sgd(0.5), KEY, TOKENS)
    whole, value, _ = step(1)(start, data)
    assert float(value) == pytest.approx(token_loss(start.params), rel=1e-5)
    parts, value, predictions = step(5)(start, data)
    assert float(value) == pytest.approx(token_loss(start.params), rel=1e-5) and predictions.shape == (12, 5, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole.params, parts.params)


def test_a_metric_and_sample_weights_count_tokens():
    model, data = nn.dense(3), (TOKENS, (CLASSES, MASK))
    params, state = model.init(KEY, TOKENS)
    metrics = {"token": masked, "given": as_sum_and_weight}
    values = nn.evaluate((model, params, state), data, metrics=metrics, batch_size=5)
    assert values == pytest.approx({"token": token_loss(params), "given": token_loss(params)}, rel=1e-5)
    kept = np.arange(12) % 3 > 0
    some = nn.evaluate((model, params, state), (TOKENS[kept], (CLASSES[kept], MASK[kept])), loss=masked)["loss"]
    loss = lambda p, y, reduction="mean": nn.losses.cross_entropy(p, y[0], where=y[1], reduction=reduction)  # noqa: E731
    weighted = (TOKENS, (CLASSES, MASK), kept.astype(np.float32))
    assert nn.evaluate((model, params, state), weighted, loss=loss, batch_size=5)["loss"] == pytest.approx(some, rel=1e-5)


@pytest.mark.slow
def test_a_run_and_a_sweep_report_the_mean_over_tokens():
    model, data = nn.dense(3), (TOKENS, (CLASSES, MASK))
    options = {"loss": masked, "epochs": 1, "key": KEY, "batch_size": 5, "progress": False, "validation": data}
    result = nn.fit(model, data, optimizer=optax.sgd(0.0), **options)
    expected = pytest.approx(token_loss(result.params), rel=1e-5)
    assert result.history["loss"][0] == expected and result.history["val_loss"][0] == expected
    member = nn.sweep(model, data, {"learning_rate": [0.0]}, optimizer=optax.sgd, **options).member(0)
    expected = pytest.approx(token_loss(member.params), rel=1e-5)
    assert member.row["loss"] == expected and member.row["val_loss"] == expected


def test_sums_over_many_batches_neither_drift_nor_stop_at_two_to_the_24():
    """Against exact sums of the same float32 losses and weights."""
    totals = totals_of(None)

    def sums(losses, weights, start=None):
        one = lambda carry, item: (totals.update(carry, *item, None, ()), None)  # noqa: E731
        return jax.lax.scan(one, totals.start() if start is None else start, (losses, weights))[0]

    first = jax.jit(sums)(jnp.ones(1), jnp.full(1, 2.0**24))
    losses, ones = np.full(100_000, 0.1, np.float32), np.ones(100_000, np.float32)
    last = jax.jit(sums)(losses, ones, first)
    expected = (2**24 + math.fsum(losses.astype(np.float64))) / (2**24 + 100_000)
    assert float(totals.finish(last)["loss"]) == np.float32(expected)
    few = np.random.default_rng(2).integers(0, 100, (2, 50)).astype(np.float32)  # whose sums are exact
    assert float(totals.finish(jax.jit(sums)(*few))["loss"]) == np.float32((few[0] * few[1]).sum() / few[1].sum())


def test_a_mean_inside_a_map_counts_as_its_samples():
    from jaxnn.functional._counted import weight_found

    each = lambda p, y: jax.vmap(lambda p, c, m: masked(p, (c, m)))(p, *y).mean()  # noqa: E731
    y = jnp.asarray(CLASSES), jnp.asarray(MASK)
    assert weight_found(each, jnp.asarray(TOKENS), y) is None
    assert weight_found(lambda p, y: masked(p, y) + masked(2 * p, y), jnp.asarray(TOKENS), y) is None
    assert float(weight_found(masked, jnp.asarray(TOKENS), y)) == MASK.sum()


@pytest.mark.parametrize("loss", [lambda p, y: (jnp.zeros(()),), lambda p, y: (jnp.zeros(3), jnp.ones(()))])
def test_a_loss_returns_a_number_or_sum_and_weight(loss):
    with pytest.raises(ValueError, match=r"or \(sum, weight\), two numbers"):
        nn.evaluate((nn.dense(1), *nn.dense(1).init(KEY, X)), (X, Y), loss=loss)
