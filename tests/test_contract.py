"""The contract, for every layer and combinator: one entry in `LAYERS` earns every test below.

An entry is a factory, an example input, and the golden tree of its parameter (and state) names and shapes.
"""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.programs.independence import is_independent


@dataclass(frozen=True, eq=False)
class Entry:
    make: Any
    x: Any
    params: dict[str, tuple[int, ...]]
    state: dict[str, tuple[int, ...]] = field(default_factory=dict)
    random: bool = False  # whether it draws random numbers in training


def floats(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(7), shape)


MASK = jnp.arange(5)[None, :] < jnp.array([2, 5, 3])[:, None]


def gated(run, x):
    return run("value", x) * nn.sigmoid(run("gate", x))


def tied(run, x):
    return run("f", run("drop", run("f", run("drop", x))))


LAYERS = {
    "function": Entry(lambda: nn.as_layer(nn.relu), floats(3, 4), {}),
    "dense": Entry(lambda: nn.dense(5), floats(3, 4), {"bias": (5,), "kernel": (4, 5)}),
    "dense without bias": Entry(lambda: nn.dense(5, use_bias=False), floats(3, 2, 4), {"kernel": (4, 5)}),
    "dense on a padded sequence": Entry(lambda: nn.dense(2), (floats(3, 5, 4), MASK), {"bias": (2,), "kernel": (4, 2)}),
    "embedding": Entry(lambda: nn.embedding(9, 4), jnp.array([[0, 8], [3, 3]]), {"embedding": (9, 4)}),
    "conv 1-D": Entry(lambda: nn.conv(4, 3), floats(2, 6, 2), {"bias": (4,), "kernel": (3, 2, 4)}),
    "conv 2-D": Entry(lambda: nn.conv(4, 3, strides=2), floats(2, 6, 5, 2), {"bias": (4,), "kernel": (3, 3, 2, 4)}),
    "conv 3-D": Entry(
        lambda: nn.conv(2, (1, 3, 2), padding="VALID", use_bias=False), floats(2, 2, 5, 4, 2), {"kernel": (1, 3, 2, 2, 2)}
    ),
    "conv_transpose 2-D": Entry(
        lambda: nn.conv_transpose(3, 3, strides=2), floats(2, 4, 3, 2), {"bias": (3,), "kernel": (3, 3, 2, 3)}
    ),
    "conv in groups, dilated": Entry(
        lambda: nn.conv(4, 3, groups=2, dilation=2), floats(2, 6, 6, 4), {"bias": (4,), "kernel": (3, 3, 2, 4)}
    ),
    "conv, circular": Entry(lambda: nn.conv(2, 3, padding="CIRCULAR"), floats(2, 4, 2), {"bias": (2,), "kernel": (3, 2, 2)}),
    "conv, causal": Entry(lambda: nn.conv(2, 3, padding="CAUSAL", use_bias=False), floats(2, 4, 2), {"kernel": (3, 2, 2)}),
    "depthwise_conv": Entry(lambda: nn.depthwise_conv(3), floats(2, 4, 2), {"bias": (2,), "kernel": (3, 1, 2)}),
    "separable_conv": Entry(
        lambda: nn.separable_conv(3, 2),
        floats(2, 4, 2),
        {"depthwise/kernel": (2, 1, 2), "pointwise/bias": (3,), "pointwise/kernel": (1, 2, 3)},
    ),
    "weight_norm": Entry(lambda: nn.weight_norm(nn.dense(5)), floats(3, 4), {"bias": (5,), "kernel": (4, 5), "scale": (5,)}),
    "spectral_norm": Entry(
        lambda: nn.spectral_norm(nn.dense(5)),
        floats(3, 4),
        {"bias": (5,), "kernel": (4, 5)},
        state={"left": (5,), "right": (4,)},
    ),
    "weight_standardization": Entry(
        lambda: nn.weight_standardization(nn.conv(4, 3)), floats(2, 5, 3), {"bias": (4,), "kernel": (3, 3, 4)}
    ),
    "pixel_shuffle": Entry(lambda: nn.pixel_shuffle(2), floats(2, 2, 3, 4), {}),
    "pixel_unshuffle": Entry(lambda: nn.pixel_unshuffle(2), floats(2, 2, 4, 3), {}),
    "channel_shuffle": Entry(lambda: nn.channel_shuffle(2), floats(2, 3, 4), {}),
    "grid_sample": Entry(nn.grid_sample, (floats(2, 3, 4, 2), 0.9 * jnp.tanh(floats(2, 2, 3, 2))), {}),
    "locally_connected": Entry(lambda: nn.locally_connected(3, 2), floats(2, 4, 2), {"bias": (3, 3), "kernel": (3, 2, 2, 3)}),
    "embedding of bounded vectors": Entry(
        lambda: nn.embedding(9, 4, max_norm=1.5), jnp.array([[0, 8], [3, 3]]), {"embedding": (9, 4)}
    ),
    "pad": Entry(lambda: nn.pad(2), floats(2, 2, 3, 4), {}),
    "crop": Entry(lambda: nn.crop(1), floats(2, 3, 4, 2), {}),
    "upsample": Entry(lambda: nn.upsample(2), floats(2, 2, 3, 4), {}),
    "resize": Entry(lambda: nn.resize((5, 4)), floats(2, 2, 3, 4), {}),
    "permute": Entry(lambda: nn.permute(2, 3, 1), floats(2, 2, 3, 4), {}),
    "reshape": Entry(lambda: nn.reshape(-1, 4), floats(2, 2, 3, 4), {}),
    "max_pool, dilated": Entry(lambda: nn.max_pool(2, strides=1, dilation=2, ceil_mode=True), floats(2, 6, 3), {}),
    "min_pool": Entry(lambda: nn.min_pool(2), floats(2, 6, 3), {}),
    "lp_pool": Entry(lambda: nn.lp_pool(2, strides=1), floats(2, 6, 3), {}),
    "global_max_pool": Entry(nn.global_max_pool, floats(2, 6, 3), {}),
    "adaptive_avg_pool": Entry(lambda: nn.adaptive_avg_pool(3), floats(2, 5, 3), {}),
    "adaptive_max_pool": Entry(lambda: nn.adaptive_max_pool(2), floats(2, 5, 3), {}),
    "max_pool": Entry(lambda: nn.max_pool(2), floats(2, 6, 6, 3), {}),
    "max_pool with indices": Entry(lambda: nn.max_pool(2, strides=1, return_indices=True), floats(2, 6, 3), {}),
    "max_unpool": Entry(lambda: nn.max_unpool(2), (floats(2, 2, 3), jnp.array([[[0, 1, 0], [2, 3, 2]]] * 2)), {}),
    "unfold": Entry(lambda: nn.unfold(2), floats(2, 6, 3), {}),
    "max_pool overlapping": Entry(lambda: nn.max_pool(3, strides=2, padding="SAME"), floats(2, 6, 6, 3), {}),
    "avg_pool": Entry(lambda: nn.avg_pool(2), floats(2, 6, 6, 3), {}),
    "global_avg_pool": Entry(nn.global_avg_pool, floats(2, 6, 6, 3), {}),
    "flatten": Entry(nn.flatten, floats(2, 3, 4), {}),
    "dropout": Entry(lambda: nn.dropout(0.5), floats(3, 40), {}, random=True),
    "prelu": Entry(nn.prelu, floats(3, 4), {"negative_slope": (4,)}),
    "rrelu": Entry(nn.rrelu, floats(3, 4), {}, random=True),
    "batch_norm": Entry(nn.batch_norm, floats(8, 3), {"bias": (3,), "scale": (3,)}, state={"mean": (3,), "var": (3,)}),
    "batch_norm of a padded batch": Entry(
        nn.batch_norm, (floats(3, 5, 2), MASK), {"bias": (2,), "scale": (2,)}, state={"mean": (2,), "var": (2,)}
    ),
    "rms_norm": Entry(lambda: nn.rms_norm(axis=(1, 2)), floats(3, 2, 4), {"scale": (2, 4)}),
    "group_norm": Entry(lambda: nn.group_norm(2), floats(3, 3, 4), {"bias": (4,), "scale": (4,)}),
    "instance_norm": Entry(lambda: nn.instance_norm(use_bias=False), floats(3, 3, 4), {"scale": (4,)}),
    "instance_norm with running statistics": Entry(
        lambda: nn.instance_norm(track_running_stats=True, momentum=None),
        floats(3, 3, 4),
        {"bias": (4,), "scale": (4,)},
        state={"count": (), "mean": (4,), "var": (4,)},
    ),
    "add": Entry(lambda: nn.as_layer(nn.add), (floats(3, 4), floats(3, 4) / 2), {}),
    "multiply": Entry(lambda: nn.as_layer(nn.multiply), (floats(3, 4), floats(3, 4) / 2), {}),
    "concatenate": Entry(lambda: nn.as_layer(nn.concatenate), (floats(3, 4), floats(3, 2)), {}),
    "local_response_norm": Entry(lambda: nn.local_response_norm(3), floats(3, 6), {}),
    "unit_norm": Entry(nn.unit_norm, floats(3, 6), {}),
    "spatial_dropout": Entry(lambda: nn.spatial_dropout(0.5), floats(3, 2, 20), {}, random=True),
    "alpha_dropout": Entry(lambda: nn.alpha_dropout(0.5), floats(3, 40), {}, random=True),
    "gaussian_dropout": Entry(lambda: nn.gaussian_dropout(0.5), floats(3, 40), {}, random=True),
    "gaussian_noise": Entry(lambda: nn.gaussian_noise(0.5), floats(3, 40), {}, random=True),
    "drop_path": Entry(lambda: nn.drop_path(0.5), floats(40, 3), {}, random=True),
    "layer_norm": Entry(nn.layer_norm, floats(8, 3), {"bias": (3,), "scale": (3,)}),
    "rnn": Entry(lambda: nn.rnn(4), floats(3, 5, 2), {"bias": (4,), "kernel": (2, 4), "recurrent_kernel": (4, 4)}),
    "lstm": Entry(lambda: nn.lstm(4), floats(3, 5, 2), {"bias": (16,), "kernel": (2, 16), "recurrent_kernel": (4, 16)}),
    "lstm, last state of a padded sequence": Entry(
        lambda: nn.lstm(4, return_sequences=False),
        (floats(3, 5, 2), MASK),
        {"bias": (16,), "kernel": (2, 16), "recurrent_kernel": (4, 16)},
    ),
    "gru": Entry(
        lambda: nn.gru(4),
        (floats(3, 5, 2), MASK),
        {"bias": (12,), "kernel": (2, 12), "recurrent_bias": (4,), "recurrent_kernel": (4, 12)},
    ),
    "serial": Entry(
        lambda: nn.serial(nn.dense(4), nn.relu, nn.dense(3), head=nn.dense(2)),
        floats(3, 4),
        {
            "dense/bias": (4,),
            "dense/kernel": (4, 4),
            "dense_2/bias": (3,),
            "dense_2/kernel": (4, 3),
            "head/bias": (2,),
            "head/kernel": (3, 2),
        },
    ),
    "residual": Entry(
        lambda: nn.residual(nn.dense(3), shortcut=nn.dense(3, use_bias=False)),
        floats(3, 4),
        {"dense/bias": (3,), "dense/kernel": (4, 3), "shortcut/kernel": (4, 3)},
    ),
    "branch": Entry(
        lambda: nn.branch(nn.dense(2, use_bias=False), nn.dense(3, use_bias=False)),
        floats(3, 4),
        {"dense/kernel": (4, 2), "dense_2/kernel": (4, 3)},
    ),
    "parallel": Entry(
        lambda: nn.parallel(nn.dense(2, use_bias=False), nn.tanh),
        (floats(3, 4), floats(3, 2)),
        {"dense/kernel": (4, 2)},
    ),
    "repeat": Entry(
        lambda: nn.repeat(nn.residual(nn.dense(4), nn.dropout(0.5)), 3),
        floats(3, 4),
        {"dense/bias": (3, 4), "dense/kernel": (3, 4, 4)},
        random=True,
    ),
    "repeat of a repeat with state": Entry(
        lambda: nn.repeat(nn.serial(nn.batch_norm(), inner=nn.repeat(nn.dense(4), 2)), 3),
        floats(8, 4),
        {
            "batch_norm/bias": (3, 4),
            "batch_norm/scale": (3, 4),
            "inner/bias": (3, 2, 4),
            "inner/kernel": (3, 2, 4, 4),
        },
        state={"batch_norm/mean": (3, 4), "batch_norm/var": (3, 4)},
    ),
    "remat": Entry(
        lambda: nn.remat(nn.serial(nn.dense(4), nn.tanh, nn.dropout(0.5))),
        floats(3, 4),
        {"dense/bias": (4,), "dense/kernel": (4, 4)},
        random=True,
    ),
    "block": Entry(
        lambda: nn.block(gated, value=nn.dense(3), gate=nn.serial(nn.dense(3), nn.batch_norm())),
        floats(8, 4),
        {
            "gate/batch_norm/bias": (3,),
            "gate/batch_norm/scale": (3,),
            "gate/dense/bias": (3,),
            "gate/dense/kernel": (4, 3),
            "value/bias": (3,),
            "value/kernel": (4, 3),
        },
        state={"gate/batch_norm/mean": (3,), "gate/batch_norm/var": (3,)},
    ),
    "block with shared weights": Entry(
        lambda: nn.block(tied, f=nn.dense(4), drop=nn.dropout(0.5)),
        floats(3, 4),
        {"f/bias": (4,), "f/kernel": (4, 4)},
        random=True,
    ),
    "positionwise": Entry(lambda: nn.positionwise(nn.relu), (floats(3, 5, 4), MASK), {}),
    "dtype_policy": Entry(
        lambda: nn.dtype_policy(nn.dense(2), dtype=jnp.float32), floats(3, 4), {"bias": (2,), "kernel": (4, 2)}
    ),
    "dense over two axes": Entry(
        lambda: nn.dense((2, 3), axis=(-2, -1)), floats(3, 5, 4), {"bias": (2, 3), "kernel": (5, 4, 2, 3)}
    ),
    "bilinear": Entry(lambda: nn.bilinear(3), (floats(3, 4), floats(3, 2)), {"bias": (3,), "kernel": (4, 2, 3)}),
    "einsum": Entry(lambda: nn.einsum("bti,iho->btho", h=2, o=3), floats(3, 2, 4), {"bias": (2, 3), "kernel": (4, 2, 3)}),
    "lora": Entry(
        lambda: nn.lora(nn.dense(5), 2),
        floats(3, 4),
        {"base/bias": (5,), "base/kernel": (4, 5), "down": (4, 2), "up": (2, 5)},
    ),
    "learned_positions": Entry(lambda: nn.learned_positions(6), floats(3, 5, 4), {"embedding": (6, 4)}),
    "sinusoidal_positions, stateful": Entry(
        lambda: nn.sinusoidal_positions(stateful=True), floats(3, 5, 4), {}, state={"seen": ()}
    ),
    "lstm with everything, stateful": Entry(
        lambda: nn.lstm(4, projection=3, peephole=True, normalize=True, stateful=True),
        floats(3, 5, 2),
        {
            "bias": (16,),
            "cell_bias": (4,),
            "cell_scale": (4,),
            "kernel": (2, 16),
            "kernel_scale": (16,),
            "peephole": (3, 4),
            "projection": (4, 3),
            "recurrent_kernel": (3, 16),
            "recurrent_scale": (16,),
        },
        state={"c": (3, 4), "h": (3, 3)},
    ),
    "gru, reset before": Entry(
        lambda: nn.gru(4, reset_after=False),
        floats(3, 5, 2),
        {"bias": (12,), "kernel": (2, 12), "recurrent_kernel": (4, 12)},
    ),
    "minimal_gru": Entry(
        lambda: nn.minimal_gru(4), (floats(3, 5, 2), MASK), {"bias": (8,), "kernel": (2, 8), "recurrent_kernel": (4, 8)}
    ),
    "ind_rnn": Entry(lambda: nn.ind_rnn(4), floats(3, 5, 2), {"bias": (4,), "kernel": (2, 4), "recurrent_kernel": (4,)}),
    "conv_lstm": Entry(
        lambda: nn.conv_lstm(2, 3),
        (floats(3, 5, 4, 2), MASK),
        {"bias": (8,), "kernel": (3, 2, 8), "recurrent_kernel": (3, 2, 8)},
    ),
    "bidirectional": Entry(
        lambda: nn.bidirectional(nn.rnn(3)),
        (floats(3, 5, 2), MASK),
        {
            f"{direction}/{name}": shape
            for direction in ("backward", "forward")
            for name, shape in {"bias": (3,), "kernel": (2, 3), "recurrent_kernel": (3, 3)}.items()
        },
    ),
    "carried": Entry(
        lambda: nn.carried(nn.rnn(3, stateful=True)),
        (None, floats(3, 5, 2)),
        {"bias": (3,), "kernel": (2, 3), "recurrent_kernel": (3, 3)},
    ),
    "attention, cached": Entry(
        lambda: nn.attention(4, 2, key_heads=1, is_causal=True, qk_norm=True, rotary_base=100.0, cache=16),
        floats(3, 5, 4),
        {
            "key/bias": (1, 2),
            "key/kernel": (4, 1, 2),
            "key_norm/scale": (2,),
            "output/bias": (4,),
            "output/kernel": (2, 2, 4),
            "query/bias": (2, 2),
            "query/kernel": (4, 2, 2),
            "query_norm/scale": (2,),
            "value/bias": (1, 2),
            "value/kernel": (4, 1, 2),
        },
        state={"cache/key": (3, 16, 1, 2), "cache/seen": (), "cache/value": (3, 16, 1, 2)},
    ),
    "feed_forward": Entry(
        lambda: nn.feed_forward(4, 6, gated=True, use_bias=False),
        (floats(3, 5, 4), MASK),
        {"down/kernel": (6, 4), "gate/kernel": (4, 6), "up/kernel": (4, 6)},
    ),
    "transformer_block": Entry(
        lambda: nn.transformer_block(
            nn.attention(4, 2, use_bias=False, is_causal=True),
            nn.feed_forward(4, 6, use_bias=False),
            cross=nn.attention(4, 2, use_bias=False),
            dropout=0.5,
        ),
        ((floats(3, 5, 4), MASK), floats(3, 2, 4)),
        {
            **{f"{f}_norm/{leaf}": (4,) for f in ("attention", "cross", "mlp") for leaf in ("bias", "scale")},
            **{f"{f}/{leaf}/kernel": (4, 2, 2) for f in ("attention", "cross") for leaf in ("key", "query", "value")},
            **{f"{f}/output/kernel": (2, 2, 4) for f in ("attention", "cross")},
            "mlp/down/kernel": (6, 4),
            "mlp/up/kernel": (4, 6),
        },
        random=True,
    ),
    "moe": Entry(
        lambda: nn.moe(nn.dense(4), 3, k=2, capacity_factor=1.0),
        (floats(3, 5, 4), MASK),
        {"expert/bias": (3, 4), "expert/kernel": (3, 4, 4), "router": (4, 3)},
        state={"balance_loss": ()},
    ),
    "models.mlp": Entry(
        lambda: nn.models.mlp([5], 3, dropout=0.2),
        floats(2, 2, 2, 1),
        {"dense/bias": (5,), "dense/kernel": (4, 5), "output/bias": (3,), "output/kernel": (5, 3)},
        random=True,
    ),
    "models.cnn": Entry(
        lambda: nn.models.cnn(3, features=(2,), hidden=4),
        floats(2, 4, 4, 1),
        {
            "conv/bias": (2,),
            "conv/kernel": (3, 3, 1, 2),
            "dense/bias": (4,),
            "dense/kernel": (8, 4),
            "output/bias": (3,),
            "output/kernel": (4, 3),
        },
    ),
    "models.rnn": Entry(
        lambda: nn.models.rnn(4, 3),
        floats(2, 4, 4, 1),
        {
            "lstm/bias": (16,),
            "lstm/kernel": (4, 16),
            "lstm/recurrent_kernel": (4, 16),
            "output/bias": (3,),
            "output/kernel": (4, 3),
        },
    ),
}

