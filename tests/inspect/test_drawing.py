"""Diagrams of networks."""

import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp

import jaxnn as nn


def test_shared_weights_and_parallel_inputs():
    def tied(run, x):
        return run("f", run("f", x[0])) + run("g", x[1])

    x = (jnp.ones((2, 4)), jnp.ones((2, 3)))
    drawing = nn.inspect.diagram(nn.block(tied, f=nn.dense(4), g=nn.dense(4)), x)
    ET.fromstring(drawing.svg)
    assert "(B, 4), (B, 3)" in drawing.svg


def test_the_diagram_is_well_formed_and_nothing_overlaps(tmp_path):
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
    assert len(boxes) == 2 + 3 + 3 + 2 + 1 + 1  # two of them are sums
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= float(root.get("width"))
        assert 0 <= top < bottom <= float(root.get("height"))
        for a, b, c, d in boxes[:i]:
            assert right <= a or c <= left or bottom <= b or d <= top
