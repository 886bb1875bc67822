"""Operations and kept values against XLA's own account, and against numbers by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnn as nn
from jaxnn.kernels.forms import choose_form, definitions
from jaxnn.programs.costs import operations


def floats(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def integers(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def attend(run, x):
    query, key, value = (run(name, x).reshape(*x.shape[:2], 2, -1) for name in ("query", "key", "value"))
    return run("out", nn.kernels.dot_product_attention(query, key, value, is_causal=True).reshape(x.shape))


def transformer():
    attention = nn.block(attend, **{name: nn.dense(16) for name in ("query", "key", "value", "out")})
    mlp = nn.residual(nn.layer_norm(), nn.dense(32), nn.gelu, nn.dense(16))
    block = nn.serial(nn.residual(nn.layer_norm(), attention), mlp)
    return nn.serial(nn.embedding(50, 16), nn.repeat(block, 3), nn.dense(50))


def convolutional():
    grouped = nn.residual(nn.conv(8, 3, groups=2, dilation=2), nn.relu, shortcut=nn.conv(8, 1))
    return nn.serial(nn.conv(8, 3, strides=2), nn.batch_norm(), grouped, nn.conv_transpose(4, 3, strides=2), nn.avg_pool(2))


MODELS = {
    "alexnet_small": (lambda: nn.models.alexnet_small(3, features=4, hidden=(6, 5)), floats(2, 8, 8, 3)),
    "autoencoder": (lambda: nn.models.autoencoder(12, hidden=(8, 6), code=3), floats(3, 12)),
    "cnn": (lambda: nn.models.cnn(10, features=(8, 16), hidden=32), floats(2, 16, 16, 1)),
    "convnext": (lambda: nn.models.convnext(3, blocks=(1, 2), features=(8, 16)), floats(2, 32, 32, 3)),
    "gpt2": (lambda: nn.models.gpt2(50, features=16, layers=2, heads=2, context=8), integers(2, 8)),
    "lenet5": (lambda: nn.models.lenet5(10), floats(2, 32, 32, 1)),
    "lstm_language_model": (lambda: nn.models.lstm_language_model(50, features=16), integers(2, 5)),
    "mlp": (lambda: nn.models.mlp([64, 32], 10, dropout=0.2), floats(8, 14, 14, 1)),
    "mlp_mixer": (
        lambda: nn.models.mlp_mixer(3, patch_size=4, features=16, layers=2, token_hidden=8, channel_hidden=32),
        floats(2, 16, 16, 3),
    ),
    "mobilenet_v2": (
        lambda: nn.models.mobilenet_v2(3, stages=((1, 16, 1, 1), (6, 24, 2, 2)), width=0.5), floats(2, 16, 16, 3)
    ),
    "resnet": (lambda: nn.models.resnet(18, 3, features=8, small_images=True), floats(2, 16, 16, 3)),
    "rnn": (lambda: nn.models.rnn(32, 10), floats(4, 5, 8)),
    "seq2seq": (lambda: nn.models.seq2seq(20, 30, features=16, layers=2), (integers(2, 5), integers(2, 4))),
    "transformer": (
        lambda: nn.models.transformer(50, features=16, layers=2, heads=2, hidden=32), (integers(2, 7), integers(2, 5))
    ),
    "unet": (lambda: nn.models.unet(2, features=4, depth=2), floats(2, 16, 16, 1)),
    "vae": (lambda: nn.models.vae(12, hidden=8, code=3), floats(3, 12)),
    "vgg": (lambda: nn.models.vgg(11, 3, features=4, hidden=16), floats(2, 32, 32, 3)),
    "vit": (lambda: nn.models.vit(3, patch_size=4, features=16, layers=2, heads=2), floats(2, 16, 16, 3)),
    "wide_resnet": (lambda: nn.models.wide_resnet(10, 2, 3), floats(2, 8, 8, 3)),
}  # fmt: skip
OTHERS = {
    "transformer": (transformer, floats(2, 7, dtype=jnp.int32)),
    "convolutions": (convolutional, floats(2, 12, 12, 3)),
    "gru": (lambda: nn.gru(16), floats(2, 4, 8)),
}


def counted_by_xla(function, *arguments) -> float:
    """What XLA counts in the program as it is lowered; loops are unrolled, since it counts their bodies once."""
    scan = lax.scan

    def unrolled(*args, unroll=1, **kwargs):
        return scan(*args, unroll=True, **kwargs)

    with pytest.MonkeyPatch.context() as patch, definitions():
        patch.setattr(lax, "scan", unrolled)
        cost = jax.jit(function).lower(*arguments).cost_analysis()
    return cost["flops"] + cost.get("transcendentals", 0)


def test_every_model_is_counted_here():
    assert set(MODELS) == set(nn.models.__all__)


@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
def test_the_count_agrees_with_xla_within_2_percent(name):
    make, x = (MODELS | OTHERS)[name]
    model = make()
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    table = nn.summary(model, x)

    def step(params, state, x, key):
        y, back = jax.vjp(lambda p: model.apply(p, state, x, key=key, training=True)[0], params)
        return y, back(jax.tree.map(jnp.ones_like, y))

    np.testing.assert_allclose(table.forward, counted_by_xla(lambda *a: model.apply(*a)[0], params, state, x), rtol=0.02)
    total = counted_by_xla(step, params, state, x, jax.random.key(0))
    np.testing.assert_allclose(table.forward + table.backward, total, rtol=0.02)
    assert sum(row.forward for row in table.rows) == table.forward
    np.testing.assert_allclose(sum(row.backward for row in table.rows), table.backward, rtol=0.03)


def count(function, *arguments):
    return sum(operation.flops for operation in operations(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.mark.parametrize(
    "strides, dilation, padding", [(1, 1, "SAME"), (2, 1, "VALID"), (1, 2, "SAME"), (3, 2, ((2, 0), (0, 3)))]
)
def test_a_convolution_and_its_gradients_count_pairs_that_meet(strides, dilation, padding):
    x, kernel = floats(2, 9, 8, 4), floats(3, 2, 2, 6)
    for form in ("xla", "canonical"):
        conv = functools.partial(nn.kernels.conv, strides=strides, dilation=dilation, padding=padding, groups=2, form=form)
        # each of 4 · 6 / 2 pairs of channels, 2 images, 2 operations; ones count the pairs of places and taps
        ones = jnp.ones((1, 9, 8, 1)), jnp.ones((3, 2, 1, 1))
        pairs = nn.kernels.conv(*ones, strides=strides, dilation=dilation, padding=padding).sum()
        assert count(conv, x, kernel) == 2 * 2 * 12 * int(pairs)

        def gradients(x, kernel, conv=conv):
            y, back = jax.vjp(conv, x, kernel)
            return back(y)

        assert count(gradients, x, kernel) == pytest.approx(3 * 2 * 2 * 12 * int(pairs), rel=0.01)


def test_loops_branches_and_sums():
    x = floats(8, 4)
    assert count(lambda x: lax.scan(lambda c, _: (c * 2.0, c), x, None, length=5), x) == 5 * 32
    assert count(lambda x: lax.cond(x.sum() > 0, lambda x: x * 2.0, lambda x: jnp.tanh(x) * 3.0, x), x) == 31 + 1 + 1 + 64
    assert count(lambda x: (x.sum(0), x.T, x**3), x) == 28 + 64
    assert count(lambda x: x @ x.T, x) == 2 * 8 * 8 * 4


def test_what_is_kept_is_what_vjp_keeps():
    model = nn.models.cnn(10, features=(4,), hidden=8)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    params, state = model.init(jax.random.key(0), x)
    with definitions():
        _, back = jax.vjp(lambda p: model.apply(p, state, x, training=True)[0], params)
    given = {leaf.tobytes() for leaf in map(np.asarray, jax.tree.leaves((params, x)))}
    leaves = [leaf for leaf in map(np.asarray, jax.tree.leaves(back)) if leaf.tobytes() not in given]
    computed = [leaf for leaf in leaves if leaf.min() < leaf.max()]  # no constants
    table = nn.summary(model, x)
    assert table.kept == sum(leaf.nbytes for leaf in computed)
    assert sum(row.kept for row in table.rows) == table.kept


def test_recomputed_values_are_not_kept():
    layer = nn.residual(nn.dense(16), nn.tanh)
    kept = nn.summary(nn.repeat(layer, 4), floats(8, 16))
    again = nn.summary(nn.repeat(nn.remat(layer), 4), floats(8, 16))
    assert again.kept == 4 * 8 * 16 * 4 < kept.kept
    assert again.backward > kept.backward
    assert again.forward == kept.forward


def test_definitions_hold_while_they_are_open_and_under_jit():
    seen = []

    @jax.jit
    def traced(x):
        seen.append(choose_form(None, "ours"))
        return x

    for _ in range(2):
        traced(jnp.ones(()))
        with definitions():
            traced(jnp.ones(()))
    assert seen == ["ours", "xla"]