# Every entry earns every test. Those that compile run by default for these entries, one of each kind, and are slow for others.
DEFAULT = {
    "dense", "conv 2-D", "conv in groups, dilated", "max_pool", "dropout", "batch_norm", "layer_norm", "prelu",
    "lstm, last state of a padded sequence", "residual", "repeat of a repeat with state", "remat", "block with shared weights",
    "dtype_policy", "attention, cached", "lora", "models.cnn",
}  # fmt: skip
assert set(LAYERS) >= DEFAULT
every = pytest.mark.parametrize("entry", LAYERS.values(), ids=LAYERS.keys())
compiled = pytest.mark.parametrize(
    "entry", [pytest.param(e, id=name, marks=[] if name in DEFAULT else [pytest.mark.slow]) for name, e in LAYERS.items()]
)


@functools.cache
def abstract(entry: Entry):
    model = entry.make()
    return model, *jax.eval_shape(model.init, jax.random.key(0), entry.x)


# The entries that take a padded sequence (x, mask), where the values at padded positions must not matter; the tests that
# compile run by default for the second set.
PADDED = {name for name, e in LAYERS.items() if any(leaf is MASK for leaf in jax.tree.leaves(e.x))} | {
    "function", "dense without bias", "global_max_pool", "rms_norm", "drop_path",
    "learned_positions", "rnn", "lstm", "gru, reset before", "ind_rnn", "sinusoidal_positions, stateful", "embedding",
    "lstm with everything, stateful", "spatial_dropout", "layer_norm", "prelu", "dropout", "unit_norm", "batch_norm",
}  # fmt: skip
PADDED_DEFAULT = {"lstm, last state of a padded sequence", "transformer_block", "moe", "batch_norm of a padded batch"}


