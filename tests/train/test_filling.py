"""Batches filled with samples of weight 0: which may be, and that nothing changes but rounding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.problem.batches import shuffled
from jaxnn.problem.problem import Problem
from jaxnn.programs.independence import is_independent
from jaxnn.train.filling import may_fill

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = (X[:, :1] - X[:, 1:2]).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int32)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x @ jnp.ones((3, 2)), True),
        (lambda x: x.reshape(-1) * 2, False),  # its axis holds three entries a sample
        (lambda x: x.reshape(-1, 3) * 2, True),
        (lambda x: x.T @ x, False),
        (lambda x: x @ x.T, False),
        (lambda x: x - x.mean(0, keepdims=True), False),
        (lambda x: jnp.cumsum(x, 1), True),
        (lambda x: jnp.cumsum(x, 0), False),
        (lambda x: x[::-1], False),
        (lambda x: jnp.roll(x, 1, 0), False),
        (lambda x: jnp.sort(x, 0), False),
        (lambda x: jnp.sort(x, 1), True),
        (lambda x: jnp.concatenate([x, x], 1), True),
        (lambda x: jnp.concatenate([x[2:], x[:2]]), False),
        (lambda x: jnp.where(x.sum() > 0, x, -x), False),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x, lambda x: -x, x), False),
        (lambda x: jax.lax.scan(lambda c, row: (c + row, c), jnp.zeros(3), x)[1], False),
        (lambda x: jax.lax.scan(lambda c, column: (c + column, c), jnp.zeros(8), x.T)[0], True),
        (lambda x: jax.lax.scan(lambda c, column: (c + column, c), jnp.zeros(8), x.T)[1], False),  # (features, samples)
        (lambda x: jax.lax.while_loop(lambda x: x.max() < 9, lambda x: x + 1, x), False),
        (lambda x: jnp.ones((5, 2))[jnp.argmax(x, 1)], True),
        (lambda x: x[jnp.argmax(x, 1)], False),
        (lambda x: jnp.take_along_axis(x, jnp.argmax(x, 1)[:, None], 1), True),
        (lambda x: x[:, None] + x[None], False),
        (lambda x: jnp.ones(8), False),  # does not depend on them at all
        (lambda x: jax.vmap(lambda row: row @ row)(x), True),
        (lambda x: x / jnp.linalg.norm(x), False),
    ],
)
def test_where_samples_meet(function, expected):
    assert is_independent(function, jax.ShapeDtypeStruct((8, 3), jnp.float32)) is expected


def coupled(x):
    return x - x.mean(0, keepdims=True)


@pytest.mark.parametrize(
    ("model", "loss", "metrics", "expected"),
    [
        (nn.dense(1), nn.losses.mse, {}, True),
        (nn.serial(nn.dense(4), nn.dropout(0.5), nn.dense(1)), functools.partial(nn.losses.huber, delta=2.0), {}, True),
        (nn.dense(1), nn.losses.mse, {"mae": nn.losses.mae, "r2": nn.metrics.r2}, True),
        (nn.dense(1), nn.losses.mse, {"mine": lambda p, t: jnp.max(jnp.abs(p - t))}, False),
        (nn.dense(1), lambda p, t, reduction="mean": jnp.max((p - t) ** 2), {}, False),
        (nn.serial(nn.dense(1), nn.batch_norm()), nn.losses.mse, {}, False),
        (nn.serial(nn.dense(1), coupled), nn.losses.mse, {}, False),
        (nn.dense(1), nn.losses.info_nce, {}, False),
    ],
)
def test_what_may_be_filled(model, loss, metrics, expected):
    params, state = model.init(KEY, X[:8])
    assert may_fill(Problem(model, loss), metrics, params, state, (X[:8], Y[:8]), KEY) is expected


@pytest.mark.slow
def test_class_weights_and_augmentations_are_not_filled():
    model = nn.dense(2)
    params, state = model.init(KEY, X)
    weighted = functools.partial(nn.losses.cross_entropy, class_weights=jnp.array([1.0, 2.0]))
    assert not may_fill(Problem(model, weighted), {}, params, state, (X, LABELS), KEY)
    assert not may_fill(Problem(model, nn.losses.mse, augment=lambda key, batch: batch), {}, params, state, (X, Y), KEY)
    assert may_fill(Problem(model, nn.losses.cross_entropy), {}, params, state, (X, LABELS), KEY)


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 24, 39])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_run_with_a_smaller_last_batch_is_a_loop_in_numpy(n, weighted):
    weights = RNG.uniform(0.5, 2, n) if weighted else np.ones(n)
    data = (X[:n], Y[:n], weights.astype(np.float32)) if weighted else (X[:n], Y[:n])
    result = nn.fit(nn.dense(1, use_bias=False), data, loss=nn.losses.mse, optimizer=optax.sgd(0.1), epochs=3, batch_size=20,
                    key=KEY, metrics={"mae": nn.metrics.mae}, progress=False)  # fmt: skip
    init, *_, order = nn.dense(1, use_bias=False).init, shuffled
    run_key = jax.random.key(0)
    from jaxnn.core.naming import child_key

    kernel = np.asarray(init(child_key(run_key, "init"), X)[0]["kernel"], np.float64)
    step = 0
    for epoch in range(3):
        total = count = error = 0.0
        samples = np.asarray(order(jax.random.fold_in(child_key(run_key, "order"), step), n))
        for low in range(0, n, 20):
            rows = samples[low : low + 20]
            x, y, w = X[rows].astype(float), Y[rows].astype(float), weights[rows][:, None]
            residual = x @ kernel - y
            total, count = total + (w * residual**2).sum(), count + w.sum()
            error += np.abs(residual).sum()
            kernel = kernel - 0.1 * 2 * x.T @ (w * residual) / w.sum()
            step += 1
        assert result.history["loss"][epoch] == pytest.approx(total / count, rel=1e-5)
        assert result.history["mae"][epoch] == pytest.approx(error / n, rel=1e-5)
    np.testing.assert_allclose(result.params["kernel"], kernel, rtol=1e-5)


@pytest.mark.slow
def test_memory_maps_are_filled_like_arrays(tmp_path):
    np.save(tmp_path / "x.npy", X), np.save(tmp_path / "y.npy", Y)
    mapped = tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")
    options = {
        "loss": nn.losses.mse,
        "optimizer": optax.adam(0.1),
        "epochs": 2,
        "batch_size": 32,
        "key": KEY,
        "progress": False,
    }
    one, other = (nn.fit(nn.dense(1), data, **options) for data in ((X, Y), mapped))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert one.history.same_as(other.history)
