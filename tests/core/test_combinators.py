"""Combinators: laws, names and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 4))


def block():
    return nn.residual(nn.dense(4), nn.batch_norm(), nn.tanh, nn.dropout(0.3))


@settings(max_examples=6)
@given(st.integers(1, 5), st.booleans())
def test_repeat_equals_the_unrolled_stack(n, training):
    stack, unrolled = nn.repeat(block(), n), nn.serial(**{str(i): block() for i in range(n)})
    (params, state), (unrolled_params, unrolled_state) = stack.init(KEY, X), unrolled.init(KEY, X)

    def stacked(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(trees[str(i)] for i in range(n)))

    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(stacked(unrolled_params)), strict=True):
        np.testing.assert_array_equal(a, b)
    y, after = stack.apply(params, state, X, key=KEY, training=training)
    z, unrolled_after = unrolled.apply(unrolled_params, unrolled_state, X, key=KEY, training=training)
    np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(stacked(unrolled_after)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_remat_keeps_values_and_gradients():
    plain, lean = nn.serial(block(), nn.dense(2)), nn.remat(nn.serial(block(), nn.dense(2)))
    params, state = plain.init(KEY, X)

    def value(model, p):
        y, after = model.apply(p, state, X, key=KEY, training=True)
        return (y**2).sum(), after

    expected, got = (jax.value_and_grad(lambda p, m=m: value(m, p), has_aux=True)(params) for m in (plain, lean))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert "remat" in str(jax.make_jaxpr(lambda p: value(lean, p)[0])(params))


def test_the_same_name_twice_shares_weights_and_sums_their_gradients():
    def twice(run, x):
        return run("f", jnp.tanh(run("f", x)))

    model = nn.block(twice, f=nn.dense(4))
    params, _ = model.init(KEY, X)
    assert list(params) == ["f"]
    kernel, bias = params["f"]["kernel"], params["f"]["bias"][None]
    np.testing.assert_allclose(model(params, X), jnp.tanh(X @ kernel + bias) @ kernel + bias, rtol=1e-5)


@pytest.mark.slow
def test_tied_output_through_run_params():
    def language_model(run, tokens):
        x = run("body", run("embed", tokens))
        return x @ run.params("embed")["embedding"].T

    model = nn.block(language_model, embed=nn.embedding(11, 4), body=nn.dense(4))
    tokens = jnp.array([[1, 10, 3]])
    params, _ = model.init(KEY, tokens)
    assert model(params, tokens).shape == (1, 3, 11)
    assert nn.trees.count(params) == 44 + 20
    gradient = jax.grad(lambda p: model(p, tokens).sum())(params)["embed"]["embedding"]
    assert bool((gradient[0] != 0).all())  # the output uses the rows of all tokens, also of those that are not in the input


def test_two_dropouts_and_one_run_twice_draw_different_masks():
    def forward(run, x):
        return run("a", x), run("b", x), run("a", x)

    model = nn.block(forward, a=nn.dropout(0.5), b=nn.dropout(0.5))
    (one, two, again), _ = model.apply({}, {}, jnp.ones((1, 400)), key=KEY, training=True)
    for left, right in ((one, two), (one, again), (two, again)):
        assert 0.4 < float((left != right).mean()) < 0.6


def test_copies_in_a_repeat_draw_different_masks():
    model = nn.repeat(nn.dropout(0.5), 2)
    y, _ = model.apply({}, {}, jnp.ones((1, 4000)), key=KEY, training=True)
    assert 0.2 < float((y != 0).mean()) < 0.3


def test_state_passes_from_one_run_of_a_shared_layer_to_the_next():
    def twice(run, x):
        return run("norm", run("norm", x))

    model, norm = nn.block(twice, norm=nn.batch_norm()), nn.batch_norm()
    params, state = model.init(KEY, X)
    _, after = model.apply(params, state, X, training=True)
    y, once = norm.apply(params["norm"], state["norm"], X, training=True)
    _, expected = norm.apply(params["norm"], once, y, training=True)
    np.testing.assert_allclose(after["norm"]["mean"], expected["mean"], rtol=1e-5, atol=1e-6)


def test_layers_of_one_kind_are_numbered():
    model = nn.serial(nn.dense(4), nn.relu, nn.dense(4), nn.dropout(0.1), nn.dense(4), nn.serial(nn.dense(4)))
    assert list(model.init(KEY, X)[0]) == ["dense", "dense_2", "dense_3", "serial"]


def test_a_mismatched_residual_names_both_shapes():
    with pytest.raises(ValueError, match=r"\[6, 4\] to its output \[6, 3\].*shortcut"):
        nn.residual(nn.dense(3)).init(KEY, X)
    with pytest.raises(ValueError, match=r"\[6, 4\] to its output \[6, 1\]"):  # would broadcast
        nn.residual(nn.dense(1)).init(KEY, X)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.serial(nn.dense(3), dense=nn.dense(4)), "two layers are called 'dense'"),
        (lambda: nn.residual(nn.as_layer(nn.relu), shortcut=nn.dense(4), relu=nn.dense(4)), "two layers are called 'relu'"),
        (lambda: nn.serial(**{"a/b": nn.dense(3)}), "'a/b': '/' separates the names"),
        (lambda: nn.serial(), "at least one layer"),
        (lambda: nn.repeat(nn.dense(4), 0), "at least 1, got 0"),
        (lambda: nn.repeat(nn.dense(4), 2.0), "whole number"),
        (lambda: nn.repeat(nn.dense(3), 2).init(KEY, X), "output has the shape and dtype of its input"),
        (lambda: nn.parallel(nn.dense(3), nn.dense(3)).init(KEY, X), "tuple of as many inputs"),
        (lambda: nn.parallel(nn.dense(3)).init(KEY, (X, X)), "1 layers .* got 2"),
        (lambda: nn.block(lambda run, x: run("b", x), a=nn.dense(3)).init(KEY, X), "no such child; the children are"),
        (lambda: nn.block(lambda run, x: x, a=nn.dense(3)).init(KEY, X), r"never runs its children \['a'\]"),
        (lambda: nn.block(lambda run, x: run.params("a"), a=nn.dense(3)).init(KEY, X), "comes before"),
    ],
    ids=range(12),
)
def test_wrong_compositions_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", ["", " ", "a/b", "max_pool[taps]", "*", "a?", "·input", "(itself)", 3])
def test_names_that_paths_patterns_and_reports_use_are_refused(name):
    with pytest.raises(ValueError, match="a layer's name must be|a layer cannot be called"):
        nn.serial(nn.Layer(lambda key, x: ({}, {}), lambda params, state, x, **_: (x, state), name))
    if isinstance(name, str):
        with pytest.raises(ValueError, match="a layer's name must be|a layer cannot be called"):
            nn.block(lambda run, x: run(name, x), **{name: nn.dense(3)})


def test_a_shortcut_is_the_other_branch_of_a_residual():
    def shortcut(x):
        return x

    for layer in (nn.residual(nn.dense(4), shortcut=nn.dense(4)), nn.serial(shortcut)):
        layer.init(KEY, X)
    with pytest.raises(ValueError, match="another name"):
        nn.residual(shortcut)


def test_a_child_of_a_block_may_be_called_forward():
    model = nn.block(lambda run, x: run("forward", x), forward=nn.dense(3))
    assert list(model.init(KEY, X)[0]) == ["forward"]


def test_parameters_of_another_model_are_refused():
    model, other = nn.serial(nn.dense(4)), nn.serial(head=nn.dense(4))
    params, _ = other.init(KEY, X)
    with pytest.raises(ValueError, match=r"has the children \['dense'\], and got parameters for \['head'\]"):
        model(params, X)
    stacked, _ = nn.repeat(nn.dense(4), 3).init(KEY, X)
    with pytest.raises(ValueError, match="2 copies"):
        nn.repeat(nn.dense(4), 2)(stacked, X)


def test_dtype_policy_sets_the_dtypes_of_storage_and_computation():
    model = nn.dtype_policy(
        nn.serial(nn.dense(4), nn.repeat(nn.dense(4), 2), nn.batch_norm()), dtype=jnp.float16, param_dtype=jnp.bfloat16
    )
    params, state = model.init(KEY, X)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
    y, after = model.apply(params, state, X, training=True)
    assert y.dtype == jnp.float16
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(jnp.float32)}
    with pytest.raises(TypeError, match="floating"):
        nn.dtype_policy(nn.dense(3), dtype=jnp.int32)