close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)
same_form = chex.assert_trees_all_equal_shapes_and_dtypes


@functools.cache
def made(entry: Entry):
    model = entry.make()
    params, state = jax.jit(model.init)(jax.random.key(0), entry.x)
    return model, params, state


def run(entry: Entry, model, params, state, x, training=False):
    key = jax.random.key(1) if training else None
    return _apply(model)(params, state, x, key=key, training=training)


@functools.cache
def _apply(model):
    return jax.jit(model.apply, static_argnames="training")


def floating(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def energy(y):
    return sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in floating(y))


@every
def test_names_and_shapes_are_golden(entry):
    _, params, state = abstract(entry)
    assert {k: v.shape for k, v in nn.trees.paths(params).items()} == entry.params
    assert {k: v.shape for k, v in nn.trees.paths(state).items()} == entry.state
    assert all(type(node) is dict for node in (params, state))


@every
def test_setup_promises_what_apply_returns(entry):
    model, params, state = abstract(entry)
    y, after = jax.eval_shape(model.apply, params, state, entry.x)
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), entry.x)
    same_form(model.setup(x).output, y)
    same_form(after, state)


@pytest.mark.sample(3)
@compiled
def test_abstract_init_tells_the_truth(entry):
    model, params, state = made(entry)
    _, *promised = abstract(entry)
    same_form(tuple(promised), (params, state))


