"""The table of a model."""

import jax
import jax.numpy as jnp

import jaxnn as nn


def test_nested_repeated_and_shared_layers():
    def twice(run, x):
        return run("f", run("f", x))

    model = nn.serial(
        stem=nn.dense(4), body=nn.repeat(nn.residual(nn.dense(4), nn.relu), 5), tied=nn.block(twice, f=nn.dense(4))
    )
    x = jnp.ones((2, 3))
    table = nn.summary(model, x)
    assert [(row.path, row.formula, row.parameters) for row in table.rows] == [
        ("stem", "3·4 + 4", 16),
        ("body", "", 0),
        ("body/dense", "5·4·4 + 5·4", 100),
        ("body/relu", "", 0),
        ("tied/f", "4·4 + 4", 20),
    ]
    assert table.parameters == nn.trees.count(model.init(jax.random.key(0), x)[0]) == 136
    assert table.size == 4 * 136


def test_a_layer_alone_several_outputs_and_other_dtypes():
    assert "dense  (B, 3)  float32  4·3 + 3 = 15" in str(nn.summary(nn.dense(3), jnp.ones((2, 4))))
    both = nn.summary(nn.branch(nn.dense(2), nn.dense(3)), jnp.ones((2, 4)))
    assert [row.output for row in both.rows] == ["(B, 2)", "(B, 3)"]
    half = nn.dtype_policy(nn.dense(3), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    assert nn.summary(half, jnp.ones((2, 4))).size == 30
    assert str(nn.summary(nn.relu, jnp.ones((2, 4)))).splitlines()[-2] == "total: 0 parameters, 0 bytes"


def test_a_large_model_costs_nothing():
    x = jax.ShapeDtypeStruct((1, 4096), jnp.float32)
    table = nn.summary(nn.repeat(nn.residual(nn.dense(4096)), 400), x)
    assert table.parameters == 400 * (4096**2 + 4096)
    assert "26.9 GB" in str(table)
