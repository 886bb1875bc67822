"""Operations and kept values against XLA's own count, and against numbers by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnn as nn
from jaxnn import _jax
from jaxnn.core.primitives import definitions
from jaxnn.kernels.forms import choose_form
from jaxnn.programs.costs import operations
from jaxnn.programs.equations import CALLS


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
    "encoder": (transformer, floats(2, 7, dtype=jnp.int32)),
    "convolutions": (convolutional, floats(2, 12, 12, 3)),
    "gru": (lambda: nn.gru(16), floats(2, 4, 8)),
}


def evaluate_unrolled(jaxpr, consts, arguments):
    """The outputs of a program whose loops are unrolled, since XLA counts the body of a loop once.

    The barriers keep XLA from simplifying the first iteration, which begins with zeros, and the last one, of which not all
    results are used: the loop computes them.
    """
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(v):
        return v.val if _jax.is_literal(v) else env[v]

    for eqn in jaxpr.eqns:
        inputs, programs = [read(v) for v in eqn.invars], _jax.subprograms(eqn)
        if eqn.primitive.name == "scan":
            n_consts, n_carry = _jax.scan_counts(eqn)
            inputs = lax.optimization_barrier(inputs)
            fixed, carry, stacks = inputs[:n_consts], inputs[n_consts:][:n_carry], inputs[n_consts + n_carry :]
            steps = range(eqn.params["length"])
            results = {}
            for i in reversed(steps) if eqn.params["reverse"] else steps:
                slices = [lax.index_in_dim(stack, i, keepdims=False) for stack in stacks]
                outputs = evaluate_unrolled(*programs[0], [*fixed, *carry, *slices])
                carry, results[i] = outputs[:n_carry], outputs[n_carry:]
            stacked = map(jnp.stack, zip(*(results[i] for i in steps), strict=True))
            outputs = lax.optimization_barrier([*carry, *stacked])
        elif len(programs) == 1 and eqn.primitive.name in CALLS:
            outputs = evaluate_unrolled(*programs[0], inputs)
        else:
            outputs = _jax.bind(eqn, inputs)
        env |= zip(eqn.outvars, outputs, strict=True)
    return [read(v) for v in jaxpr.outvars]


def counted_by_xla(function, *arguments) -> float:
    """XLA's count of the operations of a program as it is lowered, with loops unrolled."""
    with definitions():
        program = jax.make_jaxpr(function)(*arguments)
    unrolled = jax.jit(lambda arguments: evaluate_unrolled(program.jaxpr, program.consts, jax.tree.leaves(arguments)))
    cost = unrolled.lower(arguments).cost_analysis()
    return cost["flops"] + cost.get("transcendentals", 0)


def test_every_model_is_counted_here():
    assert set(MODELS) == set(nn.models.__all__)


QUICK = ("cnn", "rnn", "gru", "vae", "lenet5", "autoencoder", "convolutions", "gpt2", "mlp_mixer")


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in (*MODELS, *OTHERS)]
)
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
def test_a_convolution_and_its_gradients_count_products_with_elements_of_the_input(strides, dilation, padding):
    x, kernel = floats(2, 9, 8, 4), floats(3, 2, 2, 6)
    for form in ("xla", "canonical"):
        conv = functools.partial(nn.kernels.conv, strides=strides, dilation=dilation, padding=padding, groups=2, form=form)
        # 4 · 6 / 2 pairs of channels, 2 images, 2 operations; a convolution of ones counts the products of a pair of channels
        ones = jnp.ones((1, 9, 8, 1)), jnp.ones((3, 2, 1, 1))
        products = nn.kernels.conv(*ones, strides=strides, dilation=dilation, padding=padding).sum()
        assert count(conv, x, kernel) == 2 * 2 * 12 * int(products)

        def gradients(x, kernel, conv=conv):
            y, back = jax.vjp(conv, x, kernel)
            return back(y)

        assert count(gradients, x, kernel) == pytest.approx(3 * 2 * 2 * 12 * int(products), rel=0.01)


def test_loops_branches_and_sums():
    x = floats(8, 4)
    assert count(lambda x: lax.scan(lambda c, _: (c * 2.0, c), x, None, length=5), x) == 5 * 32
    assert count(lambda x: lax.cond(x.sum() > 0, lambda x: x * 2.0, lambda x: jnp.tanh(x) * 3.0, x), x) == 31 + 1 + 1 + 64
    assert count(lambda x: (x.sum(0), x.T, x**3), x) == 28 + 64
    assert count(lambda x: x @ x.T, x) == 2 * 8 * 8 * 4


def test_kept_values_are_those_that_vjp_keeps():
    model = nn.models.cnn(10, features=(4,), hidden=8)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    params, state = model.init(jax.random.key(0), x)
    with definitions():
        _, back = jax.vjp(lambda p: model.apply(p, state, x, training=True)[0], params)
    given = {leaf.tobytes() for leaf in map(np.asarray, jax.tree.leaves((params, x)))}
    leaves = [leaf for leaf in map(np.asarray, jax.tree.leaves(back)) if leaf.tobytes() not in given]
    computed = [leaf for leaf in leaves if leaf.min() < leaf.max()]  # constants are not kept
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


def test_definitions_hold_inside_of_the_context_and_under_jit():
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


@pytest.mark.skipif(not hasattr(lax, "polynomial"), reason="this JAX has no such primitive")
def test_a_polynomial_counts_a_multiplication_and_an_addition_per_degree():
    assert count(lambda x: lax.polynomial(x, [1.0, 5.0, 2.0]), floats(8)) == 2 * 2 * 8


def test_the_derivative_of_tanh_counts_four_operations_per_element_in_every_version_of_jax():
    assert count(lambda x: jax.vjp(jnp.tanh, x)[1](x), floats(8)) == 8 + 4 * 8
