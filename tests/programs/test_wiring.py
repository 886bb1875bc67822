"""Which layer's output another takes, the drawing of it, and the layers' outputs themselves."""

import itertools
import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.programs.wiring import INPUT, OUTPUT, wirings


def gated(run, x):
    return run("value", x) * nn.sigmoid(run("gate", x))


def wiring(model, x):
    x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return wirings(model, model.setup(x), x)


def named(block):
    """The edges with the text of what the block computes itself in place of a number."""
    return {tuple(block.nodes.get(end) or end for end in edge) for edge in block.edges}


def test_serial_residual_and_a_shortcut():
    model = nn.serial(
        nn.dense(4), nn.identity, nn.residual(nn.dense(4), nn.relu), nn.residual(nn.dense(3), shortcut=nn.dense(3))
    )
    blocks = wiring(model, jnp.ones((2, 4)))
    chain = [INPUT, "dense", "identity", "residual", "residual_2", OUTPUT]
    assert blocks[()].edges == list(itertools.pairwise(chain))
    around = {(INPUT, "dense"), ("dense", "relu"), ("relu", "+"), (INPUT, "+"), ("+", OUTPUT)}
    assert named(blocks["residual",]) == around
    both = {(INPUT, "dense"), (INPUT, "shortcut"), ("dense", "+"), ("shortcut", "+"), ("+", OUTPUT)}
    assert named(blocks["residual_2",]) == both


def test_own_wirings_branches_and_repeats():
    model = nn.serial(
        gated=nn.repeat(nn.serial(nn.block(gated, value=nn.dense(4), gate=nn.serial(nn.dense(4), nn.tanh))), 3),
        both=nn.branch(nn.dense(2), nn.dense(3)),
        joined=lambda ys: jnp.concatenate(ys, -1),
    )
    blocks = wiring(model, jnp.ones((2, 4)))
    assert named(blocks["gated", "gated"]) == {
        (INPUT, "value"), (INPUT, "gate"), ("gate", "logistic"), ("value", "×"), ("logistic", "×"), ("×", OUTPUT),
    }  # fmt: skip
    assert named(blocks["both",]) == {(INPUT, "dense"), (INPUT, "dense_2"), ("dense", OUTPUT), ("dense_2", OUTPUT)}


def test_shared_weights_and_parallel_inputs_do_not_confuse_it():
    def tied(run, x):
        return run("f", run("f", x[0])) + run("g", x[1])

    x = (jnp.ones((2, 4)), jnp.ones((2, 3)))
    drawing = nn.inspect.diagram(nn.block(tied, f=nn.dense(4), g=nn.dense(4)), x)
    ET.fromstring(drawing.svg)
    assert "(B, 4), (B, 3)" in drawing.svg


def test_the_drawing_is_well_formed_and_nothing_overlaps(tmp_path):
    model = nn.serial(
        nn.conv(8, 3), nn.batch_norm(), nn.residual(nn.conv(8, 3), **{"<odd> & long name of a layer": nn.relu}),
        nn.repeat(nn.residual(nn.conv(8, 3)), 4), nn.global_avg_pool(), nn.branch(nn.dense(2), nn.dense(3)),
    )  # fmt: skip
    nn.inspect.diagram(model, jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)).save(tmp_path / "network.svg")
    root = ET.parse(tmp_path / "network.svg").getroot()
    texts = [node.text for node in root.findall(".//{*}text")]
    assert {"conv", "(B, 8, 8, 8) · 224 params", "<odd> & long name of a layer (relu)", "repeat (× 4)", "output"} <= set(texts)
    boxes = []

    def place(node, x, y):
        for child in node:
            if child.tag.endswith("}g"):
                dx, dy = child.get("transform")[10:-1].split(",")
                place(child, x + float(dx), y + float(dy))
            elif child.tag.endswith("}rect") and child.get("stroke-dasharray") is None:
                boxes.append((x, y, x + float(child.get("width")), y + float(child.get("height"))))

    place(root, 0.0, 0.0)
    assert len(boxes) == 2 + 3 + 3 + 2 + 1 + 1  # with two sums
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= float(root.get("width"))
        assert 0 <= top < bottom <= float(root.get("height"))
        for a, b, c, d in boxes[:i]:
            assert right <= a or c <= left or bottom <= b or d <= top


def test_outputs_of_layers_are_those_of_the_layers():
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
def test_the_last_output_is_the_models(model, x):
    model = nn.as_layer(model)
    params, state = model.init(jax.random.key(0), x)
    last = list(nn.inspect.activations(model, params, state, x).values())[-1].astype(float)
    np.testing.assert_allclose(last, jax.tree.leaves(model(params, x))[0].astype(float), rtol=1e-5, atol=1e-6)