@pytest.mark.sample(3)
@compiled
def test_init_is_a_pure_function_of_its_key(entry):
    model, *drawn = made(entry)
    close(tuple(drawn), jax.jit(model.init)(jax.random.key(0), entry.x), rtol=1e-6, atol=1e-7)
    keys = jax.random.split(jax.random.key(3), 2)
    together = jax.jit(jax.vmap(model.init, (0, None)))(keys, entry.x)
    for i in range(2):
        alone = jax.jit(model.init)(keys[i], entry.x)
        close(jax.tree.map(lambda a, i=i: a[i], together), alone, rtol=1e-6, atol=1e-7)


@pytest.mark.sample(3)
@compiled
def test_apply_always_returns_a_pair_and_keeps_the_state_structure(entry):
    model, params, state = made(entry)
    for training in (False, True):
        out = run(entry, model, params, state, entry.x, training)
        assert isinstance(out, tuple)
        assert len(out) == 2
        same_form(out[1], state)


@pytest.mark.sample(3)
@compiled
@pytest.mark.parametrize("training", [False, True])
def test_jit_gives_the_same(entry, training):
    model, params, state = made(entry)
    key = jax.random.key(1) if training else None
    op_by_op = model.apply(params, state, entry.x, key=key, training=training)
    close(run(entry, model, params, state, entry.x, training), op_by_op)


