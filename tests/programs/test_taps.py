"""The outputs of layers, as `nn.inspect.activations` returns them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


def test_the_outputs_are_those_of_the_layers():
    inner = nn.residual(nn.dense(4), nn.tanh)
    model = nn.serial(nn.dense(4), nn.relu, body=nn.repeat(nn.remat(inner), 3), drop=nn.dropout(0.5), head=nn.dense(2))
    x = jax.random.normal(jax.random.key(1), (5, 3))
    params, state = model.init(jax.random.key(0), x)
    seen = nn.inspect.activations(model, params, state, x)
    assert list(seen) == ["dense", "relu", "body/dense", "body/tanh", "body", "head"]
    y = x @ params["dense"]["kernel"] + params["dense"]["bias"][None]
    np.testing.assert_allclose(seen["dense"], y, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen["relu"], nn.relu(seen["dense"]))
    y = seen["relu"]
    for i in range(3):
        p = jax.tree.map(lambda a, i=i: a[i], params["body"])
        z = y @ p["dense"]["kernel"] + p["dense"]["bias"][None]
        np.testing.assert_allclose(seen["body/dense"][i], z, rtol=1e-5, atol=1e-6)
        y = y + jnp.tanh(z)
    np.testing.assert_allclose(seen["body"], y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen["head"], model(params, x), rtol=1e-5, atol=1e-6)
    dropped = nn.inspect.activations(model, params, state, x, key=jax.random.key(2), training=True)["drop"]
    assert set(np.unique((dropped / seen["body"]).round(4))) == {0.0, 2.0}


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "model, x",
    [
        (nn.lstm(4, return_sequences=False), jnp.ones((2, 5, 3))),
        (nn.serial(nn.lstm(4), nn.positionwise(nn.relu)), (jnp.ones((2, 3, 2)), jnp.ones((2, 3), bool))),
        (nn.relu, jnp.ones((2, 3))),
        (nn.dtype_policy(nn.models.mlp([4], 2), dtype=jnp.bfloat16), jnp.ones((2, 3))),
        (nn.models.cnn(3, features=(2,), hidden=4), jnp.ones((2, 4, 4, 1))),
    ],
    ids=["lstm", "padded", "function", "bfloat16", "cnn"],
)
def test_the_last_output_is_that_of_the_model(model, x):
    model = nn.as_layer(model)
    params, state = model.init(jax.random.key(0), x)
    last = list(nn.inspect.activations(model, params, state, x).values())[-1].astype(float)
    np.testing.assert_allclose(last, jax.tree.leaves(model(params, x))[0].astype(float), rtol=1e-5, atol=1e-6)
