"""Data sets, a share held out for validation, clipped gradients and class weights in `fit`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.problem.holdout import held_out

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = (np.arange(40, dtype=np.int32) % 10 > 6).astype(np.int32)  # 28 and 12 of a class
MODEL = nn.dense(2)


def fit(data=(X, Y), **options):
    defaults = {
        "loss": nn.losses.cross_entropy,
        "optimizer": optax.sgd(0.1),
        "epochs": 2,
        "key": KEY,
        "batch_size": 16,
        "progress": False,
    }
    return nn.fit(MODEL, data, **{**defaults, **options})


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_data_set_is_its_pair():
    data = nn.data.from_arrays(X, Y)
    result = fit(data, validation=data)
    expected = fit(validation=(X, Y))
    assert_same(result.params, expected.params)
    assert result.history.last["val_loss"] == expected.history.last["val_loss"]
    assert nn.evaluate(result, data) == nn.evaluate(result, (X, Y))
    np.testing.assert_array_equal(nn.predict(result, data), nn.predict(result, X))


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_a_share_held_out_is_spread_over_the_classes_and_leaves_the_rest(convert):
    rows = convert(np.arange(40, dtype=np.float32)[:, None])
    (x, y), (x_out, y_out) = held_out((rows, convert(Y)), 0.25, KEY)
    np.testing.assert_array_equal(np.bincount(y_out), [7, 3])
    assert sorted([*np.asarray(x)[:, 0], *np.asarray(x_out)[:, 0]]) == list(range(40))
    np.testing.assert_array_equal(y_out, Y[np.asarray(x_out)[:, 0].astype(int)])
    np.testing.assert_array_equal(y, Y[np.asarray(x)[:, 0].astype(int)])
    again = held_out((rows, convert(Y)), 0.25, KEY)[1][0]
    other = held_out((rows, convert(Y)), 0.25, jax.random.key(1))[1][0]
    np.testing.assert_array_equal(again, x_out)
    assert set(np.asarray(other)[:, 0]) != set(np.asarray(x_out)[:, 0])


def test_a_share_held_out_is_the_validation_data():
    kept, out = held_out((X, Y), 0.25, KEY)
    expected = fit(kept, validation=out)
    result = fit(validation=0.25)
    assert_same(result.params, expected.params)
    assert result.history.last["val_loss"] == expected.history.last["val_loss"]


@pytest.mark.slow
def test_a_sweep_takes_a_data_set_a_share_held_out_and_clips():
    options = {"loss": nn.losses.cross_entropy, "epochs": 2, "key": KEY, "batch_size": 16, "clip_norm": 0.05}
    space = {"learning_rate": [0.1, 0.3]}
    kept, out = held_out((X, Y), 0.25, KEY)
    data = nn.data.from_arrays(X, Y)
    result = nn.sweep(MODEL, data, space, optimizer=optax.sgd, validation=0.25, progress=False, **options)
    options |= {"key": jax.random.fold_in(KEY, 0)}
    for i, rate in enumerate(space["learning_rate"]):
        one = nn.fit(MODEL, kept, optimizer=optax.sgd(rate), validation=out, progress=False, **options)
        np.testing.assert_allclose(result.member(i).params["kernel"], one.params["kernel"], rtol=1e-5, atol=1e-6)
        assert result.rows[i]["val_loss"] == pytest.approx(one.history.last["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("validation", "data", "error", "words"),
    [
        (1.5, (X, Y), ValueError, "share of the data above 0 and below 1, got 1.5"),
        (0.01, (X, Y), ValueError, "of 40 samples is 0"),
        (0.2, [(X, Y)].__iter__, TypeError, r"in memory only: give validation=\(x, y\)"),
    ],
    ids=["not a share", "no sample", "batches"],
)
def test_errors_of_a_share(validation, data, error, words):
    with pytest.raises(error, match=words):
        fit(data, validation=validation)


@pytest.mark.sample(1)
@pytest.mark.parametrize("clip_norm", [0.01, 1e6])
def test_clipped_gradients_are_those_of_optax(clip_norm):
    result = fit(clip_norm=clip_norm)
    expected = fit(optimizer=optax.chain(optax.clip_by_global_norm(clip_norm), optax.sgd(0.1)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), result.params, expected.params)


def test_class_weights_are_those_of_the_loss():
    weights = np.array([0.5, 2.0])
    loss = partial(nn.losses.cross_entropy, class_weights=(0.5, 2.0))
    result = fit(loss=loss, optimizer=optax.sgd(0.0), epochs=1, batch_size=40)
    logits = np.asarray(nn.predict(result, X), np.float64)
    each = -logits[np.arange(40), Y] + np.log(np.exp(logits).sum(1))
    expected = np.sum(weights[Y] * each) / np.sum(weights[Y])
    assert result.history.last["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"clip_norm": 0.0}, ValueError, "clip_norm above 0"),
        ({"optimizer": "Adam"}, TypeError, r"got 'Adam': write optax.adam\(1e-3\)"),
        ({"loss": "mean_squared_error"}, TypeError, "got 'mean_squared_error': write nn.losses.mse"),
        ({"loss": "mse"}, TypeError, "got 'mse': write nn.losses.mse"),
        ({"loss": "unknown"}, TypeError, "write a function, such as nn.losses.mse"),
    ],
)
def test_errors_of_options(options, error, words):
    with pytest.raises(error, match=words):
        fit(**options)