@pytest.mark.sample(3)
@compiled
def test_gradients_exist_and_are_finite(entry):
    model, params, state = made(entry)
    gradients = jax.jit(jax.grad(lambda p: energy(run(entry, model, p, state, entry.x, training=True)[0])))(params)
    same_form(gradients, params)
    chex.assert_tree_all_finite(gradients)
    if params:
        assert any(bool((g != 0).any()) for g in jax.tree.leaves(gradients))


@pytest.mark.sample(3)
@compiled
def test_forward_mode_agrees_with_reverse_mode(entry):
    model, params, state = made(entry)

    def value(p):
        return energy(model.apply(p, state, entry.x)[0])

    @jax.jit
    def both(p):
        _, forward = jax.jvp(value, (p,), (jax.tree.map(jnp.ones_like, p),))
        return forward, sum(jnp.sum(g) for g in jax.tree.leaves(jax.grad(value)(p)))

    np.testing.assert_allclose(*both(params), rtol=1e-3, atol=1e-4)


@pytest.mark.sample(3)
@compiled
def test_vmap_over_networks_equals_one_at_a_time(entry):
    model = entry.make()
    keys = jax.random.split(jax.random.key(5), 3)
    params, state = jax.jit(jax.vmap(model.init, (0, None)))(keys, entry.x)
    together, _ = jax.jit(jax.vmap(lambda p, s: model.apply(p, s, entry.x), axis_size=3))(params, state)
    for i in range(3):
        one, _ = run(entry, model, *jax.tree.map(lambda a, i=i: a[i], (params, state)), entry.x)
        close(jax.tree.map(lambda a, i=i: a[i], together), one, rtol=1e-4, atol=1e-5)


