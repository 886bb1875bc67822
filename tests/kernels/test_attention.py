"""kernels.dot_product_attention: equals NumPy in float64; both forms agree in value and in all derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxnn.kernels import dot_product_attention


def normal(shape, dtype="float64", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def operands(batch=2, queries=70, keys=70, heads=4, key_heads=2, d=3, d_v=5, dtype="float64"):
    shapes = (batch, queries, heads, d), (batch, keys, key_heads, d), (batch, keys, key_heads, d_v)
    return tuple(normal(shape, dtype, seed) for seed, shape in enumerate(shapes))


def by_numpy(query, key, value, mask, causal):
    """The definition, one head at a time, in float64."""
    batch, queries, heads, d = query.shape
    keys, groups = key.shape[1], heads // key.shape[2]
    allowed = np.broadcast_to(True if mask is None else mask, (batch, heads, queries, keys))
    allowed = allowed & (np.tril(np.ones((queries, keys), bool)) if causal else True)
    y = np.zeros((batch, queries, heads, value.shape[-1]))
    for b, h in np.ndindex(batch, heads):
        scores = query[b, :, h] @ key[b, :, h // groups].T / np.sqrt(d)
        p = np.exp(scores - scores.max()) * allowed[b, h]
        total = p.sum(1, keepdims=True)
        y[b, :, h] = p @ value[b, :, h // groups] / np.where(total == 0, 1, total)
    return y


@given(st.data())
@settings(max_examples=8)
def test_equals_the_definition(data):
    queries, causal = data.draw(st.integers(1, 80)), data.draw(st.booleans())
    keys = queries if causal else data.draw(st.integers(1, 80))
    key_heads, groups = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    shape = [data.draw(st.sampled_from([1, n])) for n in (2, key_heads * groups, queries, keys)]
    mask = data.draw(st.sampled_from([None, np.random.default_rng(0).random(shape) < 0.7]))
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        if data.draw(st.booleans()):  # the path of long sequences
            patch.setattr("jaxnn.kernels.attention.MAX_SCORES", 0)
            patch.setattr("jaxnn.kernels.attention.BLOCK", 16)
        args = operands(2, queries, keys, key_heads * groups, key_heads)
        attend = lambda form: lambda *args: dot_product_attention(*args, mask=mask, is_causal=causal, form=form)  # noqa: E731
        for y in jax.jit(lambda *args: [attend(form)(*args) for form in ("blocks", "xla")])(*args):
            np.testing.assert_allclose(y, by_numpy(*map(np.asarray, args), mask, causal), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_dropout_does_not_depend_on_the_form(causal, x64, monkeypatch):
    mask = np.random.default_rng(0).random((2, 1, 40, 40)) < 0.7
    options = {"mask": mask, "is_causal": causal, "dropout": 0.4, "dropout_key": jax.random.key(3)}
    q, k, v = operands(2, 40, 40, 2, 2)

    def everything(form):
        def f(*args):
            y = dot_product_attention(*args, **options, form=form)
            return jnp.sin(y).sum(), y

        return jax.jit(jax.grad(f, (0, 1, 2), has_aux=True))

    y, weights = jax.jit(lambda *args: dot_product_attention(*args, **options, return_weights=True))(q, k, v)
    np.testing.assert_allclose(np.einsum("bhqk,bkhd->bqhd", weights, v), y, atol=1e-12)
    expected = everything("xla")(q, k, v)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-11), everything("blocks")(q, k, v), expected)
    monkeypatch.setattr("jaxnn.kernels.attention.MAX_SCORES", 0)
    monkeypatch.setattr("jaxnn.kernels.attention.BLOCK", 16)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-11), everything("blocks")(q, k, v), expected)


@pytest.mark.slow
@pytest.mark.parametrize("long", [False, True])
def test_every_transformation(long, x64, monkeypatch):
    if long:
        monkeypatch.setattr("jaxnn.kernels.attention.MAX_SCORES", 0)
        monkeypatch.setattr("jaxnn.kernels.attention.BLOCK", 16)
    args = operands()
    padding = (jnp.arange(70)[None] < jnp.array([[70], [50]]))[:, None, None]

    def everything(form):
        f = lambda *args: jnp.sum(jnp.sin(dot_product_attention(*args, mask=padding, is_causal=True, form=form)))  # noqa: E731
        gradient = jax.grad(f, (0, 1, 2))
        vector = lambda *args: sum(jnp.sum(jnp.cos(leaf)) for leaf in gradient(*args))  # noqa: E731
        stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), args)

        def transformed(*args):
            return {
                "forward over reverse": jax.jvp(gradient, args, args),
                "reverse over reverse": jax.grad(vector, (0, 1, 2))(*args),
                "vmap": jax.vmap(gradient, (0, None, 0))(stacked[0], args[1], stacked[2]),
                "remat in scan": jax.lax.scan(lambda c, x: (c, jax.grad(jax.checkpoint(f))(x, *args[1:])), 0, stacked[0]),
            }

        return jax.jit(transformed)(*args)

    for ours, reference in zip(*(jax.tree.leaves(everything(form)) for form in ("blocks", "xla")), strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-10)


def test_equals_jax_nn_in_half_precision():
    # jax.nn rounds its probabilities to bfloat16, 2^-8; ours are summed in float32 and rounded once.
    args = operands(heads=2, d=8, d_v=8, dtype="bfloat16")
    y = jax.jit(functools.partial(dot_product_attention, is_causal=True))(*args)
    assert y.dtype == jnp.bfloat16
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(functools.partial(jax.nn.dot_product_attention, is_causal=True))(*args)
    np.testing.assert_allclose(y.astype("float32"), expected.astype("float32"), atol=2e-2)


def test_gradients_equal_pytorch(x64):
    torch = pytest.importorskip("torch")
    args = operands(heads=2, key_heads=2)
    f = lambda *args: jnp.sum(jnp.sin(dot_product_attention(*args, is_causal=True, form="blocks")))  # noqa: E731
    ours = jax.jit(jax.grad(f, (0, 1, 2)))(*args)
    theirs = [torch.tensor(np.asarray(x)).transpose(1, 2).requires_grad_() for x in args]
    y = torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=True)
    for a, b in zip(ours, torch.autograd.grad(y.sin().sum(), theirs), strict=True):
        np.testing.assert_allclose(a, b.transpose(1, 2).numpy(), atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["blocks", "xla"])
def test_extreme_values_and_empty_masks(form):
    args = operands(dtype="float32")
    no_keys = jnp.zeros((1, 1, 1, 70), bool)
    f = jax.jit(functools.partial(dot_product_attention, form=form), static_argnames="is_causal")
    assert not f(*args, mask=no_keys).any()
    gradients = jax.jit(jax.grad(lambda *args: f(*args, mask=no_keys).sum(), (0, 1, 2)))(*args)
    assert not any(g.any() for g in gradients)  # zero, and not NaN
    y = f(1e4 * args[0], 1e4 * args[1], args[2], is_causal=True)
    np.testing.assert_array_equal(y[:, 0], jnp.repeat(args[2][:, 0], 2, axis=1))
    assert jnp.isfinite(y).all()
    assert jnp.isnan(f(args[0].at[0, 3].set(jnp.nan), *args[1:], is_causal=True)[0, 3]).all()
    assert f(*(x[:0] for x in args)).shape == (0, 70, 4, 5)
    assert f(args[0][:, :0], *args[1:]).shape == (2, 0, 4, 5)


@pytest.mark.slow
@pytest.mark.parametrize("long", [False, True])
def test_shard_map_checks_varying_axes(long, monkeypatch):
    if long:
        monkeypatch.setattr("jaxnn.kernels.attention.MAX_SCORES", 0)
        monkeypatch.setattr("jaxnn.kernels.attention.BLOCK", 16)
    args = operands(dtype="float32")
    f = lambda *args: jnp.sum(jnp.sin(dot_product_attention(*args, is_causal=True, form="blocks")))  # noqa: E731
    gradient = jax.jit(jax.grad(f, (0, 1, 2)))
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))
    sharded = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"), check_vma=True))
    for ours, reference in zip(sharded(*args), gradient(*args), strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-5)


@pytest.mark.parametrize("long", [False, True])
def test_an_empty_batch(long, monkeypatch):
    if long:
        monkeypatch.setattr("jaxnn.kernels.attention.MAX_SCORES", 0)
        monkeypatch.setattr("jaxnn.kernels.attention.BLOCK", 16)
    args = tuple(x[:0] for x in operands(dtype="float32"))
    mask = jnp.zeros((0, 1, 1, 70), bool)

    @jax.jit
    def value_and_gradients(*args):
        y, back = jax.vjp(lambda *args: dot_product_attention(*args, mask=mask, is_causal=True, form="blocks"), *args)
        return y, back(y)

    y, gradients = value_and_gradients(*args)
    assert y.shape == (0, 70, 4, 5)
    assert [g.shape for g in gradients] == [x.shape for x in args]


@pytest.mark.slow
def test_long_sequences_keep_few_scores_in_memory():
    args = operands(1, 2048, 2048, 4, 4, 32, 32, "float32")
    gradient = lambda form: jax.grad(lambda *args: dot_product_attention(*args, is_causal=True, form=form).sum(), (0, 1, 2))  # noqa: E731
    size = {form: jax.jit(gradient(form)).lower(*args).compile().memory_analysis() for form in ("blocks", "xla")}
    assert size["blocks"].temp_size_in_bytes < size["xla"].temp_size_in_bytes / 4


def test_bad_arguments():
    query, key, value = operands(dtype="float32")
    for arguments, options, error, message in [
        ((query[0], key, value), {}, ValueError, "batch, length, heads"),
        ((query, key, value.astype("float16")), {}, TypeError, "same floating-point dtype"),
        ((query, key[:, 1:], value), {}, ValueError, "agree in length"),
        ((query[:, :, :3], key, value), {}, ValueError, "heads must divide"),
        ((query, key[:, :0], value[:, :0]), {}, ValueError, "at least one key"),
        ((query[:, 1:], key, value), {"is_causal": True}, ValueError, "as many keys as queries"),
        ((query, key, value), {"mask": jnp.ones((70, 70))}, TypeError, "must be boolean"),
        ((query, key, value), {"mask": jnp.ones((2, 70), bool)}, ValueError, "does not broadcast"),
        ((query, key, value), {"form": "flash"}, ValueError, "form must be"),
    ]:
        with pytest.raises(error, match=message):
            dot_product_attention(*arguments, **options)
