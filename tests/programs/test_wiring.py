"""Which layers read the output of which."""

import itertools

import jax
import jax.numpy as jnp

import jaxnn as nn
from jaxnn.programs.wiring import INPUT, OUTPUT, wirings


def gated(run, x):
    return run("value", x) * nn.sigmoid(run("gate", x))


def wiring(model, x):
    x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return wirings(model, model.setup(x), x)


def named(block):
    """The edges, with the texts of the block's own operations in place of their numbers."""
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


def test_custom_wirings_branches_and_repeats():
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