@pytest.mark.sample(3)
@compiled
def test_scan_over_steps_equals_a_loop(entry):
    model, params, state = made(entry)

    def step(state, key):
        y, state = model.apply(params, state, entry.x, key=key, training=True)
        return state, energy(y)

    keys = jax.random.split(jax.random.key(2), 3)
    last, energies = jax.jit(lambda state: jax.lax.scan(step, state, keys))(state)
    loop, one = [], jax.jit(step)
    for key in keys:
        state, e = one(state, key)
        loop.append(e)
    np.testing.assert_allclose(energies, jnp.stack(loop), rtol=1e-4)
    close(last, state, rtol=1e-4, atol=1e-5)


@pytest.mark.sample(3)
@compiled
def test_bfloat16_policy_takes_the_whole_model(entry):
    model = nn.dtype_policy(entry.make(), dtype=jnp.bfloat16)
    params, state = model.init(jax.random.key(0), entry.x)
    assert all(leaf.dtype == jnp.float32 for leaf in floating((params, state)))
    y, after = run(entry, model, params, state, entry.x, training=True)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in floating(y))
    assert all(leaf.dtype == jnp.float32 for leaf in floating(after))
    y, _ = run(entry, model, params, state, entry.x)
    close(y, run(entry, made(entry)[0], params, state, entry.x)[0], rtol=0.1, atol=0.1)


