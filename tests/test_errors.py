"""Error messages for invalid input, in one table: what was expected, what came, in which layer, and how to fix it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
Y = np.arange(20, dtype=np.int32) % 3


def fit(x=X, y=Y, model=None, **options):
    defaults = {
        "loss": nn.losses.cross_entropy,
        "optimizer": optax.sgd(0.1),
        "epochs": 1,
        "key": KEY,
        "batch_size": 8,
        "progress": False,
    }
    return nn.fit(model or nn.serial(hidden=nn.dense(5), head=nn.dense(3)), (x, y), **{**defaults, **options})


def with_nan():
    x = X.copy()
    x[7, 2] = np.nan
    return x


def images():
    model = nn.serial(stem=nn.conv(3, 3), pool=nn.global_avg_pool())
    return model, model.init(KEY, jnp.ones((1, 6, 6, 2)))[0]


def apply_to(model_and_params, x):
    model, params = model_and_params
    return model(params, x)


CASES = {
    "wrong rank, conv": (lambda: apply_to(images(), jnp.ones((6, 2))), ValueError, ["batch", "spatial", "[6, 2]", "'stem'"]),
    "an image without channels": (lambda: apply_to(images(), jnp.ones((6, 6))), ValueError, ["x[..., None]", "'stem'"]),
    "wrong channels": (lambda: apply_to(images(), jnp.ones((1, 6, 6, 3))), ValueError, ["3", "2", "'stem'"]),
    "wrong rank, lstm": (
        lambda: nn.serial(core=nn.lstm(3)).init(KEY, X),
        ValueError,
        ["(batch, time, features)", "[20, 4]", "'core'"],
    ),
    "wrong feature count": (
        lambda: apply_to((nn.serial(a=nn.dense(3)), nn.serial(a=nn.dense(3)).init(KEY, X)[0]), X[:, :2]),
        ValueError,
        ["4 input features", "[20, 2]", "init", "'a'", "kernel float32[4, 3]"],
    ),
    "wrong feature count, in fit": (
        lambda: fit(initial=nn.serial(hidden=nn.dense(5), head=nn.dense(3)).init(KEY, X[:, :2])),
        ValueError,
        ["2 input features", "'hidden'"],
    ),
    "data with one axis": (lambda: fit(X[:, 0]), ValueError, ["[8]", "x[:, None]", "'hidden'"]),
    "metrics without names": (lambda: fit(metrics=[nn.metrics.accuracy]), TypeError, ["by name", "accuracy"]),
    "a metric called loss": (lambda: fit(metrics={"loss": nn.metrics.accuracy}), ValueError, ["another name"]),
    "a metric that is not a function": (lambda: fit(metrics={"a": "accuracy"}), TypeError, ["Metric", "'accuracy'"]),
    "parameters of another model": (
        lambda: fit(initial=nn.dense(3).init(KEY, X)),
        ValueError,
        ["['hidden', 'head']", "['bias', 'kernel']"],
    ),
    "lengths that differ": (lambda: fit(X, Y[:-1]), ValueError, ["[20, 4]", "[19]", "one entry per sample"]),
    "lengths that differ, validation": (
        lambda: fit(validation=(X, Y[:3])),
        ValueError,
        ["validation", "[20, 4]", "[3]"],
    ),
    "no data": (lambda: fit(X[:0], Y[:0]), ValueError, ["no samples", "[0, 4]"]),
    "not a pair": (
        lambda: nn.fit(nn.dense(3), X, loss=nn.losses.mse, optimizer=optax.sgd(0.1), epochs=1, key=KEY),
        TypeError,
        ["(x, y)"],
    ),
    "NaN": (lambda: fit(with_nan()), ValueError, ["NaN", "1 of 20 samples", "index 7", "drop"]),
    "NaN on the device": (lambda: fit(jnp.asarray(with_nan())), ValueError, ["NaN", "index 7"]),
    "infinite targets": (lambda: fit(X, np.full((20, 3), np.inf, np.float32)), ValueError, ["infinite", "y of the data"]),
    "a label too large": (lambda: fit(X, Y + 1), ValueError, ["0 to 2", "1 to 3", "4 features"]),
    "a negative label": (lambda: fit(X, Y - 1), ValueError, ["0 to 2", "-1 to 1"]),
    "a label too large in validation": (lambda: fit(validation=(X, Y + 5)), ValueError, ["0 to 2", "5 to 7"]),
    "float64": (lambda: fit(X.astype(np.float64)), ValueError, ["float64", "astype", "jax_enable_x64"]),
    "labels beyond 32 bits": (lambda: fit(X, Y.astype(np.int64) + 2**40), ValueError, ["int64", "int32", "cannot represent"]),
    "strings": (lambda: fit(X, np.array(["a"] * 20)), TypeError, ["numbers", "encode"]),
    "a layer that cannot be called": (lambda: nn.serial(nn.dense(3), "relu"), TypeError, ["'relu'", "function of x"]),
    "a layer factory that was not called": (lambda: nn.serial(nn.flatten), TypeError, ["call it", "flatten(...)"]),
    "linear in place of dense": (lambda: nn.serial(nn.linear(10)), TypeError, ["the fully connected layer is nn.dense(10)"]),
    "a reserved name": (lambda: nn.serial(**{"a/b": nn.dense(3)}), ValueError, ["'a/b'", "separates the names", "instead"]),
    "two layers of one name": (
        lambda: nn.serial(nn.dense(3), dense=nn.dense(4)),
        ValueError,
        ["two layers are called 'dense'", "another name"],
    ),
    "no key in fit": (
        lambda: nn.fit(nn.dense(3), (X, Y), loss=nn.losses.cross_entropy, optimizer=optax.sgd(0.1), epochs=1),
        TypeError,
        ["key"],
    ),
    "a seed for a key": (lambda: fit(key=0), TypeError, ["jax.random.key(0)", "int 0"]),
    "no key in training": (
        lambda: nn.serial(drop=nn.dropout(0.5)).apply({}, {}, X, training=True),
        ValueError,
        ["got no key", "key=jax.random.key(0)", "'drop'"],
    ),
    "an optimizer that was not called": (lambda: fit(optimizer=optax.adam), TypeError, ["adam(learning_rate)"]),
    "a loss that is not callable": (lambda: fit(loss="mse"), TypeError, ["loss", "'mse'"]),
    "a model that is not a layer": (lambda: fit(model=nn.relu), TypeError, ["Layer", "nn.serial"]),
    "zero epochs": (lambda: fit(epochs=0), ValueError, ["epochs", "at least 1", "0"]),
    "a fractional batch size": (lambda: fit(batch_size=0.5), TypeError, ["batch_size", "whole number", "0.5"]),
    "negative patience": (lambda: nn.callbacks.early_stopping(-1), ValueError, ["patience", "at least 1"]),
    "predictions and targets of different shapes": (
        lambda: fit(X, X[:, :1], loss=nn.losses.mse),
        ValueError,
        ["[8, 3]", "[8, 1]", "differ in shape"],
    ),
    "a loss that is not a scalar": (
        lambda: fit(loss=lambda p, y: nn.losses.cross_entropy(p, y, reduction="none")),
        ValueError,
        ["one number", "[8]", "mean"],
    ),
    "a batch of one in batch_norm": (
        lambda: fit(X[:1], Y[:1], nn.serial(norm=nn.batch_norm(), head=nn.dense(3))),
        ValueError,
        ["one value per channel", "larger batches", "'norm'"],
    ),
    "no state for batch_norm": (
        lambda: nn.predict((nn.batch_norm(), nn.batch_norm().init(KEY, X)[0], {}), X),
        ValueError,
        ["running statistics", "model.apply(params, state, x)"],
    ),
    "not a result": (lambda: nn.predict({"kernel": 1}, X), TypeError, ["(model, params, state)", "nn.fit"]),
    "a model before the result": (
        lambda: nn.predict(nn.dense(3), nn.dense(3).init(KEY, X)),
        TypeError,
        ["got a Layer first", "nn.predict(result, x)"],
    ),
    "nothing to evaluate": (
        lambda: nn.evaluate((nn.dense(3), *nn.dense(3).init(KEY, X)), (X, Y)),
        ValueError,
        ["loss=", "metrics="],
    ),
    "a dropout rate of one": (lambda: nn.dropout(1.0), ValueError, ["rate", "[0, 1)", "1.0"]),
    "zero features": (lambda: nn.dense(0), ValueError, ["dense", "features", "at least 1"]),
    "groups that do not divide": (
        lambda: nn.serial(c=nn.conv(4, 3, groups=3)).init(KEY, jnp.ones((1, 5, 5, 4))),
        ValueError,
        ["3 groups", "4", "'c'"],
    ),
    "floating tokens": (lambda: nn.serial(e=nn.embedding(5, 3)).init(KEY, X), TypeError, ["integer tokens", "0 to 4", "'e'"]),
}


@pytest.mark.parametrize(("call", "error", "words"), CASES.values(), ids=CASES.keys())
def test_errors_explain_invalid_input(call, error, words):
    with pytest.raises(error) as raised:
        call()
    message = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
    for word in words:
        assert word in message, message
