"""Objectives in training: terms in the history, predictions that are numbers, data of any structure."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
MODEL = nn.serial(nn.dense(2), nn.dense(3))


def reconstruct(model, params, state, batch, key):
    y, state = model.apply(params, state, batch, key=key, training=key is not None)
    error, penalty = nn.losses.mse(y, batch), jnp.sum(params["dense"]["kernel"] ** 2)
    return error + 0.1 * penalty, (state, {"error": error, "penalty": penalty})


def fit(data=X, loss=None, **options):
    loss = nn.Objective(reconstruct, terms=("error", "penalty")) if loss is None else loss
    defaults = {"optimizer": optax.sgd(0.0), "epochs": 1, "key": KEY, "batch_size": 4, "progress": False}
    return nn.fit(MODEL, data, loss=loss, **{**defaults, **options})


@pytest.mark.sample(1)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_terms_of_an_objective_are_in_the_history_and_in_evaluate(accumulate):
    result = fit(validation=X[:7], accumulate=accumulate)
    hidden = lambda x: np.asarray(MODEL(result.params, x), np.float64)  # noqa: E731
    penalty = float(np.sum(np.asarray(result.params["dense"]["kernel"], np.float64) ** 2))
    row = result.history.last
    for prefix, x in (("", X), ("val_", X[:7])):  # batches of 4, 4 and 2 samples, and of 4 and 3
        error = float(np.mean((hidden(x) - x) ** 2))
        assert row[f"{prefix}error"] == pytest.approx(error, rel=1e-5)
        assert row[f"{prefix}penalty"] == pytest.approx(penalty, rel=1e-5)
        assert row[f"{prefix}loss"] == pytest.approx(error + 0.1 * penalty, rel=1e-5)
    values = nn.evaluate(result, X, batch_size=3)
    assert values["error"] == pytest.approx(row["error"], rel=1e-5)
    assert values["penalty"] == pytest.approx(penalty, rel=1e-5)


def test_a_metric_may_read_predictions_that_are_numbers():
    result = fit(loss=nn.Objective(reconstruct), metrics={"penalty": lambda predictions, batch: predictions["penalty"]})
    assert result.history.last["penalty"] == pytest.approx(float(jnp.sum(result.params["dense"]["kernel"] ** 2)), rel=1e-5)


@pytest.mark.slow
def test_the_inputs_of_an_objective_initialize_the_model():
    def named(model, params, state, batch, key):
        y, state = model.apply(params, state, batch["image"])
        return nn.losses.mse(y, batch["image"]) + 0.0 * jnp.sum(batch["index"]), (state, None)

    loss = nn.Objective(named, inputs=lambda batch: batch["image"] * 1.0)
    data = {"image": X, "index": np.arange(10, dtype=np.float32)}
    expected = fit(loss=nn.Objective(lambda m, p, s, x, key: (nn.losses.mse(m(p, x), x), (s, None)))).params
    result = fit(data, loss, validation=data)
    jax.tree.map(np.testing.assert_array_equal, result.params, expected)
    assert nn.inspect.find_nonfinite(MODEL, result.params, {}, data, loss=loss) is None
    run = nn.training(MODEL, loss=loss, optimizer=optax.sgd(0.0), epochs=1, batch_size=4).run
    jax.tree.map(np.testing.assert_array_equal, jax.jit(run)(KEY, data)[0].params, expected)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.Objective(reconstruct, terms="error"), TypeError, "a tuple of names"),
        (lambda: nn.Objective(reconstruct, inputs="image"), TypeError, r"inputs as a function \(batch\) -> x"),
        (lambda: fit(loss=nn.Objective(reconstruct, terms=("kl",))), ValueError, "has the term 'kl'.*penalty: float32"),
        (
            lambda: fit(loss=nn.Objective(lambda m, p, s, x, key: (jnp.mean(m(p, x)), (s, {"kl": x})), terms=("kl",))),
            ValueError,
            r"'kl'.*one number per batch, got float32\[4, 3\]",
        ),
    ],
)
def test_errors_of_terms_and_inputs(call, error, words):
    with pytest.raises(error, match=words):
        call()
