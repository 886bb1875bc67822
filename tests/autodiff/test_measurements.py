"""Instruments for `fit`: against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn

ad = nn.autodiff
MODEL = nn.serial(nn.dense(3), nn.relu, nn.dense(1))
RNG = np.random.default_rng(0)
X, Y = (RNG.normal(size=shape).astype(np.float32) for shape in ((8, 2), (8, 1)))


def by_hand(params):
    """Gradient norms, and the statistics of the hidden units."""
    w, v = (params[name]["kernel"] for name in ("dense", "dense_2"))
    hidden = np.maximum(X @ w + params["dense"]["bias"], 0)
    errors = 2 * (hidden @ v + params["dense_2"]["bias"] - Y) / len(X)
    back = errors @ v.T * (hidden > 0)
    norm = lambda *arrays: np.sqrt(sum(np.sum(a**2) for a in arrays))  # noqa: E731
    norms = norm(X.T @ back, back.sum(0)), norm(hidden.T @ errors, errors.sum(0))
    return norms, (hidden.mean(), hidden.std(), np.mean((hidden == 0).all(0)))


@pytest.mark.slow
def test_instruments():
    """Two epochs of one step each: the update is that of gradient descent."""
    params = jax.tree.map(np.asarray, MODEL.init(jax.random.key(0), X)[0])
    params["dense"]["bias"] = np.array([0.3, -9, 0.1], np.float32)  # the second unit is dead
    watch = ad.Instruments(nn.Problem(MODEL, nn.losses.mse), (X, Y))
    nn.fit(
        MODEL, (X, Y), loss=nn.losses.mse, optimizer=optax.sgd(0.1), epochs=2, batch_size=8, key=jax.random.key(0),
        initial=(jax.tree.map(jnp.asarray, params), {}), progress=False,
        callbacks=[nn.callbacks.Callback("instruments", on_epoch=watch)])  # fmt: skip
    table = {name: np.asarray(values).reshape(2, 3) for name, values in watch.table.items()}
    assert table["layer"][0].tolist() == ["dense", "dense_2", "relu"]
    np.testing.assert_array_equal(table["epoch"], [[1] * 3, [2] * 3])

    first, _ = by_hand(params)
    gradient = jax.grad(lambda p: nn.losses.mse(MODEL(p, X), Y))(params)
    after = jax.tree.map(lambda w, g: np.asarray(w - 0.1 * g), params, gradient)
    norms, statistics = by_hand(after)
    np.testing.assert_allclose(table["gradient_norm"][0, :2], norms, rtol=1e-4)
    np.testing.assert_allclose([table[name][0, 2] for name in ("mean", "std", "dead")], statistics, rtol=1e-4)
    assert table["dead"][0, 2] >= 1 / 3 and first[0] > 0
    np.testing.assert_allclose(table["update_norm"][1, :2], 0.1 * np.asarray(norms), rtol=1e-3)
    assert np.isnan(table["update_norm"][0]).all() and np.isnan(table["weight_norm"][:, 2]).all()


@pytest.mark.parametrize("function", [ad.Instruments, lambda problem, data: ad.layer_statistics(problem, {}, data)])
def test_errors(function):
    with pytest.raises(TypeError, match="takes a Problem"):
        function(MODEL, (X, Y))
