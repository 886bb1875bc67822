"""Initialization: exact distributions, values that depend only on key and path, one program for all models."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import jaxnn as nn
from jaxnn.core import initialize
from jaxnn.core.naming import child_key

KEY = jax.random.key(0)


def leaf(initializer, shape, key=KEY):
    """One leaf, drawn like the leaves of a model."""

    def init(key, x):
        return {"kernel": nn.param(initializer, shape)}

    layer = nn.stateless(init, lambda params, x: x, "leaf")
    return layer.init(key, jnp.ones((1, 1)))[0]["kernel"]


@pytest.mark.parametrize(
    ("initializer", "law"),
    [
        (nn.initializers.normal(0.5), stats.norm(scale=0.5)),
        (nn.initializers.he_normal(), stats.norm(scale=np.sqrt(2 / 300))),
        (nn.initializers.fan_in_uniform(), stats.uniform(-np.sqrt(1 / 300), 2 * np.sqrt(1 / 300))),
        (nn.initializers.glorot_uniform(), stats.uniform(-np.sqrt(6 / 500), 2 * np.sqrt(6 / 500))),
        (nn.initializers.truncated_normal(1.0), stats.truncnorm(-2, 2)),
    ],
    ids=["normal", "he_normal", "fan_in_uniform", "glorot_uniform", "truncated_normal"],
)
def test_distributions_are_exact(initializer, law):
    drawn = np.asarray(leaf(initializer, (300, 200))).ravel()
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3
    blocks = drawn[: drawn.size // initialize.BLOCK * initialize.BLOCK].reshape(-1, initialize.BLOCK)
    assert len(np.unique(blocks)) > 0.99 * blocks.size  # no block is drawn twice
    assert abs(np.corrcoef(blocks[0], blocks[1])[0, 1]) < 0.06


@pytest.mark.slow
@settings(max_examples=15)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(0, 2**31))
def test_a_leaf_does_not_depend_on_the_leaves_drawn_with_it(shape, seed):
    shape, key = tuple(shape), jax.random.key(seed)

    def init(key, x):
        others = {f"other{i}": nn.param(nn.initializers.normal(1.0), (i + 1, 3000)) for i in range(3)}
        return {"a": nn.param(nn.initializers.ones, (3,)), **others, "kernel": nn.param(nn.initializers.normal(2.0), shape)}

    together = nn.stateless(init, lambda params, x: x, "leaf").init(key, jnp.ones((1, 1)))[0]
    np.testing.assert_array_equal(together["kernel"], leaf(nn.initializers.normal(2.0), shape, key))


def test_inserting_a_layer_leaves_every_other_weight_unchanged():
    x = jnp.ones((2, 4))
    before, _ = nn.serial(nn.dense(8), head=nn.dense(3)).init(KEY, x)
    after, _ = nn.serial(nn.dense(8), nn.layer_norm(), nn.relu, nn.dropout(0.1), head=nn.dense(3)).init(KEY, x)
    for path, value in nn.trees.paths(before).items():
        np.testing.assert_array_equal(value, nn.trees.paths(after)[path])


def test_a_child_is_initialized_from_the_key_of_its_name():
    x = jnp.ones((2, 4))
    params, _ = nn.serial(encoder=nn.serial(nn.dense(4)), head=nn.dense(3)).init(KEY, x)
    alone, _ = nn.dense(3).init(child_key(KEY, "head"), x)
    np.testing.assert_array_equal(params["head"]["kernel"], alone["kernel"])
    nested, _ = nn.dense(4).init(child_key(child_key(KEY, "encoder"), "dense"), x)
    np.testing.assert_array_equal(params["encoder"]["dense"]["kernel"], nested["kernel"])


def test_parameters_and_state_at_one_path_draw_from_different_keys():
    def jax_normal(key, shape, dtype):
        return jax.random.normal(key, shape, dtype)

    for initializer in (nn.initializers.normal(1.0), jax_normal):

        def init(key, x, initializer=initializer):
            return {"kernel": nn.param(initializer, (50,))}, {"kernel": nn.param(initializer, (50,))}

        layer = nn.Layer(init, lambda params, state, x, **_: (x, state), "both")
        for model in (layer, nn.serial(layer), nn.repeat(layer, 2)):
            params, state = jax.tree.leaves(model.init(KEY, jnp.ones((1, 1))))
            assert abs(np.corrcoef(params.ravel(), state.ravel())[0, 1]) < 0.5


def test_leaves_of_one_shape_differ():
    params, _ = nn.serial(*[nn.dense(50) for _ in range(4)]).init(KEY, jnp.ones((1, 50)))
    kernels = np.stack([params[name]["kernel"].ravel() for name in params])
    assert np.abs(np.corrcoef(kernels) - np.eye(4)).max() < 0.1


def test_the_program_does_not_depend_on_the_model():
    program = initialize._chunk_program("normal", np.dtype(np.float32))
    nn.dense(3).init(KEY, jnp.ones((1, 4)))
    compiled = program._cache_size()
    for depth in (2, 7):
        model = nn.serial(*[nn.dense(40 + i) for i in range(depth)], nested=nn.repeat(nn.serial(nn.dense(40 + depth - 1)), 3))
        model.init(KEY, jnp.ones((1, 4)))
    assert program._cache_size() == compiled


def test_any_function_is_an_initializer():
    def linspace(key, shape, dtype):
        return jnp.linspace(0, 1, np.prod(shape), dtype=dtype).reshape(shape)

    params, _ = nn.dense(3, kernel_init=linspace, bias_init=jax.nn.initializers.normal(1.0)).init(KEY, jnp.ones((1, 2)))
    np.testing.assert_allclose(params["kernel"], np.linspace(0, 1, 6).reshape(2, 3), rtol=1e-6)
    expected = jax.nn.initializers.normal(1.0)(child_key(KEY, "bias"), (3,), jnp.float32)
    np.testing.assert_array_equal(params["bias"], expected)


def test_an_initializer_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"'kernel' must return the shape \(2, 3\), got \(3,\)"):
        nn.dense(3, kernel_init=lambda key, shape, dtype: jnp.zeros(3, dtype)).init(KEY, jnp.ones((1, 2)))


def test_a_layer_that_draws_its_own_arrays_gets_its_own_key():
    def custom():
        def init(key, x):
            return {
                "kernel": jax.random.normal(key, (x.shape[-1], 3)),
                "nested": {"bias": nn.param(nn.initializers.ones, (3,))},
            }

        return nn.stateless(init, lambda params, x: x @ params["kernel"])

    params, _ = nn.serial(first=custom(), copies=nn.repeat(custom(), 2)).init(KEY, jnp.ones((1, 3)))
    np.testing.assert_array_equal(params["first"]["kernel"], jax.random.normal(child_key(KEY, "first"), (3, 3)))
    second = child_key(child_key(KEY, "copies"), "1")
    np.testing.assert_array_equal(params["copies"]["kernel"][1], jax.random.normal(second, (3, 3)))
    np.testing.assert_array_equal(params["copies"]["nested"]["bias"], np.ones((2, 3)))


@pytest.mark.slow
def test_an_initialization_scale_can_be_traced():
    def scaled(scale):
        return nn.dense(200, kernel_init=nn.initializers.normal(scale)).init(KEY, jnp.ones((1, 200)))[0]["kernel"].std()

    np.testing.assert_allclose(jax.vmap(scaled)(jnp.array([0.1, 2.0])), [0.1, 2.0], rtol=0.02)


def test_a_concrete_key_inside_jit():
    drawn = jax.jit(lambda x: nn.dense(3).init(KEY, x)[0])(jnp.ones((1, 4)))
    np.testing.assert_allclose(drawn["kernel"], nn.dense(3).init(KEY, jnp.ones((1, 4)))[0]["kernel"], rtol=1e-6)


def test_other_dtypes(x64):
    x = jnp.ones((1, 100))
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float64):
        params, _ = nn.dtype_policy(nn.dense(500), dtype=dtype, param_dtype=dtype).init(KEY, x)
        assert params["kernel"].dtype == dtype
        assert stats.kstest(np.asarray(params["kernel"], np.float64).ravel(), stats.norm(scale=np.sqrt(0.02)).cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (0, TypeError, r"jax.random.key\(0\)"),
        (None, TypeError, "expected a random key"),
        (jnp.ones(2), TypeError, "expected a random key"),
        (jax.random.split(KEY, 3), ValueError, "vmap"),
    ],
    ids=["int", "None", "floats", "several keys"],
)
def test_values_that_are_not_keys_are_refused(key, error, words):
    with pytest.raises(error, match=words):
        nn.dense(3).init(key, jnp.ones((1, 2)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Weights:
    kernel: Any


@dataclasses.dataclass
class Unregistered:
    kernel: Any


@pytest.mark.parametrize("kind", [lambda a: [a, a], lambda a: (a,), Weights, Unregistered])
@pytest.mark.parametrize("array", [lambda: nn.param(nn.initializers.ones, (2,)), lambda: jnp.ones(2)])
def test_params_and_state_are_nested_dicts(kind, array):
    def initialized(params, state):
        layer = nn.Layer(lambda key, x: (params(), state()), lambda p, s, x, *, key, training: (x, s), "mine")
        return nn.serial(nn.dense(2), layer).init(KEY, jnp.ones((1, 2)))

    returned, none = lambda: {"deep": {"weights": kind(array())}}, dict
    for name, params, state in (("params", returned, none), ("state", none, returned)):
        words = f"arrays in nested dicts, got {name}/deep/weights as a {type(kind(0)).__name__}: give its entries names"
        with pytest.raises(TypeError, match=words) as raised:
            initialized(params, state)
        assert "'mine'" in "".join(raised.value.__notes__)
    with pytest.raises(TypeError, match=r"init must return \(params, state\), two dicts"):
        initialized(lambda: kind(array()), none)