@every
def test_a_second_call_does_not_trace_again(entry):
    model, params, state = abstract(entry)
    chex.clear_trace_counter()
    jitted = jax.jit(chex.assert_max_traces(model.apply, 1))
    _, after = jitted.trace(params, state, entry.x).out_info
    jitted.trace(params, after, entry.x)


@pytest.mark.sample(30)
@every
def test_no_tracer_leaks(entry):
    model, params, state = abstract(entry)
    gc.freeze()  # the check collects garbage after each trace, which takes long among the objects of other tests
    with jax.checking_leaks():
        jax.jit(model.init).trace(jax.random.key(0), entry.x)
        jitted = jax.jit(model.apply, static_argnames="training")
        jitted.trace(params, state, entry.x, key=jax.random.key(0), training=True)


@pytest.mark.sample(3)
@compiled
def test_samples_said_to_be_independent_are(entry):
    model, x = entry.make(), jax.tree.map(lambda a: jnp.concatenate([a] * 4)[:4], entry.x)
    params, state = jax.jit(model.init)(jax.random.key(0), x)
    forward = lambda x: model.apply(params, state, x, key=jax.random.key(1), training=True)[0]  # noqa: E731
    if not is_independent(forward, x):
        return
    other = lambda a: a[1] * 1.5 + 0.5 if jnp.issubdtype(a.dtype, jnp.floating) else a[1]  # noqa: E731
    moved = jax.tree.map(lambda a: a.at[2].set(other(a)), x)
    for before, after in zip(jax.tree.leaves(forward(x)), jax.tree.leaves(forward(moved)), strict=True):
        np.testing.assert_array_equal(np.delete(before, 2, 0), np.delete(after, 2, 0))


@pytest.mark.sample(3)
@compiled
def test_inference_ignores_the_key(entry):
    model, params, state = made(entry)
    with_key = _apply(model)(params, state, entry.x, key=jax.random.key(8))
    close(with_key, run(entry, model, params, state, entry.x), rtol=0, atol=0)


@pytest.mark.sample(3)
@compiled
def test_training_randomness_follows_the_key(entry):
    model, params, state = made(entry)

    def value(seed):
        return energy(_apply(model)(params, state, entry.x, key=jax.random.key(seed), training=True)[0])

    assert value(1) == value(1)
    assert (value(1) != value(2)) == entry.random
    if entry.random:
        with pytest.raises(ValueError, match="got no key") as raised:
            model.apply(params, state, entry.x, training=True)
        assert "in layer '" in str(raised.value.__notes__)


@every
@pytest.mark.parametrize("training", [1, None, np.bool_(True), jnp.bool_(True)], ids=repr)
def test_training_is_a_python_bool(entry, training):
    model, params, state = abstract(entry)
    with pytest.raises(TypeError, match="static_argnames"):
        model.apply(params, state, entry.x, key=jax.random.key(0), training=training)


@pytest.mark.sample(3)
@compiled
def test_old_keys_are_taken(entry):
    model, params, state = made(entry)
    old = jax.random.PRNGKey(0)
    close(model.init(old, entry.x), (params, state))


@pytest.mark.sample(3)
@compiled
def test_numpy_inputs_are_taken(entry):
    model, params, state = made(entry)
    x = jax.tree.map(np.asarray, entry.x)
    close(model.init(jax.random.key(0), x), (params, state))
    close(model.apply(params, state, x)[0], run(entry, model, params, state, entry.x)[0])


def padded(x):
    """The input with a mask over its first two axes, unless it has one."""
    return (x, jnp.arange(x.shape[1])[None] < jnp.arange(x.shape[0])[:, None]) if hasattr(x, "shape") else x


def at_padding(value, x):
    """The tree with `value` at the padded positions of every (x, mask) in it."""
    if not isinstance(x, tuple):
        return x
    if len(x) != 2 or getattr(x[1], "dtype", None) != jnp.bool_:
        return tuple(at_padding(value, part) for part in x)
    mask = x[1].reshape(*x[1].shape, *(1,) * (x[0].ndim - x[1].ndim))
    return jnp.where(mask, x[0], jnp.asarray(value).astype(x[0].dtype)), x[1]


@every
def test_a_padded_sequence_is_taken_or_refused_in_a_sentence(entry):
    if not hasattr(entry.x, "ndim") or entry.x.ndim < 3:
        return
    model, x, mask = entry.make(), entry.x, jax.ShapeDtypeStruct(entry.x.shape[:2], bool)
    try:
        model.setup((x, mask))
    except (TypeError, ValueError) as error:
        assert "mask" in str(error)
    if not isinstance(model, nn.Layer) or model.name != "carried":
        with pytest.raises((TypeError, ValueError), match="mask"):
            model.setup((x, jax.ShapeDtypeStruct(mask.shape, jnp.int32)))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "entry",
    [pytest.param(LAYERS[n], id=n, marks=[] if n in PADDED_DEFAULT else [pytest.mark.slow]) for n in LAYERS if n in PADDED],
)
def test_values_at_padded_positions_change_nothing(entry):
    model, x = entry.make(), padded(entry.x)
    params, state = jax.jit(model.init)(jax.random.key(0), x)

    @jax.jit
    def run(params, x):
        def value(p):
            y, after = model.apply(p, state, x, key=jax.random.key(1), training=True)
            return energy(at_padding(0, y)), (at_padding(0, y), after)

        return jax.value_and_grad(value, has_aux=True)(params)

    clean = run(params, at_padding(0, x))
    chex.assert_tree_all_finite(clean)
    for garbage in (-1, jnp.nan) if floating(x) else (-1, 99):
        chex.assert_trees_all_equal(run(params, at_padding(garbage, x)), clean)


@compiled
def test_float64_stays_float64_also_in_an_empty_batch(entry):
    def wide(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, jnp.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)

    model, *narrow = abstract(entry)
    with jax.enable_x64(True):
        x = jax.tree.map(lambda a: wide(a.update(shape=(0, *a.shape[1:]))), jax.eval_shape(lambda: entry.x))
        drawn = jax.eval_shape(model.init, jax.random.key(0), x)
        assert jax.tree.map(lambda a: a.dtype, drawn) == jax.tree.map(lambda a: a.dtype, tuple(narrow))
        params, state = jax.tree.map(wide, drawn)

        def value(params, state, x, training):
            y, after = model.apply(params, state, x, key=jax.random.key(0) if training else None, training=training)
            return sum(jnp.sum(leaf.astype(jnp.float64)) for leaf in floating(y)), (y, after)

        _, (y, _) = jax.eval_shape(functools.partial(value, training=False), params, state, x)
        assert all(leaf.shape[:1] == (0,) for leaf in jax.tree.leaves(y) if leaf.shape)
        if entry in (LAYERS["carried"], LAYERS["dtype_policy"]):
            return  # these have dtypes of their own
        assert all(leaf.dtype == jnp.float64 for leaf in floating(y))
        gradient = jax.value_and_grad(functools.partial(value, training=True), has_aux=True)
        assert not rounded(jax.make_jaxpr(gradient)(params, state, x).jaxpr)


def rounded(jaxpr):
    """The equations, also of programs inside, that cast float64 to a narrower float; not those of a scalar, such as a rate."""
    found = []
    for eqn in jaxpr.eqns:
        source = eqn.invars[0].aval if eqn.primitive.name == "convert_element_type" else None
        if source is not None and source.dtype == jnp.float64 and source.shape:
            found += [eqn] if eqn.params["new_dtype"] in (jnp.float32, jnp.float16, jnp.bfloat16) else []
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            found += rounded(inner) if hasattr(inner, "eqns") else []
    return found


@every
def test_complex_input_is_refused_or_gives_complex_output(entry):
    def as_complex(leaf):
        return leaf.update(dtype=jnp.complex64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    model, *variables = abstract(entry)
    x = jax.tree.map(as_complex, jax.eval_shape(lambda: entry.x))
    try:
        y, _ = jax.eval_shape(model.apply, *variables, x)
    except (TypeError, ValueError):
        return
    assert not floating(x) or any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(y))


@pytest.mark.slow
def test_the_contract_holds_with_64_bit_numbers():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "not slow", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=os.environ | {"JAX_ENABLE_X64": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
